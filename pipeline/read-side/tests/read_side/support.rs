//! Two small projections, a log that can be written to, and a runner in a folder that survives it.

use std::{path::Path, time::Duration};

use async_nats::ConnectOptions;
use millstream_contract::{
    commit::{Commit, CommittedCommand, EventEnvelope, RecordedEvent},
    outcome::{CommandOutcome, Generations, Outcome, OutcomeRecord, RecordKind},
    stored_message::Headers,
    stream_names::{EVENTS, OUTCOMES},
};
use millstream_domain::{
    decider::EventError,
    projection::{OutcomeProjection, Projection, ProjectionError, Rows},
    testing::project::command_at,
};
use millstream_jetstream::{
    broker::{Broker, NewMessage},
    line::Dialer,
    nats_broker::NatsBroker,
    testing::restricted_server::RestrictedServer,
};
use millstream_read_side::projection_runner::{
    ChangedRows, ProjectionRunner, ProjectionSet, ProjectionStatus, RowRemover, RunnerConfig, RunnerError,
    ViewDirectory,
};
use millstream_store::read_store::{ReadStore, TableName};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longest wait for something that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Counts the events of each `thing`: rows `{"count":n}`. Knows `grown`; panics at `panicked`.
pub(crate) struct Counts {
    pub(crate) version: u32,
    pub(crate) knows_shrunk: bool,
}

impl Projection for Counts {
    fn context(&self) -> &'static str {
        "test"
    }

    fn name(&self) -> &'static str {
        "counts"
    }

    fn version(&self) -> u32 {
        self.version
    }

    fn views(&self) -> &'static [&'static str] {
        &["counts", "counts.total"]
    }

    fn tables(&self) -> &'static [&'static str] {
        &["counts", "counts.total", "outbox"]
    }

    fn handles(&self, aggregate: &str) -> bool {
        aggregate == "thing"
    }

    fn apply(&self, envelope: &EventEnvelope<'_>, rows: &mut (dyn Rows + '_)) -> Result<(), ProjectionError> {
        // The total first, so that an event that fails has changed a row already.
        add_one(rows, "counts.total", "all")?;
        match envelope.event_type {
            "grown" => add_one(rows, "counts", envelope.stream_id.id()),
            "shrunk" if self.knows_shrunk => add_one(rows, "counts", envelope.stream_id.id()),
            "panicked" => panic!("as the test demands"),
            other => Err(EventError::UnknownType {
                aggregate: "thing",
                event_type: other.to_owned(),
                schema: envelope.schema,
            }
            .into()),
        }
    }
}

fn add_one(rows: &mut (dyn Rows + '_), table: &str, key: &str) -> Result<(), ProjectionError> {
    let count = rows.read::<serde_json::Value>(table, key)?.map_or(0, |row| row["count"].as_u64().unwrap());
    rows.write(table, key, &serde_json::json!({ "count": count + 1 }));
    Ok(())
}

/// Notes the last sequence of every aggregate of the context, whatever happened.
pub(crate) struct Latest;

impl Projection for Latest {
    fn context(&self) -> &'static str {
        "test"
    }

    fn name(&self) -> &'static str {
        "latest"
    }

    fn views(&self) -> &'static [&'static str] {
        &["latest"]
    }

    fn handles(&self, _aggregate: &str) -> bool {
        true
    }

    fn apply(&self, envelope: &EventEnvelope<'_>, rows: &mut (dyn Rows + '_)) -> Result<(), ProjectionError> {
        rows.write("latest", envelope.stream_id.id(), &envelope.broker_sequence);
        Ok(())
    }
}

/// The kind of outcome of each command that has an id.
pub(crate) struct Kinds;

impl OutcomeProjection for Kinds {
    fn name(&self) -> &'static str {
        "kinds"
    }

    fn apply(&self, outcome: &CommandOutcome, rows: &mut (dyn Rows + '_)) -> Result<(), ProjectionError> {
        if let Some(id) = &outcome.id {
            rows.write("kinds", id, &outcome.outcome.kind());
        }
        Ok(())
    }
}

/// All three.
pub(crate) fn projections() -> ProjectionSet {
    projections_with(Counts { version: 1, knows_shrunk: false })
}

pub(crate) fn projections_with(counts: Counts) -> ProjectionSet {
    ProjectionSet::new(vec![Box::new(counts), Box::new(Latest)], vec![Box::new(Kinds)], &["test"]).unwrap()
}

/// A commit of one event.
pub(crate) fn commit(subject_id: &str, event_type: &str, commit_id: &str) -> NewMessage {
    let command = CommittedCommand { id: format!("command-of-{commit_id}").into(), ..command_at(1) };
    let event =
        RecordedEvent { event_type: event_type.to_owned().into(), schema: 1, data: vec![0x80], command: 0 };
    let commit = Commit {
        commit_id: commit_id.into(),
        first_version: 1,
        recorded_at: 0,
        commands: vec![command],
        events: vec![event],
        previous: None,
    };
    message(&format!("evt.test.{subject_id}"), commit.encode())
}

pub(crate) fn message(subject: &str, payload: Vec<u8>) -> NewMessage {
    NewMessage {
        subject: subject.to_owned(),
        expected_last: None,
        headers: Headers::new(),
        payload: payload.into(),
    }
}

