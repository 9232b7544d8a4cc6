//! `millstream/set-aside/<sequence>`: the acts that set a message of EVENTS aside which is no commit
//! ([`millstream_contract::set_aside`]). The one aggregate that every command handler has, whatever the application.
//!
//! The rules cannot look at the message. They need not: readers ask for an act only where they meet something that is no commit,
//! and believe it only if it names that very message.

use millstream_contract::{
    error_text::TEXT_MAX,
    set_aside::{AGGREGATE, CONTEXT, MessageSetAside},
};
use serde::{Deserialize, Serialize};

use crate::decider::{Decider, DecisionContext, Rejection};

crate::commands! {
    /// What can be asked.
    pub enum SetAsideCommand {
        /// Lets readers go on behind the message.
        SetAside {
            /// The subject of the message.
            subject: String,
            /// The digest of its body, as `events show` says it.
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
        /// The id is no sequence.
        Sequence { id: String } = "sequence-malformed" on ["*"]: "{id} is no sequence of EVENTS",
        /// Nobody would know later.
        Reason { max: usize } = "reason-missing" on ["set-aside"]: "say why, in 1 to {max} bytes",
    }
}

/// Subject and digest of what the last act set aside. Readers look at the last act alone.
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
