//! Makes up a body from a type alone: every optional field is present, every list has an element, and texts are tried until the type
//! accepts one. Golden files start as such a body, so that nobody has to write them by hand.
//!
//! Deliberately absent: types that accept only special texts or numbers (an IBAN, a number from 10 upwards). Nothing is made up for them.

mod building;

use std::{cell::RefCell, collections::BTreeMap};

use serde::de::DeserializeOwned;
use serde_json::Value;

use self::building::Builder;
use super::{Shape, shape_of};

/// The texts to try, after the name of the field: dates, times, durations, currencies, ids.
pub const SAMPLE_TEXTS: [&str; 10] = [
    "2012-01-31",
    "2012-01-31T12:00:00Z",
    "12:00:00",
    "USD",
    "UTC",
    "PT1H",
    "1",
    "true",
    "127.0.0.1",
    "00000000-0000-0000-0000-000000000001",
];

/// More attempts than any event needs for all its fields and texts.
const ATTEMPTS_MAX: usize = 1_000;

/// Deeper than any type, except a type that contains itself.
const DEPTH_MAX: usize = 12;

/// Which text is tried at which path, and where the last text was asked for.
#[derive(Debug, Default)]
struct Tried {
    choices: BTreeMap<String, usize>,
    last: Option<String>,
}

impl Tried {
    /// The text for a path, whose last part is the name of a field.
    fn text(&mut self, path: &str) -> String {
        self.last = Some(path.to_owned());
        match self.choices.get(path) {
            None => {
                let name = path.trim_end_matches("[]").rsplit('.').next();
                name.filter(|name| !name.is_empty()).unwrap_or("text").to_owned()
            }
            Some(choice) => SAMPLE_TEXTS.get(*choice).copied().unwrap_or_default().to_owned(),
        }
    }

    /// Chooses another text where the type refused the last one; `None` if all have been tried.
    fn next(&mut self) -> Option<()> {
        let path = self.last.take()?;
        let choice = self.choices.get(&path).map_or(0, |choice| choice + 1);
        self.choices.insert(path, choice);
        (choice < SAMPLE_TEXTS.len()).then_some(())
    }
}

/// A body that fills everything and that `T` can be read from; `None` if no such body could be made up.
pub fn sample_of<T: DeserializeOwned>() -> Option<Value> {
    let tried = RefCell::new(Tried::default());
    for _ in 0..ATTEMPTS_MAX {
        let mut body = Value::Null;
        if T::deserialize(Builder::root(&mut body, &tried)).is_ok() {
            return Some(body);
        }
        tried.borrow_mut().next()?;
    }
    None
}

/// The shape of `T`, derived from a made-up body; `None` if none could be made up.
pub fn sampled_shape_of<T: DeserializeOwned>() -> Option<Shape> {
    sample_of::<T>().map(|body| shape_of::<T>(&body))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::{Timestamp, civil::Date};
    use serde::{Deserialize, Serialize};
    use serde_json::json;

    use super::*;

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Line {
        sku: String,
        quantity: i64,
    }

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum Size {
        VeryLarge,
        Other { width: u8 },
    }

    #[derive(Debug, Serialize, Deserialize)]
    enum Held {
        Until(Date),
    }

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Filled {
        name: String,
        on: Date,
        at: Option<Timestamp>,
        #[serde(default)]
        lines: Vec<Line>,
        size: Size,
        held: Held,
        prices: BTreeMap<Date, u32>,
        pair: (bool, f64),
    }

    #[test]
    fn body_fills_everything_with_what_each_type_takes() {
        let body = sample_of::<Filled>().unwrap();
        assert_eq!(
            body,
            json!({
                "name": "name", "on": "2012-01-31", "at": "2012-01-31T12:00:00Z",
                "lines": [{ "sku": "sku", "quantity": 1 }], "size": "very-large", "held": { "Until": "2012-01-31" },
                "prices": { "2012-01-31": 1 }, "pair": [true, 1.5],
            })
        );
        assert_eq!(serde_json::to_value(Filled::deserialize(&body).unwrap()).unwrap(), body);
    }

    #[test]
    fn nothing_is_made_up_for_a_type_that_takes_no_such_text() {
        #[derive(Debug, Deserialize)]
        #[serde(try_from = "String")]
        struct Picky;

        impl TryFrom<String> for Picky {
            type Error = &'static str;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                if text == "DE02120300000000202051" { Ok(Self) } else { Err("it is no IBAN") }
            }
        }

        assert!(sample_of::<Picky>().is_none());
        assert!(sample_of::<(Picky, String)>().is_none());
    }

    #[test]
    fn a_type_that_holds_itself_comes_to_an_end() {
        #[derive(Debug, Deserialize)]
        struct Tree {
            #[expect(dead_code, reason = "only read")]
            children: Vec<Tree>,
            #[expect(dead_code, reason = "only read")]
            parent: Option<Box<Tree>>,
        }

        assert!(sample_of::<Tree>().is_some());
    }
}
