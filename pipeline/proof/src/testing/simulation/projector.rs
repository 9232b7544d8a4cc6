//! The read side under faults: a projector over EVENTS is killed and stopped, on a disk that forgets what was not synced or fails, while the
//! server restarts, loses its tail, or begins a new stream. Whenever the file is opened, the rows of each projection must be the fold of what
//! its checkpoint names; at the end, they must be the fold of everything.
//!
//! Deliberately absent: handlers. Commits are made up, and nothing here checks whether they were decided correctly.

mod disk;
mod projections;

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use millstream_contract::{
    commit::{Commit, RecordedEvent},
    error_text::one_line,
    stored_message::{Headers, StoredMessage},
    stream_names::EVENTS,
    testing::dice::Dice,
};
use millstream_domain::testing::project::command_at;
use millstream_jetstream::{
    broker::{Broker, NewMessage},
    testing::{
        fault_plan::FaultPlan,
        memory_broker::{MemoryBroker, MemoryStreamConfig},
    },
};
use millstream_read_side::projection_runner::{ProjectionRunner, RunnerConfig, RunnerError};
use millstream_store::read_store::ReadStore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::{
    disk::{Disk, reads_back},
    projections::{Projected, projected},
};
use super::{Bug, Counts, RECOVERY_MAX, RunReport, SimulationSettings, sabotage::Sabotage};

/// The pause between two checks of how far the projections have come.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// What happens to the projector and to what it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disturbance {
    /// `kill -9`: what was written stays, synced or not.
    Kill,
    /// What was not synced is lost, completely or in part.
    PowerCut,
    /// SIGSTOP, and SIGCONT the next time.
    Freeze,
    /// SIGTERM.
    Shutdown,
    /// The server loses its consumers.
    ServerRestart,
    /// The server comes back without its last messages. Messages that are appended later get their sequences.
    LostTail,
    /// The stream is deleted and made again.
    NewStream,
}

/// The settings of a run besides its seed.
struct Shape {
    commits: u64,
    accounts: u64,
    pause: Duration,
    chaos_pause: Duration,
    batch_max: usize,
    durable_interval: Duration,
    lane_distance: u64,
    disk_fails: f64,
    disturbances: Vec<Disturbance>,
}

impl Shape {
    fn any(dice: &mut Dice) -> Self {
        let mut disturbances = Vec::new();
        for (each, weights) in [
            (Disturbance::Kill, [0, 1, 4]),
            (Disturbance::PowerCut, [0, 1, 4]),
            (Disturbance::Freeze, [0, 1, 2]),
            (Disturbance::Shutdown, [0, 1, 1]),
            (Disturbance::ServerRestart, [0, 1, 2]),
            (Disturbance::LostTail, [0, 0, 1]),
            (Disturbance::NewStream, [0, 0, 1]),
        ] {
            disturbances.extend(std::iter::repeat_n(each, *dice.pick(&weights)));
        }
        if disturbances.is_empty() {
            disturbances.push(Disturbance::PowerCut);
        }
        Self {
            commits: dice.between(5, 60),
            accounts: *dice.pick(&[1, 3, 10]),
            pause: Duration::from_millis(*dice.pick(&[0, 20, 600])),
            chaos_pause: Duration::from_millis(*dice.pick(&[200, 1_000, 5_000])),
            batch_max: *dice.pick(&[1, 3, 100]),
            durable_interval: Duration::from_millis(*dice.pick(&[0, 100, 1_000])),
            disk_fails: *dice.pick(&[0.0, 0.0, 0.5]),
            lane_distance: *dice.pick(&[2, 6, 1_000]),
            disturbances,
        }
    }
}

/// Runs one seed to its end on the calling thread. The same seed gives the same report.
///
/// # Panics
/// When no runtime can be made.
pub fn simulate_projector(seed: u64, settings: &SimulationSettings) -> RunReport {
    super::runtime().block_on(run(seed, settings))
}

