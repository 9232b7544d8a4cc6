//! What the twin adds to JetStream: chance, faults, and their reproducibility. That it otherwise behaves as JetStream
//! does, `tests/broker_twin.rs` shows.

use millstream_contract::{
    stream_names::{COMMANDS, EVENTS},
    testing::dice::Dice,
};

use super::*;
use crate::{broker::StreamReader, testing::operation::load_all};

fn message(subject: &str, expected_last: Option<u64>) -> NewMessage {
    NewMessage {
        subject: subject.to_owned(),
        expected_last,
        headers: Headers::new(),
        payload: Bytes::from_static(b"body"),
    }
}

/// Runs `body` in virtual time.
fn simulate<T>(body: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(body)
}

/// Two writers and a reader under every fault; returns the trace and what is stored.
fn disturbed_run(seed: u64) -> (u64, Vec<StoredMessage>) {
    simulate(async move {
        let broker = MemoryBroker::new(seed, FaultPlan::any(&mut Dice::new(seed)));
        let mut writers = Vec::new();
        for _ in 0..2 {
            let broker = broker.connect();
            writers.push(tokio::spawn(async move {
                for _ in 0..20 {
                    let last = load_all(&broker, EVENTS, "evt.a.b.c", 1).await;
                    let last = last.ok().and_then(|messages| messages.last().map(|last| last.sequence));
                    let _ = broker.append(EVENTS, message("evt.a.b.c", Some(last.unwrap_or(0)))).await;
                    let _ = broker.append(COMMANDS, message("cmd.a.b.c.d", None)).await;
                }
            }));
        }
        for writer in writers {
            writer.await.unwrap();
        }
        (broker.trace_hash(), broker.dump(EVENTS))
    })
}

#[test]
fn same_seed_gives_the_same_trace() {
    for seed in 0..20 {
        assert_eq!(disturbed_run(seed), disturbed_run(seed), "seed {seed}");
    }
    assert_ne!(disturbed_run(1).0, disturbed_run(2).0);
}

#[test]
fn lost_append_is_unclear_and_never_stored() {
    simulate(async {
        let broker = MemoryBroker::new(1, FaultPlan { append_lost: 1.0, ..FaultPlan::none() });
        let answer = broker.append(EVENTS, message("evt.a.b.c", None)).await;
        assert!(matches!(answer, Err(AppendError::Unclear { .. })), "{answer:?}");
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert!(broker.dump(EVENTS).is_empty());
    });
}

#[test]
fn append_without_an_answer_is_unclear_and_stored() {
    simulate(async {
        let broker = MemoryBroker::new(1, FaultPlan { append_answer_lost: 1.0, ..FaultPlan::none() });
        let answer = broker.append(EVENTS, message("evt.a.b.c", None)).await;
        assert!(matches!(answer, Err(AppendError::Unclear { .. })), "{answer:?}");
        assert_eq!(broker.dump(EVENTS).len(), 1);
    });
}

#[test]
fn late_append_can_arrive_after_its_sender_was_told_nothing() {
    simulate(async {
        let plan = FaultPlan { append_late: 1.0, late_max: Duration::from_secs(60), ..FaultPlan::none() };
        let broker = MemoryBroker::new(3, plan);
        let answer = broker.append(EVENTS, message("evt.a.b.c", None)).await;
        assert!(matches!(answer, Err(AppendError::Unclear { .. })), "{answer:?}");
        assert!(broker.dump(EVENTS).is_empty());
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert_eq!(broker.dump(EVENTS).len(), 1);
    });
}

#[test]
fn append_of_a_dead_process_still_arrives_and_nothing_new_does() {
    simulate(async {
        let broker = MemoryBroker::new(1, FaultPlan::none());
        let process = broker.connect();
        let sending = tokio::spawn({
            let process = process.clone();
            async move { process.append(EVENTS, message("evt.a.b.c", None)).await }
        });
        tokio::task::yield_now().await;
        process.kill();
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(broker.dump(EVENTS).len(), 1);
        assert!(!sending.is_finished());
        sending.abort();
        let further = process.append(EVENTS, message("evt.a.b.c", None));
        assert!(tokio::time::timeout(Duration::from_secs(600), further).await.is_err());
        assert_eq!(broker.dump(EVENTS).len(), 1);
    });
}

#[test]
fn stopped_process_goes_on_where_it_was() {
    simulate(async {
        let broker = MemoryBroker::new(1, FaultPlan::none());
        let process = broker.connect();
        process.freeze();
        let stopped = tokio::time::timeout(Duration::from_secs(600), process.state(EVENTS)).await;
        assert!(stopped.is_err());
        process.thaw();
        assert_eq!(process.state(EVENTS).await.unwrap().last_sequence, 0);
    });
}

#[test]
fn stale_load_lacks_only_the_end() {
    simulate(async {
        let broker = MemoryBroker::new(5, FaultPlan { load_stale: 1.0, ..FaultPlan::none() });
        for _ in 0..10 {
            broker.append(EVENTS, message("evt.a.b.c", None)).await.unwrap();
        }
        let mut lengths = std::collections::BTreeSet::new();
        for _ in 0..50 {
            let loaded = load_all(&broker, EVENTS, "evt.a.b.c", 1).await.unwrap();
            let sequences: Vec<u64> = loaded.iter().map(|message| message.sequence).collect();
            assert_eq!(sequences, (1..=loaded.len() as u64).collect::<Vec<_>>());
            lengths.insert(loaded.len());
        }
        assert!(lengths.len() > 3, "{lengths:?}");
        assert_eq!(broker.last(EVENTS, "evt.a.b.c").await.unwrap().unwrap().sequence, 10);
    });
}

#[test]
fn doubled_command_is_stored_twice_beyond_the_window() {
    simulate(async {
        let plan =
            FaultPlan { command_doubled: 1.0, double_max: Duration::from_secs(240), ..FaultPlan::none() };
        let broker = MemoryBroker::new(1, plan);
        for id in 0..20 {
            let mut command = message("cmd.a.b.c.d", None);
            command.headers.push(millstream_contract::header::NATS_MESSAGE_ID, format!("id-{id}"));
            broker.append(COMMANDS, command).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(600)).await;
        let stored = broker.dump(COMMANDS).len();
        assert!((21..40).contains(&stored), "some within the window, some beyond: {stored}");
    });
}

#[test]
fn reader_says_that_the_server_lost_what_it_has_read() {
    simulate(async {
        let broker = MemoryBroker::new(1, FaultPlan::none());
        for _ in 0..5 {
            broker.append(EVENTS, message("evt.a.b.c", None)).await.unwrap();
        }
        let config = ReaderConfig {
            stream: EVENTS.into(),
            name: "reader".into(),
            description: String::new(),
            after: 0,
            filters: Vec::new(),
            replace_live: false,
        };
        let mut reader = broker.read(config).await.unwrap();
        let mut read = 0;
        while read < 5 {
            read += reader.next_batch(10).await.unwrap().len();
        }
        broker.lose_tail(EVENTS, 2);
        let error = reader.next_batch(10).await.unwrap_err();
        assert!(matches!(error, ReadError::LostTail { last: 3, after: 5, .. }), "{error}");
    });
}
