//! `millstream setup`: creates missing streams, reports how the others differ, and makes the changes that were asked for.

use std::{collections::BTreeMap, num::NonZeroUsize, str::FromStr};

use millstream_contract::{
    commit::StoredCommit,
    dead_letter::named_message,
    exit_code::ExitCode,
    stream_names::{COMMANDS, DEAD_LETTERS, EVENTS, TIMERS},
};
use millstream_jetstream::{
    broker::Broker as _,
    nats_broker::NatsBroker,
    provision::{Difference, ProvisionOptions, StreamFinding, StreamPresence, provision, verify},
    set_aside::is_set_aside,
    stream_feed::StreamFeed,
};
use millstream_runtime::config::parse_bytes;
use serde_json::{Value, json};

use crate::{
    failure::CommandFailure,
    output,
    session::{Connected, Session},
};

/// Create the streams and the bucket of leases, or verify existing ones.
///
/// Existing streams are not changed: each difference is printed with the command that corrects it. With --apply, existing streams get the
/// sizes and the number of copies that you ask for, and nothing else.
#[derive(Debug, clap::Args)]
pub(crate) struct SetupArguments {
    /// Copies of each stream: 1, or 3 or 5 in a cluster. By default, new streams have one
    #[arg(long, value_parser = crate::replicas)]
    replicas: Option<NonZeroUsize>,
    /// Size of a stream, such as EVENTS=100GiB; may be repeated. TIMERS has no size
    #[arg(long, value_name = "STREAM=SIZE")]
    max_bytes: Vec<StreamSize>,
    /// Also apply --replicas and --max-bytes to existing streams. Without this, it is an error if an existing stream has other values
    #[arg(long)]
    apply: bool,
    /// The name of this installation, such as a release in a namespace. The streams keep the name, and no other installation can use them
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
    /// Give --owner the streams of another installation, which no longer exists
    #[arg(long, requires_all = ["owner", "apply"])]
    take_over: bool,
    /// The position after which COMMANDS begins if it is created while other streams already exist: at least (and by default) the
    /// highest position that EVENTS and DEADLETTERS name
    #[arg(long, value_name = "POSITION", value_parser = crate::whole(0..=u64::MAX))]
    commands_after: Option<u64>,
    /// Print one JSON object for each stream
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone)]
struct StreamSize {
    stream: String,
    bytes: i64,
}

impl FromStr for StreamSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (stream, size) = text.split_once('=').ok_or("write STREAM=SIZE, as in EVENTS=100GiB")?;
        let bytes = parse_bytes(size).map_err(|error| error.to_string())?;
        let bytes = i64::try_from(bytes).map_err(|error| error.to_string())?;
        Ok(Self { stream: stream.to_owned(), bytes })
    }
}

impl SetupArguments {
    fn options(&self) -> Result<ProvisionOptions, CommandFailure> {
        let known = millstream_jetstream::provision::definitions(&ProvisionOptions::default());
        let mut max_bytes = BTreeMap::new();
        for size in &self.max_bytes {
            if !known.iter().any(|config| config.name == size.stream) {
                let names: Vec<&str> = known.iter().map(|config| config.name.as_str()).collect();
                return Err(CommandFailure::usage(format_args!(
                    "--max-bytes: there is no stream {}; there are {}",
                    size.stream,
                    names.join(", ")
                )));
            }
            // A full stream with schedules drops its oldest messages, because it cannot refuse new ones.
            if size.stream == TIMERS {
                return Err(CommandFailure::usage(
                    "--max-bytes: TIMERS has no limit, or timers would be lost",
                ));
            }
            max_bytes.insert(size.stream.clone(), size.bytes);
        }
        Ok(ProvisionOptions {
            replicas: self.replicas,
            max_bytes,
            apply: self.apply,
            owner: self.owner.clone(),
            take_over: self.take_over,
            ..ProvisionOptions::default()
        })
    }
}

/// Runs it.
pub(crate) async fn run(arguments: SetupArguments, session: &Session) -> Result<ExitCode, CommandFailure> {
    let mut options = arguments.options()?;
    let connected = session.connect().await?;
    options.begin_after = begin_after(arguments.commands_after, session, &connected).await?;
    let findings = provision(&connected.jetstream, &options).await?;
    for finding in &findings {
        if arguments.json {
            output::line(to_json(finding))?;
        } else {
            for line in lines(finding, session.program.name) {
                output::line(line)?;
            }
        }
    }
    if !findings.iter().all(StreamFinding::is_usable) {
        return Ok(ExitCode::Configuration);
    }
    if findings.iter().any(StreamFinding::lacks_what_was_asked_for) {
        session.console.say("a stream that is there has another size, or another number of copies, than was asked for; with --apply it gets them");
        return Ok(ExitCode::Configuration);
    }
    Ok(ExitCode::Ok)
}