/// Appends `count` events `grown` to `thing.<id>`; returns the sequence of the last.
pub(crate) async fn grow(broker: &impl Broker, id: &str, count: usize) -> u64 {
    let mut last = 0;
    for number in 0..count {
        let message = commit(&format!("thing.{id}"), "grown", &format!("{id}-{number}"));
        last = broker.append(EVENTS, message).await.unwrap().sequence;
    }
    last
}

/// Appends a record in which the commands of these ids were rejected.
pub(crate) async fn reject(broker: &NatsBroker, context: &str, ids: &[&str]) -> u64 {
    let outcomes = (1..).zip(ids).map(|(position, id)| CommandOutcome {
        position,
        id: Some((*id).into()),
        address: format!("{context}.thing.1.grow").into(),
        outcome: Outcome::Rejected { code: "no".into(), message: "no".into() },
        content: None,
    });
    let record = OutcomeRecord {
        record_id: format!("record-{}", ids.join("-")).into(),
        kind: RecordKind::Outcomes,
        handler: "test".into(),
        after: 0,
        through: ids.len() as u64,
        events_through: 0,
        outcomes: outcomes.collect(),
        generations: Generations::default(),
    };
    broker.append(OUTCOMES, message("out.0", record.encode())).await.unwrap().sequence
}

/// JetStream as a stage's own user, with the inbox that stages have.
pub(crate) async fn as_stage(server: &RestrictedServer, stage: &str) -> NatsBroker {
    let options = || {
        ConnectOptions::with_user_and_password(stage.to_owned(), RestrictedServer::PASSWORD.to_owned())
            .custom_inbox_prefix(format!("_INBOX_{stage}"))
    };
    let dialer = Dialer::with_options(&server.url(), options());
    NatsBroker::new(options().connect(server.url()).await.unwrap(), dialer, None)
}

/// A runner at work.
pub(crate) struct Running {
    pub(crate) store: ReadStore,
    pub(crate) views: ViewDirectory,
    pub(crate) remover: RowRemover,
    pub(crate) changed: ChangedRows,
    pub(crate) stop: CancellationToken,
    task: JoinHandle<Result<(), RunnerError>>,
}

impl Running {
    pub(crate) fn start(broker: &impl Broker, folder: &Path, set: ProjectionSet) -> Self {
        Self::start_with(broker, folder, set, |_| {})
    }

    pub(crate) fn start_with(
        broker: &impl Broker,
        folder: &Path,
        set: ProjectionSet,
        adjust: impl FnOnce(&mut RunnerConfig),
    ) -> Self {
        let store = ReadStore::open(&folder.join("rows.redb"), 4 * 1024 * 1024).unwrap();
        Self::start_on(broker, store, set, adjust)
    }

    pub(crate) fn start_on(
        broker: &impl Broker,
        store: ReadStore,
        set: ProjectionSet,
        adjust: impl FnOnce(&mut RunnerConfig),
    ) -> Self {
        let mut config = RunnerConfig::new("projector");
        config.stream_check_interval = Duration::from_millis(100);
        adjust(&mut config);
        let runner = ProjectionRunner::new(broker.clone(), store.clone(), set, config);
        let (views, remover, stop) = (runner.views(), runner.row_remover(), CancellationToken::new());
        let changed = runner.changed_rows();
        let task = tokio::spawn(runner.run(stop.clone()));
        Self { store, views, remover, changed, stop, task }
    }

    /// Waits until the projection behind `view` stands as wanted.
    pub(crate) async fn until(
        &self,
        view: &str,
        wanted: impl FnMut(&ProjectionStatus) -> bool,
    ) -> ProjectionStatus {
        let mut status = self.views.get("test", view).unwrap().status.clone();
        let status = tokio::time::timeout(PATIENCE, status.wait_for(wanted)).await;
        status.unwrap_or_else(|_| panic!("{view} does not get there: {:?}", self.views)).unwrap().clone()
    }

    pub(crate) async fn until_sequence(&self, view: &str, sequence: u64) {
        self.until(view, |status| status.sequence >= sequence).await;
    }

    pub(crate) fn row(&self, view: &str, key: &str) -> Option<serde_json::Value> {
        let table: &TableName = &self.views.get("test", view).unwrap().table;
        let value = self.store.snapshot().unwrap().get(table, key).unwrap()?;
        Some(serde_json::from_slice(&value).unwrap())
    }

    pub(crate) fn dump(&self) -> String {
        let mut text = Vec::new();
        self.store.snapshot().unwrap().dump(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    /// Asks it to end and waits for that; the file is free again afterwards.
    pub(crate) async fn finish(self) -> Result<(), RunnerError> {
        self.stop.cancel();
        self.ended().await
    }

    /// Drops the runner where it is, as `kill -9` does.
    pub(crate) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }

    pub(crate) async fn ended(self) -> Result<(), RunnerError> {
        let Self { task, store, views, remover, changed, stop } = self;
        drop((store, views, remover, changed, stop));
        tokio::time::timeout(PATIENCE, task).await.expect("the runner ends").expect("it does not panic")
    }
}
