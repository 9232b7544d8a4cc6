//! The shape of a view's rows, derived from their type, for stages that keep them as tables of a database.
//!
//! Deliberately absent: what is done with a shape. The stage that fills a database decides which columns it has.

use std::borrow::Cow;

use schemars::{JsonSchema, schema_for};
use serde_json::{Value, json};

/// The fields that [`Rows`](super::Rows)`::write_with_version` adds to a row.
const OF_EVERY_AGGREGATE: [(&str, &str, &str); 2] = [
    ("version", "uint64", "Version of the aggregate that the row shows."),
    ("recorded_at", "date-time", "When that was recorded."),
];

/// The shape of a view's rows.
#[derive(Debug, Clone, PartialEq)]
pub struct RowShape {
    /// The table, by its name in the projection.
    pub view: &'static str,
    /// How a key is composed, as in `<store>_<business_date>`: names in angle brackets, and the separators between them. A part with the
    /// name of a field always has that field's value, and the field's type even if a row lacks the field. Keys are split from the end, so a
    /// separator must not occur in the part after it. If the last name ends with `…`, as in `<location>:<sku…>`, the last part is the whole
    /// rest: keys are then split from the front, and a separator must not occur in the part before it.
    pub key: Cow<'static, str>,
    /// The JSON Schema of a row.
    pub schema: Value,
    /// The fields that hold amounts in minor units of the row's field `currency`, or in hundredths if rows have no such field: `gross_amount`,
    /// for example, or `lines.unit_price` for a field of each entry of a list.
    pub amounts: Vec<&'static str>,
}

impl RowShape {
    /// The shape of rows of the type `T`, whose documentation describes the columns.
    ///
    /// ```
    /// use millstream_domain::{projection::RowShape, schemars};
    ///
    /// /// A row of the view `till`.
    /// #[derive(schemars::JsonSchema)]
    /// #[schemars(crate = "millstream_domain::schemars")]
    /// struct TillRow {
    ///     /// The store.
    ///     store: String,
    ///     /// Sales less returns.
    ///     net_amount: i64,
    ///     currency: Option<String>,
    /// }
    /// let shape = RowShape::of::<TillRow>("till", "<store>").amounts(&["net_amount"]);
    /// assert_eq!(shape.schema["properties"]["store"]["description"], "The store.");
    /// ```
    pub fn of<T: JsonSchema>(view: &'static str, key: impl Into<Cow<'static, str>>) -> Self {
        Self::of_schema(view, key, schema_for!(T).to_value())
    }

    /// The shape of rows that a JSON Schema describes.
    pub fn of_schema(view: &'static str, key: impl Into<Cow<'static, str>>, schema: Value) -> Self {
        Self { view, key: key.into(), schema, amounts: Vec::new() }
    }

    /// Says which fields hold amounts.
    #[must_use]
    pub fn amounts(mut self, fields: &[&'static str]) -> Self {
        self.amounts.extend(fields);
        self
    }

    /// Adds the fields of rows that are written with `write_with_version` or `update_with_version`.
    #[must_use]
    pub fn with_version(mut self) -> Self {
        if let Some(properties) = self.schema.get_mut("properties").and_then(Value::as_object_mut) {
            for (name, format, description) in OF_EVERY_AGGREGATE {
                let kind = if format == "date-time" { "string" } else { "integer" };
                let schema = json!({ "type": kind, "format": format, "description": description });
                properties.insert(name.to_owned(), schema);
            }
        }
        self
    }
}
