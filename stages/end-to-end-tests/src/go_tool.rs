//! Programs that Go builds into the target folder if they are not there yet, in the versions that a module of this repository pins.
//!
//! On a machine without Go, tests that need them say so and end; they fail if `CI` is set.

use std::{fs::File, path::PathBuf, process::Command};

use crate::{
    binaries::{repository, target_folder},
    program::announce_skip,
};

/// A program that a `go.mod` of this repository lists as a tool.
#[derive(Debug, Clone, Copy)]
pub struct GoTool {
    /// The program's name.
    pub name: &'static str,
    /// The first part of the name of the folder into which it is built. The second part is its version.
    pub built: &'static str,
    /// The folder of the `go.mod`, in the repository.
    pub folder: &'static str,
    /// The module that holds the program.
    pub module: &'static str,
    /// The program's package.
    pub package: &'static str,
    /// For the linker; `{version}` stands for the version of the module.
    pub linked_with: &'static str,
}

impl GoTool {
    /// Where it is, or would be.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        let folder = format!("{}-{}", self.built, self.version());
        target_folder().join("tools").join(folder).join(self.name)
    }

    fn version(&self) -> String {
        let pinned = std::fs::read_to_string(repository().join(self.folder).join("go.mod"))
            .expect("the module file is part of the repository");
        let version = pinned.lines().find_map(|line| {
            line.trim().strip_prefix(self.module)?.split_whitespace().next()?.strip_prefix('v')
        });
        version.expect("the module file pins the program").to_owned()
    }

    /// Where it is; `None` on a machine without Go. If several test processes ask at the same time, one of them builds.
    ///
    /// # Panics
    /// When Go is there and the build fails, or `CI` is set and Go is not there.
    pub fn find_or_build(&self) -> Option<PathBuf> {
        let sources = repository().join(self.folder);
        let version = self.version();
        let path = self.path();
        let folder = path.parent().expect("it is in a folder").to_owned();
        std::fs::create_dir_all(&folder).expect("the target folder can be written");
        let lock = File::create(folder.join("lock")).expect("the target folder can be written");
        lock.lock().expect("a file can be locked");
        if path.is_file() {
            return Some(path);
        }
        if let Err(error) = Command::new("go").arg("version").output() {
            let missing = format!(
                "{} has to be built and Go does not run ({error}); install it from https://go.dev/dl/",
                self.name
            );
            assert!(std::env::var_os("CI").is_none(), "{missing}");
            announce_skip(&missing);
            return None;
        }
        let partial = folder.join(format!("{}.partial", self.name));
        let output = Command::new("go")
            .args([
                "build",
                "-mod=readonly",
                "-ldflags",
                &self.linked_with.replace("{version}", &version),
                "-o",
            ])
            .arg(&partial)
            .arg(self.package)
            .current_dir(&sources)
            .output()
            .expect("Go, which said its version, runs");
        assert!(
            output.status.success(),
            "{} does not build:\n{}",
            self.name,
            String::from_utf8_lossy(&output.stderr)
        );
        std::fs::rename(&partial, &path).expect("a file can be renamed in its folder");
        Some(path)
    }
}
