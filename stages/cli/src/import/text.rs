//! Text with `{column}` in it.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use jiff::{
    civil::{Date, date},
    fmt::strtime,
};
use millstream_contract::commit::hexadecimal;

use super::identity::{Digest, digest};

/// Before the name of a column that is called as something that the import knows itself.
const COLUMN: &str = "column:";
/// Before the name of something that the import knows itself, where a column is called so.
const OWN: &str = "import:";
/// What a key leaves out of a name besides blanks: names that differ in nothing else are mostly one name in two spellings. Other signs tell
/// names apart, as in C, C++ and C#.
const PUNCTUATION: &str = ".,-/()&'\"_:;";
/// Bytes of a hash in a key that is made of a text with letters that a key cannot have.
const KEY_HASH_LENGTH: usize = 4;
/// A year of fewer digits is one of two digits, read as one of the first century.
const YEAR_MIN: i16 = 1000;

/// A text of a map that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TextError {
    /// A brace without its partner.
    #[error("{text:?}: a brace is not closed; write {{column}} or {{column|filter}}")]
    Brace { text: String },
    /// The file has no such column.
    #[error("{text:?}: there is no column {column:?}; there are {known}")]
    Column { text: String, column: String, known: String },
    /// The file has several columns of that name.
    #[error(
        "{text:?}: column {column:?} comes more than once in the file; give each a name of its own there"
    )]
    ColumnTwice { text: String, column: String },
    /// A column has the name of something else.
    #[error(
        "{text:?}: the file has a column {name:?}; write {{{COLUMN}{name}}} for it, or {{{OWN}{name}}} for the {name} that the import knows"
    )]
    Ambiguous { text: String, name: String },
    /// No such filter.
    #[error("{text:?}: there is no filter {filter:?}; there are slug, lower, upper, date:<format>")]
    Filter { text: String, filter: String },
    /// A format of dates that reads none.
    #[error(
        "{text:?}: the format {format:?} reads no date; it needs a year, a month and a day, as in date:%d.%m.%Y"
    )]
    Date { text: String, format: String },
}

/// A row that does not give what the map asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RowError {
    /// Nothing there.
    #[error("column {column} is empty")]
    Empty { column: String },
    /// Not what the map wants.
    #[error("{of}: {text:?} is not {wanted}")]
    Form { of: String, text: String, wanted: String },
    /// Two texts of a column that a key does not tell apart.
    #[error(
        "column {column}: {text:?} would have the key {key:?}, which another text of the column has on line {line}; write both in one way, or \
         take a column that is a key"
    )]
    Joined { column: String, text: String, key: String, line: u64 },
}

impl RowError {
    /// A short code for the rejects file.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Empty { .. } => "column-empty",
            Self::Form { .. } => "value-malformed",
            Self::Joined { .. } => "key-joins",
        }
    }
}

/// Where columns are found.
#[derive(Debug)]
pub(crate) struct Columns {
    by_name: BTreeMap<String, usize>,
    /// Names that several columns have: nobody can tell which of them is meant.
    ambiguous: BTreeSet<String>,
}

/// The keys that were made of texts, by column and key: the text of each, and on which line it stands.
pub(crate) type Slugs = HashMap<(usize, Digest), (Digest, u64)>;

/// One row, and what an import knows of it.
#[derive(Debug)]
pub(crate) struct Row<'a> {
    /// From 1, without the header.
    pub(crate) number: u64,
    /// Of the file, from 1.
    pub(crate) line: u64,
    /// Of all fields.
    pub(crate) hash: &'a str,
    /// What makes it the row that it is.
    pub(crate) identity: &'a str,
    /// The fields.
    pub(crate) record: &'a csv::StringRecord,
    /// Those of the rows before.
    pub(crate) slugs: &'a RefCell<Slugs>,
}

/// Text with columns in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Own(Own),
    Column { name: String, index: usize, filter: Filter },
}

/// What the import knows of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Own {
    Number,
    Hash,
    Identity,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Filter {
    None,
    Slug,
    Lower,
    Upper,
    Date(String),
}

impl Columns {
    /// From the header.
    pub(crate) fn new(header: &csv::StringRecord) -> Self {
        let (mut by_name, mut ambiguous) = (BTreeMap::new(), BTreeSet::new());
        for (index, name) in (0..).zip(header) {
            let name = name.trim().to_owned();
            if by_name.insert(name.clone(), index).is_some() {
                ambiguous.insert(name);
            }
        }
        Self { by_name, ambiguous }
    }
}

