//! Texts in other encodings than UTF-8, found out and read as UTF-8. A byte that is none of its encoding is an error, never another letter.

use std::io::{self, Read};

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Decoder, DecoderResult, Encoding, UTF_8, UTF_16BE, UTF_16LE};

const BUFFER: usize = 64 * 1024;

/// What a stream of rows holds that no text has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum StreamFault {
    #[error("line {line} holds bytes that are not of its encoding")]
    Malformed { line: u64 },
    #[error("line {line} holds a zero byte")]
    Zero { line: u64 },
    #[error("the row that begins on line {line} is too long")]
    Length { line: u64 },
}

impl StreamFault {
    pub(super) fn into_io(self) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, self)
    }

    /// The fault that an error stands for, if it is one.
    pub(super) fn of(error: &io::Error) -> Option<Self> {
        error.get_ref().and_then(|inner| inner.downcast_ref::<Self>()).copied()
    }
}

/// Which UTF-16 a text is in, if it is: told by its byte order mark, or by the zero bytes beside its first letters.
pub(super) fn utf16(beginning: &[u8]) -> Option<&'static Encoding> {
    match beginning {
        [0xff, 0xfe, ..] => Some(UTF_16LE),
        [0xfe, 0xff, ..] => Some(UTF_16BE),
        [first, 0, third, 0, ..] if *first != 0 && *third != 0 => Some(UTF_16LE),
        [0, second, 0, fourth, ..] if *second != 0 && *fourth != 0 => Some(UTF_16BE),
        _ => None,
    }
}

/// Whether a text is UTF-8 with some damaged bytes: at least one letter beyond ASCII is good UTF-8, and no more places are bad than letters are good.
pub(super) fn is_mostly_utf8(beginning: &[u8]) -> bool {
    let (mut good, mut bad) = (0_usize, 0_usize);
    for chunk in beginning.utf8_chunks() {
        good += chunk.valid().chars().filter(|letter| !letter.is_ascii()).count();
        bad += usize::from(!chunk.invalid().is_empty());
    }
    good > 0 && good >= bad
}

/// The first line of a text that has a letter beyond ASCII, if the whole text is UTF-8. None if it is not, or is all ASCII.
pub(super) fn line_of_utf8(text: impl Read) -> io::Result<Option<u64>> {
    let (mut text, mut buffer) = (Decode::new(text, UTF_8), vec![0; BUFFER]);
    let (mut line, mut found) = (1, None);
    loop {
        match text.read(&mut buffer) {
            Ok(0) => return Ok(found),
            Ok(count) => {
                let read = buffer.get(..count).unwrap_or_default();
                let is_ascii = read.iter().take_while(|byte| byte.is_ascii());
                let (plain, lines) = is_ascii
                    .fold((0, 0), |(plain, lines), byte| (plain + 1, lines + u64::from(*byte == b'\n')));
                line += lines;
                if plain < count {
                    found = found.or(Some(line));
                }
            }
            Err(error) if StreamFault::of(&error).is_some() => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// What the bytes of a text that is not UTF-8 look like.
pub(super) fn guess(mut text: impl Read) -> io::Result<&'static Encoding> {
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
    let mut buffer = vec![0; BUFFER];
    loop {
        match text.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                detector.feed(buffer.get(..count).unwrap_or_default(), false);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    detector.feed(&[], true);
    Ok(detector.guess(None, Utf8Detection::Deny))
}

/// Reads a text of an encoding as UTF-8.
pub(super) struct Decode<R> {
    text: R,
    decoder: Decoder,
    input: Vec<u8>,
    /// The part of the input that is not decoded yet.
    rest: std::ops::Range<usize>,
    output: Vec<u8>,
    /// The part of the output that is not read yet.
    ready: std::ops::Range<usize>,
    line: u64,
    is_over: bool,
    is_flushed: bool,
}

impl<R: Read> Decode<R> {
    pub(super) fn new(text: R, encoding: &'static Encoding) -> Self {
        Self {
            text,
            decoder: encoding.new_decoder_with_bom_removal(),
            input: vec![0; BUFFER],
            rest: 0..0,
            output: vec![0; BUFFER],
            ready: 0..0,
            line: 1,
            is_over: false,
            is_flushed: false,
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        if self.rest.is_empty() && !self.is_over {
            let count = self.text.read(&mut self.input)?;
            (self.rest, self.is_over) = (0..count, count == 0);
        }
        let input = self.input.get(self.rest.clone()).unwrap_or_default();
        let (result, read, written) =
            self.decoder.decode_to_utf8_without_replacement(input, &mut self.output, self.is_over);
        self.rest.start += read;
        self.ready = 0..written;
        let lines = self.output.iter().take(written).filter(|byte| **byte == b'\n').count();
        self.line += lines as u64;
        match result {
            DecoderResult::Malformed(..) => Err(StreamFault::Malformed { line: self.line }.into_io()),
            DecoderResult::InputEmpty => {
                self.is_flushed = self.is_over;
                Ok(())
            }
            DecoderResult::OutputFull => Ok(()),
        }
    }
}

impl<R: Read> Read for Decode<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.ready.is_empty() && !self.is_flushed && !buffer.is_empty() {
            self.fill()?;
        }
        let ready = self.output.get(self.ready.clone()).unwrap_or_default();
        let count = ready.len().min(buffer.len());
        buffer.iter_mut().zip(ready).for_each(|(to, from)| *to = *from);
        self.ready.start += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use encoding_rs::{SHIFT_JIS, WINDOWS_1252};

    use super::*;

    fn decoded(bytes: &[u8], encoding: &'static Encoding) -> io::Result<String> {
        let mut text = String::new();
        Decode::new(bytes, encoding).read_to_string(&mut text).map(|_| text)
    }

    #[test]
    fn texts_of_other_encodings_are_read_and_found_out() {
        let text = "sku,name\n1,Grüße\n".repeat(9_000);
        let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(super::utf16(&utf16), Some(UTF_16LE));
        assert_eq!(decoded(&utf16, UTF_16LE).unwrap(), text);
        let marked = [b"\xff\xfe", &*utf16].concat();
        assert_eq!(
            (super::utf16(&marked), decoded(&marked, UTF_16LE).unwrap()),
            (Some(UTF_16LE), text.clone())
        );
        let windows = WINDOWS_1252.encode(&text).0;
        assert_eq!(guess(&*windows).unwrap(), WINDOWS_1252);
        assert_eq!(decoded(&windows, WINDOWS_1252).unwrap(), text);
        assert_eq!(super::utf16(b"sku"), None);
    }

    #[test]
    fn a_byte_that_is_none_of_the_encoding_is_told_with_its_line() {
        let refused = decoded(b"a\nb\n\x81\xff", SHIFT_JIS).unwrap_err();
        assert_eq!(StreamFault::of(&refused), Some(StreamFault::Malformed { line: 3 }));
        let odd = decoded(b"a\0\n\0b", UTF_16LE).unwrap_err();
        assert_eq!(StreamFault::of(&odd), Some(StreamFault::Malformed { line: 2 }));
    }
}
