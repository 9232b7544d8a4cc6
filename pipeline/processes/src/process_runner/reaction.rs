//! A process as a projection: one transaction writes its rows and fills the outbox with the effects that it asks for.

use std::sync::Arc;

use millstream_contract::commit::EventEnvelope;
use millstream_domain::{
    process::{Process, ProcessError, react},
    projection::{Projection, ProjectionError, Rows},
};

use super::{
    outbox::{OUTBOX, Row, key},
    progress::KnownProgress,
};

/// Takes the place of the context in names of projections.
const CONTEXT: &str = "process";

/// A process that is fed like a projection.
pub(super) struct Reaction {
    process: Box<dyn Process>,
    tables: Vec<&'static str>,
    progress: Arc<KnownProgress>,
}

impl Reaction {
    pub(super) fn new(process: Box<dyn Process>, progress: Arc<KnownProgress>) -> Self {
        let tables = process.tables().iter().copied().chain([OUTBOX]).collect();
        Self { process, tables, progress }
    }
}

impl Projection for Reaction {
    fn context(&self) -> &'static str {
        CONTEXT
    }

    fn name(&self) -> &'static str {
        self.process.name()
    }

    fn version(&self) -> u32 {
        self.process.version()
    }

    fn views(&self) -> &'static [&'static str] {
        &[]
    }

    fn tables(&self) -> &[&'static str] {
        &self.tables
    }

    fn handles(&self, _aggregate: &str) -> bool {
        false
    }

    fn reads(&self, context: &str, aggregate: &str) -> bool {
        self.process.handles(context, aggregate)
    }

    fn begins(&self, generation: &str) {
        self.progress.begins(generation);
    }

    fn apply(&self, envelope: &EventEnvelope<'_>, rows: &mut (dyn Rows + '_)) -> Result<(), ProjectionError> {
        let effects = react(self.process.as_ref(), envelope, rows).map_err(projection_error)?;
        if self.progress.covers(envelope.broker_sequence) {
            return Ok(());
        }
        for (index, effect) in (0..).zip(effects) {
            let key = key(envelope.broker_sequence, envelope.aggregate_version, index);
            rows.write(OUTBOX, &key, &Row::try_from(effect)?);
        }
        Ok(())
    }
}

fn projection_error(error: ProcessError) -> ProjectionError {
    match error {
        ProcessError::Event(error) => ProjectionError::Event(error),
        ProcessError::Rows(error) => error,
        error @ (ProcessError::Address(_) | ProcessError::TimerName { .. }) => {
            ProjectionError::Inconsistent(error.to_string())
        }
    }
}
