//! `millstream verify outcomes`: proves from the streams alone that every command of a stretch has one outcome and at most one effect. The
//! three streams are read side by side, so a large one needs little memory. Changes nothing.

use millstream_contract::{
    exit_code::ExitCode,
    stream_names::{COMMANDS, EVENTS, OUTCOMES},
};
use millstream_jetstream::{
    broker::Broker as _,
    nats_broker::NatsBroker,
    position_at_moment::last_stored_before,
    stream_feed::{FeedError, StreamFeed},
};
use millstream_proof::verification::{StretchVerification, StretchVerifier};
use serde_json::{Value, json};

use crate::{failure::CommandFailure, output, session::Session};

/// The largest difference between the clocks of several servers. A commit and a record are stored after the commands that they are about, so
/// earlier messages need not be read.
const CLOCKS_DIFFER_BY: jiff::SignedDuration = jiff::SignedDuration::from_secs(60);
/// The name under which readers are shown.
const PURPOSE: &str = "verify";

/// Prove from the streams that Millstream's guarantees hold.
#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Prove that every command has exactly one outcome, and that every accepted one is in EVENTS exactly once
    ///
    /// Reads COMMANDS from --from to --to, and OUTCOMES and EVENTS from the time of the first of these commands to their ends, because a
    /// second effect could be anywhere. Ends with 65 if a guarantee is broken, with a line for each violation.
    Outcomes(OutcomesArguments),
}

#[derive(Debug, clap::Args)]
struct OutcomesArguments {
    /// First position in COMMANDS; by default the earliest that is still stored
    #[arg(long, value_name = "POSITION", value_parser = crate::whole(0..=u64::MAX))]
    from: Option<u64>,
    /// Last position; by default the last one that exists
    #[arg(long, value_name = "POSITION", value_parser = crate::whole(0..=u64::MAX))]
    to: Option<u64>,
    /// Print one JSON object for each violation, and one at the end with the totals
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(crate) async fn run(arguments: VerifyArguments, session: &Session) -> Result<ExitCode, CommandFailure> {
    let What::Outcomes(arguments) = arguments.what;
    let connected = session.connect().await?;
    let broker = &connected.broker;
    let commands = broker.state(COMMANDS).await?;
    let asked = arguments.from.unwrap_or(1).max(1);
    let from = asked.max(commands.first_sequence);
    if arguments.from.is_some() && from > asked {
        session.console.say(format_args!("{COMMANDS} is kept from {from} on only"));
    }
    let stretch = Stretch { from, to: arguments.to.unwrap_or(commands.last_sequence) };
    let nothing = stretch.to < stretch.from || stretch.from > commands.last_sequence;
    if nothing && (arguments.from.is_some() || arguments.to.is_some()) {
        return Err(CommandFailure::usage(format_args!(
            "there is no command from {from} to {}: {COMMANDS} holds {} to {}, so this would prove nothing",
            stretch.to, commands.first_sequence, commands.last_sequence
        )));
    }
    let starts = stretch.starts(broker).await?;
    let mut found = stretch.verify(broker, &starts).await?;
    if found.violation_count > 0 && !starts.are_whole() {
        // A clock that was set back must not cause a false accusation, so the check is repeated with everything that is kept.
        session.console.say("something looks wrong; reading OUTCOMES and EVENTS from their beginnings");
        let whole = Starts { events: 0, outcomes: 0 };
        found = stretch.verify(broker, &whole).await?;
    }
    show(&stretch, &found, arguments.json)?;
    Ok(if found.violation_count == 0 { ExitCode::Ok } else { ExitCode::Data })
}

/// The commands to verify.
struct Stretch {
    from: u64,
    to: u64,
}

/// The sequences after which the other streams are read; 0 for everything that is kept.
struct Starts {
    events: u64,
    outcomes: u64,
}

impl Starts {
    fn are_whole(&self) -> bool {
        self.events == 0 && self.outcomes == 0
    }
}

impl Stretch {
    async fn starts(&self, broker: &NatsBroker) -> Result<Starts, FeedError> {
        let mut commands = StreamFeed::open(broker, COMMANDS, self.from - 1, PURPOSE).await?;
        let first = commands.next_through(self.to).await?;
        commands.close().await;
        let Some(first) = first else { return Ok(Starts { events: 0, outcomes: 0 }) };
        let time = first.stored_at - CLOCKS_DIFFER_BY;
        Ok(Starts {
            events: last_stored_before(broker, EVENTS, time, u64::MAX).await?,
            outcomes: last_stored_before(broker, OUTCOMES, time, u64::MAX).await?,
        })
    }

    /// Reads the three streams in step.
    async fn verify(&self, broker: &NatsBroker, starts: &Starts) -> Result<StretchVerification, FeedError> {
        // The ends are read in this order, so that everything that a record names is there.
        let mut outcomes = StreamFeed::open(broker, OUTCOMES, starts.outcomes, PURPOSE).await?;
        let mut events = StreamFeed::open(broker, EVENTS, starts.events, PURPOSE).await?;
        let mut commands = StreamFeed::open(broker, COMMANDS, self.from - 1, PURPOSE).await?;
        let mut verifier = StretchVerifier::new(self.from, self.to, starts.events == 0);
        while let Some(message) = outcomes.next().await? {
            let Some(record) = verifier.record(&message) else { continue };
            while let Some(command) = commands.next_through(record.through.min(self.to)).await? {
                verifier.command(&command);
            }
            while let Some(commit) = events.next_through(record.events_through).await? {
                verifier.commit(&commit);
            }
            verifier.judge(&message, record);
        }
        while let Some(command) = commands.next_through(self.to).await? {
            verifier.command(&command);
        }
        while let Some(commit) = events.next().await? {
            verifier.commit(&commit);
        }
        for feed in [outcomes, events, commands] {
            feed.close().await;
        }
        Ok(verifier.finish())
    }
}

fn show(stretch: &Stretch, found: &StretchVerification, json: bool) -> Result<(), CommandFailure> {
    for violation in &found.violations {
        if json {
            output::line(json!({
                "check": violation.check.to_string(),
                "stream": violation.stream,
                "sequence": violation.sequence,
                "detail": violation.detail,
            }))?;
        } else {
            output::line(violation)?;
        }
    }
    if json {
        return Ok(output::line(figures(stretch, found))?);
    }
    let more = found.violation_count - found.violations.len() as u64;
    if more > 0 {
        output::line(format_args!("and {more} more"))?;
    }
    let words = if found.violation_count == 0 { "every promise kept" } else { "promises broken" };
    output::line(format_args!(
        "{COMMANDS} {}..={}: {} commands, {words} ({} violations)",
        stretch.from, stretch.to, found.commands, found.violation_count
    ))?;
    output::line(format_args!(
        "  {} accepted with {} events, {} rejected, {} duplicates, {} dead letters, {} not decided yet",
        found.accepted, found.events, found.rejected, found.duplicates, found.dead_lettered, found.undecided
    ))?;
    if found.unjudged > 0 {
        output::line(format_args!(
            "  {} commands are older than the first record that {OUTCOMES} keeps: of them nothing can be said",
            found.unjudged
        ))?;
    }
    Ok(())
}

fn figures(stretch: &Stretch, found: &StretchVerification) -> Value {
    json!({
        "from": stretch.from,
        "to": stretch.to,
        "commands": found.commands,
        "accepted": found.accepted,
        "rejected": found.rejected,
        "duplicates": found.duplicates,
        "dead_lettered": found.dead_lettered,
        "undecided": found.undecided,
        "unjudged": found.unjudged,
        "events": found.events,
        "violations": found.violation_count,
    })
}
