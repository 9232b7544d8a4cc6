//! Lines: connections of their own for what brings foreign bytes. The client library ends a connection on which it meets
//! bytes that it cannot read, and its task for some of them. On a line nothing else is lost with it: appends, leases and
//! answers travel on the process's connection.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, ConnectOptions, Event};
use millstream_contract::error_text::one_line;
use tokio::sync::watch;

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
}

impl fmt::Debug for Dialer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Dialer").field("urls", &self.urls).finish_non_exhaustive()
    }
}

impl Dialer {
    /// To `urls`, with options made anew for each line, so that files of credentials are read again. What the library tells of a
    /// line, but that it was lost, is told to `observe`.
    #[must_use]
    pub fn new(
        urls: &[String],
        options: impl Fn() -> Result<ConnectOptions, String> + Send + Sync + 'static,
        observe: impl Fn(&Event) + Send + Sync + 'static,
    ) -> Self {
        Self { urls: urls.into(), options: Arc::new(options), observe: Arc::new(observe) }
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
        Self::new(&[url.to_owned()], move || Ok(options.clone()), |_| {})
    }

    /// Opens a line.
    ///
    /// # Errors
    /// Why not, in words.
    pub async fn dial(&self) -> Result<Line, String> {
        let (lost, watched) = watch::channel(false);
        let observe = Arc::clone(&self.observe);
        let options = (self.options)()?;
        let connected = Arc::new(AtomicBool::new(false));
        let was_connected = Arc::clone(&connected);
        let delay = move |_| {
            if was_connected.load(Ordering::Relaxed) { RECONNECT_PAUSE } else { Duration::ZERO }
        };
        let options = options.max_reconnects(RECONNECTS_MAX).reconnect_delay_callback(delay).event_callback(
            move |event| {
                match event {
                    Event::Disconnected | Event::Closed => drop(lost.send_replace(true)),
                    event => observe(&event),
                }
                std::future::ready(())
            },
        );
        let client = options.connect(&*self.urls).await.map_err(|error| one_line(&error))?;
        connected.store(true, Ordering::Relaxed);
        Ok(Line { client, lost: watched })
    }
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