async fn run(seed: u64, settings: &SimulationSettings) -> RunReport {
    let dice = Dice::new(seed);
    let plan = FaultPlan::any(&mut dice.fork(1));
    let shape = Shape::any(&mut dice.fork(2));
    let settling = plan.late_max;
    let broker = MemoryBroker::with_trace(dice.fork(3).bits(), plan, settings.keep_trace);
    let mut side = ReadSide::new(broker.clone(), shape, settings.bug, dice.fork(4));
    let log = tokio::spawn(append_commits(broker.connect(), side.shape_of_log(), dice.fork(5)));
    side.start();
    side.chaos(&log).await;
    broker.heal();
    tokio::time::sleep(settling).await;
    side.shape.disk_fails = 0.0;
    side.catch_up().await;
    side.stop().await;
    side.open();
    RunReport {
        seed,
        violations: side.violations,
        faults: broker.faults(),
        counts: side.counts,
        trace_hash: broker.trace_hash(),
        recorded: Vec::new(),
        trace: broker.trace_lines(),
    }
}

/// Appends made-up commits, some without faults and some with all of them. None is sent twice.
async fn append_commits(
    broker: MemoryBroker,
    (commits, accounts, pause): (u64, u64, Duration),
    mut dice: Dice,
) {
    for number in 1..=commits {
        let aggregate = if dice.chance(0.2) { "vault" } else { "account" };
        let id = format!("{aggregate}-{}", dice.below(accounts));
        let message = NewMessage {
            subject: format!("evt.bank.{aggregate}.{id}"),
            expected_last: None,
            headers: Headers::new(),
            payload: Bytes::from(commit(number, dice.between(1, 3)).encode()),
        };
        // The stream shows whether it was stored.
        let _ = broker.append(EVENTS, message).await;
        let longest = if dice.chance(0.05) { pause * 20 } else { pause };
        tokio::time::sleep(dice.time(longest)).await;
    }
}

fn commit(number: u64, events: u64) -> Commit {
    let event = |index: u64| RecordedEvent {
        event_type: "noted".into(),
        schema: 1,
        data: format!("{number}.{index}").into_bytes(),
        command: 0,
    };
    Commit {
        commit_id: format!("commit-{number}").into(),
        first_version: 1,
        recorded_at: 0,
        commands: vec![command_at(number)],
        events: (0..events).map(event).collect(),
        previous: None,
    }
}

/// The projector as a process.
struct Process {
    connection: MemoryBroker,
    stop: CancellationToken,
    task: JoinHandle<Result<(), RunnerError>>,
    store: ReadStore,
}

/// The projector, its disk, and everything that EVENTS has ever held.
struct ReadSide {
    broker: MemoryBroker,
    shape: Shape,
    dice: Dice,
    sabotage: Sabotage,
    disk: Disk,
    process: Option<Process>,
    /// What EVENTS held before it lost something.
    past: Vec<Vec<StoredMessage>>,
    projected: Projected,
    violations: Vec<String>,
    counts: Counts,
}

impl ReadSide {
    fn new(broker: MemoryBroker, shape: Shape, bug: Option<Bug>, dice: Dice) -> Self {
        Self {
            broker,
            shape,
            sabotage: Sabotage::new(bug),
            disk: Disk::new(bug == Some(Bug::CheckpointInOtherTransaction)),
            process: None,
            past: Vec::new(),
            projected: projected(1),
            violations: Vec::new(),
            counts: BTreeMap::new(),
            dice,
        }
    }

