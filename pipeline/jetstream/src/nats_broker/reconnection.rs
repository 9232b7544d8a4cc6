//! Questions whose answer can no longer come, because the connection on which they were asked is gone.

use std::{sync::atomic::Ordering, time::Duration};

use async_nats::{Client, Message, Request, RequestError, RequestErrorKind};

/// The description of a question that was given up.
const CONNECTION_LOST: &str = "the connection was lost before the answer came";
/// How often to check whether the client has reconnected.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How long it may take to send what was asked while there was no connection.
const ANSWER: Duration = Duration::from_millis(500);

/// Asks, and gives up when the answer can no longer come.
pub(super) async fn ask(client: &Client, subject: String, request: Request) -> Result<Message, RequestError> {
    let lost = connected_again(client);
    tokio::select! {
        biased;
        answer = client.send_request(subject, request) => answer,
        () = lost => Err(RequestError::with_source(RequestErrorKind::Other, CONNECTION_LOST)),
    }
}

/// Returns shortly after the client has reconnected, counted from this call. A question that was under way then, or was written just before
/// the client noticed the loss, gets no answer any more and would wait until its time-out.
pub(super) fn connected_again(client: &Client) -> impl Future<Output = ()> + Send + use<> {
    let statistics = client.statistics();
    let before = statistics.connects.load(Ordering::Relaxed);
    async move {
        while statistics.connects.load(Ordering::Relaxed) == before {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        tokio::time::sleep(ANSWER).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    };

    use millstream_contract::{stored_message::Headers, stream_names::EVENTS};

    use super::*;
    use crate::{
        broker::{AppendError, Broker, BrokerError, NewMessage},
        line::Dialer,
        nats_broker::{AskError, NatsBroker},
        testing::{
            relay::{Fate, Relay},
            test_server::TestServer,
        },
    };

    const LAST: &str = "evt.a.b.100 ";

    /// After every restart of the server nothing was decided for five seconds: questions that went down with the connection were
    /// waited for until their time was over.
    #[tokio::test(flavor = "multi_thread")]
    async fn questions_that_went_down_with_the_connection_are_given_up_when_there_is_another_one() {
        let server = TestServer::start_provisioned().await;
        let swallowing = Arc::new(AtomicBool::new(false));
        let (swallows, swallowed) = (Arc::clone(&swallowing), Mutex::new(String::new()));
        // When the last of what is asked has come, the connection ends, as that of a server that is killed.
        let relay = Relay::start(&server.url(), move |bytes| {
            if !swallows.load(Ordering::Relaxed) {
                return Fate::Pass;
            }
            let mut swallowed = swallowed.lock().unwrap();
            swallowed.push_str(&String::from_utf8_lossy(bytes));
            if !swallowed.contains(LAST) {
                return Fate::Instead(Vec::new());
            }
            swallows.store(false, Ordering::Relaxed);
            Fate::End
        })
        .await;
        let client = async_nats::connect(relay.url()).await.unwrap();
        let broker = NatsBroker::new(client, Dialer::plain(&server.url()), None);
        broker.state(EVENTS).await.unwrap();
        swallowing.store(true, Ordering::Relaxed);
        let message = |number| NewMessage {
            subject: format!("evt.a.b.{number}"),
            expected_last: None,
            headers: Headers::new(),
            payload: "x".into(),
        };
        let no_headers = Headers::new();
        let (state, asked, appended, each) = tokio::join!(
            broker.state(EVENTS),
            broker.ask("query.a.b.get", &no_headers, "{}".into(), Duration::from_secs(10)),
            broker.append(EVENTS, message(0)),
            broker.append_each(EVENTS, (1..=100).map(message).collect()),
        );
        let lost = |detail: &str| detail.contains(CONNECTION_LOST);
        assert!(matches!(&state, Err(BrokerError::Unavailable { detail, .. }) if lost(detail)), "{state:?}");
        assert!(matches!(&asked, Err(AskError::NoAnswer { detail, .. }) if lost(detail)), "{asked:?}");
        assert!(
            matches!(&appended, Err(AppendError::Unclear { detail, .. }) if lost(detail)),
            "{appended:?}"
        );
        assert!(each.iter().all(|append| matches!(append, Err(AppendError::Unclear { .. }))), "{each:?}");
        assert_eq!(broker.state(EVENTS).await.unwrap().last_sequence, 0, "nothing of it has arrived");
    }
}
