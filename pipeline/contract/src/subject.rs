//! Subjects: the names of aggregates, commands, commits and queries in NATS.

use std::{fmt, sync::Arc};

/// The number of partitions into which COMMANDS sorts aggregates. It cannot change, because it is part of stored subjects.
pub const PARTITIONS: u32 = 16;

/// Longest `<id>` of an aggregate, in characters.
pub const AGGREGATE_ID_LENGTH_MAX: usize = 128;

/// Prefix under which commands are published.
pub const COMMAND_PREFIX: &str = "cmd";
/// Prefix under which commands of processes and timers are published and stored. Only the process manager and the operator may publish
/// there, so the prefix distinguishes such a command from one that anybody may send.
pub const EFFECT_PREFIX: &str = "effect";
/// Prefix under which COMMANDS stores what is published under [`COMMAND_PREFIX`], followed by the partition.
pub const COMMAND_QUEUE_PREFIX: &str = "cmdq";
/// Prefix of commits.
pub const EVENT_PREFIX: &str = "evt";
/// Prefix of questions to views and reports.
pub const QUERY_PREFIX: &str = "query";
/// Prefix of commands that are sent as a request, whose answer is the outcome.
pub const SUBMIT_PREFIX: &str = "submit";
/// Prefix of requests that a user of NATS sends under its own name: `as.<user>.submit.…` and `as.<user>.query.…`. The server lets each user
/// publish only under its own name, so the gateway knows who asks.
pub const USER_PREFIX: &str = "as";
/// Prefix of the messages that tell of changed rows ([`crate::view_change`]), followed by context and view.
pub const CHANGED_PREFIX: &str = "changed";
/// Prefix of the messages with which somebody says that it wants to hear of changed rows, followed by the same.
pub const WATCHED_PREFIX: &str = "watched";
/// Name of the service that answers there.
pub const USER_SERVICE: &str = "users";
/// Prefix of the subjects on which outcomes of submitted commands come back, whichever handler is active. It is followed by the name of the
/// run that waits and by something that cannot be guessed.
pub const SUBMIT_REPLY_PREFIX: &str = "reply.submit";
/// The same for commands that came over HTTP: their outcomes come back to the gateway that waits for them.
pub const GATEWAY_REPLY_PREFIX: &str = "reply.gateway";
/// Name of the service that takes submitted commands.
pub const SUBMIT_SERVICE: &str = "submit";
/// Prefixes of subjects to which somebody may ask to have an answer sent: the inboxes of clients, the form that nats-server gives a reply
/// subject from another account, and subjects that an application chooses. No stream stores them, and none is an inbox of a stage. Any
/// other reply subject gets no answer, because nobody checks whether the client itself may publish there.
pub const REPLY_PREFIXES: [&str; 3] = ["_INBOX.", "_R_.", "reply."];
/// The longest subject, in bytes, on which Millstream publishes something that somebody else named. nats-server ends a connection that
/// sends a line of more than 4,096 bytes (`max_control_line`), and the subject is the largest part of a line. The longest subject that
/// Millstream needs, with the four names of a command, has half of that.
pub const FOREIGN_SUBJECT_BYTES_MAX: usize = 1024;
/// Prefix of the schedules of commands for later.
pub const TIMER_PREFIX: &str = "timer.cmd";
/// Prefix of the subjects on which commands fall due, followed by the command's address.
pub const DUE_PREFIX: &str = "due.cmd";

/// Why a name or an id is not allowed by the contract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    /// A context, aggregate or command is not lower-kebab-case.
    #[error(
        "{kind} {text:?} is not allowed: use lower-case letters, digits and single hyphens, starting with a letter"
    )]
    Name {
        /// Which part.
        kind: &'static str,
        /// What was given.
        text: String,
    },
    /// An id has other characters, or too many.
    #[error("id {text:?} is not allowed: use 1 to {AGGREGATE_ID_LENGTH_MAX} of A-Z a-z 0-9 _ - : @")]
    Id {
        /// What was given.
        text: String,
    },
    /// The subject has another shape.
    #[error("subject {subject:?} is not {expected}")]
    Shape {
        /// What was given.
        subject: String,
        /// The shape it should have.
        expected: &'static str,
    },
}

/// One aggregate's event stream: context, aggregate and id. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId {
    text: Arc<str>,
    context_end: u16,
    aggregate_end: u16,
}

impl StreamId {
    /// Checks the three parts and joins them.
    ///
    /// # Errors
    /// [`SubjectError`] naming the part that is not allowed.
    pub fn new(context: &str, aggregate: &str, id: &str) -> Result<Self, SubjectError> {
        check_name("context", context)?;
        check_name("aggregate", aggregate)?;
        check_id(id)?;
        Ok(Self::join(context, aggregate, id))
    }

