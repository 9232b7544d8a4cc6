//! The mapping of an import: which commands a row becomes. Checked against the file's header and the application before the first command
//! is sent.

use std::{cell::RefCell, collections::HashMap, io, sync::Arc};

use bytes::Bytes;
use jiff::Timestamp;
use millstream_contract::{
    command::{BodyFormat, COMMAND_ID_LENGTH_MAX, CommandEnvelope},
    commit::{commit_hash, hexadecimal},
    error_text::one_line,
    stored_message::Headers,
    subject::{CommandAddress, Origin},
};
use millstream_domain::decider::{AggregateRegistry, AggregateType};
use toml::Spanned;

use super::{
    condition::Condition,
    identity::{Each, Identities, Identity, IdentityError, digest},
    input::{InputError, RowsFile, SourceRow},
    key::Slugs,
    map_check,
    map_file::{Changed, MapFault, MapFile, MappingError, RawCommand},
    refusal::RowRefusal,
    repeated::Repeated,
    template::{Template, each_in, parse_text},
    text::{Columns, Row, RowError, Text},
    units::{Fate, Unit, Units, UnitsError},
};
use crate::command_publisher::OutgoingCommand;

/// Bytes of the hash of a row's content.
const HASH_LENGTH: usize = 8;
/// Longest names of an aggregate and a command together, in bytes, that stand in ids as they are; in place of longer ones stands a hash.
const PART_LENGTH_MAX: usize = 80;
/// Longest name, in bytes. Behind it an id has the identity of the row, the names of aggregate and command, which of them it is if there
/// are several, which row of a group it is for, how often it was refused before, and what separates them.
const NAME_LENGTH_MAX: usize = COMMAND_ID_LENGTH_MAX - (24 + PART_LENGTH_MAX + 10 + 24 + 10 + 5);

/// A mapping, checked.
pub(crate) struct Mapping {
    name: String,
    context: String,
    commands: Vec<CommandTemplate>,
    units: Arc<Units>,
    identities: Identities,
    changed: Changed,
    slugs: RefCell<Slugs>,
}

struct CommandTemplate {
    aggregate: String,
    of_type: Arc<dyn AggregateType>,
    id: Text,
    command: Text,
    once: bool,
    each: Option<Each>,
    when: Option<Condition>,
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
    /// Which row of a group it is for; none where it is for all of them.
    pub(super) of_row: Option<usize>,
    /// The command, under the id of the first attempt.
    pub(crate) command: OutgoingCommand,
}

impl RowCommand {
    /// The same command under the id that follows `refused` ids under which it was refused. The id under which it is accepted stays its own, and it
    /// is known by that.
    pub(crate) fn again(&self, refused: u32) -> OutgoingCommand {
        let mut command = self.command.clone();
        if refused > 0 {
            command.id = format!("{}~{}", command.id, refused.saturating_add(1));
        }
        command
    }
}

