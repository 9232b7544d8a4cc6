//! A deserializer without input: it gives each type a value of the kind that the type asks for, and writes down what it gave.

use std::cell::RefCell;

use serde::{
    Deserializer,
    de::{
        DeserializeSeed, EnumAccess, Error as _, IntoDeserializer, MapAccess, SeqAccess, VariantAccess,
        Visitor,
    },
};
use serde_json::{Error, Map, Value};

use super::{DEPTH_MAX, Tried};

/// Where a value is written down.
pub(super) struct Builder<'a> {
    slot: &'a mut Value,
    path: String,
    depth: usize,
    tried: &'a RefCell<Tried>,
}

impl<'a> Builder<'a> {
    pub(super) fn root(slot: &'a mut Value, tried: &'a RefCell<Tried>) -> Self {
        Self { slot, path: String::new(), depth: 0, tried }
    }

    fn is_deep(&self) -> bool {
        self.depth >= DEPTH_MAX
    }

    fn give<T: Into<Value> + Clone, R>(self, value: T, visit: impl FnOnce(T) -> R) -> R {
        *self.slot = value.clone().into();
        visit(value)
    }

    fn entries(self) -> Entries<'a> {
        *self.slot = Value::Object(Map::new());
        Entries {
            slot: self.slot,
            path: self.path,
            depth: self.depth,
            tried: self.tried,
            name: String::new(),
        }
    }

    fn items(self, length: usize) -> Items<'a> {
        *self.slot = Value::Array(Vec::new());
        Items {
            slot: self.slot,
            path: format!("{}[]", self.path),
            depth: self.depth,
            tried: self.tried,
            left: length,
        }
    }
}

/// Gives a value to a type that accepts any.
macro_rules! plain {
    ($($method:ident: $visit:ident($value:expr)),* $(,)?) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.give($value, |value| visitor.$visit(value))
        })*
    };
}

/// Gives a text.
macro_rules! text {
    ($($method:ident),*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let text = self.tried.borrow_mut().text(&self.path);
            self.give(text, |text| visitor.visit_string(text))
        })*
    };
}

impl<'de> Deserializer<'de> for Builder<'_> {
    type Error = Error;

    plain! {
        deserialize_bool: visit_bool(true), deserialize_i8: visit_i8(1), deserialize_i16: visit_i16(1),
        deserialize_i32: visit_i32(1), deserialize_i64: visit_i64(1), deserialize_u8: visit_u8(1),
        deserialize_u16: visit_u16(1), deserialize_u32: visit_u32(1), deserialize_u64: visit_u64(1),
        deserialize_f32: visit_f32(1.5), deserialize_f64: visit_f64(1.5),
    }

    text! { deserialize_any, deserialize_str, deserialize_string, deserialize_identifier }

    fn deserialize_i128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_u128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_u64(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.give("a", |_| visitor.visit_char('a'))
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        Err(Error::custom("JSON has no bytes"))
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        *self.slot = Value::Null;
        visitor.visit_unit()
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.is_deep() { visitor.visit_none() } else { visitor.visit_some(self) }
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
        let length = usize::from(!self.is_deep());
        visitor.visit_seq(self.items(length))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(self.items(length))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_tuple(length, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let left = usize::from(!self.is_deep());
        visitor.visit_map(AnyEntries { entries: self.entries(), left })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        // A type that contains itself without a list or an option in between has no value at all.
        if self.depth > 2 * DEPTH_MAX {
            return Err(Error::custom("the type holds itself"));
        }
        visitor.visit_map(Fields { entries: self.entries(), fields: fields.iter() })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let first = variants.first().ok_or_else(|| Error::custom("the enum has no variant"))?;
        visitor.visit_enum(Variant { name: first, builder: self })
    }
}

struct Items<'a> {
    slot: &'a mut Value,
    path: String,
    depth: usize,
    tried: &'a RefCell<Tried>,
    left: usize,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let mut item = Value::Null;
        let (path, depth, tried) = (self.path.clone(), self.depth + 1, self.tried);
        let element = seed.deserialize(Builder { slot: &mut item, path, depth, tried })?;
        if let Value::Array(items) = &mut *self.slot {
            items.push(item);
        }
        Ok(Some(element))
    }
}

/// The entries of a map or a record.
struct Entries<'a> {
    slot: &'a mut Value,
    path: String,
    depth: usize,
    tried: &'a RefCell<Tried>,
    /// The name of the entry whose value comes next.
    name: String,
}

impl<'a> Entries<'a> {
    fn below<'b>(&self, slot: &'b mut Value, name: &str) -> Builder<'b>
    where
        'a: 'b,
    {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Builder { slot, path, depth: self.depth + 1, tried: self.tried }
    }

    fn value<'de, V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let mut item = Value::Null;
        let value = seed.deserialize(self.below(&mut item, &self.name))?;
        if let Value::Object(entries) = &mut *self.slot {
            entries.insert(std::mem::take(&mut self.name), item);
        }
        Ok(value)
    }
}

/// The fields of a record, each once.
struct Fields<'a> {
    entries: Entries<'a>,
    fields: std::slice::Iter<'static, &'static str>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some(name) = self.fields.next() else { return Ok(None) };
        self.entries.name = (*name).to_owned();
        seed.deserialize((*name).into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        self.entries.value(seed)
    }
}

/// The entries of a map, whose keys are made up, too.
struct AnyEntries<'a> {
    entries: Entries<'a>,
    left: usize,
}

impl<'de> MapAccess<'de> for AnyEntries<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let mut key = Value::Null;
        let read = seed.deserialize(self.entries.below(&mut key, "key"))?;
        self.entries.name = key.as_str().map_or_else(|| key.to_string(), str::to_owned);
        Ok(Some(read))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        self.entries.value(seed)
    }
}

/// A variant in serde's external form: its name, or its name with its content.
struct Variant<'a> {
    name: &'static str,
    builder: Builder<'a>,
}

impl<'a> Variant<'a> {
    fn content<T>(self, read: impl FnOnce(Builder<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let mut entries = self.builder.entries();
        self.name.clone_into(&mut entries.name);
        let mut content = Value::Null;
        let value = read(entries.below(&mut content, self.name))?;
        *entries.slot = Value::Object(Map::from_iter([(entries.name, content)]));
        Ok(value)
    }
}

impl<'de, 'a> EnumAccess<'de> for Variant<'a> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        Ok((seed.deserialize(self.name.into_deserializer())?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        *self.builder.slot = self.name.into();
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        self.content(|content| seed.deserialize(content))
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Error> {
        self.content(|content| content.deserialize_tuple(length, visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.content(|content| content.deserialize_struct("", fields, visitor))
    }
}
