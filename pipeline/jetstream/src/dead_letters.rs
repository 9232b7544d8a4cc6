//! Dead letters as DEADLETTERS has them: found by name, read from the newest on, and removed.
//!
//! [`kept_letter`] is a letter together with its place, and the command that it becomes again; [`letter_name`] is how people name one;
//! [`put_back`] gives the command to COMMANDS again.
//! Deliberately absent: who may do any of this.

pub mod kept_letter;
pub mod letter_name;
pub mod put_back;

use millstream_contract::{
    dead_letter::is_further_part,
    exit_code::{ExitCode, Failure},
    stored_message::StoredMessage,
    stream_names::DEAD_LETTERS,
};

use self::{kept_letter::KeptLetter, letter_name::LetterName};
use crate::{
    broker::{Broker, BrokerError},
    dead_letter_store::whole_letter,
    nats_broker::NatsBroker,
};

/// How many questions to the server one page asks, but for those that cross one more gap. Each takes a fraction of a millisecond.
const QUESTIONS_MAX: usize = 1_000;
/// The most bytes of bodies that one page looks through.
const BYTES_MAX: usize = 8 * 1024 * 1024;

/// Why a letter cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LetterError {
    /// The server does not answer.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// A message of DEADLETTERS is not a letter.
    #[error("{DEAD_LETTERS} {sequence} on {subject} is no dead letter")]
    NoLetter {
        /// Its sequence.
        sequence: u64,
        /// Its subject.
        subject: String,
    },
}

impl LetterError {
    /// For a message that is not a letter.
    pub fn of(message: &StoredMessage) -> Self {
        Self::NoLetter { sequence: message.sequence, subject: message.subject.clone() }
    }
}

impl Failure for LetterError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Broker(error) => error.exit_code(),
            Self::NoLetter { .. } => ExitCode::Data,
        }
    }
}

/// The letter with a name, with its whole body; `None` if there is none.
///
/// # Errors
/// [`LetterError`].
pub async fn read_letter<B: Broker>(
    broker: &B,
    name: &LetterName,
) -> Result<Option<KeptLetter>, LetterError> {
    let Some(message) = broker.last(DEAD_LETTERS, &name.subject()).await? else { return Ok(None) };
    let letter = whole_letter(broker, &message).await?;
    let kept = letter.map(|letter| KeptLetter::new(&message, letter));
    kept.ok_or_else(|| LetterError::of(&message)).map(Some)
}

/// Removes a letter from DEADLETTERS. Can be repeated. A later letter of the same name stays.
///
/// # Errors
/// When the server does not answer, or this user may not purge DEADLETTERS.
pub async fn remove_letter<B: Broker>(broker: &B, kept: &KeptLetter) -> Result<(), BrokerError> {
    let subject = kept.letter.dead_letter_subject();
    broker.purge_subject(DEAD_LETTERS, &subject, Some(kept.sequence)).await?;
    for part in &kept.further {
        broker.purge_subject(DEAD_LETTERS, part, Some(kept.sequence)).await?;
    }
    Ok(())
}

/// A part of all letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LetterPage {
    /// The letters that were wanted, the newest first, each with as much of its body as its first message holds.
    pub letters: Vec<KeptLetter>,
    /// Where the next page ends: it has letters whose sequence in DEADLETTERS is smaller. `None` if nothing is left.
    pub before: Option<u64>,
}

/// The newest letters that are `wanted`, at most `limit` of them, all with a smaller sequence than `before`. A page asks a bounded number of
/// questions, so it may have fewer letters than `limit`, or none, although more follow.
///
/// # Errors
/// When the server does not answer, or this user may not read DEADLETTERS.
pub async fn letters_back(
    broker: &NatsBroker,
    before: Option<u64>,
    limit: usize,
    wanted: impl Fn(&KeptLetter) -> bool,
) -> Result<LetterPage, BrokerError> {
    let state = broker.state(DEAD_LETTERS).await?;
    let first = state.first_sequence;
    let end = state.last_sequence.saturating_add(1);
    let mut upper = before.map_or(end, |before| before.min(end));
    let (mut letters, mut asked) = (Vec::new(), Asked { broker, questions: 0, bytes: 0 });
    while letters.len() < limit && asked.questions < QUESTIONS_MAX && asked.bytes < BYTES_MAX {
        let Some(message) = asked.last_before(first, upper).await? else {
            return Ok(LetterPage { letters, before: None });
        };
        upper = message.sequence;
        let kept = KeptLetter::from_stored(&message).filter(|_| !is_further_part(&message));
        letters.extend(kept.filter(&wanted));
    }
    Ok(LetterPage { letters, before: (upper > first).then_some(upper) })
}

