//! Bugs that can be planted, to see whether the simulation finds them (docs/simulation.md). Without the feature
//! `simulation` none ever is: `planted` is then a constant.
//!
//! Only bugs that no broker could play are planted in the code itself; the others are in `testing/simulation/sabotage.rs`.

/// A bug in the engine's own code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeededBug {
    /// Positions of commands in commits are not looked at.
    PositionsIgnored,
    /// A command that others have overtaken is decided on what came after it too.
    PastDecidedOnPresent,
    /// States, and the belief that they are current, survive the loss of the turn.
    StatesKeptAfterTurn,
    /// The index of ids is not asked: only JetStream's own window guards against repeats.
    IdsOfWindowOnly,
    /// An id that comes twice in a round is looked up once.
    RepeatsWithinRound,
    /// A command that changes several aggregates is settled in a round with others.
    TogetherWithinRound,
    /// The commits of such a command are appended one after the other, its own first.
    TogetherSingly,
    /// A partner's state is believed without a read that shows it to be current; one that is not known is supposed new.
    PartnerNotCurrent,
    /// And its commit is appended without expectation.
    PartnerWithoutExpectation,
    /// A server that lost its tail is not noticed at a takeover.
    LostTailUnnoticed,
    /// The index of ids is not compared with the record that it names.
    IndexBySequenceAlone,
    /// States and snapshots are not compared with the commit that went into them last.
    StatesBySequenceAlone,
    /// Rows and checkpoints are written in two transactions.
    CheckpointInOtherTransaction,
    /// A checkpoint is not compared with the message that it names.
    CheckpointBySequenceAlone,
    /// Messages that a projection has applied are applied again when another one needs them.
    SeenAppliedAgain,
}

#[cfg(feature = "simulation")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<SeededBug>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug, or none, for everything that runs on this thread.
#[cfg(feature = "simulation")]
pub fn plant(bug: Option<SeededBug>) {
    PLANTED.set(bug);
}

/// Whether `bug` is planted.
#[cfg(feature = "simulation")]
pub fn planted(bug: SeededBug) -> bool {
    PLANTED.get() == Some(bug)
}

/// No bug is planted in a release.
#[cfg(not(feature = "simulation"))]
pub const fn planted(_bug: SeededBug) -> bool {
    false
}
