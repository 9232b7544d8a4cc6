//! Questions whose answer cannot come any more, because the connection on which they were asked is gone.

use std::{sync::atomic::Ordering, time::Duration};

use async_nats::{Client, Message, Request, RequestError, RequestErrorKind};

/// What became of a question that is given up.
const CONNECTION_LOST: &str = "the connection was lost before the answer came";
/// How often to look whether the client has connected again.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// What was asked while there was no connection is sent as soon as there is one, and may take so long.
const ANSWER: Duration = Duration::from_millis(500);

/// Asks, and gives up when the answer cannot come any more.
pub(super) async fn ask(client: &Client, subject: String, request: Request) -> Result<Message, RequestError> {
    let lost = connected_again(client);
    tokio::select! {
        biased;
        answer = client.send_request(subject, request) => answer,
        () = lost => Err(RequestError::with_source(RequestErrorKind::Other, CONNECTION_LOST)),
    }
}

/// Ends a moment after the client has connected again, counted from this call. What was under way then, or was written just before the
/// client noticed, has no answer any more, and would be waited for until its time is over.
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
    use std::sync::{Arc, atomic::AtomicBool};

    use millstream_contract::{stored_message::Headers, stream_names::EVENTS};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, copy},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::{
        broker::{AppendError, Broker, BrokerError, NewMessage},
        line::Dialer,
        nats_broker::NatsBroker,
        testing::test_server::TestServer,
    };

    const LAST: &str = "evt.a.b.100 ";

    /// Hands on what a client sends. While `swallowing`, nothing goes on; when the last of what is asked has come, the connection ends,
    /// as that of a server that is killed.
    async fn carry(client: TcpStream, server: TcpStream, swallowing: Arc<AtomicBool>) {
        let ((mut client_in, mut client_out), (mut server_in, mut server_out)) =
            (client.into_split(), server.into_split());
        let answers = tokio::spawn(async move { copy(&mut server_in, &mut client_out).await });
        let (mut bytes, mut swallowed) = ([0; 4096], Vec::new());
        while let Ok(count @ 1..) = client_in.read(&mut bytes).await {
            let bytes = bytes.get(..count).unwrap();
            if !swallowing.load(Ordering::Relaxed) {
                server_out.write_all(bytes).await.unwrap();
                continue;
            }
            swallowed.extend_from_slice(bytes);
            if String::from_utf8_lossy(&swallowed).contains(LAST) {
                swallowing.store(false, Ordering::Relaxed);
                break;
            }
        }
        answers.abort();
    }

    /// After every restart of the server nothing was decided for five seconds: questions that went down with the connection were
    /// waited for until their time was over.
    #[tokio::test(flavor = "multi_thread")]
    async fn questions_that_went_down_with_the_connection_are_given_up_when_there_is_another_one() {
        let server = TestServer::start_provisioned().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        let address = server.url().trim_start_matches("nats://").to_owned();
        let swallowing = Arc::new(AtomicBool::new(false));
        let swallows = Arc::clone(&swallowing);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&address).await.unwrap();
                tokio::spawn(carry(client, server, Arc::clone(&swallows)));
            }
        });
        let client = async_nats::connect(url).await.unwrap();
        let broker = NatsBroker::new(client, Dialer::plain(&server.url()), None);
        broker.state(EVENTS).await.unwrap();
        swallowing.store(true, Ordering::Relaxed);
        let message = |number| NewMessage {
            subject: format!("evt.a.b.{number}"),
            expected_last: None,
            headers: Headers::new(),
            payload: "x".into(),
        };
        let (state, appended, each) = tokio::join!(
            broker.state(EVENTS),
            broker.append(EVENTS, message(0)),
            broker.append_each(EVENTS, (1..=100).map(message).collect()),
        );
        let lost = |detail: &str| detail.contains(CONNECTION_LOST);
        assert!(matches!(&state, Err(BrokerError::Unavailable { detail, .. }) if lost(detail)), "{state:?}");
        assert!(
            matches!(&appended, Err(AppendError::Unclear { detail, .. }) if lost(detail)),
            "{appended:?}"
        );
        assert!(each.iter().all(|append| matches!(append, Err(AppendError::Unclear { .. }))), "{each:?}");
        assert_eq!(broker.state(EVENTS).await.unwrap().last_sequence, 0, "nothing of it has arrived");
    }
}
