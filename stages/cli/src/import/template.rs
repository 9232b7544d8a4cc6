//! Values made of a row's columns: text with `{column}` in it, and typed leaves.
//!
//! Deliberately absent: floating point. Decimals become whole minor units digit by digit.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{civil::Date, fmt::strtime};
use millstream_values::money::Currency;
use serde_json::Value;

/// A mapping that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TemplateError {
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
    /// No such filter.
    #[error("{text:?}: there is no filter {filter:?}; there are slug, lower, upper, date:<format>")]
    Filter { text: String, filter: String },
    /// A value of a kind that JSON does not have.
    #[error("a mapping holds text, whole numbers, true, false, lists and tables; found {found}")]
    Kind { found: String },
    /// A leaf with keys that it does not have.
    #[error(
        "{{ {leaf} = … }} takes a text with columns in it, and `places` or `currency` if it is a decimal"
    )]
    Leaf { leaf: String },
}

/// A row that does not give what the mapping asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RowError {
    /// Nothing there.
    #[error("column {column} is empty")]
    Empty { column: String },
    /// Not what the leaf wants.
    #[error("{text:?} is not {wanted}")]
    Form { text: String, wanted: String },
}

impl RowError {
    /// A short code for the rejects file.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Empty { .. } => "column-empty",
            Self::Form { .. } => "value-malformed",
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

/// One row: its number, the hash of its content and its fields.
#[derive(Debug)]
pub(crate) struct Row<'a> {
    /// From 1, without the header.
    pub(crate) number: u64,
    /// Of all fields.
    pub(crate) hash: &'a str,
    /// The fields.
    pub(crate) record: &'a csv::StringRecord,
}

/// Text with columns in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    RowNumber,
    RowHash,
    Column { name: String, index: usize, filter: Filter },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Filter {
    None,
    Slug,
    Lower,
    Upper,
    Date(String),
}

/// How many decimal places an amount has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Places {
    Fixed(u32),
    /// Those of a currency, by ISO 4217.
    OfCurrency(Text),
}

/// A value of any shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Template {
    /// As it stands in the mapping.
    Constant(Value),
    /// `"{column}"`.
    Text(Text),
    /// `{ integer = "{column}" }`.
    Integer(Text),
    /// `{ decimal = "{column}", currency = "{column}" }` or `{ decimal = "{column}", places = 2 }`: whole minor units.
    Decimal { text: Text, places: Places },
    /// `{ optional = "{column}" }`: left out where the column is empty.
    Optional(Text),
    /// A list.
    List(Vec<Template>),
    /// A table.
    Table(Vec<(String, Template)>),
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

