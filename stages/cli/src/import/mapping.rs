//! The mapping of an import: which commands a row becomes. Read from TOML and checked against the file's header before the
//! first command is sent.

use std::{
    cell::RefCell,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use jiff::Timestamp;
use millstream_contract::{
    command::{BodyFormat, COMMAND_ID_LENGTH_MAX, CommandEnvelope},
    commit::{commit_hash, hexadecimal},
    error_text::one_line,
    exit_code::{ExitCode, Failure},
    stored_message::Headers,
    subject::{CommandAddress, Origin},
};
use millstream_domain::decider::{AggregateRegistry, AggregateType};
use serde::Deserialize;
use toml::Spanned;

use super::{
    identity::{CHOICES, Identities, Identity, IdentityError, digest},
    input::{self, InputError, RowsFile, SourceRow},
    map_check::{self, BodyError},
    node::{self, At, Placed},
    template::{Template, TemplateError, parse_text},
    text::{Columns, Row, RowError, Slugs, Text},
};
use crate::command_publisher::OutgoingCommand;

/// Bytes of the hash of a row's content.
const HASH_LENGTH: usize = 8;
/// Longest names of an aggregate and a command that stand in ids as they are; longer ones leave a hash.
const PART_LENGTH_MAX: usize = 80;
/// Longest name, in bytes. Behind it an id has the identity of the row, the names of aggregate and command, which of them it is if there
/// are several, how often it was refused before, and what separates them.
const NAME_LENGTH_MAX: usize = COMMAND_ID_LENGTH_MAX - (24 + PART_LENGTH_MAX + 20 + 20 + 4);

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMapping {
    /// Part of the ids of its commands: two mappings of one file are two imports.
    name: Spanned<String>,
    context: Spanned<String>,
    identity: Option<Placed>,
    command: Vec<RawCommand>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCommand {
    aggregate: Spanned<String>,
    id: Placed,
    command: Placed,
    /// Left out where the command before it to the same aggregate was equal.
    #[serde(default)]
    once: bool,
    body: Placed,
}

/// A mistake of a map.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MapFault {
    #[error("the ids of all commands begin with the name {name:?}, which {rule}; choose another")]
    Name { name: String, rule: &'static str },
    #[error("there is no aggregate {context}.{aggregate}; there are {known}")]
    Aggregate { context: String, aggregate: String, known: String },
    #[error("{context}.{aggregate} has no command {command}; it has {known}")]
    Command { context: String, aggregate: String, command: String, known: String },
    #[error("only processes and timers may give {command}")]
    Internal { command: String },
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Body(#[from] BodyError),
}

/// A mapping that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MappingError {
    #[error(transparent)]
    Input(#[from] InputError),
    #[error("{path} is not a mapping")]
    Form { path: PathBuf, source: Box<toml::de::Error> },
    #[error("{path}: line {line}, column {column}: {fault}")]
    Fault { path: PathBuf, line: usize, column: usize, fault: Box<MapFault> },
    #[error("{path} maps rows to no command")]
    Empty { path: PathBuf },
    #[error("{path} does not say which rows are one; write {CHOICES}")]
    NoIdentity { path: PathBuf },
    #[error(
        "{path}: the rows of lines {first} and {second} of the file have the same identity{others}; name columns under identity that tell \
         all rows apart"
    )]
    SameIdentity { path: PathBuf, first: u64, second: u64, others: String },
}

impl Failure for MappingError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Input(error) => error.exit_code(),
            Self::SameIdentity { .. } => ExitCode::Data,
            Self::Form { .. } | Self::Fault { .. } | Self::Empty { .. } | Self::NoIdentity { .. } => {
                ExitCode::Configuration
            }
        }
    }
}

/// The text of a map, for saying where something stands in it.
struct MapText<'a> {
    path: &'a Path,
    text: &'a str,
}

