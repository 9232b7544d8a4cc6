//! The transport of a sifted line. The client library connects to a socket of this process. From there its bytes go to the server, and the
//! server's bytes come back through the [`Sieve`]. This detour is needed because the library only uses streams that it opens itself.
//!
//! The relay speaks TLS to the server, because encrypted bytes could not be sifted. A stranger who connects to the socket gets nothing: the
//! library's first line, `CONNECT`, must contain a secret of this process in place of the client's name.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::{
    ServerAddr,
    rustls::{ClientConfig, pki_types::ServerName},
};
use bytes::BytesMut;
use rand::seq::SliceRandom as _;
use serde_json::{Map, Value};
use tokio::{
    io::{
        AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
        ReadHalf, WriteHalf,
    },
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::sieve::Sieve;

/// How much is read from a socket at a time.
const READ_BYTES: usize = 64 * 1024;
/// The longest first line. The JWT of a user with many permissions has some kilobytes.
const FIRST_LINE_BYTES_MAX: u64 = 1024 * 1024;
/// How long it may take to connect to one server and receive its first line. The client library waits for five seconds.
const SERVER_WAIT_MAX: Duration = Duration::from_secs(4);
/// How long the client library may take to read the last bytes of a server that has closed the connection.
const LAST_WORDS_WAIT_MAX: Duration = Duration::from_secs(5);

type MakeTls = dyn Fn() -> Result<ClientConfig, String> + Send + Sync;

/// How a process reaches its servers.
#[derive(Clone)]
pub struct Transport {
    /// The client's name on the server.
    pub name: String,
    /// Whether nothing is sent without TLS, whatever the server offers. Somebody else may have taken the server's place.
    pub tls_required: bool,
    /// Whether TLS begins before the server has sent anything.
    pub tls_first: bool,
    /// Makes the TLS configuration for a server that wants it. Files of certificates are read again for each line.
    pub tls: Arc<MakeTls>,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Transport").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Relays connections to a server until it is dropped. Connections that are open then stay open.
#[derive(Debug)]
pub(super) struct Relay {
    address: SocketAddr,
    secret: String,
    failure: Arc<Mutex<Option<String>>>,
    _open: DropGuard,
}

struct Way {
    urls: Arc<[String]>,
    transport: Transport,
    secret: String,
    failure: Arc<Mutex<Option<String>>>,
    stranger_told: AtomicBool,
}

/// How an exchange ended that neither side closed in order.
#[derive(Debug)]
enum Ended {
    /// Something else than the client library had connected.
    Stranger,
    /// The server accepted data but sent no answer. This is how it refuses a certificate.
    Unheard(io::Error),
    /// Any later time.
    Broken(io::Error),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}
type Server = Box<dyn Stream>;

impl Relay {
    pub(super) async fn open(urls: Arc<[String]>, transport: Transport) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let secret = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
        let failure = Arc::default();
        let way = Way {
            urls,
            transport,
            secret: secret.clone(),
            failure: Arc::clone(&failure),
            stranger_told: AtomicBool::new(false),
        };
        let way = Arc::new(way);
        let closing = CancellationToken::new();
        let open = closing.clone().drop_guard();
        tokio::spawn(async move {
            while let Some(accepted) = closing.run_until_cancelled(listener.accept()).await {
                match accepted {
                    Ok((client, _)) => drop(tokio::spawn(relay(client, Arc::clone(&way)))),
                    Err(error) => {
                        // Without free file handles, the next attempt would fail at once.
                        tracing::debug!(%error, "a sifted line cannot be taken");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            }
        });
        Ok(Self { address, secret, failure, _open: open })
    }

    /// The address to which the client library connects.
    pub(super) fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// The name that the client library has to give.
    pub(super) fn secret(&self) -> &str {
        &self.secret
    }

    /// Why no server could be reached, if the last attempt failed.
    pub(super) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn relay(client: TcpStream, way: Arc<Way>) {
    let connected = connect(&way).await;
    way.failed(connected.as_ref().err().cloned());
    let Ok((server, received)) = connected else { return };
    match exchange(client, server, received, &way).await {
        Ok(()) => {}
        Err(Ended::Stranger) => way.tell_of_stranger(),
        Err(Ended::Unheard(error)) => way.failed(Some(error.to_string())),
        Err(Ended::Broken(error)) => tracing::debug!(%error, "a sifted line has ended"),
    }
}

impl Way {
    /// Logs it once, because a stranger may connect again and again.
    fn tell_of_stranger(&self) {
        if !self.stranger_told.swap(true, Ordering::Relaxed) {
            tracing::warn!("another program connected to a socket of this process for NATS, and got nothing");
        }
    }

    fn failed(&self, failure: Option<String>) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }
}

/// Connects to any of the servers. Returns the connection and the server's first line.
async fn connect(way: &Way) -> Result<(Server, BytesMut), String> {
    let mut urls = way.urls.to_vec();
    urls.shuffle(&mut rand::rng());
    let mut failures = Vec::new();
    for url in urls {
        match tokio::time::timeout(SERVER_WAIT_MAX, connect_to(&url, &way.transport)).await {
            Ok(Ok(connected)) => return Ok(connected),
            Ok(Err(error)) => failures.push(format!("{url}: {error}")),
            Err(_) => failures.push(format!("{url}: no answer within {} s", SERVER_WAIT_MAX.as_secs())),
        }
    }
    Err(failures.join("; "))
}

async fn connect_to(
    url: &str,
    transport: &Transport,
) -> Result<(Server, BytesMut), Box<dyn std::error::Error + Send + Sync>> {
    let address: ServerAddr = url.parse()?;
    let addresses: Vec<SocketAddr> = address.socket_addrs().await?.collect();
    let stream = TcpStream::connect(&*addresses).await?;
    stream.set_nodelay(true)?;
    let mut stream: Server = Box::new(stream);
    if transport.tls_first {
        stream = with_tls(stream, &address, transport).await?;
    }
    let mut said = BytesMut::new();
    let wants_tls = wants_tls(&mut stream, &mut said).await?;
    if !transport.tls_first && (wants_tls || transport.tls_required || address.tls_required()) {
        let line = said.windows(2).position(|two| two == b"\r\n").map_or(said.len(), |line| line + 2);
        if line != said.len() {
            return Err("the server said more than INFO before TLS".into());
        }
        stream = with_tls(stream, &address, transport).await?;
    }
    Ok((stream, said))
}

async fn with_tls(
    stream: Server,
    address: &ServerAddr,
    transport: &Transport,
) -> Result<Server, Box<dyn std::error::Error + Send + Sync>> {
    let make = Arc::clone(&transport.tls);
    let config = tokio::task::spawn_blocking(move || make()).await??;
    let name = ServerName::try_from(address.host().to_owned())?;
    Ok(Box::new(TlsConnector::from(Arc::new(config)).connect(name, stream).await?))
}

/// Reads the server's first line, INFO.
async fn wants_tls(
    stream: &mut Server,
    said: &mut BytesMut,
) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
    let line = loop {
        if let Some(end) = said.windows(2).position(|two| two == b"\r\n") {
            break said.get(..end).unwrap_or_default();
        }
        if said.len() as u64 > FIRST_LINE_BYTES_MAX || stream.read_buf(said).await? == 0 {
            return Err("it does not speak NATS".into());
        }
    };
    let info = line.strip_prefix(b"INFO ").ok_or("it does not speak NATS")?;
    let info: Map<String, Value> = serde_json::from_slice(info)?;
    Ok(info.get("tls_required").is_some_and(|required| *required == true))
}

async fn exchange(client: TcpStream, server: Server, received: BytesMut, way: &Way) -> Result<(), Ended> {
    client.set_nodelay(true).map_err(Ended::Broken)?;
    let (client_read, client_write) = tokio::io::split(client);
    let (server_read, server_write) = tokio::io::split(server);
    let sent = send(BufReader::with_capacity(READ_BYTES, client_read), server_write, way);
    let heard = hear(server_read, received, client_write);
    tokio::pin!(sent, heard);
    tokio::select! {
        sent = &mut sent => match sent {
            // The server may have said why it accepts no more.
            Err(Ended::Broken(error)) => match tokio::time::timeout(LAST_WORDS_WAIT_MAX, heard).await {
                Ok(Err(ended)) => Err(ended),
                Ok(Ok(())) | Err(_) => Err(Ended::Broken(error)),
            },
            sent => sent,
        },
        heard = &mut heard => {
            heard?;
            // Closing a socket that still has unread bytes would take the server's last words, such as a refused password, away from the
            // library. The library closes the connection when it has read them.
            drop(tokio::time::timeout(LAST_WORDS_WAIT_MAX, sent).await);
            Ok(())
        }
    }
}

/// To the server: what the library sends, beginning with its `CONNECT`.
async fn send(
    mut client: BufReader<ReadHalf<TcpStream>>,
    mut server: WriteHalf<Server>,
    way: &Way,
) -> Result<(), Ended> {
    let mut first = Vec::new();
    (&mut client).take(FIRST_LINE_BYTES_MAX).read_until(b'\n', &mut first).await.map_err(Ended::Broken)?;
    if first.is_empty() {
        return Err(Ended::Broken(io::ErrorKind::UnexpectedEof.into()));
    }
    let first = connect_line(&first, way).ok_or(Ended::Stranger)?;
    let sending = async {
        server.write_all(&first).await?;
        server.flush().await?;
        tokio::io::copy_buf(&mut client, &mut server).await?;
        server.shutdown().await
    };
    sending.await.map_err(Ended::Broken)
}

/// The library's `CONNECT` with the client's real name, if it contains the secret.
fn connect_line(line: &[u8], way: &Way) -> Option<Vec<u8>> {
    let mut connect: Map<String, Value> = serde_json::from_slice(line.strip_prefix(b"CONNECT ")?).ok()?;
    let name = connect.get_mut("name")?;
    if name.as_str() != Some(&*way.secret) {
        return None;
    }
    *name = Value::from(&*way.transport.name);
    Some(format!("CONNECT {}\r\n", Value::from(connect)).into_bytes())
}

/// To the library: what the server sends, sifted. Returns when the server has sent its last bytes.
async fn hear(
    mut server: ReadHalf<Server>,
    mut received: BytesMut,
    mut client: WriteHalf<TcpStream>,
) -> Result<(), Ended> {
    let mut sieve = Sieve::default();
    let (mut heard, mut told) = (false, false);
    loop {
        let passed = sieve.sift(&mut received).map_err(|error| Ended::Broken(io::Error::other(error)))?;
        for bytes in passed {
            client.write_all(&bytes).await.map_err(Ended::Broken)?;
        }
        for reason in sieve.troubles() {
            if told {
                tracing::debug!(reason, "a message that cannot be read is refused");
            } else {
                tracing::warn!(
                    reason,
                    "a message that cannot be read is refused; more of them on this line are told at debug"
                );
            }
            told = true;
        }
        received.reserve(READ_BYTES);
        match server.read_buf(&mut received).await {
            Ok(0) => return client.shutdown().await.map_err(Ended::Broken),
            Ok(_) => heard = true,
            Err(error) if heard => return Err(Ended::Broken(error)),
            Err(error) => return Err(Ended::Unheard(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test_server::TestServer;

    /// Sends lines to the socket of a relay and returns what comes until it is closed.
    async fn told(relay: &Relay, lines: &str) -> String {
        let mut socket = TcpStream::connect(relay.address).await.unwrap();
        socket.write_all(lines.as_bytes()).await.unwrap();
        let mut told = Vec::new();
        // A reset is an end like any other: what was sent may not have been read.
        drop(socket.read_to_end(&mut told).await);
        String::from_utf8(told).unwrap()
    }

    /// The relay may prove itself to the server by a certificate: that must not be lent to other programs of the machine.
    #[tokio::test]
    async fn nobody_gets_through_without_the_secret() {
        let server = TestServer::start().await;
        let tls = Arc::new(|| Err("no TLS".to_owned()));
        let transport = Transport { name: "test".to_owned(), tls_required: false, tls_first: false, tls };
        let relay = Relay::open([server.url()].into(), transport).await.unwrap();
        for connect in
            ["CONNECT {}", "CONNECT {\"name\":\"test\"}", "CONNECT {\"name\":null}", "PING", "CONNECT [", ""]
        {
            let told = told(&relay, &format!("{connect}\r\nPING\r\n")).await;
            assert!(!told.contains("PONG") && told.lines().count() <= 1, "{connect}: {told}");
        }
        let connect =
            format!("CONNECT {{\"name\":\"{}\"}}\r\nPING\r\nPUB a a 0\r\n\r\nX\r\n", relay.secret());
        assert!(told(&relay, &connect).await.contains("PONG"));
    }
}
