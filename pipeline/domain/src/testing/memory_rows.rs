//! Rows in memory, for tests of projections and reports. They are never stored, and changes are visible at once.

use std::collections::BTreeMap;

use crate::projection::{ProjectionError, Rows};

/// Tables of rows in key order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryRows {
    tables: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
}

impl MemoryRows {
    /// No rows.
    pub fn new() -> Self {
        Self::default()
    }

    /// The row of `key` as JSON; null when there is none.
    ///
    /// # Panics
    /// When the row is not JSON.
    pub fn json(&self, table: &str, key: &str) -> serde_json::Value {
        self.tables.get(table).and_then(|rows| rows.get(key)).map_or(serde_json::Value::Null, |value| {
            serde_json::from_slice(value).expect("projections write JSON")
        })
    }

    /// The keys of a table, in order.
    pub fn keys(&self, table: &str) -> Vec<&str> {
        self.tables.get(table).into_iter().flat_map(|rows| rows.keys().map(String::as_str)).collect()
    }

    /// The tables that have been written, in order.
    pub fn tables(&self) -> impl Iterator<Item = &str> {
        self.tables.keys().map(String::as_str)
    }

    /// All rows as lines of text, `<table> <key> <value>`. Two dumps are equal exactly if the rows are equal.
    pub fn dump(&self) -> String {
        let mut text = String::new();
        for (table, rows) in &self.tables {
            for (key, value) in rows {
                text.push_str(&format!("{table} {key} {}\n", String::from_utf8_lossy(value)));
            }
        }
        text
    }
}

impl Rows for MemoryRows {
    fn get(&self, table: &str, key: &str) -> Result<Option<Vec<u8>>, ProjectionError> {
        Ok(self.tables.get(table).and_then(|rows| rows.get(key)).cloned())
    }

    fn put(&mut self, table: &str, key: &str, value: Vec<u8>) {
        self.tables.entry(table.to_owned()).or_default().insert(key.to_owned(), value);
    }

    fn delete(&mut self, table: &str, key: &str) {
        if let Some(rows) = self.tables.get_mut(table) {
            rows.remove(key);
        }
    }

    fn scan(&self, table: &str, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, ProjectionError> {
        Ok(self.tables.get(table).map_or_else(Vec::new, |rows| {
            rows.range(prefix.to_owned()..)
                .take_while(|(key, _)| key.starts_with(prefix))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect()
        }))
    }
}
