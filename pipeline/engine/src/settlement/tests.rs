//! What a round asks of the server, over the twin.

use std::num::NonZeroUsize;

use super::*;
use crate::{
    contract::{commit::COMMIT_HASH_LENGTH, stored_message::Headers},
    decider::AggregateRegistry,
    metrics::Metrics,
    round::prepare,
    state_cache::CacheLimits,
    state_snapshots::StateSnapshots,
    testing::{
        fault_plan::FaultPlan, memory_broker::MemoryBroker, operation::Operation,
        simulation::account::Account,
    },
};

/// More than fit into one commit, of names that long.
const RENAMES: usize = 7;
const NAME_BYTES: usize = 100 * 1024;

async fn renames(broker: &MemoryBroker, registry: &AggregateRegistry) -> Vec<PreparedCommand> {
    let mut prepared = Vec::new();
    for number in 0..RENAMES {
        let name = format!("{number}{}", "x".repeat(NAME_BYTES));
        let message = NewMessage {
            subject: "cmd.bank.account.ada.rename".to_owned(),
            expected_last: None,
            headers: Headers::new(),
            payload: format!(r#"{{"name":"{name}"}}"#).into(),
        };
        let appended = broker.append(COMMANDS, message).await.unwrap();
        let stored = broker.get(COMMANDS, appended.sequence).await.unwrap().unwrap();
        prepared.push(prepare(stored, registry));
    }
    prepared
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_into_a_commit_follows_in_others_without_reading_anything() {
    let broker = MemoryBroker::new(1, FaultPlan::none());
    let registry = AggregateRegistry::new().with::<Account>();
    let commands = renames(&broker, &registry).await;
    let limits = CacheLimits { states: NonZeroUsize::new(10).unwrap(), bytes: u64::MAX };
    let mut cache = StateCache::new(limits, registry, StateSnapshots::in_memory().unwrap());
    let metrics = Metrics::new().handler("0of1");
    let ids = RunIds::new("run");
    let mut settlement = Settlement::new(broker.clone(), ids, AppendStrategy::Single, Share::ALL, metrics);
    broker.start_recording();
    let outcomes = settlement.settle(&mut cache, &IdIndex::in_memory().unwrap(), &commands).await.unwrap();
    let versions: Vec<_> = outcomes
        .iter()
        .map(|outcome| match outcome {
            Outcome::Accepted { version, events: 1, .. } => *version,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(versions, (1..=RENAMES as u64).collect::<Vec<_>>());
    let commits: Vec<_> =
        broker.dump(EVENTS).iter().map(|message| StoredCommit::from_stored(message).unwrap()).collect();
    assert!((2..RENAMES).contains(&commits.len()), "{} commits", commits.len());
    let chained = commits.iter().zip(commits.iter().skip(1)).all(|(before, after)| {
        after.commit.previous.as_deref() == Some(before.hash.get(..COMMIT_HASH_LENGTH).unwrap())
    });
    assert!(chained);
    let others = broker.recorded().into_iter().filter(|(it, _)| !matches!(it, Operation::Append { .. }));
    assert_eq!(others.collect::<Vec<_>>(), []);
}
