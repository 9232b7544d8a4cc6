//! How far each projection has come, for queries that wait, for readiness, and for statistics.

use std::{collections::BTreeMap, sync::Arc};

use millstream_contract::{
    position::StreamPosition,
    stream_names::{EVENTS, OUTCOMES},
};
use millstream_runtime::metrics::{Metrics, ProjectionMetrics};
use millstream_store::read_store::{Checkpoint, ProjectionId, TableName};
use tokio::sync::watch;

use super::{
    pace::Hurry,
    projection_set::{Input, ProjectionSet},
};

/// Why a projection has halted. It tries again when the process restarts, when the message is not a commit and has been set aside, and when the
/// message has been removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Halt {
    /// The sequence of the message that it could not apply.
    pub sequence: u64,
    /// Whether that message is not a commit.
    pub no_commit: bool,
    /// The cause chain.
    pub reason: Arc<str>,
}

/// How far a projection has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectionStatus {
    /// The stream that feeds it.
    pub stream: &'static str,
    /// The stream's generation; empty until the checkpoint has been checked.
    pub generation: Arc<str>,
    /// The last applied sequence.
    pub sequence: u64,
    /// The sequence from which its rows are complete. Before it, the projection is being built.
    pub complete_from: u64,
    /// The last sequence of the stream when the source last asked for it.
    pub stream_end: u64,
    /// Why it has halted, if it has.
    pub halted: Option<Halt>,
}

impl ProjectionStatus {
    fn new(stream: &'static str) -> Self {
        Self { stream, generation: "".into(), sequence: 0, complete_from: 0, stream_end: 0, halted: None }
    }

    /// Its position in the stream.
    pub fn position(&self) -> StreamPosition {
        StreamPosition::new(self.stream, &*self.generation, self.sequence)
    }

    /// Whether the rows contain everything that was in the stream when building them began.
    pub fn is_complete(&self) -> bool {
        !self.generation.is_empty() && self.sequence >= self.complete_from
    }

    /// A sentence about where and why it has halted, if it has.
    pub fn halt_of(&self, projection: &ProjectionId) -> Option<String> {
        let halt = self.halted.as_ref()?;
        Some(format!("{projection} halted at {} {}: {}", self.stream, halt.sequence, halt.reason))
    }

    /// How many messages of the stream it has not applied yet.
    pub fn lag(&self) -> u64 {
        self.stream_end.saturating_sub(self.sequence)
    }
}

