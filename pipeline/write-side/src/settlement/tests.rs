//! What a round asks of the server, over the twin.

use std::num::NonZeroUsize;

use millstream_contract::{
    commit::{COMMIT_HASH_LENGTH, StoredCommit},
    stored_message::Headers,
    stream_names::COMMANDS,
};
use millstream_domain::decider::AggregateRegistry;
use millstream_jetstream::{
    broker::NewMessage,
    event_store::PAGE_BYTES,
    testing::{fault_plan::FaultPlan, memory_broker::MemoryBroker, operation::Operation},
};
use millstream_proof::testing::account::{Account, Received};
use millstream_runtime::metrics::Metrics;

use super::*;
use crate::{
    round::{InternalCommands, prepare},
    state_cache::CacheLimits,
    state_snapshots::StateSnapshots,
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
    let message = broker.get(COMMANDS, appended.sequence).await.unwrap().unwrap();
    prepare(message, registry, InternalCommands::EffectsOnly)
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
    let limits = CacheLimits {
        states: NonZeroUsize::new(10).unwrap(),
        bytes: u64::MAX,
        unsaved_commits: NonZeroUsize::MAX,
    };
    StateCache::new(limits, registry, StateSnapshots::in_memory().unwrap())
}

fn settlement(broker: &MemoryBroker) -> Settlement<MemoryBroker> {
    let metrics = Metrics::new().handler();
    Settlement::new(broker.clone(), IdSource::new("run"), AppendStrategy::Single, metrics)
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_into_a_commit_follows_in_others_without_reading_anything() {
    let broker = MemoryBroker::new(1, FaultPlan::none());
    let registry = AggregateRegistry::new().with::<Account>();
    let commands = renames(&broker, &registry).await;
    let mut cache = empty_cache(registry);
    let mut settlement = settlement(&broker);
    broker.start_recording();
    let index = Arc::new(IdIndex::in_memory().unwrap());
    let (outcomes, _) = settlement.settle(&mut cache, &index, &commands).await.unwrap();
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
        after.commit.previous.as_deref() == Some(before.hash().get(..COMMIT_HASH_LENGTH).unwrap())
    });
    assert!(chained);
    let others = broker.recorded().into_iter().filter(|(it, _)| !matches!(it, Operation::Append { .. }));
    assert_eq!(others.collect::<Vec<_>>(), []);
}

#[tokio::test(start_paused = true)]
async fn round_of_several_slices_settles_every_aggregate_once() {
    let broker = MemoryBroker::new(1, FaultPlan::none());
    let registry = AggregateRegistry::new().with::<Account>();
    let deposit = async |account: usize| {
        stored(&broker, &registry, &format!("a{account}.deposit"), r#"{"amount":1}"#).await
    };
    let accounts = 2 * SLICE + SLICE / 2;
    // Accounts at the edges of slices and within them have a history that the next handler does not know of.
    let moved = [0, SLICE - 1, SLICE, SLICE + SLICE / 2, 2 * SLICE, accounts - 1];
    let mut before = Vec::new();
    for account in moved {
        before.push(deposit(account).await);
    }
    settled(&broker, &registry, &before).await;
    let mut commands = Vec::new();
    for account in 0..accounts {
        commands.push(deposit(account).await);
    }
    for account in moved {
        commands.push(deposit(account).await);
    }
    let mut settlement = settlement(&broker);
    let index = Arc::new(IdIndex::in_memory().unwrap());
    broker.start_recording();
    let (outcomes, _) =
        settlement.settle(&mut empty_cache(registry.clone()), &index, &commands).await.unwrap();
    let version = |outcome: &Outcome| match outcome {
        Outcome::Accepted { version, events: 1, .. } => *version,
        other => panic!("{other:?}"),
    };
    let versions: Vec<_> = outcomes.iter().map(version).collect();
    let once = |account: usize| if moved.contains(&account) { 2 } else { 1 };
    let expected: Vec<u64> = (0..accounts).map(once).chain([3; 6]).collect();
    assert_eq!(versions, expected);
    let reads = broker.recorded().into_iter().filter(|(it, _)| matches!(it, Operation::Load { .. })).count();
    assert_eq!(reads, moved.len(), "only what had moved is read");
    assert_eq!(broker.dump(EVENTS).len(), accounts + moved.len());
}

#[tokio::test(start_paused = true)]
async fn handler_without_states_stops_supposing_that_all_is_new_after_the_first_slices() {
    let broker = MemoryBroker::new(1, FaultPlan::none());
    let registry = AggregateRegistry::new().with::<Account>();
    let accounts = 3 * SLICE;
    let index = Arc::new(IdIndex::in_memory().unwrap());
    for handler in 0..2_u64 {
        let mut commands = Vec::new();
        for account in 0..accounts {
            let address = format!("a{account}.deposit");
            commands.push(stored(&broker, &registry, &address, r#"{"amount":1}"#).await);
        }
        broker.start_recording();
        let mut settlement = settlement(&broker);
        let (outcomes, appended) =
            settlement.settle(&mut empty_cache(registry.clone()), &index, &commands).await.unwrap();
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Accepted { events: 1, .. })));
        let appends = broker.recorded().into_iter().filter(|(it, _)| matches!(it, Operation::Append { .. }));
        let conflicts = appends.count() - accounts;
        let expected = if handler == 0 { 0 } else { SLICES_UNDER_WAY * SLICE };
        assert_eq!(conflicts, expected, "of handler {handler}");
        let (first, last) = (handler * accounts as u64 + 1, (handler + 1) * accounts as u64);
        assert_eq!(appended, Appended { count: accounts as u64, first, last });
    }
}

