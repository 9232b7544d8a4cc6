//! The program of `cargo demo`. It builds `millstream`, which is every stage as well, and then starts `millstream demo` with the same
//! arguments.
//!
//! Deliberately absent: the demo itself, which is a command of `millstream`.

use std::{
    env,
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

fn main() -> ExitCode {
    match launch() {
        Ok(never) => match never {},
        Err(message) => {
            // `eprintln!` would panic when standard error cannot be written.
            let _untold = writeln!(io::stderr(), "error: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Returns only if something failed; otherwise this process becomes the demo.
fn launch() -> Result<std::convert::Infallible, String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml");
    let mut build = Command::new(cargo);
    build
        // The whole workspace, so that `cargo test --workspace`, which a reader of the README types next, finds everything built.
        .args(["build", "--workspace", "--bin", "millstream", "--manifest-path"])
        .arg(&workspace);
    // Variables in which cargo tells this program about its own package. Build scripts of dependencies read them, and would take the change
    // from a build outside for a reason to compile everything again that needs TLS.
    for (name, _) in env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
        {
            build.env_remove(name);
        }
    }
    let status = build.status().map_err(|error| format!("cargo does not run: {error}"))?;
    if !status.success() {
        return Err(format!("the build failed ({status})"));
    }
    let program = program().ok_or("this program does not stand in a cargo target folder")?;
    let error = Command::new(&program).arg("demo").args(env::args_os().skip(1)).exec();
    Err(format!("{} does not run: {error}", program.display()))
}

/// This program is `<target>/debug/demo-launcher`, the other one `<target>/debug/millstream`.
fn program() -> Option<PathBuf> {
    let own = env::current_exe().ok()?;
    Some(own.parent()?.join("millstream"))
}
