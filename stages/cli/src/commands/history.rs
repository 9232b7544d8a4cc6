//! `millstream history`: shows every event of one aggregate, and its state as of a moment, by direct get of its subject.

use std::sync::Arc;

use millstream_contract::{
    commit::StoredCommit, event_json, exit_code::ExitCode, moment::Moment, subject::StreamId,
};
use millstream_domain::{decider::AggregateType, set_aside::SetAsides};
use millstream_jetstream::{
    event_store::{EventStore, LoadError},
    nats_broker::NatsBroker,
    position_at_moment::Until,
};
use millstream_values::report_table;
use millstream_write_side::past_state::PastState;
use serde_json::Value;

use crate::{failure::CommandFailure, names, output, session::Session};

const COLUMNS: [&str; 7] = ["sequence", "version", "recorded_at", "type", "data", "command_id", "actor"];

/// List every event of an aggregate, or show its state as it was.
///
/// With --as-of, the events up to that moment are folded by the aggregate's own rules: the result is the state on which a command of that
/// moment was decided. A time includes all events of the aggregate that were recorded by then.
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
    let history = ReadHistory {
        store: EventStore::new(connected.broker.clone()),
        until: match &arguments.as_of {
            None => Until::End,
            Some(moment) => Until::of(&connected.broker, moment).await?,
        },
        stream_id,
    };
    let state = match (&folded_by, &arguments.as_of) {
        (Some(rules), Some(moment)) => Some(history.state(rules, moment).await?),
        _ => None,
    };
    let events = if arguments.json {
        history.print_json(state.as_ref()).await?
    } else {
        history.print_tables().await?
    };
    if events == 0 {
        // Events of an aggregate type that was removed from the model can still be listed. A name without events is a typing error.
        rules(session, &context, &aggregate)?;
        let then = arguments.as_of.as_ref().map(|moment| format!(" as of {moment}")).unwrap_or_default();
        session.console.say(format_args!("{} has no events{then}", history.stream_id));
    }
    if let Some(state) = state.filter(|_| !arguments.json) {
        output::line(format_args!("{state:#}"))?;
    }
    // With --as-of there is an answer even before the first event: the initial state of an aggregate.
    let nothing = events == 0 && arguments.as_of.is_none();
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

/// A history, read page by page, because it may be larger than memory.
struct ReadHistory {
    store: EventStore<NatsBroker>,
    until: Until,
    stream_id: StreamId,
}

impl ReadHistory {
    /// Passes the commits that count to `see`, page by page.
    async fn each_page(
        &self,
        mut see: impl FnMut(&[StoredCommit]) -> Result<(), CommandFailure>,
    ) -> Result<(), CommandFailure> {
        let mut history = self.store.current_history(&self.stream_id, 0).await?;
        loop {
            let mut page = match history.next_page().await {
                Ok(Some(page)) => page,
                Ok(None) => return Ok(()),
                Err(LoadError::Broker(error)) => return Err(error.into()),
                Err(LoadError::NoCommit(error)) => return Err(CommandFailure::data(&error)),
            };
            let (whole, taken) =
                (page.len(), page.iter().take_while(|commit| self.until.takes(commit)).count());
            page.truncate(taken);
            see(&page)?;
            if taken < whole {
                return Ok(());
            }
        }
    }

    async fn state(&self, rules: &Arc<dyn AggregateType>, moment: &Moment) -> Result<Value, CommandFailure> {
        let mut folded = PastState::initial(rules);
        self.each_page(|commits| {
            let mut applied = commits.iter().map(|commit| folded.apply(commit));
            applied.try_for_each(|applied| applied.map_err(|error| CommandFailure::data(&error)))
        })
        .await?;
        folded.json(&self.stream_id, moment).map_err(|error| CommandFailure::data(&error))
    }

    /// Prints an object for each event, or one object with state and events. Returns how many events there were.
    async fn print_json(&self, state: Option<&Value>) -> Result<usize, CommandFailure> {
        let mut count = 0;
        if state.is_some() {
            output::part("{\"events\":[")?;
        }
        self.each_page(|commits| {
            for event in commits.iter().flat_map(event_json::events) {
                match state {
                    Some(_) if count > 0 => output::part(format_args!(",{event}"))?,
                    Some(_) => output::part(event)?,
                    None => output::line(event)?,
                }
                count += 1;
            }
            Ok(())
        })
        .await?;
        if let Some(state) = state {
            let fields = state.to_string();
            output::line(format_args!("],{}", fields.trim_start_matches('{')))?;
        }
        Ok(count)
    }

    /// Prints tables of events, one for each page, because the widths of the columns of a long history are not known before its end.
    async fn print_tables(&self) -> Result<usize, CommandFailure> {
        let columns = COLUMNS.map(str::to_owned);
        let mut count = 0;
        self.each_page(|commits| {
            let rows: Vec<Vec<String>> =
                commits.iter().flat_map(event_json::events).map(|event| row(&event)).collect();
            if !rows.is_empty() {
                output::line(output::table(&columns, &rows, &[0, 1]))?;
            }
            count += rows.len();
            Ok(())
        })
        .await?;
        Ok(count)
    }
}

fn row(event: &Value) -> Vec<String> {
    COLUMNS.iter().map(|name| event.get(*name).map(report_table::cell).unwrap_or_default()).collect()
}
