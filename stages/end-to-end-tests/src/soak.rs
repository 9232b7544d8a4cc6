//! A steady load for minutes while processes are killed one after the other: how far the handlers fall behind, how long senders wait
//! for their answers, what memory it takes, and whether every promise was kept. The program `soak` runs it (docs/benchmarks.md).

mod senders;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use millstream_contract::testing::dice::Dice;
use millstream_proof::verification::Verification;
use millstream_runtime::process_memory::{self, mebibytes};
use tokio::time::Instant;

use self::senders::{Answers, Sent, send};
use crate::{
    command_load::ledger::Ledger,
    dumps::{dump, settled, undecided, verified_dump},
    system::{System, fresh_folder},
    waiting::until_within,
};

/// How often the backlog and the memory are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// A kill of a command handler disturbs answers for so long; what waits then is counted apart.
const TAKEOVER: Duration = Duration::from_secs(1);
/// For what waits when the last command has been sent.
const REST: Duration = Duration::from_secs(600);

/// How it is done.
#[derive(Debug, Clone)]
pub struct SoakSettings {
    /// Where chance comes from.
    pub seed: u64,
    /// How long commands are sent.
    pub duration: Duration,
    /// Commands a second; most of them make a process send another one.
    pub rate: u32,
    /// Between two kills; none: nothing is killed.
    pub kill_pause: Option<Duration>,
}

/// What was seen.
#[derive(Debug)]
pub struct Soak {
    /// What was proved of the streams.
    pub verification: Verification,
    /// Most commands that waited at a time, those of processes among them.
    pub backlog_max: u64,
    /// How often the backlog was looked at, and how often more than 5,000 commands waited then.
    pub looks: (u64, u64),
    /// How long senders waited, from when a command was due until its answer came.
    pub waits: Vec<Duration>,
    /// The same without commands that waited in the second after a kill of a command handler.
    pub waits_undisturbed: Vec<Duration>,
    /// Answers that never came: an answer is told once, and the handler that would have told it was killed.
    pub untold: u64,
    /// Kills by process.
    pub kills: BTreeMap<String, u64>,
    /// Most memory by process, in bytes.
    pub memory: BTreeMap<String, u64>,
    /// From the last command until nothing followed any more.
    pub rest: Duration,
}

/// Kills of command handlers, by time.
type Kills = Mutex<(Vec<Instant>, BTreeMap<String, u64>)>;

/// Most that were seen at a look.
#[derive(Debug, Default)]
struct Seen {
    backlog_max: u64,
    looks: (u64, u64),
    memory: BTreeMap<String, u64>,
}

/// One soak on a system of its own, from its start to its proof.
///
/// # Panics
/// When a promise is broken: a command is lost, has two outcomes, or was told another outcome than the recorded one.
pub async fn soak(settings: &SoakSettings) -> Soak {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &["--replicas", "command-handler=2"]).await;
    let until = Instant::now() + settings.duration;
    let (url, kills) = (system.url(), Kills::default());
    let (sent, seen, ()) = tokio::join!(
        send(&url, settings, until),
        look(&system, until),
        kill(&system, settings, &kills, until),
    );
    let broker = system.broker().await;
    until_within(REST, "the backlog is decided", async || (undecided(&broker).await? == 0).then_some(()))
        .await;
    settled(&broker).await;
    let rest = until.elapsed();
    let Sent { acknowledged, answers } = sent;
    let dump = dump(&broker).await;
    let verification = verified_dump(&dump);
    let differences = Ledger { acknowledged }.differences(&dump);
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
    system.stop().await;
    let (times, kills) = kills.into_inner().unwrap_or_else(PoisonError::into_inner);
    let Answers { answered, untold } = answers;
    let undisturbed = answered
        .iter()
        .filter(|(due, came)| !times.iter().any(|killed| *came >= *killed && *due <= *killed + TAKEOVER));
    Soak {
        verification,
        backlog_max: seen.backlog_max,
        looks: seen.looks,
        waits_undisturbed: sorted(undisturbed),
        waits: sorted(answered.iter()),
        untold,
        kills,
        memory: seen.memory,
        rest,
    }
}

fn sorted<'a>(answered: impl Iterator<Item = &'a (Instant, Instant)>) -> Vec<Duration> {
    let mut waits: Vec<Duration> = answered.map(|(due, came)| came.duration_since(*due)).collect();
    waits.sort_unstable();
    waits
}

async fn look(system: &System, until: Instant) -> Seen {
    const BEHIND: u64 = 5_000;
    let broker = system.broker().await;
    let mut seen = Seen::default();
    while Instant::now() < until {
        if let Some(waiting) = undecided(&broker).await {
            seen.backlog_max = seen.backlog_max.max(waiting);
            seen.looks.0 += 1;
            seen.looks.1 += u64::from(waiting > BEHIND);
        }
        for (name, process) in system.processes() {
            let most = seen.memory.entry(name).or_default();
            *most = process.pid.and_then(process_memory::now).unwrap_or_default().max(*most);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    seen
}

/// Kills one process after the other, each chosen by dice; never the server.
async fn kill(system: &System, settings: &SoakSettings, kills: &Kills, until: Instant) {
    let Some(pause) = settings.kill_pause else { return };
    let mut dice = Dice::new(settings.seed).fork(1);
    let names: Vec<String> = system.processes().into_keys().filter(|name| name != "nats-server").collect();
    let mut next = Instant::now() + pause;
    while next + pause < until {
        tokio::time::sleep_until(next).await;
        next += pause;
        let name = dice.pick(&names);
        {
            let (times, count) = &mut *kills.lock().unwrap_or_else(PoisonError::into_inner);
            *count.entry(name.clone()).or_default() += 1;
            if name.starts_with("command-handler") {
                times.push(Instant::now());
            }
        }
        system.kill(name).await;
    }
}

impl fmt::Display for Soak {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verification { commands, accepted, rejected, .. } = &self.verification;
        writeln!(
            out,
            "{commands} commands with those of processes, {accepted} accepted, {rejected} rejected; every promise kept"
        )?;
        let (looks, behind) = self.looks;
        writeln!(
            out,
            "waiting: at most {} commands; more than 5,000 at {behind} of {looks} looks",
            self.backlog_max
        )?;
        for (what, waits) in
            [("all", &self.waits), ("but for the second after a handler's kill", &self.waits_undisturbed)]
        {
            let at =
                |part: usize| waits.get(waits.len() * part / 1_000).copied().unwrap_or_default().as_millis();
            writeln!(
                out,
                "answers, {what}: {}, p50 {} ms, p99 {} ms, p99.9 {} ms, at most {} ms",
                waits.len(),
                at(500),
                at(990),
                at(999),
                waits.last().copied().unwrap_or_default().as_millis()
            )?;
        }
        writeln!(out, "answers that were never told: {}", self.untold)?;
        writeln!(out, "at rest {:.1} s after the last command", self.rest.as_secs_f64())?;
        for (name, memory) in &self.memory {
            let kills = self.kills.get(name).copied().unwrap_or_default();
            writeln!(out, "{name}: {kills} kills, at most {} MiB", mebibytes(*memory))?;
        }
        Ok(())
    }
}
