//! The rejects file: each refused row with its line, code, reason, identity and all its own columns, ready to be mended and imported.
//!
//! No file is ever written over: what an import before has left may be the only place where a row is told.

use std::{
    fs::File,
    io::{self, Seek as _, SeekFrom, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use encoding_rs::UTF_8;
use millstream_contract::exit_code::{ExitCode, Failure};

use super::{
    decode,
    input::SourceRow,
    refusal::RowRefusal,
    reject_columns::Given,
    separator::{DELIMITERS, told_separator},
    source::STANDARD_INPUT,
};

/// The row's number in the file from which it was imported first.
pub(super) const ROW_COLUMN: &str = "import_row";
/// The line on which it stands in the file that was imported.
pub(super) const LINE_COLUMN: &str = "import_line";
/// What makes it the row that it is: a mended row brings only what is missing.
pub(super) const IDENTITY_COLUMN: &str = "import_identity";
/// What the file is called from which it was imported first.
pub(super) const FILE_COLUMN: &str = "import_file";
/// Columns before the row's own. A file that begins with them is one of rejects.
pub(super) const REJECT_COLUMNS: [&str; 6] =
    [ROW_COLUMN, LINE_COLUMN, "import_code", "import_reason", IDENTITY_COLUMN, FILE_COLUMN];
/// Bytes in which the names of these columns stand, whatever the encoding and however they are quoted.
pub(super) const REJECTS_BEGINNING: u64 = 1024;

/// What stands between the columns of a text that begins as a file of rejects does: with all of the import's columns, in their order. They are
/// written in one way whatever file the rows are from, and may be saved with any of these signs, or with the one that the map says.
pub(super) fn rejects_delimiter(beginning: &[u8], said: Option<u8>) -> Option<u8> {
    let encoding = decode::utf16(beginning).unwrap_or(UTF_8);
    let text = encoding.decode(beginning).0;
    let header = text.split(['\r', '\n']).find(|line| !line.is_empty() && told_separator(line).is_none())?;
    let has_all = |delimiter: &u8| {
        let reader =
            csv::ReaderBuilder::new().has_headers(false).delimiter(*delimiter).from_reader(header.as_bytes());
        let names = reader.into_records().next().and_then(Result::ok);
        names.is_some_and(|names| names.iter().map(str::trim).take(REJECT_COLUMNS.len()).eq(REJECT_COLUMNS))
    };
    said.into_iter().chain(DELIMITERS).find(has_all)
}

/// The byte order mark at the beginning of rejects: by it spreadsheets know that the file is UTF-8, and save the same letters as they read.
const MARK: &str = "\u{feff}";

/// Bytes of refused rows that are written together.
const GATHERED_MAX: usize = 64 * 1024;

/// Highest number in the name of a rejects file: more are not kept beside one another.
const NUMBER_MAX: u32 = 10_000;

/// Why there can be no rejects file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RejectsError {
    #[error(
        "{path} is there already and is not written over; name another file with --rejects, or remove it"
    )]
    Exists { path: PathBuf },
    #[error(
        "refused rows cannot be written to {path}: {source}; name a file that can be written with --rejects"
    )]
    Write { path: PathBuf, source: io::Error },
}

impl Failure for RejectsError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Exists { .. } => ExitCode::Usage,
            Self::Write { source, .. } => ExitCode::of_file_error(source),
        }
    }
}

/// A row that is refused, or the rows of a group.
#[derive(Debug)]
pub(crate) struct Reject {
    /// At least one.
    pub(crate) rows: Vec<SourceRow>,
    /// None where a column that tells rows apart is empty.
    pub(crate) identity: Option<String>,
    /// Why.
    pub(crate) refusal: RowRefusal,
}

/// The rejects file. It is removed again if no row is refused.
#[derive(Debug)]
pub(crate) struct Rejects {
    path: PathBuf,
    header: csv::StringRecord,
    file: File,
    /// Rows that are not in the file yet.
    gathered: Vec<u8>,
    /// Whether this import has made the file.
    is_new: bool,
    is_empty: bool,
}

impl Rejects {
    /// Makes the file that is named: a new one, or one that is empty. A device, such as `/dev/null`, is taken as it is.
    ///
    /// # Errors
    /// [`RejectsError`] when nothing can be written there, or something is.
    pub(crate) fn named(path: &Path, header: csv::StringRecord) -> Result<Self, RejectsError> {
        let failed = |source| RejectsError::Write { path: path.to_owned(), source };
        let is_new = !path.exists();
        let file = File::options().create(true).append(true).open(path).map_err(failed)?;
        let found = file.metadata().map_err(failed)?;
        if found.is_file() && found.size() > 0 {
            return Err(RejectsError::Exists { path: path.to_owned() });
        }
        Ok(Self::new(path.to_owned(), header, file, is_new))
    }

