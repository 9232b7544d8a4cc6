//! Values made of a row's columns: texts and typed leaves.
//!
//! Deliberately absent: floating point. Decimals become whole minor units digit by digit.

use millstream_values::money::Currency;
use serde_json::Value;

use super::{
    node::{At, Node, Placed},
    text::{Columns, Row, RowError, Text, TextError},
};

/// A value of a map that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TemplateError {
    #[error(transparent)]
    Text(#[from] TextError),
    /// A value of a kind that JSON does not have.
    #[error("a mapping holds text, whole numbers, true, false, lists and tables; found {found}")]
    Kind { found: String },
    /// A leaf with keys that it does not have.
    #[error(
        "{{ {leaf} = … }} takes a text with columns in it, and `places` or `currency` if it is a decimal"
    )]
    Leaf { leaf: String },
    /// What no row changes is no such value.
    #[error("{text:?} is not {wanted}")]
    Constant { text: String, wanted: String },
}

/// How many decimal places an amount has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Places {
    Fixed(u32),
    /// Those of a currency, by ISO 4217.
    OfCurrency(Text),
}

/// The keys of the values that are not taken as they stand.
pub(super) const LEAVES: [&str; 3] = ["integer", "decimal", "optional"];

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

type Parsed<T> = Result<T, At<TemplateError>>;

/// Reads a text of the map.
pub(super) fn parse_text(value: &Placed, columns: &Columns) -> Parsed<Text> {
    let text = value.get_ref().text().ok_or_else(|| At::new(value, kind(value)))?;
    Text::parse(text, columns).map_err(|error| At::new(value, error))
}

fn kind(value: &Placed) -> TemplateError {
    TemplateError::Kind { found: value.get_ref().to_string() }
}

impl Template {
    /// Reads a value of the mapping.
    pub(super) fn parse(value: &Placed, columns: &Columns) -> Parsed<Self> {
        match value.get_ref() {
            Node::Text(_) => parse_text(value, columns).map(Self::Text),
            Node::Integer(number) => Ok(Self::Constant(Value::from(*number))),
            Node::Boolean(truth) => Ok(Self::Constant(Value::from(*truth))),
            Node::List(items) => {
                items.iter().map(|item| Self::parse(item, columns)).collect::<Result<_, _>>().map(Self::List)
            }
            Node::Table(fields) => Self::parse_table(value, fields, columns),
            Node::Other(_) => Err(At::new(value, kind(value))),
        }
    }

