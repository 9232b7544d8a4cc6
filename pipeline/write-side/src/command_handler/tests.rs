//! What a handler still knows when its turn has ended.

use millstream_contract::{stored_message::Headers, stream_names::OUTCOMES, subject::StreamId};
use millstream_jetstream::{
    broker::NewMessage,
    testing::{fault_plan::FaultPlan, memory_broker::MemoryBroker, test_server::TestServer},
};
use millstream_proof::testing::account::Account;
use millstream_runtime::{health::Readiness, metrics::Metrics};

use super::*;

fn handler<B: Broker>(broker: &B) -> CommandHandler<B> {
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
    CommandHandler::new(
        broker.clone(),
        AggregateRegistry::new().with::<Account>(),
        settings,
        "run",
        IdIndex::in_memory().unwrap(),
        StateSnapshots::in_memory().unwrap(),
        Observed::new(&Metrics::new(), &Readiness::new()),
    )
}

#[tokio::test(start_paused = true)]
async fn no_state_counts_as_current_after_the_turn() {
    let broker = MemoryBroker::new(1, FaultPlan::none());
    let mut handler = handler(&broker.connect());
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

/// The consumer stayed. Its lag grew until the name was used again, and a standby that used it at once could take itself for another
/// process and end.
#[tokio::test(flavor = "multi_thread")]
async fn reading_of_others_commits_that_is_cut_short_leaves_no_consumer() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let mut handler = handler(&broker);
    let info = async || {
        let path = "$JS.API.CONSUMER.INFO.EVENTS.command-handler-states";
        let answer = broker.client().request(path, "".into()).await.unwrap();
        serde_json::from_slice::<serde_json::Value>(&answer.payload).unwrap()
    };
    let waits = async { while info().await["num_waiting"].as_u64().is_none_or(|waiting| waiting == 0) {} };
    let follower = handler.foreign.insert(StateFollower::new(&broker, "command-handler"));
    // EVENTS is empty, so it waits until it is cancelled.
    tokio::select! {
        () = waits => {}
        read = follower.follow(&mut handler.states) => panic!("{read:?}"),
    }
    handler.close_foreign().await;
    let left = info().await;
    assert_eq!(left["error"]["err_code"], 10014, "{left}");
}
