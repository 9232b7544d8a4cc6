//! A table that shows a view: its columns, derived from the shape of the view's rows, and rows as values of these columns.
//!
//! A record inside a row becomes columns (`difference_net_amount`). A list becomes a table of its own (`sale_lines`) with a row for each entry.
//! Everything without a shape is kept as JSON.

mod reading;
mod values;

use std::collections::BTreeMap;

use millstream_domain::projection::RowShape;
use serde_json::Value as Json;

pub(crate) use self::values::moment;
pub use self::values::{Value, ValueError};
use crate::key_pattern::{KeyPattern, PatternError};

/// The columns of a table without a shape: one for the key and one for the row.
const KEY_COLUMN: &str = "key";
const ROW_COLUMN: &str = "row";
/// The column with the number of a list's entry, from 1.
pub const LINE_COLUMN: &str = "line";
/// The column of a list whose entries are not records.
const VALUE_COLUMN: &str = "value";
/// The column with the currency of a row's amounts.
pub const CURRENCY_COLUMN: &str = "currency";

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// A whole number.
    Integer,
    /// A number.
    Real,
    /// True or false.
    Boolean,
    /// A date.
    Date,
    /// A moment.
    Time,
    /// Anything, as JSON.
    Json,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: Kind,
    /// Whether it may be null.
    pub nullable: bool,
    /// Its description; may be empty.
    pub description: String,
    /// Whether it holds an amount in minor units of the row's currency.
    pub amount: bool,
}

/// The table of a list inside the rows of another table. Its key is that of the row and the entry's number from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListTable {
    /// Its name, without the context.
    pub name: String,
    /// Its description; may be empty.
    pub description: String,
    /// The columns of an entry.
    pub columns: Vec<Column>,
    /// The column of each field of an entry; empty if entries are not records.
    fields: Option<Fields>,
}

/// The columns of a record's fields.
type Fields = BTreeMap<String, Place>;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Column(usize),
    Record(Fields),
    List(usize),
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The context.
    pub context: String,
    /// Its name, without the context.
    pub name: String,
    /// Its description; may be empty.
    pub description: String,
    /// Its columns. Those of the key come first.
    pub columns: Vec<Column>,
    /// The number of columns in its key.
    pub key_columns: usize,
    /// The tables of its lists.
    pub lists: Vec<ListTable>,
    key: Option<KeyPattern>,
    fields: Fields,
}

/// A row as values.
#[derive(Debug, Clone, PartialEq)]
pub struct TableRow {
    /// One value for each column.
    pub values: Vec<Value>,
    /// The entries of each of the table's lists, with a value for each column.
    pub lists: Vec<Vec<Vec<Value>>>,
}

/// Why no table can be made from a shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// The pattern of keys is malformed.
    #[error("view {view}")]
    Key {
        /// The view.
        view: String,
        /// Why.
        #[source]
        source: PatternError,
    },
    /// A field that is declared an amount does not exist or is not a whole number.
    #[error("view {view} names {field} as an amount, but its rows have no such whole number")]
    Amount {
        /// The view.
        view: String,
        /// The field.
        field: String,
    },
    /// Two fields would become the same column.
    #[error("view {view} has two fields that would both be the column {column}")]
    Twice {
        /// The view.
        view: String,
        /// The column.
        column: String,
    },
}

/// A name of the application as a name in the database: `store-daily.revisions` becomes `store_daily_revisions`.
pub fn sql_name(name: &str) -> String {
    name.replace(['-', '.', ' '], "_")
}

impl Table {
    /// The table of a view without a shape: its key, and the row as JSON.
    pub fn without_shape(context: &str, view: &str) -> Self {
        let column = |name: &str, kind, description: &str| Column {
            name: name.to_owned(),
            kind,
            nullable: false,
            description: description.to_owned(),
            amount: false,
        };
        Self {
            context: sql_name(context),
            name: sql_name(view),
            description: format!("The view {view} of {context}, which tells no shape of its rows."),
            columns: vec![
                column(KEY_COLUMN, Kind::Text, "The row's key."),
                column(ROW_COLUMN, Kind::Json, "The row."),
            ],
            key_columns: 1,
            lists: Vec::new(),
            key: None,
            fields: Fields::new(),
        }
    }

