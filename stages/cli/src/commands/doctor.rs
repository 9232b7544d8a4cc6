//! `millstream doctor`: prints one line for each check, from the server to every stage. Changes nothing.

mod active_handler;
mod bounded_check;
mod lost_messages;
mod process_rejections;
mod processes;
mod readers;
mod space;
mod time_limits;

use std::collections::BTreeSet;

use async_nats::jetstream;
use futures::TryStreamExt as _;
use millstream_contract::{
    error_text::one_line,
    exit_code::ExitCode,
    leases::leases_stream,
    stream_names::{COMMANDS, DEAD_LETTERS, EVENTS, LEASES_BUCKET, OUTCOMES, TIMERS},
};
use millstream_jetstream::{
    broker::Broker as _,
    nats_server::{VERSION_MIN, Version},
    provision::{ProvisionOptions, StreamFinding, StreamPresence, verify},
};
use millstream_runtime::stage_check::{Check, Trouble};
use serde_json::{Value, json};

use self::{bounded_check::BoundedChecks, processes::Processes, readers::Readers};
use crate::{
    deployment::SQL,
    failure::CommandFailure,
    output,
    session::{Connected, Session},
};

/// Which stages read which streams. The names of their consumers begin with the stage's name.
const READERS: [(&str, &str); 6] = [
    ("command-handler", COMMANDS),
    ("projector", EVENTS),
    ("projector", OUTCOMES),
    ("reporter", EVENTS),
    ("process-manager", EVENTS),
    ("process-manager", TIMERS),
];
/// Stages of which one process is active, by lease.
const TAKING_TURNS: [&str; 2] = ["command-handler", "process-manager"];
/// The stages that every system has.
const STAGES: [&str; 4] = ["command-handler", "process-manager", "projector", "reporter"];
/// Stages that need not run: for HTTP, and for tables.
const WHERE_WANTED: [&str; 2] = ["gateway", SQL];

/// Check the server, the streams, the consumers and every stage; end with 0 only if all are ready.
#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArguments {
    /// Print one JSON object for each check
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(crate) async fn run(arguments: DoctorArguments, session: &Session) -> Result<ExitCode, CommandFailure> {
    let connected = session.connect().await?;
    let mut worst = ExitCode::Ok;
    let mut show = |check: Check| -> Result<(), CommandFailure> {
        if let Err(trouble) = &check.result
            && worst == ExitCode::Ok
        {
            worst = trouble.code;
        }
        Ok(output::line(if arguments.json { to_json(&check).to_string() } else { check.to_string() })?)
    };
    let asking = BoundedChecks::new(&session.forbidden);
    show(server(&connected))?;
    for check in asking.all("streams", streams(&connected.jetstream, session.program.name)).await {
        show(check)?;
    }
    show(asking.one("space", space::space(&connected.broker)).await)?;
    show(asking.one(lost_messages::WHAT, lost_messages::messages(&connected.broker)).await)?;
    let processes = Processes::find(&connected.client, &session.forbidden).await;
    let readers = Readers::of(&processes.answering);
    for (stage, stream) in READERS {
        let what = format!("reader {stage} of {stream}");
        show(asking.one(&what, readers.check(&connected.jetstream, stage, stream)).await)?;
    }
    show(asking.one(active_handler::WHAT, active_handler::decisions(&connected)).await)?;
    for stage in TAKING_TURNS {
        show(asking.one(&format!("lease of {stage}"), active(&connected, stage)).await)?;
    }
    for stage in STAGES {
        show(processes.ready(stage))?;
    }
    for stage in WHERE_WANTED {
        show(processes.ready_if_any(stage))?;
    }
    show(process_rejections::refusals(&processes.answering, session.program.name))?;
    show(asking.one("dead letters", dead_letters(&connected, session.program.name)).await)?;
    Ok(worst)
}

fn to_json(check: &Check) -> Value {
    match &check.result {
        Ok(found) => json!({ "check": check.what, "ok": true, "detail": found }),
        Err(trouble) => json!({ "check": check.what, "ok": false, "detail": trouble.sentence }),
    }
}

fn trouble(code: ExitCode, sentence: impl Into<String>) -> Trouble {
    Trouble { sentence: sentence.into(), code }
}

