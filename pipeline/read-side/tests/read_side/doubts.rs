//! What the server is asked before something is believed, over its twin.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use millstream_contract::commit::Envelope;
use millstream_domain::projection::{Projection, ProjectionError, Rows};
use millstream_jetstream::testing::{fault_plan::FaultPlan, memory_broker::MemoryBroker};
use millstream_read_side::projection_runner::ProjectionSet;

use crate::support::{Running, grow};

/// Counts what it is given.
struct Given(Arc<AtomicU64>);

impl Projection for Given {
    fn context(&self) -> &'static str {
        "test"
    }

    fn name(&self) -> &'static str {
        "given"
    }

    fn views(&self) -> &'static [&'static str] {
        &["given"]
    }

    fn handles(&self, _aggregate: &str) -> bool {
        true
    }

    fn apply(&self, _envelope: &Envelope<'_>, _rows: &mut (dyn Rows + '_)) -> Result<(), ProjectionError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// How often the server must have told too low an end.
const STALE_MIN: u64 = 300;

#[tokio::test(start_paused = true)]
async fn leader_that_lags_behind_again_and_again_leads_to_no_rebuild() {
    let broker = MemoryBroker::new(7, FaultPlan { state_stale: 0.2, ..FaultPlan::none() });
    let (folder, given) = (tempfile::tempdir().unwrap(), Arc::new(AtomicU64::new(0)));
    let set = ProjectionSet::new(vec![Box::new(Given(Arc::clone(&given)))], Vec::new(), &["test"]).unwrap();
    let last = grow(&broker, "a", 5).await;
    let running = Running::start(&broker, folder.path(), set);
    while broker.faults().get("state stale").is_none_or(|stale| *stale < STALE_MIN) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let mut status = running.views.get("test", "given").unwrap().status.clone();
    status.wait_for(|status| status.sequence == last).await.unwrap();
    assert_eq!(given.load(Ordering::Relaxed), last, "each is applied once");
    running.stop.cancel();
    running.ended().await.unwrap();
}
