//! The handlers as processes: started, killed at any await, stopped and continued, ended in an orderly way, and started again.

use std::time::Duration;

use millstream_contract::{error_text::one_line, testing::dice::Dice};
use millstream_domain::decider::AggregateRegistry;
use millstream_jetstream::testing::memory_broker::MemoryBroker;
use millstream_runtime::{health::Readiness, metrics::Metrics, shutdown::Shutdown};
use millstream_store::testing::crash_storage::{CrashStorage, Survivors};
use millstream_write_side::{
    command_handler::{CommandHandler, HandlerError, HandlerSettings, Observed},
    id_index::IdIndex,
    round::InternalCommands,
    state_snapshots::StateSnapshots,
};
use tokio::task::JoinHandle;

use super::{RunShape, bugs::Bug, rules::rules, sabotage::Sabotage, workload::Client};

/// How long a silent handler keeps its lease.
const LEASE_TIME_TO_LIVE: Duration = Duration::from_secs(3);
/// How long an orderly end may take without faults.
const STOP_MAX: Duration = Duration::from_secs(120);

/// What happens to processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disturbance {
    /// `kill -9`. The process may be started again at once, later, or not at all.
    Kill,
    /// SIGSTOP, and SIGCONT the next time.
    Freeze,
    /// SIGTERM.
    Shutdown,
    /// The server loses its consumers.
    ServerRestart,
}

impl Disturbance {
    /// The events of one run; some kinds are more frequent than others, and some may be absent.
    pub(super) fn any(dice: &mut Dice) -> Vec<Self> {
        let mut all = Vec::new();
        for each in [Self::Kill, Self::Freeze, Self::Shutdown, Self::ServerRestart] {
            let weight = *dice.pick(&[0, 1, 1, 4]);
            all.extend(std::iter::repeat_n(each, weight));
        }
        if all.is_empty() { vec![Self::Freeze] } else { all }
    }
}

/// A process of the command handler.
struct Process {
    connection: MemoryBroker,
    disk: CrashStorage,
    shutdown: Shutdown,
    task: JoinHandle<Result<(), HandlerError>>,
}

/// All processes; each slot has one or none.
pub(super) struct Processes {
    broker: MemoryBroker,
    shape: RunShape,
    sabotage: Sabotage,
    rules: AggregateRegistry,
    dice: Dice,
    metrics: Metrics,
    slots: Vec<Option<Process>>,
    /// The disk of each slot: its index of ids,
    indices: Vec<Vec<u8>>,
    /// and its snapshots.
    snapshots: Vec<Option<StateSnapshots>>,
    runs: u64,
    violations: Vec<String>,
}

impl Processes {
    pub(super) fn new(broker: MemoryBroker, shape: RunShape, bug: Option<Bug>, dice: Dice) -> Self {
        let slots = (0..shape.handlers).map(|_| None).collect();
        let indices = vec![Vec::new(); shape.handlers];
        let snapshots = vec![None; shape.handlers];
        Self {
            sabotage: Sabotage::new(bug),
            rules: rules(bug, &broker),
            broker,
            shape,
            dice,
            metrics: Metrics::new(),
            slots,
            indices,
            snapshots,
            runs: 0,
            violations: Vec::new(),
        }
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Starts a process in `slot`, with what the previous one left on its disk. The snapshots may be gone.
    pub(super) fn start(&mut self, slot: usize) {
        self.runs += 1;
        let connection = self.broker.connect();
        let settings = HandlerSettings {
            name: format!("command-handler-{slot}"),
            internal_commands: InternalCommands::EffectsOnly,
            round_max: self.shape.round_max,
            cache: self.shape.cache,
            append_strategy: self.shape.append_strategy,
            lease_time_to_live: LEASE_TIME_TO_LIVE,
            purge: None,
        };
        let disk = CrashStorage::new(self.indices.get(slot).cloned().unwrap_or_default(), None);
        let index = match IdIndex::with_backend(disk.clone()) {
            Ok(index) => index,
            Err(error) => {
                self.violations.push(format!("the index of ids does not open: {}", one_line(&error)));
                return;
            }
        };
        let snapshots = self.snapshots(slot);
        let mut handler = CommandHandler::new(
            self.sabotage.of(connection.clone()),
            self.rules.clone(),
            settings,
            &format!("run-{}", self.runs),
            index,
            snapshots,
            Observed::new(&self.metrics, &Readiness::new()),
        );
        let shutdown = Shutdown::new();
        let stop = shutdown.clone();
        let task = tokio::spawn(async move { handler.run(stop).await });
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Some(Process { connection, disk, shutdown, task });
        }
    }

