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

/// A command that COMMANDS has stored, ready to be decided.
async fn stored(
    broker: &MemoryBroker,
    registry: &AggregateRegistry,
    address: &str,
    body: &str,
) -> PreparedCommand {
    let message = NewMessage {
        subject: format!("cmd.bank.account.{address}"),
        expected_last: None,
        headers: Headers::new(),
        payload: body.to_owned().into(),
    };
    let appended = broker.append(COMMANDS, message).await.unwrap();
    prepare(broker.get(COMMANDS, appended.sequence).await.unwrap().unwrap(), registry)
}

async fn renames(broker: &MemoryBroker, registry: &AggregateRegistry) -> Vec<PreparedCommand> {
    let mut prepared = Vec::new();
    for number in 0..RENAMES {
        let name = format!("{number}{}", "x".repeat(NAME_BYTES));
        prepared.push(stored(broker, registry, "ada.rename", &format!(r#"{{"name":"{name}"}}"#)).await);
    }
    prepared
}

fn empty_cache(registry: AggregateRegistry) -> StateCache {
    let limits = CacheLimits { states: NonZeroUsize::new(10).unwrap(), bytes: u64::MAX };
    StateCache::new(limits, registry, StateSnapshots::in_memory().unwrap())
}

fn settlement(broker: &MemoryBroker, share: Share) -> Settlement<MemoryBroker> {
    let metrics = Metrics::new().handler(&share.name());
    Settlement::new(broker.clone(), RunIds::new("run"), AppendStrategy::Single, share, metrics)
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_into_a_commit_follows_in_others_without_reading_anything() {
    let broker = MemoryBroker::new(1, FaultPlan::none());
    let registry = AggregateRegistry::new().with::<Account>();
    let commands = renames(&broker, &registry).await;
    let mut cache = empty_cache(registry);
    let mut settlement = settlement(&broker, Share::ALL);
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

/// Commands as a handler of `share` settles them, each a round of its own, with nothing known before.
async fn settled(
    broker: &MemoryBroker,
    registry: &AggregateRegistry,
    share: Share,
    commands: &[PreparedCommand],
) -> Vec<Outcome> {
    let (mut cache, index) = (empty_cache(registry.clone()), IdIndex::in_memory().unwrap());
    let mut settlement = settlement(broker, share);
    let mut outcomes = Vec::new();
    for command in commands {
        let round = std::slice::from_ref(command);
        outcomes.extend(settlement.settle(&mut cache, &index, round).await.unwrap());
    }
    outcomes
}

#[tokio::test(start_paused = true)]
async fn command_whose_partner_another_active_handler_decides_is_refused_by_name() {
    let broker = MemoryBroker::new(1, FaultPlan::none());
    let registry = AggregateRegistry::new().with::<Account>();
    let share = |id: &str| StreamId::new("bank", "account", id).unwrap().partition() % 2;
    let ids: Vec<String> = (0..20).map(|number| format!("a{number}")).collect();
    let (own, others) = ids.split_first().unwrap();
    let mine = Share { index: share(own), of: 2 };
    let beside = others.iter().find(|id| share(id) == mine.index).unwrap();
    let elsewhere = others.iter().find(|id| share(id) != mine.index).unwrap();
    let give = |to: &[&String]| serde_json::json!({ "amount": 1, "to": to }).to_string();
    let mut commands = vec![stored(&broker, &registry, &format!("{own}.deposit"), r#"{"amount":9}"#).await];
    for to in [&[beside][..], &[elsewhere], &[beside, elsewhere]] {
        commands.push(stored(&broker, &registry, &format!("{own}.give"), &give(to)).await);
    }
    let outcomes = settled(&broker, &registry, mine, &commands).await;
    let kinds: Vec<_> = outcomes
        .iter()
        .map(|outcome| match outcome {
            Outcome::Accepted { .. } => "accepted",
            Outcome::Rejected { code, .. } => code,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(kinds, ["accepted", "accepted", "partner-elsewhere", "partner-elsewhere"]);
    let events = broker.dump(EVENTS);
    let subjects: Vec<_> = events.iter().map(|message| message.subject.to_string()).collect();
    let subject = |id: &String| format!("evt.bank.account.{id}");
    assert_eq!(subjects, [subject(own), subject(beside), subject(own)]);

    // What one active handler has accepted, another of several finds in the history and does not refuse.
    let alone = settled(&broker, &registry, Share::ALL, &commands).await;
    let before = broker.dump(EVENTS).len();
    let again = settled(&broker, &registry, mine, &commands).await;
    assert_eq!(again, alone);
    assert_eq!(broker.dump(EVENTS).len(), before);
}