    fn parse_table(
        value: &Placed,
        fields: &[(toml::Spanned<String>, Placed)],
        columns: &Columns,
    ) -> Parsed<Self> {
        let table = value.get_ref();
        let Some((leaf, given)) = LEAVES.into_iter().find_map(|leaf| Some((leaf, table.get(leaf)?))) else {
            return fields
                .iter()
                .map(|(name, value)| Ok((name.get_ref().clone(), Self::parse(value, columns)?)))
                .collect::<Result<_, _>>()
                .map(Self::Table);
        };
        let wrong = || At::new(value, TemplateError::Leaf { leaf: leaf.to_owned() });
        if given.get_ref().text().is_none() {
            return Err(wrong());
        }
        let text = parse_text(given, columns)?;
        let constant =
            |text: &Text, places| check_constant(given, text, |text| minor_units(text, places).map(|_| ()));
        match (leaf, fields.len()) {
            ("integer", 1) => {
                constant(&text, 0)?;
                Ok(Self::Integer(text))
            }
            ("optional", 1) => Ok(Self::Optional(text)),
            ("decimal", 2) => {
                let places = Places::parse(table, columns)?.ok_or_else(wrong)?;
                if let Places::Fixed(places) = places {
                    constant(&text, places)?;
                }
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
            Self::Integer(text) => Value::from(amount(text, row, 0)?),
            Self::Decimal { text, places } => Value::from(amount(text, row, places.of(row)?)?),
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
    fn parse(table: &Node, columns: &Columns) -> Parsed<Option<Self>> {
        if let Some(currency) = table.get("currency").filter(|value| value.get_ref().text().is_some()) {
            let text = parse_text(currency, columns)?;
            check_constant(currency, &text, |text| places_of(text).map(|_| ()))?;
            return Ok(Some(Self::OfCurrency(text)));
        }
        let Some(Node::Integer(places)) = table.get("places").map(|places| places.get_ref()) else {
            return Ok(None);
        };
        Ok(u32::try_from(*places).ok().filter(|places| *places <= 9).map(Self::Fixed))
    }

    fn of(&self, row: &Row<'_>) -> Result<u32, RowError> {
        match self {
            Self::Fixed(places) => Ok(*places),
            Self::OfCurrency(code) => {
                let text = code.render(row)?;
                places_of(&text).map_err(|wanted| RowError::Form { of: code.origin(), text, wanted })
            }
        }
    }
}

/// What no row changes is right or wrong for all of them.
fn check_constant(place: &Placed, text: &Text, check: impl FnOnce(&str) -> Result<(), String>) -> Parsed<()> {
    let Some(text) = text.constant() else { return Ok(()) };
    check(text).map_err(|wanted| At::new(place, TemplateError::Constant { text: text.to_owned(), wanted }))
}

/// The decimal places of a currency, or what its code should be.
fn places_of(code: &str) -> Result<u32, String> {
    let wanted = |_| "a currency of three upper-case letters".to_owned();
    Currency::try_from(code.to_owned()).map(|currency| currency.places()).map_err(wanted)
}

fn amount(text: &Text, row: &Row<'_>, places: u32) -> Result<i64, RowError> {
    let rendered = text.render(row)?;
    minor_units(&rendered, places).map_err(|wanted| RowError::Form {
        of: text.origin(),
        text: rendered,
        wanted,
    })
}

/// A decimal number in units of its last place: `12.3` with two places is 1230. Digits beyond the places must be zeros. Else what it
/// should be.
fn minor_units(text: &str, places: u32) -> Result<i64, String> {
    let wrong = || match places {
        0 => "a whole number".to_owned(),
        more => format!("a decimal number with at most {more} places"),
    };
    let too_large = || format!("{} that is small enough: it may have 18 digits", wrong());
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
    let units: i64 = format!("{whole}{kept:0<places$}").parse().map_err(|_| too_large())?;
    Ok(sign * units)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use proptest::prelude::*;

    use super::*;

    fn placed(map: &str) -> Placed {
        toml::from_str(map).unwrap()
    }

    fn rendered(mapping: &str, header: &[&str], fields: &[&str]) -> Result<Option<Value>, RowError> {
        let columns = Columns::new(&csv::StringRecord::from(header));
        let template = Template::parse(&placed(mapping), &columns).unwrap();
        let (record, slugs) = (csv::StringRecord::from(fields), RefCell::default());
        template.render(&Row {
            number: 7,
            line: 8,
            hash: "ab12",
            identity: "c0de",
            record: &record,
            slugs: &slugs,
        })
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
        let large = minor_units("99999999999999999999", 0).unwrap_err();
        assert_eq!(large, "a whole number that is small enough: it may have 18 digits");
    }

    #[test]
    fn an_amount_has_the_places_of_its_currency() {
        let mapping = r#"price = { decimal = "{price}", currency = "{currency}" }"#;
        let price = |fields: [&str; 2]| rendered(mapping, &["price", "currency"], &fields);
        for (fields, units) in [(["1200", "JPY"], 1_200), (["1.5", "KWD"], 1_500), (["15", "USD"], 1_500)] {
            assert_eq!(price(fields), Ok(Some(serde_json::json!({ "price": units }))));
        }
        for (fields, said) in [
            (["1.5", "JPY"], "column price: \"1.5\" is not a whole number"),
            (["1.0005", "KWD"], "column price: \"1.0005\" is not a decimal number with at most 3 places"),
            (["1", "yen"], "column currency: \"yen\" is not a currency of three upper-case letters"),
            (["1", ""], "column currency is empty"),
        ] {
            assert_eq!(price(fields).unwrap_err().to_string(), said);
        }
        let constant = r#"price = { decimal = "{price}", currency = "JPY" }"#;
        let value = rendered(constant, &["price"], &["7"]);
        assert_eq!(value, Ok(Some(serde_json::json!({ "price": 7 }))));
    }

    /// Each row was refused for it.
    #[test]
    fn what_no_row_changes_is_checked_with_the_map() {
        let columns = Columns::new(&csv::StringRecord::from(vec!["price"]));
        for (map, at, said) in [
            ("x = { integer = \"two\" }", 16, "\"two\" is not a whole number"),
            ("x = { decimal = \"1.005\", places = 2 }", 16, "is not a decimal number with at most 2 places"),
            ("x = { decimal = \"{price}\", currency = \"usd\" }", 38, "\"usd\" is not a currency of three"),
            ("x = { decimal = \"{price}\" }", 4, "{ decimal = … } takes a text"),
            ("x = { optional = 7 }", 4, "{ optional = … } takes a text"),
            ("x = 1.5", 4, "found a number with a point"),
            ("x = [\"{cost}\"]", 5, "there is no column \"cost\""),
        ] {
            let refused = Template::parse(&placed(map), &columns).unwrap_err();
            assert!(refused.what.to_string().contains(said), "{map}: {refused:?}");
            assert_eq!(refused.span.start, at, "{map}");
        }
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
            let slugs = RefCell::default();
            let row = Row { number: 7, line: 8, hash: "ab12", identity: "c0de", record: &record, slugs: &slugs };
            let quoted = toml::Value::String(text);
            for leaf in [
                format!("x = {quoted}"),
                format!("x = {{ integer = {quoted} }}"),
                format!("x = {{ optional = {quoted} }}"),
                format!("x = {{ decimal = {quoted}, places = {places} }}"),
                format!("x = {{ decimal = {quoted}, currency = {quoted} }}"),
                format!("x = [{{ y = {quoted} }}, {quoted}]"),
            ] {
                let Ok(table) = toml::from_str::<Placed>(&leaf) else { continue };
                if let Ok(template) = Template::parse(&table, &columns)
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
