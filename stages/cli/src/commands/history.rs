//! `millstream history`: every event of one aggregate, and its state as of a moment, by direct get of its subject.

use std::sync::Arc;

use millstream_contract::{commit::StoredCommit, exit_code::ExitCode, moment::Moment, subject::StreamId};
use millstream_domain::{decider::AggregateType, set_aside::SetAsides};
use millstream_jetstream::{
    event_store::{EventStore, LoadError},
    moments::position_at,
    nats_broker::NatsBroker,
};
use millstream_write_side::aggregate_state::AggregateState;
use serde_json::{Value, json};

use crate::{event_json, failure::CommandFailure, names, output, session::Session};

const COLUMNS: [&str; 7] = ["sequence", "version", "recorded_at", "type", "data", "command_id", "actor"];

/// List every event of an aggregate, or show its state as it was.
///
/// With --as-of the events up to there are folded by the aggregate's own rules: what is shown is the state that a command of
/// that moment was decided on. A time counts all events of the aggregate that were recorded by then.
#[derive(Debug, clap::Args)]
pub(crate) struct HistoryArguments {
    /// Context, aggregate and id, as in `retail till 2506_2012-01-31` or `retail.till.2506_2012-01-31`
    #[arg(required = true, value_name = "CONTEXT AGGREGATE ID", num_args = 1..=3)]
    name: Vec<String>,
    /// The state as it was: at a time, at the end of a date (UTC), at a position as answers carry it, or at a sequence of
    /// EVENTS
    #[arg(long, value_name = "TIME|POSITION")]
    as_of: Option<Moment>,
    /// One JSON object an event; with --as-of one object with state and events
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(crate) async fn run(arguments: HistoryArguments, session: &Session) -> Result<u8, CommandFailure> {
    let [context, aggregate, id] = names::parts(&arguments.name, ["CONTEXT", "AGGREGATE", "ID"])?;
    let stream_id = StreamId::new(&context, &aggregate, &id).map_err(CommandFailure::usage)?;
    let folded_by = arguments.as_of.as_ref().map(|_| rules(session, &context, &aggregate)).transpose()?;
    let connected = session.connect().await?;
    let mut history = load(&connected.broker, &stream_id).await?;
    if let Some(moment) = &arguments.as_of {
        keep_until(&mut history, moment, &connected.broker).await?;
    }
    let events: Vec<Value> = history.iter().flat_map(event_json::events).collect();
    if events.is_empty() {
        // Events of an aggregate type that was taken out of the model can still be listed; a name that has none is a slip.
        rules(session, &context, &aggregate)?;
        let then = arguments.as_of.as_ref().map(|moment| format!(" as of {moment}")).unwrap_or_default();
        session.console.say(format_args!("{stream_id} has no events{then}"));
    }
    let state = match (&folded_by, &arguments.as_of) {
        (Some(rules), Some(moment)) => Some(state(rules, &stream_id, &history, moment)?),
        _ => None,
    };
    show(&events, state, arguments.json)?;
    // With --as-of there is an answer also before the first event: the state with which an aggregate begins.
    let nothing = events.is_empty() && arguments.as_of.is_none();
    Ok(if nothing { crate::NOTHING_FOUND } else { ExitCode::Ok.number() })
}

fn rules(
    session: &Session,
    context: &str,
    aggregate: &str,
) -> Result<Arc<dyn AggregateType>, CommandFailure> {
    let known = session.model()?.aggregates().with::<SetAsides>();
    known.get(context, aggregate).cloned().ok_or_else(|| {
        let names: Vec<String> =
            known.iter().map(|each| format!("{}.{}", each.context(), each.aggregate())).collect();
        let text = format!("there are no rules of {context}.{aggregate}; there are {}", names.join(", "));
        CommandFailure::usage(text)
    })
}

async fn load(broker: &NatsBroker, stream_id: &StreamId) -> Result<Vec<StoredCommit>, CommandFailure> {
    match EventStore::new(broker.clone()).load_current(stream_id, 0).await {
        Ok(history) => Ok(history),
        Err(LoadError::Broker(error)) => Err(error.into()),
        Err(LoadError::NoCommit(error)) => Err(CommandFailure::data(&error)),
    }
}

/// The times of one aggregate's commits only rise, so that a time cuts between two of them.
async fn keep_until(
    history: &mut Vec<StoredCommit>,
    moment: &Moment,
    broker: &NatsBroker,
) -> Result<(), CommandFailure> {
    match moment {
        Moment::Time(time) => {
            let later = history.iter().position(|commit| commit.commit.recorded_at() > *time);
            history.truncate(later.unwrap_or(history.len()));
        }
        position => {
            let through = position_at(broker, position).await?.sequence;
            history.retain(|commit| commit.broker_sequence <= through);
        }
    }
    Ok(())
}

fn state(
    rules: &Arc<dyn AggregateType>,
    stream_id: &StreamId,
    history: &[StoredCommit],
    moment: &Moment,
) -> Result<Value, CommandFailure> {
    let folded = AggregateState::fold(rules, history).map_err(|error| CommandFailure::data(&error))?;
    let state = rules.state_json(&folded.state).map_err(|error| CommandFailure::data(&error))?;
    Ok(json!({
        "aggregate": stream_id.to_string(),
        "as_of": moment.to_string(),
        "sequence": folded.last_sequence,
        "version": folded.version,
        "recorded_at": history.last().map(|commit| commit.commit.recorded_at().to_string()),
        "state": state,
    }))
}

fn show(events: &[Value], state: Option<Value>, json: bool) -> Result<(), CommandFailure> {
    match (state, json) {
        (Some(mut state), true) => {
            if let Some(fields) = state.as_object_mut() {
                fields.insert("events".to_owned(), json!(events));
            }
            output::line(state)?;
        }
        (None, true) => {
            for event in events {
                output::line(event)?;
            }
        }
        (state, false) => {
            if !events.is_empty() {
                let columns = COLUMNS.map(str::to_owned);
                let rows: Vec<Vec<String>> = events.iter().map(row).collect();
                output::line(output::table(&columns, &rows, &[0, 1]))?;
            }
            if let Some(state) = state {
                output::line(format_args!("{state:#}"))?;
            }
        }
    }
    Ok(())
}

fn row(event: &Value) -> Vec<String> {
    COLUMNS.iter().map(|name| event.get(*name).map(output::cell).unwrap_or_default()).collect()
}
