//! The rejects file: each refused row with its number, code, reason and all its own columns, ready to be mended.

use std::{
    fs::File,
    io::{self, BufWriter},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// Columns before the row's own.
const COLUMNS: [&str; 3] = ["row", "code", "reason"];

/// Writes the file when the first row is refused; a file of an earlier import is removed. A link to a file stays one.
#[derive(Debug)]
pub(crate) struct Rejects {
    path: PathBuf,
    header: csv::StringRecord,
    writer: Option<csv::Writer<BufWriter<File>>>,
}

/// Whether both paths lead to one file, by whatever names and links; not while one of them leads to none.
pub(crate) fn is_same_file(one: &Path, other: &Path) -> bool {
    match (one.metadata(), other.metadata()) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

impl Rejects {
    /// Will write to `path`.
    ///
    /// # Errors
    /// When nothing can be written there.
    pub(crate) fn new(path: &Path, header: csv::StringRecord) -> io::Result<Self> {
        // Tried now: when the first row is refused, others have been sent.
        let tried = File::options().create(true).append(true).open(path)?;
        // A device, such as /dev/null, is nobody's to remove.
        if tried.metadata()?.is_file() {
            std::fs::remove_file(path.canonicalize()?)?;
        }
        Ok(Self { path: path.to_owned(), header, writer: None })
    }

    /// Adds a row.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn add(
        &mut self,
        row: u64,
        code: &str,
        reason: &str,
        record: &csv::StringRecord,
    ) -> io::Result<()> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            vacant => {
                let mut writer = csv::WriterBuilder::new()
                    .flexible(true)
                    .from_writer(BufWriter::new(File::create(&self.path)?));
                writer.write_record(COLUMNS.into_iter().chain(&self.header))?;
                vacant.insert(writer)
            }
        };
        let number = row.to_string();
        writer.write_record([number.as_str(), code, reason].into_iter().chain(record))?;
        Ok(())
    }

    /// Completes the file; says where it is, if there is one.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn finish(mut self) -> io::Result<Option<PathBuf>> {
        match &mut self.writer {
            Some(writer) => writer.flush().map(|()| Some(self.path)),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> csv::StringRecord {
        csv::StringRecord::from(vec!["sku"])
    }

    /// Rows had been sent when the first one was refused and nobody could write down why.
    #[test]
    fn where_nothing_can_be_written_is_said_before_any_row() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().to_owned(), folder.path().join("none").join("rejects.csv")] {
            assert!(Rejects::new(&path, header()).is_err(), "{path:?}");
        }
        let path = folder.path().join("rejects.csv");
        std::fs::write(&path, "of an earlier import").unwrap();
        assert_eq!(Rejects::new(&path, header()).unwrap().finish().unwrap(), None);
        assert!(!path.exists(), "no row was refused");
        let link = folder.path().join("link.csv");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let mut rejects = Rejects::new(&link, header()).unwrap();
        assert!(!path.exists(), "no row is refused yet");
        rejects.add(1, "code", "reason", &header()).unwrap();
        assert_eq!(rejects.finish().unwrap(), Some(link));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "row,code,reason,sku\n1,code,reason,sku\n");
        let device = Path::new("/dev/null");
        let mut rejects = Rejects::new(device, header()).unwrap();
        rejects.add(1, "code", "reason", &header()).unwrap();
        assert_eq!(rejects.finish().unwrap().as_deref(), Some(device));
        assert!(device.exists());
    }

    /// Paths were compared, which differ for a hard link.
    #[test]
    fn a_link_is_the_file_that_it_leads_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("rows.csv"), "sku").unwrap();
        std::fs::write(path("equal.csv"), "sku").unwrap();
        std::fs::hard_link(path("rows.csv"), path("hard.csv")).unwrap();
        std::os::unix::fs::symlink(path("rows.csv"), path("soft.csv")).unwrap();
        std::os::unix::fs::symlink(path("nothing.csv"), path("dangling.csv")).unwrap();
        for same in ["rows.csv", "hard.csv", "soft.csv"] {
            assert!(is_same_file(&path("rows.csv"), &path(same)), "{same}");
        }
        for other in ["equal.csv", "nothing.csv", "dangling.csv"] {
            assert!(!is_same_file(&path("rows.csv"), &path(other)), "{other}");
        }
    }
}
