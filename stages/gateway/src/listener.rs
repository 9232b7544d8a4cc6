//! The listener: takes connections, speaks HTTP/1.1 on them, and lets what was begun come to its end.
//!
//! It drives hyper itself, because `axum::serve` sets no timer, so that a client who sends its headers never would hold a
//! connection for ever. With a certificate it speaks TLS. Deliberately absent: HTTP/2, on which many requests of one connection would have
//! to be told apart where it is seen whether their answers are taken.

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

/// Largest request line with all headers, in bytes.
const HEADER_BYTES_MAX: usize = 16 * 1024;
/// Most headers of a request.
const HEADERS_MAX: usize = 64;
/// After the system could not hand a connection over, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The address of a client, as far as the connection tells.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientAddress(pub(crate) SocketAddr);

/// With what a body that goes on says whether its client takes it. One that takes nothing for too long is left.
#[derive(Debug, Clone)]
pub(crate) struct Taking(Arc<Answered>);

impl Taking {
    /// The client has taken all that there was.
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
    /// Speaks TLS; without it what is said can be read on the way.
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) router: Router,
    pub(crate) connections_max: usize,
    pub(crate) header_timeout: Duration,
    /// How long a client may take for an answer.
    pub(crate) answer_timeout: Duration,
    /// How long a connection may go on after the end was asked for, whatever its client does.
    pub(crate) end_timeout: Duration,
    /// Shows how many connections there are.
    pub(crate) connections: Level,
}

impl Listener {
    /// Serves until `stop`, then finishes the requests that were begun, as long as it may.
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
            // Without a place it is closed at once: whoever waits in a queue would take its time for nothing.
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

/// Since when an answer of the connection is there; none while a request is looked at.
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

/// Ends when `limit` has passed since an answer, and there is no other request. hyper has no limit for a client that takes its answer
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
