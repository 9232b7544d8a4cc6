//! The cursor of a share to which nobody sends anything. It would stand still, and the last record of its chain grow old, and
//! neither COMMANDS nor OUTCOMES could be purged beyond them, whatever the other shares do.
//!
//! With one share there is no such thing: its cursor stands at the last command.

use millstream_contract::{share::Share, stream_names::COMMANDS};
use millstream_jetstream::broker::{Broker, BrokerError};
use tokio::sync::mpsc;

use crate::share_layout::newest_command;

/// How COMMANDS looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Idle {
    /// Where it ended some time ago.
    end: u64,
    /// The last command of the share, looked for after that: up to `end` it has none behind this one.
    newest: u64,
}

impl Idle {
    /// How far a share is covered whose chain has come to `cursor`, if that is any further.
    pub(super) fn covered(self, cursor: u64) -> Option<u64> {
        (self.newest <= cursor && cursor < self.end).then_some(self.end)
    }
}

/// Tells the recorder of a share from time to time how COMMANDS looks.
pub(super) struct Lookout<B> {
    broker: B,
    share: Share,
    recorder: mpsc::Sender<Idle>,
    /// Where COMMANDS ended at the last look. An end of just now would not do: a server that has lost the lead and does not
    /// know it yet may not have the newest command, but it had those of the last look.
    end: Option<u64>,
}

impl<B: Broker> Lookout<B> {
    pub(super) fn new(broker: B, share: Share, recorder: mpsc::Sender<Idle>) -> Self {
        Self { broker, share, recorder, end: None }
    }

    /// Looks, if the share is one of several; a look that fails is taken again the next time.
    pub(super) async fn look(&mut self) {
        if self.share == Share::ALL {
            return;
        }
        match self.streams().await {
            Ok((end, newest)) => {
                if let Some(end) = self.end.replace(end) {
                    // A recorder that is gone needs nothing any more.
                    let _ = self.recorder.send(Idle { end, newest }).await;
                }
            }
            Err(error) => tracing::debug!(%error, "the end of the share's commands is not known"),
        }
    }

    async fn streams(&self) -> Result<(u64, u64), BrokerError> {
        let end = self.broker.state(COMMANDS).await?.last_sequence;
        Ok((end, newest_command(&self.broker, self.share).await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_share_that_has_decided_all_its_commands_moves_on_without_any() {
        let idle = Idle { end: 9, newest: 4 };
        assert_eq!(idle.covered(4), Some(9));
        assert_eq!(idle.covered(3), None, "the command at 4 has no outcome yet");
        assert_eq!(idle.covered(9), None, "it is there already");
        assert_eq!(idle.covered(12), None, "it has gone further since");
    }
}
