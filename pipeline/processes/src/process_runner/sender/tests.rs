//! Tests of how far the effects of a process have come, over the twin of the server.

use millstream_contract::{leases::leases_stream, stored_message::Headers};
use millstream_jetstream::{
    broker::NewMessage,
    testing::{
        fault_plan::FaultPlan,
        memory_broker::{MemoryBroker, MemoryStreamConfig},
    },
};

use millstream_contract::error_text::one_line;
use millstream_store::read_store::{Changes, Checkpoint, Durability, ProjectionRows};

use super::*;

/// How many events there are.
const END: u64 = 7;
/// How often it is asked; the server has told too low an end some dozens of times then.
const QUESTIONS: usize = 200;

fn seat(begin: Begin) -> Seat {
    let status = ProjectionStatus {
        stream: EVENTS,
        generation: "".into(),
        sequence: 0,
        complete_from: 0,
        stream_end: 0,
        halted: None,
    };
    let (_, status) = watch::channel(status);
    let projection = ProjectionId::of_context("test", "echo");
    let (metrics, readiness) = (Metrics::new(), Readiness::new());
    Seat::new("echo", projection, status, Arc::default(), begin, &metrics, &readiness)
}

/// The stage ended with it at every start, and nothing said what would help.
#[test]
fn row_that_is_no_effect_is_damage_and_the_words_lead_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.redb");
    let store = ReadStore::open(&path, 1 << 20).unwrap();
    let seat = seat(Begin::Start);
    let snapshot = store.snapshot().unwrap();
    let mut rows = ProjectionRows::new(&snapshot, &seat.projection, [OUTBOX]);
    millstream_domain::projection::Rows::put(&mut rows, OUTBOX, "1", b"{}".to_vec());
    let checkpoint = Some(Checkpoint::start("generation", 1, 0));
    let changes = Changes { projection: seat.projection.clone(), rows, checkpoint };
    store.commit(vec![changes], Durability::Durable).unwrap();
    let error = take(&store, &seat).err().unwrap();
    assert!(error.is_damage() && store.damage().is_some(), "{error}");
    let words = one_line(&ProcessRunnerError::from(error));
    assert!(
        words.contains("rows.redb is damaged") && words.contains("damaged_file = \"rebuild\""),
        "{words}"
    );
    drop((snapshot, store));
    assert!(ReadStore::open(&path, 1 << 20).unwrap_err().is_damage());
}

#[tokio::test(start_paused = true)]
async fn leader_that_was_just_elected_takes_no_progress_and_no_beginning_away() {
    let broker = MemoryBroker::new(3, FaultPlan { state_stale: 0.3, ..FaultPlan::none() });
    broker.make_stream(MemoryStreamConfig::new(&leases_stream(), &["$KV.LEASES.>"]));
    for _ in 0..END {
        let message = NewMessage {
            subject: "evt.test.valley.a".to_owned(),
            expected_last: None,
            headers: Headers::new(),
            payload: "{}".into(),
        };
        broker.append(EVENTS, message).await.unwrap();
    }
    let ids = IdSource::new("01JD");
    let seat = seat(Begin::After(END));
    for _ in 0..QUESTIONS {
        // The first time it begins, then it goes on.
        for _ in 0..2 {
            let (state, found) = standing(&broker, &ids, &seat).await.unwrap();
            assert_eq!((state.last_sequence, found.map(|found| found.sequence)), (END, Some(END)));
        }
        broker.purge_subject(&leases_stream(), ">", None).await.unwrap();
    }
    assert!(broker.faults()["state stale"] > 20, "{:?}", broker.faults());
}
