//! Values of rows, events and commands in a readable form. Fields keep the order in which they were written. Pure.

use std::fmt;

use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};

/// The most columns of a table. A sender chooses the names of fields, and each name would be a cell in every row.
const COLUMNS_MAX: usize = 32;

/// A JSON value that keeps the order of fields.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Shown {
    #[default]
    Nothing,
    Truth(bool),
    Number(String),
    Text(String),
    List(Vec<Shown>),
    Record(Vec<(String, Shown)>),
}

impl Shown {
    /// The value of JSON bytes. Anything else is shown as text.
    pub(super) fn of(json: &[u8]) -> Self {
        serde_json::from_slice(json)
            .unwrap_or_else(|_| Self::Text(String::from_utf8_lossy(json).into_owned()))
    }

    /// A field of a record.
    pub(super) fn field(&self, name: &str) -> Option<&Self> {
        self.fields().iter().find(|(field, _)| field == name).map(|(_, value)| value)
    }

    /// All fields of a record, in order.
    pub(super) fn fields(&self) -> &[(String, Self)] {
        match self {
            Self::Record(fields) => fields,
            _ => &[],
        }
    }

    /// The elements of a list.
    pub(super) fn items(&self) -> &[Self] {
        match self {
            Self::List(items) => items,
            _ => &[],
        }
    }

    /// A field's text; empty if it has none.
    pub(super) fn text(&self, name: &str) -> String {
        self.field(name).map(Self::plain).unwrap_or_default()
    }

    /// Whether it has no parts of its own.
    pub(super) fn is_plain(&self) -> bool {
        !matches!(self, Self::List(_) | Self::Record(_))
    }

    /// Whether it is a number.
    pub(super) fn is_number(&self) -> bool {
        matches!(self, Self::Number(_))
    }

    /// The value in one line, without markup.
    pub(super) fn plain(&self) -> String {
        match self {
            Self::Nothing => String::new(),
            Self::Truth(true) => "yes".to_owned(),
            Self::Truth(false) => "no".to_owned(),
            Self::Number(text) | Self::Text(text) => text.clone(),
            Self::List(items) if items.iter().all(Self::is_plain) => {
                items.iter().map(Self::plain).collect::<Vec<_>>().join(", ")
            }
            Self::List(items) if items.len() == 1 => "1 entry".to_owned(),
            Self::List(items) => format!("{} entries", items.len()),
            Self::Record(fields) => {
                let parts = fields.iter().map(|(name, value)| format!("{} {}", label(name), value.plain()));
                parts.collect::<Vec<_>>().join(", ")
            }
        }
    }

    /// The value as markup: records become lists of terms, and lists of records become tables.
    pub(super) fn html(&self) -> String {
        self.html_of("Entries")
    }

    /// The same, as the value of something with a name.
    fn html_of(&self, name: &str) -> String {
        match self {
            Self::Nothing => "<span class=\"quiet\">none</span>".to_owned(),
            Self::Text(text) if text.is_empty() => "<span class=\"quiet\">empty</span>".to_owned(),
            Self::Text(text) => time(text).unwrap_or_else(|| escape(text)),
            Self::Number(number) => format!("<span class=\"number\">{}</span>", escape(number)),
            Self::Truth(_) => self.plain(),
            Self::List(items) if items.is_empty() => "<span class=\"quiet\">none</span>".to_owned(),
            Self::List(items) if items.iter().all(Self::is_plain) => escape(&self.plain()),
            Self::List(items) => match columns(items) {
                Some(columns) => {
                    let is_deep = items.iter().flat_map(Self::fields).any(|(_, value)| !value.is_plain());
                    let table = table(items, &columns, name);
                    // A value with parts of its own would make the page long and the rest hard to find.
                    if is_deep {
                        format!("<details><summary>{}</summary>{table}</details>", self.plain())
                    } else {
                        table
                    }
                }
                None => {
                    let items = items.iter().map(|item| format!("<li>{}</li>", item.html()));
                    format!("<ul>{}</ul>", items.collect::<String>())
                }
            },
            Self::Record(fields) if fields.is_empty() => "<span class=\"quiet\">no fields</span>".to_owned(),
            Self::Record(fields) => terms(fields),
        }
    }
}

/// Names of fields in a readable form.
pub(super) fn label(name: &str) -> String {
    capital(&name.replace(['_', '-'], " "))
}

/// A text with a capital first letter.
pub(super) fn capital(text: &str) -> String {
    let mut text = text.to_owned();
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    text
}

