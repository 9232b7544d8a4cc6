//! Opening redb files: with a bounded cache, after a crash, and when they are damaged.
//!
//! Every file of a stage can be rebuilt from the streams, so a damaged one is renamed, never deleted, and a new one takes its place.

use std::{
    io,
    ops::Deref,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use millstream_contract::error_text::panic_text;
use redb::{Builder, Database, RepairSession};

use crate::error::StoreError;

/// What [`mark_damaged`] adds to the name of a file.
const MARK: &str = ".damaged";

/// An open redb file. Closing it never panics: redb writes when it closes a file, and can panic then as well where pages are damaged.
#[derive(Debug)]
pub struct OpenFile(Option<Database>);

impl OpenFile {
    /// Takes care of the closing of `database`.
    #[must_use]
    pub fn new(database: Database) -> Self {
        Self(Some(database))
    }
}

impl Deref for OpenFile {
    type Target = Database;

    fn deref(&self) -> &Database {
        self.0.as_ref().expect("only dropping takes the database out")
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        let database = self.0.take();
        if std::panic::catch_unwind(AssertUnwindSafe(|| drop(database))).is_err() {
            tracing::warn!("a damaged file could not be closed in order");
        }
    }
}

/// Opens `path`, and makes it and its folder where they are missing. redb keeps at most `cache_size` bytes of its pages in memory.
///
/// # Errors
/// [`StoreError`]: another process has the file, it cannot be read or written, the disk is full, or it is damaged. A file that
/// [`mark_damaged`] was called for is damaged.
pub fn open(path: &Path, cache_size: usize) -> Result<OpenFile, StoreError> {
    let failed = |source| StoreError::from_io(path, source);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let damage = marked_damage(path)?;
    if !path.try_exists().map_err(failed)? {
        create(path)?;
    }
    if let Some(detail) = damage {
        return Err(StoreError::Damaged { path: path.to_owned(), detail });
    }
    guarded(path, || {
        let database = builder(cache_size, path).open(path);
        Ok(OpenFile::new(database.map_err(|source| StoreError::from_open(path, source))?))
    })
}

/// As [`open`]; a damaged file is set aside, and a new one begun. Returns the name that the damaged file has now.
///
/// # Errors
/// As [`open`].
pub fn open_or_begin_anew(path: &Path, cache_size: usize) -> Result<(OpenFile, Option<PathBuf>), StoreError> {
    match open(path, cache_size) {
        Err(error) if error.is_damage() => {
            let aside = set_aside(path)?;
            tracing::warn!(
                %error, aside = %aside.display(), "set the damaged file aside; building a new one from the streams"
            );
            Ok((open(path, cache_size)?, Some(aside)))
        }
        opened => Ok((opened?, None)),
    }
}

/// Renames a file that cannot be used, keeping its bytes, and returns its new name, which says when. The next [`open`] creates an
/// empty file. A process that has the file open goes on with the renamed one.
///
/// # Errors
/// [`StoreError::Io`] when the folder cannot be changed.
pub fn set_aside(path: &Path) -> Result<PathBuf, StoreError> {
    set_aside_with(path, &[])
}

/// As [`set_aside`], with files beside it whose names are the same with one of `companions` at the end. They are renamed before it, and some
/// or all of them may be missing.
///
/// # Errors
/// As there. Some of them may be renamed then.
pub fn set_aside_with(path: &Path, companions: &[&str]) -> Result<PathBuf, StoreError> {
    let failed = |source| StoreError::from_io(path, source);
    let when = Timestamp::now().strftime(".set-aside-%Y%m%dT%H%M%SZ").to_string();
    let aside = (1_u32..)
        .map(|number| if number == 1 { when.clone() } else { format!("{when}-{number}") })
        .map(|suffix| with_suffix(path, &suffix))
        .find(|candidate| !candidate.exists())
        .expect("a folder holds fewer files than there are numbers");
    for companion in companions {
        match std::fs::rename(with_suffix(path, companion), with_suffix(&aside, companion)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
    }
    std::fs::rename(path, &aside).map_err(failed)?;
    remove(&with_suffix(path, MARK)).map_err(failed)?;
    Ok(aside)
}

/// Leaves a mark beside a file that was found damaged while it was open, so that the next [`open`] knows. Best effort: without the
/// mark, the damage is found again where it is. Nothing where there is no such file, as for a store that lives in memory.
pub fn mark_damaged(path: &Path, detail: &str) {
    if !path.exists() {
        return;
    }
    if let Err(error) = std::fs::write(with_suffix(path, MARK), detail) {
        tracing::warn!(%error, path = %path.display(), detail, "the damaged file could not be marked");
    }
}

/// The damage that [`mark_damaged`] was called with for this file, if it was not set aside since.
///
/// # Errors
/// [`StoreError::Io`] when the mark cannot be read or removed.
pub fn marked_damage(path: &Path) -> Result<Option<String>, StoreError> {
    let failed = |source| StoreError::from_io(path, source);
    let mark = with_suffix(path, MARK);
    if !path.try_exists().map_err(failed)? {
        // A crash between the steps of [`set_aside`], or whoever deleted the damaged file by hand, has left its mark.
        remove(&mark).map_err(failed)?;
        return Ok(None);
    }
    match std::fs::read_to_string(mark) {
        Ok(detail) => Ok(Some(detail)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// Does `work` on a redb file. On damaged pages, redb can panic where it expects its own invariants to hold.
///
/// # Errors
/// Those of `work`, and [`StoreError::Damaged`] for a panic.
pub fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let said = panic_text(panic.as_ref()).replace('\n', " ");
        let detail = format!("its pages contradict each other: {said}");
        Err(StoreError::Damaged { path: path.to_owned(), detail })
    })
}

/// Creates an empty file under another name first and then renames it, so that a crash in between leaves no half-written file that
/// would look damaged.
fn create(path: &Path) -> Result<(), StoreError> {
    let failed = |source| StoreError::from_io(path, source);
    let new = with_suffix(path, ".new");
    remove(&new).map_err(failed)?;
    let database = Database::create(&new).map_err(|source| StoreError::from_open(path, source))?;
    drop(database);
    std::fs::rename(&new, path).map_err(failed)
}

/// Removes a file that may be missing.
fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub(crate) fn builder(cache_size: usize, path: &Path) -> Builder {
    let path = path.to_owned();
    let mut builder = Database::builder();
    builder.set_cache_size(cache_size).set_repair_callback(move |session: &mut RepairSession| {
        tracing::info!(path = %path.display(), progress = session.progress(), "repairing the file after a crash");
    });
    builder
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CACHE: usize = 1 << 20;

    #[test]
    fn damaged_file_is_set_aside_under_a_name_that_says_when_and_a_new_one_begun() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("states.redb");
        for letter in ["one", "two"] {
            std::fs::write(&path, letter).unwrap();
            let (database, aside) = open_or_begin_anew(&path, CACHE).unwrap();
            drop(database);
            let aside = aside.unwrap();
            assert_eq!(std::fs::read_to_string(&aside).unwrap(), letter);
            let name = aside.file_name().unwrap().to_str().unwrap();
            assert!(name.starts_with("states.redb.set-aside-2"), "{name}");
        }
        let (_database, aside) = open_or_begin_anew(&path, CACHE).unwrap();
        assert_eq!(aside, None, "the new file is whole");
    }

    #[test]
    fn file_found_damaged_while_it_was_open_is_set_aside_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.redb");
        drop(open(&path, CACHE).unwrap());
        mark_damaged(&path, "row 7 does not have its checksum");
        let error = open(&path, CACHE).unwrap_err();
        assert!(error.is_damage() && error.to_string().contains("row 7"), "{error}");
        let (_database, aside) = open_or_begin_anew(&path, CACHE).unwrap();
        assert!(aside.is_some());
        drop(_database);
        assert_eq!(open_or_begin_anew(&path, CACHE).unwrap().1, None, "the mark is gone with the file");
    }

    /// It once stopped every start, also one that was to rebuild the file.
    #[test]
    fn mark_without_its_file_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.redb");
        std::fs::write(with_suffix(&path, MARK), "row 7 does not have its checksum").unwrap();
        for _ in 0..2 {
            drop(open(&path, CACHE).unwrap());
        }
    }

    /// Damage in a store that lives in memory left a mark in the folder where the process worked.
    #[test]
    fn no_mark_is_left_for_a_file_that_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        mark_damaged(&folder.path().join("(in memory)"), "row 7 does not have its checksum");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn panic_over_damaged_pages_is_damage() {
        let error = guarded::<()>(Path::new("x"), || panic!("as redb does")).unwrap_err();
        assert!(error.is_damage() && error.to_string().contains("as redb does"), "{error}");
    }
}
