//! Reads objects by the names of their fields only.
//!
//! The decoders of serde also accept a list in place of a struct, and assign its items to the fields in their order. A body could then mean
//! something that nobody intended: `["S1","USD",[]]` would be a sale, and its meaning would change with the order of the fields. [`ByName`]
//! refuses such a list at any depth. Real lists and tuples are read as usual.
//!
//! In MessagePack a key may be a number, which the decoders take as the place of a field or of an enum's variant. It is refused too: a name is
//! a string.
//!
//! Deliberately absent: what serde buffers before it decides on a type (flattened fields, untagged and internally tagged enums).

use std::fmt;

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Unexpected, VariantAccess,
    Visitor,
};

/// A deserializer, visitor or part of one that reads structs by the names of their fields.
#[derive(Debug, Clone, Copy)]
pub struct ByName<T>(pub T);

/// The visitor of a struct. It refuses lists.
struct Named<V>(V);

/// The entries of a struct, whose keys are strings.
struct NamedEntries<A>(A);

/// Reads a name, of a field or of a variant.
struct Name<T>(T);

macro_rules! forward {
    ($($method:ident($($argument:ident : $type:ty),*);)*) => {
        $(fn $method<V: Visitor<'de>>(self, $($argument: $type,)* visitor: V) -> Result<V::Value, D::Error> {
            self.0.$method($($argument,)* ByName(visitor))
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for ByName<D> {
    type Error = D::Error;

    forward! {
        deserialize_any(); deserialize_bool(); deserialize_i8(); deserialize_i16(); deserialize_i32(); deserialize_i64();
        deserialize_i128(); deserialize_u8(); deserialize_u16(); deserialize_u32(); deserialize_u64(); deserialize_u128();
        deserialize_f32(); deserialize_f64(); deserialize_char(); deserialize_str(); deserialize_string();
        deserialize_bytes(); deserialize_byte_buf(); deserialize_option(); deserialize_unit(); deserialize_seq();
        deserialize_map(); deserialize_identifier(); deserialize_ignored_any();
        deserialize_unit_struct(name: &'static str);
        deserialize_newtype_struct(name: &'static str);
        deserialize_tuple(length: usize);
        deserialize_tuple_struct(name: &'static str, length: usize);
        deserialize_enum(name: &'static str, variants: &'static [&'static str]);
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_struct(name, fields, Named(visitor))
    }

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }
}

macro_rules! visit {
    ($($method:ident($type:ty);)*) => {
        $(fn $method<E: Error>(self, value: $type) -> Result<V::Value, E> {
            self.0.$method(value)
        })*
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for ByName<V> {
    type Value = V::Value;

    visit! {
        visit_bool(bool); visit_i8(i8); visit_i16(i16); visit_i32(i32); visit_i64(i64); visit_i128(i128);
        visit_u8(u8); visit_u16(u16); visit_u32(u32); visit_u64(u64); visit_u128(u128);
        visit_f32(f32); visit_f64(f64); visit_char(char);
        visit_str(&str); visit_borrowed_str(&'de str); visit_string(String);
        visit_bytes(&[u8]); visit_borrowed_bytes(&'de [u8]); visit_byte_buf(Vec<u8>);
    }

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(formatter)
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.0.visit_some(ByName(deserializer))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.0.visit_newtype_struct(ByName(deserializer))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<V::Value, A::Error> {
        self.0.visit_seq(ByName(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(ByName(entries))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<V::Value, A::Error> {
        self.0.visit_enum(ByName(data))
    }
}

/// What a decoder passes to the visitor of a struct. Everything else is refused by the visitor itself.
impl<'de, V: Visitor<'de>> Visitor<'de> for Named<V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(formatter)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<V::Value, A::Error> {
        Err(Error::invalid_type(Unexpected::Seq, &self))
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(NamedEntries(ByName(entries)))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.0.visit_newtype_struct(ByName(deserializer))
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for NamedEntries<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.0.next_key_seed(Name(seed))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.0.next_value_seed(seed)
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Name<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Name(deserializer))
    }
}

/// Whatever type is asked for, only a string is accepted as a name; everything else is refused by the [`Visitor`] below.
impl<'de, D: Deserializer<'de>> Deserializer<'de> for Name<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_identifier(Name(visitor))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct
        seq tuple tuple_struct map struct enum identifier ignored_any
    }

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Name<V> {
    type Value = V::Value;

    visit! { visit_str(&str); visit_borrowed_str(&'de str); visit_string(String); }

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a name, which is a string")
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for ByName<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(ByName(deserializer))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for ByName<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.0.next_element_seed(ByName(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for ByName<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.0.next_key_seed(ByName(seed))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.0.next_value_seed(ByName(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for ByName<A> {
    type Error = A::Error;
    type Variant = ByName<A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self::Variant), A::Error> {
        self.0.variant_seed(Name(seed)).map(|(value, variant)| (value, ByName(variant)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for ByName<A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.0.unit_variant()
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.0.newtype_variant_seed(ByName(seed))
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.0.tuple_variant(length, ByName(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.0.struct_variant(fields, Named(visitor))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Line {
        sku: String,
        quantity: i64,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Means {
        Cash,
        Card { number: String },
        Points(u8, u8),
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sale {
        lines: Vec<Line>,
        means: Option<Means>,
        by_shelf: BTreeMap<String, Line>,
        pair: (u8, char),
        share: f64,
    }

    fn sale(means: Means) -> Sale {
        let line = || Line { sku: "tea".into(), quantity: -3 };
        let by_shelf = BTreeMap::from([("a".to_owned(), line())]);
        Sale { lines: vec![line()], means: Some(means), by_shelf, pair: (7, 'x'), share: 0.5 }
    }

    fn read(json: &str) -> Result<Sale, String> {
        Sale::deserialize(ByName(&mut serde_json::Deserializer::from_str(json))).map_err(|it| it.to_string())
    }

    #[test]
    fn what_is_written_by_name_comes_back_in_both_formats() {
        for means in [Means::Cash, Means::Card { number: "1".into() }, Means::Points(1, 2)] {
            let sale = sale(means);
            assert_eq!(read(&serde_json::to_string(&sale).unwrap()), Ok(sale));
        }
        let sale = sale(Means::Points(1, 2));
        let packed = rmp_serde::to_vec_named(&sale).unwrap();
        let mut decoder = rmp_serde::Deserializer::new(&*packed);
        assert_eq!(Sale::deserialize(ByName(&mut decoder)).unwrap(), sale);
        // By position, as the same crate writes it unless it is told otherwise.
        let packed = rmp_serde::to_vec(&sale).unwrap();
        let mut decoder = rmp_serde::Deserializer::new(&*packed);
        assert!(Sale::deserialize(ByName(&mut decoder)).is_err());
    }

    /// A number as a key was the place of a field, and so was a variant's.
    #[test]
    fn numbers_and_bytes_are_no_names() {
        let read = |bytes: &[u8]| {
            Line::deserialize(ByName(&mut rmp_serde::Deserializer::new(bytes))).map_err(|it| it.to_string())
        };
        let named = rmp_serde::to_vec_named(&Line { sku: "tea".into(), quantity: -3 }).unwrap();
        assert_eq!(read(&named), Ok(Line { sku: "tea".into(), quantity: -3 }));
        let tea = [0xa3, b't', b'e', b'a'];
        let by_number = [&[0x82, 0x00][..], &tea, &[0x01, 0xfd]].concat();
        let by_bytes = [&[0x82, 0xc4, 3][..], b"sku", &tea, &[0xc4, 8], b"quantity", &[0xfd]].concat();
        for bytes in [by_number, by_bytes] {
            let refused = read(&bytes).unwrap_err();
            assert!(refused.contains("a name, which is a string"), "{refused}");
        }
        // {0: nil} and {2: [1, 2]}
        for bytes in [&[0x81, 0x00, 0xc0][..], &[0x81, 0x02, 0x92, 1, 2]] {
            let means = Means::deserialize(ByName(&mut rmp_serde::Deserializer::new(bytes)));
            assert!(means.is_err(), "{means:?}");
        }
    }

    #[test]
    fn a_list_in_the_place_of_an_object_is_refused_however_deep() {
        let whole = serde_json::to_string(&sale(Means::Card { number: "1".into() })).unwrap();
        for (by_name, by_position, named) in [
            (whole.as_str(), r#"[[],null,{},[1,"x"],1.0]"#, "struct Sale"),
            (r#"[{"sku":"tea","quantity":-3}]"#, r#"[["tea",-3]]"#, "struct Line"),
            (r#"{"a":{"sku":"tea","quantity":-3}}"#, r#"{"a":["tea",-3]}"#, "struct Line"),
            (r#"{"Card":{"number":"1"}}"#, r#"{"Card":["1"]}"#, "Card"),
        ] {
            assert!(whole.contains(by_name), "{by_name}");
            let error = read(&whole.replace(by_name, by_position)).unwrap_err();
            assert!(error.contains("sequence") && error.contains(named), "{error}");
        }
    }
}
