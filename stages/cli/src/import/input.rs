//! The rows of a file, looked at from end to end before anything is sent.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};
use millstream_contract::exit_code::{ExitCode, Failure};

use super::{
    decode::{self, Decode, StreamFault},
    file_form::FileForm,
    identity::Digest,
    key::Taken,
    letters::{composed, composed_fields},
    reject_columns::{Doubtful, RejectColumns, Tried},
    rejects::{REJECT_COLUMNS, rejects_delimiter},
    separator::{DELIMITERS, behind_first_line, delimiter, told_separator},
    source::Source,
    units::GROUP_MAX,
    watch::{QuoteFault, Watch},
};

/// Bytes at the beginning of a text by which its encoding and its delimiter are found out.
const BEGINNING: u64 = 64 * 1024;
/// Bytes of the longest map that is read.
const MAP_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A file that cannot be imported, or is no map of an import.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    #[error("{path} is a folder; name a file in it")]
    Folder { path: PathBuf },
    #[error("{path} holds no file of rows; their names end with {endings}, and hold no .rejects")]
    EmptyFolder { path: PathBuf, endings: String },
    #[error(
        "{path} is no file but a pipe or device, which cannot be read twice; give it as standard input, with - as the file"
    )]
    Pipe { path: PathBuf },
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "{path} cannot be kept in a temporary file while it is imported; name another folder with TMPDIR"
    )]
    Keep { path: PathBuf, source: io::Error },
    #[error("{path} has changed while it was read; import it again when nobody writes into it")]
    Changed { path: PathBuf },
    #[error("{path} is a workbook of an old form; save it as XLSX or CSV")]
    OldWorkbook { path: PathBuf },
    #[error("{path} is no workbook that can be read; save it as XLSX or CSV")]
    Workbook { path: PathBuf, source: Box<calamine::XlsxError> },
    #[error("{path} is no workbook; leave out sheet in the map")]
    NoWorkbook { path: PathBuf },
    #[error(
        "{path}: its first sheet, {name:?}, is hidden; write sheet = {name:?} under [file] if it is meant, or another of {known}"
    )]
    HiddenSheet { path: PathBuf, name: String, known: String },
    #[error("{path} has no sheet {wanted:?}; there are {known}")]
    Sheet { path: PathBuf, wanted: String, known: String },
    #[error(
        "{path}: line {line} is not {encoding}; save the file as UTF-8, or say under [file] which encoding it has"
    )]
    Text { path: PathBuf, line: u64, encoding: &'static str },
    #[error(
        "{path}: line {line} is not UTF-8, in which rejects are written and read; save the file as CSV in UTF-8"
    )]
    Rejects { path: PathBuf, line: u64 },
    #[error(
        "{path} is UTF-8, as the letters from line {line} on show, and the map says that it is {encoding}; leave encoding out under [file], or \
         save the file as UTF-8 if it is {encoding} all the same"
    )]
    IsUtf8 { path: PathBuf, line: u64, encoding: &'static str },
    #[error("{path}: line {line} holds a zero byte, which no text does; find out what wrote it")]
    Zero { path: PathBuf, line: u64 },
    #[error(
        "{path}: the row of line {line} is longer than 16 MiB; a quote may be missing, or the file is none of rows"
    )]
    RowTooLong { path: PathBuf, line: u64 },
    #[error("{path} is longer than any map")]
    MapTooLong { path: PathBuf },
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
    #[error(
        "{path} has columns called {names}, as files of rejects have, but does not begin with {all}. If it is a file of rejects, put these \
         columns back at its beginning, as they were written; if the columns are its own, give them other names"
    )]
    Doubtful { path: PathBuf, names: String, all: String },
    #[error("{path}: line {line} has a cell behind the last column that a sheet can have; save it anew")]
    SheetColumn { path: PathBuf, line: u64 },
    #[error("{path}: the row of line {line} is of no group: {reason}; mend it, or skip it in the map")]
    NoGroup { path: PathBuf, line: u64, reason: String },
    #[error(
        "{path}: the group that begins on line {line} has more than {GROUP_MAX} rows; name columns under group that tell groups apart"
    )]
    GroupTooLong { path: PathBuf, line: u64 },
    #[error(
        "{path}: its columns seem to be separated by {separator:?}; write delimiter = {separator:?} under [file]"
    )]
    Separator { path: PathBuf, separator: char },
    #[error("{path}: there is no line with the names of the columns; the first line must be one")]
    Header { path: PathBuf },
}

