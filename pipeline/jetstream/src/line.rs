//! Lines: connections of their own for what brings foreign bytes. The client library ends a connection on which it meets
//! bytes that it cannot read, and its task for some of them. On a line nothing else is lost with it: appends, leases and
//! answers travel on the process's connection.
//!
//! Where such bytes come without end, as requests to services do, a line is sifted: what the library cannot read is replaced before it gets
//! there, and the line stays.

mod relay;
mod sieve;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, ConnectOptions, Event, HeaderValue, Message};
use millstream_contract::error_text::one_line;
use tokio::sync::watch;

use relay::Relay;
pub use relay::Transport;
use sieve::UNREADABLE;

/// A line that is lost is not used again; the library's own attempts to mend it end soon.
const RECONNECTS_MAX: usize = 4;
/// When the library mends a lost line, which then carries what was being answered on it. Until then the server takes the old
/// connection for alive and hands requests over to it, which nobody hears: so it must be short. By then nobody may listen on the
/// line any more, or the library would subscribe again for a service that is gone: so it is not zero. Stopping a service waits
/// for nothing.
const RECONNECT_PAUSE: Duration = Duration::from_millis(15);

type MakeOptions = dyn Fn() -> Result<ConnectOptions, String> + Send + Sync;
type Observe = dyn Fn(&Event) + Send + Sync;

/// Opens lines to the servers of the process's connection.
#[derive(Clone)]
pub struct Dialer {
    urls: Arc<[String]>,
    options: Arc<MakeOptions>,
    observe: Arc<Observe>,
    transport: Transport,
}

impl fmt::Debug for Dialer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Dialer").field("urls", &self.urls).finish_non_exhaustive()
    }
}

impl Dialer {
    /// To `urls` by `transport`, with options made anew for each line, so that files of credentials are read again. They leave name and
    /// the beginning of TLS to `transport`. What the library tells of a line, but that it was lost, is told to `observe`.
    #[must_use]
    pub fn new(
        urls: &[String],
        transport: Transport,
        options: impl Fn() -> Result<ConnectOptions, String> + Send + Sync + 'static,
        observe: impl Fn(&Event) + Send + Sync + 'static,
    ) -> Self {
        Self { urls: urls.into(), transport, options: Arc::new(options), observe: Arc::new(observe) }
    }

    /// With plain options, for tests.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn plain(url: &str) -> Self {
        Self::with_options(url, ConnectOptions::new())
    }

    /// With these options, for tests.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn with_options(url: &str, options: ConnectOptions) -> Self {
        let tls = Arc::new(|| Err("a plain line has no TLS".to_owned()));
        let transport = Transport { name: "plain".to_owned(), tls_required: false, tls_first: false, tls };
        Self::new(&[url.to_owned()], transport, move || Ok(options.clone()), |_| {})
    }

    /// Opens a line.
    ///
    /// # Errors
    /// Why not, in words.
    pub async fn dial(&self) -> Result<Line, String> {
        let options = (self.options)()?.name(&self.transport.name);
        let mut options = options.require_tls(self.transport.tls_required);
        if self.transport.tls_first {
            options = options.tls_first();
        }
        self.connect(options, &self.urls, ()).await.map_err(|error| one_line(&error))
    }

    /// Opens a line on which in place of a message that the client library cannot read another one comes, of which [`unreadable_reason`]
    /// tells.
    ///
    /// # Errors
    /// Why not, in words.
    pub async fn dial_sifted(&self) -> Result<Line, String> {
        let relay = Relay::open(Arc::clone(&self.urls), self.transport.clone()).await;
        let relay = Arc::new(relay.map_err(|error| format!("no socket of this process: {error}"))?);
        let options = (self.options)()?.name(relay.secret()).ignore_discovered_servers();
        let connected = self.connect(options, &[relay.url()][..], Arc::clone(&relay)).await;
        // The library met this process alone; what kept the relay from the servers is the reason.
        connected.map_err(|error| relay.failure().unwrap_or_else(|| one_line(&error)))
    }

    /// `kept` is dropped with the library's last task on this line.
    async fn connect(
        &self,
        options: ConnectOptions,
        urls: &[String],
        kept: impl Send + Sync + 'static,
    ) -> Result<Line, async_nats::ConnectError> {
        let (lost, watched) = watch::channel(false);
        let observe = Arc::clone(&self.observe);
        let connected = Arc::new(AtomicBool::new(false));
        let was_connected = Arc::clone(&connected);
        let delay = move |_| {
            if was_connected.load(Ordering::Relaxed) { RECONNECT_PAUSE } else { Duration::ZERO }
        };
        let options = options.max_reconnects(RECONNECTS_MAX).reconnect_delay_callback(delay).event_callback(
            move |event| {
                let _kept = &kept;
                match event {
                    Event::Disconnected | Event::Closed => drop(lost.send_replace(true)),
                    event => observe(&event),
                }
                std::future::ready(())
            },
        );
        let client = options.connect(urls).await?;
        connected.store(true, Ordering::Relaxed);
        Ok(Line { client, lost: watched })
    }
}

/// Why a message that came on a sifted line could not be read, if it could not. Nothing but its reply subject is left of it.
#[must_use]
pub fn unreadable_reason(message: &Message) -> Option<&str> {
    message.headers.as_ref()?.get(UNREADABLE).map(HeaderValue::as_str)
}

/// A connection of its own.
#[derive(Debug, Clone)]
pub struct Line {
    client: Client,
    lost: watch::Receiver<bool>,
}

impl Line {
    /// The connection.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Whether it is lost.
    pub fn is_lost(&self) -> bool {
        // Without its sender the library's task has ended.
        *self.lost.borrow() || self.lost.has_changed().is_err()
    }

    /// Ends when it is lost. What came before can still be taken from its subscriptions.
    pub async fn lost(&self) {
        let mut lost = self.lost.clone();
        // An error says that the library's task has ended.
        drop(lost.wait_for(|lost| *lost).await);
    }
}
