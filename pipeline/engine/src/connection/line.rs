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
use tokio::sync::watch;

use super::{ClientIdentity, ConnectError, ConnectionMonitor, ConnectionSettings, options};
use crate::error_text::one_line;

/// A line that is lost is not used again; the library's own attempts to mend it end soon.
const RECONNECTS_MAX: usize = 4;
/// When the library mends a lost line, which then carries what was being answered on it; by then nobody listens on it any more, or
/// the server would hand requests over to a service that is gone.
const RECONNECT_PAUSE: Duration = Duration::from_millis(300);

type MakeOptions = dyn Fn() -> Result<ConnectOptions, ConnectError> + Send + Sync;

/// Opens lines to the servers of the process's connection.
#[derive(Clone)]
pub struct Dialer {
    urls: Arc<[String]>,
    options: Arc<MakeOptions>,
    monitor: ConnectionMonitor,
}

impl fmt::Debug for Dialer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Dialer").field("urls", &self.urls).finish_non_exhaustive()
    }
}

impl Dialer {
    /// With the settings and under the name of the process's connection. Files are read again for each line. What the
    /// server forbids on a line is told to `monitor`.
    #[must_use]
    pub fn new(
        settings: &ConnectionSettings,
        identity: &ClientIdentity,
        monitor: &ConnectionMonitor,
    ) -> Self {
        let (settings, identity) = (settings.clone(), identity.clone());
        Self {
            urls: settings.urls.as_slice().into(),
            options: Arc::new(move || options(&settings, &identity, &ConnectionMonitor::unobserved())),
            monitor: monitor.clone(),
        }
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
        Self {
            urls: [url.to_owned()].into(),
            options: Arc::new(move || Ok(options.clone())),
            monitor: ConnectionMonitor::unobserved(),
        }
    }

    /// Opens a line.
    ///
    /// # Errors
    /// Why not, in words.
    pub(crate) async fn dial(&self) -> Result<Line, String> {
        let (lost, watched) = watch::channel(false);
        let monitor = self.monitor.clone();
        let options = (self.options)().map_err(|error| one_line(&error))?;
        let connected = Arc::new(AtomicBool::new(false));
        let was_connected = Arc::clone(&connected);
        let delay = move |_| {
            if was_connected.load(Ordering::Relaxed) { RECONNECT_PAUSE } else { Duration::ZERO }
        };
        let options = options.max_reconnects(RECONNECTS_MAX).reconnect_delay_callback(delay).event_callback(
            move |event| {
                match event {
                    Event::Disconnected | Event::Closed => drop(lost.send_replace(true)),
                    event => monitor.observe_line(&event),
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
pub(crate) struct Line {
    client: Client,
    lost: watch::Receiver<bool>,
}

impl Line {
    /// The connection.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Whether it is lost.
    pub(crate) fn is_lost(&self) -> bool {
        // Without its sender the library's task has ended.
        *self.lost.borrow() || self.lost.has_changed().is_err()
    }

    /// Ends when it is lost. What came before can still be taken from its subscriptions.
    pub(crate) async fn lost(&self) {
        let mut lost = self.lost.clone();
        // An error says that the library's task has ended.
        drop(lost.wait_for(|lost| *lost).await);
    }
}
