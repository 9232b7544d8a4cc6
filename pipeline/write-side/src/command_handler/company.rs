//! Who of several processes should have which share.
//!
//! There are as many slots as shares. A slot is a lease; a process that is ready to work holds one if there is one left, the
//! others stand by. The shares go round the holders in the order of their slots: with two processes and four shares each
//! has two. Everybody reads the same slots and comes to the same answer, at the latest a third of a lease's time apart. It is
//! only a wish: the lease of the share says who works, the chain of the share says whose records are taken.

use std::{sync::Arc, time::Duration};

use futures::future::{join_all, select_all};
use millstream_contract::share::Share;
use millstream_jetstream::broker::{Broker, BrokerError};
use millstream_runtime::shutdown::Shutdown;

use super::{PROCESS, id_feed::IdFeed, latest_value::LatestValue};

/// The key of the slot with the number of a share.
pub(crate) fn slot_key(slot: Share) -> String {
    format!("{PROCESS}.slot-{}", slot.name())
}

/// The processes that hold the slots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Holders(Vec<Option<String>>);

impl Holders {
    /// Who should have a share; `None` while nobody is known.
    fn owner(&self, share: Share) -> Option<&str> {
        let mut holders = self.0.iter().flatten();
        let place = usize::try_from(share.index).ok()?.checked_rem(holders.clone().count())?;
        holders.nth(place).map(String::as_str)
    }

    /// The slots that others than `process` hold.
    fn others(&self, process: &str) -> Vec<Share> {
        let count = u32::try_from(self.0.len()).unwrap_or(0);
        let slots = Share::each(count).zip(&self.0);
        let others = slots.filter(|(_, owner)| owner.as_deref().is_some_and(|owner| owner != process));
        others.map(|(slot, _)| slot).collect()
    }
}

/// What a share's handler knows of the others.
#[derive(Debug, Clone)]
pub(super) struct Company {
    share: Share,
    process: Arc<str>,
    holders: LatestValue<Holders>,
    followed: LatestValue<u64>,
}

impl Company {
    /// For the handler of a share in the run `process`.
    pub(super) fn new(
        share: Share,
        process: Arc<str>,
        holders: LatestValue<Holders>,
        followed: LatestValue<u64>,
    ) -> Self {
        Self { share, process, holders, followed }
    }

    /// Whether this process should have the share.
    pub(super) fn is_mine(&self) -> bool {
        self.holders.with(|holders| holders.owner(self.share) == Some(&*self.process))
    }

    /// Ends when it should, or should no more.
    pub(super) async fn changes(&self, is_mine: bool) {
        let owned = |holders: &Holders| holders.owner(self.share) == Some(&*self.process);
        self.holders.wait_until(|holders| owned(holders) != is_mine).await;
    }

    /// Ends when another one should have the share.
    pub(super) async fn anothers(&self) {
        let other =
            |holders: &Holders| holders.owner(self.share).is_some_and(|owner| *owner != *self.process);
        self.holders.wait_until(other).await;
    }

    /// The ids that the process follows for all its handlers.
    pub(super) fn ids<R>(&self) -> IdFeed<R> {
        IdFeed::Shared(self.followed.clone())
    }
}

/// Looks at the slots and holds one, until `stop`; then gives it back, before the shares are: whoever waits for one of them
/// knows then that it is to have it.
pub(super) struct Slots<B> {
    pub(super) broker: B,
    /// The run that holds a slot.
    pub(super) process: Arc<str>,
    /// How many there are.
    pub(super) count: u32,
    pub(super) time_to_live: Duration,
    pub(super) holders: LatestValue<Holders>,
}

impl<B: Broker> Slots<B> {
    /// Runs until `stop`. Begins when the process has read OUTCOMES through `known_at_start`: whoever returns gets shares when
    /// it can take them over at once.
    pub(super) async fn keep_once_warm(
        self,
        followed: LatestValue<u64>,
        known_at_start: u64,
        stop: Shutdown,
    ) {
        tokio::select! {
            biased;
            () = stop.requested() => return,
            () = followed.wait_until(|through| *through >= known_at_start) => {}
        }
        loop {
            match self.look().await {
                Ok(holders) => self.holders.set(holders),
                // What was known last holds until the leases of the shares themselves are lost.
                Err(error) => tracing::debug!(%error, "the slots cannot be looked at"),
            }
            tokio::select! {
                biased;
                () = stop.requested() => break,
                () = self.moved() => {}
            }
        }
        for slot in Share::each(self.count) {
            let key = slot_key(slot);
            if let Ok(Some(owner)) = self.broker.lease_owner(&key).await
                && *owner == *self.process
                && let Err(error) = self.broker.release_lease(&key, &self.process).await
            {
                tracing::warn!(%error, "the slot could not be given back; it lapses by itself");
            }
        }
    }

    /// Renews this process's slot, or takes the first that is free.
    async fn look(&self) -> Result<Holders, BrokerError> {
        let mut owners = self.owners().await?;
        let own = owners.iter().position(|owner| owner.as_deref() == Some(&*self.process));
        let wanted = own.or_else(|| owners.iter().position(Option::is_none));
        if let Some(place) = wanted
            && let Some(slot) = Share::each(self.count).nth(place)
        {
            let held = self.broker.hold_lease(&slot_key(slot), &self.process, self.time_to_live).await?;
            if let Some(owner) = owners.get_mut(place) {
                *owner = held.then(|| self.process.to_string());
            }
        }
        Ok(Holders(owners))
    }

    async fn owners(&self) -> Result<Vec<Option<String>>, BrokerError> {
        let asked = Share::each(self.count).map(|slot| {
            let broker = self.broker.clone();
            async move { broker.lease_owner(&slot_key(slot)).await }
        });
        join_all(asked).await.into_iter().collect()
    }

    /// Ends when a slot of another process may have become free, and in time to renew one's own.
    async fn moved(&self) {
        let wait = self.time_to_live / 3;
        let others = self.holders.with(|holders| holders.others(&self.process));
        if others.is_empty() {
            return tokio::time::sleep(wait).await;
        }
        let freed = others.into_iter().map(|slot| {
            let broker = self.broker.clone();
            Box::pin(async move { broker.lease_freed(&slot_key(slot), wait).await })
        });
        select_all(freed).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holders(slots: &[&str]) -> Holders {
        Holders(slots.iter().map(|owner| (!owner.is_empty()).then(|| (*owner).to_owned())).collect())
    }

    fn owners(slots: &[&str]) -> Vec<String> {
        let holders = holders(slots);
        let shares = Share::each(u32::try_from(slots.len()).unwrap());
        shares.map(|share| holders.owner(share).unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn shares_go_round_the_holders_and_come_back_to_one_that_returns() {
        assert_eq!(owners(&["a", "b", "", ""]), ["a", "b", "a", "b"]);
        assert_eq!(owners(&["", "b", "", ""]), ["b", "b", "b", "b"]);
        assert_eq!(owners(&["c", "b", "", ""]), ["c", "b", "c", "b"]);
        assert_eq!(owners(&["", ""]), ["", ""]);
    }

    #[test]
    fn only_the_slots_of_others_are_watched() {
        let others = holders(&["a", "", "b"]).others("a");
        assert_eq!(others, [Share { index: 2, of: 3 }]);
    }
}
