//! One row or list that is watched. It is queried when it may have changed, once for all its watchers, and shown to them.
//!
//! It is queried when a hint says that it has changed, when the line on which hints come was opened again, and from time to time, because a
//! hint can be lost. What is shown never goes back: an older answer comes from another replica, and the query is repeated.
//!
//! Deliberately absent: queries that wait for a position. They would take waiting places from other clients as long as a replica is behind.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::http::StatusCode;
use bytes::Bytes;
use millstream_contract::{header, position::StreamPosition, subject::QUERY_PREFIX};
use millstream_jetstream::{backoff::Backoff, nats_broker::AskError};
use serde_json::{Value, json};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{frames, hub::Shared};
use crate::{
    key_ring::Principal,
    problem::Problem,
    views::{ViewAnswer, ask_once},
};

/// The shortest time between two queries. So a row that changes more often costs a view no more, and is shown up to forty times a second.
const GAP: Duration = Duration::from_millis(25);
/// The first pause after a view could not answer or was too far behind. Replicas are some milliseconds apart.
const PAUSE_FIRST: Duration = Duration::from_millis(10);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long a view may not answer before watchers are told. Restarting a projector takes less time.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// How long all answers may be older than what is shown, which happens while another replica is behind. After this time, the view itself has
/// gone back.
const OLDER_MAX: Duration = Duration::from_secs(20);
/// How long a position is waited for in vain. After this time, it must belong to a stream that has been made again since.
const WANTED_MAX: Duration = Duration::from_secs(20);
/// The largest state that is sent, in bytes. Each client that reads slowly keeps one in memory.
pub(crate) const STATE_BYTES_MAX: usize = 128 * 1024;
/// The number of rows of a list. A client that needs more queries the list.
const LIST_LIMIT: u32 = 100;
/// The code with which a view answers that there is no such row.
const NO_ROW: &str = "404";

/// What is watched in a view.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum What {
    /// The row of a key.
    Row(String),
    /// The first rows whose keys have a prefix.
    List(String),
}

/// What is watched.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Address {
    pub(super) context: String,
    pub(super) view: String,
    pub(super) what: What,
}

impl Address {
    /// Parses `<context>/<view>/<key or prefix>`.
    pub(super) fn parse(text: &str, what: impl FnOnce(String) -> What) -> Option<Self> {
        let mut parts = text.splitn(3, '/').map(str::to_owned);
        let (context, view, what) = (parts.next()?, parts.next()?, what(parts.next()?));
        let is_whole = !context.is_empty() && !view.is_empty() && what != What::Row(String::new());
        is_whole.then_some(Self { context, view, what })
    }

    pub(super) fn is_granted_to(&self, principal: &Principal) -> bool {
        match &self.what {
            What::Row(key) => principal.may_read(&self.context, &self.view, key),
            What::List(prefix) => principal.may_list(&self.context, &self.view, prefix),
        }
    }

    /// Whether it is a list that may contain one of these rows.
    pub(super) fn lists_any(&self, keys: &[String]) -> bool {
        matches!(&self.what, What::List(prefix) if keys.iter().any(|key| key.starts_with(prefix)))
    }

    fn question(&self) -> (String, Bytes) {
        let (operation, body) = match &self.what {
            What::Row(key) => ("get", json!({ "key": key })),
            What::List(prefix) => ("list", json!({ "prefix": prefix, "limit": LIST_LIMIT })),
        };
        let subject = format!("{QUERY_PREFIX}.{}.{}.{operation}", self.context, self.view);
        (subject, body.to_string().into())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (What::Row(rest) | What::List(rest)) = &self.what;
        write!(formatter, "{}/{}/{rest}", self.context, self.view)
    }
}

