//! A browser for tests: the installed Chromium, controlled by a script of Node.
//!
//! On a machine without Chromium or Node, tests that need them say so and end; they fail if `CI` is set.

use std::path::PathBuf;

use crate::{
    node::{Node, on_path},
    program::announce_skip,
};

/// Names under which Chromium is installed.
const PROGRAMS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// Chromium and Node.
#[derive(Debug, Clone)]
pub struct Browser {
    /// The browser's program.
    pub chromium: PathBuf,
    node: Node,
}

impl Browser {
    /// The browser that `CHROMIUM` names, or that is on `PATH`; `None` on a machine without a browser or without Node.
    ///
    /// # Panics
    /// When the packages cannot be installed, or `CI` is set and there is no browser.
    pub fn find() -> Option<Self> {
        let named = std::env::var_os("CHROMIUM").map(PathBuf::from);
        let found = named.or_else(|| PROGRAMS.iter().find_map(|name| on_path(name)));
        let found = found.and_then(|chromium| Some((chromium, Node::installed()?)));
        let Some((chromium, node)) = found else {
            let missing = "the pages are tested with Chromium, which CHROMIUM or PATH leads to, and Node 20 or newer with npm; one of them is missing";
            assert!(std::env::var_os("CI").is_none(), "{missing}");
            announce_skip(missing);
            return None;
        };
        Some(Self { chromium, node })
    }

    /// A script of the folder `node`, not started yet.
    ///
    /// # Panics
    /// When the script cannot be read.
    #[must_use]
    pub fn script(&self, name: &str) -> tokio::process::Command {
        self.node.script(name)
    }
}