    /// The snapshots on the disk of `slot`.
    fn snapshots(&mut self, slot: usize) -> StateSnapshots {
        let kept = self.snapshots.get(slot).cloned().flatten().filter(|_| self.dice.chance(0.5));
        let snapshots =
            kept.unwrap_or_else(|| StateSnapshots::in_memory().expect("snapshots in memory need no file"));
        if let Some(disk) = self.snapshots.get_mut(slot) {
            *disk = Some(snapshots.clone());
        }
        snapshots
    }

    /// `kill -9`.
    fn kill(&mut self, slot: usize) {
        if let Some(process) = self.slots.get_mut(slot).and_then(Option::take) {
            process.connection.kill();
            process.task.abort();
            self.leave(slot, &process.disk);
        }
    }

    /// The index of ids stays. If the machine has failed, some of what was not synced is lost.
    fn leave(&mut self, slot: usize, disk: &CrashStorage) {
        let survivors = match self.dice.below(3) {
            0 => Survivors::Some { seed: self.dice.bits() },
            _ => Survivors::All,
        };
        if let Some(image) = self.indices.get_mut(slot) {
            *image = disk.after_power_cut(survivors);
        }
    }

    fn get(&self, slot: usize) -> Option<&Process> {
        self.slots.get(slot).and_then(Option::as_ref)
    }

    /// Handles processes that ended by themselves. Nothing in a simulation is a reason for that.
    async fn reap(&mut self) {
        for slot in 0..self.slots.len() {
            let ended = self.get(slot).is_some_and(|process| process.task.is_finished());
            let Some(process) = ended.then(|| self.slots.get_mut(slot).and_then(Option::take)).flatten()
            else {
                continue;
            };
            let disk = process.disk.clone();
            self.violations.extend(why_ended(process).await);
            self.leave(slot, &disk);
        }
    }

    /// All processes continue, then some are killed for good. At least one remains.
    pub(super) async fn settle_down(&mut self, dice: &mut Dice) {
        self.reap().await;
        let staying = usize::try_from(dice.below(self.slots.len() as u64)).unwrap_or(0);
        for slot in 0..self.slots.len() {
            if let Some(process) = self.get(slot) {
                process.connection.thaw();
            }
            if slot != staying && dice.chance(0.5) {
                self.kill(slot);
            }
        }
        if self.get(staying).is_none_or(|process| process.shutdown.is_requested()) {
            self.kill(staying);
            self.start(staying);
        }
    }

    /// Ends all processes in an orderly way. Returns what has been wrong with any of them since the beginning.
    pub(super) async fn stop(&mut self) -> Vec<String> {
        self.reap().await;
        for slot in 0..self.slots.len() {
            let Some(mut process) = self.slots.get_mut(slot).and_then(Option::take) else { continue };
            process.shutdown.request();
            if tokio::time::timeout(STOP_MAX, &mut process.task).await.is_err() {
                self.violations.push(format!("C10 progress: the handler in slot {slot} does not end"));
                process.task.abort();
            }
            self.leave(slot, &process.disk);
        }
        std::mem::take(&mut self.violations)
    }

    async fn disturb(&mut self) {
        let slot = usize::try_from(self.dice.below(self.slots.len() as u64)).unwrap_or(0);
        self.reap().await;
        let what = *self.dice.pick(&self.shape.disturbances);
        let Some(process) = self.get(slot) else { return self.start(slot) };
        match what {
            Disturbance::Kill => {
                self.kill(slot);
                if self.dice.chance(0.5) {
                    self.start(slot);
                }
            }
            Disturbance::Freeze if process.connection.is_frozen() => process.connection.thaw(),
            Disturbance::Freeze => process.connection.freeze(),
            Disturbance::Shutdown => process.shutdown.request(),
            Disturbance::ServerRestart => self.broker.restart(),
        }
    }
}

async fn why_ended(process: Process) -> Option<String> {
    match process.task.await {
        Ok(Ok(())) if process.shutdown.is_requested() => None,
        Ok(Ok(())) => Some("C10 progress: a handler ended although nobody asked it to".into()),
        Ok(Err(error)) => {
            let chain = one_line(&error);
            Some(format!("C10 progress: a handler gave up: {chain}"))
        }
        Err(error) => Some(format!("a handler panicked: {error}")),
    }
}

/// Disturbs the processes until the client has sent everything, and for a short time after that.
pub(super) async fn chaos(
    processes: &mut Processes,
    mut client: Client,
    shape: &RunShape,
    mut dice: Dice,
) -> Client {
    let client = tokio::spawn(async move {
        client.run().await;
        client
    });
    let mut rounds_after = dice.below(6);
    while !client.is_finished() || rounds_after > 0 {
        let pause = dice.time(shape.chaos_pause * 2);
        tokio::time::sleep(pause.max(Duration::from_millis(1))).await;
        processes.disturb().await;
        if client.is_finished() {
            rounds_after = rounds_after.saturating_sub(1);
        }
    }
    client.await.expect("the client only sends")
}
