//! Values of a map, with their places in its text.

use std::{fmt, ops::Range};

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use toml::Spanned;

/// As which key the decoder of TOML gives a date, which it does not take where the place of a value is asked for.
const DATE_KEY: &str = "$__toml_private_datetime";

/// Where a date stands, if that is why a map cannot be read.
pub(super) fn date_in(error: &toml::de::Error) -> Option<Range<usize>> {
    error.span().filter(|_| error.message().contains(DATE_KEY))
}

/// A value that knows where it stands.
pub(super) type Placed = Spanned<Node>;

/// A value, of the kinds that a map may hold.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Text(String),
    Integer(i64),
    Boolean(bool),
    List(Vec<Placed>),
    Table(Vec<(Spanned<String>, Placed)>),
    /// Something that JSON or a command has no use for, by name.
    Other(&'static str),
}

/// A mistake and where it stands, in bytes of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct At<E> {
    pub(super) span: Range<usize>,
    pub(super) what: E,
}

impl<E> At<E> {
    pub(super) fn new<T>(place: &Spanned<T>, what: impl Into<E>) -> Self {
        Self { span: place.span(), what: what.into() }
    }
}

impl Node {
    /// The value of a key, if this is a table that has it.
    pub(super) fn get(&self, key: &str) -> Option<&Placed> {
        match self {
            Self::Table(fields) => {
                fields.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
            }
            _ => None,
        }
    }

    /// Its text, if it is one.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// As a map shows it.
impl fmt::Display for Node {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(formatter, "{text:?}"),
            Self::Integer(number) => write!(formatter, "{number}"),
            Self::Boolean(truth) => write!(formatter, "{truth}"),
            Self::List(items) if items.is_empty() => formatter.write_str("an empty list"),
            Self::List(_) => formatter.write_str("a list"),
            Self::Table(_) => formatter.write_str("a table"),
            Self::Other(kind) => formatter.write_str(kind),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyNode)
    }
}

struct AnyNode;

impl<'de> Visitor<'de> for AnyNode {
    type Value = Node;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value of a map")
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Node, E> {
        Ok(Node::Boolean(truth))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Node, E> {
        Ok(Node::Integer(number))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Other("a number that is too large"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Other("a number with a point"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element()? {
            all.push(item);
        }
        Ok(Node::List(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Node, A::Error> {
        let mut all: Vec<(Spanned<String>, Placed)> = Vec::new();
        while let Some(name) = fields.next_key::<Spanned<String>>()? {
            all.push((name, fields.next_value()?));
        }
        Ok(Node::Table(all))
    }
}
