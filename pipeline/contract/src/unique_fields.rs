//! A JSON object in which each name stands once. JSON leaves open which of two fields of one name counts, so two readers of such a body could
//! understand two things.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};
use serde_json::{Map, Value, map::Entry};

/// The fields of an object. Reading it fails at the second field of a name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UniqueFields(pub Map<String, Value>);

impl<'de> Deserialize<'de> for UniqueFields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields)
    }
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = UniqueFields;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<UniqueFields, A::Error> {
        let mut all = Map::new();
        while let Some((name, value)) = fields.next_entry::<String, Value>()? {
            match all.entry(name) {
                Entry::Vacant(place) => {
                    place.insert(value);
                }
                // In the words of fields that a type declares.
                Entry::Occupied(place) => {
                    return Err(A::Error::custom(format!("duplicate field `{}`", place.key())));
                }
            }
        }
        Ok(UniqueFields(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_once_however_it_is_written() {
        let read = |text: &str| serde_json::from_str::<UniqueFields>(text).map_err(|error| error.to_string());
        assert_eq!(read(r#"{"a":1,"b":{"a":2,"c":[]}}"#).unwrap().0.len(), 2);
        assert!(read("{}").unwrap().0.is_empty());
        for twice in [r#"{"a":1,"a":1}"#, r#"{"a":1,"b":2,"\u0061":3}"#] {
            assert!(read(twice).unwrap_err().starts_with("duplicate field `a`"), "{twice}");
        }
        for other in ["[]", "1", "null", ""] {
            assert!(read(other).is_err(), "{other}");
        }
    }
}