impl Own {
    fn named(name: &str) -> Option<Self> {
        match name {
            "row" => Some(Self::Number),
            "hash" => Some(Self::Hash),
            "identity" => Some(Self::Identity),
            _ => None,
        }
    }

    fn of(self, row: &Row<'_>) -> String {
        match self {
            Self::Number => row.number.to_string(),
            Self::Hash => row.hash.to_owned(),
            Self::Identity => row.identity.to_owned(),
        }
    }
}

impl Text {
    /// Reads `text` and finds its columns.
    pub(crate) fn parse(text: &str, columns: &Columns) -> Result<Self, TextError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (inside, behind) =
                after.split_once('}').ok_or_else(|| TextError::Brace { text: text.to_owned() })?;
            if !before.is_empty() {
                parts.push(Part::Literal(before.to_owned()));
            }
            parts.push(placeholder(text, inside, columns)?);
            rest = behind;
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        Ok(Self { parts })
    }

    /// Whether it is the value of one column and nothing else.
    pub(super) fn is_one_column(&self) -> bool {
        matches!(self.parts.as_slice(), [Part::Column { .. }])
    }

    /// Whether it may make one text of different ones, even if they differ in more than case.
    pub(super) fn may_join(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Column { filter: Filter::Slug, .. }))
    }

    /// The text, where no row changes it.
    pub(super) fn constant(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// What a message about its value begins with.
    pub(super) fn origin(&self) -> String {
        let columns = self.parts.iter().filter_map(|part| match part {
            Part::Column { name, .. } => Some(name.as_str()),
            Part::Literal(_) | Part::Own(_) => None,
        });
        match columns.collect::<Vec<_>>().as_slice() {
            [] => "the map".to_owned(),
            [one] => format!("column {one}"),
            several => format!("columns {}", several.join(", ")),
        }
    }

    /// The text for a row; every column in it must hold something.
    pub(crate) fn render(&self, row: &Row<'_>) -> Result<String, RowError> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Own(own) => text.push_str(&own.of(row)),
                Part::Column { name, index, filter } => {
                    let value = row.record.get(*index).unwrap_or_default().trim();
                    if value.is_empty() {
                        return Err(RowError::Empty { column: name.clone() });
                    }
                    text.push_str(&filter.apply(value, (name, *index), row)?);
                }
            }
        }
        Ok(text)
    }
}

fn placeholder(text: &str, inside: &str, columns: &Columns) -> Result<Part, TextError> {
    let (name, filter) = match inside.split_once('|') {
        // Any name may stand in a file, also one that looks as if a filter followed.
        Some(parts) if !columns.by_name.contains_key(inside.trim()) => parts,
        _ => (inside, ""),
    };
    let (name, filter) = (name.trim(), filter.trim());
    let is_column = |name: &str| columns.by_name.contains_key(name);
    let unknown = |column: &str| TextError::Column {
        text: text.to_owned(),
        column: column.to_owned(),
        known: columns.by_name.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
    };
    if is_column(name) && Own::named(name).is_some() {
        return Err(TextError::Ambiguous { text: text.to_owned(), name: name.to_owned() });
    }
    let (column, own) = match (name.strip_prefix(COLUMN), name.strip_prefix(OWN)) {
        _ if is_column(name) => (name, None),
        (Some(column), _) => (column.trim(), None),
        (None, Some(own)) => (name, Own::named(own.trim())),
        (None, None) => (name, Own::named(name)),
    };
    match own {
        Some(own) if filter.is_empty() => return Ok(Part::Own(own)),
        Some(_) => return Err(TextError::Filter { text: text.to_owned(), filter: filter.to_owned() }),
        None => {}
    }
    if columns.ambiguous.contains(column) {
        return Err(TextError::ColumnTwice { text: text.to_owned(), column: column.to_owned() });
    }
    let index = *columns.by_name.get(column).ok_or_else(|| unknown(column))?;
    Ok(Part::Column { name: column.to_owned(), index, filter: Filter::parse(text, filter)? })
}

