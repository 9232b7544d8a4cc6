//! `millstream explain`: shows the events, commands and people that made a row. It folds the row's view again and watches the row.

use std::collections::BTreeSet;

use millstream_contract::{
    commit::CommittedCommand, exit_code::ExitCode, position::StreamPosition, stream_names::EVENTS,
    subject::StreamId,
};
use millstream_domain::row_watch::{RowChange, WatchedProjection};
use millstream_jetstream::broker::Broker as _;
use millstream_values::report_table;
use serde_json::{Map, Value, json};

use crate::{
    failure::CommandFailure,
    names, output,
    past_views::{FilledView, Moment, Past},
    session::{Connected, Session},
};

const COLUMNS: [&str; 9] = [
    "sequence",
    "version",
    "recorded_at",
    "aggregate",
    "type",
    "command_id",
    "command_position",
    "actor",
    "change",
];
/// How many characters of a change a table shows; JSON has all of it.
const CHANGE_MAX: usize = 100;
/// What an event changed in a row that existed before and after.
const CHANGED: &str = "changed";

/// Show which events, commands and people made a row.
///
/// Folds the view from the first event, by the code that the projector or the reporter runs, and lists every event that changed
/// the row. A record of a report is explained like any row: `explain retail.store-daily 2012-01-31/2506`. Ends
/// with 13 when no event ever made such a row.
#[derive(Debug, clap::Args)]
pub(crate) struct ExplainArguments {
    /// Context, view and key, as in `retail stock 2506:tea`, `retail.stock 2506:tea` or, where only one context has such a
    /// view, `stock 2506:tea`
    #[arg(required = true, value_name = "CONTEXT VIEW KEY", num_args = 2..=3)]
    name: Vec<String>,
    /// As it was: at a time, at the end of a date (UTC), at a position as answers carry it, or at a sequence of EVENTS
    #[arg(long, value_name = "TIME|POSITION")]
    as_of: Option<Moment>,
    /// One JSON object an event
    #[arg(long)]
    json: bool,
}

/// Runs it. The number is the exit code.
pub(crate) async fn run(arguments: ExplainArguments, session: &Session) -> Result<u8, CommandFailure> {
    let (context, view, key) = asked(&arguments.name)?;
    let FilledView { projection, table } = FilledView::find(session, context.as_deref(), &view)?;
    let connected = session.connect().await?;
    let (watched, changes) = WatchedProjection::new(projection, table, &key);
    let moment = match arguments.as_of {
        Some(moment) => moment,
        None => end(&connected).await?,
    };
    let (past, position) = Past::fold(session, &connected, vec![Box::new(watched)], &moment).await?;
    past.close().await;
    let changes = changes.seen();
    if changes.is_empty() {
        session.console.say(format_args!("no event has made a row {key:?} of {view} as of {position}"));
        return Ok(crate::NOTHING_FOUND);
    }
    if arguments.json {
        for change in &changes {
            output::line(described(change))?;
        }
        return Ok(ExitCode::Ok.number());
    }
    let rows: Vec<Vec<String>> = changes.iter().map(row).collect();
    output::line(output::table(&COLUMNS.map(str::to_owned), &rows, &[0, 1, 6]))?;
    session.console.say(format_args!("{} as of {position}", summary(&changes)));
    Ok(ExitCode::Ok.number())
}

/// The context if it is named, the view and the key.
fn asked(words: &[String]) -> Result<(Option<String>, String, String), CommandFailure> {
    if let [view, key] = words
        && !view.contains('.')
    {
        return Ok((None, view.clone(), key.clone()));
    }
    let [context, view, key] = names::parts(words, ["CONTEXT", "VIEW", "KEY"])?;
    Ok((Some(context), view, key))
}

/// The end of EVENTS: everything that is stored now.
async fn end(connected: &Connected) -> Result<Moment, CommandFailure> {
    let state = connected.broker.state(EVENTS).await?;
    Ok(Moment::Position(StreamPosition::new(EVENTS, state.generation, state.last_sequence)))
}