    /// Makes a file `<name>.rejects.csv` for the rows of `<name>.csv`, in the working directory; with a number in its name where there
    /// is one already.
    ///
    /// # Errors
    /// [`RejectsError`] when nothing can be written there.
    pub(crate) fn beside(rows: &Path, header: csv::StringRecord) -> Result<Self, RejectsError> {
        let stem = match rows.to_str() {
            Some(STANDARD_INPUT) => "standard-input".into(),
            _ => rows.file_stem().unwrap_or_default().to_string_lossy(),
        };
        let stem = stem.strip_suffix(".csv").unwrap_or(&stem);
        let mut number = 1;
        loop {
            let name = if number == 1 {
                format!("{stem}.rejects.csv")
            } else {
                format!("{stem}.rejects-{number}.csv")
            };
            let path = PathBuf::from(name);
            match File::options().write(true).create_new(true).open(&path) {
                Ok(file) => return Ok(Self::new(path, header, file, true)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < NUMBER_MAX => {
                    number += 1
                }
                Err(source) => return Err(RejectsError::Write { path, source }),
            }
        }
    }

    fn new(path: PathBuf, header: csv::StringRecord, file: File, is_new: bool) -> Self {
        Self { path, header, file, gathered: Vec::new(), is_new, is_empty: true }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a row.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn add(&mut self, reject: &Reject) -> io::Result<()> {
        if self.is_empty {
            self.gathered.extend_from_slice(MARK.as_bytes());
        }
        let mut writer =
            csv::WriterBuilder::new().flexible(true).from_writer(std::mem::take(&mut self.gathered));
        if std::mem::take(&mut self.is_empty) {
            writer.write_record(REJECT_COLUMNS.into_iter().chain(&self.header))?;
        }
        let Reject { refusal: RowRefusal { code, reason, taken }, identity, rows } = reject;
        for row in rows {
            let (number, line) = (row.number.to_string(), row.line.to_string());
            let file = row.file.as_deref().unwrap_or_default();
            let of_group = Some(row.of_group.unwrap_or(rows.len()));
            let new = taken.filter(|taken| !row.taken.contains(taken));
            let taken = row.taken.iter().copied().chain(new).collect();
            let (identity, keys, tried) = (identity.clone(), row.keys.clone(), row.tried.clone());
            let identity = Given { identity, of_group, keys, taken, tried }.write();
            let own = [&*number, &*line, code, reason, &identity, file];
            writer.write_record(own.into_iter().chain(&row.record))?;
        }
        self.gathered = writer.into_inner().map_err(|error| error.into_error())?;
        if self.gathered.len() >= GATHERED_MAX { self.write_gathered() } else { Ok(()) }
    }

    /// Writes whole rows or none: a row that is cut off where the disk is full would be one that says less.
    fn write_gathered(&mut self) -> io::Result<()> {
        let is_file = self.file.metadata()?.is_file();
        let end = if is_file { self.file.seek(SeekFrom::End(0))? } else { 0 };
        let written = self.file.write_all(&self.gathered);
        if written.is_err() && is_file {
            self.file.set_len(end)?;
        }
        self.gathered.clear();
        written
    }

    /// Completes the file; says where it is, if there is one.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn finish(mut self) -> io::Result<Option<PathBuf>> {
        self.write_gathered()?;
        if !self.is_empty {
            return Ok(Some(self.path));
        }
        if self.is_new {
            std::fs::remove_file(self.path.canonicalize()?)?;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> csv::StringRecord {
        csv::StringRecord::from(vec!["sku"])
    }

    fn reject(line: u64) -> Reject {
        let record = csv::StringRecord::from(vec!["tea"]);
        Reject {
            rows: vec![SourceRow {
                number: line - 1,
                line,
                identity: None,
                of_group: None,
                keys: Vec::new(),
                taken: Vec::new(),
                tried: Vec::new(),
                file: Some("s.csv".into()),
                record,
            }],
            identity: Some("c0de".to_owned()),
            refusal: RowRefusal::new("code", "reason"),
        }
    }

    const WRITTEN: &str = "\u{feff}import_row,import_line,import_code,import_reason,import_identity,import_file,sku\n1,2,code,reason,c0de,s.csv,tea\n";

    /// Rows had been sent when the first one was refused and nobody could write down why.
    #[test]
    fn where_nothing_can_be_written_is_said_before_any_row() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().to_owned(), folder.path().join("none").join("rejects.csv")] {
            assert!(Rejects::named(&path, header()).is_err(), "{path:?}");
        }
        let path = folder.path().join("rejects.csv");
        assert_eq!(Rejects::named(&path, header()).unwrap().finish().unwrap(), None);
        assert!(!path.exists(), "no row was refused");
        let link = folder.path().join("link.csv");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let mut rejects = Rejects::named(&link, header()).unwrap();
        rejects.add(&reject(2)).unwrap();
        assert_eq!(rejects.finish().unwrap(), Some(link));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), WRITTEN);
        let device = Path::new("/dev/null");
        let mut rejects = Rejects::named(device, header()).unwrap();
        rejects.add(&reject(2)).unwrap();
        assert_eq!(rejects.finish().unwrap().as_deref(), Some(device));
        assert!(device.exists());
    }

    /// The second import of a file removed what the first one had written, and `--rejects data.csv data.csv` the rows themselves.
    #[test]
    fn no_file_is_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rejects.csv");
        std::fs::write(&path, "of an earlier import").unwrap();
        let refused = Rejects::named(&path, header()).unwrap_err();
        assert!(
            refused.to_string().contains("rejects.csv is there already and is not written over"),
            "{refused}"
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "of an earlier import");
        std::fs::write(&path, "").unwrap();
        assert_eq!(Rejects::named(&path, header()).unwrap().finish().unwrap(), None);
        assert!(path.exists(), "it was there before");
        let mut rejects = Rejects::named(&path, header()).unwrap();
        rejects.add(&reject(2)).unwrap();
        assert_eq!(rejects.finish().unwrap(), Some(path.clone()));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), WRITTEN);
    }

    /// A file that a kill or a full disk cut off in the midst of a row was imported, with what was left of the row.
    #[test]
    fn what_is_in_the_file_at_any_time_is_whole_rows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rejects.csv");
        let mut rejects = Rejects::named(&path, header()).unwrap();
        let mut written = 0;
        for line in 2..3_000 {
            rejects.add(&reject(line)).unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            if text.len() > written {
                assert!(text.ends_with(",s.csv,tea\n"), "{}", &text[text.len() - 40..]);
                written = text.len();
            }
        }
        assert!(written > GATHERED_MAX, "some were written before the end");
        rejects.finish().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1 + 2_998);
    }
}
