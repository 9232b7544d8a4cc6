//! What makes two rows one: chosen in the map, and part of the ids of a row's commands, by which it takes effect once.
//!
//! Deliberately absent: the number of a row. A row that is put in before others would make all of them other rows.

use std::collections::{HashMap, HashSet};

use millstream_contract::commit::{commit_hash, hexadecimal};

use super::{
    node::{At, Node, Placed},
    template::{TemplateError, parse_text},
    text::{Columns, Row, RowError, Text},
};

/// Bytes of a hash: more than enough for all rows that a shop ever has.
const LENGTH: usize = 12;

/// What a map may say.
pub(super) const CHOICES: &str = "\
    identity = [\"{column}\", …] for the columns whose values no two rows share, such as the number of an invoice and of its line; \
    identity = \"content\" where equal rows of different files are one, as in exports that overlap; \
    identity = \"file-and-content\" where a file of another name holds other rows, even if they are equal";

/// What a command that is given for each row of a group may say.
const EACH_CHOICES: &str = "\
    each = [\"{column}\", …] for the columns whose values no two rows of a group share, such as the number of the line or of the article; \
    each = \"content\" where there are none, and no row is ever corrected in the file";

/// A hash of some fields. No two lists of fields have the same one.
pub(super) type Digest = [u8; LENGTH];

/// How a map tells rows apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Identity {
    /// By the values of these columns.
    Columns(Vec<Text>),
    /// By all columns. The second of two equal rows of a file is another row than the first.
    Content,
    /// By all columns and the name of the file.
    FileAndContent,
}

/// Why a map does not say which rows are one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error("identity is {found}; write {CHOICES}")]
    Unknown { found: String },
    #[error(
        "{text} is not one column; write each column as a text of its own, so that 1 and 12 are told from 11 and 2"
    )]
    NotOneColumn { text: String },
    #[error("{text}: the filter makes one text of different ones; leave it out here")]
    Joins { text: String },
    #[error("standard input has no name to tell rows by; write it into a file, or name columns")]
    NoName,
    #[error("each is {found}; write {EACH_CHOICES}")]
    Each { found: String },
    #[error(transparent)]
    Value(#[from] TemplateError),
}

impl Identity {
    /// Reads what a map says.
    ///
    /// # Errors
    /// [`IdentityError`] when it could make one row of two.
    pub(super) fn read(value: &Placed, columns: &Columns) -> Result<Self, At<IdentityError>> {
        match value.get_ref() {
            Node::Text(word) if word == "content" => Ok(Self::Content),
            Node::Text(words) if words == "file-and-content" => Ok(Self::FileAndContent),
            Node::List(texts) if !texts.is_empty() => texts_of(texts, columns).map(Self::Columns),
            found => Err(At::new(value, IdentityError::Unknown { found: found.to_string() })),
        }
    }
}

/// How a command that is given for each row of a group tells these apart. Their places would not do: a line that is put into an invoice
/// would make others of all below it.
#[derive(Debug)]
pub(super) enum Each {
    /// By the values of these columns.
    Columns(Vec<Text>),
    /// By all columns. The second of two equal rows of a group is another one than the first.
    Content,
}

impl Each {
    /// Reads what a map says.
    ///
    /// # Errors
    /// [`IdentityError`] when it could make one row of two.
    pub(super) fn read(value: &Placed, columns: &Columns) -> Result<Self, At<IdentityError>> {
        match value.get_ref() {
            Node::Text(word) if word == "content" => Ok(Self::Content),
            Node::List(texts) if !texts.is_empty() => texts_of(texts, columns).map(Self::Columns),
            found => Err(At::new(value, IdentityError::Each { found: found.to_string() })),
        }
    }

    /// A hash of what a row says in these columns. Other rows of its group may have the same.
    ///
    /// # Errors
    /// [`RowError`] when a column is empty.
    pub(super) fn key(&self, row: &Row<'_>) -> Result<Digest, RowError> {
        match self {
            Self::Columns(texts) => of_columns("each", texts, row),
            Self::Content => Ok(digest("each", row.rows.iter().flat_map(|row| &row.record))),
        }
    }

    /// Whether what tells a row from others holds letters that depend on how the file is read.
    pub(super) fn has_foreign_letters(&self, row: &Row<'_>) -> bool {
        match self {
            Self::Columns(texts) => are_foreign(texts, row),
            Self::Content => is_foreign(row),
        }
    }

