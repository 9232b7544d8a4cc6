//! Shows the numbers of a configured query's answer at a glance. If the first column runs on from row to row, as days and hours do, that is a
//! chart; otherwise bars beside the numbers. One column is shown so: the first with amounts in one currency, or else the first with numbers.
//! Pure.

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use serde_json::Value;

use super::{chart, value_text::label};
use crate::configured_queries::Table;

/// The most columns of a chart. Beyond that they are thinner than a line.
const COLUMNS_MAX: usize = 120;
/// What the largest value becomes where not all values are whole numbers.
const LARGEST: f64 = 1_000_000.0;

/// How a column is shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Glance {
    Chart(Chart),
    /// The index of the column, and the markup of a bar for each row that has a number there.
    Bars(usize, Vec<Option<String>>),
}

/// A column of numbers over the first column.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chart {
    pub(super) label: String,
    pub(super) svg: String,
    /// The first and the last value of the first column.
    pub(super) ends: [String; 2],
    /// The highest number.
    pub(super) most: String,
}

/// How an answer is shown; `None` if there is nothing to compare.
pub(super) fn glance(table: &Table) -> Option<Glance> {
    let index = measure(table)?;
    let column = table.columns.get(index)?;
    let numbers: Vec<Option<f64>> =
        table.rows.iter().map(|row| row.get(column).and_then(Value::as_f64)).collect();
    if numbers.iter().flatten().count() < 2 {
        return None;
    }
    let values = whole(table, column).unwrap_or_else(|| scaled(&numbers));
    if table.rows.len() > COLUMNS_MAX || !runs_on(table) {
        let most = values.iter().flatten().map(|value| value.unsigned_abs()).max().unwrap_or_default();
        let bars = values.iter().map(|value| value.map(|value| chart::bar(value, most))).collect();
        return Some(Glance::Bars(index, bars));
    }
    let (over, rows) = (table.columns.first()?, &table.rows);
    let [first, last] = [rows.first()?, rows.last()?].map(|row| table.text(row, over));
    let highest = rows.iter().zip(&values).max_by_key(|(_, value)| **value)?.0;
    let name = label(column);
    let says = format!("{name} by {}, from {first} to {last}; the table below has the numbers", label(over));
    let svg = chart::columns(&values, None, &says);
    Some(Glance::Chart(Chart { svg, most: table.text(highest, column), ends: [first, last], label: name }))
}

/// The column that is shown. What the first column says is what the numbers are about.
fn measure(table: &Table) -> Option<usize> {
    let behind_the_first = || table.columns.iter().enumerate().skip(1);
    let values = |column: &str| {
        let column = column.to_owned();
        table.rows.iter().filter_map(move |row| row.get(&column)).filter(|value| !value.is_null())
    };
    let is_number = |column: &str| values(column).next().is_some() && values(column).all(Value::is_number);
    let currencies_are_one = |currency: &str| {
        let mut found = values(currency);
        let first = found.next();
        first.is_some() && found.all(|other| Some(other) == first)
    };
    let amount = behind_the_first().find(|(_, column)| {
        is_number(column) && table.money.get(*column).is_some_and(|currency| currencies_are_one(currency))
    });
    let number =
        || behind_the_first().find(|(_, column)| is_number(column) && !table.money.contains_key(*column));
    amount.or_else(number).map(|(index, _)| index)
}

/// Whether each value of the first column is a day, a time or a number behind that of the row before.
fn runs_on(table: &Table) -> bool {
    let Some(column) = table.columns.first() else { return false };
    let step = |value: &Value| match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => step_of(text),
        _ => None,
    };
    let steps: Option<Vec<f64>> = table.rows.iter().map(|row| step(row.get(column)?)).collect();
    let texts = || table.rows.iter().map(|row| row.get(column).and_then(Value::as_str).map(str::len));
    let is_one_form = texts().zip(texts().skip(1)).all(|(one, other)| one == other);
    is_one_form && steps.is_some_and(|steps| steps.is_sorted_by(|one, other| one < other))
}

/// Where a text stands in its order; `None` if it is no day, month, time, or number of two digits, as hours are. What has more digits may be
/// the id of anything.
fn step_of(text: &str) -> Option<f64> {
    if text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok();
    }
    let midnight = |date: Date| date.to_zoned(TimeZone::UTC).ok().map(|midnight| midnight.timestamp());
    let day = match text.len() {
        7 => format!("{text}-01").parse().ok(),
        10 => text.parse().ok(),
        _ => None,
    };
    let day = day.and_then(midnight);
    let time: Option<Timestamp> = day.or_else(|| text.parse().ok());
    time.map(|time| time.as_duration().as_secs_f64())
}

