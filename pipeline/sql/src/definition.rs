//! The statements that create tables, in the dialect of each database: columns with their types and comments, keys, indexes, and views that
//! show amounts as decimals.

use std::fmt::Write as _;

use crate::table::{CURRENCY_COLUMN, Column, Kind, LINE_COLUMN, ListTable, Table};

/// The schema of Millstream's own tables, and the first part of their names.
pub const SYSTEM: &str = "millstream";
/// The suffix of a table that is being built beside an existing one.
pub const BESIDE: &str = "__new";
/// The suffix of a view that shows amounts as decimals.
pub const DECIMAL: &str = "_decimal";

/// Which database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// SQLite. A table's name is like `retail_till`.
    Sqlite,
    /// PostgreSQL. A table's name is like `retail.till`.
    Postgres,
}

/// A quoted name.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A list of columns.
pub fn column_list<'c>(columns: impl IntoIterator<Item = &'c str>) -> String {
    columns.into_iter().map(quoted).collect::<Vec<_>>().join(", ")
}

impl Dialect {
    /// The name of a table in statements.
    pub fn name(self, context: &str, table: &str) -> String {
        match self {
            Self::Sqlite => quoted(&format!("{context}_{table}")),
            Self::Postgres => format!("{}.{}", quoted(context), quoted(table)),
        }
    }

    /// The type of a column.
    pub fn type_of(self, kind: Kind) -> &'static str {
        match (self, kind) {
            (Self::Sqlite, Kind::Integer | Kind::Boolean) | (_, Kind::Integer) => match self {
                Self::Sqlite => "INTEGER",
                Self::Postgres => "bigint",
            },
            (Self::Sqlite, Kind::Real) => "REAL",
            (Self::Sqlite, _) => "TEXT",
            (Self::Postgres, Kind::Real) => "double precision",
            (Self::Postgres, Kind::Boolean) => "boolean",
            (Self::Postgres, Kind::Date) => "date",
            (Self::Postgres, Kind::Time) => "timestamp with time zone",
            (Self::Postgres, Kind::Json) => "jsonb",
            // This is the order in which SQLite sorts texts, and in which keys are sorted elsewhere.
            (Self::Postgres, Kind::Text) => "text COLLATE \"C\"",
        }
    }

    /// The statements that create Millstream's own tables.
    pub fn system(self) -> String {
        let (position, currency) = (self.name(SYSTEM, "position"), self.name(SYSTEM, "currency"));
        let (text, number) = (self.type_of(Kind::Text), self.type_of(Kind::Integer));
        let schema = match self {
            Self::Sqlite => String::new(),
            Self::Postgres => format!("CREATE SCHEMA IF NOT EXISTS {};\n", quoted(SYSTEM)),
        };
        format!(
            "{schema}CREATE TABLE IF NOT EXISTS {position} (\n  \
             projection {text} NOT NULL PRIMARY KEY, -- Whose tables.\n  \
             generation {text} NOT NULL, -- The generation of the stream.\n  \
             sequence {number} NOT NULL, -- Up to which message of the stream the tables show it.\n  \
             message_id {text} NOT NULL, -- The id of that message.\n  \
             version {number} NOT NULL, -- The version of the projection.\n  \
             definition {text} NOT NULL -- What defines the tables.\n);\n\
             CREATE TABLE IF NOT EXISTS {currency} (\n  \
             code {text} NOT NULL PRIMARY KEY, -- A currency whose minor unit is not a hundredth.\n  \
             places {number} NOT NULL, -- How many decimal places it has.\n  \
             units {number} NOT NULL -- How many minor units make one.\n);"
        )
    }
}

/// A table to be created: a view's table or a list's.
struct Made<'t> {
    context: &'t str,
    name: &'t str,
    description: &'t str,
    columns: Vec<&'t Column>,
    key: Vec<&'t str>,
    line: Option<Column>,
}

fn line_column() -> Column {
    Column {
        name: LINE_COLUMN.to_owned(),
        kind: Kind::Integer,
        nullable: false,
        description: "Its place in the list, from 1.".to_owned(),
        amount: false,
    }
}

fn made(table: &Table) -> Vec<Made<'_>> {
    let key: Vec<&str> = table.key().iter().map(|column| column.name.as_str()).collect();
    let own = Made {
        context: &table.context,
        name: &table.name,
        description: &table.description,
        columns: table.columns.iter().collect(),
        key: key.clone(),
        line: None,
    };
    let lists = table.lists.iter().map(|list| Made {
        context: &table.context,
        name: &list.name,
        description: &list.description,
        columns: table.key().iter().chain(&list.columns).collect(),
        key: key.iter().copied().chain([LINE_COLUMN]).collect(),
        line: Some(line_column()),
    });
    [own].into_iter().chain(lists).collect()
}

