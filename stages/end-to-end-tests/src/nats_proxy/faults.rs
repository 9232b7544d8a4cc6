//! What a proxy can do to a message, and who decides that: by the client's name, what the message is, and its number among those of
//! its kind, never by time. The same seed does the same to the same messages.

use std::{collections::BTreeMap, time::Duration};

use millstream_contract::testing::dice::Dice;

/// What a message is to JetStream. Streams are told by the names of Millstream's subjects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// To the server: something to store in this stream.
    Append(&'static str),
    /// To the client: the answer to that.
    Acknowledgement(&'static str),
    /// To the client: a message of this stream.
    Delivery(&'static str),
    /// To the server: a question to the JetStream API.
    Question,
    /// To the client: the answer to that.
    Answer,
    /// Everything else, also all that is not a message.
    Other,
}

/// A message on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen<'a> {
    /// The client's name: `command-handler-1`, …
    pub client: &'a str,
    /// What it is.
    pub kind: Kind,
    /// The number of this message among those of its kind and client, counted from 1 over all connections.
    pub number: u64,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It passes.
    Pass,
    /// It vanishes.
    Lose,
    /// It arrives twice, one after the other.
    Double,
    /// It arrives, and once more after this many further frames of its connection and direction.
    DoubleAfter(u64),
    /// It and what follows in its direction come later; other connections overtake.
    Stall(Duration),
    /// Nothing passes on its connection for this long, in no direction; then everything does.
    BlackHole(Duration),
    /// The connection ends before it.
    Cut,
    /// The connection ends in its middle.
    CutMidway,
    /// The client's connection ends at once; what it had sent, this included, reaches the server only after this long,
    /// when the client has come back and tried again.
    CutAndDeliverLate(Duration),
}

impl Verdict {
    /// For the count of what was done.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pass => "passed",
            Self::Lose => "lost",
            Self::Double => "doubled",
            Self::DoubleAfter(_) => "doubled later",
            Self::Stall(_) => "stalled",
            Self::BlackHole(_) => "black hole",
            Self::Cut => "cut before",
            Self::CutMidway => "cut midway",
            Self::CutAndDeliverLate(_) => "cut, delivered late",
        }
    }
}

/// Decides. Called once for each frame, in the order of each connection and direction.
pub trait Faults: Send + Sync + 'static {
    /// What becomes of a message.
    fn verdict(&self, seen: &Seen<'_>) -> Verdict;
}

impl<F: Fn(&Seen<'_>) -> Verdict + Send + Sync + 'static> Faults for F {
    fn verdict(&self, seen: &Seen<'_>) -> Verdict {
        self(seen)
    }
}

/// Everything that can happen, one after the other, to one of every so many messages of a kind and a client; which one of
/// them, the seed says.
#[derive(Debug, Clone)]
pub struct SeededFaults {
    seed: u64,
    periods: Vec<(Kind, u64)>,
}

/// Longer than a client of ours waits for JetStream (5 s): what comes so late was sent again before.
const LATE: Duration = Duration::from_millis(6500);
/// Shorter than the lease.
const SHORT: Duration = Duration::from_millis(700);

/// The ways of what goes to the server.
const TO_SERVER: [Verdict; 8] = [
    Verdict::Double,
    Verdict::CutAndDeliverLate(LATE),
    Verdict::Lose,
    Verdict::DoubleAfter(20),
    Verdict::Stall(SHORT),
    Verdict::CutMidway,
    Verdict::BlackHole(LATE),
    Verdict::Cut,
];
/// The ways of what goes to the client.
const TO_CLIENT: [Verdict; 7] = [
    Verdict::Lose,
    Verdict::Stall(SHORT),
    Verdict::CutMidway,
    Verdict::Lose,
    Verdict::BlackHole(SHORT),
    Verdict::Cut,
    Verdict::BlackHole(LATE),
];

impl SeededFaults {
    /// Something happens to one of every `period` messages of each of these kinds.
    #[must_use]
    pub fn new(seed: u64, periods: &[(Kind, u64)]) -> Self {
        Self { seed, periods: periods.to_vec() }
    }
}

impl Faults for SeededFaults {
    fn verdict(&self, seen: &Seen<'_>) -> Verdict {
        let Some((place, (_, period))) =
            (1_u64..).zip(&self.periods).find(|(_, (kind, _))| *kind == seen.kind)
        else {
            return Verdict::Pass;
        };
        let name = seen.client.bytes().fold(place, |all, byte| all.wrapping_mul(257) ^ u64::from(byte));
        let before = seen.number - 1;
        let turn = before / period;
        let chosen = Dice::new(self.seed).fork(name ^ turn.rotate_left(32)).below(*period);
        if before % period != chosen {
            return Verdict::Pass;
        }
        let ways = match seen.kind {
            Kind::Append(_) | Kind::Question => &TO_SERVER[..],
            _ => &TO_CLIENT[..],
        };
        let way = usize::try_from(turn).unwrap_or(0) % ways.len();
        ways.get(way).copied().unwrap_or(Verdict::Pass)
    }
}

/// How often what was done to which kind.
pub type Injected = BTreeMap<(Kind, &'static str), u64>;