/// What watchers see.
#[derive(Debug, Clone, Default)]
pub(super) struct Shown {
    /// Increases with each new thing to see.
    pub(super) revision: u64,
    /// Increases when everything seen before is void, because the stream was made again or has lost its tail.
    pub(super) epoch: u64,
    /// The position of the state.
    pub(super) position: Option<StreamPosition>,
    /// The event of the state; `None` before the first answer.
    pub(super) state: Option<Bytes>,
    /// The event that says why there is no state now.
    pub(super) trouble: Option<Bytes>,
}

/// A row or list that is watched.
#[derive(Debug)]
pub(super) struct Topic {
    pub(super) address: Address,
    shown: watch::Sender<Shown>,
    wanted: Mutex<Wanted>,
    wake: Notify,
}

/// What the next answer has to fulfil.
#[derive(Debug, Default)]
struct Wanted {
    /// Whether the state may have changed, for whatever reason.
    due: bool,
    /// What must be reached, and how long that is waited for.
    behind: Option<(StreamPosition, Instant)>,
}

/// The result of an attempt.
enum Attempt {
    /// The state is shown.
    Shown,
    /// The query is to be repeated.
    Again,
}

impl Topic {
    pub(super) fn new(address: Address) -> Arc<Self> {
        let shown = watch::Sender::new(Shown::default());
        Arc::new(Self { address, shown, wanted: Mutex::default(), wake: Notify::new() })
    }

    pub(super) fn watch(&self) -> watch::Receiver<Shown> {
        self.shown.subscribe()
    }

    pub(super) fn is_watched(&self) -> bool {
        self.shown.receiver_count() > 0
    }

    /// The state may have changed, for whatever reason.
    pub(super) fn may_differ(&self) {
        self.wanted().due = true;
        self.wake.notify_one();
    }

    /// The state must be of this position or a later one.
    pub(super) fn must_reach(&self, position: &StreamPosition) {
        if is_reached(self.shown.borrow().position.as_ref(), position) {
            return;
        }
        let mut wanted = self.wanted();
        let further = wanted.behind.as_ref().is_none_or(|(behind, _)| !is_reached(Some(behind), position));
        if further {
            wanted.behind = Some((position.clone(), Instant::now() + WANTED_MAX));
        }
        drop(wanted);
        self.wake.notify_one();
    }

    /// Queries and shows, as long as somebody watches.
    pub(super) async fn run(self: Arc<Self>, hub: Arc<Shared>) {
        let mut asking = Asking { older_since: None, silent_since: None };
        let mut backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
        loop {
            let began = Instant::now();
            let attempt = tokio::select! {
                attempt = asking.attempt(&self, &hub) => attempt,
                () = hub.stop.cancelled() => return,
            };
            let again = async {
                match attempt {
                    Attempt::Shown => {
                        backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
                        tokio::time::timeout(hub.recheck, self.is_due()).await.unwrap_or_default();
                    }
                    // Another hint may come from a replica that has caught up.
                    Attempt::Again => tokio::select! {
                        () = backoff.pause() => {}
                        () = self.wake.notified() => {}
                    },
                }
            };
            tokio::select! {
                () = again => {}
                () = self.shown.closed() => {
                    if hub.forget(&self) {
                        return;
                    }
                }
                () = hub.stop.cancelled() => return,
            }
            tokio::time::sleep_until(began + GAP).await;
        }
    }

    /// Returns when there is a reason to query.
    async fn is_due(&self) {
        while !self.is_wanted() {
            self.wake.notified().await;
        }
    }

