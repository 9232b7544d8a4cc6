//! The bytes that a server sends, with every message that the client library cannot read replaced by one that it can.
//!
//! The server passes on whatever bytes a client put into headers and subjects. The client library (async-nats 0.51, `connection.rs`) treats
//! some of them as an error and ends the connection. Here, such a message is replaced by one without a body and with the header
//! [`UNREADABLE`], which says why. Everything else passes unchanged.

use bytes::{Buf as _, Bytes, BytesMut};
use millstream_contract::header_block;
use serde_json::{Map, Value};

/// The header of a message that could not be read. Its value says why.
pub(crate) const UNREADABLE: &str = "Millstream-Unreadable";

/// No line of a server is longer. The longest is INFO, which lists the servers of a cluster; the server's `max_control_line` limits all others.
const LINE_BYTES_MAX: usize = 1024 * 1024;
/// Fields of INFO about the connection to the server. They are not true of the connection to the sieve, and the client library would
/// believe them.
const INFO_OF_THE_WAY: [&str; 5] =
    ["tls_required", "tls_verify", "tls_available", "connect_urls", "ws_connect_urls"];
/// How many bytes of a subject are logged.
const SHOWN_BYTES_MAX: usize = 60;

/// The received bytes are not the NATS protocol.
#[derive(Debug, thiserror::Error)]
#[error("the server sent {0}, which is not the protocol of NATS")]
pub(super) struct NotTheProtocol(String);

/// The first protocol message in the received bytes.
enum Operation {
    /// It is still incomplete.
    Partial {
        /// How many bytes it needs at least.
        bytes: usize,
    },
    /// The library can read it.
    Readable { bytes: usize },
    /// It is passed on with changes.
    Reworded { bytes: usize, by: Bytes },
    /// The library cannot read it, for this reason. It is to be replaced.
    Unreadable { bytes: usize, by: Bytes, reason: String },
}

/// Takes the bytes that come from a server, in pieces of any size.
#[derive(Debug, Default)]
pub(super) struct Sieve {
    /// Until this many bytes have come, parsing again gives nothing new.
    needed: usize,
    /// Why messages could not be read since the last call of [`Self::troubles`].
    troubles: Vec<String>,
}

impl Sieve {
    /// Removes all complete messages from `received`, and returns in order what is to be passed on.
    pub(super) fn sift(&mut self, received: &mut BytesMut) -> Result<Vec<Bytes>, NotTheProtocol> {
        let mut passed = Vec::new();
        let mut readable = 0;
        while received.len() >= self.needed.max(readable + 1) {
            let rest = received.get(readable..).unwrap_or_default();
            self.needed = 0;
            match operation(rest)? {
                Operation::Partial { bytes } => {
                    self.needed = readable + bytes;
                    break;
                }
                Operation::Readable { bytes } => readable += bytes,
                Operation::Reworded { bytes, by } => {
                    replace(received, readable, bytes, by, &mut passed);
                    readable = 0;
                }
                Operation::Unreadable { bytes, by, reason } => {
                    replace(received, readable, bytes, by, &mut passed);
                    self.troubles.push(reason);
                    readable = 0;
                }
            }
        }
        self.needed = self.needed.saturating_sub(readable);
        pass(received, readable, &mut passed);
        Ok(passed)
    }

    /// Why messages could not be read since the last call.
    pub(super) fn troubles(&mut self) -> Vec<String> {
        std::mem::take(&mut self.troubles)
    }
}

/// Passes on the readable bytes, and `by` in place of the bytes after them.
fn replace(received: &mut BytesMut, readable: usize, bytes: usize, by: Bytes, passed: &mut Vec<Bytes>) {
    pass(received, readable, passed);
    received.advance(bytes);
    passed.push(by);
}

fn pass(received: &mut BytesMut, bytes: usize, passed: &mut Vec<Bytes>) {
    if bytes > 0 {
        passed.push(received.split_to(bytes).freeze());
    }
}

fn operation(received: &[u8]) -> Result<Operation, NotTheProtocol> {
    let Some(line_bytes) = received.windows(2).position(|two| two == b"\r\n") else {
        if received.len() > LINE_BYTES_MAX {
            return Err(not_the_protocol(received));
        }
        return Ok(Operation::Partial { bytes: received.len() + 1 });
    };
    let line = received.get(..line_bytes).unwrap_or_default();
    let bytes = line_bytes + 2;
    if let Some(arguments) = line.strip_prefix(b"MSG ") {
        return message(received, bytes, arguments, false);
    }
    if let Some(arguments) = line.strip_prefix(b"HMSG ") {
        return message(received, bytes, arguments, true);
    }
    if let Some(info) = line.strip_prefix(b"INFO ") {
        return Ok(Operation::Reworded { bytes, by: info_without_the_way(info)? });
    }
    if line.starts_with(b"-ERR ") && str::from_utf8(line).is_err() {
        let by = format!("{}\r\n", String::from_utf8_lossy(line)).into();
        return Ok(Operation::Reworded { bytes, by });
    }
    Ok(Operation::Readable { bytes })
}