impl MapText<'_> {
    fn fault(&self, span: Range<usize>, fault: impl Into<MapFault>) -> MappingError {
        let before = self.text.get(..span.start).unwrap_or_default();
        let line = 1 + before.matches('\n').count();
        let column = 1 + before.rsplit('\n').next().unwrap_or_default().chars().count();
        MappingError::Fault { path: self.path.to_owned(), line, column, fault: Box::new(fault.into()) }
    }

    fn unreadable(&self, error: toml::de::Error) -> MappingError {
        match node::date_in(&error) {
            Some(span) => self.fault(span, TemplateError::Kind { found: "a date without quotes".to_owned() }),
            None => MappingError::Form { path: self.path.to_owned(), source: Box::new(error) },
        }
    }

    fn at<E: Into<MapFault>>(&self, error: At<E>) -> MappingError {
        self.fault(error.span, error.what)
    }
}

/// Why a row becomes no commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RowRefusal {
    /// Short, for programs.
    pub(crate) code: String,
    /// One sentence.
    pub(crate) reason: String,
}

impl From<RowError> for RowRefusal {
    fn from(error: RowError) -> Self {
        Self { code: error.code().to_owned(), reason: error.to_string() }
    }
}

/// A mapping, checked.
pub(crate) struct Mapping {
    name: String,
    context: String,
    commands: Vec<CommandTemplate>,
    identities: Identities,
    slugs: RefCell<Slugs>,
}

struct CommandTemplate {
    aggregate: String,
    of_type: Arc<dyn AggregateType>,
    id: Text,
    command: Text,
    once: bool,
    body: Template,
    /// Which of the commands of this kind of a row it is.
    nth: usize,
}

/// A row that was read: what it is to the import, and its commands.
#[derive(Debug)]
pub(crate) struct MappedRow {
    /// None where a column that tells rows apart is empty.
    pub(crate) identity: Option<String>,
    /// All of them, or why the row has none.
    pub(crate) commands: Result<Vec<RowCommand>, RowRefusal>,
}

/// A command of a row.
#[derive(Debug, Clone)]
pub(crate) struct RowCommand {
    /// Whether it is left out where the command before it to the same aggregate was equal.
    pub(crate) once: bool,
    /// The command, under the id of the first attempt.
    pub(crate) command: OutgoingCommand,
}

impl RowCommand {
    /// The same after so many attempts that were refused. What was accepted keeps the id under which it was, and is known by it.
    pub(crate) fn again(&self, refused: u32) -> OutgoingCommand {
        let mut command = self.command.clone();
        if refused > 0 {
            command.id = format!("{}~{}", command.id, refused.saturating_add(1));
        }
        command
    }
}

impl Mapping {
    /// Reads the mapping for a file.
    ///
    /// # Errors
    /// [`MappingError`] naming the place.
    pub(crate) fn load(
        path: &Path,
        file: &RowsFile,
        known: &AggregateRegistry,
    ) -> Result<Self, MappingError> {
        let text = input::text(path)?;
        let map = MapText { path, text: &text };
        let raw: RawMapping = toml::from_str(&text).map_err(|error| map.unreadable(error))?;
        if let Some(rule) = broken_rule(raw.name.get_ref()) {
            let name = raw.name.get_ref().clone();
            return Err(map.fault(raw.name.span(), MapFault::Name { name, rule }));
        }
        let columns = Columns::new(&file.header);
        let mut commands: Vec<CommandTemplate> = Vec::new();
        for command in raw.command {
            let mut command = CommandTemplate::read(command, &raw.context, &columns, known, &map)?;
            let is_same = |other: &&CommandTemplate| {
                (&other.aggregate, &other.command) == (&command.aggregate, &command.command)
            };
            command.nth = 1 + commands.iter().filter(is_same).count();
            commands.push(command);
        }
        if commands.is_empty() {
            return Err(MappingError::Empty { path: path.to_owned() });
        }
        let identity = raw.identity.ok_or_else(|| MappingError::NoIdentity { path: path.to_owned() })?;
        let identity = Identity::read(&identity, &columns).map_err(|error| map.at(error))?;
        let mut mapping = Self {
            name: raw.name.into_inner(),
            context: raw.context.into_inner(),
            commands,
            identities: Identities::new(identity, file.name()),
            slugs: RefCell::default(),
        };
        mapping.check_identities(path, file)?;
        Ok(mapping)
    }

