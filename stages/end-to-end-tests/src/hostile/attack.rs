//! What a hostile client does, one deed after the other, by dice. Whatever it sends, it may send: it publishes on `cmd.>`,
//! `timer.>`, `submit.>`, `query.>`, `stage.>` and `$SRV.>` only.
//!
//! Deliberately absent: reply subjects of others, on which the server would acknowledge (docs/permissions.md is about those), and
//! rollups on `timer.>`, with which whoever may publish there removes every timer (docs/reliability.md).

mod bursts;
mod single;

use millstream_contract::testing::dice::Dice;

use super::message::Message;

/// How often each kind comes in one deck: all of them come before one comes again.
const DECK: [(Kind, usize); 12] = [
    (Kind::Command, 8),
    (Kind::ForeignBytes, 5),
    (Kind::LongValue, 4),
    (Kind::Largest, 3),
    (Kind::Timer, 4),
    (Kind::LargestTimer, 1),
    (Kind::Request, 5),
    (Kind::OpenBatch, 1),
    (Kind::Garbage, 2),
    (Kind::Backlog, 2),
    (Kind::Junk, 1),
    (Kind::GrowingRow, 3),
];

/// A kind of deed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Commands with anything in subject, headers and body, among fine ones.
    Command,
    /// Bytes that the client library of the stages cannot read.
    ForeignBytes,
    /// Values, names of fields and headers of 100,000 bytes and more.
    LongValue,
    /// As large as a message may be, or a little larger.
    Largest,
    /// Schedules that fall due soon.
    Timer,
    /// Timers as large as a message may be.
    LargestTimer,
    /// Requests to every service.
    Request,
    /// An atomic batch that is begun and never ended.
    OpenBatch,
    /// Bytes that are no protocol.
    Garbage,
    /// Many commands at once: on one aggregate, or on as many aggregates.
    Backlog,
    /// Tens of thousands of commands that cannot be read.
    Junk,
    /// One row that grows beyond what a message may hold.
    GrowingRow,
}

/// What is done at once.
#[derive(Debug)]
pub(super) enum Deed {
    /// Messages on one connection.
    Messages(Vec<Message>),
    /// Bytes on a connection of their own.
    Bytes(Vec<u8>),
}

impl Deed {
    /// Bytes that it takes.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Messages(messages) => messages.iter().map(Message::size).sum(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    /// How many messages it has.
    pub(super) fn messages(&self) -> usize {
        match self {
            Self::Messages(messages) => messages.len(),
            Self::Bytes(_) => 0,
        }
    }
}

/// Makes one deed after the other.
#[derive(Debug)]
pub(super) struct Attack {
    dice: Dice,
    deck: Vec<Kind>,
    /// The server's `max_payload`.
    payload_max: usize,
    /// Deeds made so far.
    made: u64,
    /// Returns sent so far for rows that grow.
    returns: u64,
}

impl Attack {
    pub(super) fn new(dice: Dice, payload_max: usize) -> Self {
        Self { dice, deck: Vec::new(), payload_max, made: 0, returns: 0 }
    }

    pub(super) fn next(&mut self) -> (Kind, Deed) {
        self.made += 1;
        let kind = self.draw();
        let deed = match kind {
            Kind::Command => self.commands(),
            Kind::ForeignBytes => self.foreign_bytes(),
            Kind::LongValue => self.long_values(),
            Kind::Largest => self.largest(),
            Kind::Timer => self.timers(),
            Kind::LargestTimer => self.largest_timers(),
            Kind::Request => self.requests(),
            Kind::OpenBatch => self.open_batch(),
            Kind::Garbage => Deed::Bytes(self.garbage()),
            Kind::Backlog => self.backlog(),
            Kind::Junk => self.junk(),
            Kind::GrowingRow => self.growing_row(),
        };
        (kind, deed)
    }

    fn draw(&mut self) -> Kind {
        if self.deck.is_empty() {
            self.deck = DECK.iter().flat_map(|(kind, count)| vec![*kind; *count]).collect();
        }
        let place = usize::try_from(self.dice.below(self.deck.len() as u64)).unwrap_or_default();
        self.deck.swap_remove(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAYLOAD_MAX: usize = 1024 * 1024;

    #[test]
    fn a_deck_holds_every_kind_and_the_same_seed_the_same_deeds() {
        let count: usize = DECK.iter().map(|(_, count)| count).sum();
        let run = |seed| {
            let mut attack = Attack::new(Dice::new(seed), PAYLOAD_MAX);
            (0..count)
                .map(|_| attack.next())
                .map(|(kind, deed)| (kind, format!("{deed:?}")))
                .collect::<Vec<_>>()
        };
        let (first, again) = (run(7), run(7));
        assert!(first == again, "two runs of one seed differ");
        let mut kinds: Vec<Kind> = first.into_iter().map(|(kind, _)| kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(kinds.len(), DECK.len());
    }

    /// A sentence that was not cut was too large for its record, and the handler ended at it again and again.
    #[test]
    fn a_value_that_swells_fits_into_a_message_and_not_into_the_sentence_about_it() {
        let mut attack = Attack::new(Dice::new(1), PAYLOAD_MAX);
        for _ in 0..10 {
            let message = attack.swelling();
            let body: serde_json::Value = serde_json::from_slice(&message.body).unwrap();
            let shown = ["currency", "sold_at"].map(|field| format!("{:?}", body[field]).len());
            assert!(message.size() <= PAYLOAD_MAX && shown.into_iter().max() > Some(PAYLOAD_MAX));
        }
    }

    #[test]
    fn only_subjects_are_used_on_which_applications_may_publish() {
        let mut attack = Attack::new(Dice::new(1), PAYLOAD_MAX);
        for _ in 0..100 {
            let (kind, Deed::Messages(messages)) = attack.next() else { continue };
            for message in messages {
                let subject = message.subject.escape_ascii().to_string();
                let may = ["cmd.", "timer.", "submit.", "query.", "stage.", "$SRV."];
                assert!(may.iter().any(|prefix| subject.starts_with(prefix)), "{kind:?}: {subject}");
                let headers = message.headers.to_ascii_lowercase();
                let timer = subject.starts_with("timer.");
                assert!(!(timer && headers.windows(11).any(|part| part == b"nats-rollup")), "{subject}");
            }
        }
    }
}
