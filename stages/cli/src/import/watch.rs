//! Watches a CSV file while it is read, for what the decoder does not tell. It takes any quotes: one that is never closed swallows the
//! rest of the file as one field, and behind a closed one it goes on as if nothing had ended. And it counts the blank lines before a
//! row, and half of the line end of Windows before it, to the row.

use std::{
    collections::VecDeque,
    io::{self, Read},
};

use super::decode::StreamFault;

/// Longest row, in bytes: no command of it would fit into a message, and it must fit into memory.
const ROW_BYTES_MAX: usize = 16 * 1024 * 1024;

/// May stand before the first field, and is no part of it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What is wrong with a quote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QuoteFault {
    /// It is open when the file ends.
    Open { line: u64 },
    /// A field goes on behind the quote that closes it.
    Behind { opened: u64, line: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A field begins.
    Begin,
    /// Within a field that did not begin with a quote: quotes are bytes as any other.
    Plain,
    Quoted,
    /// Behind a quote within quotes, which closes them unless another one follows.
    Closing,
}

/// A file, read through by a decoder.
#[derive(Debug)]
pub(super) struct Watch<R> {
    file: R,
    delimiter: u8,
    /// Bytes of the row so far.
    length: usize,
    /// Bytes of the byte order mark that were met.
    mark: usize,
    state: State,
    line: u64,
    opened: u64,
    fault: Option<QuoteFault>,
    /// The byte before.
    before: u8,
    /// Whether a row has begun and not ended.
    in_row: bool,
    /// The lines on which those rows begin that were read from the file and not by the decoder's user.
    begun: VecDeque<u64>,
}

impl<R> Watch<R> {
    /// Begins where the file does, or on a line behind its first.
    pub(super) fn new(file: R, delimiter: u8, line: u64) -> Self {
        Self {
            file,
            delimiter,
            length: 0,
            mark: 0,
            state: State::Begin,
            line,
            opened: line,
            fault: None,
            before: 0,
            in_row: false,
            begun: VecDeque::new(),
        }
    }

    /// What is wrong with what was read so far, if it is all there is.
    pub(super) fn fault(&self) -> Option<QuoteFault> {
        let open = (self.state == State::Quoted).then_some(QuoteFault::Open { line: self.opened });
        self.fault.or(open)
    }

    /// The line on which the row begins that the decoder has read; to be asked once for each, and for the header.
    pub(super) fn begun(&mut self) -> u64 {
        self.begun.pop_front().unwrap_or(self.line)
    }

    fn take(&mut self, byte: u8) -> Result<(), StreamFault> {
        if self.state == State::Begin && BYTE_ORDER_MARK.get(self.mark) == Some(&byte) {
            self.mark += 1;
            return Ok(());
        }
        self.mark = BYTE_ORDER_MARK.len();
        // A line ends at LF, and at a CR that no LF follows.
        self.line += u64::from(self.before == b'\n' || (self.before == b'\r' && byte != b'\n'));
        self.before = byte;
        let ends = matches!(byte, b'\r' | b'\n') && self.state != State::Quoted;
        if !ends && !self.in_row {
            self.begun.push_back(self.line);
        }
        self.in_row = !ends;
        self.length = if ends { 0 } else { self.length + 1 };
        if byte == 0 {
            return Err(StreamFault::Zero { line: self.line });
        }
        if self.length > ROW_BYTES_MAX {
            return Err(StreamFault::Length { line: self.begun.back().copied().unwrap_or(self.line) });
        }
        self.state = match (self.state, byte) {
            (State::Begin, b'"') => {
                self.opened = self.line;
                State::Quoted
            }
            (State::Quoted, b'"') => State::Closing,
            (State::Quoted, _) | (State::Closing, b'"') => State::Quoted,
            (_, b'\r' | b'\n') => State::Begin,
            (_, byte) if byte == self.delimiter => State::Begin,
            (State::Closing, _) => {
                let (opened, line) = (self.opened, self.line);
                self.fault.get_or_insert(QuoteFault::Behind { opened, line });
                State::Plain
            }
            (State::Begin | State::Plain, _) => State::Plain,
        };
        Ok(())
    }
}

impl<R: Read> Read for Watch<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        buffer.iter().take(count).try_for_each(|byte| self.take(*byte)).map_err(StreamFault::into_io)?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_begin_on_the_lines_that_an_editor_shows() {
        for end in ["\n", "\r\n", "\r"] {
            let text = "\u{feff}a,b\n\n1,\"x\ny\"\n\n\n2,z\n \n3,z".replace('\n', end);
            let mut reader =
                csv::ReaderBuilder::new().flexible(true).from_reader(Watch::new(text.as_bytes(), b',', 1));
            reader.headers().unwrap();
            let mut lines = vec![reader.get_mut().begun()];
            let mut record = csv::StringRecord::new();
            while reader.read_record(&mut record).unwrap() {
                lines.push(reader.get_mut().begun());
            }
            assert_eq!(lines, [1, 3, 7, 8, 9], "{end:?}");
        }
    }

    fn fault(text: &str) -> Option<QuoteFault> {
        let mut watch = Watch::new(text.as_bytes(), b',', 1);
        watch.read_to_end(&mut Vec::new()).unwrap();
        watch.fault()
    }

    #[test]
    fn a_quote_that_is_not_closed_where_its_field_ends_is_found() {
        for well in [
            "a,\"b\"\n",
            "\"a\"\"b\",\"\"\r\n\"x\ny\",5\n",
            "5\" nail,\"z\"",
            "\u{feff}\"a b\",d\n",
            "\"\"\"\"",
            "",
        ] {
            assert_eq!(fault(well), None, "{well:?}");
        }
        assert_eq!(fault("a,b\n1,\"x\n2,y\n"), Some(QuoteFault::Open { line: 2 }));
        assert_eq!(fault("a,b\n1,\"x\n2,\"y\"\n"), Some(QuoteFault::Behind { opened: 2, line: 3 }));
        assert_eq!(fault("a\n\"b\" c\n\"d"), Some(QuoteFault::Behind { opened: 2, line: 2 }));
    }
}
