//! The service that retries and drops dead letters, on a server: it moves the letter that is asked for, and no other.
#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

use std::time::Duration;

use jiff::Timestamp;
use millstream_contract::{
    dead_letter::DeadLetter,
    header,
    letter_service::{DROP_SUBJECT, LetterRequest, LetterRetried, RETRY_SUBJECT},
    stored_message::{Headers, StoredMessage},
    stream_names::{COMMANDS, DEAD_LETTERS, TIMERS},
};
use millstream_jetstream::{
    broker::Broker as _,
    dead_letter_store::DeadLetterStore,
    nats_broker::{AskError, NatsBroker},
    testing::test_server::TestServer,
};
use millstream_write_side::letter_service::LetterService;

fn letter(stream: &str, sequence: u64, subject: &str) -> DeadLetter {
    let message = StoredMessage {
        subject: subject.to_owned(),
        sequence,
        stored_at: Timestamp::UNIX_EPOCH,
        headers: Headers::new(),
        payload: "{}".into(),
    };
    DeadLetter::new(stream, &message, "code", "cause")
}

async fn ask(broker: &NatsBroker, subject: &str, letter: &str, sequence: u64) -> Result<Vec<u8>, String> {
    let request = LetterRequest { letter: letter.to_owned(), sequence };
    let body = serde_json::to_vec(&request).unwrap().into();
    match broker.ask(subject, &Headers::new(), body, Duration::from_secs(30)).await {
        Ok(answer) => Ok(answer.payload.to_vec()),
        Err(AskError::Refused { code, text, .. }) => Err(format!("{code}: {text}")),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn the_letter_that_is_asked_for_is_moved_and_no_other() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let service = LetterService::start(&broker, "1.0.0").await.unwrap();
    let store = DeadLetterStore::new(broker.clone());
    for letter in [
        letter(TIMERS, 5, "due.cmd.retail.product.gin.register"),
        letter(COMMANDS, 900, "cmdq.1.millstream.set-aside.17.set-aside"),
        letter("REPORTS", 3, "report.retail.a.b.c"),
        letter(COMMANDS, 901, "cmdq.1.retail.product.tea.register"),
    ] {
        assert!(store.try_keep(&[letter]).await.iter().all(Result::is_ok));
    }
    for (subject, name, sequence, refused) in [
        // A letter of the same name that somebody has looked at may be another one.
        (RETRY_SUBJECT, "TIMERS.5", 2, "404: there is no dead letter TIMERS.5 any more"),
        (DROP_SUBJECT, "TIMERS.5", 2, "404: "),
        (DROP_SUBJECT, "COMMANDS.17", 1, "404: "),
        (DROP_SUBJECT, "COMMANDS.*", 1, "400: "),
        (DROP_SUBJECT, "COMMANDS.>", 1, "400: "),
        (RETRY_SUBJECT, "COMMANDS.900", 2, "422: COMMANDS.900 is of what Millstream records itself"),
        (DROP_SUBJECT, "COMMANDS.900", 2, "422: COMMANDS.900 is of what Millstream records itself"),
        (RETRY_SUBJECT, "REPORTS.3", 3, "422: REPORTS.3 cannot be retried"),
    ] {
        let why = ask(&broker, subject, name, sequence).await.unwrap_err();
        assert!(why.starts_with(refused), "{subject} {name}: {why}");
    }
    assert_eq!(broker.state(DEAD_LETTERS).await.unwrap().usage.messages, 4);
    assert_eq!(broker.state(COMMANDS).await.unwrap().last_sequence, 0, "nothing is put back");

    let retried: LetterRetried =
        serde_json::from_slice(&ask(&broker, RETRY_SUBJECT, "TIMERS.5", 1).await.unwrap()).unwrap();
    assert_eq!(retried, LetterRetried { command_id: "dead-letter-TIMERS-5".to_owned(), command_position: 1 });
    let command = broker.get(COMMANDS, 1).await.unwrap().unwrap();
    assert_eq!(command.subject, "effect.retail.product.gin.register", "as a process's command");
    assert_eq!(command.headers.get(header::COMMAND_ID), Some("dead-letter-TIMERS-5"));
    assert!(ask(&broker, RETRY_SUBJECT, "TIMERS.5", 1).await.unwrap_err().starts_with("404: "));
    ask(&broker, DROP_SUBJECT, "COMMANDS.901", 4).await.unwrap();
    assert_eq!(broker.state(DEAD_LETTERS).await.unwrap().usage.messages, 2);
    assert_eq!(
        broker.state(COMMANDS).await.unwrap().last_sequence,
        1,
        "a letter that is dropped is not put back"
    );
    service.stop().await;
}

/// Two people retry one letter at the same time. If the command was set aside again, each copy became a letter of its own.
#[tokio::test]
async fn a_letter_that_is_retried_twice_at_once_comes_back_once() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let services = [
        LetterService::start(&broker, "1.0.0").await.unwrap(),
        LetterService::start(&broker, "1.0.0").await.unwrap(),
    ];
    let store = DeadLetterStore::new(broker.clone());
    let letters: Vec<DeadLetter> =
        (1..=20).map(|sequence| letter(COMMANDS, sequence, "cmdq.1.retail.product.tea.register")).collect();
    assert!(store.try_keep(&letters).await.iter().all(Result::is_ok));
    let mut twice = 0;
    for (sequence, letter) in (1..).zip(&letters) {
        let name = letter.name();
        let retry = || ask(&broker, RETRY_SUBJECT, &name, sequence);
        let (one, other) = tokio::join!(retry(), retry());
        twice += u64::from(one.is_ok() && other.is_ok());
        assert!(one.is_ok() || other.is_ok(), "{one:?} {other:?}");
        assert_eq!(broker.state(COMMANDS).await.unwrap().last_sequence, sequence);
    }
    assert!(twice > 0, "no two have met");
    assert_eq!(broker.state(DEAD_LETTERS).await.unwrap().usage.messages, 0);
    for service in services {
        service.stop().await;
    }
}
