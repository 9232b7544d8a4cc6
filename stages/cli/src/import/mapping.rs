//! The mapping of an import: which commands a row becomes. Read from TOML and checked against the file's header before the
//! first command is sent.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use millstream_contract::{
    command::COMMAND_ID_LENGTH_MAX,
    commit::commit_hash,
    exit_code::{ExitCode, Failure},
    stored_message::Headers,
    subject::{CommandAddress, Origin},
};
use millstream_domain::decider::AggregateRegistry;
use serde::Deserialize;

use super::{
    input::{self, InputError},
    template::{Columns, Row, RowError, Template, TemplateError, Text},
};
use crate::command_publisher::OutgoingCommand;

/// Bytes of a content hash that are part of ids.
const HASH_LENGTH: usize = 8;
/// Longest name, in bytes: behind it an id has the number of the row, the hash in hexadecimal, the number of the command, and three
/// colons.
const NAME_LENGTH_MAX: usize = COMMAND_ID_LENGTH_MAX - (20 + 2 * HASH_LENGTH + 20 + 3);

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMapping {
    /// Part of the ids of its commands: two mappings of one file are two imports.
    name: String,
    context: String,
    command: Vec<RawCommand>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCommand {
    aggregate: String,
    id: String,
    command: String,
    /// Sent once for each distinct content, not once a row.
    #[serde(default)]
    once: bool,
    body: toml::Value,
}

impl RawCommand {
    /// Whether the application has such a command. All rows would be refused for what is wrong with the map. A name that a column
    /// gives is left to the handler.
    fn check(&self, path: &Path, context: &str, known: &AggregateRegistry) -> Result<(), MappingError> {
        let (path, context, aggregate) = (path.to_owned(), context.to_owned(), self.aggregate.clone());
        let Some(found) = known.get(&context, &aggregate) else {
            let all = known.iter().map(|each| format!("{}.{}", each.context(), each.aggregate()));
            let known = all.collect::<Vec<_>>().join(", ");
            return Err(MappingError::Aggregate { path, context, aggregate, known });
        };
        let names = found.command_names();
        if self.command.contains('{') || names.contains(&&*self.command) {
            return Ok(());
        }
        let (command, known) = (self.command.clone(), names.join(", "));
        Err(MappingError::Command { path, context, aggregate, command, known })
    }
}

/// A mapping that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MappingError {
    #[error(transparent)]
    Input(#[from] InputError),
    #[error("{path} is not a mapping")]
    Form { path: PathBuf, source: Box<toml::de::Error> },
    #[error("{path}: command {command}")]
    Template { path: PathBuf, command: String, source: TemplateError },
    #[error("{path} maps rows to no command")]
    Empty { path: PathBuf },
    #[error("{path}: the ids of all commands begin with the name {name:?}, which {rule}; choose another")]
    Name { path: PathBuf, name: String, rule: &'static str },
    #[error("{path}: there is no aggregate {context}.{aggregate}; there are {known}")]
    Aggregate { path: PathBuf, context: String, aggregate: String, known: String },
    #[error("{path}: {context}.{aggregate} has no command {command}; it has {known}")]
    Command { path: PathBuf, context: String, aggregate: String, command: String, known: String },
}

impl Failure for MappingError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Input(error) => error.exit_code(),
            Self::Form { .. }
            | Self::Template { .. }
            | Self::Empty { .. }
            | Self::Name { .. }
            | Self::Aggregate { .. }
            | Self::Command { .. } => ExitCode::Configuration,
        }
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
#[derive(Debug)]
pub(crate) struct Mapping {
    name: String,
    context: String,
    commands: Vec<CommandTemplate>,
    /// Ids of the commands that are sent once and were.
    sent: HashSet<String>,
}

#[derive(Debug)]
struct CommandTemplate {
    aggregate: String,
    id: Text,
    command: Text,
    once: bool,
    body: Template,
}

impl Mapping {
    /// Reads the mapping for a file with this header.
    ///
    /// # Errors
    /// [`MappingError`] naming the place.
    pub(crate) fn load(
        path: &Path,
        header: &csv::StringRecord,
        known: &AggregateRegistry,
    ) -> Result<Self, MappingError> {
        let text = input::text(path)?;
        let raw: RawMapping = toml::from_str(&text)
            .map_err(|source| MappingError::Form { path: path.to_owned(), source: Box::new(source) })?;
        if let Some(rule) = broken_rule(&raw.name) {
            return Err(MappingError::Name { path: path.to_owned(), name: raw.name, rule });
        }
        raw.command.iter().try_for_each(|command| command.check(path, &raw.context, known))?;
        let columns = Columns::new(header);
        let commands = raw
            .command
            .into_iter()
            .map(|raw| {
                let name = format!("{}.{}", raw.aggregate, raw.command);
                CommandTemplate::new(raw, &columns).map_err(|source| MappingError::Template {
                    path: path.to_owned(),
                    command: name,
                    source,
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        if commands.is_empty() {
            return Err(MappingError::Empty { path: path.to_owned() });
        }
        Ok(Self { name: raw.name, context: raw.context, commands, sent: HashSet::new() })
    }

    /// What it is called, which is part of its commands' ids.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The commands of a row, without those that were sent before for another one: all of them or none.
    ///
    /// # Errors
    /// [`RowRefusal`] when a column does not hold what is asked for.
    pub(crate) fn commands(
        &mut self,
        number: u64,
        record: &csv::StringRecord,
    ) -> Result<Vec<OutgoingCommand>, RowRefusal> {
        let hash = content_hash(record.iter());
        let row = Row { number, hash: &hash, record };
        let mut commands = Vec::new();
        for (index, template) in (1..).zip(&self.commands) {
            let mut command = template.command(&self.context, &row)?;
            command.id = if template.once {
                let body = String::from_utf8_lossy(&command.body).into_owned();
                format!("{}:{}", self.name, content_hash([command.address.to_string(), body]))
            } else {
                format!("{}:{number}:{hash}:{index}", self.name)
            };
            if !(template.once && self.sent.contains(&command.id)) {
                commands.push((template.once, command));
            }
        }
        self.sent.extend(commands.iter().filter(|(once, _)| *once).map(|(_, command)| command.id.clone()));
        Ok(commands.into_iter().map(|(_, command)| command).collect())
    }
}

impl CommandTemplate {
    fn new(raw: RawCommand, columns: &Columns) -> Result<Self, TemplateError> {
        Ok(Self {
            aggregate: raw.aggregate,
            id: Text::parse(&raw.id, columns)?,
            command: Text::parse(&raw.command, columns)?,
            once: raw.once,
            body: Template::parse(&raw.body, columns)?,
        })
    }

    fn command(&self, context: &str, row: &Row<'_>) -> Result<OutgoingCommand, RowRefusal> {
        let id = self.id.render(row)?;
        let command = self.command.render(row)?;
        let address = CommandAddress::new(context, &self.aggregate, &id, &command).map_err(|error| {
            RowRefusal { code: "subject-not-allowed".to_owned(), reason: error.to_string() }
        })?;
        let body = self.body.render(row)?.unwrap_or(serde_json::Value::Null);
        Ok(OutgoingCommand {
            origin: Origin::Sender,
            address,
            id: String::new(),
            body: Bytes::from(body.to_string()),
            headers: Headers::new(),
        })
    }
}

/// Why a name cannot begin ids of commands. Each of them would be set aside, or be known under another id than the one that was sent:
/// the server takes white space off the ends of a header.
fn broken_rule(name: &str) -> Option<&'static str> {
    if name.starts_with('@') {
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

fn content_hash<T: AsRef<str>>(fields: impl IntoIterator<Item = T>) -> String {
    let mut bytes = Vec::new();
    for field in fields {
        bytes.extend_from_slice(field.as_ref().as_bytes());
        bytes.push(0);
    }
    commit_hash(&bytes).iter().take(HASH_LENGTH).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use millstream_domain::application::Model;
    use millstream_model::Reference;

    use super::*;

    fn mapping() -> (tempfile::TempDir, Mapping) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("map.toml");
        let text = r#"
            name = "test"
            context = "retail"
            [[command]]
            aggregate = "product"
            id = "{item}"
            command = "register"
            once = true
            body = { name = "{name}" }
            [[command]]
            aggregate = "till"
            id = "{store}"
            command = "record-sale"
            body = { sale = "{row}", price = { decimal = "{price}", places = 2 } }
        "#;
        std::fs::write(&path, text).unwrap();
        let mapping = load(&path).unwrap();
        (folder, mapping)
    }

    fn load(path: &Path) -> Result<Mapping, MappingError> {
        let header = csv::StringRecord::from(vec!["item", "name", "store", "price"]);
        Mapping::load(path, &header, &Model::of::<Reference>().unwrap().aggregates())
    }

    /// A map of another context ended with 0: each row was refused, as if it were the row's fault.
    #[test]
    fn a_map_to_what_the_application_does_not_have_is_refused() {
        let (folder, _) = mapping();
        let path = folder.path().join("map.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        for (right, wrong, said) in [
            (
                "\"retail\"",
                "\"retial\"",
                "there is no aggregate retial.product; there are comments.comment, ",
            ),
            ("\"till\"", "\"tills\"", "there is no aggregate retail.tills; "),
            ("\"register\"", "\"registre\"", "retail.product has no command registre; it has "),
        ] {
            std::fs::write(&path, text.replace(right, wrong)).unwrap();
            let refused = load(&path).unwrap_err();
            assert!(refused.to_string().contains(said), "{refused}");
            assert_eq!(refused.exit_code(), ExitCode::Configuration);
        }
    }

    /// The import waited a minute for outcomes, which were recorded for positions without an id.
    #[test]
    fn a_name_that_cannot_begin_an_id_is_refused() {
        let (folder, _) = mapping();
        let path = folder.path().join("map.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let long = "x".repeat(NAME_LENGTH_MAX + 1);
        for (name, said) in [
            ("@sales", "the name \"@sales\", which begins with @, as ids do that stand for positions"),
            (" sales", "which begins with white space; choose another"),
            ("sa\\nles", "which holds a control character"),
            (&long, "which is too long for an id"),
        ] {
            std::fs::write(&path, text.replace("\"test\"", &format!("\"{name}\""))).unwrap();
            let refused = load(&path).unwrap_err();
            assert!(refused.to_string().contains(said), "{refused}");
            assert_eq!(refused.exit_code(), ExitCode::Configuration);
        }
        std::fs::write(&path, text.replace("\"test\"", &format!("\"{}\"", &long[1..]))).unwrap();
        let mut longest = load(&path).unwrap();
        let commands = longest.commands(u64::MAX, &record(["7", "Gin", "s1", "1.00"])).unwrap();
        assert!(commands.iter().all(|command| command.id.len() <= COMMAND_ID_LENGTH_MAX), "{commands:?}");
    }

    fn record(fields: [&str; 4]) -> csv::StringRecord {
        csv::StringRecord::from(fields.to_vec())
    }

    #[test]
    fn command_of_the_same_content_is_sent_once() {
        let (_folder, mut mapping) = mapping();
        let first = mapping.commands(1, &record(["7", "Gin", "s1", "1.00"])).unwrap();
        let second = mapping.commands(2, &record(["7", "Gin", "s1", "1.00"])).unwrap();
        let renamed = mapping.commands(3, &record(["7", "Dry Gin", "s1", "1.00"])).unwrap();
        let subjects = |commands: &[OutgoingCommand]| {
            commands.iter().map(|command| command.address.subject()).collect::<Vec<_>>()
        };
        assert_eq!(subjects(&first), ["cmd.retail.product.7.register", "cmd.retail.till.s1.record-sale"]);
        assert_eq!(subjects(&second), ["cmd.retail.till.s1.record-sale"]);
        assert_eq!(subjects(&renamed), ["cmd.retail.product.7.register", "cmd.retail.till.s1.record-sale"]);
    }

    #[test]
    fn ids_are_those_of_the_first_time_and_differ_between_equal_rows() {
        let ids = || {
            let (_folder, mut mapping) = mapping();
            let row = record(["7", "Gin", "s1", "1.00"]);
            let mut ids: Vec<String> = Vec::new();
            for number in 1..=2 {
                ids.extend(mapping.commands(number, &row).unwrap().into_iter().map(|command| command.id));
            }
            ids
        };
        let once = ids();
        assert_eq!(once, ids());
        assert_eq!(once.iter().collect::<HashSet<_>>().len(), 3);
    }

    #[test]
    fn refused_row_sends_nothing_and_spoils_no_later_row() {
        let (_folder, mut mapping) = mapping();
        let refusal = mapping.commands(1, &record(["7", "Gin", "s1", ""])).unwrap_err();
        assert_eq!(
            (refusal.code.as_str(), refusal.reason.as_str()),
            ("column-empty", "column price is empty")
        );
        assert_eq!(
            mapping.commands(2, &record(["8", "Gin", "no such id!", "1"])).unwrap_err().code,
            "subject-not-allowed"
        );
        assert_eq!(mapping.commands(3, &record(["7", "Gin", "s1", "1.00"])).unwrap().len(), 2);
    }
}
