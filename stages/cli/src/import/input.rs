//! The files that an import reads, looked at from end to end before anything is sent.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

use millstream_contract::exit_code::{ExitCode, Failure};

use super::{
    identity::is_identity,
    rejects::{IDENTITY_COLUMN, REJECT_COLUMNS, ROW_COLUMN},
    watch::{QuoteFault, Watch},
};

/// As many bytes as tell how a text is written.
const BEGINNING: usize = 4;

/// What stands between columns in files that are no CSV.
const SEPARATORS: [char; 3] = [';', '\t', '|'];

/// A file that cannot be imported, or is no map of an import.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    #[error("{path} is a folder; name a file in it")]
    Folder { path: PathBuf },
    #[error("{path} is no file but a pipe or device, which cannot be read twice; write it into a file")]
    Pipe { path: PathBuf },
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is written in UTF-16; save it as UTF-8, as `iconv -f UTF-16 -t UTF-8` does")]
    Utf16 { path: PathBuf },
    #[error(
        "{path}: line {line} is not UTF-8; save the file as UTF-8, as `iconv -f WINDOWS-1252 -t UTF-8` does for what Windows wrote"
    )]
    Text { path: PathBuf, line: u64 },
    #[error("{path}: line {line} has {found} fields where the header has {expected}; mend it")]
    Length { path: PathBuf, line: u64, found: u64, expected: u64 },
    #[error(
        "{path}: a quote that is opened on line {line} is never closed, and would swallow the rest of the file; close it, or write a \
         quote within a field twice"
    )]
    OpenQuote { path: PathBuf, line: u64 },
    #[error(
        "{path}: line {line}: a quote that is opened on line {opened} closes within a field, which goes on behind it; write a quote within \
         a field twice"
    )]
    QuoteWithin { path: PathBuf, opened: u64, line: u64 },
    #[error(
        "{path}: line {line}: {column} holds {found:?}, which no import has written there; leave it as it was, or empty"
    )]
    Reject { path: PathBuf, line: u64, column: &'static str, found: String },
    #[error("{path}: its columns seem to be separated by {separator:?}; save it with commas between them")]
    Separator { path: PathBuf, separator: char },
    #[error("{path}: there is no line with the names of the columns; the first line must be one")]
    Header { path: PathBuf },
}

impl Failure for InputError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Folder { .. } | Self::Pipe { .. } | Self::Read { .. } => ExitCode::Usage,
            Self::Utf16 { .. }
            | Self::Text { .. }
            | Self::Length { .. }
            | Self::OpenQuote { .. }
            | Self::QuoteWithin { .. }
            | Self::Reject { .. }
            | Self::Separator { .. }
            | Self::Header { .. } => ExitCode::Data,
        }
    }
}

/// A file of rows, each of which has as many fields as the header. It may be a file of rejects, whose first columns are the import's.
#[derive(Debug)]
pub(crate) struct RowsFile {
    path: PathBuf,
    /// The names of the rows' own columns.
    pub(crate) header: csv::StringRecord,
    /// How many rows follow the header.
    pub(crate) count: u64,
    /// Rows of several lines: how many, and the line of the first.
    pub(crate) of_several_lines: Option<(u64, u64)>,
    columns: RejectColumns,
}

/// A row of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SourceRow {
    /// Its number, from 1 and without the header, in the file from which it was imported first.
    pub(crate) number: u64,
    /// The line of this file on which it begins.
    pub(crate) line: u64,
    /// The identity that it had when it was refused.
    pub(crate) identity: Option<String>,
    /// Its own fields.
    pub(crate) record: csv::StringRecord,
}

