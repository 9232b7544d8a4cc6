//! A deserializer over a JSON value that notes what it is asked for, and where.

use std::{cell::RefCell, collections::BTreeMap};

use serde::{
    Deserializer,
    de::{
        DeserializeSeed, EnumAccess, Error as _, IntoDeserializer, MapAccess, SeqAccess, VariantAccess,
        Visitor,
    },
};
use serde_json::{Error, Value};

use super::{Field, UNKNOWN};

type Fields = RefCell<BTreeMap<String, Field>>;

/// A value, where it stands, and the notes.
#[derive(Clone)]
pub(super) struct Trace<'a> {
    value: &'a Value,
    path: String,
    fields: &'a Fields,
}

impl<'a> Trace<'a> {
    pub(super) fn root(value: &'a Value, fields: &'a Fields) -> Self {
        Self { value, path: String::new(), fields }
    }

    fn below(&self, value: &'a Value, path: String) -> Self {
        Self { value, path, fields: self.fields }
    }

    fn field(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// The root is not a field. Whether a field may be absent is determined later.
    fn note(&self, kind: impl Into<String>) {
        if !self.path.is_empty() {
            let field = Field::Is { kind: kind.into(), optional: false };
            self.fields.borrow_mut().insert(self.path.clone(), field);
        }
    }

    fn note_fields(&self, names: &[&str]) {
        for name in names {
            let field = if self.value.get(name).is_some() { Field::Unseen } else { Field::Absent };
            // Another element of a list may have shown more of it.
            self.fields.borrow_mut().entry(self.field(name)).or_insert(field);
        }
    }

    fn wrong(&self, expected: &str) -> Error {
        let place = if self.path.is_empty() { "the body" } else { &self.path };
        Error::custom(format!("{place} is {}, not {expected}", self.value))
    }
}

/// Notes a type, and reads the value as usual.
macro_rules! plain {
    ($($method:ident = $kind:literal),* $(,)?) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.note($kind);
            self.value.$method(visitor).map_err(|error| Error::custom(format!("{}: {error}", self.path)))
        })*
    };
}

impl<'de> Deserializer<'de> for Trace<'de> {
    type Error = Error;

    plain! {
        deserialize_any = "anything", deserialize_bool = "bool", deserialize_i8 = "i8", deserialize_i16 = "i16",
        deserialize_i32 = "i32", deserialize_i64 = "i64", deserialize_i128 = "i128", deserialize_u8 = "u8",
        deserialize_u16 = "u16", deserialize_u32 = "u32", deserialize_u64 = "u64", deserialize_u128 = "u128",
        deserialize_f32 = "f32", deserialize_f64 = "f64", deserialize_char = "char", deserialize_str = "text",
        deserialize_string = "text", deserialize_bytes = "bytes", deserialize_byte_buf = "bytes",
        deserialize_unit = "nothing",
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.value.deserialize_str(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.fields.borrow_mut().insert(self.path, Field::Dropped);
        visitor.visit_unit()
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.value.is_null() {
            self.note(UNKNOWN);
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.note("list");
        let Value::Array(items) = self.value else { return Err(self.wrong("a list")) };
        let path = format!("{}[]", self.path);
        if items.is_empty() {
            self.below(self.value, path.clone()).note(UNKNOWN);
        }
        visitor.visit_seq(Items { items: items.iter(), trace: self.below(self.value, path) })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _length: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _length: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.note("map");
        let Value::Object(entries) = self.value else { return Err(self.wrong("a map")) };
        visitor.visit_map(Entries { entries: entries.iter(), next: None, trace: self, names: false })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.note("record");
        let Value::Object(entries) = self.value else { return Err(self.wrong("a record")) };
        self.note_fields(fields);
        visitor.visit_map(Entries { entries: entries.iter(), next: None, trace: self, names: true })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.note(format!("one of {}", variants.join(" | ")));
        visitor.visit_enum(self)
    }
}

struct Items<'a> {
    items: std::slice::Iter<'a, Value>,
    trace: Trace<'a>,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let item = self.items.next();
        item.map(|item| seed.deserialize(self.trace.below(item, self.trace.path.clone()))).transpose()
    }
}

struct Entries<'a> {
    entries: serde_json::map::Iter<'a>,
    next: Option<(&'a str, &'a Value)>,
    trace: Trace<'a>,
    /// Whether the keys are names of fields. If not, all values of the map share one path.
    names: bool,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        self.next = Some((key.as_str(), value));
        seed.deserialize(key.as_str().into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let (key, value) = self.next.take().ok_or_else(|| Error::custom("a value is asked for twice"))?;
        let path = if self.names { self.trace.field(key) } else { self.trace.field("*") };
        seed.deserialize(self.trace.below(value, path))
    }
}

impl<'de> EnumAccess<'de> for Trace<'de> {
    type Error = Error;
    type Variant = Content<'de>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Content<'de>), Error> {
        let (name, content) = match self.value {
            Value::String(name) => (name, None),
            Value::Object(entries) => match entries.iter().next() {
                Some((name, content)) => (name, Some(self.below(content, self.field(name)))),
                None => return Err(self.wrong("a variant")),
            },
            _ => return Err(self.wrong("a variant")),
        };
        Ok((seed.deserialize(name.as_str().into_deserializer())?, Content(content)))
    }
}

/// The content of a variant.
pub(super) struct Content<'a>(Option<Trace<'a>>);

impl<'a> Content<'a> {
    fn trace(self) -> Result<Trace<'a>, Error> {
        self.0.ok_or_else(|| Error::custom("the variant holds something"))
    }
}

impl<'de> VariantAccess<'de> for Content<'de> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        if self.0.is_none() { Ok(()) } else { Err(Error::custom("the variant holds nothing")) }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(self.trace()?)
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Error> {
        self.trace()?.deserialize_tuple(length, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.trace()?.deserialize_struct("", fields, visitor)
    }
}
