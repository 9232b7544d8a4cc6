//! One client with a stream of events. It gets the next event when it has taken the one before. Each event has the current state of a row, so a
//! client that reads slowly only costs the memory of one event, and sees fewer states.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::future::select_all;
use millstream_contract::position::StreamPosition;
use millstream_runtime::metrics::LiveMetrics;
use serde_json::json;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Seen, frames,
    hub::{Hub, Watched},
    topic::{Shown, Topic},
};
use crate::{
    concurrency_limit::Place,
    guard::why,
    key_ring::{Admission, Principal},
    listener::Taking,
    problem::Problem,
};

/// How long a stream may be silent. Proxies allow longer silences.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// A client, until it leaves or has to leave.
pub(super) struct Watcher {
    rows: Vec<Row>,
    /// The row that is checked first. It rotates, so that a row which changes all the time does not keep the others away.
    turn: usize,
    /// The positions of what was sent, by stream.
    sent: BTreeMap<String, StreamPosition>,
    /// What is sent before anything else.
    chunks: VecDeque<Bytes>,
    silent_since: Instant,
    admission: Admission,
    stop: CancellationToken,
    has_ended: bool,
    metrics: LiveMetrics,
    taking: Taking,
    _place: Place,
}

/// A row or list, and what the client has seen of it.
struct Row {
    topic: Arc<Topic>,
    shown: watch::Receiver<Shown>,
    sent_revision: u64,
    /// The epoch of what was sent last.
    epoch: Option<u64>,
    seen: Seen,
}

impl Watcher {
    pub(super) fn new(
        hub: &Hub,
        watched: Vec<(Watched, Seen)>,
        admission: Admission,
        taking: Taking,
        place: Place,
    ) -> Self {
        let rows = watched.into_iter().map(|(Watched { topic, shown }, seen)| {
            if let Seen::UpTo(position) = &seen {
                topic.must_reach(position);
            }
            Row { topic, shown, sent_revision: 0, epoch: None, seen }
        });
        hub.0.metrics.streams.inc();
        Self {
            rows: rows.collect(),
            turn: 0,
            sent: BTreeMap::new(),
            chunks: VecDeque::from([Bytes::from_static(frames::BEGINNING)]),
            silent_since: Instant::now(),
            admission,
            stop: hub.0.stop.clone(),
            has_ended: false,
            metrics: hub.0.metrics.clone(),
            taking,
            _place: place,
        }
    }

    /// The next bytes; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        self.taking.waits();
        let chunk = self.chunk().await?;
        self.taking.was_given();
        self.silent_since = Instant::now();
        Some(chunk)
    }

    async fn chunk(&mut self) -> Option<Bytes> {
        loop {
            if let Some(chunk) = self.chunks.pop_front() {
                return Some(chunk);
            }
            if self.has_ended {
                return None;
            }
            if self.take_state() {
                continue;
            }
            match self.woken().await {
                Wake::Changed => {}
                Wake::Silent => self.chunks.push_back(Bytes::from_static(frames::KEEP_ALIVE)),
                Wake::End(problem) => {
                    self.chunks.push_back(frames::event("end", &problem.into_json()));
                    self.has_ended = true;
                }
            }
        }
    }

    /// Waits until there may be something to send.
    async fn woken(&mut self) -> Wake {
        let Self { rows, admission, stop, silent_since, .. } = self;
        let topics: Vec<Arc<Topic>> = rows.iter().map(|row| Arc::clone(&row.topic)).collect();
        let is_granted =
            |principal: &Principal| topics.iter().all(|topic| topic.address.is_granted_to(principal));
        let changed = async {
            let _changed = select_all(rows.iter_mut().map(|row| Box::pin(row.shown.changed()))).await;
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {
                Wake::End(Problem::unavailable("stopping", "this gateway is stopping; come again"))
            }
            ended = admission.ended(is_granted) => Wake::End(why(ended)),
            () = changed => Wake::Changed,
            () = tokio::time::sleep_until(*silent_since + SILENCE_MAX) => Wake::Silent,
        }
    }

    /// Takes the next state that the client has not had. Returns whether there is one.
    fn take_state(&mut self) -> bool {
        for offset in 0..self.rows.len() {
            let index = (self.turn + offset) % self.rows.len();
            let Some(row) = self.rows.get_mut(index) else { continue };
            let Some(Taken { reset, event, position }) = row.take() else { continue };
            self.turn = index + 1;
            if reset {
                let data = json!({
                    "watch": row.topic.address.to_string(),
                    "detail": "the stream was made again or has lost its end: discard what you have of this row",
                });
                self.chunks.push_back(frames::event("reset", &data));
            }
            if let Some(position) = position {
                self.note_sent(position);
                let ids: Vec<String> = self.sent.values().map(ToString::to_string).collect();
                self.chunks.push_back(format!("id: {}\n", ids.join(",")).into());
            }
            self.chunks.push_back(event);
            self.metrics.events.inc();
            return true;
        }
        false
    }

    /// The furthest position of each stream, so that an id never goes back.
    fn note_sent(&mut self, position: StreamPosition) {
        let further = self
            .sent
            .get(&position.stream)
            .is_none_or(|sent| sent.generation != position.generation || sent.sequence < position.sequence);
        if further {
            self.sent.insert(position.stream.clone(), position);
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.taking.was_given();
        self.metrics.streams.dec();
    }
}

/// Why a waiting client continues.
enum Wake {
    /// A row may have changed.
    Changed,
    /// There was nothing to send for a while.
    Silent,
    /// It is over.
    End(Problem),
}

/// What a client gets.
struct Taken {
    reset: bool,
    event: Bytes,
    /// The position of a state.
    position: Option<StreamPosition>,
}

impl Row {
    fn take(&mut self) -> Option<Taken> {
        let shown = self.shown.borrow_and_update();
        if shown.revision == self.sent_revision {
            return None;
        }
        if let Some(trouble) = &shown.trouble {
            self.sent_revision = shown.revision;
            return Some(Taken { reset: false, event: trouble.clone(), position: None });
        }
        let (state, position) = shown.state.clone().zip(shown.position.clone())?;
        let reset = match &self.seen {
            // A view that is queried for more will show it.
            Seen::UpTo(seen)
                if seen.generation == position.generation && position.sequence < seen.sequence =>
            {
                return None;
            }
            Seen::UpTo(seen) => seen.generation != position.generation,
            Seen::Else => true,
            Seen::Nothing => self.epoch.is_some_and(|epoch| epoch != shown.epoch),
        };
        self.seen = Seen::Nothing;
        (self.sent_revision, self.epoch) = (shown.revision, Some(shown.epoch));
        Some(Taken { reset, event: state, position: Some(position) })
    }
}
