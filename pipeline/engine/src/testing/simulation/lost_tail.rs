//! A server that comes back without its last messages, after everything was decided and all handlers have stopped: the
//! next handler must say what is missing and change nothing, or, where only records are missing, write them anew.

use std::time::Duration;

use super::{
    RunShape, SimulationSettings,
    bugs::Bug,
    judgement::judge,
    processes::{Processes, chaos},
    wait_until_decided,
    workload::Client,
};
use crate::{
    contract::stream_names::{COMMANDS, EVENTS, OUTCOMES},
    seeded_bug,
    testing::{dice::Dice, fault_plan::FaultPlan, memory_broker::MemoryBroker},
};

/// Within this time a handler notices.
const NOTICE_MAX: Duration = Duration::from_secs(60);

/// Runs one seed to its end on the calling thread; answers what is wrong.
///
/// # Panics
/// When no runtime can be made.
pub fn simulate_lost_tail(seed: u64, settings: &SimulationSettings) -> Vec<String> {
    let runtime = super::runtime();
    seeded_bug::plant(settings.bug.and_then(Bug::engine));
    let violations = runtime.block_on(run(seed, settings));
    seeded_bug::plant(None);
    violations
}

async fn run(seed: u64, settings: &SimulationSettings) -> Vec<String> {
    let dice = Dice::new(seed);
    let shape = RunShape { shares: 1, ..RunShape::any(&mut dice.fork(2)) };
    let broker = MemoryBroker::new(seed, FaultPlan::none());
    let mut processes = Processes::new(broker.clone(), shape.clone(), settings.bug, dice.fork(4));
    processes.start(0);
    let client = Client::new(broker.connect(), &shape, dice.fork(5));
    let client = chaos(&mut processes, client, &shape, dice.fork(6)).await;
    processes.settle_down(&mut dice.fork(7)).await;
    let mut violations = Vec::new();
    wait_until_decided(&broker, &mut violations).await;
    violations.extend(processes.stop().await);
    if !violations.is_empty() {
        return violations;
    }

    let mut dice = dice.fork(8);
    let stream = *dice.pick(&[COMMANDS, EVENTS, OUTCOMES]);
    let had = broker.dump(stream).len() as u64;
    if had == 0 {
        return violations;
    }
    broker.lose_tail(stream, dice.between(1, had.min(4)));
    let before = broker.dump(EVENTS);
    if stream == OUTCOMES {
        // Another handler goes on, then the one that has seen what was lost: what was told before is told again.
        let mut client = client;
        for slot in [1, 0] {
            processes.start(slot);
            client = client.run().await;
            wait_until_decided(&broker, &mut violations).await;
            violations.extend(processes.stop().await);
        }
        violations.extend(judge(&broker, client.ledger(), processes.metrics(), shape.shares).0);
        return violations;
    }
    processes.start(0);
    tokio::time::sleep(NOTICE_MAX).await;
    let ended = processes.stop().await;
    if !ended.iter().any(|words| words.contains("the server has lost its tail") && words.contains(stream)) {
        violations
            .push(format!("C11 noticed: {stream} lost its tail and the handler did not say so: {ended:?}"));
    }
    if broker.dump(EVENTS) != before {
        violations.push(format!("C11 noticed: {stream} lost its tail and the handler went on to append"));
    }
    violations
}