impl Filter {
    fn parse(text: &str, filter: &str) -> Result<Self, TextError> {
        Ok(match filter.split_once(':').unwrap_or((filter, "")) {
            ("", "") => Self::None,
            ("slug", "") => Self::Slug,
            ("lower", "") => Self::Lower,
            ("upper", "") => Self::Upper,
            ("date", format) if reads_dates(format) => Self::Date(format.to_owned()),
            ("date", format) => {
                return Err(TextError::Date { text: text.to_owned(), format: format.to_owned() });
            }
            _ => return Err(TextError::Filter { text: text.to_owned(), filter: filter.to_owned() }),
        })
    }

    fn apply(&self, text: &str, (name, index): (&str, usize), row: &Row<'_>) -> Result<String, RowError> {
        Ok(match self {
            Self::None => text.to_owned(),
            Self::Slug => {
                let key = slug(text);
                let plain = plain(text);
                let known = (digest("text", [plain.as_str()]), row.line);
                let mut slugs = row.slugs.borrow_mut();
                let (first, line) = *slugs.entry((index, digest("key", [key.as_str()]))).or_insert(known);
                if first != known.0 {
                    let (column, text) = (name.to_owned(), text.to_owned());
                    return Err(RowError::Joined { column, text, key, line });
                }
                key
            }
            Self::Lower => text.to_lowercase(),
            Self::Upper => text.to_uppercase(),
            Self::Date(format) => {
                let wrong =
                    |wanted| RowError::Form { of: format!("column {name}"), text: text.to_owned(), wanted };
                let read = strtime::parse(format, text).and_then(|parsed| parsed.to_date());
                let date: Date = read.map_err(|_| wrong(format!("a date as in {}", shown(format))))?;
                if date.year() < YEAR_MIN {
                    return Err(wrong(format!("a date with a year of four digits, as in {}", shown(format))));
                }
                date.to_string()
            }
        })
    }
}

/// A date as an example of a format.
fn example() -> Date {
    date(2012, 1, 31)
}

/// The example, and the format beside it.
fn shown(format: &str) -> String {
    strtime::format(format, example()).map_or_else(|_| format.to_owned(), |text| format!("{text} ({format})"))
}

/// Whether a format tells one day.
fn reads_dates(format: &str) -> bool {
    let read = strtime::format(format, example())
        .and_then(|text| strtime::parse(format, text))
        .and_then(|parsed| parsed.to_date());
    read.is_ok_and(|read| read == example())
}

/// Lower-case words joined by single hyphens. What tells names apart and cannot stand in a key leaves a hash of the whole text.
fn slug(text: &str) -> String {
    let words = text.split(|character: char| !character.is_ascii_alphanumeric());
    let mut words: Vec<String> = words.filter(|word| !word.is_empty()).map(str::to_ascii_lowercase).collect();
    let is_kept = |character: char| character.is_ascii_alphanumeric();
    let may_be_left_out = |character: char| PUNCTUATION.contains(character) || character.is_whitespace();
    if !text.chars().all(|character| is_kept(character) || may_be_left_out(character)) {
        let hash = digest("slug", [plain(text).as_str()]);
        words.push(hexadecimal(hash.get(..KEY_HASH_LENGTH).unwrap_or_default()));
    }
    words.join("-")
}

