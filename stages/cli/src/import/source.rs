//! Where rows come from: a file, one that is compressed, a workbook, a folder of such files, or standard input. Each is read twice, so that
//! what can be read once only is kept in a temporary file.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use flate2::read::MultiGzDecoder;

use super::{
    file_form::FileForm,
    input::InputError,
    rejects::{REJECTS_BEGINNING, rejects_delimiter},
    sheet,
};

/// What stands for standard input.
pub(crate) const STANDARD_INPUT: &str = "-";
/// What files of rows are called in a folder.
const ENDINGS: [&str; 7] = [".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz", ".xlsx"];

const GZIP: &[u8] = b"\x1f\x8b";
const ZIP: &[u8] = b"PK\x03\x04";
/// Excel before 2007.
const OLD_WORKBOOK: &[u8] = b"\xd0\xcf\x11\xe0";

/// Something that can be read as often as it takes.
#[derive(Debug)]
pub(crate) struct Source {
    path: PathBuf,
    kind: Kind,
    /// By which a change is noticed.
    stamp: Option<Stamp>,
    /// What is to be said of a workbook.
    remarks: Vec<String>,
}

#[derive(Debug)]
enum Kind {
    Plain,
    Compressed,
    /// Its bytes, kept for this import.
    Kept(File),
    /// The same of a workbook, as CSV.
    Sheet(File),
}

type Stamp = (u64, u64, i64, i64);

impl Source {
    /// Looks at a file.
    ///
    /// # Errors
    /// [`InputError`] when there is none, or one that cannot be read twice.
    pub(crate) fn at(path: &Path, form: &FileForm) -> Result<Self, InputError> {
        if path == Path::new(STANDARD_INPUT) {
            return Self::keep(path, io::stdin().lock())?.of_its_kind(form);
        }
        let failed = |source| InputError::Read { path: path.to_owned(), source };
        // Before it is opened: that would wait until somebody writes into a pipe.
        let found = path.metadata().map_err(failed)?;
        if found.is_dir() {
            return Err(InputError::Folder { path: path.to_owned() });
        }
        if !found.is_file() {
            return Err(InputError::Pipe { path: path.to_owned() });
        }
        let file = File::open(path).map_err(failed)?;
        let stamp = Some(stamp(&file.metadata().map_err(failed)?));
        Self { path: path.to_owned(), kind: Kind::Plain, stamp, remarks: Vec::new() }.of_its_kind(form)
    }

    pub(super) fn keep(path: &Path, mut input: impl Read) -> Result<Self, InputError> {
        let failed = |source| InputError::Keep { path: path.to_owned(), source };
        let mut file = tempfile::tempfile().map_err(failed)?;
        io::copy(&mut input, &mut file).map_err(failed)?;
        Ok(Self { path: path.to_owned(), kind: Kind::Kept(file), stamp: None, remarks: Vec::new() })
    }

    fn of_its_kind(mut self, form: &FileForm) -> Result<Self, InputError> {
        let beginning = self.beginning(8)?;
        if beginning.starts_with(OLD_WORKBOOK) {
            return Err(InputError::OldWorkbook { path: self.path });
        }
        if beginning.starts_with(ZIP) {
            let file = self.file()?;
            let (file, remarks) = sheet::as_csv(&self.path, &file, form)?;
            (self.kind, self.remarks) = (Kind::Sheet(file), remarks);
        } else if beginning.starts_with(GZIP) {
            self.kind = match self.kind {
                Kind::Kept(file) => {
                    let kept = Self::keep(&self.path, MultiGzDecoder::new(from_start(&self.path, &file)?))?;
                    kept.kind
                }
                _ => Kind::Compressed,
            };
        }
        if form.sheet.is_some() && !self.is_sheet() {
            let beginning = self.beginning(REJECTS_BEGINNING)?;
            if rejects_delimiter(&beginning, form.delimiter).is_none() {
                return Err(InputError::NoWorkbook { path: self.path });
            }
        }
        Ok(self)
    }

