//! What a stock remembers of receipts, issues and ended reservations, so that their repeats are known.
//!
//! Bounded: the oldest is forgotten. References are kept as digests, cut to what makes a clash by accident unthinkable.

use std::collections::{BTreeMap, VecDeque};

use millstream::{content_digest::ContentDigest, values::business_date::BusinessDate};
use serde::{Deserialize, Serialize};

use super::Reservation;

/// How many references and how many ended reservations a stock remembers. Repeats come within hours or days, and the
/// handler itself knows a repeated command id for weeks; this many movements of one item at one place take longer. Full,
/// the memory takes some 200 KB.
pub const REMEMBERED_MAX: usize = 2_048;

/// Whether units came, left, or went to another place. All may have the same reference, as when something is swapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Direction {
    Receipt,
    Issue,
    /// To the place of this digest.
    Transfer(ContentDigest),
}

/// The content of a receipt, an issue or a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Movement {
    direction: Direction,
    quantity: i64,
    business_date: BusinessDate,
}

impl Movement {
    pub(super) fn receipt(quantity: i64, business_date: BusinessDate) -> Self {
        Self { direction: Direction::Receipt, quantity, business_date }
    }

    pub(super) fn issue(quantity: i64, business_date: BusinessDate) -> Self {
        Self { direction: Direction::Issue, quantity, business_date }
    }

    pub(super) fn transfer(to: &str, quantity: i64, business_date: BusinessDate) -> Self {
        Self { direction: Direction::Transfer(digest_of(&[to])), quantity, business_date }
    }
}

/// What became of a reservation that is not open any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ReservationEnd {
    Refused,
    Released,
    Issued,
}

/// The last references and ended reservations of a stock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Memory {
    movements: Recent<Movement>,
    reservations: Recent<(Reservation, ReservationEnd)>,
}

impl Memory {
    /// Remembers a movement; one without a reference cannot be repeated.
    pub(super) fn movement(&mut self, reference: Option<&str>, movement: Movement) {
        if let Some(reference) = reference {
            self.movements.add(digest(movement.direction, reference), movement);
        }
    }

    /// Whether the same movement has been recorded under the reference: none when nothing has. One whose date is not
    /// `dated` repeats that of any date.
    pub(super) fn repeats(&self, reference: Option<&str>, movement: Movement, dated: bool) -> Option<bool> {
        let known = self.movements.get(digest(movement.direction, reference?))?;
        let same = known.direction == movement.direction && known.quantity == movement.quantity;
        Some(same && (!dated || known.business_date == movement.business_date))
    }

    /// Remembers what became of a reservation.
    pub(super) fn reservation(&mut self, id: &str, reservation: Reservation, end: ReservationEnd) {
        self.reservations.add(digest_of(&[id]), (reservation, end));
    }

    /// What became of a reservation, if it has ended.
    pub(super) fn ended(&self, id: &str) -> Option<(Reservation, ReservationEnd)> {
        self.reservations.get(digest_of(&[id])).copied()
    }
}

/// The last entries, in the order in which they were added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Recent<T> {
    order: VecDeque<ContentDigest>,
    entries: BTreeMap<ContentDigest, T>,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self { order: VecDeque::new(), entries: BTreeMap::new() }
    }
}

impl<T> Recent<T> {
    fn add(&mut self, key: ContentDigest, entry: T) {
        if self.entries.insert(key, entry).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.entries.remove(&oldest);
        }
    }

    fn get(&self, key: ContentDigest) -> Option<&T> {
        self.entries.get(&key)
    }
}

fn digest(direction: Direction, reference: &str) -> ContentDigest {
    match direction {
        Direction::Receipt => digest_of(&["receipt", reference]),
        Direction::Issue => digest_of(&["issue", reference]),
        Direction::Transfer(_) => digest_of(&["transfer", reference]),
    }
}

fn digest_of(parts: &[&str]) -> ContentDigest {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part.as_bytes()).update(&[0]);
    }
    ContentDigest::of(&hasher)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_is_forgotten_when_the_memory_is_full() {
        let movement = Movement::receipt(1, "2012-01-31".parse().unwrap());
        let mut memory = Memory::default();
        for number in 0..=REMEMBERED_MAX {
            memory.movement(Some(&number.to_string()), movement);
        }
        assert_eq!(memory.repeats(Some("0"), movement, true), None);
        assert_eq!(memory.repeats(Some("1"), movement, true), Some(true));
        assert_eq!(memory.movements.order.len(), REMEMBERED_MAX);
    }
}
