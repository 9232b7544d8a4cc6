//! Header blocks as they are sent: `NATS/1.0\r\nName: value\r\n\r\n`.
//!
//! nats-server stores whatever bytes a client sent as headers. The client library refuses most blocks that differ from this form, and then
//! ends the connection on which the message came. (async-nats 0.51, `connection.rs`: other characters in names, values that are not UTF-8,
//! lines without a colon, another first line. A bare carriage return in a value ends its task.) So this module accepts slightly less than
//! the library does, and never more.

const FIRST_LINE: &str = "NATS/1.0";

/// The headers that can be read and, if some cannot, why. An empty block has no headers.
pub(super) fn read(block: &[u8]) -> (Vec<(String, String)>, Option<String>) {
    let mut lines = lines(block);
    let first = lines.next().unwrap_or_default();
    let mut trouble = (!block.is_empty() && first != FIRST_LINE.as_bytes()).then(|| other_first_line(first));
    let mut headers = Vec::new();
    for line in lines.filter(|line| !line.is_empty()) {
        match read_line(line) {
            Ok(header) => headers.push(header),
            Err(reason) => {
                trouble.get_or_insert(reason);
            }
        }
    }
    (headers, trouble)
}

/// Why a received block cannot be read as a whole, if it cannot. Its first line may hold a status of the server, as in `NATS/1.0 503 No
/// Responders`.
#[must_use]
pub fn trouble(block: &[u8]) -> Option<String> {
    let mut lines = lines(block);
    let first = lines.next().unwrap_or_default();
    let is_first =
        first.strip_prefix(FIRST_LINE.as_bytes()).is_some_and(|rest| rest.is_empty() || is_status(rest));
    if !is_first {
        return Some(other_first_line(first));
    }
    lines.filter(|line| !line.is_empty()).find_map(|line| read_line(line).err())
}

fn lines(block: &[u8]) -> impl Iterator<Item = &[u8]> {
    block.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

/// Whether the rest of a status line is a blank, three digits of which the first is not 0, and possibly another blank and words.
fn is_status(rest: &[u8]) -> bool {
    let [b' ', b'1'..=b'9', b'0'..=b'9', b'0'..=b'9', words @ ..] = rest else { return false };
    let words = str::from_utf8(words);
    words.is_ok_and(|words| (words.is_empty() || words.starts_with(' ')) && !words.contains('\r'))
}

fn other_first_line(first: &[u8]) -> String {
    format!("the header block begins with {}, not with {FIRST_LINE}", shown(first))
}

/// The block of headers that can be read.
pub(super) fn write<'a>(headers: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    let mut block = format!("{FIRST_LINE}\r\n");
    for (name, value) in headers {
        block.extend([name, ": ", value, "\r\n"]);
    }
    block.push_str("\r\n");
    block.into_bytes()
}

fn read_line(line: &[u8]) -> Result<(String, String), String> {
    let Some(colon) = line.iter().position(|byte| *byte == b':') else {
        return Err(format!("the header line {} has no colon", shown(line)));
    };
    let (name, value) = (line.get(..colon).unwrap_or_default(), line.get(colon + 1..).unwrap_or_default());
    if !name.iter().all(u8::is_ascii_graphic) {
        return Err(format!("the header name {} has other characters than visible ASCII", shown(name)));
    }
    let name = String::from_utf8_lossy(name).into_owned();
    let Ok(value) = std::str::from_utf8(value) else {
        return Err(format!("the value of header {} is not UTF-8: {}", shown(name.as_bytes()), shown(value)));
    };
    if value.contains('\r') {
        return Err(format!("the value of header {} holds a carriage return", shown(name.as_bytes())));
    }
    Ok((name, value.trim().to_owned()))
}

/// A few bytes for people to read. Everything except visible ASCII is escaped.
fn shown(bytes: &[u8]) -> String {
    const SHOWN_MAX: usize = 60;
    let text = bytes.get(..SHOWN_MAX).unwrap_or(bytes).escape_ascii();
    if bytes.len() > SHOWN_MAX { format!("\"{text}…\"") } else { format!("\"{text}\"") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(block: &[u8]) -> String {
        let reason = read(block).1.unwrap();
        let status = block.starts_with(b"NATS/1.0 503");
        assert_eq!(trouble(block), (!status).then(|| reason.clone()));
        reason
    }

    #[test]
    fn a_block_is_read_and_written_again() {
        let (headers, reason) = read(b"NATS/1.0\r\nNats-Msg-Id: a:b\r\nX:y\r\n\r\n");
        assert_eq!(reason, None);
        assert_eq!(headers, [("Nats-Msg-Id".into(), "a:b".into()), ("X".into(), "y".into())]);
        let written = write(headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        assert_eq!((read(&written), trouble(&written)), ((headers, None), None));
        assert_eq!(read(b""), (vec![], None));
    }

    #[test]
    fn what_cannot_be_read_is_named_and_the_rest_is_read() {
        assert!(reason(b"NATS/1.0\r\nActor: Jos\xe9\r\n\r\n").contains("Actor"));
        assert!(reason(b"NATS/1.0\r\nMy Name: x\r\n\r\n").contains("My Name"));
        assert!(reason(b"NATS/1.0\r\nX: a\rb\r\n\r\n").contains("carriage return"));
        assert!(reason(b"NATS/1.0\r\nno colon\r\n\r\n").contains("no colon"));
        assert!(reason(b"HTTP/1.1\r\nX: y\r\n\r\n").contains("HTTP/1.1"));
        assert!(reason(b"NATS/1.0 503 gone\r\n\r\n").contains("503"));
        let (headers, trouble) = read(b"NATS/1.0\r\nA: \xff\r\nX: y\r\n\r\n");
        assert!(trouble.is_some());
        assert_eq!(headers, [("X".into(), "y".into())]);
    }

    #[test]
    fn the_first_line_may_hold_a_status() {
        for status in ["NATS/1.0 503", "NATS/1.0 100 Idle Heartbeat", "NATS/1.0 408 "] {
            assert_eq!(trouble(format!("{status}\r\nX: y\r\n\r\n").as_bytes()), None, "{status}");
        }
        for other in ["", "NATS/1.0 99", "NATS/1.0 5033", "NATS/1.0 099", "NATS/1.0503", "NATS/1.0 503 a\rb"]
        {
            assert!(trouble(format!("{other}\r\nX: y\r\n\r\n").as_bytes()).is_some(), "{other:?}");
        }
    }
}
