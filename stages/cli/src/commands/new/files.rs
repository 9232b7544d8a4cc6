//! Files that are all planned before the first of them is written.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::names::Names;
use crate::{failure::CommandFailure, output};

/// A file to write.
pub(super) struct Written {
    /// Its path.
    pub(super) path: PathBuf,
    /// Its text.
    pub(super) text: String,
}

impl Written {
    /// A template with the names filled in.
    pub(super) fn filled(path: PathBuf, names: &Names, template: &str) -> Self {
        Self { path, text: names.fill(template) }
    }
}

/// Refuses to continue if one of `paths` exists.
///
/// # Errors
/// A usage error that names the first of them.
pub(super) fn expect_free(paths: &[&Path]) -> Result<(), CommandFailure> {
    match paths.iter().find(|path| path.exists()) {
        None => Ok(()),
        Some(there) => Err(CommandFailure::usage(format_args!(
            "{} is there already; nothing was written, choose another name",
            there.display()
        ))),
    }
}

/// Reads a file.
///
/// # Errors
/// When it cannot be read.
pub(super) fn read(path: &Path) -> Result<String, CommandFailure> {
    fs::read_to_string(path).map_err(|error| CommandFailure::file(path, &error))
}

/// Writes all of them, and prints their names.
///
/// # Errors
/// When one cannot be written. Those before it are written.
pub(super) fn write_all(files: &[Written], root: &Path) -> Result<(), CommandFailure> {
    for Written { path, text } in files {
        let folder = path.parent().unwrap_or(path);
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(path, text))
            .map_err(|error| CommandFailure::file(path, &error))?;
    }
    for Written { path, .. } in files {
        let path = path.strip_prefix(root).unwrap_or(path);
        output::line(format_args!("wrote {}", path.display()))?;
    }
    Ok(())
}
