//! `millstream query`: shows rows of a view.

use std::{collections::BTreeSet, num::NonZeroUsize};

use millstream_contract::exit_code::ExitCode;
use millstream_values::report_table;
use serde_json::{Value, json};

use crate::{
    failure::CommandFailure,
    names, output,
    past_views::{FilledView, Moment, Past},
    query_client::{Freshness, TOO_LARGE, TooLarge, ViewClient, ViewRow, ViewSource},
    session::Session,
};

/// How many rows a list shows by default.
const LIMIT_DEFAULT: NonZeroUsize = NonZeroUsize::new(100).expect("it is more than none");

/// Show rows of a view: one by its key, or those of a prefix.
///
/// With --as-of, the view is folded from the first event up to that moment, by the code that the projector runs, and queried in the same
/// way. Ends with 13 if there is no row with the key.
#[derive(Debug, clap::Args)]
pub(crate) struct QueryArguments {
    /// Context and view, as in `retail till` or `retail.till`, and the key of a row
    #[arg(required = true, value_name = "CONTEXT VIEW KEY", num_args = 1..=3)]
    name: Vec<String>,
    /// Only rows whose key starts with this
    #[arg(long, default_value = "")]
    prefix: String,
    /// At most this many
    #[arg(long, default_value_t = LIMIT_DEFAULT, value_name = "N", value_parser = crate::whole(NonZeroUsize::MIN..=NonZeroUsize::MAX))]
    limit: NonZeroUsize,
    /// All of them
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Print one JSON object for each row
    #[arg(long)]
    json: bool,
    /// All as it was: at a time, at the end of a date (UTC), at a position as answers carry it, or at a sequence of EVENTS
    #[arg(long, value_name = "TIME|POSITION", conflicts_with_all = ["position", "wait", "as_it_is"])]
    as_of: Option<Moment>,
    #[command(flatten)]
    freshness: Freshness,
}

/// Runs it. The number is the exit code.
pub(crate) async fn run(arguments: QueryArguments, session: &Session) -> Result<u8, CommandFailure> {
    let (context, view, key) = asked(&arguments)?;
    let connected = session.connect().await?;
    let Some(moment) = &arguments.as_of else {
        let freshness = arguments.freshness.clone().settled(&connected, &view).await;
        let source = ViewSource::Service(Box::new(connected.broker.clone()), freshness);
        return answer(&ViewClient::new(source, &context, &view), key.as_deref(), &arguments, session).await;
    };
    let projection = FilledView::find(session, Some(&context), &view)?.projection;
    let (past, position) = Past::fold(session, &connected, vec![projection], moment).await?;
    session.console.say(format_args!("{context}.{view} as of {position}"));
    let client = ViewClient::new(past.source(), &context, &view);
    let answered = answer(&client, key.as_deref(), &arguments, session).await;
    past.close().await;
    answered
}

/// Context, view and, if there is one, the key.
fn asked(arguments: &QueryArguments) -> Result<(String, String, Option<String>), CommandFailure> {
    let words = &arguments.name;
    if let Ok([context, view]) = names::parts(words, ["CONTEXT", "VIEW"])
        && !view.contains('.')
    {
        return Ok((context, view, None));
    }
    let [context, view, key] = names::parts(words, ["CONTEXT", "VIEW", "KEY"])?;
    if arguments.all || !arguments.prefix.is_empty() {
        return Err(CommandFailure::usage("a key names one row; --prefix and --all are for lists"));
    }
    Ok((context, view, Some(key)))
}

async fn answer(
    view: &ViewClient,
    key: Option<&str>,
    arguments: &QueryArguments,
    session: &Session,
) -> Result<u8, CommandFailure> {
    if let Some(key) = key {
        let Some(row) = view.get(key).await? else {
            session.console.say(format_args!("{} has no row {key:?}", view.name()));
            return Ok(crate::NOTHING_FOUND);
        };
        let text = if arguments.json { json_line(&row) } else { format!("{:#}", row.value) };
        output::line(text)?;
        return Ok(ExitCode::Ok.number());
    }
    let mut pages = view.list(&arguments.prefix);
    let mut rows = Vec::new();
    let mut shown = 0;
    while let Some(row) = pages.next().await? {
        if !arguments.all && shown == arguments.limit.get() {
            session.console.say(format_args!("there are more rows than {shown}; see --limit and --all"));
            break;
        }
        shown += 1;
        if let Some(TooLarge { bytes, bytes_max }) = row.too_large {
            session.console.say(format_args!(
                "row {:?} has {bytes} bytes and an answer at most {bytes_max}; --as-of folds it here",
                row.key
            ));
        }
        if arguments.json {
            output::line(json_line(&row))?;
        } else {
            rows.push(row);
        }
    }
    if !arguments.json && !rows.is_empty() {
        output::line(table(&rows))?;
    }
    Ok(ExitCode::Ok.number())
}

fn json_line(row: &ViewRow) -> String {
    match &row.too_large {
        None => json!({ "key": row.key, "value": row.value }).to_string(),
        Some(too_large) => json!({ "key": row.key, TOO_LARGE: too_large }).to_string(),
    }
}

/// The columns are the fields of all rows, by name. Numbers are aligned to the right.
fn table(rows: &[ViewRow]) -> String {
    let fields: BTreeSet<&String> =
        rows.iter().filter_map(|row| row.value.as_object()).flat_map(|o| o.keys()).collect();
    let columns: Vec<String> =
        std::iter::once("key".to_owned()).chain(fields.iter().map(|name| (*name).clone())).collect();
    let cells = |row: &ViewRow| {
        let values = fields
            .iter()
            .map(|name| row.value.get(name.as_str()).map(report_table::cell).unwrap_or_default());
        std::iter::once(row.key.clone()).chain(values).collect::<Vec<_>>()
    };
    let is_number =
        |name: &&&String| rows.iter().all(|row| row.value.get(name.as_str()).is_none_or(Value::is_number));
    let numbers: Vec<usize> =
        (1..).zip(&fields).filter(|(_, name)| is_number(name)).map(|(index, _)| index).collect();
    output::table(&columns, &rows.iter().map(cells).collect::<Vec<_>>(), &numbers)
}
