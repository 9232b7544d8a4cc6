//! Conditions of a map: for which rows a command is given, and which rows are skipped.

use std::cmp::Ordering;

use toml::Spanned;

use super::{
    node::{At, Node, Placed},
    number::{Around, CERTAIN, Number, NumberForm, is_of_another_form},
    template::{TemplateError, parse_text},
    text::{Columns, Row, RowError, Text, shortened},
};

/// What a map may say.
const FORMS: &str = "\
    { value = \"{column}\", … } with one or more of is = \"text\" (or a number, or a list of them), begins, ends or holds = \"text\" (or a \
    list), above, below, at-least or at-most = a number, empty = true or false; { not = … }, { any = [ … ] }, or a list of which all hold";

/// A condition that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConditionError {
    #[error("{found} is no condition; write {FORMS}")]
    Form { found: String },
    #[error("there is no test {name:?}; write {FORMS}")]
    Test { name: String },
    #[error("{name} takes {wanted}; found {found}")]
    Value { name: String, wanted: &'static str, found: String },
    #[error(transparent)]
    Text(#[from] TemplateError),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Not(Box<Condition>),
    Value { text: Text, tests: Vec<Test>, numbers: NumberForm },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Test {
    Empty(bool),
    /// Texts, and numbers.
    Is(Vec<String>, Vec<Number>),
    Begins(Vec<String>),
    Ends(Vec<String>),
    Holds(Vec<String>),
    Number(Relation, Number),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    Above,
    Below,
    AtLeast,
    AtMost,
}

type Parsed<T> = Result<T, At<ConditionError>>;

impl Condition {
    /// Reads what a map says.
    pub(super) fn parse(value: &Placed, columns: &Columns) -> Parsed<Self> {
        let form = || At::new(value, ConditionError::Form { found: value.get_ref().to_string() });
        let all = |items: &[Placed]| {
            items.iter().map(|item| Self::parse(item, columns)).collect::<Parsed<Vec<_>>>()
        };
        match value.get_ref() {
            Node::List(items) if !items.is_empty() => all(items).map(Self::All),
            Node::Table(fields) => match fields.as_slice() {
                [(name, inner)] if name.get_ref() == "not" => {
                    Self::parse(inner, columns).map(|inner| Self::Not(Box::new(inner)))
                }
                [(name, inner)] if name.get_ref() == "any" => match inner.get_ref() {
                    Node::List(items) if !items.is_empty() => all(items).map(Self::Any),
                    _ => Err(form()),
                },
                fields if fields.len() > 1 => {
                    let text = value.get_ref().get("value").ok_or_else(form)?;
                    let text = parse_text(text, columns)
                        .map_err(|error| At { span: error.span, what: error.what.into() })?;
                    let tests = fields.iter().filter(|(name, _)| name.get_ref() != "value");
                    let mut tests: Vec<Test> =
                        tests.map(|(name, wanted)| Test::parse(name, wanted)).collect::<Parsed<_>>()?;
                    // `empty` comes first: the other tests need a value.
                    tests.sort_by_key(|test| !matches!(test, Test::Empty(_)));
                    Ok(Self::Value { text, tests, numbers: columns.numbers })
                }
                _ => Err(form()),
            },
            _ => Err(form()),
        }
    }

    /// Whether it holds for a row.
    ///
    /// # Errors
    /// [`RowError`] when a number is asked for and there is none.
    pub(super) fn holds(&self, row: &Row<'_>) -> Result<bool, RowError> {
        match self {
            Self::All(all) => every(all, true, row),
            Self::Any(all) => every(all, false, row).map(|none| !none),
            Self::Not(inner) => Ok(!inner.holds(row)?),
            Self::Value { text, tests, numbers } => {
                let rendered = match text.render(row) {
                    Ok(rendered) => rendered,
                    Err(RowError::Empty { .. }) => String::new(),
                    Err(error) => return Err(error),
                };
                for test in tests {
                    if !test.holds(&rendered, text, *numbers)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
        }
    }
}

/// Whether all conditions hold (`wanted` is true), or none of them does (it is false).
fn every(all: &[Condition], wanted: bool, row: &Row<'_>) -> Result<bool, RowError> {
    for condition in all {
        if condition.holds(row)? != wanted {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Test {
    fn parse(name: &Spanned<String>, wanted: &Placed) -> Parsed<Self> {
        let wrong = |expected: &'static str| {
            let (name, found) = (name.get_ref().clone(), wanted.get_ref().to_string());
            At::new(wanted, ConditionError::Value { name, wanted: expected, found })
        };
        let texts = || {
            let all = match wanted.get_ref() {
                Node::Text(text) => vec![text.clone()],
                Node::List(items) => {
                    let texts = items.iter().map(|item| item.get_ref().text().map(str::to_owned));
                    texts.collect::<Option<Vec<_>>>().unwrap_or_default()
                }
                _ => Vec::new(),
            };
            if all.is_empty() || all.iter().any(String::is_empty) {
                return Err(wrong("a text or a list of texts, none of them empty"));
            }
            Ok(all)
        };
        let number = |relation| {
            let number = match wanted.get_ref() {
                Node::Integer(number) => Some(Number::whole(*number)),
                Node::Text(text) => Number::read(text, NumberForm::default(), Around::Nothing),
                _ => None,
            };
            number
                .map(|number| Self::Number(relation, number))
                .ok_or_else(|| wrong("a number, as 7 or \"0.5\""))
        };
        match name.get_ref().as_str() {
            "empty" => match wanted.get_ref() {
                Node::Boolean(truth) => Ok(Self::Empty(*truth)),
                _ => Err(wrong("true or false")),
            },
            "is" => {
                let items = match wanted.get_ref() {
                    Node::List(items) if !items.is_empty() => items.as_slice(),
                    _ => std::slice::from_ref(wanted),
                };
                let (mut texts, mut numbers) = (Vec::new(), Vec::new());
                for item in items {
                    match item.get_ref() {
                        Node::Text(text) => texts.push(text.clone()),
                        Node::Integer(number) => numbers.push(Number::whole(*number)),
                        _ => return Err(wrong("a text, a whole number, or a list of them")),
                    }
                }
                Ok(Self::Is(texts, numbers))
            }
            "begins" => texts().map(Self::Begins),
            "ends" => texts().map(Self::Ends),
            "holds" => texts().map(Self::Holds),
            "above" => number(Relation::Above),
            "below" => number(Relation::Below),
            "at-least" => number(Relation::AtLeast),
            "at-most" => number(Relation::AtMost),
            _ => Err(At::new(name, ConditionError::Test { name: name.get_ref().clone() })),
        }
    }

    fn holds(&self, value: &str, text: &Text, numbers: NumberForm) -> Result<bool, RowError> {
        let wrong = |wanted: &str| RowError::Form {
            of: text.origin(),
            text: shortened(value),
            wanted: wanted.to_owned(),
        };
        let certain = |value: &str| match Number::read(value, numbers, Around::AnyCode) {
            Some(number) if !number.is_certain() => Err(wrong(CERTAIN)),
            None if is_of_another_form(value) => Err(wrong(
                "a number as the file writes them; decimal and thousands under [file] say how it does",
            )),
            read => Ok(read),
        };
        let number = || {
            if value.is_empty() {
                return Err(RowError::Empty { of: text.origin() });
            }
            certain(value)?.ok_or_else(|| wrong("a number"))
        };
        Ok(match self {
            Self::Empty(wanted) => value.is_empty() == *wanted,
            // What is one of the texts need be no number.
            Self::Is(texts, _) if texts.iter().any(|wanted| value == wanted) => true,
            Self::Is(_, wanted) if wanted.is_empty() => false,
            Self::Is(_, wanted) => certain(value)?
                .is_some_and(|number| wanted.iter().any(|wanted| number.compare(*wanted).is_eq())),
            Self::Begins(all) => all.iter().any(|wanted| value.starts_with(wanted)),
            Self::Ends(all) => all.iter().any(|wanted| value.ends_with(wanted)),
            Self::Holds(all) => all.iter().any(|wanted| value.contains(wanted)),
            Self::Number(relation, wanted) => {
                let order = number()?.compare(*wanted);
                match relation {
                    Relation::Above => order == Ordering::Greater,
                    Relation::Below => order == Ordering::Less,
                    Relation::AtLeast => order != Ordering::Less,
                    Relation::AtMost => order != Ordering::Greater,
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::text::tests::{row, source_row},
        *,
    };

    fn read(condition: &str) -> Parsed<Condition> {
        let table: Placed = toml::from_str(&format!("when = {condition}")).unwrap();
        let columns = Columns::new(&csv::StringRecord::from(vec!["n", "a"]));
        Condition::parse(table.get_ref().get("when").unwrap(), &columns)
    }

    fn holds(condition: &str, fields: [&str; 2]) -> Result<bool, RowError> {
        let slugs = std::cell::RefCell::default();
        read(condition).unwrap().holds(&row(&[source_row(2, &fields)], &slugs))
    }

    #[test]
    fn each_test_holds_for_what_it_says() {
        for (condition, yes, no) in [
            (r#"{ value = "{n}", below = 0 }"#, ["(3)", ""], ["0", ""]),
            (r#"{ value = "{n}", above = 0 }"#, ["0.1", ""], ["-0", ""]),
            (r#"{ value = "{n}", at-least = 1, at-most = "1.5" }"#, ["1.50", ""], ["1.51", ""]),
            (r#"{ value = "{n}", is = 0 }"#, ["-0.00", ""], ["0.01", ""]),
            (r#"{ value = "{n}", is = 0 }"#, ["0 EUR", ""], ["x", ""]),
            (r#"{ value = "{n}", is = 0 }"#, ["EUR 0", ""], ["ABC0", ""]),
            (r#"{ value = "{n}", is = [0, 7] }"#, ["7", ""], ["1.2.3", ""]),
            (r#"{ value = "{n}", is = 0 }"#, ["0", ""], ["31.12.2026", ""]),
            (r#"{ value = "{n}", is = [0, "1.000"] }"#, ["1.000", ""], ["1", ""]),
            (r#"{ value = "{n}", is = ["1.000", 0] }"#, ["1.000", ""], ["1", ""]),
            (r#"{ value = "{n}", above = 0 }"#, ["EUR 5", ""], ["0 USD", ""]),
            (r#"{ value = "{a}", is = "x" }"#, ["", " x "], ["", "X"]),
            (r#"{ value = "{a}", is = "" }"#, ["", " "], ["", "x"]),
            (r#"{ value = "{a|lower}", is = ["x", "y"] }"#, ["", "Y"], ["", "z"]),
            (r#"{ value = "{a}", empty = true }"#, ["1", ""], ["1", "x"]),
            (r#"{ value = "{n}", above = 0, empty = false }"#, ["1", ""], ["", ""]),
            (r#"{ value = "{a}", begins = ["C", "A"] }"#, ["", "C536"], ["", "536"]),
            (r#"{ value = "{a}", ends = "/" }"#, ["", "a/"], ["", "/a"]),
            (r#"{ value = "{a}", holds = "b" }"#, ["", "abc"], ["", "ac"]),
            (r#"{ not = { value = "{a}", empty = true } }"#, ["", "x"], ["", ""]),
            (r#"{ any = [{ value = "{a}", is = "x" }, { value = "{n}", is = 1 }] }"#, ["1", ""], ["2", "y"]),
            (r#"[{ value = "{a}", is = "x" }, { value = "{n}", is = 1 }]"#, ["1", "x"], ["1", "y"]),
        ] {
            assert_eq!(holds(condition, yes), Ok(true), "{condition} {yes:?}");
            assert_eq!(holds(condition, no), Ok(false), "{condition} {no:?}");
        }
        let refused = |n| holds(r#"{ value = "{n}", below = 0 }"#, [n, ""]).unwrap_err().to_string();
        assert_eq!(refused(""), "column n is empty");
        assert_eq!(refused("x"), "column n: \"x\" is not a number");
        for other_form in ["0,00", "0,00 €", "0,00 EUR", "1'000", "1 000"] {
            let refused = holds(r#"{ value = "{n}", is = 0 }"#, [other_form, ""]).unwrap_err().to_string();
            let said = format!("column n: {other_form:?} is not a number as the file writes them; ");
            assert!(refused.starts_with(&said), "{refused}");
        }
        let of_articles = holds(r#"{ value = "{n}", at-least = 1 }"#, ["PCS 5", ""]).unwrap_err().to_string();
        assert_eq!(of_articles, "column n: \"PCS 5\" is not a number");
        for condition in [r#"{ value = "{n}", above = 100 }"#, r#"{ value = "{n}", is = [7, 1] }"#] {
            let refused = holds(condition, ["1.000", ""]).unwrap_err().to_string();
            assert!(refused.starts_with("column n: \"1.000\" is not certain: "), "{condition}: {refused}");
        }
    }

    #[test]
    fn what_is_no_condition_is_refused_where_it_stands() {
        for (condition, at, said) in [
            ("7", 7, "7 is no condition; write { value = "),
            ("[]", 7, "an empty list is no condition"),
            ("{}", 7, "a table is no condition"),
            (r#"{ value = "{n}" }"#, 7, "a table is no condition"),
            (r#"{ below = 0, above = 1 }"#, 7, "a table is no condition"),
            (r#"{ any = 7 }"#, 7, "a table is no condition"),
            (r#"{ value = "{x}", below = 0 }"#, 17, "there is no column \"x\""),
            (r#"{ value = "{n}", under = 0 }"#, 24, "there is no test \"under\""),
            (r#"{ value = "{n}", below = "x" }"#, 32, "below takes a number, as 7 or \"0.5\"; found \"x\""),
            (r#"{ value = "{n}", empty = 1 }"#, 32, "empty takes true or false; found 1"),
            (r#"{ value = "{n}", begins = "" }"#, 33, "begins takes a text or a list of texts, none of them"),
            (r#"{ value = "{n}", is = [] }"#, 29, "is takes a text, a whole number, or a list of them"),
        ] {
            let refused = read(condition).unwrap_err();
            assert!(refused.what.to_string().contains(said), "{condition}: {refused:?}");
            assert_eq!(refused.span.start, at, "{condition}");
        }
    }
}
