//! The chart on the page of a report's row: one figure of one key, day by day.

use futures::future::join_all;
use jiff::{ToSpan as _, civil::Date};
use millstream_domain::report::Column;
use millstream_values::report_table;
use serde_json::Value;

use super::{address, chart, report::Asked, value_text::label};

/// How many days a chart shows. The last one is the day of the page.
const DAYS: i64 = 14;

/// A figure from day to day.
pub(super) struct Chart {
    pub(super) label: String,
    pub(super) svg: String,
    /// The first day.
    pub(super) first: String,
    /// The highest value.
    pub(super) most: String,
    /// The last day.
    pub(super) last: String,
    /// The days that have a row, the newest first: date, address of the row and value.
    pub(super) days: Vec<(String, String, String)>,
}

impl Asked<'_> {
    /// The figure of this key on the days up to this one. There is no chart if the date cannot be read, or if no other day has a row
    /// for this key.
    pub(super) async fn chart(&self, column: &Column) -> Option<Chart> {
        let last: Date = self.date.parse().ok()?;
        let dates: Vec<Date> =
            (0..DAYS).rev().filter_map(|back| last.checked_sub(back.days()).ok()).collect();
        let rows = dates.iter().map(async |date| {
            let key = format!("{date}/{}", self.key);
            let row = self.visit.row_now([self.report.context, &self.report.name], &key).await.ok()?;
            serde_json::from_slice::<Value>(&row.body).ok()?.get_mut("value").map(Value::take)
        });
        let rows = join_all(rows).await;
        let values: Vec<Option<i64>> =
            rows.iter().map(|row| row.as_ref()?.get(column.name)?.as_i64()).collect();
        if values.iter().flatten().count() < 2 {
            return None;
        }
        let name = label(column.name);
        let days = dates.iter().zip(&rows).rev().filter_map(|(date, row)| {
            let text = report_table::cells(row.as_ref()?, &[*column]).pop().unwrap_or_default();
            let to = address::path_to_key(&["reports", self.name], &format!("{date}/{}", self.key));
            Some((date.to_string(), to, text))
        });
        let says =
            format!("{name} of {} on {} days up to {last}; the table below has the numbers", self.key, DAYS);
        Some(Chart {
            svg: chart::columns(&values, values.len().checked_sub(1), &says),
            most: values.iter().flatten().max().map(|most| self.written(column, *most)).unwrap_or_default(),
            first: dates.first().map(ToString::to_string).unwrap_or_default(),
            last: last.to_string(),
            days: days.collect(),
            label: name,
        })
    }
}
