//! `millstream setup`: makes the streams that are missing and says where the others differ.

use std::{collections::BTreeMap, num::NonZeroUsize, str::FromStr};

use millstream_contract::{
    commit::StoredCommit,
    exit_code::ExitCode,
    stream_names::{COMMANDS, EVENTS},
};
use millstream_jetstream::{
    nats_broker::NatsBroker,
    provision::{ProvisionOptions, StreamFinding, StreamPresence, provision, verify},
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

/// Make the streams and the bucket of leases, or verify those that are there.
///
/// What exists is never changed: each difference is printed with the command that mends it.
#[derive(Debug, clap::Args)]
pub(crate) struct SetupArguments {
    /// Copies of each stream: 1, or 3 or 5 in a cluster
    #[arg(long, default_value = "1", value_parser = super::bench::replicas)]
    replicas: NonZeroUsize,
    /// Size of a stream, as in EVENTS=100GiB; may be repeated
    #[arg(long, value_name = "STREAM=SIZE")]
    max_bytes: Vec<StreamSize>,
    /// Where COMMANDS is made beside an EVENTS that is kept: the position behind which it begins. At least, and without this
    /// exactly, the highest position that EVENTS names
    #[arg(long, value_name = "POSITION")]
    commands_after: Option<u64>,
    /// One JSON object a stream
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
            max_bytes.insert(size.stream.clone(), size.bytes);
        }
        Ok(ProvisionOptions { replicas: self.replicas, max_bytes, ..ProvisionOptions::default() })
    }
}

/// Runs it.
pub(crate) async fn run(arguments: SetupArguments, session: &Session) -> Result<ExitCode, CommandFailure> {
    let mut options = arguments.options()?;
    let connected = session.connect().await?;
    options.commands_after = commands_after(arguments.commands_after, session, &connected).await?;
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
    Ok(if findings.iter().all(StreamFinding::is_usable) { ExitCode::Ok } else { ExitCode::Configuration })
}

/// Behind which position COMMANDS is to begin. Commits name positions: one that was named must not be given again.
async fn commands_after(
    asked: Option<u64>,
    session: &Session,
    connected: &Connected,
) -> Result<u64, CommandFailure> {
    let found = verify(&connected.jetstream, &ProvisionOptions::default(), &[COMMANDS, EVENTS]).await?;
    let is_there =
        |name: &str| found.iter().any(|each| each.stream == name && each.presence == StreamPresence::Present);
    if is_there(COMMANDS) {
        return match asked {
            Some(_) => Err(CommandFailure::usage(
                "--commands-after: COMMANDS is there already, and where a stream begins cannot be changed",
            )),
            None => Ok(0),
        };
    }
    let named = if is_there(EVENTS) { highest_position(&connected.broker).await? } else { 0 };
    match asked {
        Some(asked) if asked < named => Err(CommandFailure::usage(format_args!(
            "--commands-after: EVENTS names positions up to {named}; COMMANDS has to begin behind them"
        ))),
        _ => {
            if named > 0 {
                session
                    .console
                    .say(format_args!("EVENTS names positions up to {named}; COMMANDS begins behind them"));
            }
            Ok(asked.unwrap_or(named))
        }
    }
}

/// The highest position of COMMANDS that a commit names. Reads all of EVENTS.
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

/// One line for the stream and one for each difference.
pub(crate) fn lines(finding: &StreamFinding, program: &str) -> Vec<String> {
    let missing = format!("missing; run `{program} setup`");
    let presence = match finding.presence {
        StreamPresence::Created => "created",
        StreamPresence::Present if finding.differences.is_empty() => "as defined",
        StreamPresence::Present => "differs",
        StreamPresence::Missing => &missing,
    };
    let generation = finding.generation.as_deref().map(|text| format!(" (generation {text})"));
    let first = format!("{}: {presence}{}", finding.stream, generation.unwrap_or_default());
    let rest = finding.differences.iter().map(|difference| {
        let weight = if difference.required { "must be mended" } else { "a matter of choice" };
        format!("  {difference} ({weight})")
    });
    std::iter::once(first).chain(rest).collect()
}

fn to_json(finding: &StreamFinding) -> Value {
    let differences: Vec<Value> = finding
        .differences
        .iter()
        .map(|difference| {
            json!({
                "field": difference.field,
                "expected": difference.expected,
                "found": difference.found,
                "required": difference.required,
                "remedy": difference.remedy,
            })
        })
        .collect();
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
        "differences": differences,
    })
}
