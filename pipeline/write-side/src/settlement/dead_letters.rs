//! Sets commands of a round aside as dead letters, all of them together.

use millstream_contract::{
    dead_letter::DeadLetter,
    error_text::bounded,
    outcome::Outcome,
    stream_names::{COMMANDS, DEAD_LETTERS},
};
use millstream_jetstream::broker::Broker;

use super::{Group, Settled, Settlement};
use crate::round::{PreparedCommand, Work};

impl<B: Broker> Settlement<B> {
    /// Stores dead letters, each once. If that is impossible, the outcome says so; the command itself stays in COMMANDS.
    pub(super) async fn set_aside(&self, letters: &[DeadLetter]) -> Vec<Outcome> {
        if letters.is_empty() {
            return Vec::new();
        }
        let kept = self.letters.keep(letters, &self.ids).await;
        let outcomes = letters.iter().zip(kept).map(|(letter, kept)| {
            let text = match kept {
                Ok(()) => letter.cause.clone(),
                Err(error) => {
                    tracing::error!(%error, sequence = letter.sequence, "the dead letter could not be kept");
                    format!("{}; not kept in {DEAD_LETTERS} ({error}), but still in {COMMANDS}", letter.cause)
                }
            };
            let message = bounded(&text).as_ref().into();
            Outcome::DeadLettered { code: letter.code.as_str().into(), message }
        });
        outcomes.collect()
    }
}

/// The dead letter of a command whose rules or history failed; `None` for other outcomes.
pub(super) fn dead_letter(outcome: &Outcome, command: Option<&PreparedCommand>) -> Option<DeadLetter> {
    match (outcome, command.map(|command| &command.work)) {
        (Outcome::DeadLettered { code, message }, Some(Work::Decide(decoded))) => {
            Some(DeadLetter::new(COMMANDS, &decoded.message, code, message))
        }
        _ => None,
    }
}

impl Group<'_> {
    /// Sets the first command of the group aside; the others stay.
    pub(super) fn set_first_aside(&mut self, code: &str, cause: &str) -> Option<(usize, Outcome)> {
        let first = (!self.commands.is_empty()).then(|| self.commands.remove(0))?;
        tracing::error!(stream_id = %self.stream_id, code, cause, "setting a command aside");
        Some((first.index, Outcome::DeadLettered { code: code.into(), message: cause.into() }))
    }
}

impl Settled {
    /// Adds all commands of `group` as set aside for the same cause.
    pub(super) fn and_dead(mut self, group: &Group<'_>, code: &str, cause: &str) -> Self {
        tracing::error!(stream_id = %self.stream_id, code, cause, "setting the aggregate's commands aside");
        let outcome = Outcome::DeadLettered { code: code.into(), message: cause.into() };
        self.outcomes.extend(group.commands.iter().map(|command| (command.index, outcome.clone())));
        self
    }
}