    /// Reads the subject of a commit, `evt.<context>.<aggregate>.<id>`.
    ///
    /// # Errors
    /// [`SubjectError`] when it has another shape or a part that is not allowed.
    pub fn from_event_subject(subject: &str) -> Result<Self, SubjectError> {
        let shape = || SubjectError::Shape {
            subject: subject.to_owned(),
            expected: "evt.<context>.<aggregate>.<id>",
        };
        match split::<4>(subject).ok_or_else(shape)? {
            [EVENT_PREFIX, context, aggregate, id] => Self::new(context, aggregate, id),
            _ => Err(shape()),
        }
    }

    fn join(context: &str, aggregate: &str, id: &str) -> Self {
        let aggregate_end = context.len() + 1 + aggregate.len();
        Self {
            text: format!("{context}.{aggregate}.{id}").into(),
            context_end: u16::try_from(context.len()).expect("names are checked to be short"),
            aggregate_end: u16::try_from(aggregate_end).expect("names are checked to be short"),
        }
    }

    /// The context.
    pub fn context(&self) -> &str {
        self.text.get(..usize::from(self.context_end)).unwrap_or_default()
    }

    /// The aggregate's name.
    pub fn aggregate(&self) -> &str {
        self.text.get(usize::from(self.context_end) + 1..usize::from(self.aggregate_end)).unwrap_or_default()
    }

    /// The aggregate's id.
    pub fn id(&self) -> &str {
        self.text.get(usize::from(self.aggregate_end) + 1..).unwrap_or_default()
    }

    /// `<context>.<aggregate>.<id>`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The one literal subject of the aggregate's commits.
    pub fn event_subject(&self) -> String {
        format!("{EVENT_PREFIX}.{}", self.text)
    }

    /// The partition of COMMANDS in which the aggregate's commands are stored.
    pub fn partition(&self) -> u32 {
        partition(&[self.context(), self.aggregate(), self.id()])
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "StreamId({})", self.text)
    }
}

/// Where a command comes from. The subject decides that, because permissions of NATS are about subjects; a sender can set headers as it
/// likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Whoever may send commands.
    Sender,
    /// A process or a timer, or an operator in their place.
    Effect,
}

impl Origin {
    /// The origin of what COMMANDS stores under `subject`.
    pub fn of_stored_subject(subject: &str) -> Self {
        match subject.split_once('.') {
            Some((EFFECT_PREFIX, _)) => Self::Effect,
            _ => Self::Sender,
        }
    }

    /// The prefix of the subjects on which it publishes.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Sender => COMMAND_PREFIX,
            Self::Effect => EFFECT_PREFIX,
        }
    }
}

/// Which command for which aggregate: what the subject of a command says besides its origin.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CommandAddress {
    /// The aggregate.
    pub stream_id: StreamId,
    /// The command's name.
    pub command: Arc<str>,
}

impl CommandAddress {
    /// Checks the four parts.
    ///
    /// # Errors
    /// [`SubjectError`] naming the part that is not allowed.
    pub fn new(context: &str, aggregate: &str, id: &str, command: &str) -> Result<Self, SubjectError> {
        check_name("command", command)?;
        Ok(Self { stream_id: StreamId::new(context, aggregate, id)?, command: command.into() })
    }

    /// Reads a subject on which a command is published: `cmd.<context>.<aggregate>.<id>.<command>`.
    ///
    /// # Errors
    /// [`SubjectError`] when it has another shape or a part that is not allowed.
    pub fn from_subject(subject: &str) -> Result<Self, SubjectError> {
        let shape = || SubjectError::Shape {
            subject: subject.to_owned(),
            expected: "cmd.<context>.<aggregate>.<id>.<command>",
        };
        match split::<5>(subject).ok_or_else(shape)? {
            [COMMAND_PREFIX, context, aggregate, id, command] => Self::new(context, aggregate, id, command),
            _ => Err(shape()),
        }
    }

    /// Reads a subject under which COMMANDS stores a command: `cmdq.<partition>.<context>.<aggregate>.<id>.<command>`, or
    /// `effect.<context>.<aggregate>.<id>.<command>`. [`Origin::of_stored_subject`] tells them apart.
    ///
    /// # Errors
    /// [`SubjectError`] when it has another shape or a part that is not allowed.
    pub fn from_stored_subject(subject: &str) -> Result<Self, SubjectError> {
        let shape = || SubjectError::Shape {
            subject: subject.to_owned(),
            expected: "cmdq.<partition>.<context>.<aggregate>.<id>.<command>, nor effect.<context>.<aggregate>.<id>.<command>",
        };
        if let Some([EFFECT_PREFIX, context, aggregate, id, command]) = split::<5>(subject) {
            return Self::new(context, aggregate, id, command);
        }
        match split::<6>(subject).ok_or_else(shape)? {
            [COMMAND_QUEUE_PREFIX, _, context, aggregate, id, command] => {
                Self::new(context, aggregate, id, command)
            }
            _ => Err(shape()),
        }
    }

