//! A hostile client attacks a whole Millstream, with a well-behaved sender beside it: nothing that one sender does may stop or harm the others.
//! The program `hostile-client` runs it, in CI for a minute, and by hand for hours (docs/reliability.md).
//!
//! In reading order: `attack` makes what is sent, `wire` sends it byte for byte, `bystander` is the well-behaved sender, `watch` observes the
//! processes and kills some, and `verdict` proves all guarantees afterwards.

mod attack;
mod bystander;
mod failures;
mod message;
mod strange;
mod verdict;
mod watch;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use millstream_contract::testing::dice::Dice;
use millstream_runtime::process_memory::mebibytes;
use tokio::time::Instant;

use self::{
    attack::{Attack, Deed, Kind},
    bystander::{Bystander, Seen},
    failures::Failures,
    watch::{Bounds, Shared, Witness, ended_by_themselves, kill_now_and_then, kill_one, watch},
    wire::Wire,
};
use crate::{
    binaries::repository,
    slow_line::SlowLine,
    system::{System, fresh_folder},
};

/// The default of nats-server.
const PAYLOAD_MAX: usize = 1024 * 1024;
/// The prefix of the names of command handlers.
const HANDLER: &str = "command-handler";
/// The longest pause between two actions.
const PAUSE_MAX: Duration = Duration::from_millis(400);
/// An action with at least this many messages is a burst, and a pause follows it.
const BURST: usize = 1_000;
const PAUSE_AFTER_BURST: Duration = Duration::from_secs(2);

/// The settings of an attack.
#[derive(Debug, Clone)]
pub struct HostileSettings {
    /// The seed of all random choices.
    pub seed: u64,
    /// How long the attack goes on.
    pub duration: Duration,
    /// The shortest pause between two kills of stages; pauses are up to four times as long. `None` means that nothing is killed.
    pub kill_pause: Option<Duration>,
    /// How many bytes a second the hostile client sends at most, on average over the whole time, because streams have a size.
    pub bytes_a_second: u64,
    /// How long the well-behaved sender waits for anything.
    pub limit: Duration,
    /// How much memory a stage may take, in bytes.
    pub memory: u64,
    /// How long every message between the command handlers and the server takes, in each direction. A handler that asks for each message
    /// separately, instead of for all of them together, then keeps others waiting.
    pub line_delay: Duration,
}

impl HostileSettings {
    /// The settings that `hostile-client` uses.
    #[must_use]
    pub fn new(seed: u64, duration: Duration) -> Self {
        Self {
            seed,
            duration,
            kill_pause: Some(Duration::from_secs(8)),
            bytes_a_second: 1_500_000,
            limit: Duration::from_secs(30),
            memory: 768 * 1024 * 1024,
            line_delay: Duration::from_millis(2),
        }
    }
}

/// What the hostile client has done.
#[derive(Debug, Default)]
struct Done {
    deeds: BTreeMap<Kind, u64>,
    messages: u64,
    bytes: u64,
    stored: BTreeSet<u64>,
    words: String,
}