/// A message, as its protocol line describes it.
struct MessageLine<'a> {
    subject: &'a [u8],
    subscription: &'a str,
    reply: Option<&'a [u8]>,
    header_bytes: usize,
    total_bytes: usize,
}

fn message(
    received: &[u8],
    line_bytes: usize,
    arguments: &[u8],
    has_headers: bool,
) -> Result<Operation, NotTheProtocol> {
    let line = MessageLine::parse(arguments, has_headers).ok_or_else(|| not_the_protocol(arguments))?;
    let bytes = line_bytes + line.total_bytes + 2;
    if received.len() < bytes {
        return Ok(Operation::Partial { bytes });
    }
    let block = received.get(line_bytes..line_bytes + line.header_bytes).unwrap_or_default();
    let trouble = line.trouble(has_headers).or_else(|| has_headers.then(|| header_block::trouble(block))?);
    Ok(match trouble {
        None => Operation::Readable { bytes },
        Some(reason) => Operation::Unreadable { bytes, by: line.replacement(&reason), reason },
    })
}

impl<'a> MessageLine<'a> {
    /// `<subject> <subscription> [reply] [header bytes] <total bytes>`. The server allows no space inside any of them.
    fn parse(arguments: &'a [u8], has_headers: bool) -> Option<Self> {
        let mut words: Vec<&[u8]> =
            arguments.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty()).collect();
        let total_bytes = number(words.pop()?)?;
        let header_bytes = if has_headers { number(words.pop()?)? } else { 0 };
        let (subject, subscription, reply) = match *words.as_slice() {
            [subject, subscription] => (subject, subscription, None),
            [subject, subscription, reply] => (subject, subscription, Some(reply)),
            _ => return None,
        };
        let subscription = str::from_utf8(subscription).ok()?;
        let line = Self { subject, subscription, reply, header_bytes, total_bytes };
        (header_bytes <= total_bytes && subscription.parse::<u64>().is_ok()).then_some(line)
    }

    /// Why the library cannot read the line. In a line with headers, it treats any Unicode white space as a separator.
    fn trouble(&self, has_headers: bool) -> Option<String> {
        [("subject", Some(self.subject)), ("reply subject", self.reply)].into_iter().find_map(
            |(what, word)| {
                let word = word?;
                let trouble = match str::from_utf8(word) {
                    Err(_) => "is not UTF-8",
                    Ok(text) if has_headers && text.contains(char::is_whitespace) => "has white space",
                    Ok(_) => return None,
                };
                let shown = word.get(..SHOWN_BYTES_MAX).unwrap_or(word).escape_ascii();
                Some(format!("the {what} \"{shown}\" {trouble}"))
            },
        )
    }

    /// A readable message for the same subscription. If the original reply subject can be read, it is kept, so that an answer reaches the
    /// sender.
    fn replacement(&self, reason: &str) -> Bytes {
        let subject: String = String::from_utf8_lossy(self.subject)
            .chars()
            .map(
                |one| if one.is_whitespace() || one.is_control() { char::REPLACEMENT_CHARACTER } else { one },
            )
            .collect();
        let reply = self.reply.and_then(|reply| str::from_utf8(reply).ok());
        let reply = reply.filter(|reply| !reply.contains(char::is_whitespace));
        let reply = reply.map(|reply| format!("{reply} ")).unwrap_or_default();
        let block = format!("NATS/1.0\r\n{UNREADABLE}: {reason}\r\n\r\n");
        let bytes = block.len();
        format!("HMSG {subject} {} {reply}{bytes} {bytes}\r\n{block}\r\n", self.subscription).into()
    }
}

fn number(word: &[u8]) -> Option<usize> {
    str::from_utf8(word).ok()?.parse().ok()
}

fn info_without_the_way(info: &[u8]) -> Result<Bytes, NotTheProtocol> {
    let mut info: Map<String, Value> = serde_json::from_slice(info).map_err(|_| not_the_protocol(info))?;
    info.retain(|field, _| !INFO_OF_THE_WAY.contains(&field.as_str()));
    Ok(format!("INFO {}\r\n", Value::from(info)).into())
}

