//! Measures what a takeover costs. It fills EVENTS with many aggregates, and measures how fast a command handler decides after an orderly end,
//! after `kill -9`, with its folder lost, and when a standby takes over, compared with a warm handler, and how much memory it takes.
//! docs/benchmarks.md says how to run it, and what it showed.
//!
//!     takeover [COMMITS [AGGREGATES [COMMANDS-THAT-WAIT [TAKEOVERS]]]]
//!
//! TAKEOVERS is a list of words from `stop,kill,lost,standby`, separated by commas; without it, all are measured.

#![expect(clippy::print_stdout, reason = "a program for people")]

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result};
use end_to_end_tests::{
    command_load::stored,
    stage_process::StageProcess,
    waiting::{PATIENCE, until_within},
};
use jiff::Timestamp;
use millstream_contract::{
    header,
    outcome::{OutcomeRecord, RecordKind},
    stored_message::Headers,
    stream_names::{COMMANDS, EVENTS, OUTCOMES},
};
use millstream_jetstream::{
    broker::{Broker as _, NewMessage},
    group_append::{AppendStrategy, GroupAppend},
    nats_broker::NatsBroker,
    stream_feed::StreamFeed,
    testing::test_server::TestServer,
};
use millstream_runtime::process_memory::mebibytes;
use millstream_write_side::outcome_journal::decided_through;
use nix::sys::signal::Signal;

/// The kinds of takeover, in the order in which they are measured.
const TAKEOVERS: [&str; 4] = ["stop", "kill", "lost", "standby"];
/// The default number of commits in EVENTS.
const COMMITS: usize = 600_000;
/// The default number of aggregates.
const AGGREGATES: usize = 200_000;
/// How many commands wait for each takeover, each for a different aggregate.
const WAITING: usize = 100_000;
/// How many commands are sent together.
const GROUP: usize = 1000;
/// The most commands that wait while EVENTS is filled, because the size of COMMANDS is limited.
const FILL_AHEAD: usize = 500_000;
/// The rate is measured for this long, from the first outcome on.
const WINDOW: Duration = Duration::from_secs(10);

/// Commands for an existing shop. Each causes one event.
struct Commands {
    broker: NatsBroker,
    appends: GroupAppend<NatsBroker>,
    aggregates: usize,
    sent: usize,
}

impl Commands {
    async fn send(&mut self, count: usize) -> Result<u64> {
        let mut left = count;
        while left > 0 {
            let size = left.min(GROUP);
            let messages: Vec<_> = (0..size).map(|_| self.next()).collect();
            for (message, appended) in
                messages.clone().into_iter().zip(self.appends.append_all(messages).await)
            {
                if appended.is_err() {
                    // Because of its id, it is decided once, however often it is stored.
                    stored(&self.broker, message).await;
                }
            }
            left -= size;
        }
        Ok(self.broker.state(COMMANDS).await?.last_sequence)
    }

