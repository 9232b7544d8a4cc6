//! The protocol of NATS itself, for what a client library would not do.

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// The protocol itself: the server answers a forbidden operation before the PONG that follows it.
pub(crate) struct RawClient {
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
}

impl RawClient {
    /// Connects; `Err` holds the server's words.
    pub(crate) async fn connect(port: u16, user: &str, password: &str) -> Result<Self, String> {
        let (reader, writer) = TcpStream::connect(("127.0.0.1", port)).await.unwrap().into_split();
        let mut client = Self { lines: BufReader::new(reader).lines(), writer };
        let options = serde_json::json!({
            "verbose": false, "pedantic": false, "tls_required": false, "protocol": 1,
            "lang": "raw", "version": "0", "user": user, "pass": password,
        });
        let refused = client.ask(&format!("CONNECT {options}\r\n")).await;
        if refused.is_empty() { Ok(client) } else { Err(refused) }
    }

    /// Sends a line of protocol and answers what the server says against it; nothing when it is fine.
    pub(crate) async fn ask(&mut self, line: &str) -> String {
        self.writer.write_all(format!("{line}PING\r\n").as_bytes()).await.unwrap();
        let mut errors = String::new();
        loop {
            match self.lines.next_line().await.unwrap_or_default().as_deref() {
                Some("PONG") | None => return errors,
                Some(line) if line.starts_with("-ERR") => errors.push_str(line),
                Some(_) => {}
            }
        }
    }
}
