//! Fetches the keys of an issuer: at the start, regularly, and when a token names an unknown key, but never more often than once in a minimum
//! pause. If fetching fails, the keys stay as they are, and the failure is logged.
//!
//! Deliberately absent: redirections, which would lead elsewhere than the operator has written, and proxies.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode, body::Bytes, header};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use millstream_contract::{error_text::one_line, token_issuer::TokenIssuer};
use millstream_runtime::file_work::{do_file_work, read_regular_file};
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::Instant,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::key_set::{KeySet, KeySetError};

/// The largest key set. A key with a chain of certificates has some kilobytes.
const BYTES_MAX: usize = 256 * 1024;
/// How long an issuer may take to answer.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a file is checked.
const FILE_INTERVAL: Duration = Duration::from_secs(1);
/// The number of requests that may wait for keys at a time. A flood of tokens with unknown keys takes no more places than that.
const WAITING_MAX: usize = 64;

/// How often keys are fetched.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refresh {
    /// The interval without a special reason.
    pub(crate) every: Duration,
    /// The shortest time between two fetches, whatever the reason.
    pub(crate) pause: Duration,
}

/// Why keys could not be fetched.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("the file cannot be read")]
    File(#[source] std::io::Error),
    #[error("the address is none")]
    Address(#[source] hyper::http::Error),
    #[error("the certificates of the system cannot be read")]
    Certificates(#[source] std::io::Error),
    #[error("nobody answers there")]
    Connection(#[source] hyper_util::client::legacy::Error),
    #[error("the answer is {0}")]
    Status(StatusCode),
    #[error("the answer broke off, or is larger than {} KiB", BYTES_MAX / 1024)]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("there was no answer in {} seconds", FETCH_TIMEOUT.as_secs())]
    Slow,
    #[error("what is there cannot be used")]
    Keys(#[source] KeySetError),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Url(String),
    File(PathBuf),
}

impl Place {
    fn of(table: &TokenIssuer) -> Self {
        match (&table.keys_url, &table.keys_file) {
            (Some(url), _) => Self::Url(url.clone()),
            (None, file) => Self::File(PathBuf::from(file.clone().unwrap_or_default())),
        }
    }

    async fn read(&self) -> Result<Vec<u8>, FetchError> {
        match self {
            Self::Url(url) => {
                tokio::time::timeout(FETCH_TIMEOUT, fetch(url)).await.unwrap_or(Err(FetchError::Slow))
            }
            Self::File(file) => {
                let file = file.clone();
                let text = do_file_work(move || read_regular_file(&file)).await;
                text.map(String::into_bytes).map_err(FetchError::File)
            }
        }
    }
}

/// The result of the last attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Attempts {
    ended: u64,
    running: bool,
    last: Option<Instant>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    place: Place,
    refresh: Refresh,
    keys: RwLock<Option<Arc<KeySet>>>,
    attempts: watch::Sender<Attempts>,
    wanted: Notify,
    waiting: Semaphore,
    /// The last logged problem.
    trouble: Mutex<String>,
}

/// The keys of one issuer, which are fetched until this is dropped.
#[derive(Debug)]
pub(crate) struct KeySource {
    shared: Arc<Shared>,
    _fetching: DropGuard,
}

impl KeySource {
    /// Begins to fetch the keys. `changed` is called whenever they have changed.
    pub(crate) fn start(
        table: &TokenIssuer,
        refresh: Refresh,
        changed: impl Fn() + Send + 'static,
        stop: &CancellationToken,
    ) -> Self {
        let shared = Arc::new(Shared {
            name: table.name.clone(),
            place: Place::of(table),
            refresh,
            keys: RwLock::default(),
            attempts: watch::Sender::new(Attempts { ended: 0, running: true, last: None }),
            wanted: Notify::new(),
            waiting: Semaphore::new(WAITING_MAX),
            trouble: Mutex::default(),
        });
        let end = stop.child_token();
        let fetching = Arc::clone(&shared);
        let token = end.clone();
        tokio::spawn(async move { token.run_until_cancelled(fetching.follow(changed)).await });
        Self { shared, _fetching: end.drop_guard() }
    }

    /// Whether these are the keys of that table.
    pub(crate) fn is_of(&self, table: &TokenIssuer) -> bool {
        self.shared.name == table.name && self.shared.place == Place::of(table)
    }

    /// The keys as they were fetched last; `None` before the first time.
    pub(crate) fn keys(&self) -> Option<Arc<KeySet>> {
        self.shared.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Fetches the keys again if that is allowed now, and waits for it. Returns whether it was done.
    pub(crate) async fn fetched_again(&self) -> bool {
        let mut attempts = self.shared.attempts.subscribe();
        let now = *attempts.borrow_and_update();
        let may_begin = now.last.is_none_or(|last| last.elapsed() >= self.shared.refresh.pause);
        let Ok(_place) = self.shared.waiting.try_acquire() else { return false };
        if !now.running {
            if !may_begin {
                return false;
            }
            self.shared.wanted.notify_one();
        }
        attempts.wait_for(|attempts| attempts.ended > now.ended).await.is_ok()
    }
}

impl Shared {
    async fn follow(&self, changed: impl Fn()) {
        let mut known = Vec::new();
        loop {
            self.attempts.send_modify(|attempts| attempts.running = true);
            let read = self.place.read().await;
            let read = read.and_then(|text| {
                let is_new = text != known;
                is_new
                    .then(|| KeySet::read(&text).map(|keys| (text, keys)).map_err(FetchError::Keys))
                    .transpose()
            });
            match read {
                Ok(None) => self.told(None),
                Ok(Some((text, keys))) => {
                    known = text;
                    *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(keys));
                    changed();
                    tracing::info!(issuer = self.name, "the keys of the issuer are fetched");
                    self.told(None);
                }
                Err(error) => self.told(Some(one_line(&error))),
            }
            self.attempts.send_modify(|attempts| {
                *attempts =
                    Attempts { ended: attempts.ended + 1, running: false, last: Some(Instant::now()) };
            });
            self.next().await;
        }
    }

    /// Returns when the keys should be fetched again.
    async fn next(&self) {
        if let Place::File(_) = self.place {
            return tokio::time::sleep(FILE_INTERVAL).await;
        }
        tokio::time::sleep(self.refresh.pause).await;
        let has_failed = !self.trouble.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        if !has_failed {
            let rest = self.refresh.every.saturating_sub(self.refresh.pause);
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                () = self.wanted.notified() => {}
            }
        }
    }

    /// Logs a problem once, and logs when it is over.
    fn told(&self, now: Option<String>) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let now = now.unwrap_or_default();
        if *trouble == now {
            return;
        }
        let has_keys = self.keys.read().unwrap_or_else(PoisonError::into_inner).is_some();
        match (now.is_empty(), has_keys) {
            (true, _) => tracing::info!(issuer = self.name, "the keys of the issuer can be fetched again"),
            (false, true) => {
                tracing::error!(
                    issuer = self.name,
                    error = now,
                    "the keys of the issuer cannot be fetched; they stay as they were"
                );
            }
            (false, false) => {
                tracing::error!(
                    issuer = self.name,
                    error = now,
                    "the keys of the issuer cannot be fetched; its tokens are refused"
                );
            }
        }
        *trouble = now;
    }
}

async fn fetch(url: &str) -> Result<Vec<u8>, FetchError> {
    let with_roots = || {
        HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(tokio_rustls::rustls::crypto::ring::default_provider())
    };
    // The system's certificates are some hundred files.
    let connector = do_file_work(with_roots)
        .await
        .map_err(FetchError::Certificates)?
        .https_or_http()
        .enable_http1()
        .build();
    // Fetching is rare, so no connection is kept.
    let client: Client<_, Empty<Bytes>> =
        Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
    let request = Request::get(url).header(header::ACCEPT, "application/json").body(Empty::new());
    let answer =
        client.request(request.map_err(FetchError::Address)?).await.map_err(FetchError::Connection)?;
    if answer.status() != StatusCode::OK {
        return Err(FetchError::Status(answer.status()));
    }
    let body = Limited::new(answer.into_body(), BYTES_MAX).collect().await.map_err(FetchError::Body)?;
    Ok(body.to_bytes().to_vec())
}