fn described(change: &RowChange) -> Value {
    let CommittedCommand { id, position, actor, correlation_id, causation_id, traceparent, partner_of } =
        &change.command;
    let (kind, fields) = difference(change);
    let fields: Map<String, Value> =
        fields.into_iter().map(|(field, before, after)| (field, json!([before, after]))).collect();
    let mut described = json!({
        "sequence": change.sequence,
        "version": change.version,
        "recorded_at": change.recorded_at.to_string(),
        "aggregate": change.stream_id.to_string(),
        "type": change.event_type,
        "command_id": id,
        "command_position": position,
        "actor": actor,
        "correlation_id": correlation_id,
        "causation_id": causation_id,
        "traceparent": traceparent,
        "change": kind,
        "fields": fields,
    });
    if let (Some(own), Some(described)) = (partner_of, described.as_object_mut()) {
        described.insert("partner_of".into(), json!(own));
    }
    described
}

fn row(change: &RowChange) -> Vec<String> {
    let value = described(change);
    let text = |name: &str| value.get(name).map(report_table::cell).unwrap_or_default();
    let (kind, fields) = difference(change);
    let words = if kind == CHANGED { brief(&fields) } else { kind.to_owned() };
    COLUMNS.iter().map(|name| if *name == "change" { words.clone() } else { text(name) }).collect()
}

/// The fields for which a table has room: figures first, and nothing that has parts of its own.
fn brief(fields: &[(String, Value, Value)]) -> String {
    let has_parts = |value: &Value| value.is_object() || value.is_array();
    let cell = |value: &Value| if value.is_null() { "none".to_owned() } else { report_table::cell(value) };
    let (figures, others): (Vec<_>, Vec<_>) = fields
        .iter()
        .filter(|(_, before, after)| !has_parts(before) && !has_parts(after))
        .partition(|(_, before, after)| before.is_number() && after.is_number());
    let words = figures.into_iter().chain(others);
    let words = words.map(|(field, before, after)| format!("{field} {} -> {}", cell(before), cell(after)));
    let mut words = words.collect::<Vec<_>>().join(", ");
    if let Some((cut, _)) = words.char_indices().nth(CHANGE_MAX) {
        words.truncate(cut);
        words.push('…');
    }
    words
}

/// What an event changed in the row: the fields that differ, with their values before and after.
fn difference(change: &RowChange) -> (&'static str, Vec<(String, Value, Value)>) {
    let fields = |row: &Option<Vec<u8>>| -> Map<String, Value> {
        let value = row.as_deref().and_then(|row| serde_json::from_slice(row).ok());
        match value {
            Some(Value::Object(fields)) => fields,
            Some(other) => Map::from_iter([("value".to_owned(), other)]),
            None => Map::new(),
        }
    };
    let (before, after) = (fields(&change.before), fields(&change.after));
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let value = |fields: &Map<String, Value>, name: &str| fields.get(name).cloned().unwrap_or_default();
    let differing = names
        .into_iter()
        .filter(|name| before.get(*name) != after.get(*name))
        .map(|name| (name.clone(), value(&before, name), value(&after, name)))
        .collect();
    let kind = match (&change.before, &change.after) {
        (None, _) => "created",
        (_, None) => "removed",
        _ => CHANGED,
    };
    (kind, differing)
}

/// How many of what there were, and who caused them.
fn summary(changes: &[RowChange]) -> String {
    let aggregates: BTreeSet<&StreamId> = changes.iter().map(|change| &change.stream_id).collect();
    let commands: BTreeSet<u64> = changes.iter().map(|change| change.command.position).collect();
    let people: BTreeSet<&str> =
        changes.iter().filter_map(|change| change.command.actor.as_deref()).collect();
    let people = match people.len() {
        0 => "nobody that is named".to_owned(),
        _ => people.into_iter().collect::<Vec<_>>().join(", "),
    };
    format!(
        "{} event(s) of {} aggregate(s), {} command(s), by {people}",
        changes.len(),
        aggregates.len(),
        commands.len()
    )
}