impl RowsFile {
    /// Reads the whole file.
    ///
    /// # Errors
    /// [`InputError`] naming the first line that is no row.
    pub(crate) fn check(path: &Path) -> Result<Self, InputError> {
        let mut reader = csv::Reader::from_reader(Watch::new(BufReader::new(open(path)?)));
        let header = reader.headers().cloned();
        let line = reader.get_mut().begun();
        let header = header.map_err(|error| of_csv(path, line, error))?;
        let columns = RejectColumns::new(&header);
        let mut record = csv::StringRecord::new();
        let (mut count, mut of_several_lines) = (0, None);
        let read = loop {
            let read = reader.read_record(&mut record);
            let line = reader.get_mut().begun();
            match read {
                Ok(true) => count += 1,
                Ok(false) => break Ok(()),
                Err(error) => break Err(of_csv(path, line, error)),
            }
            if record.iter().any(|field| field.contains(['\n', '\r'])) {
                of_several_lines.get_or_insert((0, line)).0 += 1;
            }
            if !columns.all.is_empty() {
                columns.row(count, line, &record, path)?;
            }
        };
        // A quote that is not closed makes rows of other lengths, too.
        let path = path.to_owned();
        match reader.get_ref().fault() {
            Some(QuoteFault::Behind { opened, line }) => {
                return Err(InputError::QuoteWithin { path, opened, line });
            }
            Some(QuoteFault::Open { line }) if read.is_ok() => {
                return Err(InputError::OpenQuote { path, line });
            }
            Some(QuoteFault::Open { .. }) | None => read?,
        }
        let header = columns.without(&header);
        if header.is_empty() {
            return Err(InputError::Header { path });
        }
        let only = header.get(0).filter(|_| header.len() == 1).unwrap_or_default();
        if let Some(separator) = only.chars().find(|sign| SEPARATORS.contains(sign)) {
            return Err(InputError::Separator { path, separator });
        }
        Ok(Self { path, header, count, of_several_lines, columns })
    }

    /// What is said of rows of several lines. They are rows as any other, and also what a missing and a spare quote make of several.
    pub(crate) fn doubt(&self) -> Option<String> {
        let (count, line) = self.of_several_lines?;
        Some(format!(
            "{count} rows hold line breaks within quotes, the first on line {line}; if that is not meant, a quote is missing or too many there"
        ))
    }

    /// What it is called, without its folder.
    pub(crate) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Its rows, from the first one on.
    ///
    /// # Errors
    /// [`InputError`] when it is not there any more. A row is one when the file has changed since it was checked.
    pub(crate) fn rows(&self) -> Result<impl Iterator<Item = Result<SourceRow, InputError>>, InputError> {
        let mut reader = csv::Reader::from_reader(Watch::new(BufReader::new(open(&self.path)?)));
        let header = reader.headers().map(|_| ());
        let line = reader.get_mut().begun();
        header.map_err(|error| of_csv(&self.path, line, error))?;
        let (mut record, mut number) = (csv::StringRecord::new(), 0);
        Ok(std::iter::from_fn(move || {
            let read = reader.read_record(&mut record);
            let line = reader.get_mut().begun();
            number += 1;
            match read {
                Ok(true) => Some(self.columns.row(number, line, &record, &self.path)),
                Ok(false) => None,
                Err(error) => Some(Err(of_csv(&self.path, line, error))),
            }
        }))
    }
}

/// Where a file has the columns that the import writes before those of a refused row.
#[derive(Debug)]
struct RejectColumns {
    all: Vec<usize>,
    row: Option<usize>,
    identity: Option<usize>,
}

impl RejectColumns {
    fn new(header: &csv::StringRecord) -> Self {
        let place = |name: &str| header.iter().position(|column| column.trim() == name);
        Self {
            all: REJECT_COLUMNS.into_iter().filter_map(place).collect(),
            row: place(ROW_COLUMN),
            identity: place(IDENTITY_COLUMN),
        }
    }

    fn without(&self, record: &csv::StringRecord) -> csv::StringRecord {
        if self.all.is_empty() {
            return record.clone();
        }
        let own = (0..).zip(record).filter(|(index, _)| !self.all.contains(index));
        own.map(|(_, field)| field).collect()
    }

    fn row(
        &self,
        number: u64,
        line: u64,
        record: &csv::StringRecord,
        path: &Path,
    ) -> Result<SourceRow, InputError> {
        let given = |at: Option<usize>| {
            at.and_then(|at| record.get(at)).map(str::trim).filter(|text| !text.is_empty())
        };
        let wrong = |column, found: &str| InputError::Reject {
            path: path.to_owned(),
            line,
            column,
            found: found.to_owned(),
        };
        let number = match given(self.row) {
            Some(text) => text.parse().map_err(|_| wrong(ROW_COLUMN, text))?,
            None => number,
        };
        let identity = match given(self.identity) {
            Some(text) if is_identity(text) => Some(text.to_owned()),
            Some(text) => return Err(wrong(IDENTITY_COLUMN, text)),
            None => None,
        };
        Ok(SourceRow { number, line, identity, record: self.without(record) })
    }
}

/// Reads a whole text.
///
/// # Errors
/// [`InputError`].
pub(crate) fn text(path: &Path) -> Result<String, InputError> {
    let mut bytes = Vec::new();
    let mut file = open(path)?;
    file.read_to_end(&mut bytes).map_err(|source| InputError::Read { path: path.to_owned(), source })?;
    String::from_utf8(bytes).map_err(|error| {
        let before = error.as_bytes().iter().take(error.utf8_error().valid_up_to());
        let line = 1 + before.filter(|byte| **byte == b'\n').count() as u64;
        InputError::Text { path: path.to_owned(), line }
    })
}

