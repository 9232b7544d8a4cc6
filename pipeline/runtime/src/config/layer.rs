//! One layer of values by `section.key`: the content of a file, of variables, of flags or of a natscli context, before types are checked.

use std::collections::BTreeMap;
use std::path::Path;

use millstream_contract::error_text::plain_decoder_text;
use toml::de::{DeTable, DeValue};

use super::entry::Source;

/// The prefix of Millstream's variables; a double underscore separates section and key. A variable without a double underscore is ignored,
/// because Kubernetes makes such variables for every service.
const VARIABLE_PREFIX: &str = "MILLSTREAM_";

/// A value before its key's type is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// From a variable or flag: text that may also stand for a number, a truth value or a list.
    Word(String),
    /// Text.
    Text(String),
    /// A number.
    Integer(i64),
    /// A truth value.
    Boolean(bool),
    /// Texts.
    List(Vec<String>),
    /// A value of a kind that no key accepts, by its TOML name.
    Other(&'static str),
}

impl Value {
    /// The name of its kind for a message.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Word(_) | Self::Text(_) => "a text",
            Self::Integer(_) => "a number",
            Self::Boolean(_) => "true or false",
            Self::List(_) => "a list",
            Self::Other(name) => name,
        }
    }

    fn from_toml(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Self::Text(text.to_string()),
            DeValue::Boolean(value) => Self::Boolean(*value),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map_or(Self::Other("a number beyond 64 bits"), Self::Integer),
            DeValue::Array(items) => {
                let text = |item: &toml::Spanned<DeValue<'_>>| item.get_ref().as_str().map(str::to_owned);
                match items.iter().map(text).collect() {
                    Some(texts) => Self::List(texts),
                    None => Self::Other("a list of something else than texts"),
                }
            }
            DeValue::Float(_) => Self::Other("a number with a point"),
            DeValue::Datetime(_) => Self::Other("a date or time"),
            DeValue::Table(_) => Self::Other("a table"),
        }
    }
}

/// Values by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Layer {
    /// Each value with its origin.
    pub(crate) values: BTreeMap<String, (Value, Source)>,
}

impl Layer {
    /// Parses a TOML file's text.
    ///
    /// # Errors
    /// A sentence with file and line.
    pub(super) fn from_toml(path: &Path, text: &str) -> Result<Self, String> {
        let line_of = |offset: usize| 1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count();
        let root = DeTable::parse(text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_of(span.start));
            format!(
                "{}:{line}: not TOML: {}",
                path.display(),
                plain_decoder_text(error.message()).replace('\n', " ")
            )
        })?;
        let mut values = BTreeMap::new();
        let mut place = |key: String, value: Value, offset: usize| {
            let source = Source::File { path: path.to_owned(), line: line_of(offset) };
            values.insert(key, (value, source));
        };
        for (section, content) in root.get_ref() {
            let name = section.get_ref();
            match content.get_ref().as_table() {
                Some(table) => {
                    for (key, value) in table {
                        let full = format!("{name}.{}", key.get_ref());
                        place(full, Value::from_toml(value.get_ref()), key.span().start);
                    }
                }
                None => {
                    place(name.to_string(), Value::from_toml(content.get_ref()), section.span().start);
                }
            }
        }
        Ok(Self { values })
    }

    /// Takes Millstream's variables from the environment.
    pub(super) fn from_variables(environment: &BTreeMap<String, String>) -> Self {
        let values = environment
            .iter()
            .filter_map(|(name, value)| {
                let (section, key) = name.strip_prefix(VARIABLE_PREFIX)?.split_once("__")?;
                let key = format!("{}.{}", section.to_lowercase(), key.to_lowercase());
                Some((key, (Value::Word(value.clone()), Source::Variable(name.clone()))))
            })
            .collect();
        Self { values }
    }

    /// Parses `section.key=value` flags; a later one wins.
    ///
    /// # Errors
    /// A sentence for each flag that does not have this form.
    pub(super) fn from_settings(settings: &[String]) -> (Self, Vec<String>) {
        let mut layer = Self::default();
        let mut problems = Vec::new();
        for setting in settings {
            match setting.split_once('=') {
                Some((key, value)) if key.contains('.') => {
                    let source = Source::Flag(format!("--set {key}"));
                    layer.values.insert(key.trim().to_owned(), (Value::Word(value.to_owned()), source));
                }
                _ => problems.push(format!("--set {setting}: write --set section.key=value")),
            }
        }
        (layer, problems)
    }
}
