//! Streams that are made anew, emptied, or come back with less than they had.

use std::time::Duration;

use millstream_contract::{
    exit_code::{ExitCode, Failure},
    header,
    outcome::{OUTCOME_SUBJECT, Outcome, OutcomeRecord, RETIRED_LAYOUT_SUBJECT},
    stored_message::Headers,
    stream_names::{COMMANDS, EVENTS, OUTCOMES},
};
use millstream_jetstream::{
    broker::{Broker, NewMessage},
    id_source::IdSource,
    provision::{ProvisionOptions, provision},
    testing::test_server::TestServer,
};
use millstream_proof::{testing::stream_dump::dump, verification::verify};
use millstream_runtime::metrics::Count;
use millstream_write_side::{
    command_handler::HandlerError,
    id_index::IdIndex,
    outcome_journal::{JournalError, OutcomeJournal, decided_through},
};

use crate::support::{Running, ask, copy_folder, deposit_to_ten};

/// The handler tried for ever to append behind a record that was gone, and called itself ready.
#[tokio::test(flavor = "multi_thread")]
async fn journal_goes_on_when_outcomes_are_purged_under_the_handler() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let folder = tempfile::tempdir().unwrap();
    let index = || IdIndex::open(&folder.path().join("ids.redb"), 1 << 20, Count::default()).unwrap();
    let handler = Running::start_on(&server, "a", index()).await;
    let deposit = async |id: &str| {
        let headers = [(header::COMMAND_ID, id)];
        ask(&broker, "cmd.bank.account.ada.deposit", r#"{"amount":5}"#, &headers).await
    };
    deposit("one").await;
    broker.purge_subject(OUTCOMES, OUTCOME_SUBJECT, None).await.unwrap();
    assert_eq!(deposit("two").await, Outcome::Accepted { sequence: 2, version: 2, events: 1 });
    let first = Outcome::Accepted { sequence: 1, version: 1, events: 1 };
    assert_eq!(
        deposit("one").await,
        Outcome::Duplicate { of: 1, first: Box::new(first), other_content: false }
    );
    handler.stop().await;
    let verification = verify(&dump(&broker).await, true);
    assert_eq!((verification.violations.as_slice(), verification.accepted), ([].as_slice(), 1));
    // Purged while no handler runs: what COMMANDS keeps is decided again, and no command is a repeat of itself.
    broker.purge_subject(OUTCOMES, OUTCOME_SUBJECT, None).await.unwrap();
    let handler = Running::start_on(&server, "b", index()).await;
    assert!(matches!(deposit("three").await, Outcome::Accepted { version: 3, .. }));
    handler.stop().await;
    let verification = verify(&dump(&broker).await, true);
    assert_eq!(verification.violations.as_slice(), []);
    assert_eq!((verification.accepted, verification.duplicates), (3, 1));
}

/// A server that came back with an older copy of EVENTS was written to as if nothing were missing; only the next start noticed.
#[tokio::test(flavor = "multi_thread")]
async fn active_handler_ends_when_the_server_comes_back_with_less_than_it_had() {
    for send in [false, true] {
        let mut server = TestServer::start_provisioned().await;
        let broker = server.broker().await;
        let handler = Running::start(&server, "a").await;
        deposit_to_ten(&broker).await;
        server.stop().await;
        let folder = tempfile::tempdir().unwrap();
        let (events, copy) = (server.stream_folder(EVENTS), folder.path().to_owned());
        copy_folder(&events, &copy);
        server.restart().await;
        deposit_to_ten(&broker).await;
        server.stop().await;
        std::fs::remove_dir_all(&events).unwrap();
        copy_folder(&copy, &events);
        server.restart().await;
        if send {
            broker.client().publish("cmd.bank.account.3.deposit", r#"{"amount":1}"#.into()).await.unwrap();
        }
        let ended = tokio::time::timeout(Duration::from_secs(60), handler.task).await.unwrap().unwrap();
        let error = ended.unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::Data, "{error}");
        assert!(error.to_string().contains("EVENTS") && error.to_string().contains("has lost"), "{error}");
        assert_eq!(decided_through(&broker).await.unwrap(), 20, "nothing is recorded any more");
    }
}

