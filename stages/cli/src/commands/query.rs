//! `millstream query`: rows of a view.

use std::collections::BTreeSet;

use millstream_engine::exit_code::ExitCode;
use serde_json::{Value, json};

use crate::{
    failure::CommandFailure,
    output,
    query_client::{Freshness, ViewClient, ViewRow},
    session::Session,
};

/// Show rows of a view: one by its key, or those of a prefix.
///
/// Ends with 13 when there is no row of the key.
#[derive(Debug, clap::Args)]
pub(crate) struct QueryArguments {
    /// As in `retail`
    context: String,
    /// As in `till`
    view: String,
    /// The row of this key
    #[arg(conflicts_with_all = ["prefix", "limit", "all"])]
    key: Option<String>,
    /// Rows whose key starts with this
    #[arg(long, default_value = "")]
    prefix: String,
    /// At most this many
    #[arg(long, default_value_t = 100, value_name = "N")]
    limit: usize,
    /// All of them
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// One JSON object a row
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    freshness: Freshness,
}

/// Runs it. The number is the exit code.
pub(crate) async fn run(arguments: QueryArguments, session: &Session) -> Result<u8, CommandFailure> {
    let connected = session.connect().await?;
    let freshness = arguments.freshness.clone().settled(&connected, &arguments.view).await;
    let view = ViewClient::new(&connected.client, &arguments.context, &arguments.view, freshness);
    if let Some(key) = &arguments.key {
        let Some(row) = view.get(key).await? else {
            session.talk.say(format_args!("{} has no row {key:?}", arguments.view));
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
        if !arguments.all && shown == arguments.limit {
            session.talk.say(format_args!("there are more rows than {shown}; see --limit and --all"));
            break;
        }
        shown += 1;
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
    json!({ "key": row.key, "value": row.value }).to_string()
}

/// Columns are the fields of all rows, by name; numbers stand to the right.
fn table(rows: &[ViewRow]) -> String {
    let fields: BTreeSet<&String> =
        rows.iter().filter_map(|row| row.value.as_object()).flat_map(|o| o.keys()).collect();
    let columns: Vec<String> =
        std::iter::once("key".to_owned()).chain(fields.iter().map(|name| (*name).clone())).collect();
    let cells = |row: &ViewRow| {
        let values =
            fields.iter().map(|name| row.value.get(name.as_str()).map(output::cell).unwrap_or_default());
        std::iter::once(row.key.clone()).chain(values).collect::<Vec<_>>()
    };
    let is_number =
        |name: &&&String| rows.iter().all(|row| row.value.get(name.as_str()).is_none_or(Value::is_number));
    let numbers: Vec<usize> =
        (1..).zip(&fields).filter(|(_, name)| is_number(name)).map(|(index, _)| index).collect();
    output::table(&columns, &rows.iter().map(cells).collect::<Vec<_>>(), &numbers)
}
