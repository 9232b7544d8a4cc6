//! Looks at the processes while they are attacked: none ends that was not killed, none grows beyond its bound, none stays unready.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_nats::Client;
use millstream_contract::testing::dice::Dice;
use millstream_runtime::{
    process_memory::{self, mebibytes},
    status_service::status_subject,
};
use serde_json::Value;
use tokio::time::Instant;

use super::failures::Failures;
use crate::{command_load::patient_client, system::System};

/// How often the processes are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How long a process may take to say how it is.
const ANSWER: Duration = Duration::from_secs(2);
/// The server is not ours, and its memory follows the streams.
const SERVER: &str = "nats-server";

/// What no process may do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Resident memory of a stage, in bytes.
    pub(super) memory: u64,
    /// How long a process may be unready, or not say how it is, together with its start.
    pub(super) unready: Duration,
}

/// What was seen of each process.
#[derive(Debug, Default)]
pub(super) struct Witness {
    /// The most memory that a process had, in bytes.
    pub(super) memory: BTreeMap<String, u64>,
    /// The longest time in which a process was not ready.
    pub(super) unready: BTreeMap<String, Duration>,
    /// How often each was killed.
    pub(super) kills: BTreeMap<String, u64>,
}

/// Shared by who kills and who looks.
pub(super) type Shared = Arc<Mutex<Witness>>;

/// Looks until `until`.
pub(super) async fn watch(
    system: &System,
    bounds: Bounds,
    failures: &Failures,
    seen: &Shared,
    until: Instant,
) {
    let client = patient_client(&system.url()).await;
    let mut ready_at: BTreeMap<String, Instant> = BTreeMap::new();
    while Instant::now() < until && !failures.any() {
        ended_by_themselves(system, failures, seen);
        for (name, process) in system.processes() {
            let memory = process.pid.and_then(process_memory::now).unwrap_or_default();
            if name != SERVER && memory > bounds.memory {
                failures.add(format!(
                    "{name} has {} MiB, more than {} MiB",
                    mebibytes(memory),
                    mebibytes(bounds.memory)
                ));
            }
            {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                let most = seen.memory.entry(name.clone()).or_default();
                *most = memory.max(*most);
            }
            if name == SERVER {
                continue;
            }
            let now = Instant::now();
            let since = ready_at.entry(name.clone()).or_insert(now);
            let reasons = unready(&client, &name).await;
            let unready_for = since.elapsed();
            match reasons {
                None => *since = Instant::now(),
                Some(reasons) if unready_for > bounds.unready => {
                    failures.add(format!("{name} has not been ready for {unready_for:?}: {reasons}"));
                }
                Some(_) => {}
            }
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            let longest = seen.unready.entry(name).or_default();
            *longest = unready_for.max(*longest);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Fails for each process that was started again more often than it was killed.
pub(super) fn ended_by_themselves(system: &System, failures: &Failures, seen: &Shared) {
    for (name, process) in system.processes() {
        let kills = seen.lock().unwrap_or_else(PoisonError::into_inner).kills.get(&name).copied();
        let (kills, restarts) = (kills.unwrap_or_default(), process.restarts);
        if restarts > kills {
            failures
                .add(format!("{name} has been started again {restarts} times and was killed {kills} times"));
        }
    }
}

/// Kills one process after the other, with pauses between `pause_min` and four times as long.
pub(super) async fn kill_now_and_then(
    system: &System,
    mut dice: Dice,
    pause_min: Duration,
    failures: &Failures,
    seen: &Shared,
    until: Instant,
) {
    let names: Vec<String> = system.processes().into_keys().filter(|name| name != SERVER).collect();
    loop {
        let pause = pause_min + dice.time(pause_min * 3);
        if Instant::now() + pause >= until || failures.any() {
            return;
        }
        tokio::time::sleep(pause).await;
        let name = dice.pick(&names);
        kill_one(system, name, seen).await;
    }
}

/// Kills a process, and returns when it was started again.
pub(super) async fn kill_one(system: &System, name: &str, seen: &Shared) {
    *seen.lock().unwrap_or_else(PoisonError::into_inner).kills.entry(name.to_owned()).or_default() += 1;
    system.kill(name).await;
}

/// Why a process is not ready, or that it says nothing; none when it is.
async fn unready(client: &Client, process: &str) -> Option<String> {
    let asked = tokio::time::timeout(ANSWER, client.request(status_subject(process), "".into())).await;
    let Ok(Ok(answer)) = asked else { return Some("it does not say how it is".to_owned()) };
    let status: Value = serde_json::from_slice(&answer.payload).unwrap_or_default();
    (status.get("ready") != Some(&Value::Bool(true))).then(|| status.to_string())
}