    fn file(&self) -> Result<File, InputError> {
        match &self.kind {
            Kind::Plain | Kind::Compressed => {
                let failed = |source| InputError::Read { path: self.path.clone(), source };
                let file = File::open(&self.path).map_err(failed)?;
                self.check(&file)?;
                Ok(file)
            }
            Kind::Kept(file) | Kind::Sheet(file) => from_start(&self.path, file),
        }
    }

    /// Refuses a file that is not the one that it was.
    pub(super) fn check_unchanged(&self) -> Result<(), InputError> {
        if self.stamp.is_none() {
            return Ok(());
        }
        let failed = |source| InputError::Read { path: self.path.clone(), source };
        self.check(&File::open(&self.path).map_err(failed)?)
    }

    fn check(&self, file: &File) -> Result<(), InputError> {
        let failed = |source| InputError::Read { path: self.path.clone(), source };
        let now = stamp(&file.metadata().map_err(failed)?);
        match self.stamp {
            Some(before) if before != now => Err(InputError::Changed { path: self.path.clone() }),
            _ => Ok(()),
        }
    }

    /// Reads it from its beginning.
    ///
    /// # Errors
    /// [`InputError`] when it is not there any more, or another one.
    pub(super) fn open(&self) -> Result<Box<dyn Read + Send>, InputError> {
        let file = BufReader::with_capacity(64 * 1024, self.file()?);
        Ok(match self.kind {
            Kind::Compressed => Box::new(MultiGzDecoder::new(file)),
            Kind::Plain | Kind::Kept(_) | Kind::Sheet(_) => Box::new(file),
        })
    }

    /// Its first bytes.
    pub(super) fn beginning(&self, length: u64) -> Result<Vec<u8>, InputError> {
        let mut bytes = Vec::new();
        let read = self.open()?.take(length).read_to_end(&mut bytes);
        read.map_err(|source| InputError::Read { path: self.path.clone(), source })?;
        Ok(bytes)
    }

    /// What is to be said of how it is read.
    pub(super) fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What it is called, without its folder and whether it is compressed; none for standard input.
    pub(super) fn name(&self) -> Option<String> {
        let name = self.path.file_name()?.to_string_lossy();
        let name = name.strip_suffix(".gz").unwrap_or(&name);
        (self.path != Path::new(STANDARD_INPUT)).then(|| name.to_owned())
    }

    /// Whether it is a workbook, whose rows tell their numbers.
    pub(super) fn is_sheet(&self) -> bool {
        matches!(self.kind, Kind::Sheet(_))
    }
}

pub(super) fn from_start(path: &Path, file: &File) -> Result<File, InputError> {
    let failed = |source| InputError::Keep { path: path.to_owned(), source };
    // Readers share a place in the file: one is through before the next begins.
    let mut file = file.try_clone().map_err(failed)?;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    Ok(file)
}

fn stamp(found: &std::fs::Metadata) -> Stamp {
    (found.ino(), found.size(), found.mtime(), found.mtime_nsec())
}

/// The files that a path stands for, in the order of their names: itself, or those in a folder. Also what of the folder is left out.
///
/// # Errors
/// [`InputError`] when a folder cannot be read or holds no file of rows.
pub(crate) fn files(path: &Path) -> Result<(Vec<PathBuf>, Vec<String>), InputError> {
    if path == Path::new(STANDARD_INPUT) || !path.is_dir() {
        return Ok((vec![path.to_owned()], Vec::new()));
    }
    let failed = |source| InputError::Read { path: path.to_owned(), source };
    let (mut all, mut left_out) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().to_lowercase();
        let is_of_rows = ENDINGS.iter().any(|ending| name.ends_with(ending));
        if is_of_rows && !name.starts_with(['.', '~']) && !name.contains(".rejects") && entry.path().is_file()
        {
            all.push(entry.path());
        } else {
            left_out.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    if all.is_empty() {
        return Err(InputError::EmptyFolder { path: path.to_owned(), endings: ENDINGS.join(", ") });
    }
    all.sort();
    left_out.sort();
    Ok((all, left_out))
}