/// Waits until the status of any projection has changed. Never returns if there are no projections or if their runner has ended: then nothing
/// will change any more, and whoever waits for the runner reports why.
pub async fn any_changed(statuses: impl IntoIterator<Item = &mut watch::Receiver<ProjectionStatus>>) {
    let changes: Vec<_> = statuses.into_iter().map(|status| Box::pin(status.changed())).collect();
    if changes.is_empty() || futures::future::select_all(changes).await.0.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The statuses of all projections of a set, by index. Clones share them.
#[derive(Clone)]
pub(super) struct StatusBoard {
    posted: Arc<[Posted]>,
    hurry: Hurry,
}

/// A status and its metrics.
struct Posted {
    status: watch::Sender<ProjectionStatus>,
    metrics: ProjectionMetrics,
}

impl StatusBoard {
    pub(super) fn new(set: &ProjectionSet, metrics: &Metrics) -> Self {
        let posted = set.members.iter().map(|member| {
            let stream = match member.input {
                Input::Events(_) => EVENTS,
                Input::Outcomes(_) => OUTCOMES,
            };
            let status = watch::Sender::new(ProjectionStatus::new(stream));
            Posted { status, metrics: metrics.projection(member.id.as_str()) }
        });
        Self { posted: posted.collect(), hurry: Hurry::default() }
    }

    /// Says that somebody waits for a position.
    pub(super) fn hurry(&self) -> Hurry {
        self.hurry.clone()
    }

    fn posted(&self, member: usize) -> &Posted {
        self.posted.get(member).expect("the board has a status for each member of the set")
    }

    fn sender(&self, member: usize) -> &watch::Sender<ProjectionStatus> {
        &self.posted(member).status
    }

    /// Updates the metric of how far a projection is behind.
    fn count(&self, member: usize) {
        let Posted { status, metrics } = self.posted(member);
        metrics.lag_events.set(i64::try_from(status.borrow().lag()).unwrap_or(i64::MAX));
    }

    /// Announces that `checkpoint` has been committed. It must not be called earlier, or queries would see rows that a crash undoes.
    pub(super) fn reached(&self, member: usize, checkpoint: &Checkpoint) {
        self.sender(member).send_modify(|status| {
            if *status.generation != *checkpoint.generation {
                status.generation = checkpoint.generation.as_str().into();
            }
            status.sequence = checkpoint.sequence;
            status.complete_from = checkpoint.complete_from;
            status.stream_end = status.stream_end.max(checkpoint.sequence);
        });
        self.count(member);
    }

    pub(super) fn halted(&self, member: usize, halt: Option<Halt>) {
        self.posted(member).metrics.halted.set(i64::from(halt.is_some()));
        self.sender(member).send_modify(|status| status.halted = halt);
    }

    /// The last sequence that a projection has applied.
    pub(super) fn sequence(&self, member: usize) -> u64 {
        self.sender(member).borrow().sequence
    }

    /// The position of a projection whose rows are complete.
    pub(super) fn whole_position(&self, member: usize) -> Option<StreamPosition> {
        let status = self.sender(member).borrow();
        status.is_complete().then(|| status.position())
    }

    pub(super) fn is_halted(&self, member: usize) -> bool {
        self.sender(member).borrow().halted.is_some()
    }

    pub(super) fn stream_end(&self, member: usize, sequence: u64) {
        self.sender(member).send_if_modified(|status| {
            let changed = status.stream_end != sequence;
            status.stream_end = sequence;
            changed
        });
        self.count(member);
    }

    pub(super) fn subscribe(&self, member: usize) -> watch::Receiver<ProjectionStatus> {
        self.sender(member).subscribe()
    }
}

/// A view: rows that can be queried as `query.<context>.<view>`.
#[derive(Debug, Clone)]
pub struct View {
    /// The context.
    pub context: String,
    /// Its name.
    pub name: String,
    /// The table that has its rows.
    pub table: TableName,
    /// The projection that fills it.
    pub projection: ProjectionId,
    /// How far that projection has come.
    pub status: watch::Receiver<ProjectionStatus>,
    /// To be told while somebody waits for that.
    pub hurry: Hurry,
}

/// All views of a process, by context and name.
#[derive(Debug, Clone)]
pub struct ViewDirectory {
    views: BTreeMap<(String, String), View>,
}

impl ViewDirectory {
    pub(super) fn new(set: &ProjectionSet, statuses: &StatusBoard) -> Self {
        let views = set.views.iter().filter_map(|each| {
            let view = View {
                context: each.context.clone(),
                name: each.view.clone(),
                table: each.table.clone(),
                projection: set.members.get(each.member)?.id.clone(),
                status: statuses.subscribe(each.member),
                hurry: statuses.hurry(),
            };
            Some(((each.context.clone(), each.view.clone()), view))
        });
        Self { views: views.collect() }
    }

    /// The view with these names, if there is one.
    pub fn get(&self, context: &str, view: &str) -> Option<&View> {
        self.views.get(&(context.to_owned(), view.to_owned()))
    }

    /// All views.
    pub fn iter(&self) -> impl Iterator<Item = &View> {
        self.views.values()
    }

    /// The reasons why views are not complete and current, one line for each projection; empty when all is well.
    pub fn troubles(&self) -> Vec<String> {
        let mut by_projection = BTreeMap::new();
        for view in self.iter() {
            by_projection.entry(&view.projection).or_insert_with(|| view.status.borrow().clone());
        }
        by_projection.into_iter().filter_map(|(projection, status)| trouble(projection, &status)).collect()
    }
}

/// The reason why a projection's rows are not complete and current, if there is one.
fn trouble(projection: &ProjectionId, status: &ProjectionStatus) -> Option<String> {
    if status.halted.is_some() {
        return status.halt_of(projection);
    }
    let ProjectionStatus { sequence, complete_from, .. } = status;
    match status.generation.is_empty() {
        true => Some(format!("{projection} has not started")),
        false if !status.is_complete() => {
            Some(format!("{projection} is being built: at {sequence} of {complete_from}"))
        }
        false => None,
    }
}
