//! What a file of rejects says of its rows besides what they say themselves.

use std::{path::Path, sync::Arc};

use millstream_contract::commit::hexadecimal;

use super::{
    identity::{Digest, digest, is_identity, read_digest},
    input::{InputError, SourceRow},
    key::Taken,
    letters::{composed, composed_fields},
    rejects::{FILE_COLUMN, IDENTITY_COLUMN, LINE_COLUMN, REJECT_COLUMNS, ROW_COLUMN},
};

/// Which columns stand before those of the rows: that with the numbers of a sheet's rows, and those of rejects.
#[derive(Debug, Default)]
pub(super) struct RejectColumns {
    is_sheet: bool,
    pub(super) are_there: bool,
}

/// Names of columns that may be the import's or the file's own: some of those that rejects begin with, or all of them in other places.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Doubtful(pub(super) Vec<&'static str>);

impl RejectColumns {
    /// Looks for them in a header. A file of rejects begins with all of them, in their order. A file of other rows may well have a column that is
    /// called as one of them.
    ///
    /// # Errors
    /// [`Doubtful`] where it has several, or the one of identities, and does not begin with all of them: somebody may have removed or moved
    /// columns of rejects, whose rows would be imported as others.
    pub(super) fn new(header: &csv::StringRecord, is_sheet: bool) -> Result<Self, Doubtful> {
        let names: Vec<&str> = header.iter().skip(usize::from(is_sheet)).map(str::trim).collect();
        if names.starts_with(&REJECT_COLUMNS) {
            return Ok(Self { is_sheet, are_there: true });
        }
        let found: Vec<_> = REJECT_COLUMNS.into_iter().filter(|name| names.contains(name)).collect();
        match found.as_slice() {
            [] => {}
            [only] if *only != IDENTITY_COLUMN => {}
            _ => return Err(Doubtful(found)),
        }
        Ok(Self { is_sheet, are_there: false })
    }

    /// How many stand before the rows' own.
    fn count(&self) -> usize {
        usize::from(self.is_sheet) + if self.are_there { REJECT_COLUMNS.len() } else { 0 }
    }

    /// The rows' own columns.
    pub(super) fn without(&self, record: &csv::StringRecord) -> csv::StringRecord {
        match self.count() {
            0 => record.clone(),
            count => record.iter().skip(count).collect(),
        }
    }

    /// A row of the file, read.
    pub(super) fn row(
        &self,
        number: u64,
        line: u64,
        record: &csv::StringRecord,
        path: &Path,
    ) -> Result<SourceRow, InputError> {
        let first = usize::from(self.is_sheet);
        let given = |name: &str| {
            let place = REJECT_COLUMNS.iter().position(|column| *column == name)?;
            let text = record.get(first + place).filter(|_| self.are_there)?.trim();
            Some(text).filter(|text| !text.is_empty())
        };
        let wrong = |column, found: &str| InputError::Reject {
            path: path.to_owned(),
            line,
            column,
            found: found.to_owned(),
        };
        let line = match record.get(0).filter(|_| self.is_sheet) {
            Some(text) => text.parse().map_err(|_| wrong(LINE_COLUMN, text))?,
            None => line,
        };
        let number = match given(ROW_COLUMN) {
            Some(text) => text.parse().map_err(|_| wrong(ROW_COLUMN, text))?,
            None => number,
        };
        let Given { identity, of_group, keys, taken, tried } = match given(IDENTITY_COLUMN) {
            Some(text) => Given::read(text).ok_or_else(|| wrong(IDENTITY_COLUMN, text))?,
            None => Given::default(),
        };
        let file = given(FILE_COLUMN).map(|name| Arc::from(&*composed(name)));
        let record = composed_fields(self.without(record));
        Ok(SourceRow { number, line, identity, of_group, keys, taken, tried, file, record })
    }
}

/// How often a command that rows share (`once`) had been given under ids of a row when the row was refused. What was accepted under one of these
/// ids said the same row before it was mended, and what was accepted under a later one said the mended row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tried {
    /// Of the id of the first attempt.
    command: Digest,
    times: u32,
}

impl Tried {
    pub(super) fn new(id: &str, times: u32) -> Self {
        Self { command: digest("tried", [id]), times }
    }

    /// How often the command of an id had been given.
    pub(super) fn of(all: &[Self], id: &str) -> u32 {
        let Self { command, .. } = Self::new(id, 0);
        all.iter().find(|tried| tried.command == command).map_or(0, |tried| tried.times)
    }

    /// Notes it, instead of what was noted before.
    pub(super) fn note(self, all: &mut Vec<Self>) {
        all.retain(|tried| tried.command != self.command);
        all.push(self);
    }

    fn write(&self) -> String {
        format!("{}-{}", hexadecimal(&self.command), self.times)
    }

    fn read(text: &str) -> Option<Self> {
        let (command, times) = text.split_once('-')?;
        Some(Self { command: read_digest(command)?, times: times.parse().ok()? })
    }
}

/// What `import_identity` says of a row, each part behind a `/`: its identity, how many rows its group has, what told it from these (`-` stands
/// for a key that could not be told), keys that other texts have, and how often its commands had been given. Empty parts at the end are left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) identity: Option<String>,
    pub(super) of_group: Option<usize>,
    pub(super) keys: Vec<Option<Digest>>,
    pub(super) taken: Vec<Taken>,
    pub(super) tried: Vec<Tried>,
}

