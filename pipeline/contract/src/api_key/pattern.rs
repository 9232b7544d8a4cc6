//! The patterns by which keys and tokens grant commands, rows, histories and dead letters. In each part, `*` stands for any characters.

use serde::{Deserialize, Serialize};

use crate::{
    set_aside,
    subject::{CommandAddress, StreamId},
};

/// The commands that a key grants: `<context>.<aggregate>.<id>.<command>`, where `*` stands for any characters of its part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CommandPattern([String; 4]);

impl CommandPattern {
    /// Whether it grants this command. No pattern grants the commands that Millstream itself records.
    pub fn grants(&self, address: &CommandAddress) -> bool {
        let [_, _, id, _] = &self.0;
        let stream = &address.stream_id;
        stream.context() != set_aside::CONTEXT
            && self.fits([stream.context(), stream.aggregate(), &address.command])
            && matches(id, stream.id())
    }

    /// Whether it grants a command, named by context, aggregate and command name, for at least one aggregate id.
    pub fn fits(&self, command: [&str; 3]) -> bool {
        let [context, aggregate, _, name] = &self.0;
        [context, aggregate, name].into_iter().zip(command).all(|(pattern, part)| matches(pattern, part))
    }

    /// Its parts: of context, aggregate, id and command.
    pub fn parts(&self) -> [&str; 4] {
        self.0.each_ref().map(String::as_str)
    }
}

impl TryFrom<String> for CommandPattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        let error = || PatternError::Command { text: text.clone() };
        let parts: Vec<String> = text.split('.').map(str::to_owned).collect();
        let parts: [String; 4] = parts.try_into().map_err(|_| error())?;
        if parts.iter().all(|part| is_part(part)) { Ok(Self(parts)) } else { Err(error()) }
    }
}

impl From<CommandPattern> for String {
    fn from(pattern: CommandPattern) -> Self {
        pattern.0.join(".")
    }
}

/// The rows that a key grants: `<context>.<view>.<key>`, where `*` stands for any characters of its part. The key of a row may hold
/// dots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct QueryPattern([String; 3]);

impl QueryPattern {
    pub(super) fn names(&self, context: &str, view: &str) -> bool {
        let [own_context, own_view, _] = &self.0;
        matches(own_context, context) && matches(own_view, view)
    }

    /// Whether it grants the row of a key.
    pub fn grants(&self, context: &str, view: &str, key: &str) -> bool {
        self.names(context, view) && matches(&self.0[2], key)
    }

    /// Whether it grants all rows whose keys begin with `prefix`, because it grants any key behind a part that `prefix` begins with.
    pub fn grants_list(&self, context: &str, view: &str, prefix: &str) -> bool {
        self.names(context, view) && self.beginning().is_some_and(|beginning| prefix.starts_with(beginning))
    }

    /// The prefix that the keys of a list must have to be granted.
    pub(super) fn beginning(&self) -> Option<&str> {
        self.0[2].strip_suffix('*').filter(|beginning| !beginning.contains('*'))
    }
}

impl TryFrom<String> for QueryPattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-*".contains(&byte);
        let parts: Vec<String> = text.splitn(3, '.').map(str::to_owned).collect();
        let parts: Option<[String; 3]> = parts.try_into().ok();
        let good = |[context, view, key]: &[String; 3]| {
            let named = |name: &String| !name.is_empty() && name.bytes().all(allowed);
            named(context) && named(view) && !key.is_empty()
        };
        parts.filter(good).map(Self).ok_or(PatternError::Query { text })
    }
}

impl From<QueryPattern> for String {
    fn from(pattern: QueryPattern) -> Self {
        pattern.0.join(".")
    }
}

/// The histories that a key grants: `<context>.<aggregate>.<id>`, where `*` stands for any characters of its part.
/// A history shows everything that has happened to an aggregate, and who asked for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HistoryPattern([String; 3]);

impl HistoryPattern {
    /// Whether it grants the history of an aggregate.
    pub fn grants(&self, stream_id: &StreamId) -> bool {
        let [context, aggregate, id] = &self.0;
        matches(context, stream_id.context())
            && matches(aggregate, stream_id.aggregate())
            && matches(id, stream_id.id())
    }
}