#[tokio::test(start_paused = true)]
async fn partner_that_another_handler_has_changed_is_read_before_a_rejection_rests_on_it() {
    let broker = MemoryBroker::new(1, FaultPlan::none());
    let registry = AggregateRegistry::new().with::<Account>();
    let (mut cache, index) = (empty_cache(registry.clone()), Arc::new(IdIndex::in_memory().unwrap()));
    let mut settlement = settlement(&broker);
    for address in ["ada.deposit", "bob.deposit"] {
        let deposit = stored(&broker, &registry, address, r#"{"amount":100}"#).await;
        settlement.settle(&mut cache, &index, &[deposit]).await.unwrap();
    }
    cache.doubt_all();
    let withdraw = stored(&broker, &registry, "bob.withdraw", r#"{"amount":99}"#).await;
    settled(&broker, &registry, &[withdraw]).await;
    let give = r#"{"amount":1,"to":["bob"],"unless_above":50}"#;
    let give = stored(&broker, &registry, "ada.give", give).await;
    let (outcomes, _) = settlement.settle(&mut cache, &index, &[give]).await.unwrap();
    let accepted = matches!(outcomes.as_slice(), [Outcome::Accepted { version: 2, events: 1, .. }]);
    assert!(accepted, "bob has 1, not the 100 that were remembered: {outcomes:?}");
}

#[tokio::test(start_paused = true)]
async fn commit_of_a_partner_that_another_handler_has_changed_is_refused_and_decided_again() {
    let broker = MemoryBroker::new(1, FaultPlan::none());
    let registry = AggregateRegistry::new().with::<Account>();
    let (mut cache, index) = (empty_cache(registry.clone()), Arc::new(IdIndex::in_memory().unwrap()));
    let mut settlement = settlement(&broker);
    for address in ["ada.deposit", "bob.deposit"] {
        let deposit = stored(&broker, &registry, address, r#"{"amount":100}"#).await;
        settlement.settle(&mut cache, &index, &[deposit]).await.unwrap();
    }
    // This handler still takes what it remembers of bob for current.
    let withdraw = stored(&broker, &registry, "bob.withdraw", r#"{"amount":99}"#).await;
    settled(&broker, &registry, &[withdraw]).await;
    let give = stored(&broker, &registry, "ada.give", r#"{"amount":1,"to":["bob"]}"#).await;
    settlement.settle(&mut cache, &index, &[give]).await.unwrap();
    let commits = broker.dump(EVENTS);
    let commits = commits.iter().map(|message| StoredCommit::from_stored(message).unwrap());
    let bob: Vec<_> = commits.filter(|stored| stored.stream_id.id() == "bob").collect();
    let versions: Vec<_> = bob.iter().map(|stored| stored.commit.first_version).collect();
    assert_eq!(versions, [1, 2, 3]);
    let received = Received { amount: 1, then: 2 };
    let last = bob.last().and_then(|stored| stored.envelopes().last().map(|it| it.data.to_vec())).unwrap();
    assert_eq!(rmp_serde::from_slice::<Received>(&last).unwrap(), received);
}

/// A history that is longer than a page was read whole, and kept while commands were decided.
#[tokio::test(start_paused = true)]
async fn history_of_several_pages_is_folded_page_by_page_and_tells_what_became_of_its_commands() {
    let broker = MemoryBroker::new(1, FaultPlan::none());
    let registry = AggregateRegistry::new().with::<Account>();
    let mut commands = renames(&broker, &registry).await;
    for (command, body) in [("deposit", 5), ("withdraw", 9), ("deposit", 5), ("withdraw", 9), ("withdraw", 9)]
    {
        let body = format!(r#"{{"amount":{body}}}"#);
        commands.push(stored(&broker, &registry, &format!("ada.{command}"), &body).await);
    }
    commands.extend(renames(&broker, &registry).await);
    let first = settled(&broker, &registry, &commands).await;
    let rejected = first.iter().filter(|outcome| matches!(outcome, Outcome::Rejected { .. })).count();
    assert_eq!(rejected, 2);

    // A handler that knows nothing of it meets the same commands, as after a crash before they were recorded.
    let (mut cache, index) = (empty_cache(registry.clone()), Arc::new(IdIndex::in_memory().unwrap()));
    broker.start_recording();
    let (again, _) = settlement(&broker).settle(&mut cache, &index, &commands).await.unwrap();
    assert_eq!(again, first);
    let pages = broker.recorded().into_iter().filter(|(it, _)| matches!(it, Operation::Load { .. })).count();
    let size = 2 * RENAMES * NAME_BYTES;
    assert!(pages >= size / (PAGE_BYTES + NAME_BYTES), "{pages} pages");
}

/// Commands as a handler settles them, each a round of its own, with nothing known before.
async fn settled(
    broker: &MemoryBroker,
    registry: &AggregateRegistry,
    commands: &[PreparedCommand],
) -> Vec<Outcome> {
    let (mut cache, index) = (empty_cache(registry.clone()), Arc::new(IdIndex::in_memory().unwrap()));
    let mut settlement = settlement(broker);
    let mut outcomes = Vec::new();
    for command in commands {
        let round = std::slice::from_ref(command);
        outcomes.extend(settlement.settle(&mut cache, &index, round).await.unwrap().0);
    }
    outcomes
}
