//! The list of all bugs that the simulation has to find, and what finds each of them. docs/simulation.md has it as a table, which a test
//! compares with this list.

use std::{fmt, str::FromStr};

use super::{SimulationSettings, simulate, simulate_lost_tail, simulate_projector};

/// A bug that can be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// See [`BUGS`].
    CommitsWithoutExpectation,
    /// See [`BUGS`].
    FirstCommitWithoutExpectation,
    /// See [`BUGS`].
    RecordsWithoutExpectation,
    /// A missing fence alone only costs the previous handler time: its next record is refused in any case. So with this bug, the handler also
    /// tries again after the record that preceded its own.
    NoFence,
    /// See [`BUGS`].
    LostTurnIgnored,
    /// See [`BUGS`].
    OutcomeBeforeAppend,
    /// See [`BUGS`].
    UnclearTakenForStored,
    /// See [`BUGS`].
    ConflictTakenForStored,
    /// See [`BUGS`].
    RetriedOnNewHead,
    /// See [`BUGS`].
    BatchTornApart,
    /// See [`BUGS`].
    BatchCountedFromItsFirst,
    /// See [`BUGS`].
    RefusedOnStaleRead,
    /// See [`BUGS`].
    CommandSkipped,
    /// See [`BUGS`].
    CommandRepeated,
    /// See [`BUGS`].
    CursorAtTheEnd,
    /// See [`BUGS`].
    CursorAtTheBeginning,
    /// See [`BUGS`].
    ExpectedVersionIgnored,
    /// See [`BUGS`].
    IdsForgottenAtRestart,
    /// See [`BUGS`].
    DecidedByWallClock,
    /// See [`BUGS`].
    DeadLettersWithMessageId,
    /// See [`BUGS`].
    IdsOfWindowOnly,
    /// See [`BUGS`].
    RepeatsWithinRound,
    /// See [`BUGS`].
    PositionsIgnored,
    /// See [`BUGS`].
    PastDecidedOnPresent,
    /// See [`BUGS`].
    TogetherSingly,
    /// See [`BUGS`].
    LostTailUnnoticed,
    /// See [`BUGS`].
    IndexBySequenceAlone,
    /// See [`BUGS`].
    StatesBySequenceAlone,
    /// See [`BUGS`].
    CheckpointInOtherTransaction,
    /// See [`BUGS`].
    CheckpointBySequenceAlone,
    /// See [`BUGS`].
    EventSkipped,
    /// See [`BUGS`].
    EventRepeated,
}

/// What is simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Scenario {
    /// Handlers under every fault: [`simulate`].
    #[default]
    Handlers,
    /// A server that comes back without its tail: [`simulate_lost_tail`].
    LostTail,
    /// A projector on a disk that forgets or fails: [`simulate_projector`].
    Projector,
}

impl Scenario {
    /// Runs one seed, and returns what is wrong.
    pub fn run(self, seed: u64, settings: &SimulationSettings) -> Vec<String> {
        match self {
            Self::Handlers => simulate(seed, settings).violations,
            Self::LostTail => simulate_lost_tail(seed, settings),
            Self::Projector => simulate_projector(seed, settings).violations,
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Handlers => "handlers",
            Self::LostTail => "lost-tail",
            Self::Projector => "projector",
        })
    }
}

/// An entry of the list.
#[derive(Debug, Clone, Copy)]
pub struct PlantedBug {
    /// Its name on the command line.
    pub name: &'static str,
    /// Which one.
    pub bug: Bug,
    /// The kind of simulation in which it shows.
    pub scenario: Scenario,
    /// The check that must find it; others may find it, too.
    pub caught_by: &'static str,
    /// A sentence about what is wrong.
    pub what: &'static str,
}

impl PlantedBug {
    /// The finding of the check that must find it.
    pub fn finding<'v>(&self, violations: &'v [String]) -> Option<&'v str> {
        let found = violations.iter().find(|violation| violation.split(' ').next() == Some(self.caught_by));
        found.map(String::as_str)
    }

    /// Whether these findings contain one of the check that must find it.
    pub fn is_found_in(&self, violations: &[String]) -> bool {
        self.finding(violations).is_some()
    }
}

impl fmt::Display for PlantedBug {
    /// A row of the table in docs/simulation.md.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, scenario, caught_by, what, .. } = self;
        write!(formatter, "| `{name}` | {what} | {scenario} | {caught_by} |")
    }
}

const fn in_handlers(
    name: &'static str,
    bug: Bug,
    caught_by: &'static str,
    what: &'static str,
) -> PlantedBug {
    PlantedBug { name, bug, scenario: Scenario::Handlers, caught_by, what }
}

const fn in_projector(
    name: &'static str,
    bug: Bug,
    caught_by: &'static str,
    what: &'static str,
) -> PlantedBug {
    PlantedBug { name, bug, scenario: Scenario::Projector, caught_by, what }
}