/// The sequences after which COMMANDS and TIMERS begin if they are created now. Existing commits and dead letters name messages by sequence. A
/// sequence that was named must not be given again, or another message would be taken for the one that had it.
async fn begin_after(
    asked: Option<u64>,
    session: &Session,
    connected: &Connected,
) -> Result<BTreeMap<String, u64>, CommandFailure> {
    let looked_at = [COMMANDS, EVENTS, TIMERS, DEAD_LETTERS];
    let found = verify(&connected.jetstream, &ProvisionOptions::default(), &looked_at).await?;
    let is_there =
        |name: &str| found.iter().any(|each| each.stream == name && each.presence == StreamPresence::Present);
    if let (true, Some(_)) = (is_there(COMMANDS), asked) {
        return Err(CommandFailure::usage(
            "--commands-after: COMMANDS is there already, and where a stream begins cannot be changed",
        ));
    }
    let missing: Vec<&str> = [COMMANDS, TIMERS].into_iter().filter(|name| !is_there(name)).collect();
    let mut named = BTreeMap::new();
    if !missing.is_empty() && is_there(DEAD_LETTERS) {
        named = highest_set_aside(&connected.broker).await?;
        named.retain(|stream, _| missing.contains(&stream.as_str()));
    }
    if missing.contains(&COMMANDS) {
        let highest = named.entry(COMMANDS.to_owned()).or_default();
        if is_there(EVENTS) {
            *highest = highest_position(&connected.broker).await?.max(*highest);
        }
        match asked {
            Some(asked) if asked < *highest => {
                return Err(CommandFailure::usage(format_args!(
                    "--commands-after: EVENTS and DEADLETTERS name positions up to {highest}; COMMANDS has to begin behind them"
                )));
            }
            Some(asked) => *highest = asked,
            None => {}
        }
    }
    named.retain(|_, highest| *highest > 0);
    for (stream, highest) in &named {
        session.console.say(format_args!(
            "{stream} begins behind {highest}: streams that are kept name what it held up to there"
        ));
    }
    Ok(named)
}

/// By stream, the highest sequence of a message that was set aside. Reads all of DEADLETTERS.
async fn highest_set_aside(broker: &NatsBroker) -> Result<BTreeMap<String, u64>, CommandFailure> {
    let mut highest = BTreeMap::new();
    // An interrupted setup continues with the rights that it has: it may read a stream's state, but not its messages.
    if broker.state(DEAD_LETTERS).await?.last_sequence == 0 {
        return Ok(highest);
    }
    let mut letters = StreamFeed::open(broker, DEAD_LETTERS, 0, "setup").await?;
    while let Some(message) = letters.next().await? {
        if let Some((stream, sequence)) = named_message(&message.subject) {
            let of_stream = highest.entry(stream.to_owned()).or_insert(sequence);
            *of_stream = sequence.max(*of_stream);
        }
    }
    letters.close().await;
    Ok(highest)
}

/// The highest position in COMMANDS that a commit names. Reads all of EVENTS.
async fn highest_position(broker: &NatsBroker) -> Result<u64, CommandFailure> {
    let mut events = StreamFeed::open(broker, EVENTS, 0, "setup").await?;
    let mut highest = 0;
    while let Some(message) = events.next().await? {
        match StoredCommit::from_stored(&message) {
            Ok(stored) => highest = highest.max(stored.commit.last_position()),
            // It names no position.
            Err(_) if is_set_aside(broker, &message).await? => {}
            Err(error) => return Err(CommandFailure::data(&error)),
        }
    }
    events.close().await;
    Ok(highest)
}

/// One line for the stream, and one for each difference.
pub(crate) fn lines(finding: &StreamFinding, program: &str) -> Vec<String> {
    let missing = format!("missing; run `{program} setup`");
    let presence = match finding.presence {
        StreamPresence::Created => "created",
        StreamPresence::Present if !finding.changed.is_empty() => "changed",
        StreamPresence::Present if finding.differences.is_empty() => "as defined",
        StreamPresence::Present => "differs",
        StreamPresence::Missing => &missing,
    };
    let generation = finding.generation.as_deref().map(|text| format!(" (generation {text})"));
    let first = format!("{}: {presence}{}", finding.stream, generation.unwrap_or_default());
    let changed = finding.changed.iter().map(|difference| {
        format!("  {} was {}, and is {} now", difference.field, difference.found, difference.expected)
    });
    let rest = finding.differences.iter().map(|difference| {
        let weight = if difference.required { "must be mended" } else { "a matter of choice" };
        format!("  {difference} ({weight})")
    });
    std::iter::once(first).chain(changed).chain(rest).collect()
}

fn to_json(finding: &StreamFinding) -> Value {
    let described = |differences: &[Difference]| -> Vec<Value> {
        let each = differences.iter().map(|difference| {
            json!({
                "field": difference.field,
                "expected": difference.expected,
                "found": difference.found,
                "required": difference.required,
                "remedy": difference.remedy,
            })
        });
        each.collect()
    };
    let presence = match finding.presence {
        StreamPresence::Created => "created",
        StreamPresence::Present => "present",
        StreamPresence::Missing => "missing",
    };
    json!({
        "stream": finding.stream,
        "presence": presence,
        "usable": finding.is_usable(),
        "generation": finding.generation,
        "differences": described(&finding.differences),
        "changed": described(&finding.changed),
    })
}
