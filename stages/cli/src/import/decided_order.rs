//! Whether the rows of a file that speak of one aggregate were decided in their order. A row that was refused before, or put into the file since,
//! is decided behind those that an earlier import has brought, wherever it stands. Nothing can change that, so that the import says it.

use std::collections::HashMap;

use millstream_contract::subject::StreamId;

/// Aggregates that are remembered. Where there are more, all are forgotten, and what follows is compared with what follows alone.
const AGGREGATES_MAX: usize = 64 * 1024;

/// A row or group: its number within the import, and the line on which it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) row: u64,
    pub(super) line: u64,
}

/// What was decided, by aggregate. Commands that rows share (`once`) are left out: what the file says last of them holds in any case.
#[derive(Debug, Default)]
pub(super) struct DecidedOrder {
    decided: HashMap<StreamId, Decided>,
    late: u64,
    first_late: Option<(u64, StreamId)>,
}

#[derive(Debug)]
struct Decided {
    /// Of the rows that are in effect the one that stands last in the file, and the position of its command.
    last: (u64, u64),
    /// Of the rows that changed something in this import the one that stands first in the file, and the position of its command.
    first_new: Option<(Spot, u64)>,
    is_late: bool,
}

impl DecidedOrder {
    /// Notes that a row has changed something now, by the command at a position.
    pub(super) fn changed(&mut self, aggregate: &StreamId, spot: Spot, position: u64) {
        let decided = self.of(aggregate, (spot.row, position));
        let is_late = decided.last.0 > spot.row && decided.last.1 < position;
        if decided.first_new.is_none_or(|(first, _)| spot.row < first.row) {
            decided.first_new = Some((spot, position));
        }
        decided.stands(spot.row, position);
        if is_late {
            self.is_late(aggregate, spot);
        }
    }

    /// Notes that an earlier import has brought a row, by the command at a position.
    pub(super) fn known(&mut self, aggregate: &StreamId, row: u64, position: u64) {
        let decided = self.of(aggregate, (row, position));
        let late = decided.first_new.filter(|(first, at)| first.row < row && position < *at);
        decided.stands(row, position);
        if let Some((spot, _)) = late {
            self.is_late(aggregate, spot);
        }
    }

    /// How many aggregates have rows that were decided behind rows that follow them in the file, and the first such row: its line and aggregate.
    pub(super) fn late(&self) -> (u64, Option<&(u64, StreamId)>) {
        (self.late, self.first_late.as_ref())
    }

    fn of(&mut self, aggregate: &StreamId, last: (u64, u64)) -> &mut Decided {
        if self.decided.len() >= AGGREGATES_MAX && !self.decided.contains_key(aggregate) {
            self.decided.clear();
        }
        self.decided.entry(aggregate.clone()).or_insert(Decided { last, first_new: None, is_late: false })
    }

    fn is_late(&mut self, aggregate: &StreamId, Spot { line, .. }: Spot) {
        let decided = self.decided.get_mut(aggregate).filter(|decided| !decided.is_late);
        if let Some(decided) = decided {
            decided.is_late = true;
            self.late += 1;
        }
        if self.first_late.as_ref().is_none_or(|(first, _)| line < *first) {
            self.first_late = Some((line, aggregate.clone()));
        }
    }
}

impl Decided {
    fn stands(&mut self, row: u64, position: u64) {
        if row > self.last.0 {
            self.last = (row, position);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spot(row: u64) -> Spot {
        Spot { row, line: row + 1 }
    }

    #[test]
    fn a_row_is_late_where_one_behind_it_was_decided_before_it_whichever_is_answered_first() {
        let [tea, pot] = ["tea", "pot"].map(|id| StreamId::new("retail", "product", id).unwrap());
        // Row 1 is new at 50, and row 2 known at 20.
        for is_new_first in [true, false] {
            let mut order = DecidedOrder::default();
            let new = |order: &mut DecidedOrder| order.changed(&tea, spot(1), 50);
            if is_new_first {
                new(&mut order);
            }
            order.known(&tea, 2, 20);
            if !is_new_first {
                new(&mut order);
            }
            order.changed(&pot, spot(3), 51);
            assert_eq!(order.late(), (1, Some(&(2, tea.clone()))), "{is_new_first}");
            order.known(&tea, 4, 21);
            assert_eq!(order.late().0, 1, "an aggregate counts once");
        }
        // Row 1 was refused under its first id, and is decided under another one behind row 2.
        let mut order = DecidedOrder::default();
        order.changed(&tea, spot(2), 11);
        order.changed(&tea, spot(1), 12);
        assert_eq!(order.late(), (1, Some(&(2, tea.clone()))));
    }

    #[test]
    fn rows_in_their_order_are_not_late() {
        let tea = StreamId::new("retail", "product", "tea").unwrap();
        let mut order = DecidedOrder::default();
        order.known(&tea, 1, 10);
        order.known(&tea, 3, 8);
        order.changed(&tea, spot(4), 50);
        order.changed(&tea, spot(6), 52);
        // Its answer was overtaken on its way.
        order.changed(&tea, spot(5), 51);
        // Another import brought it meanwhile.
        order.known(&tea, 7, 53);
        assert_eq!(order.late(), (0, None));
    }
}