impl Mapping {
    /// Compares a map with a file and with the application.
    ///
    /// # Errors
    /// [`MappingError`] naming the place.
    pub(crate) fn load(
        map: MapFile,
        file: &RowsFile,
        known: &AggregateRegistry,
    ) -> Result<Self, MappingError> {
        let raw = &map.raw;
        if let Some(rule) = broken_rule(raw.name.get_ref()) {
            let name = raw.name.get_ref().clone();
            return Err(map.fault(raw.name.span(), MapFault::Name { name, rule }));
        }
        let columns = map.columns(&file.header)?;
        let units = Units::read([raw.fill.as_ref(), raw.skip.as_ref(), raw.group.as_ref()], &columns);
        let mut units = units.map_err(|error| map.at(error))?;
        if !units.are_groups() {
            let each =
                raw.command.iter().find_map(|command| command.each.as_ref().or(each_in(&command.body)));
            if let Some(each) = each {
                return Err(map.fault(each.span(), UnitsError::NoGroup));
            }
        }
        units.stand_together = raw.command.iter().any(|command| command.each.is_none());
        let mut commands: Vec<CommandTemplate> = Vec::new();
        for command in &raw.command {
            let mut command = CommandTemplate::read(command, &raw.context, &columns, known, &map)?;
            let may_be_same = |other: &&CommandTemplate| {
                let is_told_by_file = |each: &CommandTemplate| each.command.constant().is_none();
                other.aggregate == command.aggregate
                    && (other.command == command.command
                        || is_told_by_file(other)
                        || is_told_by_file(&command))
            };
            command.nth = 1 + commands.iter().filter(may_be_same).map(|other| other.nth).max().unwrap_or(0);
            commands.push(command);
        }
        if commands.is_empty() {
            return Err(MappingError::Empty { path: map.path });
        }
        let identity = raw.identity.as_ref().or(raw.group.as_ref());
        let Some(placed) = identity else { return Err(MappingError::NoIdentity { path: map.path }) };
        let identity = Identity::read(placed, &columns).map_err(|error| map.at(error))?;
        if file.name().is_none() && identity == Identity::FileAndContent {
            return Err(map.fault(placed.span(), IdentityError::NoName));
        }
        let mut mapping = Self {
            name: raw.name.get_ref().clone(),
            context: raw.context.get_ref().clone(),
            commands,
            units: Arc::new(units),
            identities: Identities::new(identity),
            changed: raw.changed,
            slugs: RefCell::default(),
        };
        mapping.check_identities(&map, file)?;
        Ok(mapping)
    }

    /// Refuses a file in which two rows have the same identity: the second of them would be taken for known. Rows with equal contents are told
    /// apart by their order instead.
    fn check_identities(&mut self, map: &MapFile, file: &RowsFile) -> Result<(), MappingError> {
        let keep = |source| MappingError::Keep { path: file.path().to_owned(), source };
        let (mut identities, mut contents) = (Repeated::default(), Repeated::default());
        let mut groups = Repeated::default();
        let guessed = file.guessed_encoding();
        for unit in self.units(file)? {
            let unit = unit?;
            let Some(first) = unit.rows.first().filter(|_| unit.fate != Fate::Skipped) else { continue };
            if let Some(group) = unit.group {
                groups.add(group, first.line).map_err(keep)?;
            }
            let given = first.identity.as_ref().map(|given| digest("given", [given.as_str()]));
            if let Some(encoding) = guessed.as_ref().filter(|_| self.is_told_by_letters(&unit)) {
                let (line, encoding) = (first.line, encoding.clone());
                let (path, file) = (map.path.clone(), file.path().to_owned());
                return Err(MappingError::Guessed { path, file, line, encoding });
            }
            match (given, self.identities.base(&self.row(&unit, "", ""))) {
                (Some(given), _) => identities.add(given, first.line).map_err(keep)?,
                (None, Ok(base)) if self.identities.are_of_columns() => {
                    let given = digest("given", [hexadecimal(&base).as_str()]);
                    identities.add(given, first.line).map_err(keep)?;
                }
                (None, Ok(base)) => contents.add(base, first.line).map_err(keep)?,
                (None, Err(_)) => {}
            }
        }
        contents.find(|content, _, _| self.identities.repeat(content)).map_err(keep)?;
        let (path, file) = (map.path.clone(), file.path().to_owned());
        if let Some((first, second, others)) = first_repeated(groups, ", nor do").map_err(keep)? {
            return Err(MappingError::GroupApart { path, file, first, second, others });
        }
        match first_repeated(identities, ", and so have").map_err(keep)? {
            Some((first, second, others)) => {
                Err(MappingError::SameIdentity { path, file, first, second, others })
            }
            None => Ok(()),
        }
    }

    /// Whether what tells a unit or its rows from others holds letters that depend on how the file is read.
    fn is_told_by_letters(&self, unit: &Unit) -> bool {
        let row = self.row(unit, "", "");
        let mut each = self.commands.iter().filter_map(|template| template.each.as_ref());
        self.identities.has_foreign_letters(&row)
            || self.units.has_foreign_letters(&row)
            || each.any(|each| row.each().any(|row| each.has_foreign_letters(&row)))
    }

    fn row<'a>(&'a self, unit: &'a Unit, hash: &'a str, identity: &'a str) -> Row<'a> {
        Row { rows: &unit.rows, hash, identity, slugs: &self.slugs }
    }

