//! Puts the command of a dead letter back onto COMMANDS: once, however many people retry the letter at the same moment, and only while
//! DEADLETTERS could keep the letter again.

use std::collections::BTreeSet;

use millstream_contract::{
    exit_code::{ExitCode, Failure},
    header,
    stored_message::{Headers, StoredMessage},
    stream_names::{COMMANDS, DEAD_LETTERS},
    subject::Origin,
};

use super::kept_letter::{KeptLetter, appended_size};
use crate::broker::{AppendError, Broker, BrokerError, NewMessage};

/// How many letters of the same size must still fit into DEADLETTERS: as many may be retried at the same time.
const ROOM_LETTERS: u64 = 16;
/// What a letter takes beside the headers and the body of its message, at most, in bytes.
const OVERHEAD_BYTES: u64 = 4 * 1024;

/// Why a letter is not put back.
#[derive(Debug, thiserror::Error)]
pub enum PutBackError {
    /// COMMANDS does not have it.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The server does not answer.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// If the command were set aside again, nobody could keep it.
    #[error(
        "{DEAD_LETTERS} is full, so the command could not be kept if it were set aside again; drop letters, or make the stream larger"
    )]
    NoRoom,
}

impl PutBackError {
    /// Why COMMANDS does not have it, if that is the reason.
    pub fn append(&self) -> Option<&AppendError> {
        match self {
            Self::Append(error) => Some(error),
            Self::Broker(_) | Self::NoRoom => None,
        }
    }
}

impl Failure for PutBackError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Append(error) => error.exit_code(),
            Self::Broker(error) => error.exit_code(),
            Self::NoRoom => ExitCode::Unavailable,
        }
    }
}

/// Appends `command`, which [`KeptLetter::command`] has made of the letter. Returns its position.
///
/// The server takes it once within its time for duplicates, because the message id is that of this letter. Somebody else may have used that id:
/// what the server has instead is compared, and is only taken for this command if it is the same. Later, and where the message would be too large
/// with that id, the command's own id makes sure that it takes effect once.
///
/// # Errors
/// [`PutBackError`].
pub async fn put_back<B: Broker>(
    broker: &B,
    kept: &KeptLetter,
    command: &NewMessage,
) -> Result<u64, PutBackError> {
    if !has_room(broker, kept).await? {
        return Err(PutBackError::NoRoom);
    }
    let mut once = command.clone();
    once.headers.push(header::NATS_MESSAGE_ID, format!("retry:{}:{}", kept.name(), kept.sequence));
    if appended_size(&once) > broker.message_bytes_max() {
        return Ok(broker.append(COMMANDS, command.clone()).await?.sequence);
    }
    let appended = broker.append(COMMANDS, once.clone()).await?;
    if appended.duplicate {
        let there = broker.get(COMMANDS, appended.sequence).await?;
        if !there.is_some_and(|there| is_same(&there, &once)) {
            return Ok(broker.append(COMMANDS, command.clone()).await?.sequence);
        }
    }
    Ok(appended.sequence)
}

async fn has_room<B: Broker>(broker: &B, kept: &KeptLetter) -> Result<bool, BrokerError> {
    let usage = broker.state(DEAD_LETTERS).await?.usage;
    let letter = &kept.letter;
    let bytes = letter.payload.len() + letter.headers.block().len();
    let bytes = (bytes as u64 + OVERHEAD_BYTES).saturating_mul(ROOM_LETTERS);
    let messages = (kept.further.len() as u64 + 1).saturating_mul(ROOM_LETTERS);
    let fits =
        |used: u64, more: u64, max: Option<u64>| max.is_none_or(|max| used.saturating_add(more) <= max);
    Ok(fits(usage.bytes, bytes, usage.bytes_max) && fits(usage.messages, messages, usage.messages_max))
}

