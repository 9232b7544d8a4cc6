//! A server that comes back without its last messages, after everything was decided and all handlers have stopped. The next handler must say
//! what is missing and change nothing or, if only records are missing, write them again. If all streams are older together, nothing is missing;
//! then handlers must not believe what is on their disks.

use std::time::Duration;

use millstream_contract::{
    stream_names::{COMMANDS, EVENTS, OUTCOMES},
    testing::dice::Dice,
};
use millstream_jetstream::testing::{fault_plan::FaultPlan, memory_broker::MemoryBroker};

use super::{
    RunShape, SimulationSettings,
    judgement::judge,
    processes::{Processes, chaos},
    wait_until_decided,
    workload::Client,
};

/// A handler must notice within this time.
const NOTICE_MAX: Duration = Duration::from_secs(60);

/// Runs one seed to its end on the calling thread, and returns what is wrong.
///
/// # Panics
/// When no runtime can be made.
pub fn simulate_lost_tail(seed: u64, settings: &SimulationSettings) -> Vec<String> {
    super::runtime().block_on(run(seed, settings))
}

async fn run(seed: u64, settings: &SimulationSettings) -> Vec<String> {
    let dice = Dice::new(seed);
    let shape = RunShape::any(&mut dice.fork(2));
    let broker = MemoryBroker::new(seed, FaultPlan::none());
    let mut processes = Processes::new(broker.clone(), shape.clone(), settings.bug, dice.fork(4));
    processes.start(0);
    let client = Client::new(broker.connect(), &shape, dice.fork(5));
    let client = chaos(&mut processes, client, &shape, dice.fork(6)).await;
    processes.settle_down(&mut dice.fork(7)).await;
    let mut violations = Vec::new();
    wait_until_decided(&broker, &mut violations).await;
    violations.extend(processes.stop().await);
    if !violations.is_empty() || broker.dump(COMMANDS).is_empty() || broker.dump(EVENTS).is_empty() {
        return violations;
    }

    let mut dice = dice.fork(8);
    let mut run = Run { broker, processes, client, violations };
    match *dice.pick(&[Some(COMMANDS), Some(EVENTS), Some(OUTCOMES), None, None]) {
        Some(OUTCOMES) => {
            run.lose(OUTCOMES, &mut dice);
            run.go_on().await;
        }
        Some(stream) => {
            let running = dice.chance(0.5);
            if running {
                run.processes.start(0);
                tokio::time::sleep(NOTICE_MAX).await;
            }
            run.lose(stream, &mut dice);
            run.must_say(stream, running).await;
        }
        None => run.come_back_older().await,
    }
    run.violations
}

/// Everything is decided, and all handlers have stopped. One of them has a disk.
struct Run {
    broker: MemoryBroker,
    processes: Processes,
    client: Client,
    violations: Vec<String>,
}

impl Run {
    fn lose(&self, stream: &str, dice: &mut Dice) {
        let had = self.broker.dump(stream).len() as u64;
        self.broker.lose_tail(stream, dice.between(1, had.min(4)).min(had));
    }

    /// Lets the handler in `slot` decide what the client sends now.
    async fn work(&mut self, slot: usize) {
        self.processes.start(slot);
        self.client.run().await;
        wait_until_decided(&self.broker, &mut self.violations).await;
        self.violations.extend(self.processes.stop().await);
    }

    /// First another handler continues, then the one that has seen what was lost. Earlier answers must be repeated.
    async fn go_on(&mut self) {
        for slot in [1, 0] {
            self.work(slot).await;
        }
        let found = judge(&self.broker, self.client.ledger(), self.processes.metrics()).0;
        self.violations.extend(found);
    }

    /// The server comes back with an older copy of everything. What was acknowledged since is lost, and nobody can know it. But a handler must
    /// not believe what its disk has from that time.
    async fn come_back_older(&mut self) {
        let then = self.broker.ends();
        self.work(0).await;
        for ((stream, now), (_, then)) in self.broker.ends().iter().zip(&then) {
            self.broker.lose_tail(stream, now - then);
        }
        self.client.forget_acknowledged_after(self.broker.dump(COMMANDS).len() as u64);
        self.broker.forget_sent();
        self.go_on().await;
    }

    /// The next handler, or the one that is `running`, says what is missing and appends nothing.
    async fn must_say(&mut self, stream: &str, running: bool) {
        let before = self.broker.dump(EVENTS);
        if !running {
            self.processes.start(0);
        }
        tokio::time::sleep(NOTICE_MAX).await;
        let ended = self.processes.stop().await;
        if !ended.iter().any(|words| words.contains("the server has lost") && words.contains(stream)) {
            self.violations.push(format!(
                "C11 noticed: {stream} lost its tail and the handler did not say so: {ended:?}"
            ));
        }
        if self.broker.dump(EVENTS) != before {
            self.violations
                .push(format!("C11 noticed: {stream} lost its tail and the handler went on to append"));
        }
    }
}
