//! A browser for tests: the installed Chromium, controlled by Node with the packages that `browser/package-lock.json` pins.
//!
//! On a machine without Chromium or Node, tests that need them say so and end; they fail if `CI` is set.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    binaries::{repository, target_folder},
    program::announce_skip,
};

/// Names under which Chromium is installed.
const PROGRAMS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
/// The file that lists the packages.
const PACKAGES: [&str; 2] = ["package.json", "package-lock.json"];

/// Chromium, Node, and a folder in which scripts find their packages.
#[derive(Debug, Clone)]
pub struct Browser {
    /// The browser's program.
    pub chromium: PathBuf,
    folder: PathBuf,
}

impl Browser {
    /// The browser that `CHROMIUM` names, or that is on `PATH`; `None` on a machine without a browser or without Node.
    ///
    /// # Panics
    /// When the packages cannot be installed, or `CI` is set and there is no browser.
    pub fn find() -> Option<Self> {
        let named = std::env::var_os("CHROMIUM").map(PathBuf::from);
        let found = named.or_else(|| PROGRAMS.iter().find_map(|name| on_path(name)));
        let node = on_path("node").and(on_path("npm"));
        let (Some(chromium), Some(_)) = (found, node) else {
            let missing = "the pages are tested with Chromium, which CHROMIUM or PATH leads to, and Node 20 or newer with npm; one of them is missing";
            assert!(std::env::var_os("CI").is_none(), "{missing}");
            announce_skip(missing);
            return None;
        };
        Some(Self { chromium, folder: packages() })
    }

    /// A script of the folder `browser`, not started yet.
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
    repository().join("stages/end-to-end-tests/browser")
}

/// Where the packages are. If several test processes ask at the same time, one of them installs.
fn packages() -> PathBuf {
    let folder = target_folder().join("tools/browser");
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

fn on_path(name: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths).map(|folder| folder.join(name)).find(|path| path.is_file())
}
