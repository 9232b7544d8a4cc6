//! A resolved key, and the listing of all keys for `--dump-config`.

use std::fmt;
use std::path::PathBuf;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Built in.
    Default,
    /// A line of the TOML file.
    File {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
    },
    /// A variable.
    Variable(String),
    /// A flag of the command line.
    Flag(String),
    /// A natscli context.
    Context(String),
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::File { path, line } => write!(formatter, "{}:{line}", path.display()),
            Self::Variable(name) => write!(formatter, "variable {name}"),
            Self::Flag(flag) => write!(formatter, "flag {flag}"),
            Self::Context(name) => write!(formatter, "nats context {name}"),
        }
    }
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its full name, `section.key`.
    pub key: String,
    /// The topic of its section.
    pub about: &'static str,
    /// Its value as TOML; `None` if it is not set and has no default. A secret is never here, only its file.
    pub value: Option<String>,
    /// Its default as TOML.
    pub default: Option<String>,
    /// The origin of the value.
    pub source: Source,
    /// The purpose of the key.
    pub help: &'static str,
}

/// Lists entries as TOML, each with its source as a comment.
pub(super) fn dump(entries: &[Entry]) -> String {
    let line = |entry: &Entry| match &entry.value {
        Some(value) => format!("{} = {value}", entry.key),
        None => format!("# {} is not set", entry.key),
    };
    let lines: Vec<(String, &Source)> = entries.iter().map(|entry| (line(entry), &entry.source)).collect();
    let width = lines.iter().map(|(text, _)| text.chars().count()).max().unwrap_or(0);
    lines.iter().map(|(text, source)| format!("{text:width$}  # {source}\n")).collect()
}
