//! The NATS client protocol, as far as a proxy must understand it to act on single messages: where a frame ends, and the
//! subject and reply of what is published and delivered. Everything else passes as it is.

use bytes::{Bytes, BytesMut};

/// Longest control line that is waited for; nats-server's own limit is 4 KiB, its INFO is about 1 KiB.
const LINE_MAX: usize = 64 * 1024;

/// Bytes that are not the protocol.
#[derive(Debug, thiserror::Error)]
#[error("not the NATS protocol: {0:?}")]
pub(super) struct NotNats(String);

/// What a frame is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// `CONNECT`, with the client's name.
    Connect {
        /// As `nats server report connections` shows it.
        name: String,
    },
    /// `PUB` or `HPUB`.
    Publish(Address),
    /// `MSG` or `HMSG`.
    Message(Address),
    /// Anything else.
    Other,
}

/// Where a message goes and where its answer is expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) subject: String,
    pub(super) reply: Option<String>,
}

/// One frame, as it is on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) bytes: Bytes,
    pub(super) content: Content,
}

/// Takes the next frame off `buffer`, if all of it is there.
///
/// # Errors
/// When this is another protocol.
pub(super) fn take(buffer: &mut BytesMut) -> Result<Option<Frame>, NotNats> {
    let Some(end) = buffer.windows(2).take(LINE_MAX).position(|pair| pair == b"\r\n") else {
        return match buffer.len() {
            ..LINE_MAX => Ok(None),
            _ => Err(NotNats("a line without an end".to_owned())),
        };
    };
    let line = String::from_utf8_lossy(buffer.get(..end).unwrap_or_default()).into_owned();
    let (content, payload) = read_line(&line).ok_or_else(|| NotNats(line.clone()))?;
    let length = end + 2 + payload.map_or(0, |payload| payload + 2);
    if buffer.len() < length {
        return Ok(None);
    }
    Ok(Some(Frame { bytes: buffer.split_to(length).freeze(), content }))
}

/// What the line says, and how long the payload behind it is, if there is one.
fn read_line(line: &str) -> Option<(Content, Option<usize>)> {
    let (verb, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let words: Vec<&str> = rest.split_whitespace().collect();
    Some(match (verb, words.as_slice()) {
        ("PUB", [subject, length]) => (Content::Publish(address(subject, None)), length.parse().ok()),
        ("PUB", [subject, reply, length]) => {
            (Content::Publish(address(subject, Some(reply))), Some(length.parse().ok()?))
        }
        ("HPUB", [subject, _, length]) => {
            (Content::Publish(address(subject, None)), Some(length.parse().ok()?))
        }
        ("HPUB", [subject, reply, _, length]) => {
            (Content::Publish(address(subject, Some(reply))), Some(length.parse().ok()?))
        }
        ("MSG", [subject, _, length]) => {
            (Content::Message(address(subject, None)), Some(length.parse().ok()?))
        }
        ("MSG", [subject, _, reply, length]) => {
            (Content::Message(address(subject, Some(reply))), Some(length.parse().ok()?))
        }
        ("HMSG", [subject, _, _, length]) => {
            (Content::Message(address(subject, None)), Some(length.parse().ok()?))
        }
        ("HMSG", [subject, _, reply, _, length]) => {
            (Content::Message(address(subject, Some(reply))), Some(length.parse().ok()?))
        }
        ("CONNECT", _) => {
            let options: serde_json::Value = serde_json::from_str(rest).ok()?;
            let name = options.get("name").and_then(serde_json::Value::as_str).unwrap_or_default();
            (Content::Connect { name: name.to_owned() }, None)
        }
        ("INFO" | "SUB" | "UNSUB" | "PING" | "PONG" | "+OK" | "-ERR", _) => (Content::Other, None),
        _ => return None,
    })
}

fn address(subject: &str, reply: Option<&str>) -> Address {
    Address { subject: subject.to_owned(), reply: reply.map(str::to_owned) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(bytes: &[u8]) -> Vec<Frame> {
        let mut buffer = BytesMut::from(bytes);
        let mut frames = Vec::new();
        while let Some(frame) = take(&mut buffer).expect("it is the protocol") {
            frames.push(frame);
        }
        assert!(buffer.is_empty(), "{buffer:?} is left");
        frames
    }

    #[test]
    fn frames_end_where_their_payload_ends() {
        let stream: &[u8] = b"CONNECT {\"name\":\"a stage\"}\r\nPUB cmd.x _INBOX.1 5\r\nPING\n\r\nHPUB evt.y 12 14\r\n\
            NATS/1.0\r\n\r\nab\r\nMSG _INBOX.1 1 2\r\n{}\r\nHMSG s 1 $JS.ACK.E.c.1 12 12\r\nNATS/1.0\r\n\r\n\r\nPING\r\n";
        let found = frames(stream);
        let published = |subject, reply| Content::Publish(address(subject, reply));
        let contents: Vec<Content> = found.iter().map(|frame| frame.content.clone()).collect();
        assert_eq!(
            contents,
            [
                Content::Connect { name: "a stage".to_owned() },
                published("cmd.x", Some("_INBOX.1")),
                published("evt.y", None),
                Content::Message(address("_INBOX.1", None)),
                Content::Message(address("s", Some("$JS.ACK.E.c.1"))),
                Content::Other,
            ]
        );
        let whole: Vec<u8> = found.iter().flat_map(|frame| frame.bytes.to_vec()).collect();
        assert_eq!(whole, stream);
        for cut in 0..stream.len() {
            let mut buffer = BytesMut::new();
            let mut count = 0;
            for part in [stream.get(..cut), stream.get(cut..)] {
                buffer.extend_from_slice(part.unwrap_or_default());
                while take(&mut buffer).expect("it is the protocol").is_some() {
                    count += 1;
                }
            }
            assert_eq!((count, buffer.len()), (found.len(), 0), "cut at {cut}");
        }
    }

    #[test]
    fn another_protocol_is_refused() {
        assert!(take(&mut BytesMut::from(&b"GET / HTTP/1.1\r\n"[..])).is_err());
        assert!(take(&mut BytesMut::from(&b"PUB a b c d\r\n"[..])).is_err());
    }
}
