//! What the server is asked before something is believed, over its twin: about lost messages, and about messages that are no
//! commits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use millstream_contract::{
    commit::{Commit, EventEnvelope, RecordedEvent, content_digest},
    position::StreamPosition,
    set_aside::{EVENT_TYPE, MessageSetAside, act_subject},
    stream_names::EVENTS,
};
use millstream_domain::{
    projection::{Projection, ProjectionError, Rows},
    testing::project::command_at,
};
use millstream_jetstream::{
    broker::Broker,
    testing::{fault_plan::FaultPlan, memory_broker::MemoryBroker, operation::Operation},
};
use millstream_read_side::projection_runner::{FoldError, ProjectionSet};

use crate::{
    past::past_of,
    support::{Running, grow, message, projections},
};

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

    fn apply(
        &self,
        _envelope: &EventEnvelope<'_>,
        _rows: &mut (dyn Rows + '_),
    ) -> Result<(), ProjectionError> {
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
    // The writer's thread takes real time to end, which the patience of the next wait must not jump over.
    tokio::time::resume();
    running.stop.cancel();
    running.ended().await.unwrap();
}

/// Of which messages it was asked whether they were set aside.
fn asked_about(broker: &MemoryBroker, through: u64) -> Vec<u64> {
    let recorded = broker.recorded();
    let asked = |subject: &str| {
        let of = |(asked, _): &&(Operation, String)| matches!(asked, Operation::Last { subject: found, .. } if found == subject);
        recorded.iter().any(|operation| of(&operation))
    };
    (1..=through).filter(|sequence| asked(&act_subject(*sequence))).collect()
}

async fn put_garbage(broker: &MemoryBroker, subject: &str, count: u64) -> u64 {
    let mut last = 0;
    for _ in 0..count {
        last = broker.append(EVENTS, message(subject, b"garbage".to_vec())).await.unwrap().sequence;
    }
    last
}

/// The act that sets the garbage at `sequence` aside.
async fn set_aside(broker: &MemoryBroker, sequence: u64) -> u64 {
    let garbage = broker.get(EVENTS, sequence).await.unwrap().unwrap();
    let act = MessageSetAside {
        subject: garbage.subject.clone(),
        digest: content_digest(&garbage.payload),
        reason: "garbage".to_owned(),
    };
    let data = rmp_serde::to_vec_named(&act).unwrap();
    let commit = Commit {
        commit_id: format!("act-{sequence}").into(),
        first_version: 1,
        recorded_at: 0,
        commands: vec![command_at(1)],
        events: vec![RecordedEvent { event_type: EVENT_TYPE.into(), schema: 1, data, command: 0 }],
        previous: None,
    };
    broker.append(EVENTS, message(&act_subject(sequence), commit.encode())).await.unwrap().sequence
}

#[tokio::test]
async fn nobody_asks_about_messages_behind_the_one_at_which_all_halt() {
    let broker = MemoryBroker::new(1, FaultPlan::none());
    let folder = tempfile::tempdir().unwrap();
    let last = put_garbage(&broker, "evt.test.thing.a", 50).await;
    broker.start_recording();
    let running = Running::start(&broker, folder.path(), projections());
    for view in ["counts", "latest"] {
        running.until(view, |status| status.halted.is_some()).await;
    }
    running.finish().await.unwrap();
    assert_eq!(asked_about(&broker, last), [1]);

    let generation = broker.state(EVENTS).await.unwrap().generation;
    let past_folder = tempfile::tempdir().unwrap();
    broker.start_recording();
    let mut past = past_of(&broker, &past_folder, &generation, false);
    let ended = past.advance(&StreamPosition::new(EVENTS, &*generation, last), |_| {}).await;
    assert!(matches!(&ended, Err(FoldError::Halted { halt, .. }) if halt.sequence == 1), "{ended:?}");
    assert_eq!(asked_about(&broker, last), [1]);
}

#[tokio::test]
async fn projection_that_goes_on_passes_over_what_was_set_aside_behind_the_halt_of_another() {
    let broker = MemoryBroker::new(1, FaultPlan::none());
    let folder = tempfile::tempdir().unwrap();
    // The first is wanted by the one that takes all aggregates alone.
    let halts_latest = put_garbage(&broker, "evt.test.other.x", 1).await;
    let passed_over = put_garbage(&broker, "evt.test.thing.a", 1).await;
    grow(&broker, "a", 3).await;
    let last = set_aside(&broker, passed_over).await;
    let running = Running::start(&broker, folder.path(), projections());
    running
        .until("latest", |status| status.halted.as_ref().is_some_and(|halt| halt.sequence == halts_latest))
        .await;
    running.until("counts", |status| status.sequence == last && status.halted.is_none()).await;
    assert_eq!(running.row("counts", "a").unwrap()["count"], 3);
    // And the other one goes on when its message is set aside too.
    let last = set_aside(&broker, halts_latest).await;
    running.until("latest", |status| status.sequence == last && status.halted.is_none()).await;
    running.finish().await.unwrap();
}