/// Whether a message of COMMANDS is what was published. COMMANDS puts a token of its own into the subjects of senders, and an append names the
/// stream besides.
fn is_same(stored: &StoredMessage, published: &NewMessage) -> bool {
    let address = published.subject.split_once('.').map_or("", |(_, address)| address);
    // The client library sends headers in any order.
    let own = |headers: &Headers| -> BTreeSet<(String, String)> {
        let own = headers.iter().filter(|(name, _)| *name != header::EXPECTED_STREAM);
        own.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    let is_at = |subject: &str| subject.strip_suffix(address).is_some_and(|before| before.ends_with('.'));
    !address.is_empty()
        && is_at(&stored.subject)
        && Origin::of_stored_subject(&stored.subject) == Origin::of_stored_subject(&published.subject)
        && own(&stored.headers) == own(&published.headers)
        && stored.headers.unreadable().is_none()
        && stored.payload == published.payload
}

#[cfg(test)]
mod tests {
    use millstream_contract::dead_letter::DeadLetter;

    use super::*;
    use crate::{
        dead_letter_store::DeadLetterStore,
        dead_letters::{letter_name::LetterName, read_letter},
        nats_broker::NatsBroker,
        testing::test_server::TestServer,
    };

    const SUBJECT: &str = "cmd.retail.product.tea.register";

    async fn kept(broker: &NatsBroker, sequence: u64, size: usize) -> KeptLetter {
        let message = StoredMessage {
            subject: "cmdq.1.retail.product.tea.register".to_owned(),
            sequence,
            stored_at: jiff::Timestamp::UNIX_EPOCH,
            headers: Headers::new(),
            payload: vec![b'x'; size].into(),
        };
        let letter = DeadLetter::new(COMMANDS, &message, "code", "cause");
        let name: LetterName = letter.name().parse().unwrap();
        let answers = DeadLetterStore::new(broker.clone()).try_keep(&[letter]).await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        read_letter(broker, &name).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn a_letter_is_put_back_once_by_however_many() {
        let server = TestServer::start_provisioned().await;
        let broker = server.broker().await;
        let kept = kept(&broker, 7, 100).await;
        let command = kept.command(broker.message_bytes_max()).unwrap();
        let all = futures::future::join_all((0..20).map(|_| put_back(&broker, &kept, &command))).await;
        assert!(all.iter().all(|position| matches!(position, Ok(1))), "{all:?}");
        assert_eq!(broker.state(COMMANDS).await.unwrap().last_sequence, 1);
    }

    /// The id can be guessed.
    #[tokio::test]
    async fn whoever_uses_the_message_id_first_keeps_the_command_from_nobody() {
        let server = TestServer::start_provisioned().await;
        let broker = server.broker().await;
        for (number, change) in (1..).zip(["subject", "payload", "headers"]) {
            let kept = kept(&broker, number, 100).await;
            let command = kept.command(broker.message_bytes_max()).unwrap();
            assert_eq!(command.subject, SUBJECT);
            let mut forged = command.clone();
            let id = format!("retry:{}:{}", kept.name(), kept.sequence);
            match change {
                "subject" => forged.subject = SUBJECT.replace("tea", "pot"),
                "payload" => forged.payload = "{}".into(),
                _ => forged.headers.push(header::EXPECTED_VERSION, "99"),
            }
            forged.headers.push(header::NATS_MESSAGE_ID, id);
            let first = broker.append(COMMANDS, forged).await.unwrap().sequence;
            assert_eq!(put_back(&broker, &kept, &command).await.unwrap(), first + 1, "{change}");
            let stored = broker.get(COMMANDS, first + 1).await.unwrap().unwrap();
            assert_eq!(stored.payload, command.payload, "{change}");
        }
    }

    #[tokio::test]
    async fn a_command_as_large_as_a_message_may_be_is_put_back() {
        let server = TestServer::start_provisioned().await;
        let broker = server.broker().await;
        let max = broker.message_bytes_max();
        let small = kept(&broker, 1, 0).await;
        let room = max - appended_size(&small.command(max).unwrap());
        // The letter is stored in parts.
        let large = kept(&broker, 2, room).await;
        let command = large.command(max).unwrap();
        assert_eq!(appended_size(&command), max);
        assert_eq!(put_back(&broker, &large, &command).await.unwrap(), 1);
        assert_eq!(broker.get(COMMANDS, 1).await.unwrap().unwrap().payload.len(), room);
    }

    #[tokio::test]
    async fn what_could_not_be_kept_again_stays() {
        let server = TestServer::start_provisioned().await;
        let broker = server.broker().await;
        let small = kept(&broker, 1, 100).await;
        let large = kept(&broker, 2, 100_000).await;
        let jetstream = async_nats::jetstream::new(server.client().await);
        let mut config = jetstream.get_stream(DEAD_LETTERS).await.unwrap().cached_info().config.clone();
        config.max_bytes = 1_000_000;
        jetstream.update_stream(config).await.unwrap();
        let of = |kept: &KeptLetter| kept.command(broker.message_bytes_max()).unwrap();
        let refused = put_back(&broker, &large, &of(&large)).await;
        assert!(matches!(refused, Err(PutBackError::NoRoom)), "{refused:?}");
        assert_eq!(broker.state(COMMANDS).await.unwrap().last_sequence, 0);
        assert_eq!(put_back(&broker, &small, &of(&small)).await.unwrap(), 1);
    }
}
