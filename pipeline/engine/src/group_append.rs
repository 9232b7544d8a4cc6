//! Appends many messages of one stream together: singly and all in flight at once, or fused into atomic batches. Which is
//! faster depends on how the server syncs and on its replicas (docs/benchmarks.md), so both are measured while working and
//! the cheaper one is used; nobody has to configure it.

use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;

use crate::broker::{ATOMIC_BATCH_MAX, AppendError, Broker, NewMessage};

/// After so many appends of a size the slower way is tried once more: circumstances change.
const PROBE_EVERY: u32 = 64;
/// Weight of the newest measurement.
const NEWEST: f64 = 0.25;
/// Sizes are told apart by their powers of two; the last class holds everything above.
const SIZE_CLASSES: usize = 12;

/// How appends travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AppendStrategy {
    /// The way that has been measured to be faster.
    #[default]
    Measured,
    /// Each on its own, all in flight together.
    Single,
    /// Fused into atomic batches.
    Atomic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Single,
    Atomic,
}

/// What appends of one size have cost.
#[derive(Debug, Clone, Copy, Default)]
struct Costs {
    single: Option<f64>,
    atomic: Option<f64>,
    appends: u32,
}

impl Costs {
    fn choose(&mut self) -> Way {
        self.appends = self.appends.wrapping_add(1);
        let (Some(single), Some(atomic)) = (self.single, self.atomic) else {
            return if self.single.is_none() { Way::Single } else { Way::Atomic };
        };
        let single_is_faster = single <= atomic;
        if single_is_faster ^ self.appends.is_multiple_of(PROBE_EVERY) { Way::Single } else { Way::Atomic }
    }

    fn note(&mut self, way: Way, cost: Duration) {
        let known = match way {
            Way::Single => &mut self.single,
            Way::Atomic => &mut self.atomic,
        };
        let newest = cost.as_secs_f64();
        *known = Some(known.map_or(newest, |before| before + (newest - before) * NEWEST));
    }
}

/// Appends to one stream.
#[derive(Debug)]
pub struct GroupAppend<B> {
    broker: B,
    stream: &'static str,
    strategy: AppendStrategy,
    costs: [Costs; SIZE_CLASSES],
}

impl<B: Broker> GroupAppend<B> {
    /// Appends to `stream`.
    pub fn new(broker: B, stream: &'static str, strategy: AppendStrategy) -> Self {
        Self { broker, stream, strategy, costs: [Costs::default(); SIZE_CLASSES] }
    }

    /// Appends all messages, no two of the same subject with an expectation; one answer each, in their order. Where an atomic
    /// batch is refused as a whole, its messages are appended singly, so that one never spoils its neighbours. After an
    /// unclear answer to a batch all of its messages are unclear.
    pub async fn append_all(&mut self, messages: Vec<NewMessage>) -> Vec<Result<u64, AppendError>> {
        let class = size_class(messages.len());
        let way = match self.strategy {
            _ if messages.len() < 2 => Way::Single,
            AppendStrategy::Single => Way::Single,
            AppendStrategy::Atomic => Way::Atomic,
            AppendStrategy::Measured => self.costs.get_mut(class).map_or(Way::Single, Costs::choose),
        };
        let (begun, count) = (Instant::now(), messages.len());
        let answers = match way {
            Way::Single => self.append_singly(messages).await,
            Way::Atomic => self.append_in_batches(messages).await,
        };
        // What failed tells nothing about the cost.
        if answers.iter().all(Result::is_ok)
            && let Some(costs) = self.costs.get_mut(class)
            && let Ok(count) = u32::try_from(count.max(1))
        {
            costs.note(way, begun.elapsed() / count);
        }
        answers
    }

    async fn append_singly(&self, messages: Vec<NewMessage>) -> Vec<Result<u64, AppendError>> {
        let appends = messages.into_iter().map(|message| self.broker.append(self.stream, message));
        join_all(appends).await.into_iter().map(|answer| answer.map(|appended| appended.sequence)).collect()
    }

    async fn append_in_batches(&self, messages: Vec<NewMessage>) -> Vec<Result<u64, AppendError>> {
        let mut messages = messages.into_iter();
        let mut batches = Vec::new();
        loop {
            let batch: Vec<_> = messages.by_ref().take(ATOMIC_BATCH_MAX).collect();
            if batch.is_empty() {
                break;
            }
            batches.push(self.append_batch(batch));
        }
        join_all(batches).await.into_iter().flatten().collect()
    }

    async fn append_batch(&self, batch: Vec<NewMessage>) -> Vec<Result<u64, AppendError>> {
        let count = batch.len() as u64;
        match self.broker.append_atomically(self.stream, batch.clone()).await {
            Ok(last) => (last.sequence + 1 - count..=last.sequence).map(Ok).collect(),
            Err(unclear @ AppendError::Unclear { .. }) => {
                batch.iter().map(|_| Err(unclear.clone())).collect()
            }
            Err(_) => self.append_singly(batch).await,
        }
    }
}

fn size_class(count: usize) -> usize {
    let power = usize::BITS - count.leading_zeros();
    (power as usize).min(SIZE_CLASSES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cheaper_way_is_used_and_the_other_probed_now_and_then() {
        let mut costs = Costs::default();
        assert_eq!(costs.choose(), Way::Single);
        costs.note(Way::Single, Duration::from_micros(300));
        assert_eq!(costs.choose(), Way::Atomic);
        costs.note(Way::Atomic, Duration::from_micros(30));
        let ways: Vec<_> = (0..PROBE_EVERY * 4).map(|_| costs.choose()).collect();
        let singles = ways.iter().filter(|way| **way == Way::Single).count();
        assert_eq!(singles, 4);
    }

    #[test]
    fn a_way_that_became_cheaper_is_found() {
        let mut costs = Costs::default();
        costs.note(Way::Single, Duration::from_micros(10));
        costs.note(Way::Atomic, Duration::from_micros(30));
        let mut atomic = 0;
        for _ in 0..PROBE_EVERY * 8 {
            let way = costs.choose();
            atomic += u32::from(way == Way::Atomic);
            costs.note(way, Duration::from_micros(if way == Way::Single { 300 } else { 30 }));
        }
        assert!(atomic > PROBE_EVERY * 7, "{atomic}");
    }

    #[test]
    fn sizes_fall_into_classes() {
        assert_eq!(
            (size_class(1), size_class(2), size_class(3), size_class(1_000_000)),
            (1, 2, 2, SIZE_CLASSES - 1)
        );
    }
}