fn server(connected: &Connected) -> Check {
    let info = connected.client.server_info();
    let result = match Version::parse(&format!("v{}", info.version)) {
        Some(version) if version >= VERSION_MIN && info.jetstream => {
            Ok(format!("nats-server {}, {}", info.version, info.server_name))
        }
        Some(version) if version >= VERSION_MIN => {
            Err(trouble(ExitCode::Configuration, "JetStream is off; start nats-server with `jetstream {}`"))
        }
        _ => Err(trouble(
            ExitCode::Configuration,
            format!("nats-server is {}; {VERSION_MIN} or newer is needed", info.version),
        )),
    };
    Check { what: "server".to_owned(), result }
}

async fn streams(jetstream: &jetstream::Context, program: &str) -> Vec<Check> {
    match verify(jetstream, &ProvisionOptions::default(), &[]).await {
        Ok(findings) => findings.iter().map(|finding| stream(finding, program)).collect(),
        Err(error) => {
            let result = Err(trouble(ExitCode::Unavailable, one_line(&error)));
            vec![Check { what: "streams".to_owned(), result }]
        }
    }
}

/// How many messages are set aside. They are not a fault of the system, but somebody has to look at each.
async fn dead_letters(connected: &Connected, program: &str) -> Check {
    let result = match connected.jetstream.get_stream(DEAD_LETTERS).await {
        Err(error) => Err(trouble(ExitCode::Unavailable, one_line(&error))),
        Ok(stream) => Ok(match stream.cached_info().state.messages {
            0 => "none".to_owned(),
            count => format!("{count} set aside; `{program} deadletters list` shows them"),
        }),
    };
    Check { what: "dead letters".to_owned(), result }
}

fn stream(finding: &StreamFinding, program: &str) -> Check {
    let differences: Vec<String> =
        finding.differences.iter().filter(|each| each.required).map(ToString::to_string).collect();
    let result = match finding.presence {
        StreamPresence::Missing => {
            let words = format!("it does not exist; run `{program} setup`");
            Err(trouble(ExitCode::Configuration, words))
        }
        _ if !differences.is_empty() => Err(trouble(ExitCode::Configuration, differences.join("; "))),
        _ => Ok(format!("as defined, generation {}", finding.generation.as_deref().unwrap_or("unknown"))),
    };
    Check { what: format!("stream {}", finding.stream), result }
}

/// Whether a consumer or a lease belongs to a stage.
fn is_of(stage: &str, name: &str) -> bool {
    name.strip_prefix(stage).is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '.']))
}

/// The active process of a stage holds its lease.
async fn active(connected: &Connected, stage: &str) -> Check {
    let what = format!("lease of {stage}");
    let result = match holders(connected, stage).await {
        Err(sentence) => Err(trouble(ExitCode::Unavailable, sentence)),
        Ok(holders) if holders.is_empty() => {
            Err(trouble(ExitCode::Unavailable, "none is active: nobody holds a lease"))
        }
        Ok(holders) => Ok(format!("active, {}", holders.join(", "))),
    };
    Check { what, result }
}

async fn holders(connected: &Connected, stage: &str) -> Result<Vec<String>, String> {
    let stream = connected.jetstream.get_stream(leases_stream()).await.map_err(|error| one_line(&error))?;
    let prefix = format!("$KV.{LEASES_BUCKET}.");
    let subjects: BTreeSet<String> = stream
        .info_with_subjects(format!("{prefix}>"))
        .await
        .map_err(|error| one_line(&error))?
        .map_ok(|(subject, _)| subject)
        .try_collect()
        .await
        .map_err(|error| one_line(&error))?;
    let mut holders = Vec::new();
    for subject in subjects {
        let Some(key) = subject.strip_prefix(&prefix).filter(|key| is_of(stage, key)) else {
            continue;
        };
        let held =
            connected.broker.last(&leases_stream(), &subject).await.map_err(|error| one_line(&error))?;
        // A lease that was given back leaves a marker without an owner.
        if let Some(message) = held.filter(|message| !message.payload.is_empty()) {
            holders.push(format!("{key} held by {}", String::from_utf8_lossy(&message.payload)));
        }
    }
    Ok(holders)
}