impl Made<'_> {
    /// Its columns in order. The place in the list follows the row's key.
    fn all_columns(&self) -> Vec<&Column> {
        let mut columns = self.columns.clone();
        if let Some(line) = &self.line {
            columns.insert(self.key.len() - 1, line);
        }
        columns
    }

    fn create(&self, dialect: Dialect, suffix: &str) -> String {
        let name = dialect.name(self.context, &format!("{}{suffix}", self.name));
        let mut text = format!("CREATE TABLE {name} (");
        if !self.description.is_empty() {
            let _ = write!(text, " -- {}", self.description);
        }
        for column in self.all_columns() {
            let null = if column.nullable { "" } else { " NOT NULL" };
            let _ = write!(text, "\n  {} {}{null},", quoted(&column.name), dialect.type_of(column.kind));
            if !column.description.is_empty() {
                let _ = write!(text, " -- {}", column.description);
            }
        }
        let _ = write!(text, "\n  PRIMARY KEY ({})\n)", column_list(self.key.iter().copied()));
        if dialect == Dialect::Sqlite {
            text.push_str(" STRICT, WITHOUT ROWID");
        }
        text.push(';');
        text
    }

    /// A table is also queried by the dates in its key.
    fn indexes(&self, dialect: Dialect) -> Vec<String> {
        let later = self.columns.iter().take(self.key.len()).skip(1);
        let dates =
            later.filter(|column| column.kind == Kind::Date && self.key.contains(&column.name.as_str()));
        dates
            .map(|column| {
                let index = match dialect {
                    Dialect::Sqlite => format!("{}_{}_{}", self.context, self.name, column.name),
                    Dialect::Postgres => format!("{}_{}", self.name, column.name),
                };
                let name = dialect.name(self.context, self.name);
                format!("CREATE INDEX {} ON {name} ({});", quoted(&index), quoted(&column.name))
            })
            .collect()
    }

    fn comments(&self) -> Vec<String> {
        let name = Dialect::Postgres.name(self.context, self.name);
        let own = (!self.description.is_empty())
            .then(|| format!("COMMENT ON TABLE {name} IS {};", literal(self.description)));
        let described = self.all_columns();
        let described = described.into_iter().filter(|column| !column.description.is_empty()).map(|column| {
            let text = literal(&column.description);
            format!("COMMENT ON COLUMN {name}.{} IS {text};", quoted(&column.name))
        });
        own.into_iter().chain(described).collect()
    }
}

/// Creates a projection's tables, empty and under temporary names beside existing ones.
pub fn create_beside(dialect: Dialect, table: &Table) -> Vec<String> {
    let mut statements = Vec::new();
    if dialect == Dialect::Postgres {
        statements.push(format!("CREATE SCHEMA IF NOT EXISTS {};", quoted(&table.context)));
    }
    for each in made(table) {
        let name = dialect.name(each.context, &format!("{}{BESIDE}", each.name));
        statements.push(format!("DROP TABLE IF EXISTS {name};"));
        statements.push(each.create(dialect, BESIDE));
    }
    statements
}

/// Removes the tables with these names and their views, before others replace them. If people have built something on them, it is not removed:
/// the database then refuses and names it.
pub fn drop_old(dialect: Dialect, table: &Table) -> Vec<String> {
    let made = made(table);
    let views = made.iter().map(|each| {
        format!("DROP VIEW IF EXISTS {};", dialect.name(each.context, &format!("{}{DECIMAL}", each.name)))
    });
    let tables =
        made.iter().map(|each| format!("DROP TABLE IF EXISTS {};", dialect.name(each.context, each.name)));
    views.chain(tables).collect()
}

