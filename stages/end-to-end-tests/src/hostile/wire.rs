//! The NATS protocol written by hand over TCP: whatever bytes a message is to have, no client library refuses them first.
//!
//! A server that has enough of a connection closes it; the next message then goes over a new one.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use millstream_contract::stream_names::COMMANDS;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Mutex as AsyncMutex, watch},
};

use super::message::Message;

/// What the server has said to all connections of a client.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Where commands are stored, by the acknowledgements.
    pub(super) stored: BTreeSet<u64>,
    /// Answers that are no acknowledgements.
    pub(super) answers: u64,
    /// Acknowledgements that say that a message is not stored.
    pub(super) refused: u64,
    /// Connections that the server closed.
    pub(super) closed: u64,
}

/// A client that says whatever it likes.
#[derive(Debug)]
pub(super) struct Wire {
    address: String,
    inbox: String,
    heard: Arc<Mutex<Heard>>,
    connection: Option<Connection>,
}

#[derive(Debug)]
struct Connection {
    outgoing: Arc<AsyncMutex<OwnedWriteHalf>>,
    pongs: watch::Receiver<u64>,
    pings: u64,
}

impl Wire {
    /// A client of the server at `url`. It connects when it has something to say.
    pub(super) fn new(url: &str, name: &str) -> Self {
        Self {
            address: url.trim_start_matches("nats://").to_owned(),
            inbox: format!("_INBOX.{name}"),
            heard: Arc::default(),
            connection: None,
        }
    }

    /// What it has heard so far.
    pub(super) fn heard<T>(&self, look: impl FnOnce(&Heard) -> T) -> T {
        look(&self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends messages and returns when the server has taken them, or has closed the connection because of them; what was behind the
    /// cause is then lost. Each asks for an acknowledgement or an answer.
    pub(super) async fn send(&mut self, messages: &[Message]) {
        const WRITTEN_TOGETHER: usize = 256 * 1024;
        let mut bytes = Vec::new();
        for message in messages {
            message.write(&self.inbox, &mut bytes);
            if bytes.len() >= WRITTEN_TOGETHER && !self.say(&std::mem::take(&mut bytes)).await {
                return;
            }
        }
        if self.say(&bytes).await {
            self.flush().await;
        }
    }

    /// Sends bytes that need not be the protocol at all, on a connection of their own.
    pub(super) async fn send_raw(&self, bytes: &[u8]) {
        if let Ok(mut socket) = TcpStream::connect(&self.address).await {
            // The server may have closed it before all is written.
            let _closed = socket.write_all(bytes).await;
        }
    }

    /// Says whether the bytes were written.
    async fn say(&mut self, bytes: &[u8]) -> bool {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => match self.connect().await {
                Some(connection) => connection,
                None => return false,
            },
        };
        let written = connection.outgoing.lock().await.write_all(bytes).await.is_ok();
        if written {
            self.connection = Some(connection);
        }
        written
    }

    async fn flush(&mut self) {
        if !self.say(b"PING\r\n").await {
            return;
        }
        let Some(mut connection) = self.connection.take() else { return };
        connection.pings += 1;
        let wanted = connection.pings;
        // The sender of pongs goes with the connection.
        if connection.pongs.wait_for(|pongs| *pongs >= wanted).await.is_ok() {
            self.connection = Some(connection);
        }
    }

    async fn connect(&self) -> Option<Connection> {
        let socket = TcpStream::connect(&self.address).await.ok()?;
        let (incoming, mut outgoing) = socket.into_split();
        let hello = format!(
            "CONNECT {{\"verbose\":false,\"headers\":true,\"no_responders\":true}}\r\nSUB {}.* 1\r\n",
            self.inbox
        );
        outgoing.write_all(hello.as_bytes()).await.ok()?;
        let outgoing = Arc::new(AsyncMutex::new(outgoing));
        let (count, pongs) = watch::channel(0);
        let reader = Reader {
            incoming: BufReader::new(incoming),
            outgoing: Arc::clone(&outgoing),
            count,
            heard: Arc::clone(&self.heard),
        };
        tokio::spawn(reader.run());
        Some(Connection { outgoing, pongs, pings: 0 })
    }
}

struct Reader {
    incoming: BufReader<OwnedReadHalf>,
    outgoing: Arc<AsyncMutex<OwnedWriteHalf>>,
    count: watch::Sender<u64>,
    heard: Arc<Mutex<Heard>>,
}

impl Reader {
    /// Ends with the connection.
    async fn run(mut self) {
        while self.take_one().await.is_some() {}
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).closed += 1;
    }

    async fn take_one(&mut self) -> Option<()> {
        let mut line = Vec::new();
        if self.incoming.read_until(b'\n', &mut line).await.ok()? == 0 {
            return None;
        }
        if line.starts_with(b"PING") {
            self.outgoing.lock().await.write_all(b"PONG\r\n").await.ok()?;
        } else if line.starts_with(b"PONG") {
            self.count.send_modify(|count| *count += 1);
        } else if line.starts_with(b"MSG ") || line.starts_with(b"HMSG ") {
            let line = String::from_utf8_lossy(&line).into_owned();
            let size: usize = line.trim_end().rsplit(' ').next()?.parse().ok()?;
            let mut body = vec![0; size + 2];
            self.incoming.read_exact(&mut body).await.ok()?;
            let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            heard.note(line.starts_with("MSG "), body.get(..size).unwrap_or_default());
        }
        Some(())
    }
}

impl Heard {
    fn note(&mut self, plain: bool, body: &[u8]) {
        let answer: Value =
            if plain { serde_json::from_slice(body).unwrap_or_default() } else { Value::Null };
        let stream = answer.get("stream").and_then(Value::as_str);
        match (stream, answer.get("seq").and_then(Value::as_u64)) {
            (Some(COMMANDS), Some(sequence)) if answer.get("error").is_none() => {
                self.stored.insert(sequence);
            }
            (Some(_), _) if answer.get("error").is_none() => self.answers += 1,
            _ if answer.get("error").is_some() => self.refused += 1,
            _ => self.answers += 1,
        }
    }
}