    /// The table of a view with a shape.
    ///
    /// # Errors
    /// [`ShapeError`].
    pub fn of_shape(context: &str, shape: &RowShape) -> Result<Self, ShapeError> {
        let view = shape.view.to_owned();
        let key =
            KeyPattern::parse(&shape.key).map_err(|source| ShapeError::Key { view: view.clone(), source })?;
        let name = sql_name(shape.view);
        let mut making = Making {
            definitions: shape.schema.get("$defs"),
            table: &name,
            columns: Vec::new(),
            lists: Vec::new(),
        };
        for part in key.names() {
            let found = shape.schema.get("properties").and_then(|properties| properties.get(part));
            let mut column = match found {
                Some(schema) => making.column(sql_name(part), schema, false),
                None => Column {
                    name: sql_name(part),
                    kind: Kind::Text,
                    nullable: false,
                    description: String::new(),
                    amount: false,
                },
            };
            column.nullable = false;
            making.columns.push(column);
        }
        let key_columns = making.columns.len();
        let fields = making.record(&shape.schema, "", false, Some(&key));
        let Making { columns, lists, .. } = making;
        let description = text(&shape.schema, "description");
        let mut table = Self {
            context: sql_name(context),
            name,
            description,
            columns,
            key_columns,
            lists,
            key: Some(key),
            fields,
        };
        table.check_columns(shape.view)?;
        table.mark_amounts(shape)?;
        Ok(table)
    }

    fn check_columns(&self, view: &str) -> Result<(), ShapeError> {
        let key = || self.columns.iter().take(self.key_columns).map(|column| column.name.as_str());
        let lists = self.lists.iter().map(|list| {
            key()
                .chain([LINE_COLUMN])
                .chain(list.columns.iter().map(|column| column.name.as_str()))
                .collect::<Vec<_>>()
        });
        let own = self.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>();
        for mut names in lists.chain([own]) {
            names.sort_unstable();
            if let Some(pair) = names.windows(2).find(|pair| pair.first() == pair.last()) {
                let column = pair.first().copied().unwrap_or_default().to_owned();
                return Err(ShapeError::Twice { view: view.to_owned(), column });
            }
        }
        Ok(())
    }

    fn mark_amounts(&mut self, shape: &RowShape) -> Result<(), ShapeError> {
        let view = || shape.view.to_owned();
        for field in &shape.amounts {
            let (columns, name) = match field.split_once('.') {
                None => (Some(&mut self.columns), *field),
                Some((list, name)) => {
                    let table = format!("{}_{}", self.name, sql_name(list));
                    let list = self.lists.iter_mut().find(|list| list.name == table);
                    (list.map(|list| &mut list.columns), name)
                }
            };
            let mut columns = columns.into_iter().flatten();
            match columns.find(|column| column.name == sql_name(name) && column.kind == Kind::Integer) {
                Some(column) => column.amount = true,
                None => return Err(ShapeError::Amount { view: view(), field: (*field).to_owned() }),
            }
        }
        Ok(())
    }

    /// Whether its rows say of which currency their amounts are. Otherwise amounts are hundredths, as in reports.
    pub fn has_currency(&self) -> bool {
        self.columns.iter().any(|column| column.name == CURRENCY_COLUMN)
    }

    /// The columns of its key.
    pub fn key(&self) -> &[Column] {
        self.columns.get(..self.key_columns).unwrap_or_default()
    }
}

/// A table that is being built.
struct Making<'s> {
    definitions: Option<&'s Json>,
    table: &'s str,
    columns: Vec<Column>,
    lists: Vec<ListTable>,
}

impl<'s> Making<'s> {
    /// Adds the columns of a record, whose names begin with `prefix`, and returns the columns of its fields.
    fn record(&mut self, schema: &'s Json, prefix: &str, within: bool, key: Option<&KeyPattern>) -> Fields {
        let mut fields = Fields::new();
        for (field, schema) in properties(schema) {
            let name = format!("{prefix}{}", sql_name(field));
            let (schema, null) = self.resolved(schema);
            let of_key = key.and_then(|key| key.names().position(|part| sql_name(part) == name));
            let place = if let Some(index) = of_key {
                Place::Column(index)
            } else if is_record(schema) {
                Place::Record(self.record(schema, &format!("{name}_"), true, None))
            } else if let Some(items) = schema.get("items").filter(|items| items.is_object()) {
                let list = self.list(&name, schema, items);
                self.lists.push(list);
                Place::List(self.lists.len() - 1)
            } else {
                let column = self.column(name, schema, within || null);
                self.columns.push(column);
                Place::Column(self.columns.len() - 1)
            };
            fields.insert(field.clone(), place);
        }
        fields
    }

