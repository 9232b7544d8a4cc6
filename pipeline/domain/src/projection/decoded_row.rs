//! A row that stays decoded until its transaction ends. A row that changes a thousand times before it is stored is encoded once, and never
//! decoded in between. Deliberately absent: any memory beyond the transaction.

use std::{
    any::Any,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use serde::Serialize;

/// A row and, once somebody has asked for it, its JSON. Clones are the same row: if it is put into several tables, it is encoded once for
/// all of them and changed in all of them.
#[derive(Clone)]
pub struct DecodedRow(Arc<Mutex<State>>);

struct State {
    content: Box<dyn Content>,
    encoded: Option<Bytes>,
}

trait Content: Send {
    fn as_any(&self) -> &dyn Any;
    fn as_any_mut(&mut self) -> &mut dyn Any;
    fn encode(&self) -> Vec<u8>;
}

impl<T: Serialize + Send + 'static> Content for T {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("rows hold only plain data with text keys")
    }
}

impl DecodedRow {
    /// A row that is not encoded yet.
    pub fn new<T: Serialize + Send + 'static>(row: T) -> Self {
        Self(Arc::new(Mutex::new(State { content: Box::new(row), encoded: None })))
    }

    /// The row, if it was made from a `T`.
    pub fn get<T: Clone + 'static>(&self) -> Option<T> {
        (*self.state().content).as_any().downcast_ref().cloned()
    }

    /// Changes the row in all its tables, if it was made from a `T`.
    pub fn alter<T: 'static, R>(&self, change: impl FnOnce(&mut T) -> R) -> Option<R> {
        let mut state = self.state();
        let State { content, encoded } = &mut *state;
        let changed = change((**content).as_any_mut().downcast_mut()?);
        *encoded = None;
        Some(changed)
    }

    /// Its JSON.
    pub fn bytes(&self) -> Bytes {
        let mut state = self.state();
        let State { content, encoded } = &mut *state;
        encoded.get_or_insert_with(|| content.encode().into()).clone()
    }

    /// Only a projection that panicked poisons the lock, and nobody stores its rows.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for DecodedRow {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "DecodedRow({})", String::from_utf8_lossy(&self.bytes()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde::Serializer;

    use super::*;

    /// Counts how often it is encoded.
    #[derive(Clone)]
    struct Counting(Arc<AtomicUsize>);

    impl Serialize for Counting {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            self.0.fetch_add(1, Ordering::Relaxed);
            serializer.serialize_str("row")
        }
    }

    #[test]
    fn row_is_encoded_once_for_all_its_clones_and_not_before_it_is_asked_for() {
        let encoded = Arc::new(AtomicUsize::new(0));
        let row = DecodedRow::new(Counting(Arc::clone(&encoded)));
        let other = row.clone();
        assert_eq!(encoded.load(Ordering::Relaxed), 0);
        assert_eq!((&*row.bytes(), &*other.bytes()), (br#""row""#.as_slice(), br#""row""#.as_slice()));
        assert_eq!(encoded.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn row_is_only_what_it_was_made_of() {
        let row = DecodedRow::new(7_u64);
        assert_eq!(row.get::<u64>(), Some(7));
        assert_eq!(row.get::<i64>(), None);
        assert_eq!(row.alter(|row: &mut i64| *row = 8), None);
        assert_eq!(&*row.bytes(), b"7");
    }

    #[test]
    fn altered_row_is_altered_in_all_its_clones_and_encoded_again() {
        let row = DecodedRow::new(7_u64);
        let other = row.clone();
        assert_eq!(&*other.bytes(), b"7");
        assert_eq!(row.alter(|row: &mut u64| std::mem::replace(row, 8)), Some(7));
        assert_eq!((other.get::<u64>(), &*other.bytes()), (Some(8), b"8".as_slice()));
    }
}
