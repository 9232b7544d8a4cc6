//! Node for tests, with the packages that `node/package-lock.json` pins.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    binaries::{repository, target_folder},
    program::announce_skip,
};

/// The files that list the packages.
const PACKAGES: [&str; 2] = ["package.json", "package-lock.json"];

/// A folder in which scripts find their packages.
#[derive(Debug, Clone)]
pub struct Node {
    folder: PathBuf,
}

impl Node {
    /// `None` on a machine without Node or npm.
    ///
    /// # Panics
    /// When the packages cannot be installed.
    #[must_use]
    pub fn installed() -> Option<Self> {
        on_path("node").and(on_path("npm"))?;
        Some(Self { folder: packages() })
    }

    /// The same; whoever needs it says that it is skipped.
    ///
    /// # Panics
    /// When the packages cannot be installed, or `CI` is set and there is no Node.
    #[must_use]
    pub fn find() -> Option<Self> {
        let found = Self::installed();
        if found.is_none() {
            let missing = "Node 20 or newer with npm is missing";
            assert!(std::env::var_os("CI").is_none(), "{missing}");
            announce_skip(missing);
        }
        found
    }

    /// A script of the folder `node`, not started yet.
    ///
    /// # Panics
    /// When the script cannot be read.
    #[must_use]
    pub fn script(&self, name: &str) -> tokio::process::Command {
        let script = self.folder.join(name);
        fs::copy(sources().join(name), &script).expect("the script is part of the repository");
        let mut node = crate::program::command("node");
        node.arg(script).current_dir(&self.folder);
        node
    }
}

fn sources() -> PathBuf {
    repository().join("stages/end-to-end-tests/node")
}

/// Where the packages are. If several test processes ask at the same time, one of them installs.
fn packages() -> PathBuf {
    let folder = target_folder().join("tools/node");
    fs::create_dir_all(&folder).expect("the target folder can be written");
    let lock = File::create(folder.join("lock")).expect("the target folder can be written");
    lock.lock().expect("a file can be locked");
    let read = |folder: &Path| PACKAGES.map(|name| fs::read(folder.join(name)).unwrap_or_default());
    if read(&folder) == read(&sources()) && folder.join("node_modules").is_dir() {
        return folder;
    }
    for name in PACKAGES.iter().rev() {
        fs::copy(sources().join(name), folder.join(name))
            .expect("the list of packages is part of the repository");
    }
    let mut npm = Command::new("npm");
    let installed =
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&folder).output();
    let installed = installed.expect("npm, which is on PATH, runs");
    if !installed.status.success() {
        // An incomplete installation must not be taken for a complete one.
        fs::remove_file(folder.join(PACKAGES[0])).expect("a file that was just written can be removed");
        panic!("the packages cannot be installed:\n{}", String::from_utf8_lossy(&installed.stderr));
    }
    folder
}

/// The program of this name on `PATH`.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths).map(|folder| folder.join(name)).find(|path| path.is_file())
}