fn not_the_protocol(bytes: &[u8]) -> NotTheProtocol {
    NotTheProtocol(bytes.get(..SHOWN_BYTES_MAX).unwrap_or(bytes).escape_ascii().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the server sent, and what is handed on: the same where nothing is said.
    struct Case {
        sent: Vec<u8>,
        passed: Option<Vec<u8>>,
        reason: Option<&'static str>,
    }

    fn same(sent: impl Into<Vec<u8>>) -> Case {
        Case { sent: sent.into(), passed: None, reason: None }
    }

    fn reworded(sent: &[u8], passed: &str) -> Case {
        Case { sent: sent.to_vec(), passed: Some(passed.into()), reason: None }
    }

    fn refused(sent: Vec<u8>, line: &str, reason: &'static str) -> Case {
        let block = format!("NATS/1.0\r\nMillstream-Unreadable: {reason}\r\n\r\n");
        Case { sent, passed: Some(with_headers(line, block, "")), reason: Some(reason) }
    }

    fn with_headers(line: impl AsRef<[u8]>, block: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Vec<u8> {
        let (block, body) = (block.as_ref(), body.as_ref());
        let sizes = format!(" {} {}\r\n", block.len(), block.len() + body.len());
        [b"HMSG ", line.as_ref(), sizes.as_bytes(), block, body, b"\r\n"].concat()
    }

    fn cases() -> Vec<Case> {
        vec![
            same("PING\r\n"),
            same("+OK\r\n"),
            same("MSG a.b 1 5\r\nbody\n\r\n"),
            same("MSG a.b 1 reply.to 0\r\n\r\n"),
            // A body may look like a line.
            same("MSG a.b 1 6\r\nPING\r\n\r\n"),
            same(with_headers("a 7", "NATS/1.0\r\nX:y\r\n\r\n", b"\xff\xff")),
            same(with_headers("a 7", "NATS/1.0 503\r\n\r\n", "")),
            same(with_headers("a 7", "NATS/1.0 408 Timed Out\r\nX: 1\r\n\r\n", "")),
            reworded(b"-ERR 'Jos\xe9'\r\n", "-ERR 'Jos\u{fffd}'\r\n"),
            reworded(
                b"INFO {\"max_payload\":8,\"tls_required\":true,\"connect_urls\":[\"a:1\"]}\r\n",
                "INFO {\"max_payload\":8}\r\n",
            ),
            refused(
                with_headers("a 7 to.me", b"NATS/1.0\r\nA:Jos\xe9\r\n\r\n", "body"),
                "a 7 to.me",
                "the value of header \"A\" is not UTF-8: \"Jos\\xe9\"",
            ),
            refused(
                with_headers("a 7", "NATS/1.0\r\nA:\rb\r\n\r\n", ""),
                "a 7",
                "the value of header \"A\" holds a carriage return",
            ),
            refused(
                with_headers("a 7", "NATS/1.0 99\r\n\r\n", ""),
                "a 7",
                "the header block begins with \"NATS/1.0 99\", not with NATS/1.0",
            ),
            refused(
                with_headers("a.\u{a0}b 7 to.me", "NATS/1.0\r\n\r\n", ""),
                "a.\u{fffd}b 7 to.me",
                "the subject \"a.\\xc2\\xa0b\" has white space",
            ),
            refused(
                b"MSG a 7 to.\xff 0\r\n\r\n".to_vec(),
                "a 7",
                "the reply subject \"to.\\xff\" is not UTF-8",
            ),
        ]
    }

    impl Case {
        fn passed(&self) -> &[u8] {
            self.passed.as_deref().unwrap_or(&self.sent)
        }
    }

    fn sift<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, Vec<String>) {
        let (mut sieve, mut received, mut passed) = (Sieve::default(), BytesMut::new(), Vec::new());
        for piece in pieces {
            received.extend_from_slice(piece);
            passed.extend(sieve.sift(&mut received).unwrap().concat());
        }
        assert!(received.is_empty(), "left: {received:?}");
        (passed, sieve.troubles())
    }

    #[test]
    fn what_the_library_cannot_read_is_replaced_and_all_else_comes_as_it_is() {
        for case in cases() {
            let (passed, troubles) = sift([&*case.sent]);
            assert_eq!(passed.escape_ascii().to_string(), case.passed().escape_ascii().to_string());
            assert_eq!(troubles, Vec::from_iter(case.reason), "{}", case.sent.escape_ascii());
        }
    }

    #[test]
    fn in_whatever_pieces_it_comes_the_same_is_handed_on() {
        let cases = cases();
        let all: Vec<u8> = cases.iter().flat_map(|case| &case.sent).copied().collect();
        let expected: Vec<u8> = cases.iter().flat_map(Case::passed).copied().collect();
        assert_eq!(sift(all.chunks(1)).0, expected);
        for at in 0..=all.len() {
            let (first, second) = all.split_at(at);
            assert_eq!(sift([first, second]).0, expected, "in two pieces, the first of {at} bytes");
        }
        // What was handed on can be read.
        assert_eq!(sift([&*expected]), (expected.clone(), vec![]));
    }

    #[test]
    fn what_is_not_the_protocol_ends_the_line() {
        for sent in
            [&b"MSG a 1\r\n"[..], b"MSG a b c d 1\r\n", b"HMSG a 1 9 8\r\n", b"MSG a x 1\r\n", b"INFO x\r\n"]
        {
            let refused = Sieve::default().sift(&mut BytesMut::from(sent));
            assert!(refused.is_err(), "{}", sent.escape_ascii());
        }
        let endless = vec![b'a'; LINE_BYTES_MAX + 1];
        assert!(Sieve::default().sift(&mut BytesMut::from(&*endless)).is_err());
    }
}
