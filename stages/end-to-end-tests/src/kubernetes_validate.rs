//! Strict validation of Kubernetes manifests, offline: the Python package kubernetes-validate, which carries the schemas, in a
//! virtual environment in the target folder.
//!
//! A machine without Python has none: what needs it says so and ends, but fails where `CI` is set.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    binaries::{repository, target_folder},
    program::announce_skip,
};

/// The minor versions that the chart is for.
pub const VERSIONS: [&str; 3] = ["1.35", "1.36", "1.37"];

/// The program; none on a machine without Python.
///
/// # Panics
/// When Python is there and the installation fails, or `CI` is set and Python is not there.
pub fn find_or_install() -> Option<PathBuf> {
    let requirements = repository().join("deploy/tools/requirements.txt");
    let folder = target_folder().join("tools").join("kubernetes-validate");
    std::fs::create_dir_all(&folder).expect("the target folder can be written");
    let lock = File::create(folder.join("lock")).expect("the target folder can be written");
    lock.lock().expect("a file can be locked");
    let wanted = std::fs::read_to_string(&requirements).expect("the list is part of the repository");
    let environment = folder.join("environment");
    let program = environment.join("bin/kubernetes-validate");
    // Written when all is there, so that half an installation is made again.
    let installed = folder.join("installed");
    if std::fs::read_to_string(&installed).is_ok_and(|text| text == wanted) {
        return Some(program);
    }
    if let Err(error) = Command::new("python3").arg("--version").output() {
        let missing = format!("kubernetes-validate needs Python, which does not run ({error})");
        assert!(std::env::var_os("CI").is_none(), "{missing}");
        announce_skip(&missing);
        return None;
    }
    succeed(Command::new("python3").args(["-m", "venv"]).arg(&environment));
    let mut install = Command::new(environment.join("bin/python"));
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]);
    succeed(install.arg(&requirements));
    std::fs::write(&installed, wanted).expect("the target folder can be written");
    Some(program)
}

/// Validates the manifests in a file against one minor version; the resources that passed, one a line.
///
/// # Panics
/// When one is not valid.
pub fn validate(program: &Path, version: &str, manifests: &Path) -> String {
    succeed(Command::new(program).args(["--strict", "--kubernetes-version", version]).arg(manifests))
}

fn succeed(command: &mut Command) -> String {
    let output = command.output().expect("the program runs");
    let said =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{command:?}: {said}");
    said
}
