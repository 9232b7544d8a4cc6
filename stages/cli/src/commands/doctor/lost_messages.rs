//! Checks whether the streams hold what the server says. A server whose folder is gone continues as if nothing had happened: it describes its
//! streams from memory, finds out what is missing only when somebody asks for it, and from then on says that the stream is empty.

use futures::future::join_all;
use millstream_contract::{
    exit_code::ExitCode,
    stream_names::{EVENTS, OUTCOMES, STREAMS},
};
use millstream_jetstream::broker::{Broker, BrokerError, StreamState};
use millstream_runtime::stage_check::{Check, Trouble};

use super::trouble;

/// The name of this check.
pub(super) const WHAT: &str = "messages";
/// Nobody empties these streams: one is never purged, and in the other the last record always stays.
const NEVER_EMPTY: [&str; 2] = [EVENTS, OUTCOMES];

/// Asks for the first message of each stream. What the server used in the last seconds is in its memory, and is found whatever happened to its
/// files. If a stream cannot be read, another check reports that.
pub(super) async fn messages<B: Broker>(broker: &B) -> Check {
    let looks = STREAMS.map(async |stream| look(broker, stream).await.ok().flatten());
    let missing: Vec<String> = join_all(looks).await.into_iter().flatten().collect();
    Check { what: WHAT.to_owned(), result: told(&missing) }
}

/// What is missing in a stream.
async fn look<B: Broker>(broker: &B, stream: &str) -> Result<Option<String>, BrokerError> {
    let before = broker.state(stream).await?;
    let holds_any = before.usage.messages > 0;
    if holds_any && broker.get(stream, before.first_sequence).await?.is_some() {
        return Ok(None);
    }
    // The message may have been purged between the two questions. Besides, a server that has just found it missing describes the stream anew.
    let now = broker.state(stream).await?;
    Ok(missing(stream, &before, &now))
}

/// Judges a stream whose first message was not found, by its state before the question and after it.
fn missing(stream: &str, before: &StreamState, now: &StreamState) -> Option<String> {
    let last = now.last_sequence;
    if now.usage.messages == 0 {
        let lost = NEVER_EMPTY.contains(&stream) && last > 0;
        return lost.then(|| format!("{stream} holds none of its messages up to {last}"));
    }
    let first = now.first_sequence;
    let same = before.usage.messages > 0 && before.first_sequence == first;
    same.then(|| format!("{stream} begins with a message at {first} that is not there"))
}

fn told(missing: &[String]) -> Result<String, Trouble> {
    if missing.is_empty() {
        return Ok("the first one of each stream can be read".to_owned());
    }
    let sentence = format!(
        "{}: the server has lost them, or its folder is gone under it. Look at its log and its folder before it is started again, since it may \
         begin empty; then restore a backup (docs/runbooks/restore-a-backup.md)",
        missing.join(", ")
    );
    Err(trouble(ExitCode::Data, sentence))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use millstream_contract::stored_message::Headers;
    use millstream_jetstream::{
        broker::{NewMessage, StreamUsage},
        testing::test_server::TestServer,
    };

    use super::*;

    fn state(first_sequence: u64, last_sequence: u64, messages: u64) -> StreamState {
        let usage = StreamUsage { messages, ..StreamUsage::default() };
        StreamState { generation: "one".to_owned(), first_sequence, last_sequence, usage }
    }

    #[test]
    fn what_was_purged_meanwhile_is_not_lost() {
        let full = state(1, 9, 9);
        assert_eq!(missing("COMMANDS", &full, &state(4, 9, 6)), None);
        assert_eq!(missing("COMMANDS", &full, &state(10, 9, 0)), None);
        assert_eq!(missing(EVENTS, &state(1, 0, 0), &state(1, 0, 0)), None, "nothing has happened yet");
        let lost = missing("COMMANDS", &full, &full).unwrap();
        assert_eq!(lost, "COMMANDS begins with a message at 1 that is not there");
    }

    /// The server came up and described an empty stream, which was as defined: all checks were well.
    #[tokio::test]
    async fn a_stream_whose_files_are_gone_is_told() {
        let mut server = TestServer::start_provisioned().await;
        let broker = server.broker().await;
        assert!(messages(&broker).await.result.is_ok());
        for (stream, subject) in [(EVENTS, "evt.a.b.c"), ("DEADLETTERS", "dlq.COMMANDS.1")] {
            let (subject, payload) = (subject.to_owned(), Bytes::from_static(b"x"));
            let message = NewMessage { subject, expected_last: None, headers: Headers::new(), payload };
            broker.append(stream, message).await.unwrap();
        }
        assert!(messages(&broker).await.result.is_ok());
        server.stop().await;
        std::fs::remove_file(server.stream_folder(EVENTS).join("msgs/1.blk")).unwrap();
        server.restart().await;
        let broker = server.broker().await;
        let Trouble { sentence, code } = messages(&broker).await.result.unwrap_err();
        assert!(sentence.starts_with("EVENTS holds none of its messages up to 1: "), "{sentence}");
        assert_eq!(code, ExitCode::Data);
    }
}
