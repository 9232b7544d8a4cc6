//! Resolves keys against the layers. Each read declares a key once: its name, type, default and purpose.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use jiff::tz::TimeZone;
use millstream_contract::near_name::near_name;

use super::entry::{Entry, Source};
use super::layer::{Layer, Value};
use super::units::{format_bytes, format_duration, parse_bytes, parse_duration};
use super::{ConfigError, Origins, Section};

/// All layers, and what was found so far.
#[derive(Debug)]
pub(super) struct Keys {
    /// The lowest layer first.
    layers: Vec<Layer>,
    environment: BTreeMap<String, String>,
    entries: Vec<Entry>,
    sections: BTreeSet<&'static str>,
    /// Keys that no longer exist, and why.
    removed: BTreeMap<String, &'static str>,
    problems: Vec<String>,
}

impl Keys {
    /// Reads the file and sorts variables and flags into layers.
    pub(super) fn new(origins: &Origins) -> Self {
        let mut problems = Vec::new();
        let mut layers = Vec::new();
        if let Some(path) = &origins.file {
            match std::fs::read_to_string(path) {
                Ok(text) => match Layer::from_toml(path, &text) {
                    Ok(layer) => layers.push(layer),
                    Err(problem) => problems.push(problem),
                },
                Err(error) => problems.push(format!("--config {}: cannot be read: {error}", path.display())),
            }
        }
        layers.push(Layer::from_variables(&origins.environment));
        let (flags, wrong_flags) = Layer::from_settings(&origins.settings);
        problems.extend(wrong_flags);
        layers.push(flags);
        Self {
            layers,
            environment: origins.environment.clone(),
            entries: Vec::new(),
            sections: BTreeSet::new(),
            removed: BTreeMap::new(),
            problems,
        }
    }

    /// Reads one section.
    pub(super) fn section<S: Section>(&mut self) -> S {
        self.sections.insert(S::NAME);
        S::read(&mut SectionKeys { keys: self, section: S::NAME, about: S::ABOUT })
    }

    /// Reads a part of a section whose other parts are read elsewhere.
    pub(super) fn part<T>(
        mut self,
        section: &'static str,
        read: impl FnOnce(&mut SectionKeys<'_>) -> T,
    ) -> Result<T, ConfigError> {
        let part = read(&mut SectionKeys { keys: &mut self, section, about: "" });
        if self.problems.is_empty() { Ok(part) } else { Err(ConfigError { problems: self.problems }) }
    }

    /// Refuses keys that no section has asked for, and reports all problems together.
    pub(super) fn finish(mut self) -> Result<Vec<Entry>, ConfigError> {
        let known: BTreeSet<&str> = self.entries.iter().map(|entry| entry.key.as_str()).collect();
        let mut unknown = Vec::new();
        for (key, (_, source)) in self.layers.iter().flat_map(|layer| &layer.values) {
            if !known.contains(key.as_str()) && !self.concerns_others(key, source) {
                unknown.push(match self.removed.get(key) {
                    Some(why) => format!("{source}: key `{key}` was removed: {why}"),
                    None => format!("{source}: unknown key `{key}`; {}", suggestion(key, &known)),
                });
            }
        }
        self.problems.extend(unknown);
        if self.problems.is_empty() { Ok(self.entries) } else { Err(ConfigError { problems: self.problems }) }
    }

    /// Variables are often set for several processes at once, so a known section that this process does not read is not a mistake.
    fn concerns_others(&self, key: &str, source: &Source) -> bool {
        let section = key.split_once('.').map_or(key, |(section, _)| section);
        matches!(source, Source::Variable(_))
            && !self.sections.contains(section)
            && SECTIONS.contains(&section)
    }
}

/// The sections of all processes.
const SECTIONS: [&str; 9] = [
    "process",
    "nats",
    "telemetry",
    "shutdown",
    "command_handler",
    "projector",
    "reporter",
    "process_manager",
    "gateway",
];

fn suggestion(key: &str, known: &BTreeSet<&str>) -> String {
    match near_name(key, known.iter().copied()) {
        Some(candidate) => format!("did you mean `{candidate}`?"),
        None => "remove it, or see --dump-config for the keys there are".to_owned(),
    }
}

/// The keys of one section. Each method resolves one key. A problem is noted, and the method returns the default.
#[derive(Debug)]
pub struct SectionKeys<'a> {
    keys: &'a mut Keys,
    section: &'static str,
    about: &'static str,
}

