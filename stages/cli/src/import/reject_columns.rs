//! What a file of rejects says of its rows besides what they say themselves.

use std::{path::Path, sync::Arc};

use millstream_contract::commit::hexadecimal;

use super::{
    identity::{Digest, is_identity, read_digest},
    input::{InputError, SourceRow},
    key::Taken,
    rejects::{FILE_COLUMN, IDENTITY_COLUMN, LINE_COLUMN, REJECT_COLUMNS, ROW_COLUMN},
};

/// Where a file has the columns that the import writes before those of a refused row.
#[derive(Debug)]
pub(super) struct RejectColumns {
    pub(super) all: Vec<usize>,
    row: Option<usize>,
    line: Option<usize>,
    identity: Option<usize>,
    file: Option<usize>,
}

impl RejectColumns {
    pub(super) fn new(header: &csv::StringRecord) -> Self {
        let place = |name: &str| header.iter().position(|column| column.trim() == name);
        Self {
            all: REJECT_COLUMNS.into_iter().filter_map(place).collect(),
            row: place(ROW_COLUMN),
            line: place(LINE_COLUMN),
            identity: place(IDENTITY_COLUMN),
            file: place(FILE_COLUMN),
        }
    }

    pub(super) fn without(&self, record: &csv::StringRecord) -> csv::StringRecord {
        if self.all.is_empty() {
            return record.clone();
        }
        let own = (0..).zip(record).filter(|(index, _)| !self.all.contains(index));
        own.map(|(_, field)| field).collect()
    }

    /// A row of the file, read.
    pub(super) fn row(
        &self,
        number: u64,
        line: u64,
        is_sheet: bool,
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
        let line = match given(self.line) {
            Some(text) if is_sheet => text.parse().map_err(|_| wrong(LINE_COLUMN, text))?,
            _ => line,
        };
        let number = match given(self.row) {
            Some(text) => text.parse().map_err(|_| wrong(ROW_COLUMN, text))?,
            None => number,
        };
        let Given { identity, of_group, keys, taken } = match given(self.identity) {
            Some(text) => Given::read(text).ok_or_else(|| wrong(IDENTITY_COLUMN, text))?,
            None => Given::default(),
        };
        let file = given(self.file).map(Arc::from);
        Ok(SourceRow { number, line, identity, of_group, keys, taken, file, record: self.without(record) })
    }
}

/// What `import_identity` says of a row: `<identity>`, or of a row of a group `<identity>/<rows>/<key>.<key>`, the rows of its group and what
/// told it from these. `-` stands for a key that could not be told. Behind another `/` stand the keys that other texts have.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) identity: Option<String>,
    pub(super) of_group: Option<usize>,
    pub(super) keys: Vec<Option<Digest>>,
    pub(super) taken: Vec<Taken>,
}

impl Given {
    fn read(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let identity = parts.next().filter(|text| is_identity(text))?.to_owned();
        let of_group = match parts.next() {
            Some(count) => Some(count.parse().ok().filter(|count| *count > 0)?),
            None => None,
        };
        let key = |text: &str| match text {
            "-" => Some(None),
            text => read_digest(text).map(Some),
        };
        let (keys, taken) = (parts.next(), parts.next());
        let keys = match keys.filter(|keys| taken.is_none() || !keys.is_empty()) {
            Some(keys) => keys.split('.').map(key).collect::<Option<_>>()?,
            None => Vec::new(),
        };
        let taken = match taken {
            Some(taken) => taken.split('.').map(Taken::read).collect::<Option<_>>()?,
            None => Vec::new(),
        };
        parts.next().is_none().then_some(Self { identity: Some(identity), of_group, keys, taken })
    }

    pub(super) fn write(&self) -> String {
        let Self { identity: Some(identity), of_group, keys, taken } = self else { return String::new() };
        let count = of_group.unwrap_or(1);
        let key = |key: &Option<Digest>| key.as_ref().map_or_else(|| "-".to_owned(), |key| hexadecimal(key));
        let taken = taken.iter().map(Taken::write).collect::<Vec<_>>().join(".");
        match keys.iter().map(key).collect::<Vec<_>>().join(".") {
            keys if !taken.is_empty() => format!("{identity}/{count}/{keys}/{taken}"),
            keys if !keys.is_empty() => format!("{identity}/{count}/{keys}"),
            _ if count > 1 => format!("{identity}/{count}"),
            _ => identity.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::identity::digest, *};

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let taken = "0123456789abcdef01234567-89abcdef0123456701234567-7";
        let taken = Taken::read(taken).unwrap();
        let (identity, key) = (Some("0123456789abcdef01234567".to_owned()), digest("key", ["tea"]));
        for (of_group, keys) in
            [(None, vec![]), (Some(3), vec![]), (Some(1), vec![Some(key)]), (Some(2), vec![None, Some(key)])]
        {
            for taken in [vec![], vec![taken], vec![taken, taken]] {
                // How many rows its group has is always told beside keys that others have.
                let of_group = of_group.or(Some(1).filter(|_| !taken.is_empty()));
                let given = Given { identity: identity.clone(), of_group, keys: keys.clone(), taken };
                assert_eq!(Given::read(&given.write()), Some(given));
            }
        }
        let identity = identity.unwrap();
        for wrong in ["", "7", "X/2", "/", "/0", "/2/", "/2/x", "/2/-/-", "/2/-/", "/2//x-y-7", "/x"] {
            let text = if wrong.starts_with('/') { format!("{identity}{wrong}") } else { wrong.to_owned() };
            assert_eq!(Given::read(&text), None, "{text}");
        }
    }
}