    /// The subject on which anybody who may send commands publishes it.
    pub fn subject(&self) -> String {
        self.subject_from(Origin::Sender)
    }

    /// The subject on which `origin` publishes it.
    pub fn subject_from(&self, origin: Origin) -> String {
        format!("{}.{self}", origin.prefix())
    }
}

impl fmt::Display for CommandAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.stream_id, self.command)
    }
}

/// The subject on which a command was published, computed from the one under which COMMANDS stores it. Other subjects are returned
/// unchanged: those of commands of processes, and those of foreign messages. So a dead letter can always say where its message came from.
pub fn published_subject(stored: &str) -> String {
    stored
        .strip_prefix("cmdq.")
        .and_then(|rest| rest.split_once('.'))
        .map_or_else(|| stored.to_owned(), |(_, rest)| format!("{COMMAND_PREFIX}.{rest}"))
}

/// The server's `partition(16, …)`: FNV-1a (32 bits) over the concatenated tokens, modulo [`PARTITIONS`]
/// (nats-server, `subject_transform.go`).
fn partition(tokens: &[&str]) -> u32 {
    let hash = tokens
        .iter()
        .flat_map(|token| token.bytes())
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash % PARTITIONS
}

fn split<const N: usize>(subject: &str) -> Option<[&str; N]> {
    let mut parts = subject.split('.');
    let mut tokens = [""; N];
    for token in &mut tokens {
        *token = parts.next()?;
    }
    parts.next().is_none().then_some(tokens)
}

/// Checks that a name is lower-kebab-case, as names in subjects must be. `kind` says what has the name.
///
/// # Errors
/// [`SubjectError::Name`].
pub fn check_name(kind: &'static str, text: &str) -> Result<(), SubjectError> {
    let starts_well = text.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
    let allowed = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    let hyphens = !text.ends_with('-') && !text.contains("--");
    if starts_well && allowed && hyphens && text.len() <= AGGREGATE_ID_LENGTH_MAX {
        Ok(())
    } else {
        Err(SubjectError::Name { kind, text: text.to_owned() })
    }
}

/// Checks that an id may be part of a subject. Models use it for ids in bodies that name other aggregates.
///
/// # Errors
/// [`SubjectError::Id`].
pub fn check_id(text: &str) -> Result<(), SubjectError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b':' | b'@');
    if (1..=AGGREGATE_ID_LENGTH_MAX).contains(&text.len()) && text.bytes().all(allowed) {
        Ok(())
    } else {
        Err(SubjectError::Id { text: text.to_owned() })
    }
}

/// Whether an answer may be sent to a subject that somebody else chose.
pub fn is_reply_subject(subject: &str) -> bool {
    REPLY_PREFIXES.iter().any(|prefix| subject.starts_with(prefix))
        && subject.len() <= FOREIGN_SUBJECT_BYTES_MAX
        && subject.split('.').all(|token| !token.is_empty() && token != "*" && token != ">")
        && !subject.contains(|letter: char| letter.is_whitespace() || letter.is_control())
}

/// The context, the aggregate, the id and the command that the subject of a command names, as it was published or falls due; `None` if it is
/// none of a command. None of them is checked: a sender may have written anything.
pub fn addressed(subject: &str) -> Option<[&str; 4]> {
    let (prefix, address) = subject.strip_prefix("due.").unwrap_or(subject).split_once('.')?;
    if ![COMMAND_PREFIX, EFFECT_PREFIX].contains(&prefix) {
        return None;
    }
    let mut names = address.split('.');
    let parts = [names.next()?, names.next()?, names.next()?, names.next()?];
    names.next().is_none().then_some(parts)
}

