//! The text of a map, read from TOML: what stands where, before it is compared with a file and with the application.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use millstream_contract::exit_code::{ExitCode, Failure};
use serde::Deserialize;
use toml::Spanned;

use super::{
    condition::ConditionError,
    file_form::{FILE_KEYS, FileForm, FormError},
    filter::Table,
    identity::{CHOICES, IdentityError},
    input::{self, InputError},
    join::{Join, JoinError},
    letters::composed,
    map_check::BodyError,
    node::{self, At, Node, Placed},
    template::{TemplateError, parse_text},
    text::{Columns, Text},
    units::UnitsError,
};

/// What the file says, as TOML.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMapping {
    /// Part of the ids of its commands: two mappings of one file are two imports.
    pub(super) name: Spanned<String>,
    pub(super) context: Spanned<String>,
    pub(super) identity: Option<Placed>,
    /// What is done with rows that were imported before with other content.
    #[serde(default)]
    pub(super) changed: Changed,
    pub(super) file: Option<Placed>,
    pub(super) fill: Option<Placed>,
    pub(super) skip: Option<Placed>,
    pub(super) group: Option<Placed>,
    pub(super) value: Option<Placed>,
    pub(super) table: Option<Placed>,
    pub(super) join: Option<Placed>,
    #[serde(default)]
    pub(super) command: Vec<RawCommand>,
}

/// What is done with a row that was imported before and says something else now. What it said then stands in any case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Changed {
    /// It is refused, so that somebody looks.
    #[default]
    Refuse,
    /// It counts as known.
    Keep,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCommand {
    pub(super) aggregate: Spanned<String>,
    pub(super) id: Placed,
    pub(super) command: Placed,
    /// Left out where the command before it to the same aggregate was equal.
    #[serde(default)]
    pub(super) once: bool,
    /// For each row of a group, and what tells these apart.
    pub(super) each: Option<Placed>,
    pub(super) when: Option<Placed>,
    pub(super) body: Placed,
}

/// A mistake of a map.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MapFault {
    #[error("the ids of all commands begin with the name {name:?}, which {rule}; choose another")]
    Name { name: String, rule: &'static str },
    #[error("there is no aggregate {context}.{aggregate}; there are {known}")]
    Aggregate { context: String, aggregate: String, known: String },
    #[error("{context}.{aggregate} has no command {command}; it has {known}")]
    Command { context: String, aggregate: String, command: String, known: String },
    #[error("only processes and timers may give {command}")]
    Internal { command: String },
    #[error("{name} is called as something else that a text may hold; choose another name")]
    ValueName { name: String },
    #[error("{found} is no value; write a text, or {{ first = [\"{{a}}\", \"{{b}}\"] }} of texts")]
    Value { found: String },
    #[error(
        "{found} is no table of texts; write [table.name], and \"what the file says\" = \"what the command says\" below it"
    )]
    TableOfTexts { found: String },
    #[error("a date stands in quotes")]
    Date,
    #[error(transparent)]
    Form(#[from] FormError),
    #[error(transparent)]
    Units(#[from] UnitsError),
    #[error(transparent)]
    Condition(#[from] ConditionError),
    #[error(transparent)]
    Join(#[from] JoinError),
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
        "a list of the rows of {path} cannot be kept in a temporary file; name another folder with TMPDIR"
    )]
    Keep { path: PathBuf, source: std::io::Error },
    #[error(
        "{path}: the rows of lines {first} and {second} of {file} have the same identity{others}; name columns under identity that tell \
         all rows apart"
    )]
    SameIdentity { path: PathBuf, file: PathBuf, first: u64, second: u64, others: String },
    #[error(
        "{path}: line {line} of {file} is told from other rows by letters that are no ASCII, and how they are written was guessed as \
         {encoding}; another file may be read in another way: write encoding = {encoding:?} under [file], or the one that it has"
    )]
    Guessed { path: PathBuf, file: PathBuf, line: u64, encoding: String },
    #[error(
        "{path}: the rows of lines {first} and {second} of {file} are of one group, but do not follow each other{others}; sort the file, so that \
         the rows of a group do"
    )]
    GroupApart { path: PathBuf, file: PathBuf, first: u64, second: u64, others: String },
}

impl Failure for MappingError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Input(error) => error.exit_code(),
            Self::Keep { source, .. } => ExitCode::of_file_error(source),
            Self::SameIdentity { .. } | Self::GroupApart { .. } => ExitCode::Data,
            Self::Form { .. }
            | Self::Fault { .. }
            | Self::Guessed { .. }
            | Self::Empty { .. }
            | Self::NoIdentity { .. } => ExitCode::Configuration,
        }
    }
}

/// A map, read and not yet compared with a file.
#[derive(Debug)]
pub(crate) struct MapFile {
    pub(super) path: PathBuf,
    text: String,
    pub(super) raw: RawMapping,
    pub(super) form: FileForm,
}