    /// What tells a row with this key from the others of its group, whose lines are in `seen`. Rows that share a command (`once`) may be alike.
    ///
    /// # Errors
    /// [`RowError`] when two rows have the same values.
    pub(super) fn told_apart(
        &self,
        key: Digest,
        line: u64,
        once: bool,
        seen: &mut HashMap<Digest, Vec<u64>>,
    ) -> Result<Digest, RowError> {
        let lines = seen.entry(key).or_default();
        lines.push(line);
        match (self, lines.as_slice()) {
            (_, [_]) => Ok(key),
            (Self::Columns(_), [first, .., line]) if !once => {
                Err(RowError::SameInGroup { line: *line, other_line: *first })
            }
            (_, lines) => Ok(digest(&hexadecimal(&key), [lines.len().to_string().as_str()])),
        }
    }
}

fn texts_of(list: &[Placed], columns: &Columns) -> Result<Vec<Text>, At<IdentityError>> {
    list.iter().map(|text| column(text, columns)).collect()
}

/// A hash of the values of columns.
fn of_columns(kind: &str, texts: &[Text], row: &Row<'_>) -> Result<Digest, RowError> {
    let values = texts.iter().map(|text| text.render(row)).collect::<Result<Vec<_>, _>>()?;
    Ok(digest(kind, values.iter().map(String::as_str)))
}

/// Whether values of columns hold letters other than ASCII.
pub(super) fn are_foreign(texts: &[Text], row: &Row<'_>) -> bool {
    texts.iter().any(|text| text.render(row).is_ok_and(|value| !value.is_ascii()))
}

fn is_foreign(row: &Row<'_>) -> bool {
    row.rows.iter().flat_map(|row| &row.record).any(|field| !field.is_ascii())
}

/// A text that is one column, and never the same for two that differ.
pub(super) fn column(value: &Placed, columns: &Columns) -> Result<Text, At<IdentityError>> {
    let parsed =
        parse_text(value, columns).map_err(|error| At { span: error.span, what: error.what.into() })?;
    let text = value.get_ref().to_string();
    if parsed.column_index().is_none() {
        return Err(At::new(value, IdentityError::NotOneColumn { text }));
    }
    if parsed.may_join() {
        return Err(At::new(value, IdentityError::Joins { text }));
    }
    Ok(parsed)
}

/// Gives the rows of a file their identities, in their order.
#[derive(Debug)]
pub(super) struct Identities {
    identity: Identity,
    /// The contents that several rows of the file have.
    repeated: HashSet<Digest>,
    /// How many rows with each of these contents have been given an identity so far.
    seen: HashMap<Digest, u32>,
}

impl Identities {
    pub(super) fn new(identity: Identity) -> Self {
        Self { identity, repeated: HashSet::new(), seen: HashMap::new() }
    }

    /// Whether the name of its file tells a row from others.
    pub(super) fn are_of_files(&self) -> bool {
        self.identity == Identity::FileAndContent
    }

    /// Whether what tells a row from others holds letters that depend on how the file is read.
    pub(super) fn has_foreign_letters(&self, row: &Row<'_>) -> bool {
        match &self.identity {
            Identity::Columns(texts) => are_foreign(texts, row),
            Identity::Content | Identity::FileAndContent => is_foreign(row),
        }
    }

    /// Whether rows have the identity that their columns give, which two of a file may share by mistake.
    pub(super) fn are_of_columns(&self) -> bool {
        matches!(self.identity, Identity::Columns(_))
    }

    /// Notes that several rows have a content.
    pub(super) fn repeat(&mut self, content: Digest) {
        self.repeated.insert(content);
    }

    /// A hash of what tells a row from others: its columns or its content. Rows with equal contents have the same one.
    ///
    /// # Errors
    /// [`RowError`] when a column that tells rows apart is empty.
    pub(super) fn base(&self, row: &Row<'_>) -> Result<Digest, RowError> {
        let fields = || row.rows.iter().flat_map(|row| &row.record);
        Ok(match &self.identity {
            Identity::Columns(texts) => of_columns("columns", texts, row)?,
            Identity::Content => digest("content", fields()),
            Identity::FileAndContent => {
                let file = row.rows.first().and_then(|row| row.file.as_deref()).unwrap_or_default();
                digest("file-and-content", std::iter::once(file).chain(fields()))
            }
        })
    }

    /// The identity of the next row.
    ///
    /// # Errors
    /// [`RowError`] when a column that tells rows apart is empty.
    pub(super) fn of(&mut self, row: &Row<'_>) -> Result<String, RowError> {
        let digest = self.base(row)?;
        let is_counted = !self.are_of_columns() && self.repeated.contains(&digest);
        Ok(hexadecimal(&if is_counted { self.nth(digest) } else { digest }))
    }

    /// The identity of the next row with this content.
    fn nth(&mut self, content: Digest) -> Digest {
        let count = self.seen.entry(content).or_default();
        *count += 1;
        if *count == 1 { content } else { digest(&hexadecimal(&content), [count.to_string().as_str()]) }
    }
}

