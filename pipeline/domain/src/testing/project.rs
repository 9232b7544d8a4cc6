//! Tests of projections and reports: a history of commits made by hand, and the rows that result from it.
//!
//! [`History`] numbers sequences, versions and command positions as a handler would. [`rows_of`] folds it;
//! [`assert_resumable`] folds it again from every checkpoint and demands the same rows.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use millstream_contract::{
    commit::{Commit, CommittedCommand, RecordedEvent, StoredCommit, timestamp_to_nanoseconds},
    stored_message::{Headers, StoredMessage},
    subject::StreamId,
};

use super::memory_rows::MemoryRows;
use crate::{
    decider::EventSet,
    projection::{Projection, Rows},
};

/// Commits in the order of EVENTS.
#[derive(Debug, Clone)]
pub struct History {
    context: &'static str,
    now: Timestamp,
    versions: BTreeMap<StreamId, u64>,
    commits: Vec<StoredCommit>,
}

impl History {
    /// An empty history of a context that starts at noon UTC on 2012-01-31. Each commit is one second later than the one before.
    pub fn new(context: &'static str) -> Self {
        Self {
            context,
            now: "2012-01-31T12:00:00Z".parse().expect("it is a time"),
            versions: BTreeMap::new(),
            commits: Vec::new(),
        }
    }

    /// Sets the time of the next commit.
    ///
    /// # Panics
    /// When `time` is not RFC 3339.
    pub fn at(&mut self, time: &str) -> &mut Self {
        self.now = time.parse().expect("the test gives a time in RFC 3339");
        self
    }

    /// Sets the time of the next commit.
    pub(super) fn set_now(&mut self, now: Timestamp) -> &mut Self {
        self.now = now;
        self
    }

    /// Adds a commit of one command that caused `events`.
    ///
    /// # Panics
    /// When the names are not allowed.
    pub fn add<E: EventSet>(
        &mut self,
        aggregate: &str,
        id: &str,
        events: impl IntoIterator<Item = E>,
    ) -> &mut Self {
        let stream_id = StreamId::new(self.context, aggregate, id).expect("the test gives allowed names");
        self.push(&stream_id, events.into_iter().map(|event| recorded(&event)).collect())
    }

    /// Adds a commit of encoded events.
    pub(super) fn push(&mut self, stream_id: &StreamId, events: Vec<RecordedEvent>) -> &mut Self {
        let command = command_at(self.commits.len() as u64 + 1);
        self.push_caused(stream_id, command, events)
    }

    /// Adds a commit of the encoded events that `command` caused.
    pub(super) fn push_caused(
        &mut self,
        stream_id: &StreamId,
        command: CommittedCommand,
        events: Vec<RecordedEvent>,
    ) -> &mut Self {
        let broker_sequence = self.commits.len() as u64 + 1;
        let version = self.versions.entry(stream_id.clone()).or_default();
        let commit = Commit {
            commit_id: format!("commit-{broker_sequence}").into(),
            first_version: *version + 1,
            recorded_at: timestamp_to_nanoseconds(self.now),
            commands: vec![command],
            events,
            previous: None,
        };
        *version = commit.last_version();
        let message = StoredMessage {
            subject: stream_id.event_subject(),
            sequence: broker_sequence,
            stored_at: self.now,
            headers: Headers::new(),
            payload: commit.encode().into(),
        };
        self.commits.push(StoredCommit::from_stored(&message).expect("an encoded commit decodes"));
        self.now += SignedDuration::from_secs(1);
        self
    }

    /// The commits.
    pub fn commits(&self) -> &[StoredCommit] {
        &self.commits
    }
}

/// A command as commits name it, without an actor and a cause.
pub fn command_at(position: u64) -> CommittedCommand {
    CommittedCommand {
        id: format!("command-{position}").into(),
        position,
        actor: None,
        correlation_id: None,
        causation_id: None,
        traceparent: None,
        partner_of: None,
    }
}

fn recorded<E: EventSet>(event: &E) -> RecordedEvent {
    let (event_type, schema) = event.event_type();
    RecordedEvent { event_type: event_type.into(), schema, data: event.encode(), command: 0 }
}

/// Applies `commits` to `rows`, as a stage would: only the commits of the projection's context and aggregates.
///
/// # Panics
/// When the projection halts.
pub fn apply(projection: &dyn Projection, commits: &[StoredCommit], rows: &mut (dyn Rows + '_)) {
    let wanted = |commit: &&StoredCommit| {
        commit.stream_id.context() == projection.context() && projection.handles(commit.stream_id.aggregate())
    };
    for envelope in commits.iter().filter(wanted).flat_map(StoredCommit::envelopes) {
        projection
            .apply(&envelope, rows)
            .unwrap_or_else(|error| panic!("{} halts at {envelope:?}: {error}", projection.name()));
    }
}

/// The rows after a whole history.
///
/// # Panics
/// When the projection halts.
pub fn rows_of(projection: &dyn Projection, history: &History) -> MemoryRows {
    let mut rows = MemoryRows::new();
    apply(projection, history.commits(), &mut rows);
    rows
}

/// Folds the history again as after a crash at every possible place: what follows the checkpoint is applied, discarded together with its
/// rows, and applied again by the same projection. Demands the same rows each time, which reveals a projection that remembers anything
/// outside its rows. It also demands that the projection declares every table it writes.
///
/// # Panics
/// When the rows differ.
pub fn assert_resumable(projection: &dyn Projection, history: &History) -> MemoryRows {
    let whole = rows_of(projection, history);
    for checkpoint in 0..history.commits().len() {
        let (before, after) = history.commits().split_at(checkpoint);
        let mut rows = MemoryRows::new();
        apply(projection, before, &mut rows);
        let mut rolled_back = rows.clone();
        apply(projection, after, &mut rows);
        assert_eq!(rows.dump(), whole.dump(), "{} from zero, cut at {checkpoint}", projection.name());
        apply(projection, after, &mut rolled_back);
        assert_eq!(rolled_back.dump(), whole.dump(), "{} cut at {checkpoint}", projection.name());
    }
    for table in whole.tables() {
        assert!(projection.tables().contains(&table), "{} does not declare {table}", projection.name());
    }
    whole
}