/// The subject for the command that falls due on `due`. The command handler judges names and ids. Only the shape must be one that COMMANDS
/// accepts; otherwise there is no subject.
pub fn due_command_subject(due: &str) -> Option<String> {
    let address = due.strip_prefix(DUE_PREFIX)?.strip_prefix('.')?;
    let tokens = address.split('.').filter(|token| !token.is_empty()).count();
    // A client library refuses to publish on a subject with any kind of white space.
    let has_shape = !address.contains(char::is_whitespace) && tokens == 4 && address.split('.').count() == 4;
    let subject = format!("{EFFECT_PREFIX}.{address}");
    (has_shape && subject.len() <= FOREIGN_SUBJECT_BYTES_MAX).then_some(subject)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_go_to_inboxes_alone() {
        for good in ["_INBOX.a", "_INBOX.publisher.a.b", "_R_.aBc.x", "reply.billing.1"] {
            assert!(is_reply_subject(good), "{good}");
        }
        for bad in [
            "",
            "_INBOX",
            "_INBOX.",
            "_INBOX_projector.a",
            "_INBOX.*",
            "_INBOX.>",
            "_INBOX.a b",
            "reply.a\r\nb",
            "$JS.API.STREAM.PURGE.COMMANDS",
            "$KV.LEASES.command-handler-0of1",
            "evt.a.b.c",
            "out.0of1",
            "cmd.a.b.c.d",
            "cmdq.0.a.b.c.d",
            "submit.a.b.c.d",
            "report.a.b.c.d",
            "dlq.COMMANDS.1",
            "timer.cmd.a",
            "due.cmd.a",
            "$SRV.PING",
        ] {
            assert!(!is_reply_subject(bad), "{bad}");
        }
        let long = format!("_INBOX.{}", "y".repeat(FOREIGN_SUBJECT_BYTES_MAX));
        assert!(!is_reply_subject(&long), "the server would end the connection that sends there");
    }

    #[test]
    fn parts_come_back_from_a_stream_id() {
        let id = StreamId::new("retail", "till", "2506_2012-01-31").unwrap();
        assert_eq!((id.context(), id.aggregate(), id.id()), ("retail", "till", "2506_2012-01-31"));
        assert_eq!(id.event_subject(), "evt.retail.till.2506_2012-01-31");
        assert_eq!(StreamId::from_event_subject(&id.event_subject()), Ok(id));
    }

    #[test]
    fn names_are_lower_kebab_case() {
        for bad in ["", "Retail", "re_tail", "1st", "-a", "a-", "a--b", "a.b", "ä"] {
            assert!(StreamId::new(bad, "till", "1").is_err(), "{bad}");
        }
        assert!(StreamId::new("retail-2", "business-day", "1").is_ok());
    }

    #[test]
    fn ids_refuse_what_subjects_cannot_carry() {
        for bad in ["", "a b", "a.b", "*", ">", "a/b", "é", &"x".repeat(129)] {
            assert_eq!(
                StreamId::new("retail", "till", bad),
                Err(SubjectError::Id { text: bad.to_owned() }),
                "{bad}"
            );
        }
        assert!(StreamId::new("retail", "stock", "main:SKU_1@x-2").is_ok());
    }

    #[test]
    fn stored_and_published_subjects_name_the_same_command() {
        let published = CommandAddress::from_subject("cmd.retail.till.1_2012-01-31.close").unwrap();
        let stored = CommandAddress::from_stored_subject("cmdq.7.retail.till.1_2012-01-31.close").unwrap();
        assert_eq!(published, stored);
        assert_eq!(published_subject("cmdq.7.retail.till.1_2012-01-31.close"), published.subject());
        let effect = "effect.retail.till.1_2012-01-31.close";
        assert_eq!(CommandAddress::from_stored_subject(effect).unwrap(), published);
        assert_eq!(published_subject(effect), effect);
        assert!(CommandAddress::from_subject(effect).is_err(), "nobody sends a command there");
    }

    #[test]
    fn origin_is_the_subject_s() {
        for (subject, origin) in [
            ("cmdq.7.retail.till.1.close", Origin::Sender),
            ("cmdq.7.effect.till.1.close", Origin::Sender),
            ("effects.retail.till.1.close", Origin::Sender),
            ("effect", Origin::Sender),
            ("effect.retail.till.1.close", Origin::Effect),
        ] {
            assert_eq!(Origin::of_stored_subject(subject), origin, "{subject}");
        }
    }

    #[test]
    fn only_what_commands_takes_becomes_a_command() {
        assert_eq!(
            due_command_subject("due.cmd.retail.till.1.close").as_deref(),
            Some("effect.retail.till.1.close")
        );
        for other in
            ["due.cmd.retail.till.1", "due.cmd.a.b.c.d.e", "due.cmd.a..c.d", "due.other", "due.cmdx.a.b.c.d"]
        {
            assert_eq!(due_command_subject(other), None, "{other}");
        }
        // The subject that is published counts, with its prefix.
        let longest = "x".repeat(FOREIGN_SUBJECT_BYTES_MAX - "effect.retail.stock..receive".len());
        let published = due_command_subject(&format!("due.cmd.retail.stock.{longest}.receive")).unwrap();
        assert_eq!(published.len(), FOREIGN_SUBJECT_BYTES_MAX);
        let long = format!("due.cmd.retail.stock.{longest}x.receive");
        assert_eq!(due_command_subject(&long), None, "the server would end the connection");
    }
}