    /// Whether there is a reason to query. A hint that came during the last query may already have been answered by it.
    fn is_wanted(&self) -> bool {
        let mut wanted = self.wanted();
        let shown = self.shown.borrow().position.clone();
        wanted
            .behind
            .take_if(|(behind, until)| is_reached(shown.as_ref(), behind) || *until < Instant::now());
        wanted.due || wanted.behind.is_some()
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        // Each change leaves the state complete, so a poisoned lock does no harm.
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a topic remembers between two queries.
struct Asking {
    /// Since when all answers have been older than what is shown.
    older_since: Option<Instant>,
    /// Since when the view has not answered.
    silent_since: Option<Instant>,
}

/// An answer; it may say that there is no such row.
struct Answered {
    body: Option<Bytes>,
    position: StreamPosition,
}

impl Asking {
    async fn attempt(&mut self, topic: &Topic, hub: &Shared) -> Attempt {
        topic.wanted().due = false;
        match answered(&topic.address, hub.ask(&topic.address).await) {
            Ok(answered) => {
                self.silent_since = None;
                let is_shown = self.show(topic, answered);
                if is_shown && !topic.is_wanted() { Attempt::Shown } else { Attempt::Again }
            }
            Err(problem) => {
                let since = *self.silent_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= SILENCE_MAX {
                    show_trouble(topic, problem);
                }
                Attempt::Again
            }
        }
    }

    /// Returns whether it was new enough to be shown.
    fn show(&mut self, topic: &Topic, Answered { body, position }: Answered) -> bool {
        let before = topic.shown.borrow().position.clone();
        let same_generation = before.as_ref().is_none_or(|before| before.generation == position.generation);
        let older = before.is_some_and(|before| same_generation && position.sequence < before.sequence);
        if older && self.older_since.get_or_insert_with(Instant::now).elapsed() < OLDER_MAX {
            return false;
        }
        self.older_since = None;
        let state = frames::state(&topic.address, body.as_deref());
        topic.shown.send_modify(|shown| {
            let is_void = older || !same_generation;
            let is_new = is_void || shown.trouble.is_some() || shown.state.as_ref() != Some(&state);
            shown.epoch += u64::from(is_void);
            shown.revision += u64::from(is_new);
            shown.position = Some(position);
            if is_new {
                (shown.state, shown.trouble) = (Some(state), None);
            }
        });
        true
    }
}

fn answered(address: &Address, answer: Result<ViewAnswer, AskError>) -> Result<Answered, Problem> {
    let unreadable =
        || Problem::unavailable("view-unavailable", format!("{address}: an answer without a position"));
    let (body, position) = match answer {
        Ok(ViewAnswer { body, .. }) if body.len() > STATE_BYTES_MAX => {
            let detail = format!(
                "{address} has {} bytes, and on a stream of live rows nothing may have more than {STATE_BYTES_MAX}; ask for it alone",
                body.len()
            );
            return Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "row-too-large", detail));
        }
        Ok(ViewAnswer { body, position }) => (Some(body), position),
        Err(AskError::Refused { code, headers, .. }) if code == NO_ROW => {
            (None, headers.get(header::POSITION).map(str::to_owned))
        }
        Err(error) => return Err(error.into()),
    };
    let position = position.and_then(|position| position.parse().ok()).ok_or_else(unreadable)?;
    Ok(Answered { body, position })
}

fn show_trouble(topic: &Topic, problem: Problem) {
    let mut data = problem.into_json();
    if let Value::Object(members) = &mut data {
        members.insert("watch".to_owned(), topic.address.to_string().into());
    }
    let trouble = frames::event("problem", &data);
    topic.shown.send_if_modified(|shown| {
        // The sentence may contain how far a view has come, and a change of that is no news.
        let is_new = shown.trouble.is_none();
        if is_new {
            shown.revision += 1;
            shown.trouble = Some(trouble);
        }
        is_new
    });
}

impl Shared {
    async fn ask(&self, address: &Address) -> Result<ViewAnswer, AskError> {
        // The semaphore is never closed, so there always is a permit.
        let _permit = self.asks.acquire().await.ok();
        self.metrics.questions.inc();
        let (subject, body) = address.question();
        ask_once(&self.broker, &subject, body, None).await
    }
}

/// Whether a state at `position` contains everything up to `wanted`.
fn is_reached(position: Option<&StreamPosition>, wanted: &StreamPosition) -> bool {
    position.is_some_and(|position| {
        position.stream == wanted.stream
            && position.generation == wanted.generation
            && position.sequence >= wanted.sequence
    })
}
