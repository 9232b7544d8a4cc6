//! A configuration key of the stages that is set when a deployment is started, like `--set` of a stage.

use std::str::FromStr;

use millstream_runtime::{
    config::{ProcessSettings, Section},
    connection::ConnectionSettings,
    shutdown::ShutdownSettings,
    telemetry::TelemetrySettings,
};

use super::STAGES;

/// Sections that every stage has.
const SHARED_SECTIONS: [&str; 4] =
    [ProcessSettings::NAME, ConnectionSettings::NAME, TelemetrySettings::NAME, ShutdownSettings::NAME];
/// What differs from process to process and is set by the deployment. The folder is a key of each stage's section.
const OWN_KEYS: [&str; 6] = [
    "process.instance",
    "nats.url",
    "nats.nkey_file",
    "telemetry.address",
    "data_directory",
    "gateway.listen",
];

/// `section.key=value`. The stage decides whether the key exists and whether it accepts the value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StageSetting {
    section: String,
    text: String,
}

impl StageSetting {
    /// As a flag of a stage with this section; `None` when it is not for that stage.
    pub(crate) fn flag_for(&self, section: &str) -> Option<[String; 2]> {
        let meant = self.section == section || SHARED_SECTIONS.contains(&self.section.as_str());
        meant.then(|| ["--set".to_owned(), self.text.clone()])
    }

    /// The section of the key.
    pub(crate) fn section(&self) -> &str {
        &self.section
    }

    /// Whether it sets this key, such as `sql.database`.
    pub(crate) fn sets(&self, path: &str) -> bool {
        self.text.split_once('=').is_some_and(|(set, _)| set == path)
    }
}

impl FromStr for StageSetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = "write SECTION.KEY=VALUE, as in command_handler.round_max=2";
        let (path, _) = text.split_once('=').ok_or(form)?;
        let (section, key) = path.split_once('.').ok_or(form)?;
        let mut known = STAGES.iter().map(|(_, section)| *section).chain(SHARED_SECTIONS);
        if !known.clone().any(|known| known == section) {
            let known: Vec<&str> = known.by_ref().collect();
            return Err(format!("no stage has a section {section}; there are {}", known.join(", ")));
        }
        if OWN_KEYS.iter().any(|own| *own == path || *own == key) {
            return Err(format!("{path} is what `up` says itself, to each process its own"));
        }
        Ok(Self { section: section.to_owned(), text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<StageSetting, String> {
        text.parse()
    }

    #[test]
    fn a_section_of_a_stage_is_for_that_stage_and_a_shared_one_for_all() {
        let own = parsed("command_handler.round_max=2").unwrap();
        let flag = ["--set".to_owned(), "command_handler.round_max=2".to_owned()];
        assert_eq!(own.flag_for("command_handler"), Some(flag));
        assert_eq!(own.flag_for("projector"), None);
        let shared = parsed("telemetry.level=debug,redb=info").unwrap();
        for (_, section) in STAGES {
            assert!(shared.flag_for(section).is_some(), "{section}");
        }
    }

    #[test]
    fn what_no_stage_takes_is_refused_with_what_there_is() {
        for (text, said) in [
            ("command_handler.round_max", "write SECTION.KEY=VALUE"),
            ("round_max=2", "write SECTION.KEY=VALUE"),
            ("command-handler.round_max=2", "there are command_handler, "),
            ("nats.url=nats://elsewhere:4222", "says itself"),
            ("projector.data_directory=/", "says itself"),
            ("process.instance=a", "says itself"),
        ] {
            let refused = parsed(text).unwrap_err();
            assert!(refused.contains(said), "{text}: {refused}");
        }
    }
}