impl Failure for InputError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => ExitCode::Usage,
            Self::Keep { source, .. } | Self::Read { source, .. } => ExitCode::of_file_error(source),
            Self::Folder { .. } | Self::EmptyFolder { .. } | Self::Pipe { .. } => ExitCode::Usage,
            Self::Sheet { .. }
            | Self::HiddenSheet { .. }
            | Self::NoWorkbook { .. }
            | Self::MapTooLong { .. } => ExitCode::Configuration,
            Self::Changed { .. }
            | Self::OldWorkbook { .. }
            | Self::Workbook { .. }
            | Self::Text { .. }
            | Self::Rejects { .. }
            | Self::IsUtf8 { .. }
            | Self::Zero { .. }
            | Self::RowTooLong { .. }
            | Self::Length { .. }
            | Self::OpenQuote { .. }
            | Self::QuoteWithin { .. }
            | Self::Reject { .. }
            | Self::Doubtful { .. }
            | Self::SheetColumn { .. }
            | Self::NoGroup { .. }
            | Self::GroupTooLong { .. }
            | Self::Separator { .. }
            | Self::Header { .. } => ExitCode::Data,
        }
    }
}

/// A file of rows, each of which has as many fields as the header. It may be a file of rejects, whose first columns are the import's.
#[derive(Debug)]
pub(crate) struct RowsFile {
    source: Source,
    encoding: &'static Encoding,
    delimiter: u8,
    /// Whether its first line says what stands between columns, before that with their names.
    tells_separator: bool,
    /// The names of the rows' own columns.
    pub(crate) header: csv::StringRecord,
    /// How many rows follow the header.
    pub(crate) count: u64,
    /// Rows that go over several lines: how many there are, and on which line the first of them begins.
    of_several_lines: Option<(u64, u64)>,
    columns: RejectColumns,
    /// What was found out of how it is written.
    found: Vec<String>,
    /// Whether the encoding was guessed from the bytes.
    is_guessed: bool,
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
    /// How many rows its group had when it was refused, if there were several.
    pub(crate) of_group: Option<usize>,
    /// For each `each` command of the map, what told the row from the other rows of its group when it was refused. It stays the same row, whatever
    /// is mended in it.
    pub(super) keys: Vec<Option<Digest>>,
    /// Keys of the row's names that other names had when it was refused.
    pub(super) taken: Vec<Taken>,
    /// How often its commands had been given when it was refused, of those that rows share.
    pub(super) tried: Vec<Tried>,
    /// What the file is called from which it was imported first; none of standard input.
    pub(crate) file: Option<Arc<str>>,
    /// Its own fields.
    pub(crate) record: csv::StringRecord,
}

impl RowsFile {
    /// Reads the whole file.
    ///
    /// # Errors
    /// [`InputError`] naming the first line that is no row.
    pub(crate) fn check(source: Source, form: &FileForm) -> Result<Self, InputError> {
        let beginning = source.beginning(BEGINNING)?;
        let delimiter = if source.is_sheet() { None } else { rejects_delimiter(&beginning, form.delimiter) };
        let are_rejects = delimiter.is_some();
        let form = &match are_rejects {
            true => FileForm { delimiter, encoding: None, ..form.clone() },
            false => form.clone(),
        };
        refuse_utf8(&source, &beginning, form)?;
        let (encoding, is_said) = match form.encoding {
            Some(encoding) => (encoding, true),
            None => (decode::utf16(&beginning).unwrap_or(UTF_8), false),
        };
        let mut file = Self {
            delimiter: b',',
            tells_separator: false,
            source,
            encoding,
            header: csv::StringRecord::new(),
            count: 0,
            of_several_lines: None,
            columns: RejectColumns::default(),
            found: Vec::new(),
            is_guessed: false,
        };
        match file.look(&beginning, form) {
            Err(InputError::Text { path, line, .. }) if are_rejects => {
                return Err(InputError::Rejects { path, line });
            }
            Err(InputError::Text { .. })
                if encoding == UTF_8 && !is_said && !decode::is_mostly_utf8(&beginning) =>
            {
                let failed = |source| InputError::Read { path: file.source.path().to_owned(), source };
                file.encoding = decode::guess(file.source.open()?).map_err(failed)?;
                file.is_guessed = true;
                file.look(&beginning, form)?;
            }
            looked => looked?,
        }
        file.found.extend_from_slice(file.source.remarks());
        if !is_said && file.encoding != UTF_8 {
            let (path, name) = (file.source.path().display(), file.encoding.name().to_lowercase());
            file.found.push(format!(
                "{path} is not UTF-8 and is read as {name}, which it looks like; look at its letters in a dry run, and write encoding = \
                 {name:?} under [file] in the map, or the one that it has"
            ));
        }
        if form.delimiter.is_none() && file.delimiter != b',' {
            let (path, sign) = (file.source.path().display(), char::from(file.delimiter));
            file.found.push(format!("{path}: its columns are separated by {sign:?}"));
        }
        Ok(file)
    }