/// A text without what nobody means: the case of its letters, and how many blanks there are.
fn plain(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(names: &[&str]) -> Columns {
        Columns::new(&csv::StringRecord::from(names))
    }

    /// Of each value in turn, with what the values before have left behind.
    fn rendered(text: &str, name: &str, values: &[&str]) -> Vec<Result<String, RowError>> {
        let text = Text::parse(text, &columns(&[name])).unwrap();
        let slugs = RefCell::default();
        let rows = (2..).zip(values).map(|(line, value)| {
            let record = csv::StringRecord::from(vec![*value]);
            text.render(&Row {
                number: 7,
                line,
                hash: "ab12",
                identity: "c0de",
                record: &record,
                slugs: &slugs,
            })
        });
        rows.collect()
    }

    /// The last of them was taken: a sale was booked on the second date of its row.
    #[test]
    fn column_that_comes_twice_is_refused_where_it_is_used() {
        let columns = columns(&["date", "sku", "date "]);
        let error = Text::parse("{date}", &columns).unwrap_err();
        assert_eq!(
            error.to_string(),
            r#""{date}": column "date" comes more than once in the file; give each a name of its own there"#
        );
        assert!(Text::parse("{sku}", &columns).is_ok());
    }

    #[test]
    fn mapping_that_names_no_column_of_the_file_is_refused() {
        let columns = columns(&["a"]);
        for text in ["{b}", "{a|shout}", "{a|slug:x}", "{row|upper}", "{column:b}", "{import:a}", "{a"] {
            assert!(Text::parse(text, &columns).is_err(), "{text}");
        }
    }

    #[test]
    fn odd_names_of_columns_are_names_all_the_same() {
        for name in ["@type", "net|gross", "a b", "$", "column:row", "import:row"] {
            assert_eq!(rendered(&format!("{{{name}}}"), name, &["7"]), [Ok("7".to_owned())], "{name}");
        }
    }

    /// The column hid the number of the row, or the other way round: nobody could say which.
    #[test]
    fn a_column_that_is_called_like_what_the_import_knows_is_asked_for_by_its_kind() {
        for (name, own) in [("row", "7"), ("hash", "ab12"), ("identity", "c0de")] {
            assert_eq!(rendered(&format!("{{{name}}}"), "sku", &["tea"]), [Ok(own.to_owned())]);
            let refused = Text::parse(&format!("{{{name}}}"), &columns(&[name])).unwrap_err().to_string();
            assert!(
                refused.contains(&format!("write {{column:{name}}} for it, or {{import:{name}}}")),
                "{refused}"
            );
            assert_eq!(rendered(&format!("{{column:{name}}}"), name, &["tea"]), [Ok("tea".to_owned())]);
            assert_eq!(rendered(&format!("{{import:{name}}}"), name, &["tea"]), [Ok(own.to_owned())]);
        }
    }

    /// `12/1/10` was a day of the year 10.
    #[test]
    fn a_date_has_a_year_of_four_digits_and_its_format_reads_dates() {
        let read = rendered("{day|date:%m/%d/%Y}", "day", &["12/1/2010", "12/1/10", "1.12.2010"]);
        assert_eq!(read[0], Ok("2010-12-01".to_owned()));
        for (refused, said) in [
            (
                &read[1],
                "column day: \"12/1/10\" is not a date with a year of four digits, as in 01/31/2012 (%m/%d/%Y)",
            ),
            (&read[2], "column day: \"1.12.2010\" is not a date as in 01/31/2012 (%m/%d/%Y)"),
        ] {
            assert_eq!(refused.as_ref().unwrap_err().to_string(), said);
        }
        assert_eq!(rendered("{day|date:%d.%m.%y}", "day", &["31.1.12"]), [Ok("2012-01-31".to_owned())]);
        for format in ["", "%Q", "%Y-%m", "%d.%m", "%H:%M", "day"] {
            let refused = Text::parse(&format!("{{day|date:{format}}}"), &columns(&["day"])).unwrap_err();
            assert!(refused.to_string().contains("reads no date"), "{format}: {refused}");
        }
    }

    /// One supplier `1` was two, `Дом 1` and `Сад 1`; so were `caf` and `c`.
    #[test]
    fn a_key_joins_no_two_texts() {
        let keys = |texts: &[&str]| rendered("{name|slug}", "name", texts);
        let same = keys(&["A. B., Inc.", "a. b., INC. ", "Luxco-St Louis"]);
        assert_eq!(
            same,
            [Ok("a-b-inc".to_owned()), Ok("a-b-inc".to_owned()), Ok("luxco-st-louis".to_owned())]
        );
        let letters: Vec<String> = keys(&["Дом 1", "Сад 1", "Дом", "Café Ä", "Café Ö", "1", "caf"])
            .into_iter()
            .map(Result::unwrap)
            .collect();
        assert_eq!(letters.iter().collect::<BTreeSet<_>>().len(), letters.len(), "{letters:?}");
        assert!(letters[0].starts_with("1-") && letters[3].starts_with("caf-"), "{letters:?}");
        let signs: Vec<String> = keys(&["C++", "C#", "C"]).into_iter().map(Result::unwrap).collect();
        assert!(signs[0].starts_with("c-") && signs[1].starts_with("c-") && signs[2] == "c", "{signs:?}");
        assert_ne!(signs[0], signs[1]);
        let spelt = keys(&["A-B", "D", "A/B"]);
        assert!(spelt[0].is_ok() && spelt[1].is_ok(), "{spelt:?}");
        let refused = spelt[2].as_ref().unwrap_err();
        assert_eq!(refused.code(), "key-joins");
        let said =
            "column name: \"A/B\" would have the key \"a-b\", which another text of the column has on line 2";
        assert!(refused.to_string().starts_with(said), "{refused}");
    }
}
