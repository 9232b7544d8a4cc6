//! Reports to readiness whether projections make progress with the messages of their stream.

use std::{convert::Infallible, time::Duration};

use millstream_jetstream::broker::Broker;
use millstream_runtime::{
    health::{ProgressWatch, Readiness},
    stream_watch::watch_stream,
};
use tokio::sync::watch;

use crate::projection_runner::ProjectionStatus;

/// How often the progress of the projections is checked.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// The projections of one stream. At most two readers feed them, so all make progress if the first and the last one do.
#[derive(Debug)]
pub struct ProjectionProgress {
    stream: &'static str,
    statuses: Vec<watch::Receiver<ProjectionStatus>>,
    /// The foremost one.
    first: ProgressWatch,
    /// The one that is furthest behind.
    last: ProgressWatch,
}

impl ProjectionProgress {
    /// The projections of each stream that has any.
    pub fn of(
        statuses: &[watch::Receiver<ProjectionStatus>],
        streams: &[&'static str],
        readiness: &Readiness,
    ) -> Vec<Self> {
        let of_stream = |stream: &&'static str| {
            let own = statuses.iter().filter(|status| status.borrow().stream == *stream);
            let statuses: Vec<_> = own.cloned().collect();
            (!statuses.is_empty()).then(|| Self {
                stream,
                statuses,
                first: readiness.progress(&format!("folding {stream}")),
                last: readiness.progress(&format!("catching up with {stream}")),
            })
        };
        streams.iter().filter_map(of_stream).collect()
    }

    /// Repeatedly notes how far they have come and how much work there is. A halted projection has no work; readiness reports it separately.
    pub async fn watch<B: Broker>(&self, broker: &B) -> Infallible {
        let looks = async {
            let mut looks = tokio::time::interval(LOOK_INTERVAL);
            loop {
                looks.tick().await;
                self.note();
            }
        };
        let both = [&self.first, &self.last];
        tokio::select! {
            never = looks => never,
            never = watch_stream(broker, self.stream, ">", &both, None) => never,
        }
    }

    fn note(&self) {
        let reached = |status: &watch::Receiver<ProjectionStatus>| {
            let status = status.borrow();
            (status.halted.is_none() && !status.generation.is_empty()).then_some(status.sequence)
        };
        let reached: Vec<u64> = self.statuses.iter().filter_map(reached).collect();
        for (watch, sequence) in [(&self.first, reached.iter().max()), (&self.last, reached.iter().min())] {
            match sequence {
                Some(sequence) => watch.reached(*sequence),
                None => watch.rest(),
            }
        }
    }
}
