//! What a handler still knows when its turn has ended.

use millstream_contract::{stored_message::Headers, stream_names::OUTCOMES, subject::StreamId};
use millstream_jetstream::{
    broker::NewMessage,
    testing::{fault_plan::FaultPlan, memory_broker::MemoryBroker},
};
use millstream_proof::testing::account::Account;

use super::*;

#[tokio::test(start_paused = true)]
async fn no_state_counts_as_current_after_the_turn() {
    let broker = MemoryBroker::new(1, FaultPlan::none());
    let settings = HandlerSettings {
        name: "command-handler".to_owned(),
        internal_commands: InternalCommands::EffectsOnly,
        round_max: NonZeroUsize::new(10).unwrap(),
        cache: CacheLimits {
            states: NonZeroUsize::new(10).unwrap(),
            bytes: u64::MAX,
            unsaved_commits: NonZeroUsize::MAX,
        },
        append_strategy: AppendStrategy::default(),
        lease_time_to_live: Duration::from_secs(3),
        purge: None,
    };
    let mut handler = CommandHandler::new(
        broker.connect(),
        AggregateRegistry::new().with::<Account>(),
        settings,
        "run",
        IdIndex::in_memory().unwrap(),
        StateSnapshots::in_memory().unwrap(),
        Observed::new(&Metrics::new(), &Readiness::new()),
    );
    let shutdown = Shutdown::new();
    let client = async {
        let deposit = NewMessage {
            subject: "cmd.bank.account.ada.deposit".to_owned(),
            expected_last: None,
            headers: Headers::new(),
            payload: r#"{"amount":1}"#.into(),
        };
        broker.append(COMMANDS, deposit).await.unwrap();
        // The fence, and the outcome.
        while broker.dump(OUTCOMES).len() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        shutdown.request();
    };
    let (ended, ()) = tokio::join!(handler.run(shutdown.clone()), client);
    ended.unwrap();
    let ada = StreamId::new("bank", "account", "ada").unwrap();
    let state = handler.states.cache.take(&ada).unwrap();
    assert_eq!((state.version, state.current), (1, false));
    assert_eq!(handler.states.cache.through(), state.last_sequence, "its own commits need not be followed");
}
