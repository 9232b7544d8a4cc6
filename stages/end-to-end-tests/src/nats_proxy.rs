//! A proxy between NATS clients and a server that knows messages: it loses an acknowledgement, doubles an append, holds a
//! connection back, cuts it in the middle of a frame, swallows everything for a while.
//!
//! It listens on the loopback interface and speaks to one server without TLS; a server of a cluster would tell its clients of
//! the others, and they would go round it.

mod faults;
mod frame;

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use millstream_contract::stream_names::{
    AUDIT, COMMANDS, DEAD_LETTERS, EVENTS, LEASES_BUCKET, OUTCOMES, REPORTS, TIMERS,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

pub use self::faults::{Faults, Injected, Kind, SeededFaults, Seen, Verdict};
use self::frame::{Address, Content, Frame};

/// Streams by the first token of the subjects that they take.
const STREAMS: [(&str, &str); 10] = [
    ("cmd", COMMANDS),
    ("effect", COMMANDS),
    ("evt", EVENTS),
    ("out", OUTCOMES),
    ("dlq", DEAD_LETTERS),
    ("timer", TIMERS),
    ("due", TIMERS),
    ("report", REPORTS),
    ("audit", AUDIT),
    ("$KV", LEASES_BUCKET),
];

/// A running proxy; it ends with the value.
#[derive(Debug)]
pub struct NatsProxy {
    port: u16,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    faults: Box<dyn Faults>,
    healed: AtomicBool,
    ending: CancellationToken,
    counts: Mutex<Counts>,
    /// Frames that are held back for a while.
    held: watch::Sender<u64>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Shared").field("healed", &self.healed).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Counts {
    seen: HashMap<(String, Kind), u64>,
    injected: Injected,
}

impl NatsProxy {
    /// Listens on a port of its own and passes on to the server on `server_port`, under `faults`.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn start(server_port: u16, faults: impl Faults) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("the loopback interface has a free port");
        let port = listener.local_addr().expect("a listener knows where it listens").port();
        let shared = Arc::new(Shared {
            faults: Box::new(faults),
            healed: AtomicBool::new(false),
            ending: CancellationToken::new(),
            counts: Mutex::default(),
            held: watch::Sender::new(0),
        });
        let accepting = tokio::spawn(accept(listener, server_port, Arc::clone(&shared)));
        Self { port, shared, accepting }
    }

    /// Where clients connect.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://{}:{}", Ipv4Addr::LOCALHOST, self.port)
    }

    /// From now on everything passes. Returns when what was held back has been delivered too.
    pub async fn heal(&self) {
        self.shared.healed.store(true, Ordering::Relaxed);
        let mut held = self.shared.held.subscribe();
        // The sender lives as long as this proxy.
        let _ended = held.wait_for(|held| *held == 0).await;
    }

    /// What was done so far.
    #[must_use]
    pub fn injected(&self) -> Injected {
        self.shared.counts().injected.clone()
    }

    /// How many messages of a kind have come by, of all clients.
    #[must_use]
    pub fn seen(&self, kind: Kind) -> u64 {
        let counts = self.shared.counts();
        counts.seen.iter().filter(|((_, seen), _)| *seen == kind).map(|(_, count)| count).sum()
    }
}

impl Drop for NatsProxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.ending.cancel();
    }
}

impl Shared {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn verdict(&self, client: &str, kind: Kind) -> Verdict {
        let number = {
            let mut counts = self.counts();
            let count = counts.seen.entry((client.to_owned(), kind)).or_default();
            *count += 1;
            *count
        };
        if self.healed.load(Ordering::Relaxed) {
            return Verdict::Pass;
        }
        let verdict = self.faults.verdict(&Seen { client, kind, number });
        if verdict != Verdict::Pass {
            *self.counts().injected.entry((kind, verdict.name())).or_default() += 1;
        }
        verdict
    }
}

/// Something that is held back: counted as long as it lives.
struct Held(Arc<Shared>);

impl Held {
    async fn until(shared: &Arc<Shared>, time: Instant) -> Self {
        shared.held.send_modify(|held| *held += 1);
        let held = Self(Arc::clone(shared));
        tokio::time::sleep_until(time).await;
        held
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held.send_modify(|held| *held -= 1);
    }
}

async fn accept(listener: TcpListener, server_port: u16, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        // While the server is down the client's connection just ends, as it would without a proxy.
        let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server_port)).await else { continue };
        // Only speed is lost where that fails.
        let _slower = (client.set_nodelay(true), server.set_nodelay(true));
        let link = Arc::new(Link {
            shared: Arc::clone(&shared),
            cut: shared.ending.child_token(),
            client_cut: CancellationToken::new(),
            state: Mutex::default(),
        });
        let (client_reads, client_writes) = client.into_split();
        let (server_reads, server_writes) = server.into_split();
        let both = [(client_reads, server_writes, true), (server_reads, client_writes, false)];
        for (from, to, to_server) in both {
            let link = Arc::clone(&link);
            tokio::spawn(async move {
                let cut = link.cut.clone();
                let mut pump = Pump::new(link, to_server, to);
                tokio::select! {
                    () = cut.cancelled() => {}
                    () = pump.run(from) => cut.cancel(),
                }
            });
        }
    }
}

/// A client's connection and the one to the server that belongs to it.
struct Link {
    shared: Arc<Shared>,
    /// Ends both directions.
    cut: CancellationToken,
    /// Ends what goes to the client.
    client_cut: CancellationToken,
    state: Mutex<LinkState>,
}

#[derive(Default)]
struct LinkState {
    client: String,
    /// What an answer on this subject would be.
    awaited: HashMap<String, Kind>,
    /// Nothing passes before.
    silent_until: Option<Instant>,
}

