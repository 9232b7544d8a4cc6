//! `millstream/set-aside/<sequence>`: acts that set aside a message of EVENTS that is not a commit ([`millstream_contract::set_aside`]).
//! Every command handler has this aggregate, whatever the application.
//!
//! The rules cannot see the message, and need not: readers ask for an act only when they meet a message that is not a commit, and accept it
//! only if it names that very message.

use millstream_contract::{
    error_text::TEXT_MAX,
    set_aside::{AGGREGATE, CONTEXT, MessageSetAside},
};
use serde::{Deserialize, Serialize};

use crate::decider::{Decider, DecisionContext, Rejection};

crate::commands! {
    /// What can be asked.
    pub enum SetAsideCommand {
        /// Lets readers continue after the message.
        SetAside {
            /// The subject of the message.
            subject: String,
            /// The digest of its body, as `events show` prints it.
            digest: String,
            /// Why.
            reason: String,
        } = "set-aside",
    }
}

crate::events! {
    /// What can happen.
    pub enum SetAsideEvent of "set-aside" {
        MessageSetAside(MessageSetAside) = "message-set-aside" v 1,
    }
}

crate::rejections! {
    /// Why a message is not set aside.
    pub enum SetAsideRejection {
        /// The id is not a sequence.
        Sequence { id: String } = "sequence-malformed" on ["*"]: "{id} is no sequence of EVENTS",
        /// No reason is given, so nobody would know it later.
        Reason { max: usize } = "reason-missing" on ["set-aside"]: "say why, in 1 to {max} bytes",
    }
}

/// The subject and digest of the message that the last act set aside. Readers look at the last act only.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SetAsideState(Option<(String, String)>);

/// The rules of `millstream/set-aside/<sequence>`.
#[derive(Debug)]
pub struct SetAsides;

impl Decider for SetAsides {
    type Command = SetAsideCommand;
    type Event = SetAsideEvent;
    type State = SetAsideState;

    const CONTEXT: &'static str = CONTEXT;
    const AGGREGATE: &'static str = AGGREGATE;

    fn rejections() -> Vec<(&'static str, &'static str)> {
        SetAsideRejection::declared()
    }

    fn check_id(id: &str) -> Result<(), Rejection> {
        match id.parse::<u64>() {
            Ok(sequence) if sequence > 0 && sequence.to_string() == id => Ok(()),
            _ => Err(SetAsideRejection::Sequence { id: id.to_owned() }.into()),
        }
    }

    fn decide(
        state: &SetAsideState,
        command: &SetAsideCommand,
        _context: &DecisionContext<'_>,
    ) -> Result<Vec<SetAsideEvent>, Rejection> {
        let SetAsideCommand::SetAside(SetAside { subject, digest, reason }) = command;
        let reason = reason.trim();
        if reason.is_empty() || reason.len() > TEXT_MAX {
            return Err(SetAsideRejection::Reason { max: TEXT_MAX }.into());
        }
        let (subject, digest) = (subject.clone(), digest.clone());
        if state.0.as_ref().is_some_and(|last| (&last.0, &last.1) == (&subject, &digest)) {
            return Ok(vec![]);
        }
        let act = MessageSetAside { subject, digest, reason: reason.to_owned() };
        Ok(vec![SetAsideEvent::MessageSetAside(act)])
    }

    fn evolve(state: &mut SetAsideState, event: &SetAsideEvent) {
        let SetAsideEvent::MessageSetAside(MessageSetAside { subject, digest, .. }) = event;
        state.0 = Some((subject.clone(), digest.clone()));
    }
}
