//! The listener: accepts connections, serves HTTP/1.1 on them, and lets running requests finish.
//!
//! It drives hyper itself, because `axum::serve` sets no timer, so a client that never sends its headers could hold a connection for ever. With
//! a certificate it serves TLS. Deliberately absent: HTTP/2, which has many requests on one connection; they would have to be distinguished
//! when it is checked whether clients take their answers.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    extract::{Request, State},
    middleware::{Next, from_fn_with_state},
    response::Response,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use millstream_runtime::metrics::Level;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::Instant,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{after, live::GoesOn};

/// The largest size of the request line with all headers, in bytes.
const HEADER_BYTES_MAX: usize = 16 * 1024;
/// The most headers of a request.
const HEADERS_MAX: usize = 64;
/// The pause after the system could not accept a connection, for example because it has no free descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The address of a client, as far as the connection tells.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientAddress(pub(crate) SocketAddr);

/// Lets a streaming body report whether its client takes it. A client that takes nothing for too long is disconnected.
#[derive(Debug, Clone)]
pub(crate) struct Taking(Arc<Answered>);

impl Taking {
    /// The client has taken everything so far.
    pub(crate) fn waits(&self) {
        self.0.send_replace(None);
    }

    /// The client was given something.
    pub(crate) fn was_given(&self) {
        self.0.send_replace(Some(Instant::now()));
    }
}

/// Takes connections.
pub(crate) struct Listener {
    pub(crate) socket: TcpListener,
    /// Serves TLS. Without it, others can read the traffic.
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) router: Router,
    pub(crate) connections_max: usize,
    pub(crate) header_timeout: Duration,
    /// How long a client may take to receive an answer.
    pub(crate) answer_timeout: Duration,
    /// How long a connection may continue after the end was requested, whatever its client does.
    pub(crate) end_timeout: Duration,
    /// The metric of open connections.
    pub(crate) connections: Level,
}

impl Listener {
    /// Serves until `stop`, then lets running requests finish as long as they may.
    pub(crate) async fn serve(self, stop: CancellationToken) {
        let Self {
            socket,
            tls,
            router,
            connections_max,
            header_timeout,
            answer_timeout,
            end_timeout,
            connections,
        } = self;
        let mut protocol = http1::Builder::new();
        protocol
            .timer(TokioTimer::new())
            .header_read_timeout(header_timeout)
            .max_buf_size(HEADER_BYTES_MAX)
            .max_headers(HEADERS_MAX);
        let places = Arc::new(Semaphore::new(connections_max));
        let running = TaskTracker::new();
        while let Some(accepted) = stop.run_until_cancelled(socket.accept()).await {
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be taken");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Without a free place, the connection is closed at once, because waiting in a queue would be in vain.
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
            let (answering, answered) = watch::channel(None);
            let service = router
                .clone()
                .layer(from_fn_with_state(Arc::new(answering), note_answers))
                .layer(Extension(ClientAddress(address)));
            let (protocol, stop, connections) = (protocol.clone(), stop.clone(), connections.clone());
            let tls = tls.clone();
            running.spawn(async move {
                connections.inc();
                tokio::select! {
                    () = take(&protocol, stream, tls, header_timeout, service, &stop) => {}
                    () = not_taken(answered, answer_timeout) => {
                        tracing::debug!(%address, "an answer was not taken in time");
                    }
                    () = after(&stop, end_timeout) => {
                        tracing::warn!(%address, "a connection was not done in time before the end");
                    }
                }
                connections.dec();
                drop(place);
            });
        }
        drop(socket);
        running.close();
        running.wait().await;
    }
}

async fn take(
    protocol: &http1::Builder,
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    handshake_timeout: Duration,
    service: Router,
    stop: &CancellationToken,
) {
    // Answers are small and complete.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection waits for full packets");
    }
    let Some(tls) = tls else { return converse(protocol, stream, service, stop).await };
    let handshake = tokio::time::timeout(handshake_timeout, tls.accept(stream));
    match stop.run_until_cancelled(handshake).await {
        Some(Ok(Ok(stream))) => converse(protocol, stream, service, stop).await,
        Some(Ok(Err(error))) => tracing::debug!(%error, "a client does not speak TLS as it should"),
        Some(Err(_)) | None => {}
    }
}

async fn converse(
    protocol: &http1::Builder,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    service: Router,
    stop: &CancellationToken,
) {
    let connection = protocol.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Since when an answer of the connection has been ready; `None` while a request is processed.
type Answered = watch::Sender<Option<Instant>>;

async fn note_answers(State(answered): State<Arc<Answered>>, mut request: Request, next: Next) -> Response {
    let taking = Taking(answered);
    taking.waits();
    request.extensions_mut().insert(taking.clone());
    let response = next.run(request).await;
    if response.extensions().get::<GoesOn>().is_none() {
        taking.was_given();
    }
    response
}

/// Returns when `limit` has passed since an answer and there was no other request. hyper has no limit for a client that takes its answer slowly
/// or never.
/// slowly, or never.
async fn not_taken(mut answered: watch::Receiver<Option<Instant>>, limit: Duration) {
    loop {
        let since = *answered.borrow_and_update();
        let changed = async {
            if answered.changed().await.is_err() {
                // There will be no other answer, and nobody to take it.
                std::future::pending::<()>().await;
            }
        };
        match since {
            None => changed.await,
            Some(since) => {
                if tokio::time::timeout_at(since + limit, changed).await.is_err() {
                    return;
                }
            }
        }
    }
}