impl Link {
    fn state(&self) -> MutexGuard<'_, LinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn verdict(&self, content: &Content) -> Verdict {
        let (client, kind) = {
            let mut state = self.state();
            let kind = state.kind(content);
            (state.client.clone(), kind)
        };
        self.shared.verdict(&client, kind)
    }
}

impl LinkState {
    fn kind(&mut self, content: &Content) -> Kind {
        match content {
            Content::Connect { name } => {
                self.client.clone_from(name);
                Kind::Other
            }
            Content::Publish(Address { subject, reply }) => {
                let (kind, answer) = if subject.starts_with("$JS.API.") {
                    (Kind::Question, Kind::Answer)
                } else {
                    let first = subject.split('.').next().unwrap_or_default();
                    match STREAMS.iter().find(|(prefix, _)| *prefix == first) {
                        Some((_, stream)) => (Kind::Append(stream), Kind::Acknowledgement(stream)),
                        None => return Kind::Other,
                    }
                };
                // A reader's request is answered by messages and heartbeats, again and again.
                if let Some(reply) = reply.as_ref().filter(|_| !subject.contains(".CONSUMER.MSG.NEXT.")) {
                    self.awaited.insert(reply.clone(), answer);
                }
                kind
            }
            Content::Message(Address { subject, reply }) => {
                if let Some(stream) = reply.as_deref().and_then(|reply| reply.strip_prefix("$JS.ACK.")) {
                    let stream = stream.split('.').next().unwrap_or_default();
                    let known = STREAMS.iter().find(|(_, known)| *known == stream);
                    return known.map_or(Kind::Other, |(_, stream)| Kind::Delivery(stream));
                }
                self.awaited.remove(subject).unwrap_or(Kind::Other)
            }
            Content::Other => Kind::Other,
        }
    }
}

/// One direction of a link.
struct Pump {
    link: Arc<Link>,
    to_server: bool,
    to: OwnedWriteHalf,
    /// Frames that pass, not written yet.
    ready: BytesMut,
    /// Second copies, each with the frame behind which it comes.
    copies: Vec<(u64, Bytes)>,
    frames: u64,
    /// Of what passes.
    held: Vec<Held>,
}

/// The connection ends here.
struct Ended;

impl Pump {
    fn new(link: Arc<Link>, to_server: bool, to: OwnedWriteHalf) -> Self {
        let (ready, copies, held) = (BytesMut::new(), Vec::new(), Vec::new());
        Self { link, to_server, to, ready, copies, frames: 0, held }
    }

    async fn hold(&mut self, until: Instant) {
        let held = Held::until(&self.link.shared, until).await;
        self.held.push(held);
    }

    async fn run(&mut self, mut from: OwnedReadHalf) {
        let mut buffer = BytesMut::new();
        let client_cut = self.link.client_cut.clone();
        loop {
            while let Ok(Some(frame)) = frame::take(&mut buffer) {
                if self.pass(frame, &buffer).await.is_err() {
                    return;
                }
            }
            let Ok(()) = self.flush().await else { return };
            let reading = from.read_buf(&mut buffer);
            let read = tokio::select! {
                read = reading => read,
                () = client_cut.cancelled(), if !self.to_server => {
                    // The client sees the end; its last words are still on their way to the server.
                    let _gone_already = self.to.shutdown().await;
                    return std::future::pending().await;
                }
            };
            if !matches!(read, Ok(1..)) {
                return;
            }
        }
    }

    async fn pass(&mut self, frame: Frame, behind: &[u8]) -> Result<(), Ended> {
        self.frames += 1;
        let verdict = self.link.verdict(&frame.content);
        match verdict {
            Verdict::Pass => self.ready.extend_from_slice(&frame.bytes),
            Verdict::Lose => {}
            Verdict::Double => self.ready.extend_from_slice(&[&frame.bytes[..], &frame.bytes[..]].concat()),
            Verdict::DoubleAfter(frames) => {
                self.ready.extend_from_slice(&frame.bytes);
                self.copies.push((self.frames + frames, frame.bytes));
            }
            Verdict::Stall(time) => {
                self.flush().await?;
                self.hold(Instant::now() + time).await;
                self.ready.extend_from_slice(&frame.bytes);
            }
            Verdict::BlackHole(time) => {
                self.flush().await?;
                self.link.state().silent_until = Some(Instant::now() + time);
                self.ready.extend_from_slice(&frame.bytes);
            }
            Verdict::Cut => {
                self.flush().await?;
                return Err(Ended);
            }
            Verdict::CutMidway => {
                let half = frame.bytes.len() / 2;
                self.ready.extend_from_slice(&frame.bytes.slice(..half));
                self.flush().await?;
                return Err(Ended);
            }
            Verdict::CutAndDeliverLate(time) => {
                self.flush().await?;
                self.link.client_cut.cancel();
                self.ready.extend_from_slice(&frame.bytes);
                self.ready.extend_from_slice(behind);
                self.hold(Instant::now() + time).await;
                self.flush().await?;
                return Err(Ended);
            }
        }
        let reached = self.frames;
        for (_, copy) in self.copies.extract_if(.., |(due, _)| *due <= reached) {
            self.ready.extend_from_slice(&copy);
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Ended> {
        if self.ready.is_empty() {
            return Ok(());
        }
        loop {
            let silent_until = self.link.state().silent_until;
            match silent_until.filter(|until| *until > Instant::now()) {
                Some(until) => self.hold(until).await,
                None => break,
            }
        }
        let written = self.to.write_all(&self.ready).await;
        self.ready.clear();
        self.held.clear();
        written.map_err(|_| Ended)
    }
}