    fn look(&mut self, beginning: &[u8], form: &FileForm) -> Result<(), InputError> {
        let is_sheet = self.source.is_sheet();
        let text = self.encoding.decode(beginning).0;
        let told = told_separator(&text).filter(|_| !is_sheet);
        self.tells_separator = told.is_some();
        self.delimiter = match form.delimiter.or(told) {
            _ if is_sheet => b',',
            Some(delimiter) => delimiter,
            None => delimiter(&text, beginning.len() as u64 == BEGINNING),
        };
        let path = self.source.path();
        let mut reader = self.reader()?;
        let header = reader.headers().cloned();
        let line = reader.get_mut().begun();
        let header = header.map_err(|error| self.of_csv(line, error))?;
        let columns =
            RejectColumns::new(&header, is_sheet).map_err(|Doubtful(names)| InputError::Doubtful {
                path: path.to_owned(),
                names: names.join(", "),
                all: REJECT_COLUMNS.join(", "),
            })?;
        let mut record = csv::StringRecord::new();
        let (mut count, mut of_several_lines) = (0, None);
        let read = loop {
            let read = reader.read_record(&mut record);
            let line = reader.get_mut().begun();
            match read {
                Ok(true) => count += 1,
                Ok(false) => break Ok(()),
                Err(error) => break Err(self.of_csv(line, error)),
            }
            if !is_sheet && record.iter().any(|field| field.contains(['\n', '\r'])) {
                of_several_lines.get_or_insert((0, line)).0 += 1;
            }
            if columns.are_there {
                columns.row(count, line, &record, path)?;
            }
        };
        // A quote that is not closed makes rows of other lengths, too.
        let path = || path.to_owned();
        match reader.get_ref().fault() {
            Some(QuoteFault::Behind { opened, line }) => {
                return Err(InputError::QuoteWithin { path: path(), opened, line });
            }
            Some(QuoteFault::Open { line }) if read.is_ok() => {
                return Err(InputError::OpenQuote { path: path(), line });
            }
            Some(QuoteFault::Open { .. }) | None => read?,
        }
        let header = composed_fields(columns.without(&header));
        if header.is_empty() {
            return Err(InputError::Header { path: path() });
        }
        let only = header.get(0).filter(|_| header.len() == 1).unwrap_or_default();
        let is_separator = |sign: &char| DELIMITERS.iter().any(|known| char::from(*known) == *sign);
        if let Some(separator) = only.chars().find(is_separator) {
            return Err(InputError::Separator { path: path(), separator });
        }
        (self.header, self.count, self.of_several_lines, self.columns) =
            (header, count, of_several_lines, columns);
        Ok(())
    }

    /// What is to be said of it: how it is written, and that rows go over several lines. Such rows are in order, unless one quote is missing and
    /// another one is too many, which makes one row of several.
    pub(crate) fn remarks(&self) -> impl Iterator<Item = String> {
        let doubt = self.of_several_lines.map(|(count, line)| {
            format!(
                "{count} rows hold line breaks within quotes, the first on line {line}; if that is not meant, a quote is missing or too many there"
            )
        });
        self.found.iter().cloned().chain(doubt)
    }

    /// How it is written: what stands between its columns, and its encoding.
    pub(crate) fn form(&self) -> (char, String) {
        (char::from(self.delimiter), self.encoding.name().to_lowercase())
    }

    /// The encoding, if it was guessed from the bytes.
    pub(crate) fn guessed_encoding(&self) -> Option<String> {
        self.is_guessed.then(|| self.encoding.name().to_lowercase())
    }

    /// What it is called, without its folder; none for standard input.
    pub(crate) fn name(&self) -> Option<String> {
        self.source.name().map(|name| composed(&name).into_owned())
    }

    /// Whether its rows were refused before.
    pub(crate) fn is_of_rejects(&self) -> bool {
        self.columns.are_there
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.source.path()
    }