    /// Refuses a file of which the identity tells rows not apart: one of two would be taken for known.
    fn check_identities(&mut self, path: &Path, file: &RowsFile) -> Result<(), MappingError> {
        let mut lines = std::collections::HashMap::new();
        let (mut first, mut count) = (None, 0_u64);
        for row in file.rows()? {
            let row = row?;
            if row.identity.is_none() && !self.identities.are_of_columns() {
                continue;
            }
            let Some(identity) = self.identity(&row, "") else { continue };
            if let Some(other) = lines.insert(digest("", [identity.as_str()]), row.line) {
                first.get_or_insert((other, row.line));
                count += 1;
            }
        }
        let Some((first, second)) = first else { return Ok(()) };
        let others = if count > 1 { format!(", and so have {} more", count - 1) } else { String::new() };
        Err(MappingError::SameIdentity { path: path.to_owned(), first, second, others })
    }

    fn identity(&mut self, row: &SourceRow, hash: &str) -> Option<String> {
        if let Some(given) = &row.identity {
            return Some(given.clone());
        }
        let SourceRow { number, line, record, .. } = row;
        let (number, line, slugs) = (*number, *line, &self.slugs);
        self.identities.of(&Row { number, line, hash, identity: "", record, slugs }).ok()
    }

    /// What it is called, which is part of its commands' ids.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The commands of the next row: all of them or none.
    pub(crate) fn map(&mut self, row: &SourceRow) -> MappedRow {
        let hash = content_hash(&row.record);
        let identity = self.identity(row, &hash);
        let commands = self.commands(row, &hash, identity.as_deref());
        MappedRow { identity, commands }
    }

    fn commands(
        &mut self,
        row: &SourceRow,
        hash: &str,
        identity: Option<&str>,
    ) -> Result<Vec<RowCommand>, RowRefusal> {
        let SourceRow { number, line, record, .. } = row;
        let (number, line, slugs) = (*number, *line, &self.slugs);
        let of_identity = |identity| Row { number, line, hash, identity, record, slugs };
        let Some(identity) = identity else {
            let refused = self.identities.of(&of_identity(""));
            let code = RowRefusal {
                code: "identity-unknown".to_owned(),
                reason: "the row has no identity".to_owned(),
            };
            return Err(refused.err().map_or(code, RowRefusal::from));
        };
        let row = of_identity(identity);
        self.commands.iter().map(|template| template.command(&self.name, &self.context, &row)).collect()
    }
}

impl CommandTemplate {
    fn read(
        raw: RawCommand,
        context: &Spanned<String>,
        columns: &Columns,
        known: &AggregateRegistry,
        map: &MapText<'_>,
    ) -> Result<Self, MappingError> {
        let of_context = |each: &&Arc<dyn AggregateType>| each.context() == context.get_ref();
        let Some(of_type) = known.get(context.get_ref(), raw.aggregate.get_ref()) else {
            let (context_name, aggregate) = (context.get_ref().clone(), raw.aggregate.get_ref().clone());
            let place = if known.iter().any(|each| of_context(&each)) {
                raw.aggregate.span()
            } else {
                context.span()
            };
            let all = known.iter().map(|each| format!("{}.{}", each.context(), each.aggregate()));
            let known = all.collect::<Vec<_>>().join(", ");
            return Err(map.fault(place, MapFault::Aggregate { context: context_name, aggregate, known }));
        };
        let command = parse_text(&raw.command, columns).map_err(|error| map.at(error))?;
        if let Some(name) = command.constant() {
            check_command(name, of_type.as_ref()).map_err(|fault| map.fault(raw.command.span(), fault))?;
            if let Some(schema) = of_type.command_json_schema(name) {
                map_check::check(&raw.body, &schema).map_err(|error| map.at(error))?;
            }
        }
        Ok(Self {
            of_type: Arc::clone(of_type),
            aggregate: raw.aggregate.into_inner(),
            id: parse_text(&raw.id, columns).map_err(|error| map.at(error))?,
            command,
            once: raw.once,
            body: Template::parse(&raw.body, columns).map_err(|error| map.at(error))?,
            nth: 1,
        })
    }