/// The values, if all are whole numbers.
fn whole(table: &Table, column: &str) -> Option<Vec<Option<i64>>> {
    let value = |row: &serde_json::Map<String, Value>| match row.get(column) {
        None | Some(Value::Null) => Some(None),
        Some(value) => value.as_i64().map(Some),
    };
    table.rows.iter().map(value).collect()
}

/// The values as shares of the largest.
fn scaled(numbers: &[Option<f64>]) -> Vec<Option<i64>> {
    let most = numbers.iter().flatten().map(|number| number.abs()).fold(0.0, f64::max);
    #[expect(clippy::cast_possible_truncation, reason = "it is not larger than LARGEST")]
    let share = |number: f64| if most > 0.0 { (number / most * LARGEST).round() as i64 } else { 0 };
    numbers.iter().map(|number| number.map(share)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn table(columns: &[&str], rows: &[&[Value]], money: &[(&str, &str)]) -> Table {
        let row = |values: &&[Value]| {
            columns.iter().map(|name| (*name).to_owned()).zip(values.iter().cloned()).collect()
        };
        Table {
            columns: columns.iter().map(|name| (*name).to_owned()).collect(),
            money: money
                .iter()
                .map(|(name, currency)| ((*name).to_owned(), (*currency).to_owned()))
                .collect(),
            rows: rows.iter().map(row).collect(),
            cut: false,
        }
    }

    #[test]
    fn days_and_hours_are_charts_of_the_first_amount_or_number() {
        let days = table(
            &["day", "units", "amount", "currency"],
            &[
                &[json!("2012-01-30"), json!(3), json!(1250), json!("USD")],
                &[json!("2012-01-31"), json!(9), json!(700), json!("USD")],
            ],
            &[("amount", "currency")],
        );
        let Some(Glance::Chart(chart)) = glance(&days) else { panic!("{:?}", glance(&days)) };
        assert_eq!(
            (chart.label.as_str(), chart.most.as_str(), chart.ends),
            ("Amount", "12.50", ["2012-01-30".to_owned(), "2012-01-31".to_owned()])
        );
        for (first, second) in [
            (json!("08"), json!("17")),
            (json!(8), json!(17)),
            (json!("2011-12"), json!("2012-01")),
            (json!("2012-01-31T12:00:00Z"), json!("2012-01-31T13:00:00Z")),
        ] {
            let hours = table(&["hour", "share"], &[&[first, json!(0.25)], &[second, json!(0.5)]], &[]);
            let Some(Glance::Chart(chart)) = glance(&hours) else { panic!("{hours:?}") };
            assert!(
                chart.svg.matches("<rect").count() == 2 && chart.svg.contains("height=\"30\""),
                "{chart:?}"
            );
        }
    }

    #[test]
    fn what_does_not_run_on_has_bars() {
        for keys in [["tea", "pot"], ["2012-01-31", "2012-01-30"], ["2506", "2507"], ["07", "07"], ["", "01"]]
        {
            let found =
                table(&["key", "n"], &[&[json!(keys[0]), json!(4)], &[json!(keys[1]), json!(1)]], &[]);
            let Some(Glance::Bars(1, bars)) = glance(&found) else { panic!("{keys:?}") };
            assert!(bars[0].as_ref().unwrap().contains("width=\"100\""), "{bars:?}");
            assert!(bars[1].as_ref().unwrap().contains("width=\"25\""), "{bars:?}");
        }
    }

    #[test]
    fn amounts_in_several_currencies_are_not_compared() {
        let row = |currency: &str, units: i64| [json!("k"), json!(1250), json!(currency), json!(units)];
        let (usd, jpy) = (row("USD", 1), row("JPY", 2));
        let columns = ["key", "amount", "currency", "units"];
        let found = table(&columns, &[&usd, &jpy], &[("amount", "currency")]);
        assert!(matches!(glance(&found), Some(Glance::Bars(3, _))), "the units are");
        let found = table(&columns[..3], &[&usd[..3], &jpy[..3]], &[("amount", "currency")]);
        assert_eq!(glance(&found), None);
        let one = table(&columns, &[&usd], &[("amount", "currency")]);
        assert_eq!(glance(&one), None, "there is nothing to compare it with");
        let none = table(&["key"], &[&[json!("a")], &[json!("b")]], &[]);
        assert_eq!(glance(&none), None);
    }
}