    fn reader(&self) -> Result<csv::Reader<Watch<Box<dyn Read + Send>>>, InputError> {
        let text = self.source.open()?;
        let text: Box<dyn Read + Send> = match self.encoding == UTF_8 || self.source.is_sheet() {
            true => text,
            false => Box::new(Decode::new(text, self.encoding)),
        };
        let (text, line) = match self.tells_separator {
            true => {
                let text = behind_first_line(text);
                (text.map_err(|error| self.of_csv(1, error.into()))?, 2)
            }
            false => (text, 1),
        };
        let watch = Watch::new(text, self.delimiter, line);
        Ok(csv::ReaderBuilder::new().delimiter(self.delimiter).from_reader(watch))
    }

    /// Its rows, from the first one on.
    ///
    /// # Errors
    /// [`InputError`] when it is not there any more. A row is one when the file has changed since it was checked.
    pub(crate) fn rows(&self) -> Result<impl Iterator<Item = Result<SourceRow, InputError>>, InputError> {
        let mut reader = self.reader()?;
        let header = reader.headers().map(|_| ());
        let line = reader.get_mut().begun();
        header.map_err(|error| self.of_csv(line, error))?;
        let (mut record, mut number) = (csv::StringRecord::new(), 0);
        let name = self.name().map(Arc::from);
        Ok(std::iter::from_fn(move || {
            let read = reader.read_record(&mut record);
            let line = reader.get_mut().begun();
            number += 1;
            match read {
                Ok(true) => {
                    let row = self.columns.row(number, line, &record, self.path());
                    Some(row.map(|row| SourceRow { file: row.file.or_else(|| name.clone()), ..row }))
                }
                Ok(false) => self.source.check_unchanged().err().map(Err),
                Err(error) => Some(Err(self.of_csv(line, error))),
            }
        }))
    }

    /// What is wrong with the row that begins on a line.
    fn of_csv(&self, line: u64, error: csv::Error) -> InputError {
        let path = self.source.path().to_owned();
        let encoding = self.encoding.name();
        match error.kind() {
            csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                InputError::Length { path, line, found: *len, expected: *expected_len }
            }
            csv::ErrorKind::Utf8 { .. } => InputError::Text { path, line, encoding },
            csv::ErrorKind::Io(error) if StreamFault::of(error).is_some() => match StreamFault::of(error) {
                Some(StreamFault::Zero { line }) => InputError::Zero { path, line },
                Some(StreamFault::Length { line }) => InputError::RowTooLong { path, line },
                Some(StreamFault::Malformed { line }) => InputError::Text { path, line, encoding },
                None => InputError::Header { path },
            },
            _ => InputError::Read { path, source: error.into() },
        }
    }
}

/// Refuses what is UTF-8 by its bytes and something else by the map: its letters would be others, and nobody would see it before the reports.
fn refuse_utf8(source: &Source, beginning: &[u8], form: &FileForm) -> Result<(), InputError> {
    let unicode = [UTF_8, UTF_16LE, UTF_16BE];
    let Some(encoding) = form.encoding.filter(|said| !unicode.contains(said) && !source.is_sheet()) else {
        return Ok(());
    };
    let path = source.path().to_owned();
    let line = match beginning.starts_with(b"\xef\xbb\xbf") {
        true => Some(1),
        false => match decode::line_of_utf8(source.open()?) {
            Ok(line) => line,
            Err(source) => return Err(InputError::Read { path, source }),
        },
    };
    let encoding = encoding.name();
    line.map_or(Ok(()), |line| Err(InputError::IsUtf8 { path, line, encoding }))
}

/// Reads a whole text of TOML.
///
/// # Errors
/// [`InputError`].
pub(crate) fn text(path: &Path) -> Result<String, InputError> {
    let failed = |source| InputError::Read { path: path.to_owned(), source };
    let kind = path.metadata().map_err(failed)?.file_type();
    if kind.is_dir() {
        return Err(InputError::Folder { path: path.to_owned() });
    }
    if !kind.is_file() {
        return Err(InputError::Pipe { path: path.to_owned() });
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAP_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 == MAP_BYTES_MAX {
        return Err(InputError::MapTooLong { path: path.to_owned() });
    }
    String::from_utf8(bytes).map_err(|error| {
        let before = error.as_bytes().iter().take(error.utf8_error().valid_up_to());
        let line = 1 + before.filter(|byte| **byte == b'\n').count() as u64;
        InputError::Text { path: path.to_owned(), line, encoding: "UTF-8" }
    })
}

#[cfg(test)]
pub(super) mod tests;