impl TryFrom<String> for HistoryPattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        let parts: Vec<String> = text.split('.').map(str::to_owned).collect();
        let parts: Option<[String; 3]> = parts.try_into().ok();
        parts
            .filter(|parts| parts.iter().all(|part| is_part(part)))
            .map(Self)
            .ok_or(PatternError::History { text })
    }
}

impl From<HistoryPattern> for String {
    fn from(pattern: HistoryPattern) -> Self {
        pattern.0.join(".")
    }
}

/// What may be done with a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LetterAction {
    /// See it, with its headers and its body.
    Read,
    /// Have it decided again.
    Retry,
    /// Remove it.
    Drop,
}

impl LetterAction {
    /// As the last part of a pattern names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Retry => "retry",
            Self::Drop => "drop",
        }
    }
}

/// The dead letters that a key grants, and what may be done with them: `<context>.<aggregate>.<id>.<action>`, where `*` stands for any
/// characters of its part. The first three name the aggregate to which the message was addressed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LetterPattern([String; 4]);

impl LetterPattern {
    /// Whether it grants an action on letters to this aggregate, named by context, aggregate and id. A letter that is addressed to none has
    /// empty names, so that only `*` stands for it. No pattern grants letters of what Millstream itself records.
    pub fn grants(&self, [context, aggregate, id]: [&str; 3], action: LetterAction) -> bool {
        if context == set_aside::CONTEXT {
            return false;
        }
        let parts = self.0.each_ref().map(String::as_str);
        parts
            .into_iter()
            .zip([context, aggregate, id, action.name()])
            .all(|(pattern, part)| matches(pattern, part))
    }

    /// Whether it grants an action on some letters.
    pub fn grants_some(&self, action: LetterAction) -> bool {
        matches(&self.0[3], action.name())
    }
}

impl TryFrom<String> for LetterPattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        let parts: Vec<String> = text.split('.').map(str::to_owned).collect();
        let parts: Option<[String; 4]> = parts.try_into().ok();
        let actions = [LetterAction::Read, LetterAction::Retry, LetterAction::Drop];
        // An action that does not exist would be a pattern that grants nothing.
        let good = |parts: &[String; 4]| {
            parts.iter().all(|part| is_part(part))
                && actions.iter().any(|action| matches(&parts[3], action.name()))
        };
        parts.filter(good).map(Self).ok_or(PatternError::Letter { text })
    }
}

impl From<LetterPattern> for String {
    fn from(pattern: LetterPattern) -> Self {
        pattern.0.join(".")
    }
}

/// Whether a part of a pattern is one of names and ids.
fn is_part(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-:@*".contains(&byte))
}

/// A text that is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Not of commands.
    #[error(
        "{text:?} is no pattern of commands; one is <context>.<aggregate>.<id>.<command>, where * stands for any characters of a part, such as retail.till.2506_*.record-sale"
    )]
    Command {
        /// What was given.
        text: String,
    },
    /// Not of histories.
    #[error(
        "{text:?} is no pattern of histories; one is <context>.<aggregate>.<id>, where * stands for any characters of a part, such as retail.till.2506_*"
    )]
    History {
        /// What was given.
        text: String,
    },
    /// Not of dead letters.
    #[error(
        "{text:?} is no pattern of dead letters; one is <context>.<aggregate>.<id>.<action>, where * stands for any characters of a part and the action is read, retry or drop, such as retail.till.2506_*.read"
    )]
    Letter {
        /// What was given.
        text: String,
    },
    /// Not of configured queries.
    #[error(
        "{text:?} is no pattern of configured queries; one is <context>.<query>, where * stands for any characters of a part, and perhaps ?<parameter>=<value>, such as retail.*?store=2506"
    )]
    ConfiguredQuery {
        /// What was given.
        text: String,
    },
    /// Not of rows.
    #[error(
        "{text:?} is no pattern of rows; one is <context>.<view>.<key>, where * stands for any characters of a part, such as retail.till.2506_*"
    )]
    Query {
        /// What was given.
        text: String,
    },
}

/// Whether `text` fits `pattern`, in which `*` stands for any characters.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let mut pieces: Vec<&str> = rest.split('*').collect();
    let last = pieces.pop().unwrap_or_default();
    for piece in pieces {
        // The first match is the best one, because it leaves the most text for the remaining pieces.
        let Some((_, behind)) = text.split_once(piece) else { return false };
        text = behind;
    }
    text.ends_with(last)
}
