//! Watches the quotes of a CSV file while it is read. The decoder takes any: it lets a quote that is never closed swallow the rest of
//! the file as one field, and goes on behind a closed one as if nothing had ended.

use std::io::{self, Read};

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

/// A file, read through.
#[derive(Debug)]
pub(super) struct QuoteWatch<R> {
    file: R,
    /// Bytes of the byte order mark that were met.
    mark: usize,
    state: State,
    line: u64,
    opened: u64,
    fault: Option<QuoteFault>,
}

impl<R> QuoteWatch<R> {
    /// Begins where the file does.
    pub(super) fn new(file: R) -> Self {
        Self { file, mark: 0, state: State::Begin, line: 1, opened: 1, fault: None }
    }

    /// What is wrong with what was read so far, if it is all there is.
    pub(super) fn fault(&self) -> Option<QuoteFault> {
        let open = (self.state == State::Quoted).then_some(QuoteFault::Open { line: self.opened });
        self.fault.or(open)
    }

    fn take(&mut self, byte: u8) {
        if self.state == State::Begin && BYTE_ORDER_MARK.get(self.mark) == Some(&byte) {
            self.mark += 1;
            return;
        }
        self.mark = BYTE_ORDER_MARK.len();
        self.state = match (self.state, byte) {
            (State::Begin, b'"') => {
                self.opened = self.line;
                State::Quoted
            }
            (State::Quoted, b'"') => State::Closing,
            (State::Quoted, _) | (State::Closing, b'"') => State::Quoted,
            (_, b',' | b'\r' | b'\n') => State::Begin,
            (State::Closing, _) => {
                let (opened, line) = (self.opened, self.line);
                self.fault.get_or_insert(QuoteFault::Behind { opened, line });
                State::Plain
            }
            (State::Begin | State::Plain, _) => State::Plain,
        };
        self.line += u64::from(byte == b'\n');
    }
}

impl<R: Read> Read for QuoteWatch<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        buffer.iter().take(count).for_each(|byte| self.take(*byte));
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> Option<QuoteFault> {
        let mut watch = QuoteWatch::new(text.as_bytes());
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
