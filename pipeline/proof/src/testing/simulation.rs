//! Simulation of the write side: handlers that do not trust each other, over the twin of JetStream with every fault, and afterwards the checks
//! of [`crate::verification`]. A run is determined by its seed (docs/simulation.md).

mod bugs;
mod judgement;
mod lost_tail;
mod processes;
mod projector;
mod rules;
mod sabotage;
mod workload;

use std::{collections::BTreeSet, num::NonZeroUsize, time::Duration};

pub use self::{
    bugs::{BUGS, Bug, PlantedBug, Scenario, UnknownBug},
    judgement::Counts,
    lost_tail::simulate_lost_tail,
    projector::simulate_projector,
};
use millstream_contract::{
    outcome::OutcomeRecord,
    stream_names::{COMMANDS, OUTCOMES},
    testing::dice::Dice,
};
use millstream_jetstream::{
    group_append::AppendStrategy,
    testing::{
        fault_plan::FaultPlan,
        memory_broker::{FaultCounts, MemoryBroker, Recorded},
    },
};
use millstream_write_side::state_cache::CacheLimits;

use self::{
    judgement::judge,
    processes::{Disturbance, Processes, chaos},
    workload::Client,
};

/// The virtual time within which a system without further faults must have decided everything.
const RECOVERY_MAX: Duration = Duration::from_secs(900);
/// The pause between two checks of how far the handlers have come.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// Which servers a recording is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerKind {
    /// A single server, which checks expectations before message ids.
    Single,
    /// Several servers with replicated streams, which check message ids first.
    Replicated,
}

/// The settings of a run besides its seed.
#[derive(Debug, Clone, Default)]
pub struct SimulationSettings {
    /// Whether to keep the last lines of the trace.
    pub keep_trace: bool,
    /// Whether to record the questions to the server, to put them to a real one.
    pub record: Option<ServerKind>,
    /// A bug to plant.
    pub bug: Option<Bug>,
}

/// The result of a run.
#[derive(Debug, Clone)]
pub struct RunReport {
    /// Its seed.
    pub seed: u64,
    /// Broken guarantees; empty if all is well.
    pub violations: Vec<String>,
    /// How often each fault happened.
    pub faults: FaultCounts,
    /// What the handlers did, in numbers.
    pub counts: Counts,
    /// A hash of all questions and answers, in order.
    pub trace_hash: u64,
    /// The questions to the server and its answers, if they were recorded.
    pub recorded: Vec<Recorded>,
    /// The last lines of the trace, if they were kept.
    pub trace: Vec<String>,
}

/// How the handlers of a run work.
#[derive(Debug, Clone)]
struct RunShape {
    handlers: usize,
    commands: usize,
    accounts: u64,
    /// How often commands are sent several at a time.
    bursts: f64,
    round_max: NonZeroUsize,
    cache: CacheLimits,
    append_strategy: AppendStrategy,
    /// The mean pause between two crashes, freezes or restarts.
    chaos_pause: Duration,
    /// The longest usual pause between two commands.
    command_pause: Duration,
    /// What happens to the handlers.
    disturbances: Vec<Disturbance>,
}

impl RunShape {
    fn any(dice: &mut Dice) -> Self {
        let small = |number: u64| {
            NonZeroUsize::new(usize::try_from(number).unwrap_or(1)).unwrap_or(NonZeroUsize::MIN)
        };
        Self {
            handlers: *dice.pick(&[2, 2, 3]),
            commands: usize::try_from(dice.between(4, 40)).unwrap_or(4),
            accounts: *dice.pick(&[1, 1, 2, 4, 8]),
            bursts: *dice.pick(&[0.1, 0.1, 0.5]),
            round_max: small(*dice.pick(&[1, 2, 3, 8, 100])),
            cache: CacheLimits {
                states: small(*dice.pick(&[1, 2, 100])),
                bytes: *dice.pick(&[1, 2000, u64::MAX]),
                unsaved_commits: small(*dice.pick(&[1, 5, 100])),
            },
            append_strategy: *dice.pick(&[
                AppendStrategy::Measured,
                AppendStrategy::Single,
                AppendStrategy::Atomic,
                AppendStrategy::Atomic,
            ]),
            chaos_pause: Duration::from_millis(*dice.pick(&[300, 2_000, 20_000])),
            command_pause: Duration::from_millis(*dice.pick(&[0, 20, 1_000])),
            disturbances: Disturbance::any(dice),
        }
    }
}

/// Runs one seed to its end on the calling thread. The same seed gives the same report.
///
/// # Panics
/// When no runtime can be made.
pub fn simulate(seed: u64, settings: &SimulationSettings) -> RunReport {
    runtime().block_on(run(seed, settings))
}

/// Runs on one thread, in virtual time.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime of one thread needs nothing that could be missing")
}

async fn run(seed: u64, settings: &SimulationSettings) -> RunReport {
    let dice = Dice::new(seed);
    let mut plan = FaultPlan::any(&mut dice.fork(1));
    if let Some(kind) = settings.record {
        plan.message_id_first = kind == ServerKind::Replicated;
    }
    let shape = RunShape::any(&mut dice.fork(2));
    let settling = plan.late_max.max(plan.double_max);
    let broker = MemoryBroker::with_trace(dice.fork(3).bits(), plan, settings.keep_trace);
    if settings.record.is_some() {
        broker.start_recording();
    }
    let mut processes = Processes::new(broker.clone(), shape.clone(), settings.bug, dice.fork(4));
    for slot in 0..shape.handlers {
        processes.start(slot);
    }
    let client = Client::new(broker.connect(), &shape, dice.fork(5));
    let client = chaos(&mut processes, client, &shape, dice.fork(6)).await;

    broker.heal();
    processes.settle_down(&mut dice.fork(7)).await;
    let mut violations = Vec::new();
    wait_until_decided(&broker, &mut violations).await;
    // What is still under way may arrive now: late appends and second copies of commands.
    tokio::time::sleep(settling).await;
    wait_until_decided(&broker, &mut violations).await;
    violations.extend(processes.stop().await);
    let (found, counts) = judge(&broker, client.ledger(), processes.metrics());
    violations.extend(found);
    RunReport {
        seed,
        violations,
        faults: broker.faults(),
        counts,
        trace_hash: broker.trace_hash(),
        recorded: broker.recorded(),
        trace: broker.trace_lines(),
    }
}

/// Waits until every command has an outcome.
async fn wait_until_decided(broker: &MemoryBroker, violations: &mut Vec<String>) {
    let deadline = tokio::time::Instant::now() + RECOVERY_MAX;
    loop {
        let commands = broker.dump(COMMANDS).len();
        let decided = decided(broker);
        if decided >= commands {
            return;
        }
        if tokio::time::Instant::now() >= deadline {
            violations.push(format!("C10 progress: healed, and still only {decided} of {commands} decided"));
            return;
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

/// How many commands have an outcome.
fn decided(broker: &MemoryBroker) -> usize {
    let outcomes = broker.dump(OUTCOMES);
    let records = outcomes.iter().filter_map(|message| OutcomeRecord::from_stored(message).ok());
    let positions: BTreeSet<u64> =
        records.flat_map(|record| record.outcomes).map(|line| line.position).collect();
    positions.len()
}
