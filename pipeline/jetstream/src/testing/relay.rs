//! A relay to a server, with which a test can disturb a connection: it sees what clients send, and decides what happens to it.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// What happens to bytes that a client has sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// They are passed on to the server.
    Pass,
    /// The server gets these bytes instead. Later bytes are passed on.
    Instead(Vec<u8>),
    /// The server never gets them, and the connection ends.
    End,
    /// The server gets neither them nor anything later, but the connection stays open.
    Stop,
}

/// Decides what happens to bytes that a client has sent.
type Judge = Arc<dyn Fn(&[u8]) -> Fate + Send + Sync>;

/// Listens until it is dropped. Connections that are open then stay open.
#[derive(Debug)]
pub struct Relay {
    url: String,
    accepting: JoinHandle<()>,
}

impl Relay {
    /// A relay to `server`. `fate` is asked about all bytes from clients, in the pieces in which they arrive.
    ///
    /// # Panics
    /// When no port is free.
    #[expect(clippy::expect_used, reason = "tests stop where something is wrong")]
    pub async fn start(server: &str, fate: impl Fn(&[u8]) -> Fate + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it listens");
        let server = server.trim_start_matches("nats://").to_owned();
        let fate: Judge = Arc::new(fate);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // If the server is not there, the client is refused.
                let Ok(server) = TcpStream::connect(&server).await else { continue };
                tokio::spawn(carry(client, server, Arc::clone(&fate)));
            }
        });
        Self { url: format!("nats://{address}"), accepting }
    }

    /// The URL for clients.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn carry(client: TcpStream, server: TcpStream, fate: Judge) {
    let ((mut client_in, mut client_out), (mut server_in, mut server_out)) =
        (client.into_split(), server.into_split());
    let answers = tokio::spawn(async move { copy(&mut server_in, &mut client_out).await });
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = client_in.read(&mut bytes).await {
        let bytes = bytes.get(..count).unwrap_or_default();
        match fate(bytes) {
            Fate::Pass if server_out.write_all(bytes).await.is_ok() => {}
            Fate::Instead(others) if server_out.write_all(&others).await.is_ok() => {}
            Fate::Pass | Fate::Instead(_) | Fate::End => break,
            Fate::Stop => std::future::pending().await,
        }
    }
    answers.abort();
}