/// What a page has asked for so far.
struct Asked<'a> {
    broker: &'a NatsBroker,
    questions: usize,
    /// Bytes of the bodies that came.
    bytes: usize,
}

impl Asked<'_> {
    /// The last message of DEADLETTERS from `first` on whose sequence is smaller than `upper`. Letters that were retried or dropped leave gaps,
    /// which may be long: a gap is crossed in a number of questions that grows with the logarithm of its length.
    async fn last_before(&mut self, first: u64, upper: u64) -> Result<Option<StoredMessage>, BrokerError> {
        if upper <= first {
            return Ok(None);
        }
        let found = self.broker.get(DEAD_LETTERS, upper - 1).await?;
        if let Some(message) = self.count(found) {
            return Ok(Some(message));
        }
        // Nothing is stored from `end` up to `upper`.
        let (mut end, mut step) = (upper - 1, 2);
        let mut found = loop {
            if end <= first {
                return Ok(None);
            }
            let low = upper.saturating_sub(step).max(first);
            match self.next_from(low, end).await? {
                Some(message) => break message,
                None => (end, step) = (low, step.saturating_mul(2)),
            }
        };
        while found.sequence + 1 < end {
            let middle = found.sequence + 1 + (end - found.sequence - 1) / 2;
            match self.next_from(middle, end).await? {
                Some(message) => found = message,
                None => end = middle,
            }
        }
        Ok(Some(found))
    }

    /// The first message from `low` on, if its sequence is smaller than `end`.
    async fn next_from(&mut self, low: u64, end: u64) -> Result<Option<StoredMessage>, BrokerError> {
        let next = self.broker.next_after(DEAD_LETTERS, low.saturating_sub(1), &[]).await?;
        Ok(self.count(next).filter(|message| message.sequence < end))
    }

    fn count(&mut self, answer: Option<StoredMessage>) -> Option<StoredMessage> {
        self.questions += 1;
        self.bytes += answer.as_ref().map_or(0, |message| message.payload.len());
        answer
    }
}

#[cfg(test)]
mod tests {
    use millstream_contract::{dead_letter::DeadLetter, stored_message::Headers, stream_names::COMMANDS};

    use super::*;
    use crate::{dead_letter_store::DeadLetterStore, testing::test_server::TestServer};

    #[tokio::test]
    async fn a_page_ends_where_it_has_asked_enough_and_the_next_one_goes_on() {
        const GAP: u64 = 8;
        let server = TestServer::start_provisioned().await;
        let broker = server.broker().await;
        let letters: Vec<DeadLetter> = (1..=300 * GAP)
            .map(|sequence| {
                let message = StoredMessage {
                    subject: "cmdq.1.retail.product.tea.register".to_owned(),
                    sequence,
                    stored_at: jiff::Timestamp::UNIX_EPOCH,
                    headers: Headers::new(),
                    payload: "{}".into(),
                };
                DeadLetter::new(COMMANDS, &message, "code", "cause")
            })
            .collect();
        let kept = DeadLetterStore::new(broker.clone()).try_keep(&letters).await;
        assert!(kept.iter().all(Result::is_ok));
        for gone in letters.iter().filter(|letter| !letter.sequence.is_multiple_of(GAP)) {
            broker.purge_subject(DEAD_LETTERS, &gone.dead_letter_subject(), None).await.unwrap();
        }
        let (mut found, mut before, mut pages) = (Vec::new(), None, 0);
        loop {
            let page = letters_back(&broker, before, usize::MAX, |_| true).await.unwrap();
            found.extend(page.letters.iter().map(|kept| kept.letter.sequence));
            pages += 1;
            before = page.before;
            if before.is_none() {
                break;
            }
        }
        let expected: Vec<u64> = (1..=300).rev().map(|number| number * GAP).collect();
        assert!(found == expected, "{} letters", found.len());
        // Two questions at least cross a gap.
        assert!(pages > 1, "one page has asked for all of them");
    }
}
