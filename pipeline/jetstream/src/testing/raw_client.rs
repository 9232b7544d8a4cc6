//! A client that sends what no client library would: exactly the given bytes of the protocol.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// A connection on which any bytes can be sent.
#[derive(Debug)]
pub struct RawClient {
    socket: TcpStream,
}

impl RawClient {
    /// Connects to a server without authentication.
    ///
    /// # Panics
    /// When the server does not accept it.
    pub async fn connect(url: &str) -> Self {
        let address = url.trim_start_matches("nats://");
        let socket = TcpStream::connect(address).await.expect("a server that is ready takes a connection");
        let mut client = Self { socket };
        client.say(b"CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":true}\r\n").await;
        client
    }

    /// Publishes, and returns when the server has received it. `headers` is the whole block, empty for none.
    ///
    /// # Panics
    /// When the server refuses it or the connection fails.
    pub async fn publish(
        &mut self,
        subject: impl AsRef<[u8]>,
        headers: impl AsRef<[u8]>,
        body: impl AsRef<[u8]>,
    ) {
        let (headers, body) = (headers.as_ref(), body.as_ref());
        let (verb, sizes) = match headers.len() {
            0 => ("PUB", body.len().to_string()),
            length => ("HPUB", format!("{length} {}", length + body.len())),
        };
        let line = [verb.as_bytes(), b" ", subject.as_ref(), b" ", sizes.as_bytes(), b"\r\n"].concat();
        self.say(&[&line, headers, body, b"\r\nPING\r\n"].concat()).await;
        let mut said = Vec::new();
        // A PING of the server's own may follow it.
        while !said.windows(6).any(|word| word == b"PONG\r\n") {
            let count = self.socket.read_buf(&mut said).await.expect("the server answers");
            let text = String::from_utf8_lossy(&said);
            assert!(count > 0 && !text.contains("-ERR"), "the server says: {text}");
        }
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.expect("the server takes bytes");
    }
}