/// Takes streams away and makes them again, as `millstream setup` does.
async fn made_anew(server: &TestServer, streams: &[&str], options: &ProvisionOptions) {
    let context = async_nats::jetstream::new(server.client().await);
    for stream in streams {
        context.delete_stream(stream).await.unwrap();
    }
    provision(&context, options).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_made_anew_beside_kept_events_are_refused_unless_they_begin_behind_them() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let handler = Running::start(&server, "a").await;
    for _ in 0..3 {
        ask(&broker, "cmd.bank.account.ada.deposit", r#"{"amount":5}"#, &[]).await;
    }
    handler.stop().await;

    made_anew(&server, &[COMMANDS], &ProvisionOptions::default()).await;
    let refused = Running::start(&server, "b").await.task.await.unwrap().unwrap_err();
    assert!(refused.to_string().contains("delete COMMANDS and OUTCOMES"), "{refused}");
    made_anew(&server, &[OUTCOMES], &ProvisionOptions::default()).await;
    let refused = Running::start(&server, "c").await.task.await.unwrap().unwrap_err();
    assert!(matches!(refused, HandlerError::NoJournal { highest: 3, first: 1 }), "{refused:?}");
    assert_eq!(
        broker.state(OUTCOMES).await.unwrap().last_sequence,
        0,
        "no fence makes the next start look right"
    );
    // Not even when a command stands at the position of the last commit.
    for _ in 0..3 {
        broker.client().publish("cmd.bank.account.ada.withdraw", r#"{"amount":9}"#.into()).await.unwrap();
    }
    broker.client().flush().await.unwrap();
    let refused = Running::start(&server, "d").await.task.await.unwrap().unwrap_err();
    assert!(matches!(refused, HandlerError::NoJournal { .. }), "{refused:?}");

    let options =
        ProvisionOptions { begin_after: [(COMMANDS.to_owned(), 3)].into(), ..ProvisionOptions::default() };
    made_anew(&server, &[COMMANDS], &options).await;
    let handler = Running::start(&server, "e").await;
    let next = ask(&broker, "cmd.bank.account.ada.withdraw", r#"{"amount":15}"#, &[]).await;
    assert_eq!(next, Outcome::Accepted { sequence: 4, version: 4, events: 1 });
    handler.stop().await;
    assert_eq!(verify(&dump(&broker).await, true).violations, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_outcomes_are_told_again_from_the_same_commands() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let handler = Running::start(&server, "a").await;
    for id in ["one", "two", "one"] {
        ask(&broker, "cmd.bank.account.ada.deposit", r#"{"amount":5}"#, &[(header::COMMAND_ID, id)]).await;
    }
    handler.stop().await;
    made_anew(&server, &[OUTCOMES], &ProvisionOptions::default()).await;
    let handler = Running::start(&server, "b").await;
    let again =
        ask(&broker, "cmd.bank.account.ada.deposit", r#"{"amount":5}"#, &[(header::COMMAND_ID, "two")]).await;
    let first = Outcome::Accepted { sequence: 2, version: 2, events: 1 };
    assert_eq!(again, Outcome::Duplicate { of: 2, first: Box::new(first), other_content: false });
    handler.stop().await;
    let verification = verify(&dump(&broker).await, true);
    assert_eq!((verification.violations.as_slice(), verification.duplicates), ([].as_slice(), 2));
}

/// Release 0.1.0 could share the partitions over several active handlers. Before it did, it closed the chain; then it recorded how
/// they were shared. Whoever went on behind either of them would decide commands that another chain has decided.
#[tokio::test(flavor = "multi_thread")]
async fn outcomes_of_several_active_handlers_are_refused_and_left_alone() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let handler = Running::start(&server, "a").await;
    ask(&broker, "cmd.bank.account.ada.deposit", r#"{"amount":5}"#, &[]).await;
    handler.stop().await;
    let last = broker.last(OUTCOMES, OUTCOME_SUBJECT).await.unwrap().unwrap();
    let generations = OutcomeRecord::from_stored(&last).unwrap().generations;
    let record = |kind: &str| ("id", kind.to_owned(), "run", 1, 1, 1, [0_u8; 0], generations.clone());
    let ((id, kind, run, after, through, events, outcomes, of), layout) =
        (record("layout"), (2, vec![1_u64; 16]));
    let begun = rmp_serde::to_vec(&(id, kind, run, after, through, events, outcomes, of, 1, layout)).unwrap();
    let closed = rmp_serde::to_vec(&record("closed")).unwrap();
    for (subject, expected_last, body) in
        [(OUTCOME_SUBJECT, Some(last.sequence), closed), (RETIRED_LAYOUT_SUBJECT, None, begun)]
    {
        let message = NewMessage {
            subject: subject.to_owned(),
            expected_last,
            headers: Headers::new(),
            payload: body.into(),
        };
        let end = broker.append(OUTCOMES, message).await.unwrap().sequence;
        let refused = Running::start(&server, "b").await.task.await.unwrap().unwrap_err();
        assert_eq!(refused.exit_code(), ExitCode::Data, "{refused}");
        assert!(refused.to_string().contains("of several active command handlers"), "{refused}");
        let looked_at = decided_through(&broker).await.unwrap_err();
        assert!(matches!(looked_at, JournalError::Record(_)), "{looked_at}");
        assert_eq!(broker.state(OUTCOMES).await.unwrap().last_sequence, end);
    }
    // The chain that this release knows may have been purged away meanwhile.
    broker.purge_subject(OUTCOMES, OUTCOME_SUBJECT, None).await.unwrap();
    let journal = OutcomeJournal::take_over(broker, generations, IdSource::new("c"), true).await;
    assert!(matches!(journal, Err(JournalError::Record(_))), "{journal:?}");
}