    /// What it is called, which is part of its commands' ids.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What is done with rows that were imported before with other content.
    pub(crate) fn changed(&self) -> Changed {
        self.changed
    }

    /// Its commands, each with what it is for.
    pub(crate) fn commands_told(&self) -> Vec<String> {
        let one = |template: &CommandTemplate| {
            let CommandTemplate { aggregate, command, each, when, once, .. } = template;
            let command = command.constant().unwrap_or("a command that the file names");
            let of = if self.units.are_groups() && each.is_none() { "each group" } else { "each row" };
            let when = if when.is_some() { ", where its condition holds" } else { "" };
            let once = if *once { ", once while it stays equal" } else { "" };
            format!("{}.{aggregate}: {command}, for {of}{when}{once}", self.context)
        };
        self.commands.iter().map(one).collect()
    }

    /// What becomes commands: rows, or groups of them.
    ///
    /// # Errors
    /// [`InputError`] when the file has changed.
    pub(crate) fn units<'a>(
        &self,
        file: &'a RowsFile,
    ) -> Result<impl Iterator<Item = Result<Unit, InputError>> + use<'a>, InputError> {
        let rows = file.rows()?;
        Ok(Units::of(Arc::clone(&self.units), file.path().to_owned(), rows))
    }

    /// Notes in the rows of a group what tells them apart, so that rejects keep it. Rows of rejects have it.
    pub(crate) fn note_keys(&self, rows: &mut [SourceRow]) {
        for row in rows.iter_mut().filter(|row| row.keys.is_empty()) {
            let each = self.commands.iter().filter_map(|template| template.each.as_ref());
            let bare = |each: &Each| each.key(&Row::bare(std::slice::from_ref(row), &self.slugs)).ok();
            row.keys = each.map(bare).collect();
        }
    }

    /// Whether two equal rows are two if their files have different names.
    pub(crate) fn tells_files_apart(&self) -> bool {
        self.identities.are_of_files()
    }

    /// The commands of the next unit: all of them or none.
    pub(crate) fn map(&mut self, unit: &Unit) -> MappedRow {
        let hash = content_hash(&unit.rows);
        let taken = unit.rows.iter().flat_map(|row| &row.taken);
        taken.for_each(|taken| taken.note(self.slugs.get_mut()));
        let given = unit.rows.first().and_then(|row| row.identity.clone());
        let row = Row { rows: &unit.rows, hash: &hash, identity: "", slugs: &self.slugs };
        let identity = match given {
            Some(given) => Ok(given),
            None => self.identities.of(&row),
        };
        match (&unit.fate, identity) {
            (Fate::Refused(refusal), identity) => {
                MappedRow { identity: identity.ok(), commands: Err(refusal.clone()) }
            }
            (_, Ok(identity)) => {
                let commands = self.commands(&self.row(unit, &hash, &identity));
                MappedRow { identity: Some(identity), commands }
            }
            (_, Err(error)) => MappedRow { identity: None, commands: Err(error.into()) },
        }
    }

    fn commands(&self, row: &Row<'_>) -> Result<Vec<RowCommand>, RowRefusal> {
        let (mut commands, mut nth_each) = (Vec::new(), 0);
        for template in &self.commands {
            if let Some(each) = &template.each {
                let mut seen = HashMap::new();
                for (index, source) in (0..).zip(row.rows) {
                    let rows = std::slice::from_ref(source);
                    if !template.is_given(&Row { rows, ..*row })? {
                        continue;
                    }
                    let key = match source.keys.get(nth_each) {
                        Some(Some(key)) => *key,
                        _ => each.key(&Row { rows, ..*row })?,
                    };
                    let key = hexadecimal(&each.told_apart(key, source.line, template.once, &mut seen)?);
                    // `{hash}` and `{identity}` are those of the row, not of its group: rows of one group may use them as names.
                    let (hash, identity) =
                        (content_hash(rows), hexadecimal(&digest(row.identity, [key.as_str()])));
                    let of_row = Row { rows, hash: &hash, identity: &identity, ..*row };
                    let id = (row.identity, format!("/{key}"));
                    let command = template.command(&self.name, &self.context, &of_row, &id)?;
                    commands.push(RowCommand { of_row: Some(index), ..command });
                }
                nth_each += 1;
            } else if template.is_given(row)? {
                let id = (row.identity, String::new());
                commands.push(template.command(&self.name, &self.context, row, &id)?);
            }
        }
        if commands.is_empty() {
            let reason =
                "the condition of no command holds for it; give it a command, or a condition under [[skip]]";
            return Err(RowRefusal::new("no-command", reason));
        }
        Ok(commands)
    }
}

