//! The workspace's programs. They are built once for a test process, with the profile of the test itself. Or they are those in the folder that
//! `MILLSTREAM_PROGRAMS` names, which were built before, as in `MILLSTREAM_PROGRAMS=$PWD/target/release`.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("the package stands two folders below the root")
}

/// The folder into which cargo builds, by default `target`.
///
/// # Panics
/// When the test does not run from a folder that cargo made.
pub fn target_folder() -> PathBuf {
    let own = std::env::current_exe().expect("a test knows its own path");
    own.ancestors()
        .find(|folder| folder.join("CACHEDIR.TAG").is_file())
        .expect("a test runs below the folder into which cargo builds")
        .to_owned()
}

/// The path of a program of this workspace, by name. The first call builds all of them, because for a test cargo only builds the programs of
/// the test's own package. Cargo holds no lock on its folder while tests run, so it may be called again here.
///
/// # Panics
/// When the build fails, or there is no such program.
pub fn binary(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let path = FOLDER.get_or_init(build).join(name);
    assert!(path.is_file(), "the workspace has no program {name}: there is no {}", path.display());
    path
}

fn build() -> PathBuf {
    let built_before = std::env::var_os("MILLSTREAM_PROGRAMS");
    if let Some(folder) = built_before {
        return PathBuf::from(folder);
    }
    let own = std::env::current_exe().expect("a test knows its own path");
    // <target>/<profile>/deps/<test>
    let folder = own.ancestors().nth(2).expect("a test stands in a profile's folder").to_owned();
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(name) => name,
        None => panic!("the folder of {} has no name", own.display()),
    };
    let mut cargo = cargo(&["build", "--workspace", "--bins", "--quiet", "--profile", profile]);
    let output = cargo.current_dir(repository()).output().expect("cargo, which built this test, runs");
    assert!(output.status.success(), "the build fails:\n{}", String::from_utf8_lossy(&output.stderr));
    folder
}

/// `cargo <arguments>`, not started yet, which builds into the folder in which this test was built.
///
/// # Panics
/// When the test does not run from a folder that cargo made.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(arguments).env("CARGO_TARGET_DIR", target_folder());
    // Variables in which cargo tells this test about its own package. Build scripts of dependencies read them, and would take the change since
    // the build before for a reason to compile everything again that needs TLS.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&*name);
        }
    }
    cargo
}
