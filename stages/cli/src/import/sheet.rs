//! A sheet of a workbook (XLSX), written out as CSV with the number of each row before its cells. Cells are read one by one, so that
//! a sheet need not fit into memory; the texts that the cells of a workbook share are in memory.

use std::{
    fs::File,
    io::{BufReader, BufWriter},
    ops::Range,
    path::Path,
};

use calamine::{DataRef, DataType as _, Reader as _, SheetVisible, Xlsx, XlsxError};

use super::{
    file_form::FileForm, input::InputError, rejects::LINE_COLUMN, sheet_hidden::hidden_rows,
    source::from_start,
};

/// As many columns as a sheet can have.
const COLUMNS_MAX: u32 = 16_384;

/// A workbook shows 15 digits of a number: how many of them stand behind the first one.
const DIGITS_SHOWN: usize = 14;
/// The numbers that are dates: from the first day of 1900 to the end of 9999.
const DAYS: Range<f64> = 1.0..2_958_466.0;

/// Writes a sheet into a temporary file: the one that the map names, or the first, if people see it. Also what is to be said of the workbook.
pub(super) fn as_csv(path: &Path, file: &File, form: &FileForm) -> Result<(File, Vec<String>), InputError> {
    let unreadable =
        |source: XlsxError| InputError::Workbook { path: path.to_owned(), source: Box::new(source) };
    let kept = |source| InputError::Keep { path: path.to_owned(), source };
    let again = || from_start(path, file);
    let mut workbook: Xlsx<_> = Xlsx::new(BufReader::new(again()?)).map_err(unreadable)?;
    let sheets = workbook.sheet_names();
    let place = match &form.sheet {
        Some(name) => sheets.iter().position(|sheet| sheet == name),
        None => Some(0),
    };
    let Some((place, name)) = place.and_then(|place| Some((place, sheets.get(place)?.clone()))) else {
        let wanted = form.sheet.clone().unwrap_or_default();
        return Err(InputError::Sheet { path: path.to_owned(), wanted, known: sheets.join(", ") });
    };
    let is_visible =
        workbook.sheets_metadata().get(place).is_none_or(|sheet| sheet.visible == SheetVisible::Visible);
    if form.sheet.is_none() && !is_visible {
        return Err(InputError::HiddenSheet { path: path.to_owned(), name, known: sheets.join(", ") });
    }
    let hidden = hidden_rows(again()?, place).map_err(unreadable)?;
    let csv = tempfile::tempfile().map_err(kept)?;
    let mut lines = Lines {
        writer: csv::WriterBuilder::new()
            .flexible(true)
            .from_writer(BufWriter::new(csv.try_clone().map_err(kept)?)),
        width: None,
        decimal: form.numbers.decimal,
        hidden,
        of_hidden: None,
    };
    let mut cells = workbook.worksheet_cells_reader(&name).map_err(unreadable)?;
    let mut row: (u32, Vec<String>) = (0, Vec::new());
    while let Some(cell) = cells.next_cell().map_err(unreadable)? {
        let (number, column) = cell.get_position();
        if number != row.0 {
            lines.write(path, &row)?;
            row = (number, Vec::new());
        }
        if column >= COLUMNS_MAX {
            return Err(InputError::SheetColumn { path: path.to_owned(), line: u64::from(number) + 1 });
        }
        let column = column as usize;
        if row.1.len() <= column {
            row.1.resize(column + 1, String::new());
        }
        let text = lines.text(cell.get_value());
        if let Some(place) = row.1.get_mut(column) {
            *place = text;
        }
    }
    lines.write(path, &row)?;
    lines.writer.flush().map_err(kept)?;
    let others = (form.sheet.is_none() && sheets.len() > 1).then(|| {
        format!(
            "{}: its first sheet, {name:?}, is read; its sheets are {}, and sheet under [file] says which is meant",
            path.display(),
            sheets.join(", ")
        )
    });
    let hidden = lines.of_hidden.map(|(count, first)| {
        format!(
            "{}: {count} rows of the sheet {name:?} are hidden, the first on line {first}; they are rows as all others are",
            path.display()
        )
    });
    Ok((csv, others.into_iter().chain(hidden).collect()))
}

struct Lines {
    writer: csv::Writer<BufWriter<File>>,
    /// How many columns the header has.
    width: Option<usize>,
    decimal: char,
    /// The numbers of the rows that are not shown, in their order.
    hidden: Vec<u32>,
    /// The hidden rows that are not empty: how many there are, and the line of the first.
    of_hidden: Option<(u64, u64)>,
}

impl Lines {
    /// Writes a row that holds anything; the first is the header.
    fn write(&mut self, path: &Path, (number, cells): &(u32, Vec<String>)) -> Result<(), InputError> {
        let filled = cells.iter().rposition(|cell| !cell.trim().is_empty()).map_or(0, |last| last + 1);
        if filled == 0 {
            return Ok(());
        }
        let line = u64::from(*number) + 1;
        if self.hidden.binary_search(&(number + 1)).is_ok() {
            self.of_hidden.get_or_insert((0, line)).0 += 1;
        }
        let first = if self.width.is_none() { LINE_COLUMN.to_owned() } else { line.to_string() };
        let width = *self.width.get_or_insert(filled);
        if filled > width {
            let (found, expected) = (filled as u64, width as u64);
            return Err(InputError::Length { path: path.to_owned(), line, found, expected });
        }
        let empty = std::iter::repeat_n("", width - filled);
        let cells = cells.iter().take(filled).map(String::as_str).chain(empty);
        let written = self.writer.write_record(std::iter::once(first.as_str()).chain(cells));
        written.map_err(|error| InputError::Keep { path: path.to_owned(), source: error.into() })
    }

    /// A number with as many digits as a workbook shows of one: what it computes has others behind them. A whole number has all of its digits,
    /// as it may be the number of something.
    fn number(&self, number: f64) -> String {
        let shown = match number.fract() == 0.0 {
            true => number,
            false => format!("{number:.DIGITS_SHOWN$e}").parse().unwrap_or(number),
        };
        shown.to_string().replace('.', &self.decimal.to_string())
    }

    /// What a cell says, numbers as the map reads them.
    fn text(&self, cell: &DataRef<'_>) -> String {
        match cell {
            DataRef::Empty => String::new(),
            DataRef::String(text) => text.clone(),
            DataRef::SharedString(text) => (*text).to_owned(),
            DataRef::Int(number) => number.to_string(),
            DataRef::Float(number) => self.number(*number),
            DataRef::DateTime(moment) if moment.is_datetime() && (0.0..1.0).contains(&moment.as_f64()) => {
                let (_, _, _, hour, minute, second, _) = moment.to_ymd_hms_milli();
                format!("{hour:02}:{minute:02}:{second:02}")
            }
            // A duration, in days; or what is shown as a date and is none: a number such as 20260131.
            DataRef::DateTime(moment) if !moment.is_datetime() || !DAYS.contains(&moment.as_f64()) => {
                self.number(moment.as_f64())
            }
            DataRef::Bool(truth) => truth.to_string(),
            DataRef::DateTime(moment) => {
                let (year, month, day, hour, minute, second, _) = moment.to_ymd_hms_milli();
                match (hour, minute, second) {
                    (0, 0, 0) => format!("{year:04}-{month:02}-{day:02}"),
                    _ => format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}"),
                }
            }
            DataRef::DateTimeIso(text) | DataRef::DurationIso(text) => text.clone(),
            // As a workbook shows it: no number, which a map refuses where it wants one.
            DataRef::Error(error) => cell.as_string().unwrap_or_else(|| error.to_string()),
        }
    }
}
