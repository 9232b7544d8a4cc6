//! Answers that may be reused for a while, limited in number and memory.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use millstream_contract::position::StreamPosition;
use tokio::time::Instant;

/// The most answers that are kept.
const ANSWERS_MAX: usize = 256;
/// The most bytes that they take together with their requests: a few answers of the largest size.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// A body, and the generation and sequence of EVENTS up to which it shows everything.
pub(super) type Shown = (Bytes, Option<(String, u64)>);

/// Whether an answer has reached a position.
pub(super) fn has_reached(shown: Option<&(String, u64)>, position: &StreamPosition) -> bool {
    shown.is_some_and(|(generation, sequence)| {
        *generation == position.generation && *sequence >= position.sequence
    })
}

struct Kept {
    until: Instant,
    shown: Shown,
}

/// Answers by their requests.
#[derive(Default)]
pub(super) struct AnswerCache {
    answers: HashMap<String, Kept>,
    bytes: usize,
}

impl AnswerCache {
    /// A kept answer that is young enough. If the request names a position, the answer must have reached it.
    pub(super) fn get(&self, asked: &str, position: Option<&StreamPosition>, now: Instant) -> Option<Shown> {
        let kept = self.answers.get(asked).filter(|kept| now < kept.until)?;
        let (_, shown) = &kept.shown;
        position.is_none_or(|position| has_reached(shown.as_ref(), position)).then(|| kept.shown.clone())
    }

    /// Keeps an answer for a time. Expired answers are removed; if there are still too many, all others are.
    pub(super) fn keep(&mut self, asked: String, shown: Shown, time: Duration, now: Instant) {
        self.answers.retain(|other, kept| now < kept.until && *other != asked);
        self.bytes = self.answers.iter().map(|(asked, kept)| asked.len() + kept.shown.0.len()).sum();
        let bytes = asked.len() + shown.0.len();
        if self.answers.len() >= ANSWERS_MAX || self.bytes.saturating_add(bytes) > BYTES_MAX {
            self.clear();
        }
        let Some(until) = now.checked_add(time).filter(|_| bytes <= BYTES_MAX) else { return };
        self.bytes += bytes;
        self.answers.insert(asked, Kept { until, shown });
    }

    /// Removes all answers.
    pub(super) fn clear(&mut self) {
        self.answers.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_secs(10);

    fn shown(bytes: usize) -> Shown {
        (Bytes::from(vec![b'x'; bytes]), Some(("g".to_owned(), 7)))
    }

    #[test]
    fn an_answer_is_given_again_while_it_is_young_and_not_behind_what_is_named() {
        let (mut kept, now) = (AnswerCache::default(), Instant::now());
        kept.keep("a".to_owned(), shown(1), TIME, now);
        let at = |generation: &str, sequence| StreamPosition::new("EVENTS", generation.to_owned(), sequence);
        assert!(kept.get("a", None, now).is_some());
        assert!(kept.get("a", Some(&at("g", 7)), now).is_some());
        assert!(kept.get("a", Some(&at("g", 8)), now).is_none());
        assert!(kept.get("a", Some(&at("h", 1)), now).is_none());
        assert!(kept.get("a", None, now + TIME).is_none());
    }

    #[test]
    fn answers_have_bounds_of_number_and_memory() {
        let (mut kept, now) = (AnswerCache::default(), Instant::now());
        for number in 0..3 * ANSWERS_MAX {
            kept.keep(number.to_string(), shown(1), TIME, now);
            assert!(kept.answers.len() <= ANSWERS_MAX);
        }
        for number in 0..5 {
            kept.keep(number.to_string(), shown(BYTES_MAX / 2 - 1), TIME, now);
            assert!(kept.bytes <= BYTES_MAX && kept.get(&number.to_string(), None, now).is_some());
        }
        kept.keep("large".to_owned(), shown(BYTES_MAX), TIME, now);
        assert!(kept.get("large", None, now).is_none());
        kept.keep("last".to_owned(), shown(1), TIME, now + TIME);
        assert_eq!(kept.answers.len(), 1, "the time of the others is over");
    }
}
