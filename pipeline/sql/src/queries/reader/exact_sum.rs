//! `SUM` for SQLite, whose own refuses whole numbers that add up to more than 64 bits: anybody's largest amounts, each of them valid, would have
//! a query over all stores refused for everybody. PostgreSQL adds without that limit, and so does this one. Deliberately absent: a text of which
//! only the beginning is a number, which SQLite counts as that number and this one as 0.

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
    /// What the rounding of `real` has lost so far (Neumaier's way of adding, which SQLite's own has, too).
    lost: f64,
    /// Whether a value is, or was within the window, no whole number: then the sum is none either, as SQLite has it.
    is_real: bool,
    /// How many values there are, without nulls.
    values: u64,
}

/// A value as SQLite counts it: a text is the number that it writes, or 0.
enum Addend {
    Whole(i64),
    Real(f64),
}

impl Addend {
    fn of(value: ValueRef<'_>) -> Option<Self> {
        Some(match value {
            ValueRef::Null => return None,
            ValueRef::Integer(number) => Self::Whole(number),
            ValueRef::Real(number) => Self::Real(number),
            ValueRef::Text(text) | ValueRef::Blob(text) => {
                let text = std::str::from_utf8(text).unwrap_or_default().trim();
                let whole = text.parse().map(Self::Whole);
                whole.unwrap_or_else(|_| Self::Real(text.parse().unwrap_or_default()))
            }
        })
    }
}

impl Sum {
    fn add(&mut self, value: ValueRef<'_>) {
        let Some(addend) = Addend::of(value) else { return };
        self.values += 1;
        match addend {
            Addend::Whole(number) => self.whole += i128::from(number),
            Addend::Real(number) => {
                self.is_real = true;
                self.add_real(number);
            }
        }
    }

    /// Takes away what was added.
    fn subtract(&mut self, value: ValueRef<'_>) {
        let Some(addend) = Addend::of(value) else { return };
        self.values = self.values.saturating_sub(1);
        match addend {
            Addend::Whole(number) => self.whole -= i128::from(number),
            Addend::Real(number) => self.add_real(-number),
        }
    }

    fn add_real(&mut self, number: f64) {
        let (sum, lost) = added(self.real, number);
        self.real = sum;
        self.lost += lost;
    }

    /// A whole number as long as it fits, otherwise the nearest real one.
    #[expect(clippy::cast_precision_loss, reason = "a sum beyond 64 bits is told as nearly as SQLite can")]
    fn value(&self) -> Value {
        if self.values == 0 {
            return Value::Null;
        }
        if self.is_real {
            let (sum, lost) = added(self.whole as f64, self.real);
            return Value::Real(sum + (lost + self.lost));
        }
        i64::try_from(self.whole).map_or(Value::Real(self.whole as f64), Value::Integer)
    }
}

/// The sum of two numbers, and what its rounding has lost: nothing of infinite ones.
fn added(one: f64, other: f64) -> (f64, f64) {
    let sum = one + other;
    let lost = if one.abs() > other.abs() { (one - sum) + other } else { (other - sum) + one };
    (sum, if lost.is_finite() { lost } else { 0.0 })
}

impl Aggregate<Sum, Value> for ExactSum {
    fn init(&self, _: &mut Context<'_>) -> Result<Sum> {
        Ok(Sum::default())
    }

    fn step(&self, context: &mut Context<'_>, sum: &mut Sum) -> Result<()> {
        sum.add(context.get_raw(0));
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
        sum.subtract(context.get_raw(0));
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
            let tenths = "INSERT INTO t SELECT 100 + value, 0.1 FROM (WITH RECURSIVE v(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM v WHERE value < 10) SELECT value FROM v)";
            connection.execute_batch(tenths).unwrap();
            [
                "SELECT SUM(n) FROM t",
                "SELECT SUM(n) FROM t WHERE k > 100",
                "SELECT SUM(n) FROM t WHERE k = 4",
                "SELECT SUM(n) FROM t WHERE k BETWEEN 9 AND 99",
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
