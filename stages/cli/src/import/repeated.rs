//! Which hashes come more than once among those of all rows of a file, in little memory: they are sorted in parts, which are kept in
//! temporary files and merged.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fs::File,
    io::{self, BufReader, BufWriter, ErrorKind, Read, Seek as _, SeekFrom, Write as _},
};

use super::identity::Digest;

/// As many as are sorted in memory: 6 MiB.
const PART: usize = 256 * 1024;

/// A hash and the line that has it.
type Entry = (Digest, u64);

/// Collects the hashes.
#[derive(Debug, Default)]
pub(super) struct Repeated {
    part: Vec<Entry>,
    parts: Vec<File>,
}

impl Repeated {
    /// Adds the hash of a line.
    pub(super) fn add(&mut self, digest: Digest, line: u64) -> io::Result<()> {
        if self.part.len() == PART {
            self.put_away()?;
        }
        if self.part.capacity() == 0 {
            self.part.reserve_exact(PART);
        }
        self.part.push((digest, line));
        Ok(())
    }

    fn put_away(&mut self) -> io::Result<()> {
        self.part.sort_unstable();
        let mut file = tempfile::tempfile()?;
        let mut writer = BufWriter::new(&mut file);
        for (digest, line) in self.part.drain(..) {
            writer.write_all(&digest)?;
            writer.write_all(&line.to_be_bytes())?;
        }
        writer.flush()?;
        drop(writer);
        file.seek(SeekFrom::Start(0))?;
        self.parts.push(file);
        Ok(())
    }

    /// Calls `found` for each hash that comes more than once, with two of its lines that follow each other. A hash with three lines is found twice.
    pub(super) fn find(mut self, mut found: impl FnMut(Digest, u64, u64)) -> io::Result<()> {
        self.part.sort_unstable();
        let mut last: Option<Entry> = None;
        let mut take = |entry: Entry| {
            if let Some((digest, line)) = last.filter(|(digest, _)| *digest == entry.0) {
                found(digest, line, entry.1);
            }
            last = Some(entry);
        };
        if self.parts.is_empty() {
            self.part.into_iter().for_each(take);
            return Ok(());
        }
        self.put_away()?;
        let mut readers: Vec<BufReader<File>> = self.parts.into_iter().map(BufReader::new).collect();
        let mut heap = BinaryHeap::new();
        for (index, reader) in readers.iter_mut().enumerate() {
            heap.extend(next(reader)?.map(|entry| Reverse((entry, index))));
        }
        while let Some(Reverse((entry, index))) = heap.pop() {
            take(entry);
            if let Some(reader) = readers.get_mut(index) {
                heap.extend(next(reader)?.map(|entry| Reverse((entry, index))));
            }
        }
        Ok(())
    }
}

fn next(reader: &mut impl Read) -> io::Result<Option<Entry>> {
    let (mut digest, mut line) = (Digest::default(), [0; 8]);
    match reader.read_exact(&mut digest) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    reader.read_exact(&mut line)?;
    Ok(Some((digest, u64::from_be_bytes(line))))
}

#[cfg(test)]
mod tests {
    use super::{super::identity::digest, *};

    #[test]
    fn repeats_are_found_within_a_part_and_between_parts() {
        let mut repeated = Repeated::default();
        let rows = 2 * PART as u64 + 7;
        for line in 0..rows {
            // Lines 5, 6 and the last are equal, and so are 10 and one in the second part.
            let content = match line {
                6 => 5,
                line if line == rows - 1 => 5,
                line if line == PART as u64 + 3 => 10,
                line => line,
            };
            repeated.add(digest("", [content.to_string().as_str()]), line).unwrap();
        }
        assert_eq!(repeated.parts.len(), 2);
        let mut all = Vec::new();
        repeated.find(|_, first, second| all.push((first, second))).unwrap();
        all.sort_unstable();
        assert_eq!(all, [(5, 6), (6, rows - 1), (10, PART as u64 + 3)]);
    }
}
