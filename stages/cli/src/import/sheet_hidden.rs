//! The rows of a sheet that a workbook does not show: those that were hidden, folded away or filtered out. What reads the cells does not tell
//! them.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader},
};

use calamine::XlsxError;
use quick_xml::{
    Reader,
    events::{BytesStart, Event},
};
use zip::ZipArchive;

const FOLDER: &str = "xl/";

/// The numbers of the hidden rows, from 1 and in their order, of the sheet at a place in the workbook's list of sheets. If the parts are not
/// where programs usually write them, no rows are found.
pub(super) fn hidden_rows(workbook: File, sheet: usize) -> Result<Vec<u32>, XlsxError> {
    let mut parts = ZipArchive::new(BufReader::new(workbook))?;
    let mut ids = Vec::new();
    elements(&mut parts, &format!("{FOLDER}workbook.xml"), "sheet", |sheet| {
        ids.push(attribute(sheet, "id")?);
        Ok(())
    })?;
    let mut targets = HashMap::new();
    elements(&mut parts, &format!("{FOLDER}_rels/workbook.xml.rels"), "Relationship", |relation| {
        if let (Some(id), Some(target)) = (attribute(relation, "Id")?, attribute(relation, "Target")?) {
            targets.insert(id, target);
        }
        Ok(())
    })?;
    let Some(target) = ids.into_iter().nth(sheet).flatten().and_then(|id| targets.remove(&id)) else {
        return Ok(Vec::new());
    };
    let path = target.strip_prefix('/').map_or_else(|| format!("{FOLDER}{target}"), str::to_owned);
    let (mut hidden, mut number) = (Vec::new(), 0_u32);
    elements(&mut parts, &path, "row", |row| {
        // A row without its number is the next one.
        number = match attribute(row, "r")? {
            Some(text) => text.parse().map_err(XlsxError::ParseInt)?,
            None => number.saturating_add(1),
        };
        if attribute(row, "hidden")?.is_some_and(|truth| truth == "1" || truth == "true") {
            hidden.push(number);
        }
        Ok(())
    })?;
    // Rows may stand in any order.
    hidden.sort_unstable();
    Ok(hidden)
}

/// Looks at each element of a name in a part, if there is such a part.
fn elements(
    parts: &mut ZipArchive<BufReader<File>>,
    path: &str,
    name: &str,
    look: impl FnMut(&BytesStart<'_>) -> Result<(), XlsxError>,
) -> Result<(), XlsxError> {
    let mut found = None;
    for known in parts.file_names() {
        let known = known?;
        if known.eq_ignore_ascii_case(path) {
            found = Some(known.into_owned());
        }
    }
    let Some(path) = found else { return Ok(()) };
    elements_of(Reader::from_reader(BufReader::new(parts.by_name(&path)?)), name, look)
}

fn elements_of(
    mut reader: Reader<impl BufRead>,
    name: &str,
    mut look: impl FnMut(&BytesStart<'_>) -> Result<(), XlsxError>,
) -> Result<(), XlsxError> {
    let mut buffer = Vec::new();
    loop {
        buffer.clear();
        match reader.read_event_into(&mut buffer)? {
            Event::Start(element) | Event::Empty(element) if element.local_name().as_ref() == name => {
                look(&element)?
            }
            Event::Eof => return Ok(()),
            _ => {}
        }
    }
}

/// An attribute by its name, whatever stands before that.
fn attribute(element: &BytesStart<'_>, name: &str) -> Result<Option<String>, XlsxError> {
    for attribute in element.attributes() {
        let attribute = attribute.map_err(XlsxError::XmlAttr)?;
        if attribute.key.local_name().as_ref() == name {
            return Ok(Some(attribute.value.into_owned()));
        }
    }
    Ok(None)
}
