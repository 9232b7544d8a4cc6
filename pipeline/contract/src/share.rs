//! Shares: the parts of the partitions of COMMANDS that handlers decide, and where each of them begins.

use super::subject::{COMMAND_QUEUE_PREFIX, PARTITIONS, stored_partition};

/// Which part of the partitions a handler decides: all of them, or one of several equal shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share {
    /// From 0.
    pub index: u32,
    /// How many there are; 1 reads COMMANDS without a filter.
    pub of: u32,
}

impl Share {
    /// The one share that has everything.
    pub const ALL: Self = Self { index: 0, of: 1 };

    /// All shares of a division into `of` parts.
    pub fn each(of: u32) -> impl Iterator<Item = Self> {
        (0..of).map(move |index| Self { index, of })
    }

    /// Its name in subjects, consumers and leases.
    pub fn name(self) -> String {
        format!("{}of{}", self.index, self.of)
    }

    /// Reads a name; `None` when it is none.
    pub fn parse(name: &str) -> Option<Self> {
        let (index, of) = name.split_once("of")?;
        let share = Self { index: index.parse().ok()?, of: of.parse().ok()? };
        (share.index < share.of).then_some(share)
    }

    /// Whether a partition is its own.
    pub fn has(self, partition: u32) -> bool {
        partition % self.of == self.index
    }

    /// The subjects of COMMANDS that it reads; none means all.
    pub fn filters(self) -> Vec<String> {
        if self.of == 1 {
            return Vec::new();
        }
        let own = (0..PARTITIONS).filter(|partition| self.has(*partition));
        own.map(|partition| format!("{COMMAND_QUEUE_PREFIX}.{partition}.>")).collect()
    }
}

/// A position of COMMANDS for each partition: up to there, others have covered it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Starts([u64; PARTITIONS as usize]);

impl Starts {
    /// From a list in the order of the partitions; what is missing begins at the first position.
    pub fn from_list(list: &[u64]) -> Self {
        let mut starts = Self::default();
        for (start, given) in starts.0.iter_mut().zip(list) {
            *start = *given;
        }
        starts
    }

    /// In the order of the partitions.
    pub fn list(&self) -> &[u64] {
        &self.0
    }

    /// That of a partition.
    pub fn of(&self, partition: u32) -> u64 {
        usize::try_from(partition).ok().and_then(|place| self.0.get(place)).copied().unwrap_or(0)
    }

    /// Says that a share has covered its partitions through `position`.
    pub fn cover(&mut self, share: Share, position: u64) {
        for (partition, start) in (0..).zip(&mut self.0) {
            if share.has(partition) {
                *start = (*start).max(position);
            }
        }
    }

    /// Where a share begins: the lowest of its partitions.
    pub fn lowest(&self, share: Share) -> u64 {
        self.of_share(share).min().unwrap_or(0)
    }

    /// The highest of a share's partitions: from there on all of them are the share's own.
    pub fn highest(&self, share: Share) -> u64 {
        self.of_share(share).max().unwrap_or(0)
    }

    /// Whether a message of COMMANDS was covered by others.
    pub fn cover_message(&self, stored_subject: &str, position: u64) -> bool {
        stored_partition(stored_subject).is_some_and(|partition| position <= self.of(partition))
    }

    fn of_share(&self, share: Share) -> impl Iterator<Item = u64> {
        (0..).zip(self.0).filter(move |(partition, _)| share.has(*partition)).map(|(_, start)| start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_have_every_partition_once() {
        for of in 1..=PARTITIONS {
            for partition in 0..PARTITIONS {
                assert_eq!(Share::each(of).filter(|share| share.has(partition)).count(), 1);
            }
        }
        assert_eq!(Share { index: 1, of: 8 }.filters(), ["cmdq.1.>", "cmdq.9.>"]);
        assert!(Share::ALL.filters().is_empty());
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for share in Share::each(4) {
            assert_eq!(Share::parse(&share.name()), Some(share));
        }
        for name in ["", "4of4", "of2", "1", "layout"] {
            assert_eq!(Share::parse(name), None, "{name}");
        }
    }

    #[test]
    fn each_partition_begins_where_its_share_before_ended() {
        let mut starts = Starts::default();
        starts.cover(Share { index: 0, of: 2 }, 10);
        starts.cover(Share { index: 1, of: 2 }, 7);
        let all = (starts.lowest(Share::ALL), starts.highest(Share::ALL));
        assert_eq!(all, (7, 10));
        assert_eq!(starts.lowest(Share { index: 2, of: 4 }), 10);
        assert!(starts.cover_message("cmdq.2.bank.account.a.deposit", 10));
        assert!(!starts.cover_message("cmdq.3.bank.account.a.deposit", 10));
        assert_eq!(Starts::from_list(starts.list()), starts);
    }
}