    fn list(&self, name: &str, schema: &Json, items: &'s Json) -> ListTable {
        let (items, null) = self.resolved(items);
        let table = format!("{}_{name}", self.table);
        let mut own =
            Making { definitions: self.definitions, table: &table, columns: Vec::new(), lists: Vec::new() };
        let fields = if is_record(items) {
            let fields = own.record(items, "", false, None);
            Some(own.without_lists(fields))
        } else {
            let column = own.column(VALUE_COLUMN.to_owned(), items, null);
            own.columns.push(column);
            None
        };
        let Making { columns, .. } = own;
        ListTable { name: table.clone(), description: text(schema, "description"), columns, fields }
    }

    /// Lists inside the entries of a list are kept as JSON.
    fn without_lists(&mut self, fields: Fields) -> Fields {
        let mut kept = Fields::new();
        for (field, place) in fields {
            let place = match place {
                Place::List(_) => {
                    self.columns.push(Column {
                        name: sql_name(&field),
                        kind: Kind::Json,
                        nullable: true,
                        description: String::new(),
                        amount: false,
                    });
                    Place::Column(self.columns.len() - 1)
                }
                Place::Record(fields) => Place::Record(self.without_lists(fields)),
                column => column,
            };
            kept.insert(field, place);
        }
        kept
    }

    fn column(&self, name: String, schema: &'s Json, nullable: bool) -> Column {
        let (resolved, null) = self.resolved(schema);
        let described = [text(schema, "description"), text(resolved, "description")];
        Column {
            name,
            kind: kind_of(resolved),
            nullable: nullable || null || takes_null(resolved) || takes_anything(resolved),
            description: described.into_iter().find(|text| !text.is_empty()).unwrap_or_default(),
            amount: false,
        }
    }

    /// The actual schema, and whether null is allowed instead.
    fn resolved(&self, schema: &'s Json) -> (&'s Json, bool) {
        let (mut schema, mut null) = (schema, takes_null(schema));
        loop {
            if let Some(name) = schema.get("$ref").and_then(Json::as_str) {
                let found = name.strip_prefix("#/$defs/").and_then(|name| self.definitions?.get(name));
                let Some(found) = found else { return (schema, null) };
                schema = found;
            } else if let Some(choices) = schema.get("anyOf").and_then(Json::as_array) {
                let is_null = |choice: &&Json| choice.get("type").and_then(Json::as_str) == Some("null");
                let mut others = choices.iter().filter(|choice| !is_null(choice));
                let (Some(other), None) = (others.next(), others.next()) else { return (schema, null) };
                null |= choices.len() > 1;
                schema = other;
            } else {
                return (schema, null || takes_null(schema));
            }
        }
    }
}

fn properties(schema: &Json) -> impl Iterator<Item = (&String, &Json)> {
    schema.get("properties").and_then(Json::as_object).into_iter().flatten()
}

fn is_record(schema: &Json) -> bool {
    properties(schema).next().is_some()
}

fn text(schema: &Json, field: &str) -> String {
    schema.get(field).and_then(Json::as_str).unwrap_or_default().replace('\n', " ")
}

fn types(schema: &Json) -> Vec<&str> {
    match schema.get("type") {
        Some(Json::String(one)) => vec![one],
        Some(Json::Array(several)) => several.iter().filter_map(Json::as_str).collect(),
        _ => Vec::new(),
    }
}

fn takes_null(schema: &Json) -> bool {
    types(schema).contains(&"null")
}

fn takes_anything(schema: &Json) -> bool {
    *schema == Json::Bool(true)
        || schema.as_object().is_some_and(|schema| {
            !schema.contains_key("type") && schema.keys().all(|key| key == "description")
        })
}

fn kind_of(schema: &Json) -> Kind {
    let format = schema.get("format").and_then(Json::as_str);
    let types = types(schema);
    let mut others = types.iter().filter(|kind| **kind != "null");
    match (others.next(), others.next()) {
        (Some(&"string"), None) => match format {
            Some("date") => Kind::Date,
            Some("date-time") => Kind::Time,
            _ => Kind::Text,
        },
        (Some(&"integer"), None) => Kind::Integer,
        (Some(&"number"), None) => Kind::Real,
        (Some(&"boolean"), None) => Kind::Boolean,
        // An enum with named variants.
        (None, _) if is_choice_of_texts(schema) => Kind::Text,
        _ => Kind::Json,
    }
}

fn is_choice_of_texts(schema: &Json) -> bool {
    let of_texts =
        |choice: &Json| types(choice) == ["string"] || choice.get("const").is_some_and(Json::is_string);
    let choices = schema.get("oneOf").and_then(Json::as_array);
    choices.is_some_and(|choices| !choices.is_empty() && choices.iter().all(of_texts))
}

#[cfg(test)]
mod tests;