    fn next(&mut self) -> NewMessage {
        let number = self.sent;
        self.sent += 1;
        let mut headers = Headers::new();
        headers.push(header::COMMAND_ID, format!("takeover-{number}"));
        NewMessage {
            subject: format!("cmd.retail.stock.takeover:{}.receive", number % self.aggregates),
            expected_last: None,
            headers,
            payload: format!(r#"{{"quantity":1,"reference":"takeover-{number}"}}"#).into(),
        }
    }
}

/// A handler that reads everything handles at least this many commands a second. A slower one counts as hanging.
const READ_A_SECOND_MIN: u64 = 5_000;

/// How long nothing was decided, and how fast decisions were after that.
struct Figures {
    pause: Duration,
    rate: f64,
}

/// How long a handler may take that first reads `commands`.
fn reading_limit(commands: u64) -> Duration {
    PATIENCE + Duration::from_secs(commands / READ_A_SECOND_MIN)
}

/// Waits until everything up to `through` is decided, as long as there is progress.
async fn until_decided(broker: &NatsBroker, through: u64) {
    let mut before = None;
    while before < Some(through) {
        // A handler that has lost its folder reads everything first.
        let moved = until_within(reading_limit(through), "commands are decided", async || {
            decided_through(broker).await.ok().filter(|now| Some(*now) > before)
        });
        before = Some(moved.await);
    }
}

/// Waits until everything up to `through` is decided, and evaluates the records since `begun`.
async fn decided(broker: &NatsBroker, begun: Timestamp, records: u64, through: u64) -> Result<Figures> {
    until_decided(broker, through).await;
    let mut feed = StreamFeed::open(broker, OUTCOMES, records, "takeover").await?;
    let (mut first, mut last, mut count) = (None, begun, 0);
    while let Some(message) = feed.next().await? {
        let record = OutcomeRecord::from_stored(&message)?;
        if record.kind == RecordKind::Fence {
            continue;
        }
        let at = message.stored_at;
        // The first record ends the pause; its content was decided during the pause.
        let Some(first) = first else {
            first = Some(at);
            continue;
        };
        if at.duration_since(first).unsigned_abs() > WINDOW {
            break;
        }
        (last, count) = (at, count + record.outcomes.len());
    }
    feed.close().await;
    let first = first.context("nothing was decided")?;
    anyhow::ensure!(first >= begun, "an outcome is older than what is measured");
    let seconds = last.duration_since(first).as_secs_f64().max(0.001);
    Ok(Figures { pause: first.duration_since(begun).unsigned_abs(), rate: count as f64 / seconds })
}

async fn measure(
    commands: &mut Commands,
    records: u64,
    begun: Timestamp,
    through: u64,
    (name, handler): (&str, &StageProcess),
    warm: Option<f64>,
) -> Result<f64> {
    let Figures { pause, rate } = decided(&commands.broker, begun, records, through).await?;
    let ratio = warm.map_or(1.0, |warm| rate / warm);
    let memory = mebibytes(handler.memory_max().context("the handler has gone")?);
    println!("| {name} | {:.1} s | {rate:.0}/s | {ratio:.2} | {memory} MiB |", pause.as_secs_f64());
    Ok(rate)
}

async fn last_record(broker: &NatsBroker) -> Result<u64> {
    Ok(broker.state(OUTCOMES).await?.last_sequence)
}

fn lose(folder: &Path, name: &str) -> Result<()> {
    Ok(std::fs::remove_dir_all(folder.join(name))?)
}

/// Sends this many commands, and waits until they are decided.
async fn fill(commands: &mut Commands, commits: usize) -> Result<()> {
    let (mut left, mut through) = (commits, 0);
    while left > 0 {
        let part = left.min(FILL_AHEAD / 2);
        left -= part;
        through = commands.send(part).await?;
        until_decided(&commands.broker, through.saturating_sub(FILL_AHEAD as u64 / 2)).await;
    }
    until_decided(&commands.broker, through).await;
    Ok(())
}

/// Starts a standby, kills the active handler once the standby is warm, and measures how the standby takes over.
async fn measure_standby(
    commands: &mut Commands,
    active: &mut StageProcess,
    standby: &mut StageProcess,
    waiting: usize,
    warm: f64,
) -> Result<()> {
    let through = commands.broker.state(COMMANDS).await?.last_sequence;
    let started = Timestamp::now();
    standby.start();
    standby.ready_within(reading_limit(through)).await;
    let took = Timestamp::now().duration_since(started).as_secs_f64();
    println!("The standby was warm {took:.1} s after its start.");
    let records = last_record(&commands.broker).await?;
    // The standby is stopped in the meantime, so that as many commands wait for it as for the others.
    standby.signal(Signal::SIGSTOP);
    active.kill().await;
    let through = commands.send(waiting).await?;
    let begun = Timestamp::now();
    standby.signal(Signal::SIGCONT);
    let name = "standby, after `kill -9`";
    measure(commands, records, begun, through, (name, standby), Some(warm)).await?;
    standby.stop().await;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut numbers = std::env::args().skip(1).take(3).map(|number| number.parse());
    let commits = numbers.next().transpose()?.unwrap_or(COMMITS);
    let aggregates = numbers.next().transpose()?.unwrap_or(AGGREGATES);
    let waiting = numbers.next().transpose()?.unwrap_or(WAITING);
    let takeovers = std::env::args().nth(4).unwrap_or_else(|| TAKEOVERS.join(","));
    let takeovers: Vec<&str> = takeovers.split(',').collect();
    anyhow::ensure!(takeovers.iter().all(|name| TAKEOVERS.contains(name)), "takeovers are {TAKEOVERS:?}");
    let server = TestServer::start_provisioned().await;
    let folder = tempfile::tempdir()?;
    let handler =
        |instance: &str| StageProcess::new("command-handler", instance, &server.url(), folder.path());
    let (mut one, mut two) = (handler("one"), handler("two"));
    let broker = server.broker().await;
    let appends = GroupAppend::new(broker.clone(), COMMANDS, AppendStrategy::Measured);
    let mut commands = Commands { broker: broker.clone(), appends, aggregates, sent: 0 };

    one.start_ready().await;
    let begun = Timestamp::now();
    fill(&mut commands, commits).await?;
    println!(
        "{commits} commands of {aggregates} aggregates in {} commits, filled within {:.0} s, at most {} MiB; {waiting} commands wait each time\n",
        broker.state(EVENTS).await?.last_sequence,
        Timestamp::now().duration_since(begun).as_secs_f64(),
        mebibytes(one.memory_max().context("the handler has gone")?),
    );
    println!(
        "| Takeover | Until the first outcome | Commands in the ten seconds after | Ratio | Most memory since its start |\n|---|---|---|---|---|"
    );

    // The handler is stopped and continued, so that the same number of commands waits for a warm handler.
    one.signal(Signal::SIGSTOP);
    let records = last_record(&broker).await?;
    let through = commands.send(waiting).await?;
    one.signal(Signal::SIGCONT);
    let warm = measure(&mut commands, records, Timestamp::now(), through, ("none: warm", &one), None).await?;

    for takeover in takeovers.iter().copied().filter(|name| *name != "standby") {
        let records = last_record(&broker).await?;
        let name = match takeover {
            "stop" => "ordered end",
            "kill" => "`kill -9`",
            _ => "folder lost",
        };
        match takeover {
            "stop" => one.stop().await,
            _ => one.kill().await,
        }
        let through = commands.send(waiting).await?;
        if takeover == "lost" {
            lose(folder.path(), one.name())?;
        }
        let begun = Timestamp::now();
        one.start();
        measure(&mut commands, records, begun, through, (name, &one), Some(warm)).await?;
    }
    if takeovers.contains(&"standby") {
        measure_standby(&mut commands, &mut one, &mut two, waiting, warm).await?;
    }
    Ok(())
}
