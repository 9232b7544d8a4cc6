//! Views as of a past moment, folded from EVENTS into a file that disappears with the process: the common part of `--as-of`, `explain` and
//! `report verify`.

use std::{sync::Arc, time::Duration};

use indicatif::ProgressBar;
use millstream_contract::{exit_code::ExitCode, position::StreamPosition};
use millstream_domain::{process_rejections::OUTCOME_VIEWS, projection::Projection};
use millstream_jetstream::{nats_broker::NatsBroker, position_at_moment::position_at};
use millstream_read_side::{
    projection_runner::{PastViews, ProjectionSet, view_name},
    query_service::LocalQueries,
};
use millstream_store::read_store::{CACHE_SIZE_DEFAULT, ReadStore};
use tokio::time::Instant;

pub(crate) use millstream_contract::moment::Moment;

use crate::{
    console::Console,
    failure::CommandFailure,
    query_client::ViewSource,
    session::{Connected, Session},
};

/// How often progress is printed if no bar can be drawn.
const SAY_INTERVAL: Duration = Duration::from_secs(5);

/// A view by its names, and what fills it.
pub(crate) struct FilledView {
    /// The projection.
    pub(crate) projection: Box<dyn Projection>,
    /// The view's table.
    pub(crate) table: &'static str,
}

impl FilledView {
    /// The views with this name, of one context or of all.
    pub(crate) fn find(session: &Session, context: Option<&str>, view: &str) -> Result<Self, CommandFailure> {
        if OUTCOME_VIEWS.contains(&view) {
            let text = format!("{view} follows OUTCOMES, which does not keep everything; it has no past");
            return Err(CommandFailure::usage(text));
        }
        let mut found = Vec::new();
        let mut known = Vec::new();
        let ledgers = session.reports()?.into_iter().map(|report| report.ledger);
        for projection in session.views()?.projections.into_iter().chain(ledgers) {
            if context.is_some_and(|context| context != projection.context()) {
                continue;
            }
            let names = projection.views().iter().copied();
            known.extend(names.clone().map(|table| format!("{}.{}", projection.context(), view_name(table))));
            if let Some(table) = names.clone().find(|table| view_name(table) == view) {
                found.push(Self { projection, table });
            }
        }
        let asked = context.map_or_else(|| view.to_owned(), |context| format!("{context}.{view}"));
        match (found.pop(), found.is_empty()) {
            (Some(one), true) => Ok(one),
            (Some(_), false) => Err(CommandFailure::usage(format_args!(
                "several contexts have a view {view}; name the context"
            ))),
            (None, _) => Err(CommandFailure::usage(format_args!(
                "there is no view {asked}; there are {}",
                known.join(", ")
            ))),
        }
    }
}

/// Projections at a moment of the past.
pub(crate) struct Past {
    views: PastViews<NatsBroker>,
    console: Console,
}

impl Past {
    /// `projections` before the first event.
    ///
    /// # Errors
    /// When no file can be made.
    pub(crate) fn begin(
        session: &Session,
        connected: &Connected,
        projections: Vec<Box<dyn Projection>>,
        generation: &str,
        purpose: &str,
    ) -> Result<Self, CommandFailure> {
        let set = ProjectionSet::new(projections, Vec::new(), &[])
            .map_err(|error| CommandFailure::new(ExitCode::Software, error))?;
        let folder = tempfile::Builder::new().prefix("millstream-past-").tempdir().map_err(|error| {
            CommandFailure::new(ExitCode::CannotCreate, format_args!("no temporary folder: {error}"))
        })?;
        let store = ReadStore::open(&folder.path().join("rows.redb"), CACHE_SIZE_DEFAULT)?;
        // The file exists as long as it is open, and is gone however this process ends.
        drop(folder);
        let views = PastViews::begin(&connected.broker, store, set, generation, purpose)?;
        Ok(Self { views, console: session.console.clone() })
    }

    /// `projections` as of `moment`, and the stream position. Prints its progress if it takes long.
    ///
    /// # Errors
    /// When the moment is no stream position in EVENTS, or the events cannot be folded.
    pub(crate) async fn fold(
        session: &Session,
        connected: &Connected,
        projections: Vec<Box<dyn Projection>>,
        moment: &Moment,
    ) -> Result<(Self, StreamPosition), CommandFailure> {
        let position = position_at(&connected.broker, moment).await?;
        let mut past = Self::begin(session, connected, projections, &position.generation, "past")?;
        past.advance(&position).await?;
        Ok((past, position))
    }

    /// Continues to fold up to `position`.
    ///
    /// # Errors
    /// When the events cannot be folded.
    pub(crate) async fn advance(&mut self, position: &StreamPosition) -> Result<(), CommandFailure> {
        let mut progress = Progress::begin(&self.console, position.sequence);
        let folded = self.views.advance(position, |sequence| progress.reached(sequence)).await;
        progress.bar.finish_and_clear();
        Ok(folded?)
    }

    /// The folded views, which can be queried like the service.
    pub(crate) fn source(&self) -> ViewSource {
        ViewSource::Past(Arc::new(self.queries()))
    }

    /// The same, for comparing answers.
    pub(crate) fn queries(&self) -> LocalQueries {
        LocalQueries::new(self.views.store().clone(), self.views.views().clone())
    }

    /// Removes its consumer.
    pub(crate) async fn close(self) {
        self.views.close().await;
    }
}

/// A bar on a terminal, and a line from time to time elsewhere.
struct Progress {
    console: Console,
    bar: ProgressBar,
    end: u64,
    said: Instant,
}

impl Progress {
    fn begin(console: &Console, end: u64) -> Self {
        Self { console: console.clone(), bar: console.bar("folding events", end), end, said: Instant::now() }
    }

    fn reached(&mut self, sequence: u64) {
        self.bar.set_position(sequence);
        if self.bar.is_hidden() && self.said.elapsed() >= SAY_INTERVAL {
            self.said = Instant::now();
            self.console.say(format_args!("folding events: at {sequence} of {}", self.end));
        }
    }
}
