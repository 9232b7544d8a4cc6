//! Whether the rows of a file that speak of one aggregate were decided in their order. A row that was refused before, or put into the file since,
//! is decided behind those that an earlier import has brought, wherever it stands. Nothing can change that, so that the import says it.
//!
//! Answers come in any order. So what became of a row waits until those before it are decided, and rows are compared in the order of the file.

use std::collections::{BTreeMap, HashMap};

use millstream_contract::subject::StreamId;

use super::identity::{Digest, digest};

/// Aggregates that are remembered. Where there are more, all are forgotten, and what follows is compared with what follows alone.
const AGGREGATES_MAX: usize = 256 * 1024;
/// Rows that wait for those before them. Where there are more, the first of them is compared all the same.
const WAITING_MAX: usize = 64 * 1024;

/// A row or group: its number within the import, and the line on which it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) row: u64,
    pub(super) line: u64,
}

/// What was decided, by aggregate. Commands that rows share (`once`) are left out: what the file says last of them holds in any case.
#[derive(Debug, Default)]
pub(super) struct DecidedOrder {
    /// By the numbers of the rows.
    waiting: BTreeMap<u64, Vec<Decided>>,
    changes: HashMap<Digest, Changes>,
    late: u64,
    /// Of the late rows that were found the one that stands first in the file: its line and aggregate.
    example: Option<(u64, StreamId)>,
}

/// That what a row says of an aggregate holds since a position in COMMANDS.
#[derive(Debug)]
struct Decided {
    aggregate: StreamId,
    line: u64,
    position: u64,
    /// Whether it changed something now.
    is_new: bool,
}

/// What rows have changed of an aggregate in this import: where they stand, and the positions of their commands.
#[derive(Debug, Default)]
struct Changes {
    /// Of the row that stands first in the file.
    first: Option<(Spot, u64)>,
    /// Of the row that was decided last.
    last: Option<(Spot, u64)>,
    is_told: bool,
}

impl DecidedOrder {
    /// Notes that a row has changed something now, by the command at a position.
    pub(super) fn changed(&mut self, aggregate: &StreamId, spot: Spot, position: u64) {
        self.note(aggregate, spot, position, true);
    }

    /// Notes that what a row says holds, by the command at a position, and that it changed nothing now.
    pub(super) fn stands(&mut self, aggregate: &StreamId, spot: Spot, position: u64) {
        self.note(aggregate, spot, position, false);
    }

    fn note(&mut self, aggregate: &StreamId, Spot { row, line }: Spot, position: u64, is_new: bool) {
        let decided = Decided { aggregate: aggregate.clone(), line, position, is_new };
        self.waiting.entry(row).or_default().push(decided);
        while self.waiting.len() > WAITING_MAX {
            self.compare_first();
        }
    }

    /// Compares the rows before one with each other: they are decided.
    pub(super) fn compare_before(&mut self, row: u64) {
        while self.waiting.first_key_value().is_some_and(|(first, _)| *first < row) {
            self.compare_first();
        }
    }

    /// How many aggregates have rows that were decided behind rows that follow them in the file, and one such row: its line and aggregate.
    pub(super) fn late(mut self) -> (u64, Option<(u64, StreamId)>) {
        self.compare_before(u64::MAX);
        (self.late, self.example)
    }

    fn compare_first(&mut self) {
        let Some((row, all)) = self.waiting.pop_first() else { return };
        for Decided { aggregate, line, position, is_new } in all {
            let changes = self.of(&aggregate);
            let is_behind = |(spot, at): &(Spot, u64)| spot.row < row && *at > position;
            let late = changes.first.filter(is_behind).or(changes.last.filter(is_behind));
            if is_new {
                changes.note(Spot { row, line }, position);
            }
            if let Some((Spot { line, .. }, _)) = late {
                let is_told = std::mem::replace(&mut changes.is_told, true);
                self.late += u64::from(!is_told);
                if self.example.as_ref().is_none_or(|(first, _)| line < *first) {
                    self.example = Some((line, aggregate));
                }
            }
        }
    }

    fn of(&mut self, aggregate: &StreamId) -> &mut Changes {
        let key = digest("aggregate", [aggregate.to_string().as_str()]);
        if self.changes.len() >= AGGREGATES_MAX && !self.changes.contains_key(&key) {
            self.changes.clear();
        }
        self.changes.entry(key).or_default()
    }
}

