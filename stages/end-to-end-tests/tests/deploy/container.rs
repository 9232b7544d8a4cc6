//! A container as a process: its command, arguments, variables and mounted files as a manifest says, but for what only a
//! container has: paths of mounts become folders of the test, and the address of all interfaces a free port of this machine.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use end_to_end_tests::{binaries::binary, program};
use millstream_jetstream::nats_server::free_port;
use tokio::process::Command;

/// Where the image keeps the programs.
const PROGRAMS: &str = "/usr/local/bin/";
/// What a stage listens on in a container of its own.
const ALL_INTERFACES: &str = "0.0.0.0:";

/// One container.
#[derive(Debug, Default)]
pub(crate) struct Container {
    /// Its command and arguments.
    pub(crate) words: Vec<String>,
    /// Its environment.
    pub(crate) variables: BTreeMap<String, String>,
    /// The test's files and folders by their paths in the container.
    pub(crate) mounts: BTreeMap<String, PathBuf>,
}

impl Container {
    /// The process, and the address of its health, where the variables give it one.
    pub(crate) fn command(&self) -> (Command, Option<String>) {
        let name = self.words[0].strip_prefix(PROGRAMS).expect("the image has nothing else");
        let mut command = program::command(binary(name));
        command.args(self.words[1..].iter().map(|word| self.translate(word)));
        let mut health = None;
        for (variable, value) in &self.variables {
            let value = if value.starts_with(ALL_INTERFACES) {
                let address = format!("127.0.0.1:{}", free_port().unwrap());
                if variable.ends_with("TELEMETRY__ADDRESS") {
                    health = Some(address.clone());
                }
                address
            } else {
                self.translate(value)
            };
            command.env(variable, value);
        }
        (command, health)
    }

    /// A path in the container as one of this machine; anything else as it is. What looks like a path must be mounted.
    fn translate(&self, word: &str) -> String {
        if !word.starts_with('/') {
            return word.to_owned();
        }
        let path = Path::new(word);
        if self.mounts.keys().any(|place| place != word && Path::new(place).starts_with(path)) {
            // A folder that holds mounts alone, each of which is elsewhere here; this machine has none of that name.
            return word.to_owned();
        }
        let mounted = self.mounts.iter().find_map(|(place, folder)| {
            let rest = path.strip_prefix(place).ok()?;
            // A file that is mounted itself has nothing below it.
            Some(if rest.as_os_str().is_empty() { folder.clone() } else { folder.join(rest) })
        });
        let mounted = mounted.unwrap_or_else(|| panic!("{word} is not mounted: {:?}", self.mounts));
        mounted.to_str().unwrap().to_owned()
    }
}
