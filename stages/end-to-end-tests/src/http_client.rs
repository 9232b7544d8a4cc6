//! Requests over HTTP, byte by byte: a client of its own hides nothing of what the gateway says, and can be as rude as it likes.

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// What was answered.
#[derive(Debug, Clone)]
pub struct HttpAnswer {
    /// The status.
    pub status: u16,
    head: String,
    /// The body as text.
    pub body: String,
}

impl HttpAnswer {
    /// The value of a header, in whatever case it is written.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// A problem's status and code.
    ///
    /// # Panics
    /// When it is no problem.
    #[must_use]
    pub fn problem(&self) -> (u16, String) {
        let media_type = self.header("content-type");
        assert_eq!(media_type, Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        let text = |name: &str| problem.get(name).and_then(Value::as_str).expect("a problem has this member");
        assert_eq!(problem.get("status").and_then(Value::as_u64), Some(self.status.into()), "{self:?}");
        let code = text("code");
        assert_eq!(text("type"), format!("urn:millstream:problem:{code}"), "{self:?}");
        (self.status, code.to_owned())
    }
}

/// Where requests go, and what each of them carries.
#[derive(Debug, Clone)]
pub struct HttpClient {
    address: String,
    headers: Vec<(String, String)>,
}

impl HttpClient {
    /// For a server at `address`, such as `127.0.0.1:8080`.
    #[must_use]
    pub fn new(address: &str) -> Self {
        Self { address: address.to_owned(), headers: Vec::new() }
    }

    /// Where they go.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What each request carries under this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The same with a header on every request.
    #[must_use]
    pub fn with(&self, name: &str, value: &str) -> Self {
        let mut headers = self.headers.clone();
        headers.push((name.to_owned(), value.to_owned()));
        Self { address: self.address.clone(), headers }
    }

    /// Sends JSON.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn post(&self, path: &str, body: &str) -> HttpAnswer {
        self.with("Content-Type", "application/json").request("POST", path, body).await
    }

    /// Asks.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn get(&self, path: &str) -> HttpAnswer {
        self.request("GET", path, "").await
    }

    /// The head of a request that asks, after which the connection stays open.
    #[must_use]
    pub fn head_of_get(&self, path: &str) -> String {
        let headers: String =
            self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", self.address)
    }

    /// Any request.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn request(&self, method: &str, path: &str, body: &str) -> HttpAnswer {
        let host = if self.headers.iter().any(|(name, _)| name == "Host") {
            String::new()
        } else {
            format!("Host: {}\r\n", self.address)
        };
        let headers: String =
            self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = body.len();
        let text = format!(
            "{method} {path} HTTP/1.1\r\n{host}Connection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        );
        self.raw(text.as_bytes()).await.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// These bytes, whatever they are, and all that comes back until the server closes the connection.
    ///
    /// # Errors
    /// When the connection breaks, or what comes back is no answer.
    pub async fn raw(&self, bytes: &[u8]) -> std::io::Result<HttpAnswer> {
        let mut connection = TcpStream::connect(&self.address).await?;
        connection.write_all(bytes).await?;
        let mut text = Vec::new();
        connection.read_to_end(&mut text).await?;
        let text = String::from_utf8_lossy(&text);
        let answer = text.split_once("\r\n\r\n").and_then(|(head, body)| {
            let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
            Some(HttpAnswer { status, head: head.to_owned(), body: body.to_owned() })
        });
        answer.ok_or_else(|| std::io::Error::other(format!("no answer but {text:?}")))
    }
}
