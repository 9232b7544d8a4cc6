//! A small disk that can be filled and freed: a tmpfs with a size, mounted for the processes that are let in and seen by
//! nobody else.
//!
//! Where users may make namespaces, as on most machines, no privilege is needed: `unshare` makes one in which the user is
//! root, a process holds it open, `nsenter` lets others in. Elsewhere there is no such test: the reason is said, and where
//! `CI` is set it is a failure.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Child,
};

use crate::program::{self, announce_skip};

/// What makes a full disk: written and removed as a whole.
const BALLAST: &str = "ballast";

/// A disk. It goes with the value.
#[derive(Debug)]
pub struct SmallDisk {
    holder: Child,
    holder_id: u32,
    folder: TempDir,
}

impl SmallDisk {
    /// A disk of this many KiB; none where that is not possible.
    ///
    /// # Panics
    /// Where it is not possible and `CI` is set.
    pub async fn mount(kibibytes: u64) -> Option<Self> {
        match Self::try_mount(kibibytes).await {
            Ok(disk) => Some(disk),
            Err(reason) => {
                let reason = format!(
                    "no small disk can be mounted: {reason}; install util-linux and permit user namespaces \
                     (sysctl kernel.unprivileged_userns_clone=1, and \
                     kernel.apparmor_restrict_unprivileged_userns=0 where AppArmor restricts them), or run the \
                     tests as root with CAP_SYS_ADMIN"
                );
                assert!(std::env::var_os("CI").is_none(), "{reason}");
                announce_skip(&reason);
                None
            }
        }
    }

    async fn try_mount(kibibytes: u64) -> Result<Self, String> {
        let folder = TempDir::new().expect("a temporary folder can be made");
        let script = format!(
            "mount -t tmpfs -o size={kibibytes}k tmpfs \"$0\" && echo mounted && exec sleep infinity"
        );
        let mut holder = program::command("unshare")
            .args(["--map-root-user", "--mount", "sh", "-c", &script])
            .arg(folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("unshare does not run: {error}"))?;
        let output = holder.stdout.take().expect("standard output is piped");
        let mut lines = BufReader::new(output).lines();
        if !matches!(lines.next_line().await, Ok(Some(line)) if line == "mounted") {
            let said = holder.wait_with_output().await.map_err(|error| error.to_string())?;
            return Err(String::from_utf8_lossy(&said.stderr).trim().to_owned());
        }
        let holder_id = holder.id().expect("it holds the disk");
        Ok(Self { holder, holder_id, folder })
    }

    /// Where it is, for those inside.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A file on it, for those outside.
    #[must_use]
    pub fn from_outside(&self, file: &str) -> PathBuf {
        let inside = self.folder.path().strip_prefix("/").unwrap_or(self.folder.path());
        PathBuf::from(format!("/proc/{}/root", self.holder_id)).join(inside).join(file)
    }

    /// What stands before the line of a program that is let in. The program keeps the process id.
    #[must_use]
    pub fn entrance(&self) -> Vec<OsString> {
        let target = format!("--target={}", self.holder_id);
        ["nsenter", "--user", "--mount", "--preserve-credentials", &target, "--"]
            .into_iter()
            .map(OsString::from)
            .collect()
    }

    /// A script that runs `program` inside, with its arguments; `folder` is where it is written.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn script_for(&self, program: &Path, folder: &Path) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;

        let words: Vec<String> =
            self.entrance().iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let path = folder.join("inside");
        let text = format!("#!/bin/sh\nexec {} '{}' \"$@\"\n", words.join(" "), program.display());
        fs::write(&path, text).expect("a script can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .expect("a script can be made executable");
        path
    }

    /// Takes all space that is left, except for so many KiB.
    ///
    /// # Panics
    /// When the disk cannot be written for another reason than that it is full.
    pub fn fill(&self, kibibytes_left: u64) {
        use std::io::Write as _;

        let path = self.from_outside(BALLAST);
        let mut ballast =
            fs::File::options().create(true).append(true).open(&path).expect("the disk can be reached");
        let block = [0_u8; 4096];
        loop {
            match ballast.write_all(&block) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => break,
                Err(error) => panic!("{}: {error}", path.display()),
            }
        }
        let length = ballast.metadata().expect("an open file has a length").len();
        let shorter = length.saturating_sub(kibibytes_left * 1024);
        ballast.set_len(shorter).expect("a file can be made shorter");
    }

    /// Gives back what [`Self::fill`] took.
    ///
    /// # Panics
    /// When nothing was taken.
    pub fn free(&self) {
        fs::remove_file(self.from_outside(BALLAST)).expect("the disk was filled");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // It is killed with the value; that it is gone already is no matter.
        let _gone = self.holder.start_kill();
    }
}