    fn shape_of_log(&self) -> (u64, u64, Duration) {
        (self.shape.commits, self.shape.accounts, self.shape.pause)
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// Opens the file and checks whether rows and checkpoints agree. `None` if the disk fails.
    fn open(&mut self) -> Option<ReadStore> {
        let fails_after = self.dice.chance(self.shape.disk_fails).then(|| self.dice.between(1, 300));
        let store = match self.disk.open(fails_after) {
            Ok(store) => store,
            Err(_) if fails_after.is_some() => return None,
            Err(error) => {
                let chain = one_line(&error);
                self.violations.push(format!("C6 checkpoint: the file does not open again: {chain}"));
                self.disk.format();
                return None;
            }
        };
        self.count("openings");
        let mut ever = self.past.clone();
        ever.push(self.broker.dump(EVENTS));
        self.violations.extend(reads_back(&store, &self.projected, &ever));
        Some(store)
    }

    fn start(&mut self) {
        if self.dice.chance(0.1) {
            self.count("new versions");
            self.projected = projected(self.projected.version + 1);
        }
        let Some(store) = self.open() else {
            // The disk may fail while the file is opened, and may work the next time.
            self.disk.power_cut(&mut self.dice);
            return;
        };
        let connection = self.broker.connect();
        let config = RunnerConfig {
            batch_max: self.shape.batch_max,
            durable_interval: self.shape.durable_interval,
            lane_distance: self.shape.lane_distance,
            ..RunnerConfig::new("projector")
        };
        let runner = ProjectionRunner::new(
            self.sabotage.of(connection.clone()),
            store.clone(),
            self.projected.set(),
            config,
        );
        let stop = CancellationToken::new();
        let task = tokio::spawn(runner.run_on_one_thread(stop.clone()));
        self.process = Some(Process { connection, stop, task, store });
    }

    fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.connection.kill();
            process.task.abort();
        }
    }

    /// Handles a projector that ended by itself. Only the disk is a reason for that.
    async fn reap(&mut self) {
        let Some(process) = self.process.take_if(|process| process.task.is_finished()) else { return };
        match process.task.await {
            Ok(Ok(())) if process.stop.is_cancelled() => {}
            Ok(Ok(())) => self.violations.push("C10 progress: the projector ended by itself".into()),
            Ok(Err(RunnerError::Store(_))) if self.disk.has_failed() => {
                self.count("disk failures");
                self.disk.power_cut(&mut self.dice);
            }
            Ok(Err(error)) => {
                self.violations.push(format!("C10 progress: the projector gave up: {}", one_line(&error)));
            }
            Err(error) => self.violations.push(format!("the projector panicked: {error}")),
        }
    }

    async fn disturb(&mut self) {
        self.reap().await;
        let what = *self.dice.pick(&self.shape.disturbances);
        let Some(process) = &self.process else { return self.start() };
        match what {
            Disturbance::Kill => {
                self.kill();
                self.disk.keep();
                self.count("kills");
            }
            Disturbance::PowerCut => {
                self.kill();
                self.disk.power_cut(&mut self.dice);
                self.count("power cuts");
            }
            Disturbance::Freeze if process.connection.is_frozen() => process.connection.thaw(),
            Disturbance::Freeze => process.connection.freeze(),
            Disturbance::Shutdown => process.stop.cancel(),
            Disturbance::ServerRestart => self.broker.restart(),
            Disturbance::LostTail => {
                self.past.push(self.broker.dump(EVENTS));
                self.broker.lose_tail(EVENTS, self.dice.between(1, 5));
                self.count("lost tails");
            }
            Disturbance::NewStream => {
                self.past.push(self.broker.dump(EVENTS));
                self.broker.make_stream(MemoryStreamConfig::new(EVENTS, &["evt.*.*.*"]));
                self.broker.restart();
                self.count("new streams");
            }
        }
    }

    async fn chaos(&mut self, log: &JoinHandle<()>) {
        while !log.is_finished() {
            let pause = self.dice.time(self.shape.chaos_pause * 2);
            tokio::time::sleep(pause.max(Duration::from_millis(1))).await;
            self.disturb().await;
        }
    }

    /// Waits until every projection has applied everything.
    async fn catch_up(&mut self) {
        let deadline = tokio::time::Instant::now() + RECOVERY_MAX;
        loop {
            self.reap().await;
            match &self.process {
                None => self.start(),
                Some(process) => process.connection.thaw(),
            }
            let last = self.broker.dump(EVENTS).last().map_or(0, |message| message.sequence);
            let reached = self.process.as_ref().map(|process| self.projected.reached(&process.store));
            if reached == Some(last) {
                return;
            }
            if tokio::time::Instant::now() >= deadline {
                self.violations
                    .push(format!("C10 progress: healed, and still only {reached:?} of {last} applied"));
                return;
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    async fn stop(&mut self) {
        if let Some(process) = &mut self.process {
            process.stop.cancel();
            if tokio::time::timeout(RECOVERY_MAX, &mut process.task).await.is_err() {
                self.violations.push("C10 progress: the projector does not end".into());
            }
        }
        self.process = None;
        self.disk.keep();
    }
}
