//! Reading and decoding the commands of the next rounds while one is settled.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{HandlerError, TurnEnd};
use crate::{
    broker::{ReadError, StreamReader},
    contract::{share::Starts, stored_message::StoredMessage},
    decider::AggregateRegistry,
    metrics::ReaderMetrics,
    round::{PreparedCommand, prepare},
    seeded_bug::{SeededBug, planted},
};

/// Memory of commands that are read and decoded ahead of the round that is being settled, in KiB. A command takes the KiB of
/// its body and one more, so this is about as many small commands as a round takes.
const AHEAD_KIB: u32 = 32 * 1024;

/// Commands that were read together.
pub(super) struct ReadAhead {
    pub(super) commands: Vec<PreparedCommand>,
    /// Held until a round takes them.
    _memory: OwnedSemaphorePermit,
}

/// Waits until messages fit into the memory of what is read ahead.
async fn reserve(memory: &Arc<Semaphore>, messages: &[StoredMessage]) -> OwnedSemaphorePermit {
    let kib: usize = messages.iter().map(|message| 1 + message.payload.len() / 1024).sum();
    let kib = u32::try_from(kib).unwrap_or(u32::MAX).min(AHEAD_KIB);
    Arc::clone(memory).acquire_many_owned(kib).await.expect("it is never closed")
}

/// Reads and decodes ahead, but for what `covered` says that others have decided.
pub(super) async fn read_ahead<R: StreamReader>(
    mut reader: R,
    registry: AggregateRegistry,
    round_max: usize,
    covered: Option<Starts>,
    metrics: ReaderMetrics,
    rounds: mpsc::UnboundedSender<ReadAhead>,
) -> Result<TurnEnd, HandlerError> {
    let memory = Arc::new(Semaphore::new(AHEAD_KIB as usize));
    loop {
        let messages = match reader.next_batch(round_max).await {
            Err(ReadError::TakenOver { .. }) => return Ok(TurnEnd::Lost),
            messages => messages?,
        };
        if let Some(last) = messages.last() {
            let age = Timestamp::now().duration_since(last.stored_at).unsigned_abs();
            metrics.handled(last.sequence, messages.len() as u64, reader.pending(), age);
        }
        let _memory = reserve(&memory, &messages).await;
        let covered = |message: &StoredMessage| {
            covered.is_some_and(|starts| starts.cover_message(&message.subject, message.sequence))
                && !planted(SeededBug::EpochBegunAtTheLowest)
        };
        let own = messages.into_iter().filter(|message| !covered(message));
        let commands: Vec<_> = own.map(|message| prepare(message, &registry)).collect();
        if commands.is_empty() {
            continue;
        }
        if rounds.send(ReadAhead { commands, _memory }).is_err() {
            return Ok(TurnEnd::Lost);
        }
    }
}
