//! Keys of redb tables that are text, compared as bytes.

use std::cmp::Ordering;

use redb::{Key, TypeName, Value};

/// A key like `&str`, but cheaper: redb decodes a `&str` key, and so checks that it is UTF-8, at every comparison on the way to a row. The
/// bytes of UTF-8 sort like the text, so the check is not needed. For redb, the two types are the same.
#[derive(Debug)]
pub struct TextKey;

impl Value for TextKey {
    type SelfType<'a> = &'a str;
    type AsBytes<'a> = &'a str;

    fn fixed_width() -> Option<usize> {
        <&str>::fixed_width()
    }

    fn from_bytes<'a>(data: &'a [u8]) -> &'a str
    where
        Self: 'a,
    {
        <&str>::from_bytes(data)
    }

    fn as_bytes<'a, 'b: 'a>(value: &'a &'b str) -> &'a str {
        value
    }

    fn type_name() -> TypeName {
        <&str>::type_name()
    }
}

impl Key for TextKey {
    fn compare(one: &[u8], other: &[u8]) -> Ordering {
        one.cmp(other)
    }
}

#[cfg(test)]
mod tests {
    use redb::{
        Database, ReadableDatabase as _, ReadableTable as _, TableDefinition, backends::InMemoryBackend,
    };

    use super::*;

    #[test]
    fn a_table_of_text_is_the_same_table() {
        let keys = ["", "a", "a/b", "z", "ä", "€", "𝄞"];
        let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let write = database.begin_write().unwrap();
        let mut table = write.open_table(TableDefinition::<&str, u64>::new("rows")).unwrap();
        for (number, key) in (0..).zip(keys) {
            table.insert(key, number).unwrap();
        }
        drop(table);
        write.commit().unwrap();
        let read = database.begin_read().unwrap();
        let table = read.open_table(TableDefinition::<TextKey, u64>::new("rows")).unwrap();
        for (number, key) in (0..).zip(keys) {
            assert_eq!(table.get(key).unwrap().unwrap().value(), number, "{key}");
        }
        let found: Vec<String> = table.iter().unwrap().map(|row| row.unwrap().0.value().to_owned()).collect();
        assert_eq!(found, keys);
    }
}
