//! Names of the tables of processes whose own names an application chooses: `<process>.<table>`. They are joined at compile time, because a
//! process names its tables as constants.

/// The longest name of a table.
pub(crate) const NAME_LENGTH_MAX: usize = 64;

/// A name that is being joined.
pub(crate) struct Joined {
    bytes: [u8; NAME_LENGTH_MAX],
    length: usize,
}

impl Joined {
    /// `<process>.<table>`. A name that is too long is a compile error.
    #[expect(
        clippy::indexing_slicing,
        reason = "it runs in the compiler, which refuses what is out of bounds"
    )]
    pub(crate) const fn new(process: &str, table: &str) -> Self {
        let (process, table) = (process.as_bytes(), table.as_bytes());
        let mut bytes = [0; NAME_LENGTH_MAX];
        let mut length = 0;
        while length < process.len() {
            bytes[length] = process[length];
            length += 1;
        }
        bytes[length] = b'.';
        length += 1;
        let mut index = 0;
        while index < table.len() {
            bytes[length] = table[index];
            length += 1;
            index += 1;
        }
        Self { bytes, length }
    }

    /// The name.
    pub(crate) const fn as_str(&self) -> &str {
        let (name, _) = self.bytes.split_at(self.length);
        match std::str::from_utf8(name) {
            Ok(name) => name,
            Err(_) => panic!("two texts joined by a full stop are a text"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_called_after_its_process() {
        const JOINED: Joined = Joined::new("member-email", "claims");
        const NAME: &str = JOINED.as_str();
        assert_eq!(NAME, "member-email.claims");
    }
}