/// A time in a readable form, in UTC; `None` for anything else.
pub(super) fn time(text: &str) -> Option<String> {
    let at: Timestamp = text.parse().ok()?;
    let shown = at.strftime("%Y-%m-%d %H:%M:%S");
    Some(format!("<time datetime=\"{at}\">{shown} UTC</time>"))
}

/// Text without any markup.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

fn terms(fields: &[(String, Shown)]) -> String {
    let parts = fields.iter().map(|(name, value)| {
        format!("<div><dt>{}</dt><dd>{}</dd></div>", escape(&label(name)), value.html_of(&label(name)))
    });
    format!("<dl class=\"terms\">{}</dl>", parts.collect::<String>())
}

/// A column of a table.
struct Column<'a> {
    name: &'a str,
    /// Whether all of its values are numbers.
    is_number: bool,
}

/// The columns of a table of these items; `None` if not all of them are records, or if they have too many different names.
fn columns(items: &[Shown]) -> Option<Vec<Column<'_>>> {
    let mut columns: Vec<Column<'_>> = Vec::new();
    for item in items {
        if item.fields().is_empty() {
            return None;
        }
        for (name, value) in item.fields() {
            let has_room = columns.len() < COLUMNS_MAX;
            match columns.iter_mut().find(|column| column.name == name) {
                Some(column) => column.is_number &= value.is_number(),
                None if !has_room => return None,
                None => columns.push(Column { name, is_number: value.is_number() }),
            }
        }
    }
    Some(columns)
}

fn table(items: &[Shown], columns: &[Column<'_>], name: &str) -> String {
    let class = |column: &Column<'_>| if column.is_number { " class=\"number\"" } else { "" };
    let head = columns
        .iter()
        .map(|column| format!("<th scope=\"col\"{}>{}</th>", class(column), escape(&label(column.name))));
    let rows = items.iter().map(|item| {
        let cells = columns.iter().map(|column| {
            let value = item.field(column.name).map(Shown::html);
            format!("<td{}>{}</td>", class(column), value.unwrap_or_else(|| Shown::Nothing.html()))
        });
        format!("<tr>{}</tr>", cells.collect::<String>())
    });
    format!(
        "<div class=\"scroll\" role=\"region\" aria-label=\"{}\" tabindex=\"0\"><table class=\"inner\"><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>",
        escape(name),
        head.collect::<String>(),
        rows.collect::<String>()
    )
}

impl<'de> Deserialize<'de> for Shown {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Shown;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON")
    }

    fn visit_unit<E>(self) -> Result<Shown, E> {
        Ok(Shown::Nothing)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Shown, E> {
        Ok(Shown::Truth(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Shown, E> {
        Ok(Shown::Number(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Shown, E> {
        Ok(Shown::Number(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Shown, E> {
        Ok(Shown::Number(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Shown, E> {
        Ok(Shown::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Shown, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Shown::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shown, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Shown::Record(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It was a table of 6,000 columns, in two gigabytes.
    #[test]
    fn a_list_in_which_every_record_has_fields_of_its_own_is_no_table() {
        let items = |names: usize| {
            let items: Vec<String> = (0..6_000).map(|item| format!("{{\"{}\":0}}", item % names)).collect();
            Shown::of(format!("[{}]", items.join(",")).as_bytes()).html()
        };
        let list = items(6_000);
        assert!(list.len() < 1_000_000 && list.starts_with("<ul>"), "{} bytes", list.len());
        assert!(items(COLUMNS_MAX).contains("<table") && items(COLUMNS_MAX + 1).starts_with("<ul>"));
    }

    #[test]
    fn fields_keep_their_order_and_texts_are_no_markup() {
        let shown = Shown::of(br#"{"z":"<b>","a":[{"k":1},{"k":-2}],"at":"2012-01-31T12:00:00Z","no":null}"#);
        assert_eq!(
            shown.fields().iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["z", "a", "at", "no"]
        );
        let html = shown.html();
        assert!(html.contains("&lt;b&gt;") && !html.contains("<b>"), "{html}");
        assert!(html.contains("<td class=\"number\"><span class=\"number\">-2</span></td>"), "{html}");
        assert!(html.contains(">2012-01-31 12:00:00 UTC</time>") && !html.contains("<details>"), "{html}");
        let deep = Shown::of(br#"{"log":[{"data":{"a":1}},{"data":{}}]}"#).html();
        assert!(deep.contains("<details><summary>2 entries</summary>"), "{deep}");
        assert_eq!(Shown::of(b"not json").plain(), "not json");
        assert_eq!(label("net_amount"), "Net amount");
    }
}
