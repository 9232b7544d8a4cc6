//! A message as it goes over the wire: any bytes for a subject, for the block of headers, and for a body.

/// What is sent.
#[derive(Debug, Clone, Default)]
pub(super) struct Message {
    pub(super) subject: Vec<u8>,
    /// The whole block with its first line; empty for none.
    pub(super) headers: Vec<u8>,
    pub(super) body: Vec<u8>,
}

impl Message {
    pub(super) fn new(subject: impl Into<Vec<u8>>, body: impl Into<Vec<u8>>) -> Self {
        Self { subject: subject.into(), headers: Vec::new(), body: body.into() }
    }

    /// With one more header. Neither its name nor its value is looked at.
    #[must_use]
    pub(super) fn header(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        const END: &[u8] = b"\r\n";
        match self.headers.strip_suffix(END) {
            Some(block) => self.headers = block.to_vec(),
            None => self.headers = b"NATS/1.0\r\n".to_vec(),
        }
        for part in [name.as_ref(), b": ", value.as_ref(), END, END] {
            self.headers.extend_from_slice(part);
        }
        self
    }

    /// Bytes of headers and body, which the server counts against `max_payload`.
    pub(super) fn size(&self) -> usize {
        self.headers.len() + self.body.len()
    }

    /// Puts it behind `bytes`, with a reply subject in `inbox`.
    pub(super) fn write(&self, inbox: &str, bytes: &mut Vec<u8>) {
        let (verb, sizes) = match self.headers.len() {
            0 => ("PUB", self.body.len().to_string()),
            length => ("HPUB", format!("{length} {}", self.size())),
        };
        let reply = format!(" {inbox}.a {sizes}\r\n");
        for part in
            [verb.as_bytes(), b" ", &self.subject, reply.as_bytes(), &self.headers, &self.body, b"\r\n"]
        {
            bytes.extend_from_slice(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_bytes_whatever_they_are() {
        let message = Message::new(*b"cmd.a.b.\xff.d", *b"\0\r\n").header("X", b"\xe9").header("Y", "");
        let mut bytes = Vec::new();
        message.write("_INBOX.i", &mut bytes);
        let expected =
            b"HPUB cmd.a.b.\xff.d _INBOX.i.a 23 26\r\nNATS/1.0\r\nX: \xe9\r\nY: \r\n\r\n\0\r\n\r\n";
        assert_eq!(bytes.escape_ascii().to_string(), expected.escape_ascii().to_string());
    }
}
