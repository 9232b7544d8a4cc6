//! Many appends at the same time, each on its own. Their answers come to one inbox, so no append needs an inbox, a timer and a task of its
//! own.

use async_nats::{Message, Subscriber, client::PublishErrorKind};
use futures::{StreamExt as _, future::join_all};
use tokio::time::{Instant, timeout_at};

use super::{
    APPEND_TIMEOUT, NatsBroker, append_headers, appended, reconnection::connected_again, wire::header_map,
};
use crate::broker::{AppendError, Appended, Broker as _, NewMessage};

/// For fewer appends, a shared inbox does not pay: the server searches its cache of subjects whenever an inbox comes or goes. The number is
/// a guess, not measured.
const INBOX_MIN: usize = 32;

const NO_ANSWER: &str = "no answer in time, or none since the connection was lost";

/// As [`crate::broker::Broker::append_each`].
pub(super) async fn append_each(
    broker: &NatsBroker,
    stream: &str,
    messages: Vec<NewMessage>,
) -> Vec<Result<Appended, AppendError>> {
    if messages.len() < INBOX_MIN {
        return join_all(messages.into_iter().map(|message| broker.append(stream, message))).await;
    }
    let inbox = broker.client.new_inbox();
    let answers = match broker.client.subscribe(format!("{inbox}.*")).await {
        Ok(answers) => answers,
        Err(error) => {
            let unclear = |message: NewMessage| unclear(&message.subject, &error.to_string());
            return messages.into_iter().map(unclear).map(Err).collect();
        }
    };
    let lost = connected_again(&broker.client);
    let mut appends = Vec::with_capacity(messages.len());
    for (index, message) in messages.into_iter().enumerate() {
        appends.push(publish(broker, stream, format!("{inbox}.{index}"), message).await);
    }
    tokio::select! {
        biased;
        () = settle(stream, &mut appends, answers) => {}
        () = lost => {}
    }
    let ended: Vec<_> = appends.into_iter().map(Append::end).collect();
    ended.iter().for_each(|appended| broker.tell_unstored(stream, appended));
    ended
}

/// One of the appends.
struct Append {
    subject: String,
    /// `None` while the server has not answered.
    answer: Option<Result<Appended, AppendError>>,
}

impl Append {
    fn end(self) -> Result<Appended, AppendError> {
        self.answer.unwrap_or_else(|| Err(unclear(&self.subject, NO_ANSWER)))
    }
}

fn unclear(subject: &str, detail: &str) -> AppendError {
    AppendError::Unclear { subject: subject.to_owned(), detail: detail.to_owned() }
}

async fn publish(broker: &NatsBroker, stream: &str, reply: String, message: NewMessage) -> Append {
    let headers = append_headers(stream, message.expected_last, header_map(&message.headers));
    let subject = message.subject;
    let sent =
        broker.client.publish_with_reply_and_headers(subject.clone(), reply, headers, message.payload).await;
    let answer = sent.err().map(|error| {
        let (subject, detail) = (subject.clone(), error.to_string());
        Err(match error.kind() {
            PublishErrorKind::InvalidSubject | PublishErrorKind::MaxPayloadExceeded => {
                AppendError::Refused { subject, detail }
            }
            PublishErrorKind::Send => AppendError::Unclear { subject, detail },
        })
    });
    Append { subject, answer }
}

/// Waits until every append has its answer, the time is up, or no more answers can come.
async fn settle(stream: &str, appends: &mut [Append], mut answers: Subscriber) {
    let deadline = Instant::now() + APPEND_TIMEOUT;
    let mut waiting = appends.iter().filter(|append| append.answer.is_none()).count();
    while waiting > 0 {
        let Ok(Some(answer)) = timeout_at(deadline, answers.next()).await else { return };
        let of = index(&answer).and_then(|index| appends.get_mut(index));
        if let Some(Append { subject, answer: missing @ None }) = of {
            *missing = Some(appended(stream, subject, &answer));
            waiting -= 1;
        }
    }
}

/// The append that a message answers.
fn index(answer: &Message) -> Option<usize> {
    answer.subject.rsplit_once('.')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use millstream_contract::{stored_message::Headers, stream_names::EVENTS};

    use super::*;
    use crate::line::Dialer;
    use crate::testing::test_server::TestServer;

    fn message(subject: String) -> NewMessage {
        NewMessage { subject, expected_last: None, headers: Headers::new(), payload: "x".into() }
    }

    #[tokio::test]
    async fn appends_without_a_clear_answer_are_unclear_and_the_others_stored() {
        let server = TestServer::start_provisioned().await;
        let broker = server.broker().await;
        let responder = server.client().await;
        // Somebody listens, so the server does not say that nobody does; they never answer, or with something else.
        let _silent = responder.subscribe("silent.>").await.unwrap();
        let mut strange = responder.subscribe("strange.>").await.unwrap();
        // The server has both when it answers what came behind them on the same connection.
        NatsBroker::new(responder.clone(), Dialer::plain(&server.url()), None).state(EVENTS).await.unwrap();
        let answering = tokio::spawn(async move {
            while let Some(message) = strange.next().await {
                responder.publish(message.reply.unwrap(), "no acknowledgement".into()).await.unwrap();
            }
        });
        let subjects = (0..INBOX_MIN * 3).map(|number| match number % 3 {
            0 => format!("evt.a.b.{number}"),
            1 => format!("silent.{number}"),
            _ => format!("strange.{number}"),
        });
        let subjects: Vec<_> = subjects.collect();
        let answers = append_each(&broker, EVENTS, subjects.iter().cloned().map(message).collect()).await;
        answering.abort();
        for (asked, answer) in subjects.iter().zip(&answers) {
            match (asked.split('.').next().unwrap(), answer) {
                ("evt", Ok(_)) => {}
                ("silent", Err(AppendError::Unclear { subject, detail })) if subject == asked => {
                    assert_eq!(detail, NO_ANSWER);
                }
                ("strange", Err(AppendError::Unclear { subject, detail })) if subject == asked => {
                    assert!(detail.contains("does not decode"), "{detail}");
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(broker.state(EVENTS).await.unwrap().last_sequence, INBOX_MIN as u64);
    }
}