/// Gives the new tables their final names, indexes, comments and views.
pub fn take_place(dialect: Dialect, table: &Table) -> Vec<String> {
    let mut statements = Vec::new();
    for each in made(table) {
        let beside = dialect.name(each.context, &format!("{}{BESIDE}", each.name));
        match dialect {
            Dialect::Sqlite => {
                let name = dialect.name(each.context, each.name);
                statements.push(format!("ALTER TABLE {beside} RENAME TO {name};"));
            }
            Dialect::Postgres => {
                statements.push(format!("ALTER TABLE {beside} RENAME TO {};", quoted(each.name)));
                let name = dialect.name(each.context, each.name);
                let (before, after) = (format!("{}{BESIDE}_pkey", each.name), format!("{}_pkey", each.name));
                statements.push(format!(
                    "ALTER TABLE {name} RENAME CONSTRAINT {} TO {};",
                    quoted(&before),
                    quoted(&after)
                ));
                statements.extend(each.comments());
            }
        }
        statements.extend(each.indexes(dialect));
    }
    statements.extend(decimal_views(dialect, table));
    statements
}

/// Creates a projection's tables, empty, if there are none.
pub fn create_in_place(dialect: Dialect, table: &Table) -> Vec<String> {
    [create_beside(dialect, table), drop_old(dialect, table), take_place(dialect, table)].concat()
}

/// Everything that defines tables, as a text that can be compared.
pub(crate) fn definition_of<'t>(dialect: Dialect, tables: impl Iterator<Item = &'t Table>) -> String {
    let statements = tables.flat_map(|table| {
        let created = made(table).into_iter().map(|each| each.create(dialect, ""));
        created.chain(take_place(dialect, table)).collect::<Vec<_>>()
    });
    statements.collect::<Vec<_>>().join("\n")
}

/// Views of a table and of its lists, in which amounts have the decimal places of the row's currency.
fn decimal_views(dialect: Dialect, table: &Table) -> Vec<String> {
    let own = table.columns.iter().any(|column| column.amount).then(|| decimal_view(dialect, table, None));
    let lists = table.lists.iter().filter(|list| list.columns.iter().any(|column| column.amount));
    own.into_iter().chain(lists.map(|list| decimal_view(dialect, table, Some(list)))).collect()
}

fn decimal_view(dialect: Dialect, table: &Table, list: Option<&ListTable>) -> String {
    let name = list.map_or(&table.name, |list| &list.name);
    let own = dialect.name(&table.context, name);
    let view = dialect.name(&table.context, &format!("{name}{DECIMAL}"));
    let line = line_column();
    let (columns, from, currency) = match list {
        None => (table.columns.iter().collect::<Vec<_>>(), format!("{own} AS t"), "t"),
        Some(list) => {
            let on = table.key().iter().map(|column| {
                let name = quoted(&column.name);
                format!("r.{name} = t.{name}")
            });
            let on = on.collect::<Vec<_>>().join(" AND ");
            let rows = dialect.name(&table.context, &table.name);
            let columns = table.key().iter().chain([&line]).chain(&list.columns).collect();
            (columns, format!("{own} AS t JOIN {rows} AS r ON {on}"), "r")
        }
    };
    let shown = columns.into_iter().map(|column| {
        let name = quoted(&column.name);
        match column.amount {
            true => format!("{} AS {name}", decimal(dialect, &format!("t.{name}"))),
            false => format!("t.{name}"),
        }
    });
    let mut shown: Vec<String> = shown.collect();
    let is_shown = |list: &ListTable| list.columns.iter().any(|column| column.name == CURRENCY_COLUMN);
    if table.has_currency() && list.is_some_and(|list| !is_shown(list)) {
        shown.push(format!("r.{}", quoted(CURRENCY_COLUMN)));
    }
    let same = match table.has_currency() {
        true => format!("c.code = {currency}.{}", quoted(CURRENCY_COLUMN)),
        false => "1 = 0".to_owned(),
    };
    format!(
        "CREATE VIEW {view} AS SELECT {} FROM {from} LEFT JOIN {} AS c ON {same};",
        shown.join(", "),
        dialect.name(SYSTEM, "currency"),
    )
}

/// An amount with the places of the currency `c`: a number in PostgreSQL, a text in SQLite, which has no exact decimals.
fn decimal(dialect: Dialect, amount: &str) -> String {
    let (places, units) = ("coalesce(c.places, 2)", "coalesce(c.units, 100)");
    match dialect {
        Dialect::Postgres => format!("round({amount}::numeric / {units}, {places}::integer)"),
        Dialect::Sqlite => format!(
            "CASE WHEN {places} = 0 THEN CAST({amount} AS TEXT) WHEN {amount} IS NULL THEN NULL ELSE \
             printf('%s%d.%0*d', CASE WHEN {amount} < 0 THEN '-' ELSE '' END, abs({amount} / {units}), {places}, \
             abs({amount} % {units})) END"
        ),
    }
}
