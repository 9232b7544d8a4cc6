//! The rejects file: each refused row with its number, code, reason and all its own columns, ready to be mended.

use std::{
    fs::File,
    io::{self, BufWriter},
    path::{Path, PathBuf},
};

/// Columns before the row's own.
const COLUMNS: [&str; 3] = ["row", "code", "reason"];

/// Writes the file when the first row is refused; a file of an earlier import is removed.
#[derive(Debug)]
pub(crate) struct Rejects {
    path: PathBuf,
    header: csv::StringRecord,
    writer: Option<csv::Writer<BufWriter<File>>>,
}

impl Rejects {
    /// Will write to `path`.
    ///
    /// # Errors
    /// When an earlier file cannot be removed.
    pub(crate) fn new(path: &Path, header: csv::StringRecord) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
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