/// Opens a file of text, and refuses what is no such file by what it is: neither CSV nor TOML would say so.
fn open(path: &Path) -> Result<File, InputError> {
    let path = || path.to_owned();
    let failed = |source| InputError::Read { path: path(), source };
    // Before it is opened: that would wait until somebody writes into a pipe.
    let kind = path().metadata().map_err(failed)?.file_type();
    if kind.is_dir() {
        return Err(InputError::Folder { path: path() });
    }
    if !kind.is_file() {
        return Err(InputError::Pipe { path: path() });
    }
    let mut beginning = Vec::new();
    let file = File::open(path()).map_err(failed)?;
    file.take(BEGINNING as u64).read_to_end(&mut beginning).map_err(failed)?;
    if beginning.starts_with(b"\xff\xfe") || beginning.starts_with(b"\xfe\xff") || beginning.contains(&0) {
        return Err(InputError::Utf16 { path: path() });
    }
    File::open(path()).map_err(failed)
}

/// What is wrong with the row that begins on a line.
fn of_csv(path: &Path, line: u64, error: csv::Error) -> InputError {
    let path = path.to_owned();
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            InputError::Length { path, line, found: *len, expected: *expected_len }
        }
        csv::ErrorKind::Utf8 { .. } => InputError::Text { path, line },
        _ => InputError::Read { path, source: error.into() },
    }
}

#[cfg(test)]
mod tests {
    use millstream_contract::error_text::one_line;

    use super::*;

    /// A file of Windows was sent up to its first umlaut; of a folder or of UTF-16, nobody was told which file it was.
    #[test]
    fn what_is_no_file_of_rows_is_named_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let utf16: Vec<u8> = "sku,name\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let files: [(&str, &[u8], &str); 11] = [
            ("bom16", &[b"\xff\xfe", &*utf16].concat(), "is written in UTF-16; save it as UTF-8"),
            ("no-bom16", &utf16, "is written in UTF-16; save it as UTF-8"),
            ("head", b"sku,n\xe9me\n1,Gin\n", "line 1 is not UTF-8; save the file as UTF-8"),
            ("row", b"sku,name\n1,Gin\n2,G\xe9n\n", "line 3 is not UTF-8; save the file as UTF-8"),
            ("windows", b"sku,name\r\n\r\n1,Gin\r\n2\r\n", "line 4 has 1 fields where the header has 2"),
            (
                "semicolons",
                b"sku;name\n1;Gin\n",
                "its columns seem to be separated by ';'; save it with commas",
            ),
            ("short", b"sku,name\n1,Gin\n2\n", "line 3 has 1 fields where the header has 2"),
            ("open", b"sku,name\n1,\"Gin\n2,Gin\n", "a quote that is opened on line 2 is never closed"),
            (
                "within",
                b"sku,name\n1,\"Gin\n2,\"Gin\"\n",
                "line 3: a quote that is opened on line 2 closes within",
            ),
            ("empty", b"", "there is no line with the names of the columns"),
            ("", b"", "is a folder; name a file"),
        ];
        for (name, bytes, said) in files {
            let path = folder.path().join(name);
            if !name.is_empty() {
                std::fs::write(&path, bytes).unwrap();
            }
            let refused = one_line(&RowsFile::check(&path).unwrap_err());
            assert!(refused.contains(said) && refused.contains(path.to_str().unwrap()), "{name}: {refused}");
        }
        // Opened, it would wait until somebody writes into it.
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let refused = one_line(&RowsFile::check(&pipe).unwrap_err());
        assert!(refused.contains("pipe is no file but a pipe or device"), "{refused}");
        let whole = folder.path().join("whole");
        std::fs::write(&whole, "\u{feff}sku,name\n1,Gin\n").unwrap();
        let found = RowsFile::check(&whole).unwrap();
        assert_eq!((found.count, found.header.get(0)), (1, Some("sku")));
    }

    #[test]
    fn a_map_that_is_not_utf8_is_named_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("map.toml");
        std::fs::write(&path, b"name = \"a\"\ncontext = \"r\xe9\"\n").unwrap();
        let refused = one_line(&text(&path).unwrap_err());
        assert!(refused.contains("map.toml: line 2 is not UTF-8"), "{refused}");
    }
}