impl MapFile {
    /// Reads it.
    ///
    /// # Errors
    /// [`MappingError`] naming the place.
    pub(crate) fn read(path: &Path) -> Result<Self, MappingError> {
        let text = composed(&input::text(path)?).into_owned();
        let raw: RawMapping = toml::from_str(&text).map_err(|error| match node::date_in(&error) {
            Some(span) => fault(path, &text, span, MapFault::Date),
            None => MappingError::Form { path: path.to_owned(), source: Box::new(error) },
        })?;
        let form = match &raw.file {
            Some(form) => FileForm::parse(form, &FILE_KEYS)
                .map_err(|error| fault(path, &text, error.span, error.what.into()))?,
            None => FileForm::default(),
        };
        Ok(Self { path: path.to_owned(), text, raw, form })
    }

    /// How the file is written, as far as the map says it.
    pub(crate) fn form(&self) -> &FileForm {
        &self.form
    }

    pub(super) fn fault(&self, span: Range<usize>, what: impl Into<MapFault>) -> MappingError {
        fault(&self.path, &self.text, span, what.into())
    }

    pub(super) fn at<E: Into<MapFault>>(&self, error: At<E>) -> MappingError {
        self.fault(error.span, error.what)
    }

    /// What the texts of the map may hold, for a file of this header.
    pub(super) fn columns(&self, header: &csv::StringRecord) -> Result<Columns, MappingError> {
        let mut columns = Columns::new(header);
        columns.numbers = self.form.numbers;
        columns.zone = self.form.zone.clone();
        for (name, table) in self.entries(self.raw.table.as_ref())? {
            let Node::Table(fields) = table.get_ref() else {
                let found = table.get_ref().to_string();
                return Err(self.fault(table.span(), MapFault::TableOfTexts { found }));
            };
            let mut entries = BTreeMap::new();
            for (from, to) in fields {
                let Some(text) = to.get_ref().text() else {
                    let found = to.get_ref().to_string();
                    return Err(self.fault(to.span(), MapFault::TableOfTexts { found }));
                };
                entries.insert(from.get_ref().clone(), text.to_owned());
            }
            columns.tables.push(Arc::new(Table { name: name.get_ref().clone(), entries }));
        }
        let folder = self.path.parent().unwrap_or(Path::new("."));
        for (name, join) in self.entries(self.raw.join.as_ref())? {
            let join = Join::read(name.get_ref(), join, folder, &columns).map_err(|error| self.at(error))?;
            columns.joins.push(Arc::new(join));
        }
        for (name, value) in self.entries(self.raw.value.as_ref())? {
            if columns.index(name.get_ref()).is_some()
                || Text::parse(&format!("{{{}}}", name.get_ref()), &columns).is_ok()
            {
                let fault = MapFault::ValueName { name: name.get_ref().clone() };
                return Err(self.fault(name.span(), fault));
            }
            let texts = self.value(value, &columns)?;
            columns.values.insert(name.get_ref().clone(), Arc::new(texts));
        }
        Ok(columns)
    }

    fn value(&self, value: &Placed, columns: &Columns) -> Result<Vec<Text>, MappingError> {
        let text = |text: &Placed| parse_text(text, columns).map_err(|error| self.at(error));
        match (value.get_ref(), value.get_ref().get("first").map(|first| first.get_ref())) {
            (Node::Text(_), _) => Ok(vec![text(value)?]),
            (Node::Table(fields), Some(Node::List(items))) if fields.len() == 1 && !items.is_empty() => {
                items.iter().map(text).collect()
            }
            (found, _) => Err(self.fault(value.span(), MapFault::Value { found: found.to_string() })),
        }
    }

    /// The entries of a table in the order in which they stand in the map: later ones may use those before them.
    fn entries<'a>(
        &self,
        table: Option<&'a Placed>,
    ) -> Result<Vec<&'a (Spanned<String>, Placed)>, MappingError> {
        let Some(table) = table else { return Ok(Vec::new()) };
        let Node::Table(fields) = table.get_ref() else {
            let found = table.get_ref().to_string();
            return Err(self.fault(table.span(), FormError::Table { found }));
        };
        let mut fields: Vec<_> = fields.iter().collect();
        fields.sort_by_key(|(name, _)| name.span().start);
        Ok(fields)
    }
}

fn fault(path: &Path, text: &str, span: Range<usize>, fault: MapFault) -> MappingError {
    let before = text.get(..span.start).unwrap_or_default();
    let line = 1 + before.matches('\n').count();
    let column = 1 + before.rsplit('\n').next().unwrap_or_default().chars().count();
    MappingError::Fault { path: path.to_owned(), line, column, fault: Box::new(fault) }
}