/// All of them.
pub const BUGS: &[PlantedBug] = &[
    in_handlers(
        "commits-without-expectation",
        Bug::CommitsWithoutExpectation,
        "C3",
        "commits are appended without expectation",
    ),
    in_handlers(
        "first-commit-without-expectation",
        Bug::FirstCommitWithoutExpectation,
        "C3",
        "the first commit of an aggregate is appended without expectation",
    ),
    in_handlers(
        "records-without-expectation",
        Bug::RecordsWithoutExpectation,
        "C1",
        "outcome records are appended without expectation",
    ),
    in_handlers(
        "no-fence",
        Bug::NoFence,
        "C1",
        "a takeover appends no fence, and a record that another one preceded is appended behind it",
    ),
    in_handlers(
        "lost-turn-ignored",
        Bug::LostTurnIgnored,
        "C1",
        "a handler that lost its turn appends its record all the same, behind the fence",
    ),
    in_handlers(
        "outcome-before-append",
        Bug::OutcomeBeforeAppend,
        "C2",
        "an outcome is recorded before its commit is stored",
    ),
    in_handlers(
        "unclear-taken-for-stored",
        Bug::UnclearTakenForStored,
        "C2",
        "an append without an answer counts as stored",
    ),
    in_handlers(
        "conflict-taken-for-stored",
        Bug::ConflictTakenForStored,
        "C2",
        "a refused append counts as stored: the other handler will have done the same",
    ),
    in_handlers(
        "retried-on-new-head",
        Bug::RetriedOnNewHead,
        "C2",
        "a refused or unanswered append is sent again on the aggregate's new head instead of decided again",
    ),
    in_handlers(
        "batch-torn-apart",
        Bug::BatchTornApart,
        "C2",
        "an atomic batch is sent as single messages, and the last one's answer is taken for all",
    ),
    in_handlers(
        "batch-counted-from-its-first",
        Bug::BatchCountedFromItsFirst,
        "C4",
        "the answer to an atomic batch is taken for the sequence of its first message",
    ),
    in_handlers(
        "refused-on-stale-read",
        Bug::RefusedOnStaleRead,
        "C4",
        "a command is refused on what any replica says",
    ),
    in_handlers(
        "command-skipped",
        Bug::CommandSkipped,
        "C1",
        "the reader of COMMANDS sometimes leaves a message out",
    ),
    in_handlers(
        "command-repeated",
        Bug::CommandRepeated,
        "C1",
        "the reader of COMMANDS sometimes delivers a message again",
    ),
    in_handlers(
        "cursor-at-the-end",
        Bug::CursorAtTheEnd,
        "C1",
        "a takeover goes on with the commands that come next",
    ),
    in_handlers(
        "cursor-at-the-beginning",
        Bug::CursorAtTheBeginning,
        "C1",
        "a takeover begins with the first command",
    ),
    in_handlers(
        "expected-version-ignored",
        Bug::ExpectedVersionIgnored,
        "C4",
        "`Millstream-Expected-Version` is not looked at",
    ),
    in_handlers(
        "ids-forgotten-at-restart",
        Bug::IdsForgottenAtRestart,
        "C2",
        "ids that others recorded are not learnt",
    ),
    in_handlers(
        "ids-of-window-only",
        Bug::IdsOfWindowOnly,
        "C2",
        "the index of ids is not asked: only JetStream's own window guards against repeats",
    ),
    in_handlers(
        "repeats-within-round",
        Bug::RepeatsWithinRound,
        "C2",
        "an id that comes twice in a round is looked up once",
    ),
    in_handlers(
        "positions-ignored",
        Bug::PositionsIgnored,
        "C2",
        "positions of commands in commits are not looked at",
    ),
    in_handlers(
        "past-decided-on-present",
        Bug::PastDecidedOnPresent,
        "C4",
        "a command that others have overtaken is decided on what came after it too",
    ),
    in_handlers(
        "together-singly",
        Bug::TogetherSingly,
        "C4",
        "the commits of a command that changes several aggregates are appended one after the other, its own first",
    ),
    in_handlers(
        "decided-by-wall-clock",
        Bug::DecidedByWallClock,
        "C4",
        "the clock of the handler decides, not that of COMMANDS",
    ),
    in_handlers(
        "dead-letters-with-message-id",
        Bug::DeadLettersWithMessageId,
        "C12",
        "dead letters carry the message id of their command",
    ),
    PlantedBug {
        name: "lost-tail-unnoticed",
        bug: Bug::LostTailUnnoticed,
        scenario: Scenario::LostTail,
        caught_by: "C11",
        what: "a server that lost its tail is not noticed at a takeover",
    },
    PlantedBug {
        name: "index-by-sequence-alone",
        bug: Bug::IndexBySequenceAlone,
        scenario: Scenario::LostTail,
        caught_by: "C2",
        what: "the index of ids is not compared with the record that it names last",
    },
    PlantedBug {
        name: "states-by-sequence-alone",
        bug: Bug::StatesBySequenceAlone,
        scenario: Scenario::LostTail,
        caught_by: "C5",
        what: "states and snapshots are not compared with the commit that went into them last",
    },
    in_projector(
        "checkpoint-in-other-transaction",
        Bug::CheckpointInOtherTransaction,
        "C6",
        "rows and checkpoints are written in two transactions",
    ),
    in_projector(
        "checkpoint-by-sequence-alone",
        Bug::CheckpointBySequenceAlone,
        "C6",
        "a checkpoint is not compared with the message that it names",
    ),
    in_projector(
        "event-skipped",
        Bug::EventSkipped,
        "C6",
        "the reader of EVENTS sometimes leaves a message out",
    ),
    in_projector(
        "event-repeated",
        Bug::EventRepeated,
        "C6",
        "the reader of EVENTS sometimes delivers a message again",
    ),
];

impl FromStr for &'static PlantedBug {
    type Err = UnknownBug;

    fn from_str(name: &str) -> Result<Self, UnknownBug> {
        BUGS.iter().find(|each| each.name == name).ok_or_else(|| UnknownBug { name: name.to_owned() })
    }
}

/// There is no bug with this name.
#[derive(Debug, thiserror::Error)]
#[error("there is no bug {name:?}; there are {}", BUGS.iter().map(|each| each.name).collect::<Vec<_>>().join(", "))]
pub struct UnknownBug {
    name: String,
}