impl CommandTemplate {
    fn read(
        raw: &RawCommand,
        context: &Spanned<String>,
        columns: &Columns,
        known: &AggregateRegistry,
        map: &MapFile,
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
            aggregate: raw.aggregate.get_ref().clone(),
            id: parse_text(&raw.id, columns).map_err(|error| map.at(error))?,
            command,
            once: raw.once,
            each: raw
                .each
                .as_ref()
                .map(|each| Each::read(each, columns))
                .transpose()
                .map_err(|error| map.at(error))?,
            when: raw
                .when
                .as_ref()
                .map(|when| Condition::parse(when, columns))
                .transpose()
                .map_err(|error| map.at(error))?,
            body: Template::parse(&raw.body, columns).map_err(|error| map.at(error))?,
            nth: 1,
        })
    }

    /// Whether the map gives the command for a row.
    fn is_given(&self, row: &Row<'_>) -> Result<bool, RowError> {
        self.when.as_ref().map_or(Ok(true), |when| when.holds(row))
    }

    /// The command for a row, with the identity of its id, and what ends the id of one that is given for each row of a group.
    fn command(
        &self,
        name: &str,
        context: &str,
        row: &Row<'_>,
        (identity, of_group): &(&str, String),
    ) -> Result<RowCommand, RowRefusal> {
        let id = self.id.render(row)?;
        let command = self.command.render(row)?;
        let address = CommandAddress::new(context, &self.aggregate, &id, &command).map_err(|error| {
            let reason = format!("{}: {error}", self.id.origin());
            RowRefusal::new("subject-not-allowed", reason)
        })?;
        let body = self.body.render(row)?.unwrap_or(serde_json::Value::Null);
        let body = Bytes::from(body.to_string());
        self.check(&address, &body)?;
        let mut part = format!("{}.{command}", self.aggregate);
        if part.len() > PART_LENGTH_MAX {
            part = hexadecimal(&digest(&self.aggregate, [command.as_str()]));
        }
        let nth = if self.nth > 1 { format!(".{}", self.nth) } else { String::new() };
        let id = format!("{name}:{identity}:{part}{nth}{of_group}");
        let command = OutgoingCommand { origin: Origin::Sender, address, id, body, headers: Headers::new() };
        Ok(RowCommand { once: self.once, of_row: None, command })
    }

    /// Refuses what the command's type would: nothing of the row is sent then.
    fn check(&self, address: &CommandAddress, body: &Bytes) -> Result<(), RowRefusal> {
        let refused = |code: &str, reason: String| Err(RowRefusal::new(code, format!("{address}: {reason}")));
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

/// The two lines with which the first hash comes a second time, and what is to be said of others.
fn first_repeated(all: Repeated, more: &str) -> io::Result<Option<(u64, u64, String)>> {
    let (mut first_found, mut count) = (None::<(u64, u64)>, 0_u64);
    all.find(|_, first, second| {
        count += 1;
        if first_found.is_none_or(|(_, earlier)| second < earlier) {
            first_found = Some((first, second));
        }
    })?;
    let others = if count > 1 { format!("{} {} more", more, count - 1) } else { String::new() };
    Ok(first_found.map(|(first, second)| (first, second, others)))
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
fn content_hash(rows: &[SourceRow]) -> String {
    let mut bytes = Vec::new();
    for field in rows.iter().flat_map(|row| &row.record) {
        bytes.extend_from_slice(field.as_bytes());
        bytes.push(0);
    }
    hexadecimal(commit_hash(&bytes).get(..HASH_LENGTH).unwrap_or_default())
}

#[cfg(test)]
mod tests;
