//! How a file is written, as far as a map says it: `[file]`. What it does not say is found out, where it can be.

use encoding_rs::Encoding;
use jiff::tz::TimeZone;
use toml::Spanned;

use super::{
    node::{At, Node, Placed},
    number::NumberForm,
};

/// Signs between groups of digits.
const THOUSANDS: [char; 5] = [',', '.', ' ', '\'', '_'];

/// Something under `[file]` that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FormError {
    #[error("there is no {name} here; there are {known}")]
    Key { name: String, known: String },
    #[error("{name} is {wanted}; found {found}")]
    Value { name: &'static str, wanted: String, found: String },
    #[error("{found} is no table of keys and values")]
    Table { found: String },
}

/// How a file is written.
#[derive(Debug, Clone, Default)]
pub(crate) struct FileForm {
    /// What stands between columns.
    pub(crate) delimiter: Option<u8>,
    pub(crate) encoding: Option<&'static Encoding>,
    pub(super) numbers: NumberForm,
    /// The zone of times that do not tell their own, and of the days that `day` makes of them.
    pub(crate) zone: Option<TimeZone>,
    /// Which sheet of a workbook is read.
    pub(crate) sheet: Option<String>,
}

/// The keys of `[file]`.
pub(super) const FILE_KEYS: [&str; 6] = ["delimiter", "encoding", "decimal", "thousands", "zone", "sheet"];

impl FileForm {
    /// Reads a table of the map. It may have the `known` keys, of which those of [`FILE_KEYS`] are read here.
    pub(super) fn parse(value: &Placed, known: &[&str]) -> Result<Self, At<FormError>> {
        let Node::Table(fields) = value.get_ref() else {
            return Err(At::new(value, FormError::Table { found: value.get_ref().to_string() }));
        };
        if let Some((name, _)) = fields.iter().find(|(name, _)| !known.contains(&name.get_ref().as_str())) {
            let known = known.join(", ");
            return Err(At::new(name, FormError::Key { name: name.get_ref().clone(), known }));
        }
        let of = |name: &'static str| value.get_ref().get(name);
        let text = |name: &'static str, read: &dyn Fn(&str) -> bool, wanted: &str| match of(name) {
            None => Ok(None),
            Some(given) => match given.get_ref().text().filter(|text| read(text)) {
                Some(text) => Ok(Some(text.to_owned())),
                None => Err(wrong(given, name, wanted)),
            },
        };
        let delimiter = text(
            "delimiter",
            &|text| matches!(text.as_bytes(), [sign] if is_delimiter(*sign)),
            "one sign, such as \";\" or \"\\t\"",
        )?;
        let encoding = text(
            "encoding",
            &|text| Encoding::for_label(text.as_bytes()).is_some(),
            "the name of an encoding, such as \"utf-8\", \"windows-1252\" or \"utf-16le\"",
        )?;
        let mark = |wanted: &[char], text: &str| wanted.iter().any(|mark| text.chars().eq([*mark]));
        let decimal = text("decimal", &|text| mark(&['.', ','], text), "\".\" or \",\"")?;
        let is_said = of("decimal").or(of("thousands")).is_some();
        let decimal = decimal.and_then(|text| text.chars().next()).unwrap_or('.');
        let thousands = text(
            "thousands",
            &|text| mark(&THOUSANDS, text) && !text.starts_with(decimal),
            "\",\", \".\", \" \", \"'\" or \"_\", and not the sign before the decimals",
        )?;
        let zone = text(
            "zone",
            &|text| TimeZone::get(text).is_ok(),
            "the name of a time zone, such as \"Europe/Berlin\" or \"UTC\"",
        )?;
        let thousands = thousands.and_then(|text| text.chars().next());
        Ok(Self {
            delimiter: delimiter.and_then(|text| text.bytes().next()),
            encoding: encoding.and_then(|text| Encoding::for_label(text.as_bytes())),
            numbers: if is_said { NumberForm::said(decimal, thousands) } else { NumberForm::default() },
            zone: zone.and_then(|text| TimeZone::get(&text).ok()),
            sheet: text("sheet", &|text| !text.is_empty(), "the name of a sheet")?,
        })
    }
}

fn wrong<T>(given: &Spanned<T>, name: &'static str, wanted: &str) -> At<FormError>
where
    T: std::fmt::Display,
{
    let found = given.get_ref().to_string();
    At::new(given, FormError::Value { name, wanted: wanted.to_owned(), found })
}

/// Whether it may stand between columns.
pub(super) fn is_delimiter(sign: u8) -> bool {
    sign.is_ascii() && !sign.is_ascii_alphanumeric() && !matches!(sign, b'"' | b'\r' | b'\n' | b' ' | 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(form: &str) -> Result<FileForm, At<FormError>> {
        let table: Placed = toml::from_str(form).unwrap();
        FileForm::parse(&table, &FILE_KEYS)
    }

    #[test]
    fn what_no_file_has_is_refused_where_it_stands() {
        for (form, at, said) in [
            ("delimeter = \";\"", 0, "there is no delimeter here; there are delimiter, encoding, decimal"),
            ("delimiter = \";;\"", 12, "delimiter is one sign, such as \";\" or \"\\t\"; found \";;\""),
            ("delimiter = \"a\"", 12, "delimiter is one sign"),
            ("delimiter = 7", 12, "delimiter is one sign"),
            ("encoding = \"latin-17\"", 11, "encoding is the name of an encoding"),
            ("decimal = \";\"", 10, "decimal is \".\" or \",\"; found \";\""),
            ("thousands = \".\"", 12, "thousands is "),
            ("thousands = \"\"", 12, "thousands is "),
            ("zone = \"Berlin\"", 7, "zone is the name of a time zone"),
            ("sheet = 1", 8, "sheet is the name of a sheet; found 1"),
        ] {
            let refused = read(form).unwrap_err();
            assert!(refused.what.to_string().starts_with(said), "{form}: {refused:?}");
            assert_eq!(refused.span.start, at, "{form}");
        }
        let form =
            read("delimiter = \"\\t\"\nencoding = \"latin1\"\ndecimal = \",\"\nthousands = \".\"").unwrap();
        assert_eq!(form.delimiter, Some(b'\t'));
        assert_eq!(form.encoding.unwrap().name(), "windows-1252");
        assert_eq!(form.numbers, NumberForm::said(',', Some('.')));
        assert!(!read("delimiter = \";\"").unwrap().numbers.is_said);
    }
}