/// One attack on a system of its own, from its start to its proof. Returns a description of what was done and seen.
///
/// # Errors
/// Everything that went wrong, with the same description.
///
/// # Panics
/// When the system does not start or does not come to rest.
pub async fn attack_once(settings: &HostileSettings) -> Result<String, String> {
    let folder = fresh_folder();
    let queries = format!("sql.queries={}", repository().join("config/queries").display());
    let arguments = ["--replicas", "command-handler=2", "--set", &queries];
    let system = System::start_with_tables(folder.path(), &arguments).await;
    let line = SlowLine::start(system.port(), settings.line_delay).await;
    let failures = Failures::default();
    let witness = Shared::new(Mutex::new(Witness::default()));
    for name in system.processes().into_keys().filter(|name| name.starts_with(HANDLER)) {
        system.lead_over(&name, &line.url());
        kill_one(&system, &name, &witness).await;
    }
    let until = Instant::now() + settings.duration;
    let dice = Dice::new(settings.seed);
    let url = system.url();
    let bystander = Bystander::new(&url, dice.fork(1), settings.limit, failures.clone()).await;
    let bounds = Bounds { memory: settings.memory, unready: Duration::from_secs(60) };
    let kills = async {
        if let Some(pause) = settings.kill_pause {
            kill_now_and_then(&system, dice.fork(2), pause, &failures, &witness, until).await;
        }
    };
    let (done, seen, (), ()) = tokio::join!(
        attack(&url, settings, &failures, until),
        bystander.run(until),
        watch(&system, bounds, &failures, &witness, until),
        kills,
    );
    let mut words = format!(
        "seed {}, {:?}: {:?}, {} messages, {} MiB; {}\n{}{}",
        settings.seed,
        settings.duration,
        done.deeds,
        done.messages,
        mebibytes(done.bytes),
        done.words,
        told(&seen),
        witnessed(&witness),
    );
    if done.stored.is_empty() {
        failures.add("the hostile client has stored nothing".to_owned());
    }
    if !failures.any() {
        words.push_str(&verdict::judge(&system, &done.stored, seen, &failures).await);
        // The backlog of the attack is decided in the meantime.
        ended_by_themselves(&system, &failures, &witness);
    }
    if failures.any() {
        return Err(format!("{}\n{words}\n{}", failures.all().join("\n"), system.log_tails()));
    }
    system.stop().await;
    Ok(words)
}

async fn attack(url: &str, settings: &HostileSettings, failures: &Failures, until: Instant) -> Done {
    let mut dice = Dice::new(settings.seed).fork(3);
    let mut attack = Attack::new(dice.fork(4), PAYLOAD_MAX);
    let mut wires = [Wire::new(url, "hostile-1"), Wire::new(url, "hostile-2")];
    let (mut done, began) = (Done::default(), Instant::now());
    while Instant::now() < until && !failures.any() {
        let (kind, deed) = attack.next();
        *done.deeds.entry(kind).or_default() += 1;
        done.messages += deed.messages() as u64;
        done.bytes += deed.size() as u64;
        let burst = deed.messages() >= BURST;
        let wire = if dice.chance(0.5) { &mut wires[0] } else { &mut wires[1] };
        match deed {
            Deed::Messages(messages) => wire.send(&messages).await,
            Deed::Bytes(bytes) => wire.send_raw(&bytes).await,
        }
        let pause = dice.time(PAUSE_MAX) + if burst { PAUSE_AFTER_BURST } else { Duration::ZERO };
        tokio::time::sleep(pause).await;
        // Streams have a size, and a run has a duration.
        let due = began + Duration::from_secs(done.bytes / settings.bytes_a_second.max(1));
        tokio::time::sleep_until(due.min(until)).await;
    }
    let (mut answers, mut refused, mut closed) = (0, 0, 0);
    for wire in &wires {
        wire.heard(|heard| {
            done.stored.extend(&heard.stored);
            answers += heard.answers;
            refused += heard.refused;
            closed += heard.closed;
        });
    }
    done.words = format!("{answers} answers, {refused} not stored, {closed} connections closed");
    done
}

/// How long the well-behaved sender waited.
fn told(seen: &Seen) -> String {
    let mut text = String::new();
    for (what, took) in &seen.took {
        let mut took = took.clone();
        took.sort_unstable();
        let at = |part: usize| took.get(took.len() * part / 100).copied().unwrap_or_default().as_millis();
        let most = took.last().copied().unwrap_or_default().as_millis();
        text.push_str(&format!(
            "{what}: {}, p50 {} ms, p99 {} ms, at most {most} ms\n",
            took.len(),
            at(50),
            at(99)
        ));
    }
    text
}

fn witnessed(witness: &Arc<Mutex<Witness>>) -> String {
    let witness = witness.lock().unwrap_or_else(PoisonError::into_inner);
    let mut text = String::new();
    for (name, memory) in &witness.memory {
        let unready = witness.unready.get(name).copied().unwrap_or_default().as_millis();
        let kills = witness.kills.get(name).copied().unwrap_or_default();
        text.push_str(&format!(
            "{name}: {kills} kills, at most {} MiB, unready for {unready} ms at most\n",
            mebibytes(*memory)
        ));
    }
    text
}
