//! Lines: separate connections for messages that may hold foreign bytes. When the client library meets bytes that it cannot read, it ends
//! the connection, and for some of them its own task. On a line, nothing else is lost with it: appends, leases and answers use the
//! process's main connection.
//!
//! Where such bytes may come all the time, as in requests to services, a line is sifted: bytes that the library cannot read are replaced
//! before they reach it, and the line stays open.

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

/// How often the library tries to reconnect a lost line. The number is small, because a lost line is not used again.
const RECONNECTS_MAX: usize = 4;
/// The delay before the library reconnects a lost line, which then carries the answers that were under way. It must be short: until the
/// reconnection the server takes the old connection for alive and passes it requests that nobody hears. It must not be zero: by the
/// reconnection, nobody may listen on the line any more, or the library would subscribe again for a service that has gone. Stopping a
/// service does not wait for it.
const RECONNECT_PAUSE: Duration = Duration::from_millis(15);

type MakeOptions = dyn Fn() -> Result<ConnectOptions, String> + Send + Sync;
type Observe = dyn Fn(&Event) + Send + Sync;

/// Opens lines to the servers of the process's main connection.
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
    /// Dials `urls` by `transport`. The options are made anew for each line, so that files with credentials are read again; they leave the
    /// name and the beginning of TLS to `transport`. `observe` receives the library's events about a line, except that it was lost.
    #[must_use]
    pub fn new(
        urls: &[String],
        transport: Transport,
        options: impl Fn() -> Result<ConnectOptions, String> + Send + Sync + 'static,
        observe: impl Fn(&Event) + Send + Sync + 'static,
    ) -> Self {
        Self { urls: urls.into(), transport, options: Arc::new(options), observe: Arc::new(observe) }
    }

    /// With default options, for tests.
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
    /// A description of what failed.
    pub async fn dial(&self) -> Result<Line, String> {
        let options = (self.options)()?.name(&self.transport.name);
        let mut options = options.require_tls(self.transport.tls_required);
        if self.transport.tls_first {
            options = options.tls_first();
        }
        self.connect(options, &self.urls, ()).await.map_err(|error| one_line(&error))
    }

    /// Opens a sifted line. In place of a message that the client library cannot read, another message comes, and [`unreadable_reason`]
    /// says why.
    ///
    /// # Errors
    /// A description of what failed.
    pub async fn dial_sifted(&self) -> Result<Line, String> {
        let relay = Relay::open(Arc::clone(&self.urls), self.transport.clone()).await;
        let relay = Arc::new(relay.map_err(|error| format!("no socket of this process: {error}"))?);
        let options = (self.options)()?.name(relay.secret()).ignore_discovered_servers();
        let connected = self.connect(options, &[relay.url()][..], Arc::clone(&relay)).await;
        // The library only connected to this process. The real reason is what kept the relay from the servers.
        connected.map_err(|error| relay.failure().unwrap_or_else(|| one_line(&error)))
    }

    /// `kept` is dropped together with the library's last task for this line.
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

/// Why a message on a sifted line could not be read; `None` if it could. Only its reply subject is left of it.
#[must_use]
pub fn unreadable_reason(message: &Message) -> Option<&str> {
    message.headers.as_ref()?.get(UNREADABLE).map(HeaderValue::as_str)
}

/// A separate connection.
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

    /// Whether the line is lost.
    pub fn is_lost(&self) -> bool {
        // The sender is dropped when the library's task ends.
        *self.lost.borrow() || self.lost.has_changed().is_err()
    }

    /// Returns when the line is lost. Messages that came before can still be taken from its subscriptions.
    pub async fn lost(&self) {
        let mut lost = self.lost.clone();
        // An error means that the library's task has ended.
        drop(lost.wait_for(|lost| *lost).await);
    }
}
