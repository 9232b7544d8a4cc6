//! `SUM` for SQLite, whose own refuses whole numbers that add up to more than 64 bits: anybody's largest amounts, each of them valid, would have
//! a query over all stores refused for everybody. PostgreSQL adds without that limit, and so does this one.

use rusqlite::{
    Connection, Result,
    functions::{Aggregate, Context, FunctionFlags, WindowAggregate},
    types::{Value, ValueRef},
};

/// Puts this `SUM` in the place of SQLite's, for queries with and without windows.
///
/// # Errors
/// When SQLite refuses.
pub(super) fn use_exact_sum(connection: &Connection) -> Result<()> {
    let flags =
        FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
    connection.create_window_function(c"sum", 1, flags, ExactSum)
}

struct ExactSum;

/// The sum so far.
#[derive(Debug, Default)]
struct Sum {
    whole: i128,
    real: f64,
    /// How many values are not whole numbers: the sum is not one either, as long as there are such.
    reals: u64,
    /// How many values there are, without nulls.
    values: u64,
}

impl Sum {
    fn add(&mut self, value: ValueRef<'_>, sign: i8) {
        let change = |count: u64| if sign > 0 { count + 1 } else { count.saturating_sub(1) };
        match value {
            ValueRef::Null => return,
            ValueRef::Integer(number) => self.whole += i128::from(number) * i128::from(sign),
            ValueRef::Real(number) => {
                self.real += number * f64::from(sign);
                self.reals = change(self.reals);
            }
            ValueRef::Text(text) | ValueRef::Blob(text) => {
                let number = std::str::from_utf8(text).ok().and_then(|text| text.trim().parse::<f64>().ok());
                self.real += number.unwrap_or(0.0) * f64::from(sign);
                self.reals = change(self.reals);
            }
        }
        self.values = change(self.values);
    }

    /// A whole number as long as it fits, otherwise the nearest real one.
    #[expect(clippy::cast_precision_loss, reason = "a sum beyond 64 bits is told as nearly as SQLite can")]
    fn value(&self) -> Value {
        match i64::try_from(self.whole) {
            _ if self.values == 0 => Value::Null,
            Ok(whole) if self.reals == 0 => Value::Integer(whole),
            _ => Value::Real(self.whole as f64 + if self.reals == 0 { 0.0 } else { self.real }),
        }
    }
}

impl Aggregate<Sum, Value> for ExactSum {
    fn init(&self, _: &mut Context<'_>) -> Result<Sum> {
        Ok(Sum::default())
    }

    fn step(&self, context: &mut Context<'_>, sum: &mut Sum) -> Result<()> {
        sum.add(context.get_raw(0), 1);
        Ok(())
    }

    fn finalize(&self, _: &mut Context<'_>, sum: Option<Sum>) -> Result<Value> {
        Ok(sum.unwrap_or_default().value())
    }
}

impl WindowAggregate<Sum, Value> for ExactSum {
    fn value(&self, sum: Option<&mut Sum>) -> Result<Value> {
        Ok(sum.map_or(Value::Null, |sum| sum.value()))
    }

    fn inverse(&self, context: &mut Context<'_>, sum: &mut Sum) -> Result<()> {
        sum.add(context.get_raw(0), -1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(connection: &Connection, statement: &str) -> Vec<Value> {
        let mut prepared = connection.prepare(statement).unwrap();
        let rows = prepared.query_map([], |row| row.get(0)).unwrap();
        rows.collect::<Result<_>>().unwrap()
    }

    #[test]
    fn amounts_add_up_beyond_64_bits() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE t(k, n); INSERT INTO t VALUES (1, 9223372036854775807), (1, 9223372036854775807), (2, 5);").unwrap();
        let refused = connection.query_row("SELECT SUM(n) FROM t", [], |row| row.get::<_, Value>(0));
        assert!(refused.unwrap_err().to_string().contains("integer overflow"), "SQLite's own refuses it");
        use_exact_sum(&connection).unwrap();
        let by_key = asked(&connection, "SELECT SUM(n) FROM t GROUP BY k ORDER BY k");
        assert_eq!(by_key, [Value::Real(2.0 * 9_223_372_036_854_775_807.0), Value::Integer(5)]);
        assert_eq!(asked(&connection, "SELECT SUM(n) - 1 FROM t WHERE k = 2"), [Value::Integer(4)]);
        assert_eq!(
            asked(&connection, "SELECT SUM(DISTINCT n) FROM t WHERE k = 1"),
            [Value::Integer(i64::MAX)]
        );
    }

    #[test]
    fn all_else_is_as_sqlite_has_it() {
        let [own, theirs] = [true, false].map(|exact| {
            let connection = Connection::open_in_memory().unwrap();
            if exact {
                use_exact_sum(&connection).unwrap();
            }
            connection
                .execute_batch("CREATE TABLE t(k, n); INSERT INTO t VALUES (1, 1), (2, NULL), (3, 2.5), (4, '7'), (5, -3), (6, 'x'), (7, 4);")
                .unwrap();
            [
                "SELECT SUM(n) FROM t",
                "SELECT SUM(n) FROM t WHERE k > 9",
                "SELECT SUM(n) FROM t WHERE k = 2",
                "SELECT SUM(n) FROM t WHERE k IN (1, 5, 7)",
                "SELECT SUM(n) FILTER (WHERE n > 0) FROM t WHERE k <> 4",
                "SELECT SUM(n) OVER (ORDER BY k) FROM t ORDER BY k",
                "SELECT SUM(n) OVER (ORDER BY k ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM t ORDER BY k",
                "SELECT SUM(n) OVER (PARTITION BY k % 2 ORDER BY k ROWS 1 PRECEDING) FROM t WHERE k IN (1, 2, 5, 7) ORDER BY k",
            ]
            .map(|statement| asked(&connection, statement))
        });
        assert_eq!(own, theirs);
    }
}
