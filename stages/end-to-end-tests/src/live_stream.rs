//! A stream of Server-Sent Events as a client reads it: chunk by chunk, event by event.

use std::collections::VecDeque;

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use crate::{http_client::HttpClient, waiting::PATIENCE};

/// An event.
#[derive(Debug, Clone, PartialEq)]
pub struct LiveEvent {
    /// Its name.
    pub name: String,
    /// Its id, if it has one.
    pub id: Option<String>,
    /// Its data.
    pub data: Value,
}

/// A stream that is open.
#[derive(Debug)]
pub struct LiveStream {
    connection: BufReader<TcpStream>,
    /// Status line and headers.
    pub head: String,
    text: String,
    events: VecDeque<LiveEvent>,
    last_id: Option<String>,
}

impl LiveStream {
    /// Opens one; `query` is what stands behind the question mark.
    ///
    /// # Panics
    /// When the answer is another one than a stream.
    pub async fn open(client: &HttpClient, query: &str) -> Self {
        let stream = Self::ask(client, query).await;
        assert!(stream.head.starts_with("HTTP/1.1 200"), "{}", stream.head);
        stream
    }

    /// Asks for one, and reads the head of the answer.
    ///
    /// # Panics
    /// When there is none.
    pub async fn ask(client: &HttpClient, query: &str) -> Self {
        let opened = async {
            let mut connection = TcpStream::connect(client.address()).await?;
            connection.write_all(client.head_of_get(&format!("/v1/live?{query}")).as_bytes()).await?;
            let (mut connection, mut head) = (BufReader::new(connection), String::new());
            while !head.ends_with("\r\n\r\n") && connection.read_line(&mut head).await? > 0 {}
            Ok::<_, std::io::Error>((connection, head))
        };
        let opened = tokio::time::timeout(PATIENCE, opened).await.expect("there is an answer in time");
        let (connection, head) = opened.expect("there is an answer");
        Self { connection, head, text: String::new(), events: VecDeque::new(), last_id: None }
    }

    /// The id of the last event that had one.
    #[must_use]
    pub fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// The next event; none when the stream has come to its end in good order.
    ///
    /// # Panics
    /// When there is none in time, or the connection breaks.
    pub async fn next(&mut self) -> Option<LiveEvent> {
        let next = async {
            while self.events.is_empty() {
                let chunk = self.chunk().await.expect("the stream goes on, or ends in good order")?;
                self.text.push_str(&chunk);
                self.take_events();
            }
            let event = self.events.pop_front()?;
            self.last_id = event.id.clone().or_else(|| self.last_id.take());
            Some(event)
        };
        tokio::time::timeout(PATIENCE, next).await.expect("there is another event in time")
    }

    /// The next event that is as wanted.
    ///
    /// # Panics
    /// As [`Self::next`], and when the stream ends before.
    pub async fn until(&mut self, wanted: impl Fn(&LiveEvent) -> bool) -> LiveEvent {
        loop {
            let event = self.next().await.expect("the stream goes on");
            if wanted(&event) {
                return event;
            }
        }
    }

    async fn chunk(&mut self) -> std::io::Result<Option<String>> {
        let mut size = String::new();
        self.connection.read_line(&mut size).await?;
        let size = usize::from_str_radix(size.trim_end(), 16).map_err(std::io::Error::other)?;
        let mut bytes = vec![0; size + 2];
        self.connection.read_exact(&mut bytes).await?;
        bytes.truncate(size);
        let text = String::from_utf8(bytes).map_err(std::io::Error::other)?;
        Ok(Some(text).filter(|_| size > 0))
    }

    fn take_events(&mut self) {
        while let Some((event, rest)) = self.text.split_once("\n\n") {
            let field = |name: &str| {
                let mut lines = event.lines();
                lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::to_owned)
            };
            if let Some((name, data)) = field("event").zip(field("data")) {
                let data = serde_json::from_str(&data).unwrap_or_else(|error| panic!("{error}: {event}"));
                self.events.push_back(LiveEvent { name, id: field("id"), data });
            }
            self.text = rest.to_owned();
        }
    }
}