impl Text {
    /// Reads `text` and finds its columns.
    pub(crate) fn parse(text: &str, columns: &Columns) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (inside, behind) =
                after.split_once('}').ok_or_else(|| TemplateError::Brace { text: text.to_owned() })?;
            if !before.is_empty() {
                parts.push(Part::Literal(before.to_owned()));
            }
            parts.push(Self::placeholder(text, inside, columns)?);
            rest = behind;
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        Ok(Self { parts })
    }

    fn placeholder(text: &str, inside: &str, columns: &Columns) -> Result<Part, TemplateError> {
        let (name, filter) = match inside.split_once('|') {
            // Any name may stand in a file, also one that looks as if a filter followed.
            Some(parts) if !columns.by_name.contains_key(inside.trim()) => parts,
            _ => (inside, ""),
        };
        let name = name.trim();
        if columns.ambiguous.contains(name) {
            return Err(TemplateError::ColumnTwice { text: text.to_owned(), column: name.to_owned() });
        }
        if let Some(index) = columns.by_name.get(name) {
            let filter = match filter.trim().split_once(':').unwrap_or((filter.trim(), "")) {
                ("", _) => Filter::None,
                ("slug", _) => Filter::Slug,
                ("lower", _) => Filter::Lower,
                ("upper", _) => Filter::Upper,
                ("date", format) => Filter::Date(format.to_owned()),
                (other, _) => {
                    return Err(TemplateError::Filter { text: text.to_owned(), filter: other.to_owned() });
                }
            };
            return Ok(Part::Column { name: name.to_owned(), index: *index, filter });
        }
        match name {
            "row" => Ok(Part::RowNumber),
            "hash" => Ok(Part::RowHash),
            _ => Err(TemplateError::Column {
                text: text.to_owned(),
                column: name.to_owned(),
                known: columns.by_name.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// The text for a row; every column in it must hold something.
    pub(crate) fn render(&self, row: &Row<'_>) -> Result<String, RowError> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::RowNumber => text.push_str(&row.number.to_string()),
                Part::RowHash => text.push_str(row.hash),
                Part::Column { name, index, filter } => {
                    let value = row.record.get(*index).unwrap_or_default().trim();
                    if value.is_empty() {
                        return Err(RowError::Empty { column: name.clone() });
                    }
                    text.push_str(&filter.apply(value)?);
                }
            }
        }
        Ok(text)
    }
}

impl Filter {
    fn apply(&self, text: &str) -> Result<String, RowError> {
        Ok(match self {
            Self::None => text.to_owned(),
            Self::Slug => slug(text),
            Self::Lower => text.to_lowercase(),
            Self::Upper => text.to_uppercase(),
            Self::Date(format) => strtime::parse(format, text)
                .and_then(|parsed| parsed.to_date())
                .map(|date: Date| date.to_string())
                .map_err(|_| RowError::Form { text: text.to_owned(), wanted: format!("a date {format}") })?,
        })
    }
}

impl Template {
    /// Reads a value of the mapping.
    pub(crate) fn parse(value: &toml::Value, columns: &Columns) -> Result<Self, TemplateError> {
        match value {
            toml::Value::String(text) => Ok(Self::Text(Text::parse(text, columns)?)),
            toml::Value::Integer(number) => Ok(Self::Constant(Value::from(*number))),
            toml::Value::Boolean(truth) => Ok(Self::Constant(Value::from(*truth))),
            toml::Value::Array(items) => {
                items.iter().map(|item| Self::parse(item, columns)).collect::<Result<_, _>>().map(Self::List)
            }
            toml::Value::Table(table) => Self::parse_table(table, columns),
            other => Err(TemplateError::Kind { found: other.type_str().to_owned() }),
        }
    }

    fn parse_table(table: &toml::Table, columns: &Columns) -> Result<Self, TemplateError> {
        let leaf = ["integer", "decimal", "optional"].into_iter().find(|leaf| table.contains_key(*leaf));
        let Some(leaf) = leaf else {
            return table
                .iter()
                .map(|(name, value)| Ok((name.clone(), Self::parse(value, columns)?)))
                .collect::<Result<_, _>>()
                .map(Self::Table);
        };
        let wrong = || TemplateError::Leaf { leaf: leaf.to_owned() };
        let text = table.get(leaf).and_then(toml::Value::as_str).ok_or_else(wrong)?;
        let text = Text::parse(text, columns)?;
        match (leaf, table.len()) {
            ("integer", 1) => Ok(Self::Integer(text)),
            ("optional", 1) => Ok(Self::Optional(text)),
            ("decimal", 2) => {
                let places = Places::parse(table, columns)?.ok_or_else(wrong)?;
                Ok(Self::Decimal { text, places })
            }
            _ => Err(wrong()),
        }
    }

    /// The value for a row; none for an optional one that is empty.
    pub(crate) fn render(&self, row: &Row<'_>) -> Result<Option<Value>, RowError> {
        Ok(Some(match self {
            Self::Constant(value) => value.clone(),
            Self::Text(text) => Value::from(text.render(row)?),
            Self::Integer(text) => Value::from(minor_units(&text.render(row)?, 0)?),
            Self::Decimal { text, places } => Value::from(minor_units(&text.render(row)?, places.of(row)?)?),
            Self::Optional(text) => match text.render(row) {
                Ok(text) => Value::from(text),
                Err(RowError::Empty { .. }) => return Ok(None),
                Err(error) => return Err(error),
            },
            Self::List(items) => {
                let items: Result<Vec<_>, _> = items.iter().map(|item| item.render(row)).collect();
                Value::from(items?.into_iter().flatten().collect::<Vec<_>>())
            }
            Self::Table(fields) => {
                let mut object = serde_json::Map::new();
                for (name, field) in fields {
                    if let Some(value) = field.render(row)? {
                        object.insert(name.clone(), value);
                    }
                }
                Value::Object(object)
            }
        }))
    }
}

impl Places {
    /// Reads `places` or `currency` beside a decimal; none when there is neither.
    fn parse(table: &toml::Table, columns: &Columns) -> Result<Option<Self>, TemplateError> {
        if let Some(currency) = table.get("currency").and_then(toml::Value::as_str) {
            return Ok(Some(Self::OfCurrency(Text::parse(currency, columns)?)));
        }
        let places = table.get("places").and_then(toml::Value::as_integer);
        Ok(places
            .and_then(|places| u32::try_from(places).ok())
            .filter(|places| *places <= 9)
            .map(Self::Fixed))
    }

    fn of(&self, row: &Row<'_>) -> Result<u32, RowError> {
        match self {
            Self::Fixed(places) => Ok(*places),
            Self::OfCurrency(code) => {
                let text = code.render(row)?;
                let currency = Currency::try_from(text.clone()).map_err(|_| RowError::Form {
                    text,
                    wanted: "a currency of three upper-case letters".to_owned(),
                })?;
                Ok(currency.places())
            }
        }
    }
}

/// Lower-case words joined by single hyphens.
fn slug(text: &str) -> String {
    let words = text.split(|character: char| !character.is_ascii_alphanumeric());
    words.filter(|word| !word.is_empty()).map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-")
}

/// A decimal number in units of its last place: `12.3` with two places is 1230. Digits beyond the places must be zeros.
fn minor_units(text: &str, places: u32) -> Result<i64, RowError> {
    let wrong = || RowError::Form {
        text: text.to_owned(),
        wanted: match places {
            0 => "a whole number".to_owned(),
            more => format!("a decimal number with at most {more} places"),
        },
    };
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let places = places as usize;
    let (kept, dropped) = fraction.split_at_checked(places).unwrap_or((fraction, ""));
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty()
        || !all_digits(whole)
        || !all_digits(kept)
        || !dropped.bytes().all(|byte| byte == b'0')
    {
        return Err(wrong());
    }
    let units: i64 = format!("{whole}{kept:0<places$}").parse().map_err(|_| wrong())?;
    Ok(sign * units)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rendered(mapping: &str, header: &[&str], fields: &[&str]) -> Result<Option<Value>, RowError> {
        let table: toml::Table = toml::from_str(mapping).unwrap();
        let columns = Columns::new(&csv::StringRecord::from(header));
        let template = Template::parse(&toml::Value::Table(table), &columns).unwrap();
        let record = csv::StringRecord::from(fields);
        template.render(&Row { number: 7, hash: "ab12", record: &record })
    }

    /// The last of them was taken: a sale was booked on the second date of its row.
    #[test]
    fn column_that_comes_twice_is_refused_where_it_is_used() {
        let columns = Columns::new(&csv::StringRecord::from(vec!["date", "sku", "date "]));
        let error = Text::parse("{date}", &columns).unwrap_err();
        assert_eq!(
            error.to_string(),
            r#""{date}": column "date" comes more than once in the file; give each a name of its own there"#
        );
        assert!(Text::parse("{sku}", &columns).is_ok());
    }

    #[test]
    fn row_becomes_typed_json() {
        let mapping = r#"
            sale = "{row}-{hash}"
            currency = "USD"
            shop = "{name|slug}"
            day = "{day|date:%m/%d/%Y}"
            note = { optional = "{note}" }
            lines = [{ sku = "{item}", quantity = { integer = "{count}" }, unit_price = { decimal = "{price}", places = 2 } }]
        "#;
        let value = rendered(
            mapping,
            &["name", "day", "note", "item", "count", "price"],
            &["A. B., Inc.", "01/31/2012", "", "75087", "60", "7.1"],
        );
        let expected = serde_json::json!({
            "sale": "7-ab12", "currency": "USD", "shop": "a-b-inc", "day": "2012-01-31",
            "lines": [{ "sku": "75087", "quantity": 60, "unit_price": 710 }],
        });
        assert_eq!(value, Ok(Some(expected)));
    }

    #[test]
    fn empty_column_is_named() {
        let mapping = r#"price = { decimal = "{price}", places = 2 }"#;
        assert_eq!(
            rendered(mapping, &["price"], &[" "]),
            Err(RowError::Empty { column: "price".to_owned() })
        );
    }

    #[test]
    fn mapping_that_names_no_column_of_the_file_is_refused() {
        let columns = Columns::new(&csv::StringRecord::from(vec!["a"]));
        for text in ["{b}", "{a|shout}", "{a"] {
            assert!(Text::parse(text, &columns).is_err(), "{text}");
        }
    }

    #[test]
    fn odd_names_of_columns_are_names_all_the_same() {
        let odd = ["@type", "net|gross", "a b", "$", "row"];
        for (index, name) in odd.iter().enumerate() {
            let value = rendered(&format!("x = \"{{{name}}}\""), &odd, &["0", "1", "2", "3", "4"]);
            assert_eq!(value, Ok(Some(serde_json::json!({ "x": index.to_string() }))), "{name}");
        }
    }

    #[test]
    fn decimals_are_exact_or_refused() {
        for (text, places, units) in [
            ("7.13", 2, 713),
            ("427.8", 2, 42780),
            ("0", 2, 0),
            ("-1.05", 2, -105),
            ("3.100", 1, 31),
            ("5", 0, 5),
        ] {
            assert_eq!(minor_units(text, places), Ok(units), "{text}");
        }
        for (text, places) in [
            ("", 2),
            (".5", 2),
            ("1.234", 2),
            ("1e3", 2),
            ("1,5", 2),
            ("--1", 2),
            ("99999999999999999999", 2),
            ("1.5", 0),
        ] {
            assert!(minor_units(text, places).is_err(), "{text}");
        }
    }

    #[test]
    fn an_amount_has_the_places_of_its_currency() {
        let mapping = r#"price = { decimal = "{price}", currency = "{currency}" }"#;
        let price = |fields: [&str; 2]| rendered(mapping, &["price", "currency"], &fields);
        for (fields, units) in [(["1200", "JPY"], 1_200), (["1.5", "KWD"], 1_500), (["15", "USD"], 1_500)] {
            assert_eq!(price(fields), Ok(Some(serde_json::json!({ "price": units }))));
        }
        for fields in [["1.5", "JPY"], ["1.0005", "KWD"], ["1", "yen"], ["1", ""]] {
            assert!(price(fields).is_err(), "{fields:?}");
        }
        let constant = r#"price = { decimal = "{price}", currency = "JPY" }"#;
        let value = rendered(constant, &["price"], &["7"]);
        assert_eq!(value, Ok(Some(serde_json::json!({ "price": 7 }))));
    }

    /// A text of a mapping, almost right.
    fn mapping_text() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            "\\{(a|b|row|hash|c)(\\|(slug|lower|upper|date:(%[A-Za-z%]){0,4}|x))?\\}?",
            "\\PC{0,5}",
            "[{}|:%]{1,3}"
        ];
        proptest::collection::vec(piece, 0..4).prop_map(|pieces| pieces.concat())
    }

    /// A field of a row: a date, a number, or anything.
    fn field() -> impl Strategy<Value = String> {
        prop_oneof![
            "-?[0-9]{0,25}(\\.[0-9]{0,25})?",
            "[0-9]{1,4}[-/][0-9]{1,2}[-/][0-9]{1,5}",
            "\\PC{0,10}",
            ".{0,10}"
        ]
    }

    proptest! {
        #[test]
        fn fuzz_maps_and_rows(text in mapping_text(), fields in (field(), field()), places in 0..40_u8) {
            let columns = Columns::new(&csv::StringRecord::from(vec!["a", "b"]));
            let record = csv::StringRecord::from(vec![fields.0.as_str(), fields.1.as_str()]);
            let row = Row { number: 7, hash: "ab12", record: &record };
            let quoted = toml::Value::String(text);
            for leaf in [
                format!("x = {quoted}"),
                format!("x = {{ integer = {quoted} }}"),
                format!("x = {{ optional = {quoted} }}"),
                format!("x = {{ decimal = {quoted}, places = {places} }}"),
                format!("x = {{ decimal = {quoted}, currency = {quoted} }}"),
                format!("x = [{{ y = {quoted} }}, {quoted}]"),
            ] {
                let Ok(table) = leaf.parse::<toml::Table>() else { continue };
                if let Ok(template) = Template::parse(&toml::Value::Table(table), &columns)
                    && let Err(error) = template.render(&row)
                {
                    prop_assert!(!error.to_string().is_empty());
                }
            }
        }

        #[test]
        fn minor_units_come_back_from_their_decimal(units in any::<i32>()) {
            let text = format!("{}{}.{:02}", if units < 0 { "-" } else { "" }, i64::from(units).abs() / 100, i64::from(units).abs() % 100);
            prop_assert_eq!(minor_units(&text, 2), Ok(i64::from(units)));
        }
    }
}
