//! Decides which of several replicas answers a query: one that can. A view whose rows are complete listens in the queue group of all replicas
//! that can answer. A view that is being built, or has halted, listens in a separate group. It reports what it waits for only if nobody can
//! answer: it asks on `query.<context>.<view>.whole`, where every replica that can answer listens.
//!
//! The server gives each queue group a copy of each request. So a request reaches one replica that can answer and one that cannot, and one of
//! the two answers. In the second after a replica has become able to answer, both may: it may have joined too late for this request, and no
//! answer would be worse than two.

use std::{sync::Arc, time::Duration};

use async_nats::{Client, HeaderMap, Message, RequestErrorKind, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use millstream_contract::subject::QUERY_PREFIX;
use millstream_jetstream::nats_broker::service::{Endpoint, Endpoints, Request, ServiceError, answer};
use tokio::{sync::watch, time::Instant};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{EndpointContext, Incoming, client_of_message, endpoint_name};
use crate::projection_runner::{ProjectionStatus, View};

/// The queue group of replicas that cannot answer at the moment.
const GROUP_APART: &str = "apart";
/// The last token of the subject on which replicas listen that can answer.
const WHOLE: &str = "whole";

/// How long other replicas may take to say that they can answer. If nobody can, the server says so at once.
const ASK_WAIT: Duration = Duration::from_secs(1);

/// How much longer than a request has waited here another replica must have listened, for this one to keep silent.
const LISTENED_BEFORE: Duration = Duration::from_secs(1);

/// The pause before a view that could not change how it listens tries again.
const LISTEN_PAUSE: Duration = Duration::from_secs(1);

/// A view, and what its endpoints need.
pub(super) struct ServedView {
    pub(super) view: View,
    pub(super) endpoints: Vec<Arc<EndpointContext>>,
}

/// A view as it is served on one connection.
struct Served {
    view: Arc<ServedView>,
    endpoints: Endpoints,
    client: Client,
    takers: TaskTracker,
    /// Ends all subscriptions on this connection.
    closing: CancellationToken,
}

/// Listens for a view until it is dropped, either with all that can answer or apart from them.
struct Listening {
    able: bool,
    _leaves: DropGuard,
}

/// Begins to serve a view, and continues until `closing`. When this returns, the connection listens.
pub(super) async fn serve(
    view: Arc<ServedView>,
    endpoints: Endpoints,
    client: Client,
    takers: &TaskTracker,
    closing: CancellationToken,
) -> Result<(), async_nats::Error> {
    let served = Served { view, endpoints, client, takers: takers.clone(), closing };
    let mut status = served.view.view.status.clone();
    let able = is_able(&status.borrow_and_update());
    let listening = served.listen(able).await?;
    takers.spawn(served.keep(status, listening));
    Ok(())
}

/// Whether a view has all rows and follows the stream.
fn is_able(status: &ProjectionStatus) -> bool {
    status.is_complete() && status.halted.is_none()
}

impl Served {
    /// Changes between the two ways of listening whenever the view becomes able to answer, or no longer is.
    async fn keep(self, mut status: watch::Receiver<ProjectionStatus>, mut listening: Listening) {
        loop {
            let able = listening.able;
            let changed = tokio::select! {
                () = self.closing.cancelled() => return,
                changed = status.wait_for(|status| is_able(status) != able) => changed.is_ok(),
            };
            if !changed {
                // The runner has ended, so its last status stays.
                return self.closing.cancelled().await;
            }
            // The new subscription comes first, so that there is no moment in which nobody listens.
            match self.listen(!able).await {
                Ok(new) => {
                    // The server works through a connection in order. Any answer shows that it knows the new subscription, and that everything
                    // it had delivered on the old one has come. If the old one were left before, such a request would be dropped unread.
                    let asked = async_nats::Request::new().timeout(Some(ASK_WAIT));
                    let _any = self.client.send_request(self.subject(WHOLE), asked).await;
                    listening = new;
                }
                Err(error) => {
                    tracing::warn!(
                        %error,
                        view = self.view.view.name,
                        able,
                        "a view cannot change how it listens; it stays as it is and tries again"
                    );
                    if self.closing.run_until_cancelled(tokio::time::sleep(LISTEN_PAUSE)).await.is_none() {
                        return;
                    }
                }
            }
        }
    }

    async fn listen(&self, able: bool) -> Result<Listening, async_nats::Error> {
        let leaving = self.closing.child_token();
        // This comes before anything listens: if the rest fails, what already listens is dropped again.
        let leaves = leaving.clone().drop_guard();
        // Cancelled when this replica no longer says that it can answer. If it left the queue group first, a replica apart could be told that
        // this one answers, keep silent, and the request would have no answer at all.
        let silent = CancellationToken::new();
        let falls_silent = silent.clone().drop_guard();
        for context in &self.view.endpoints {
            let operation = context.operation;
            if able {
                let name = endpoint_name(&self.view.view, operation.name());
                let projection = self.view.view.projection.to_string();
                let subject = self.subject(operation.name());
                let endpoint = self.endpoints.add(&name, &subject, &[("projection", &projection)]).await?;
                self.takers.spawn(take(endpoint, Arc::clone(context), silent.clone()));
            } else {
                let subject = self.subject(operation.name());
                let requests = self.client.queue_subscribe(subject, GROUP_APART.to_owned()).await?;
                let whole = self.subject(WHOLE);
                let status = self.view.view.status.clone();
                let apart =
                    Apart { context: Arc::clone(context), status, client: self.client.clone(), whole };
                self.takers.spawn(apart.take(requests, leaving.clone()));
            }
        }
        if able {
            // This comes last, because a replica that is told that this one answers keeps silent.
            let name = endpoint_name(&self.view.view, WHOLE);
            let endpoint = self.endpoints.add(&name, &self.subject(WHOLE), &[]).await?;
            if let Some(context) = self.view.endpoints.first() {
                let saying = say_whole(endpoint, Arc::clone(context), leaving.clone());
                self.takers.spawn(async move {
                    saying.await;
                    drop(falls_silent);
                });
            }
        }
        Ok(Listening { able, _leaves: leaves })
    }

    fn subject(&self, last: &str) -> String {
        format!("{QUERY_PREFIX}.{}.{}.{last}", self.view.view.context, self.view.view.name)
    }
}

/// Takes requests one after the other and answers each on its own.
async fn take(mut endpoint: Endpoint, context: Arc<EndpointContext>, leaving: CancellationToken) {
    while let Some(request) = next_request(&mut endpoint, &leaving).await {
        let incoming = Incoming::Request(request);
        match context.at_once.take(client_of_message(incoming.message())) {
            Ok(at_once) => {
                let context = Arc::clone(&context);
                context.requests.clone().spawn(async move { context.answer(incoming, at_once).await });
            }
            Err(busy) => context.respond(&incoming, Err(busy), context.query.headers()).await,
        }
    }
}

/// Tells others that this replica can answer, and for how many milliseconds it has listened.
async fn say_whole(mut endpoint: Endpoint, context: Arc<EndpointContext>, leaving: CancellationToken) {
    let began = Instant::now();
    // If there is no answer, the asking replica reports after a while what it knows.
    while let Some(Some(request)) = leaving.run_until_cancelled(endpoint.next()).await {
        let listened = Bytes::from(began.elapsed().as_millis().to_string());
        let headers = context.query.headers();
        let said = request.respond_to_clients_and_replicas(&context.broker, listened, headers).await;
        if let Err(error) = said {
            tracing::debug!(%error, "nobody is there to be told that a view is whole");
        }
    }
    endpoint.stop().await;
}

/// The next request. After `leaving`, only requests that have already come.
async fn next_request(endpoint: &mut Endpoint, leaving: &CancellationToken) -> Option<Request> {
    if !leaving.is_cancelled() {
        tokio::select! {
            request = endpoint.next() => return request,
            () = leaving.cancelled() => {}
        }
    }
    // Repeating it changes nothing.
    endpoint.stop().await;
    endpoint.next().await
}

/// A view that cannot answer at the moment.
struct Apart {
    context: Arc<EndpointContext>,
    status: watch::Receiver<ProjectionStatus>,
    client: Client,
    /// The subject on which replicas listen that can answer.
    whole: String,
}

impl Apart {
    async fn take(self, mut requests: Subscriber, leaving: CancellationToken) {
        let apart = Arc::new(self);
        loop {
            let message = tokio::select! {
                message = requests.next() => message,
                () = leaving.cancelled() => break,
            };
            let Some(message) = message else { return };
            Self::take_one(&apart, message).await;
        }
        // What the server has sent and this process has not read yet still comes.
        let _gone = requests.drain().await;
        while let Some(message) = requests.next().await {
            Self::take_one(&apart, message).await;
        }
    }

    /// Waits for its turn, and is not refused: a refusal could overtake the answer of a replica that can answer.
    async fn take_one(apart: &Arc<Self>, message: Message) {
        let came = Instant::now();
        let Some(at_once) = apart.context.at_once.wait().await else { return };
        let this = Arc::clone(apart);
        apart.context.requests.spawn(async move {
            if this.can_answer() || !this.another_can(came).await {
                this.context.answer(Incoming::Message(message), at_once).await;
            }
        });
    }

    /// Whether this replica has become able to answer in the meantime.
    fn can_answer(&self) -> bool {
        is_able(&self.status.borrow())
    }

    /// Whether another replica can answer and has listened since before the request `came`. If that cannot be found out, this replica reports
    /// what it knows.
    async fn another_can(&self, came: Instant) -> bool {
        let asked = async_nats::Request::new().timeout(Some(ASK_WAIT));
        match self.client.send_request(self.whole.clone(), asked).await {
            Ok(told) => {
                let listened = std::str::from_utf8(&told.payload).ok().and_then(|text| text.parse().ok());
                let listened = listened.map_or(Duration::ZERO, Duration::from_millis);
                listened > came.elapsed() + LISTENED_BEFORE
            }
            Err(error) => {
                if error.kind() != RequestErrorKind::NoResponders {
                    tracing::warn!(subject = self.whole, %error, "cannot ask for other replicas");
                }
                false
            }
        }
    }
}

impl Incoming {
    pub(super) fn message(&self) -> &Message {
        match self {
            Self::Request(request) => &request.message,
            Self::Message(message) => message,
        }
    }

    /// Returns when the answer is no longer in memory, because the server has it or its connection is gone.
    pub(super) async fn written(&self, context: &EndpointContext) {
        let written = match self {
            Self::Request(request) => request.written().await,
            Self::Message(_) => context.broker.client().flush().await,
        };
        if let Err(error) = written {
            tracing::debug!(%error, "the connection went before an answer");
        }
    }

    /// Answers it.
    pub(super) async fn respond(
        &self,
        context: &EndpointContext,
        response: Result<Bytes, ServiceError>,
        headers: HeaderMap,
    ) -> Result<(), async_nats::Error> {
        match self {
            Self::Request(request) => request.respond(&context.broker, response, headers).await,
            Self::Message(message) => answer(&context.broker, message, response, headers).await,
        }
    }
}