    fn command(&self, name: &str, context: &str, row: &Row<'_>) -> Result<RowCommand, RowRefusal> {
        let id = self.id.render(row)?;
        let command = self.command.render(row)?;
        let address = CommandAddress::new(context, &self.aggregate, &id, &command).map_err(|error| {
            let reason = format!("{}: {error}", self.id.origin());
            RowRefusal { code: "subject-not-allowed".to_owned(), reason }
        })?;
        let body = self.body.render(row)?.unwrap_or(serde_json::Value::Null);
        let body = Bytes::from(body.to_string());
        self.check(&address, &body)?;
        let mut part = format!("{}.{command}", self.aggregate);
        if part.len() > PART_LENGTH_MAX {
            part = hexadecimal(&digest(&self.aggregate, [command.as_str()]));
        }
        let nth = if self.nth > 1 { format!(".{}", self.nth) } else { String::new() };
        let id = format!("{name}:{}:{part}{nth}", row.identity);
        let command = OutgoingCommand { origin: Origin::Sender, address, id, body, headers: Headers::new() };
        Ok(RowCommand { once: self.once, command })
    }

    /// Refuses what the command's type would: nothing of the row is sent then.
    fn check(&self, address: &CommandAddress, body: &Bytes) -> Result<(), RowRefusal> {
        let refused = |code: &str, reason: String| {
            Err(RowRefusal { code: code.to_owned(), reason: format!("{address}: {reason}") })
        };
        if let Err(rejection) = self.of_type.check_id(address.stream_id.id()) {
            return refused(rejection.code, rejection.message);
        }
        let envelope = CommandEnvelope {
            id: None,
            position: 0,
            stored_at: Timestamp::UNIX_EPOCH,
            address: address.clone(),
            origin: Origin::Sender,
            format: BodyFormat::Json,
            body: body.clone(),
            actor: None,
            correlation_id: None,
            causation_id: None,
            traceparent: None,
            expected_version: None,
            reply: None,
        };
        match self.of_type.decode_command(&envelope) {
            Ok(_) => Ok(()),
            Err(error) => refused(error.code(), one_line(&error)),
        }
    }
}

/// Whether an aggregate has a command that an import may give.
fn check_command(command: &str, of_type: &dyn AggregateType) -> Result<(), MapFault> {
    let command = command.to_owned();
    if of_type.internal_commands().contains(&&*command) {
        return Err(MapFault::Internal { command });
    }
    let names = of_type.command_names();
    if names.contains(&&*command) {
        return Ok(());
    }
    let (context, aggregate) = (of_type.context().to_owned(), of_type.aggregate().to_owned());
    Err(MapFault::Command { context, aggregate, command, known: names.join(", ") })
}

/// Why a name cannot begin ids of commands. Each of them would be set aside, or be known under another id than the one that was sent:
/// the server takes white space off the ends of a header.
fn broken_rule(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("is empty")
    } else if name.starts_with('@') {
        Some("begins with @, as ids do that stand for positions in COMMANDS")
    } else if name.starts_with(char::is_whitespace) {
        Some("begins with white space")
    } else if name.contains(char::is_control) {
        Some("holds a control character")
    } else if name.len() > NAME_LENGTH_MAX {
        Some("is too long for an id")
    } else {
        None
    }
}

/// What `{hash}` stands for.
fn content_hash(record: &csv::StringRecord) -> String {
    let mut bytes = Vec::new();
    for field in record {
        bytes.extend_from_slice(field.as_bytes());
        bytes.push(0);
    }
    hexadecimal(commit_hash(&bytes).get(..HASH_LENGTH).unwrap_or_default())
}

#[cfg(test)]
mod tests;