impl Changes {
    fn note(&mut self, spot: Spot, position: u64) {
        self.first.get_or_insert((spot, position));
        if self.last.is_none_or(|(_, last)| last < position) {
            self.last = Some((spot, position));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spot(row: u64) -> Spot {
        Spot { row, line: row + 1 }
    }

    /// The line of a late row of an aggregate whose rows are noted in this order. Each is its number, its position, and whether it is new.
    fn late(noted: &[(u64, u64, bool)]) -> Option<u64> {
        let tea = StreamId::new("retail", "product", "tea").unwrap();
        let mut order = DecidedOrder::default();
        for (row, position, is_new) in noted {
            let note = if *is_new { DecidedOrder::changed } else { DecidedOrder::stands };
            note(&mut order, &tea, spot(*row), *position);
        }
        let (count, example) = order.late();
        assert_eq!(count, u64::from(example.is_some()), "an aggregate counts once");
        example.map(|(line, _)| line)
    }

    /// Rows that were answered in another order than they were decided in hid each other.
    #[test]
    fn a_row_is_late_where_one_behind_it_was_decided_before_it_whichever_is_answered_first() {
        let (new, stands) = (true, false);
        for (rows, line) in [
            // Row 1 is new at 50, and row 2 was in before.
            ([(1, 50, new), (2, 20, stands), (3, 51, new)], 2),
            // Row 1 was refused under its first id, and is decided under another one behind row 2.
            ([(1, 50, new), (2, 49, new), (3, 51, new)], 2),
            // What row 3 says holds, and nothing had to change for it.
            ([(1, 48, new), (2, 50, new), (3, 49, stands)], 3),
        ] {
            for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
                let noted = order.map(|place: usize| rows[place]);
                assert_eq!(late(&noted), Some(line), "{noted:?}");
            }
        }
    }

    #[test]
    fn rows_in_their_order_are_not_late() {
        let (new, stands) = (true, false);
        let rows = [(1, 10, stands), (3, 8, stands), (4, 50, new), (6, 52, new)];
        // The answer of row 5 was overtaken on its way, and another import has brought row 7 meanwhile. Of a group, one command was sent once more.
        let rows = [&rows[..], &[(5, 51, new), (7, 53, stands), (8, 60, new), (8, 59, new)]].concat();
        assert_eq!(late(&rows), None);
    }

    #[test]
    fn aggregates_are_counted_and_a_row_is_told() {
        let [tea, pot] = ["tea", "pot"].map(|id| StreamId::new("retail", "product", id).unwrap());
        let mut order = DecidedOrder::default();
        for (aggregate, row) in [(&tea, 3), (&pot, 1), (&tea, 5)] {
            order.stands(aggregate, spot(row + 1), 20);
            order.changed(aggregate, spot(row), 50);
            order.compare_before(row);
        }
        order.stands(&tea, spot(9), 51);
        assert_eq!(order.late(), (2, Some((2, pot))));
    }

    #[test]
    fn as_many_aggregates_are_compared_as_the_guide_promises() {
        let aggregate = |number: usize| StreamId::new("retail", "product", &number.to_string()).unwrap();
        let mut order = DecidedOrder::default();
        for (row, number) in (1..).zip(1..=AGGREGATES_MAX) {
            order.changed(&aggregate(number), spot(row), 1_000_000 + row);
        }
        let behind = AGGREGATES_MAX as u64 + 1;
        order.stands(&aggregate(1), spot(behind), 1);
        // One aggregate more, and all are forgotten.
        order.stands(&aggregate(0), spot(behind + 1), 1);
        order.stands(&aggregate(2), spot(behind + 2), 1);
        assert_eq!(order.late(), (1, Some((2, aggregate(1)))));
    }

    /// Whatever becomes of a row without an outcome, those behind it do not fill the memory.
    #[test]
    fn no_more_rows_wait_than_there_is_room_for() {
        let tea = StreamId::new("retail", "product", "tea").unwrap();
        let mut order = DecidedOrder::default();
        for row in 1..=2 * WAITING_MAX as u64 {
            order.changed(&tea, spot(row), row);
        }
        assert_eq!(order.waiting.len(), WAITING_MAX);
    }
}
