//! Configuration in layers: built-in defaults, natscli's context and `NATS_*`, a TOML file, `MILLSTREAM_<SECTION>__<KEY>` variables, flags. A
//! later layer wins. Every section reads its keys through [`SectionKeys`], which knows each key's value and origin, so that unknown keys, wrong
//! values and missing values are all reported together.
//!
//! Deliberately absent: `${}` in values; secrets in values (they come from files); reading the environment (`main` passes it in); and serde
//! structs beside the validated ones, because serde stops at the first problem and forgets where a value stood.

mod entry;
mod keys;
mod layer;
mod reference;
mod setting_keys;
mod units;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;

use millstream_contract::exit_code::{ExitCode, Failure};

pub use entry::{Entry, Source};
use keys::Keys;
pub use keys::SectionKeys;
pub(crate) use keys::expand_home;
pub(crate) use layer::{Layer, Value};
pub use units::{UnitError, format_bytes, format_duration, parse_bytes, parse_duration};

use crate::{connection::ConnectionSettings, shutdown::ShutdownSettings, telemetry::TelemetrySettings};

/// A group of keys, `[NAME]` in the file, and the validated values they make.
pub trait Section: Sized {
    /// Its name, `lower_snake_case`.
    const NAME: &'static str;

    /// What it is about, one sentence, for the files in `config/` and the docs.
    const ABOUT: &'static str;

    /// Reads and validates its keys. A key that is wrong is noted in `keys` and yields its default: the values are only
    /// used when nothing was noted.
    fn read(keys: &mut SectionKeys<'_>) -> Self;

    /// What is wrong with the files that its keys name and that must be there when the process starts, one sentence each. Asked by
    /// `--check-config` alone: a process that starts reads them itself.
    fn file_problems(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Where configuration comes from, as `main` found it.
#[derive(Debug, Clone, Default)]
pub struct Origins {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// The whole environment of the process.
    pub environment: BTreeMap<String, String>,
    /// `--set section.key=value`, in order, and the flags that stand for one.
    pub settings: Vec<String>,
}

/// Which process this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessSettings {
    /// Tells processes of one stage apart; empty when there is one.
    pub instance: String,
}

impl Section for ProcessSettings {
    const NAME: &'static str = "process";
    const ABOUT: &'static str = "Which process of the stage this is.";

    fn read(keys: &mut SectionKeys<'_>) -> Self {
        let instance = keys.text(
            "instance",
            "",
            "tells processes of one stage apart: part of the names of its connection and its consumers",
        );
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if instance.len() > 64 || !instance.chars().all(allowed) {
            keys.problem("instance", "takes at most 64 of A-Z a-z 0-9 - _");
        }
        Self { instance }
    }
}

/// A validated configuration.
#[derive(Debug, Clone)]
pub struct Config<S> {
    /// Which process this is.
    pub process: ProcessSettings,
    /// The server.
    pub nats: ConnectionSettings,
    /// Logs and the address for health and metrics.
    pub telemetry: TelemetrySettings,
    /// How long ending may take.
    pub shutdown: ShutdownSettings,
    /// What only this stage has.
    pub stage: S,
}

impl<S: Section> Config<S> {
    /// What is wrong with the files that the configuration names, of all sections.
    pub(crate) fn file_problems(&self) -> Vec<String> {
        let Self { process, nats, telemetry, shutdown, stage } = self;
        [
            process.file_problems(),
            nats.file_problems(),
            telemetry.file_problems(),
            shutdown.file_problems(),
            stage.file_problems(),
        ]
        .concat()
    }
}

/// A validated configuration and how it came about.
#[derive(Debug, Clone)]
pub struct Loaded<S> {
    /// The values.
    pub config: Config<S>,
    /// Every key with its value and source, in the order of the sections.
    pub entries: Vec<Entry>,
}

impl<S> Loaded<S> {
    /// Every key, its value and where it comes from, one a line, as TOML with comments. Secrets are never in it.
    #[must_use]
    pub fn dump(&self) -> String {
        entry::dump(&self.entries)
    }

    /// The configuration file of `stage` with every key explained, at its default, commented out.
    #[must_use]
    pub fn reference_file(&self, stage: &str) -> String {
        reference::file(stage, &self.entries)
    }

    /// The same for the docs: a table of each section's keys, under its heading.
    #[must_use]
    pub fn reference_tables(&self) -> String {
        reference::tables(&self.entries)
    }
}

/// Why there is no configuration: everything that is wrong with it, each with its place and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .problems.join("; "))]
pub struct ConfigError {
    /// One sentence each.
    pub problems: Vec<String>,
}

impl Failure for ConfigError {
    fn exit_code(&self) -> ExitCode {
        ExitCode::Configuration
    }
}

/// Loads a stage's configuration.
///
/// # Errors
/// [`ConfigError`] with all problems at once.
pub fn load<S: Section>(origins: &Origins) -> Result<Loaded<S>, ConfigError> {
    let mut keys = Keys::new(origins);
    let config = Config {
        process: keys.section(),
        nats: keys.section(),
        telemetry: keys.section(),
        shutdown: keys.section(),
        stage: keys.section(),
    };
    let entries = keys.finish()?;
    Ok(Loaded { config, entries })
}

/// Reads some keys of a section, whoever else has keys there: for tools that need what a stage is configured with.
///
/// # Errors
/// [`ConfigError`] with all problems of these keys.
pub fn load_part<T>(
    origins: &Origins,
    section: &'static str,
    read: impl FnOnce(&mut SectionKeys<'_>) -> T,
) -> Result<T, ConfigError> {
    Keys::new(origins).part(section, read)
}

/// Loads only the `[nats]` section, for tools that are not stages.
///
/// # Errors
/// [`ConfigError`] with all problems at once.
pub fn load_connection(origins: &Origins) -> Result<ConnectionSettings, ConfigError> {
    let mut keys = Keys::new(origins);
    let settings = keys.section();
    keys.finish()?;
    Ok(settings)
}
