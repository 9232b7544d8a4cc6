//! `millstream audit`: what the gateways have recorded about who sent what and who was refused, and whether the record is complete.

use jiff::Timestamp;
use millstream_contract::{
    audit::{AuditCheck, AuditDecision, AuditFindings, AuditHead, AuditRecord, records},
    exit_code::ExitCode,
    stream_names::AUDIT,
};
use millstream_jetstream::{broker::Broker as _, stream_feed::StreamFeed};
use serde_json::json;

use crate::{failure::CommandFailure, output, session::Session};

/// The name under which readers are shown.
const PURPOSE: &str = "audit";

/// Show the audit log of the gateways, or prove that nothing of it was changed.
#[derive(Debug, clap::Args)]
pub(crate) struct AuditArguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show records, the oldest first
    List(ListArguments),
    /// Check that each record holds the hash of the one before it, and that nothing is missing
    ///
    /// Ends with 65 if something is wrong, with a line for each fault. Prints the end of each chain; there is one chain for each run of a
    /// gateway. Records removed from the end of a chain are only noticed if you kept such a line elsewhere and pass it with --head.
    Verify(VerifyArguments),
}

#[derive(Debug, clap::Args)]
struct ListArguments {
    /// Only records of this key, user or owner of a token
    #[arg(long)]
    who: Option<String>,
    /// Only refusals
    #[arg(long)]
    denied: bool,
    /// Only records since this time
    #[arg(long)]
    since: Option<Timestamp>,
    /// Print one JSON object for each record
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct VerifyArguments {
    /// The end of a chain as an earlier run of this command printed it; may be repeated
    #[arg(long, value_name = "RUN:NUMBER:HASH")]
    head: Vec<AuditHead>,
    /// Print one JSON object with the whole result
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(crate) async fn run(arguments: AuditArguments, session: &Session) -> Result<ExitCode, CommandFailure> {
    match arguments.action {
        Action::List(arguments) => list(&arguments, session).await,
        Action::Verify(arguments) => verify(arguments, session).await,
    }
}

impl ListArguments {
    fn wants(&self, record: &AuditRecord) -> bool {
        let ListArguments { who, denied, since, .. } = self;
        who.as_ref().is_none_or(|who| record.who.as_ref() == Some(who))
            && (!denied || record.decision == AuditDecision::Denied)
            && since.is_none_or(|since| record.until() >= since)
    }
}

async fn list(arguments: &ListArguments, session: &Session) -> Result<ExitCode, CommandFailure> {
    let broker = session.connect().await?.broker;
    let mut feed = StreamFeed::open(&broker, AUDIT, 0, PURPOSE).await?;
    while let Some(message) = feed.next().await? {
        let records = records(&message).map_err(|line| {
            let text =
                format_args!("{AUDIT} {}, line {line}, is no record; see `audit verify`", message.sequence);
            CommandFailure::new(ExitCode::Data, text)
        })?;
        for (record, line) in records {
            if !arguments.wants(&record) {
                continue;
            }
            match arguments.json {
                true => output::line(String::from_utf8_lossy(line))?,
                false => output::line(sentence(&record))?,
            }
        }
    }
    feed.close().await;
    Ok(ExitCode::Ok)
}

/// Time, decision, who, what (a subject, or a method and path), and the position or the reason.
fn sentence(record: &AuditRecord) -> String {
    let decision = serde_json::to_value(record.decision).unwrap_or_default();
    let mut parts = vec![record.time.to_string(), decision.as_str().unwrap_or_default().to_owned()];
    let known = [&record.who, &record.what, &record.command_id, &record.code];
    parts.extend(known.into_iter().flatten().cloned());
    parts.extend(record.position.map(|position| format!("COMMANDS:{position}")));
    parts.extend(record.address.as_ref().map(|address| format!("from {address}")));
    let until = record.last.map(|last| format!(" until {last}")).unwrap_or_default();
    parts.extend(record.count.map(|count| format!("({count} times{until})")));
    parts.join("  ")
}

async fn verify(arguments: VerifyArguments, session: &Session) -> Result<ExitCode, CommandFailure> {
    let broker = session.connect().await?.broker;
    let state = broker.state(AUDIT).await?;
    let mut check = AuditCheck::new(state.first_sequence, arguments.head);
    let mut feed = StreamFeed::open(&broker, AUDIT, 0, PURPOSE).await?;
    let mut last = 0;
    while let Some(message) = feed.next().await? {
        last = message.sequence;
        check.take(&message);
    }
    feed.close().await;
    // What was stored while the stream was read is not missing.
    let AuditFindings { records, heads, faults } = check.end(state.last_sequence.max(last));
    if arguments.json {
        let heads: Vec<_> =
            heads.iter().map(|(head, ended)| json!({ "head": head.to_string(), "ended": ended })).collect();
        output::line(json!({ "records": records, "heads": heads, "faults": faults }))?;
    } else {
        for fault in &faults {
            output::line(fault)?;
        }
        for (head, ended) in &heads {
            output::line(format_args!("{head}{}", if *ended { " ended" } else { "" }))?;
        }
        output::line(format_args!("{records} records, {} chains, {} faults", heads.len(), faults.len()))?;
    }
    Ok(if faults.is_empty() { ExitCode::Ok } else { ExitCode::Data })
}