/// Whether a text has the form in which an import writes identities.
pub(super) fn is_identity(text: &str) -> bool {
    text.len() == 2 * LENGTH
        && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// A hash as it is written for an identity.
pub(super) fn read_digest(text: &str) -> Option<Digest> {
    let bytes = is_identity(text).then(|| u128::from_str_radix(text, 16).ok())??.to_be_bytes();
    bytes.last_chunk().copied()
}

/// A hash of a kind and of fields: each with its length, so that no others have it.
pub(super) fn digest<'a>(kind: &'a str, fields: impl IntoIterator<Item = &'a str>) -> Digest {
    let mut bytes = Vec::new();
    for field in std::iter::once(kind).chain(fields) {
        bytes.extend_from_slice(&(field.len() as u64).to_be_bytes());
        bytes.extend_from_slice(field.as_bytes());
    }
    let mut digest = [0; LENGTH];
    digest.iter_mut().zip(commit_hash(&bytes)).for_each(|(to, from)| *to = from);
    digest
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::{
        super::{
            input::SourceRow,
            text::tests::{row, source_row},
        },
        *,
    };

    fn read(identity: &str) -> Result<Identity, IdentityError> {
        let columns = Columns::new(&csv::StringRecord::from(vec!["a", "b"]));
        let table: Placed = toml::from_str(identity).unwrap();
        Identity::read(table.get_ref().get("identity").unwrap(), &columns).map_err(|error| error.what)
    }

    fn identities(identity: &str, file: &str, rows: &[[&str; 2]]) -> Vec<String> {
        let mut identities = Identities::new(read(identity).unwrap());
        let source_row = |fields: &[&str; 2]| SourceRow { file: Some(file.into()), ..source_row(2, fields) };
        let slugs = RefCell::default();
        let mut contents = HashSet::new();
        for fields in rows {
            let rows = [source_row(fields)];
            let base = identities.base(&row(&rows, &slugs)).unwrap();
            if !contents.insert(base) {
                identities.repeat(base);
            }
        }
        let all = rows.iter().map(|fields| {
            let rows = [source_row(fields)];
            identities.of(&row(&rows, &slugs)).unwrap()
        });
        all.collect()
    }

    #[test]
    fn what_could_make_one_row_of_two_is_refused() {
        for (identity, said) in [
            ("identity = \"row\"", "identity is \"row\"; write identity = ["),
            ("identity = []", "identity is an empty list"),
            ("identity = [7]", "found 7"),
            ("identity = [\"{a}{b}\"]", "is not one column"),
            ("identity = [\"sale\"]", "is not one column"),
            ("identity = [\"{row}\"]", "is not one column"),
            ("identity = [\"{a|pad:3}\"]", "the filter makes one text of different ones"),
            ("identity = [\"{a|default:x}\"]", "the filter makes one text of different ones"),
            ("identity = [\"{a|date:%Y-%m-%d %H:%M}\"]", "the filter makes one text of different ones"),
            ("identity = [\"{a|lower}\"]", "the filter makes one text of different ones"),
            ("identity = [\"{a|slug}\"]", "the filter makes one text of different ones"),
            ("identity = [\"{c}\"]", "there is no column \"c\""),
        ] {
            let refused = read(identity).unwrap_err().to_string();
            assert!(refused.contains(said), "{identity}: {refused}");
        }
    }

    #[test]
    fn a_filter_that_only_writes_in_another_way_may_stand_in_an_identity() {
        for filter in ["date:%d.%m.%Y", "date:%m/%d/%Y"] {
            assert!(read(&format!("identity = [\"{{a|{filter}}}\"]")).is_ok(), "{filter}");
        }
    }

    #[test]
    fn rows_are_told_apart_as_the_map_says() {
        let rows = [["1", "12"], ["11", "2"], ["1", "12"]];
        let columns = identities("identity = [\"{a}\", \"{b}\"]", "monday.csv", &rows);
        assert!(columns[0] == columns[2] && columns[0] != columns[1], "{columns:?}");
        assert_eq!(columns, identities("identity = [\"{a}\", \"{b}\"]", "tuesday.csv", &rows));

        let content = identities("identity = \"content\"", "monday.csv", &rows);
        assert!(content[0] != content[1] && content[0] != content[2], "{content:?}");
        let later = identities(
            "identity = \"content\"",
            "tuesday.csv",
            &[["0", "0"], ["11", "2"], ["1", "12"], ["1", "12"]],
        );
        assert_eq!(later[1..], [content[1].clone(), content[0].clone(), content[2].clone()]);

        let monday = identities("identity = \"file-and-content\"", "monday.csv", &rows);
        let tuesday = identities("identity = \"file-and-content\"", "tuesday.csv", &rows);
        assert!(monday.iter().all(|identity| !tuesday.contains(identity)), "{monday:?} {tuesday:?}");
        assert!(columns.iter().chain(&content).chain(&monday).all(|identity| is_identity(identity)));
    }
}