impl Given {
    fn read(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        parts.last().filter(|last| !last.is_empty() && parts.len() <= 5)?;
        let identity = parts.first().filter(|text| is_identity(text))?.to_string();
        let of_group = match parts.get(1) {
            Some(count) => Some(count.parse().ok().filter(|count| *count > 0)?),
            None => None,
        };
        let key = |text: &str| match text {
            "-" => Some(None),
            text => read_digest(text).map(Some),
        };
        Some(Self {
            identity: Some(identity),
            of_group,
            keys: list(parts.get(2), key)?,
            taken: list(parts.get(3), Taken::read)?,
            tried: list(parts.get(4), Tried::read)?,
        })
    }

    pub(super) fn write(&self) -> String {
        let Self { identity: Some(identity), of_group, keys, taken, tried } = self else {
            return String::new();
        };
        let key = |key: &Option<Digest>| key.as_ref().map_or_else(|| "-".to_owned(), |key| hexadecimal(key));
        let mut parts = vec![
            identity.clone(),
            of_group.unwrap_or(1).to_string(),
            keys.iter().map(key).collect::<Vec<_>>().join("."),
            taken.iter().map(Taken::write).collect::<Vec<_>>().join("."),
            tried.iter().map(Tried::write).collect::<Vec<_>>().join("."),
        ];
        while parts.len() > 2 && parts.last().is_some_and(String::is_empty) {
            parts.pop();
        }
        if parts.len() == 2 && of_group.is_none_or(|count| count == 1) {
            parts.pop();
        }
        parts.join("/")
    }
}

/// The items of a part, between which points stand; none where there is no part.
fn list<T>(part: Option<&&str>, read: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    match part.filter(|part| !part.is_empty()) {
        Some(part) => part.split('.').map(read).collect(),
        None => Some(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let taken = "0123456789abcdef01234567-89abcdef0123456701234567-7";
        let taken = Taken::read(taken).unwrap();
        let tried = Tried::new("map:0123:retail.product.register", 3);
        let (identity, key) = (Some("0123456789abcdef01234567".to_owned()), digest("key", ["tea"]));
        for (of_group, keys) in
            [(None, vec![]), (Some(3), vec![]), (Some(1), vec![Some(key)]), (Some(2), vec![None, Some(key)])]
        {
            for (taken, tried) in [
                (vec![], vec![]),
                (vec![taken], vec![]),
                (vec![], vec![tried]),
                (vec![taken, taken], vec![tried, tried]),
            ] {
                // How many rows its group has is always told beside what follows.
                let of_group = of_group.or(Some(1).filter(|_| taken.len() + tried.len() > 0));
                let given = Given { identity: identity.clone(), of_group, keys: keys.clone(), taken, tried };
                assert_eq!(Given::read(&given.write()), Some(given));
            }
        }
        let identity = identity.unwrap();
        for wrong in [
            "",
            "7",
            "X/2",
            "/",
            "/0",
            "/2/",
            "/2/x",
            "/2/-/-",
            "/2/-/",
            "/2//x-y-7",
            "/x",
            "/2//",
            "/2///",
            "/2///x-7",
            "/2///-/",
        ] {
            let text = if wrong.starts_with('/') { format!("{identity}{wrong}") } else { wrong.to_owned() };
            assert_eq!(Given::read(&text), None, "{text}");
        }
    }

    fn columns(names: &str, is_sheet: bool) -> Result<bool, Doubtful> {
        let header: csv::StringRecord = names.split(',').collect();
        RejectColumns::new(&header, is_sheet).map(|columns| columns.are_there)
    }

    /// A column that a file had called `import_code` was left out of its rows, and `import_row` was the number of the row.
    #[test]
    fn columns_of_a_file_are_taken_for_those_of_rejects_only_if_all_are_there() {
        let all = REJECT_COLUMNS.join(",");
        for own in
            ["sku,price", "sku,import_code", "import_row,sku", "import_line", "import_file,a,b,c,d,e,f"]
        {
            assert_eq!(columns(own, false), Ok(false), "{own}");
            assert_eq!(columns(&format!("import_line,{own}"), true), Ok(false), "{own}");
            assert_eq!(columns(&format!("{all},{own}"), false), Ok(true), "{own}");
            assert_eq!(columns(&format!("import_line,{all},{own}"), true), Ok(true), "{own}");
        }
        let without = |name: &str| all.replace(&format!("{name},"), "");
        for doubtful in [
            without("import_code"),
            without("import_row"),
            format!("sku,{all}"),
            all.replace("import_row,import_line", "import_line,import_row"),
            "sku,import_identity".to_owned(),
            "import_code,import_file".to_owned(),
        ] {
            assert!(columns(&doubtful, false).is_err(), "{doubtful}");
            assert!(columns(&format!("import_line,{doubtful}"), true).is_err(), "{doubtful}");
        }
    }

    #[test]
    fn what_is_noted_of_a_command_replaces_what_was_noted_before() {
        let mut all = vec![Tried::new("a", 1), Tried::new("b", 2)];
        Tried::new("a", 3).note(&mut all);
        assert_eq!(["a", "b", "c"].map(|id| Tried::of(&all, id)), [3, 2, 0]);
    }
}
