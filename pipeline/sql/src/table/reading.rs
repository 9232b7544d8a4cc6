//! Rows of a view as values of its table. A row that does not fit is an error: nothing is left out, and nothing is made up.

use serde_json::{Map, Value as Json};

use super::{
    Column, Fields, ListTable, Place, Table, TableRow, Value, ValueError,
    values::{part_of, value_of},
};

impl Table {
    /// The values of the columns of the key.
    ///
    /// # Errors
    /// [`ValueError::Key`].
    pub fn key_values(&self, key: &str) -> Result<Vec<Value>, ValueError> {
        let Some(pattern) = &self.key else { return Ok(vec![Value::Text(key.to_owned())]) };
        let parts = pattern.split(key).into_iter().flatten();
        let values = self.key().iter().zip(parts).map(|(column, part)| part_of(column.kind, part));
        let values: Option<Vec<Value>> = values.collect();
        values
            .filter(|values| values.len() == self.key_columns)
            .ok_or_else(|| ValueError::Key { table: self.name.clone(), key: key.to_owned() })
    }

    /// The values of a row.
    ///
    /// # Errors
    /// [`ValueError`].
    pub fn row(&self, key: &str, row: &[u8]) -> Result<TableRow, ValueError> {
        let mut values = self.key_values(key)?;
        if self.key.is_none() {
            values.push(Value::Text(String::from_utf8_lossy(row).into_owned()));
            return Ok(TableRow { values, lists: Vec::new() });
        }
        let record = match serde_json::from_slice(row) {
            Ok(Json::Object(record)) => record,
            _ => return Err(ValueError::NoRecord { table: self.name.clone(), key: key.to_owned() }),
        };
        let parts = values.clone();
        values.resize(self.columns.len(), Value::Null);
        let mut reading = Reading {
            table: self,
            key,
            columns: &self.columns,
            values,
            lists: vec![Vec::new(); self.lists.len()],
        };
        reading.record(&self.fields, record)?;
        reading.check_nulls()?;
        let Reading { values, lists, .. } = reading;
        // The parts of the key are the fields of the row with the same names.
        for ((column, part), value) in self.columns.iter().zip(&parts).zip(&values) {
            if part != value {
                let found = format!("{value:?}, while its key has {part:?}");
                return Err(self.other(key, &column.name, found));
            }
        }
        Ok(TableRow { values, lists })
    }

    fn other(&self, key: &str, column: &str, found: String) -> ValueError {
        let (table, key, column) = (self.name.clone(), key.to_owned(), column.to_owned());
        ValueError::Other { table, key, column, found }
    }
}

/// A record that is being read.
struct Reading<'t> {
    table: &'t Table,
    key: &'t str,
    columns: &'t [Column],
    values: Vec<Value>,
    lists: Vec<Vec<Vec<Value>>>,
}

impl Reading<'_> {
    fn record(&mut self, fields: &Fields, record: Map<String, Json>) -> Result<(), ValueError> {
        for (field, value) in record {
            match (fields.get(&field), value) {
                (Some(Place::Column(index)), value) => self.column(*index, value)?,
                (Some(Place::Record(_)), Json::Null) => {}
                (Some(Place::Record(fields)), Json::Object(record)) => self.record(fields, record)?,
                (Some(Place::List(_)), Json::Null) => {}
                (Some(Place::List(index)), Json::Array(entries)) => self.list(*index, entries)?,
                (Some(_), value) => return Err(self.table.other(self.key, &field, value.to_string())),
                (None, _) => {
                    let (table, key) = (self.table.name.clone(), self.key.to_owned());
                    return Err(ValueError::Unknown { table, key, field });
                }
            }
        }
        Ok(())
    }

    fn column(&mut self, index: usize, value: Json) -> Result<(), ValueError> {
        let Some((column, place)) = self.columns.get(index).zip(self.values.get_mut(index)) else {
            return Ok(());
        };
        let shown = value.to_string();
        *place =
            value_of(column.kind, value).ok_or_else(|| self.table.other(self.key, &column.name, shown))?;
        Ok(())
    }

    fn list(&mut self, index: usize, entries: Vec<Json>) -> Result<(), ValueError> {
        let Some(list) = self.table.lists.get(index) else { return Ok(()) };
        let entries = entries.into_iter().map(|entry| self.entry(list, entry));
        let entries = entries.collect::<Result<Vec<_>, _>>()?;
        if let Some(place) = self.lists.get_mut(index) {
            *place = entries;
        }
        Ok(())
    }

    fn entry(&self, list: &ListTable, entry: Json) -> Result<Vec<Value>, ValueError> {
        let mut own = Reading {
            table: self.table,
            key: self.key,
            columns: &list.columns,
            values: vec![Value::Null; list.columns.len()],
            lists: Vec::new(),
        };
        match (&list.fields, entry) {
            (Some(fields), Json::Object(record)) => own.record(fields, record)?,
            (Some(_), entry) => return Err(self.table.other(self.key, &list.name, entry.to_string())),
            (None, entry) => own.column(0, entry)?,
        }
        own.check_nulls()?;
        Ok(own.values)
    }

    fn check_nulls(&self) -> Result<(), ValueError> {
        let mut columns = self.columns.iter().zip(&self.values);
        match columns.find(|(column, value)| !column.nullable && **value == Value::Null) {
            Some((column, _)) => Err(self.table.other(self.key, &column.name, "nothing".to_owned())),
            None => Ok(()),
        }
    }
}