impl SectionKeys<'_> {
    /// Names a key that no longer exists. If it is still set, `why` tells the reason and what to do.
    pub fn removed(&mut self, key: &str, why: &'static str) {
        self.keys.removed.insert(format!("{}.{key}", self.section), why);
    }

    /// The environment of the process, for settings with variables of their own.
    #[must_use]
    pub fn environment(&self) -> &BTreeMap<String, String> {
        &self.keys.environment
    }

    /// Whether a key of this section has been read.
    pub(super) fn has_read(&self, name: &str) -> bool {
        let key = self.full(name);
        self.keys.entries.iter().any(|entry| entry.key == key)
    }

    /// All layers, lowest first.
    pub(crate) fn layers(&mut self) -> &mut Vec<Layer> {
        &mut self.keys.layers
    }

    /// Lists a secret without showing its value.
    pub(crate) fn hidden_entry(&mut self, name: &str, source: Source) {
        let value = Some(quoted("(hidden)"));
        let help = "a secret of natscli's";
        let (key, about) = (self.full(name), self.about);
        self.keys.entries.push(Entry { key, about, value, default: None, source, help });
    }

    /// The text that was read for a key of this section; `None` if nobody has declared the key.
    #[must_use]
    pub fn text_read(&self, name: &str) -> Option<&str> {
        let key = self.full(name);
        let entry = self.keys.entries.iter().find(|entry| entry.key == key)?;
        Some(entry.value.as_deref()?.trim_matches('"'))
    }

    /// The winning value and its origin for a key of this section, before its type is checked.
    pub(crate) fn resolve(&self, name: &str) -> Option<(Value, Source)> {
        let key = self.full(name);
        self.keys.layers.iter().rev().find_map(|layer| layer.values.get(&key)).cloned()
    }

    /// Notes a problem with a key: `rule` completes the sentence "`section.key` …".
    pub fn problem(&mut self, name: &str, rule: impl Display) {
        let key = self.full(name);
        let place = match self.resolve(name) {
            Some((_, source)) => source.to_string(),
            None => "default".to_owned(),
        };
        self.keys.problems.push(format!("{place}: `{key}` {rule}"));
    }

    /// Notes a problem that does not belong to a single key.
    pub fn general_problem(&mut self, sentence: impl Display) {
        self.keys.problems.push(sentence.to_string());
    }

    /// Text.
    pub fn text(&mut self, name: &str, default: &str, help: &'static str) -> String {
        self.read(name, Some(default.to_owned()), help, as_text, |text| quoted(text)).unwrap_or_default()
    }

    /// Text that may be absent. An empty text counts as absent.
    pub fn optional_text(&mut self, name: &str, help: &'static str) -> Option<String> {
        self.read(name, None, help, as_text, |text| quoted(text)).filter(|text| !text.is_empty())
    }

    /// A time zone by its name, such as Europe/Berlin. An unknown name is noted as a problem, and UTC is returned.
    pub fn time_zone(&mut self, name: &str, default: &str, help: &'static str) -> TimeZone {
        let text = self.text(name, default, help);
        self.time_zone_named(name, &text)
    }

    /// The time zone `text`, the value of the key `name`. An unknown name is noted as a problem, and UTC is returned.
    pub fn time_zone_named(&mut self, name: &str, text: &str) -> TimeZone {
        TimeZone::get(text).unwrap_or_else(|_| {
            self.problem(name, format!("names time zone {text:?}; use a name such as Europe/Berlin or UTC"));
            TimeZone::UTC
        })
    }

    /// A file or folder. A leading `~` is the home directory; a relative path starts at the working directory.
    pub fn path(&mut self, name: &str, default: &str, help: &'static str) -> PathBuf {
        let text = self.text(name, default, help);
        self.expand_home(&text)
    }

    /// A file or folder that may be absent.
    pub fn optional_path(&mut self, name: &str, help: &'static str) -> Option<PathBuf> {
        let text = self.optional_text(name, help)?;
        Some(self.expand_home(&text))
    }

    /// True or false.
    pub fn flag(&mut self, name: &str, default: bool, help: &'static str) -> bool {
        self.read(name, Some(default), help, as_boolean, ToString::to_string).unwrap_or(default)
    }

    /// A whole number within a range.
    pub fn number(
        &mut self,
        name: &str,
        default: u64,
        range: RangeInclusive<u64>,
        help: &'static str,
    ) -> u64 {
        let parse = |value: &Value| {
            let number = as_number(value)?;
            if range.contains(&number) {
                return Ok(number);
            }
            Err(format!("is {number}; it takes {} to {}", range.start(), range.end()))
        };
        self.read(name, Some(default), help, parse, ToString::to_string).unwrap_or(default)
    }

    /// A count of at least one.
    pub fn count(&mut self, name: &str, default: NonZeroUsize, help: &'static str) -> NonZeroUsize {
        let parse = |value: &Value| {
            let number = usize::try_from(as_number(value)?).map_err(|_| "is too large".to_owned())?;
            NonZeroUsize::new(number).ok_or_else(|| "is 0; it takes 1 or more".to_owned())
        };
        self.read(name, Some(default), help, parse, ToString::to_string).unwrap_or(default)
    }

    /// A duration; zero is allowed.
    pub fn duration(&mut self, name: &str, default: Duration, help: &'static str) -> Duration {
        let parse = |value: &Value| match value {
            Value::Text(text) | Value::Word(text) => {
                parse_duration(text).map_err(|error| format!("is wrong: {error}"))
            }
            other => Err(format!("is {}; it takes a duration such as \"3s\"", other.kind())),
        };
        let show = |duration: &Duration| quoted(&format_duration(*duration));
        self.read(name, Some(default), help, parse, show).unwrap_or(default)
    }

    /// A duration above zero.
    pub fn positive_duration(&mut self, name: &str, default: Duration, help: &'static str) -> Duration {
        let duration = self.duration(name, default, help);
        if duration.is_zero() {
            self.problem(name, "is 0; it takes a duration above zero, such as \"3s\"");
        }
        duration
    }

    /// A size in bytes.
    pub fn bytes(&mut self, name: &str, default: u64, help: &'static str) -> u64 {
        let parse = |value: &Value| match value {
            Value::Text(text) | Value::Word(text) => {
                parse_bytes(text).map_err(|error| format!("is wrong: {error}"))
            }
            other => as_number(other),
        };
        self.read(name, Some(default), help, parse, |bytes| quoted(&format_bytes(*bytes))).unwrap_or(default)
    }

    /// A size in bytes, or `auto`, which is `None`: the size then depends on the memory that the process may use ([`crate::memory_limit`]).
    pub fn memory(&mut self, name: &str, help: &'static str) -> Option<u64> {
        const AUTO: &str = "auto";
        let parse = |value: &Value| match value {
            Value::Text(text) | Value::Word(text) if text == AUTO => Ok(None),
            Value::Text(text) | Value::Word(text) => {
                parse_bytes(text).map(Some).map_err(|error| format!("is wrong: {error}, or \"{AUTO}\""))
            }
            other => as_number(other).map(Some),
        };
        let show = |bytes: &Option<u64>| quoted(&bytes.map_or_else(|| AUTO.to_owned(), format_bytes));
        self.read(name, Some(None), help, parse, show).flatten()
    }

    /// Several texts: a list in TOML, separated by commas elsewhere.
    pub fn list(&mut self, name: &str, default: &[&str], help: &'static str) -> Vec<String> {
        let default = default.iter().map(|item| (*item).to_owned()).collect();
        let show = |items: &Vec<String>| {
            format!("[{}]", items.iter().map(|item| quoted(item)).collect::<Vec<_>>().join(", "))
        };
        self.read(name, Some(default), help, as_list, show).unwrap_or_default()
    }

    /// One of several words.
    pub fn choice<T: Clone>(
        &mut self,
        name: &str,
        choices: &[(&'static str, T)],
        default: &'static str,
        help: &'static str,
    ) -> T {
        let known = |word: &str| choices.iter().find(|(choice, _)| *choice == word);
        let parse = |value: &Value| {
            let word = as_text(value)?;
            let names: Vec<&str> = choices.iter().map(|(choice, _)| *choice).collect();
            known(&word)
                .map(|(choice, _)| *choice)
                .ok_or_else(|| format!("is `{word}`; it takes {}", names.join(" or ")))
        };
        let word = self.read(name, Some(default), help, parse, |word| quoted(word)).unwrap_or(default);
        known(word).map(|(_, value)| value.clone()).expect("the default is one of the choices")
    }

    /// Resolves a key, parses it, and keeps the entry for the listing. `None` if it is not set and has no default.
    fn read<T: Clone>(
        &mut self,
        name: &str,
        default: Option<T>,
        help: &'static str,
        parse: impl Fn(&Value) -> Result<T, String>,
        show: impl Fn(&T) -> String,
    ) -> Option<T> {
        let (value, source) = match self.resolve(name) {
            None => (default.clone(), Source::Default),
            Some((raw, source)) => match parse(&raw) {
                Ok(value) => (Some(value), source),
                Err(rule) => {
                    self.problem(name, rule);
                    (default.clone(), source)
                }
            },
        };
        self.keys.entries.push(Entry {
            key: self.full(name),
            about: self.about,
            value: value.as_ref().map(&show),
            default: default.as_ref().map(&show),
            source,
            help,
        });
        value
    }

    fn full(&self, name: &str) -> String {
        format!("{}.{name}", self.section)
    }

    fn expand_home(&self, text: &str) -> PathBuf {
        expand_home(text, &self.keys.environment)
    }
}

/// Replaces a leading `~/` by the home directory.
pub(crate) fn expand_home(text: &str, environment: &BTreeMap<String, String>) -> PathBuf {
    match (text.strip_prefix("~/"), environment.get("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => PathBuf::from(text),
    }
}

/// A TOML basic string.
pub(crate) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn as_text(value: &Value) -> Result<String, String> {
    match value {
        Value::Text(text) | Value::Word(text) => Ok(text.clone()),
        other => Err(format!("is {}; it takes a text in quotes", other.kind())),
    }
}

fn as_boolean(value: &Value) -> Result<bool, String> {
    match value {
        Value::Boolean(value) => Ok(*value),
        Value::Word(word) if word == "true" => Ok(true),
        Value::Word(word) if word == "false" => Ok(false),
        other => Err(format!("is {}; it takes true or false", other.kind())),
    }
}

fn as_number(value: &Value) -> Result<u64, String> {
    match value {
        Value::Integer(number) => {
            u64::try_from(*number).map_err(|_| format!("is {number}; it takes no negative number"))
        }
        Value::Word(word) => word.parse().map_err(|_| format!("is `{word}`; it takes a whole number")),
        other => Err(format!("is {}; it takes a whole number", other.kind())),
    }
}

fn as_list(value: &Value) -> Result<Vec<String>, String> {
    match value {
        Value::List(items) => Ok(items.clone()),
        Value::Text(text) | Value::Word(text) => {
            Ok(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect())
        }
        other => Err(format!("is {}; it takes a list of texts", other.kind())),
    }
}
