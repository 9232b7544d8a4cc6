//! Stores dead letters, many at the same time and each once. A letter that is too large for one message is stored in several, so every
//! letter can be stored.

use millstream_contract::{
    dead_letter::{DeadLetter, LetterPart, further_parts},
    stored_message::StoredMessage,
    stream_names::DEAD_LETTERS,
};

use crate::{
    broker::{AppendError, Broker, BrokerError, NewMessage},
    group_append::{AppendStrategy, GroupAppend},
    id_source::IdSource,
};

/// A stream that accepts less than this in one message cannot hold dead letters.
const MESSAGE_BYTES_MIN: usize = 8 * 1024;

/// Appends to DEADLETTERS.
#[derive(Debug)]
pub struct DeadLetterStore<B> {
    broker: B,
    appends: GroupAppend<B>,
}

impl<B: Broker> DeadLetterStore<B> {
    /// A store over `broker`. Each letter is appended on its own, all of them at the same time, because DEADLETTERS accepts no atomic
    /// batches.
    pub fn new(broker: B) -> Self {
        Self { appends: GroupAppend::new(broker.clone(), DEAD_LETTERS, AppendStrategy::Single), broker }
    }

    /// Stores each letter once, and waits while it is unclear whether a letter was stored. Returns one answer for each, in their order.
    ///
    /// # Errors
    /// [`AppendError::Full`] and [`AppendError::Refused`] for a letter that cannot be stored. The message itself is still in its stream.
    pub async fn keep(&self, letters: &[DeadLetter], ids: &IdSource) -> Vec<Result<(), AppendError>> {
        let mut answers = self.try_keep(letters).await;
        let mut backoff = ids.backoff();
        loop {
            let open: Vec<usize> = (0..)
                .zip(&answers)
                .filter(|(_, answer)| matches!(answer, Err(AppendError::Unclear { .. })))
                .map(|(index, _)| index)
                .collect();
            if open.is_empty() {
                return answers;
            }
            tracing::warn!(letters = open.len(), "dead letters are not stored yet");
            backoff.pause().await;
            let again: Vec<_> = open.iter().filter_map(|index| letters.get(*index)).cloned().collect();
            for (index, answer) in open.into_iter().zip(self.try_keep(&again).await) {
                if let Some(place) = answers.get_mut(index) {
                    *place = answer;
                }
            }
        }
    }

    /// Tries once to store each letter. Returns one answer for each, in their order.
    ///
    /// # Errors
    /// [`AppendError`], except [`AppendError::Conflict`], which says that the letter is already stored.
    pub async fn try_keep(&self, letters: &[DeadLetter]) -> Vec<Result<(), AppendError>> {
        let max = self.broker.message_bytes_max();
        let mut answers = self.append(letters, max).await;
        for (letter, answer) in letters.iter().zip(&mut answers) {
            // The stream accepts less than the server does.
            let mut max = max / 2;
            while matches!(answer, Err(AppendError::Refused { .. })) && max >= MESSAGE_BYTES_MIN {
                let again = self.append(std::slice::from_ref(letter), max).await.pop();
                *answer = again.unwrap_or(Ok(()));
                max /= 2;
            }
        }
        answers
    }

    /// The further parts are stored first, so that a letter is complete whenever its first message is found.
    async fn append(&self, letters: &[DeadLetter], max: usize) -> Vec<Result<(), AppendError>> {
        let mut answers = vec![Ok(()); letters.len()];
        let (mut first, mut further) = (Vec::with_capacity(letters.len()), Vec::new());
        for (index, letter) in letters.iter().enumerate() {
            let mut parts = letter.parts(max).into_iter().map(move |part| (index, part));
            first.extend(parts.next());
            further.extend(parts);
        }
        self.append_parts(further, &mut answers).await;
        first.retain(|(index, _)| answers.get(*index).is_some_and(Result::is_ok));
        self.append_parts(first, &mut answers).await;
        answers
    }

    async fn append_parts(&self, parts: Vec<(usize, LetterPart)>, answers: &mut [Result<(), AppendError>]) {
        let (places, messages): (Vec<_>, Vec<_>) = parts
            .into_iter()
            .map(|(index, part)| {
                let LetterPart { subject, headers, payload } = part;
                (index, NewMessage { subject, expected_last: Some(0), headers, payload })
            })
            .unzip();
        for (index, answer) in places.into_iter().zip(self.appends.append_all(messages).await) {
            match answer {
                // A conflict says that it was stored before.
                Ok(_) | Err(AppendError::Conflict { .. }) => {}
                Err(error) => {
                    if let Some(place) = answers.get_mut(index) {
                        *place = Err(error);
                    }
                }
            }
        }
    }
}

/// The letter that begins with `message`, with all its parts; `None` if the message is not a letter.
///
/// # Errors
/// When the server does not answer.
pub async fn whole_letter<B: Broker>(
    broker: &B,
    message: &StoredMessage,
) -> Result<Option<DeadLetter>, BrokerError> {
    let mut further = Vec::new();
    for subject in further_parts(message) {
        further.extend(broker.last(DEAD_LETTERS, &subject).await?);
    }
    Ok(DeadLetter::from_stored(message, &further))
}
