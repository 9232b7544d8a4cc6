//! Decides which of a stream's two readers feeds a projection. Projections that are close to each other share a reader. One that is far behind
//! has its events read by a second reader, so that the others need not wait for it. Pure.

/// One of the two readers of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// It feeds the projection that has come furthest, and those close to it.
    Ahead,
    /// It feeds the projections that are far behind, until they have come close.
    Behind,
}

/// How far apart two projections of one lane may be. When lanes join, the projections that are ahead wait while the others apply at most this
/// many messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Distance(pub(super) u64);

impl Distance {
    /// The lane of a projection that stands at `sequence` while another one has come as far as `furthest`.
    pub(super) fn lane(self, sequence: u64, furthest: u64) -> Lane {
        if sequence.saturating_add(self.0) < furthest { Lane::Behind } else { Lane::Ahead }
    }

    /// Whether a lane at `sequence` may join another one. It uses half of the distance, because the other lane moves on until the lanes are
    /// assigned again.
    pub(super) fn is_close(self, sequence: u64, furthest: u64) -> bool {
        sequence.saturating_add(self.0 / 2) >= furthest
    }
}

/// What waits for the writer from one stream, for each lane.
#[derive(Debug)]
pub(super) struct ByLane<T> {
    pub(super) ahead: T,
    pub(super) behind: T,
}

impl<T: Default> Default for ByLane<T> {
    fn default() -> Self {
        Self { ahead: T::default(), behind: T::default() }
    }
}

impl<T> ByLane<T> {
    pub(super) fn of(&self, lane: Lane) -> &T {
        match lane {
            Lane::Ahead => &self.ahead,
            Lane::Behind => &self.behind,
        }
    }

    pub(super) fn of_mut(&mut self, lane: Lane) -> &mut T {
        match lane {
            Lane::Ahead => &mut self.ahead,
            Lane::Behind => &mut self.behind,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_joined_is_not_parted_again_while_the_others_move_on() {
        let distance = Distance(10);
        assert_eq!(distance.lane(89, 100), Lane::Behind);
        assert!(!distance.is_close(94, 100));
        assert!(distance.is_close(95, 100));
        assert_eq!(distance.lane(95, 105), Lane::Ahead);
        assert_eq!(distance.lane(100, 100), Lane::Ahead);
    }
}
