//! `millstream report verify`: folds every report again from EVENTS into a file of its own, and compares it with the reporter's.
//!
//! The reporter continues to work: each page of its answers names its position, the local ledger is folded to that position, and the same page
//! is read from it. Changes nothing.

use std::time::Duration;

use millstream_contract::{exit_code::ExitCode, position::StreamPosition, stream_names::EVENTS};
use millstream_jetstream::broker::Broker as _;
use millstream_read_side::{
    projection_runner::view_name,
    query_service::{LocalQueries, Operation},
};
use serde_json::{Value, json};

use super::{
    comparison::{self, Difference, differences},
    ledgers,
};
use crate::{
    failure::CommandFailure,
    output,
    past_views::Past,
    query_client::{Freshness, PAGE, Page, ViewClient, ViewRow, ViewSource},
    session::{Connected, Session},
};

/// How many lines are shown for a report that differs.
const SHOWN_MAX: usize = 20;

/// What to verify.
#[derive(Debug, clap::Args)]
pub(super) struct VerifyArguments {
    /// As in `store-daily`; every report when absent
    report: Option<String>,
    /// How long the reporter may take to reach the end of EVENTS
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = crate::duration)]
    wait: Duration,
    /// One JSON object a difference, and one at the end for each report
    #[arg(long)]
    json: bool,
}

/// Runs it. The number is the exit code.
pub(super) async fn run(arguments: VerifyArguments, session: &Session) -> Result<u8, CommandFailure> {
    let ledgers = ledgers(session, arguments.report.as_deref())?;
    let reports: Vec<_> =
        ledgers.iter().map(|ledger| (ledger.context(), ledger.name(), ledger.views())).collect();
    let connected = session.connect().await?;
    let state = connected.broker.state(EVENTS).await?;
    let past = Past::begin(session, &connected, ledgers, &state.generation, "report-verify")?;
    let mut verifier = Verifier {
        queries: past.queries(),
        past,
        connected,
        position: StreamPosition::new(EVENTS, state.generation, state.last_sequence),
        wait: arguments.wait,
    };
    let mut equal = true;
    for (context, report, tables) in reports {
        let mut found = Found::default();
        for table in tables {
            found.tables.push(verifier.compare(context, table, &mut found.differences).await?);
        }
        equal &= found.differences.is_empty();
        found.show(report, tables, &verifier.position, arguments.json)?;
    }
    verifier.past.close().await;
    let code = if equal { ExitCode::Ok } else { ExitCode::Data };
    Ok(code.number())
}

/// The result for one report.
#[derive(Default)]
struct Found {
    /// Rows of each of its tables.
    tables: Vec<usize>,
    differences: Vec<Difference>,
}

struct Verifier {
    connected: Connected,
    past: Past,
    queries: LocalQueries,
    /// The last position seen. Answers never go back behind it.
    position: StreamPosition,
    wait: Duration,
}

impl Verifier {
    /// Compares a table page by page. Returns how many rows the reporter has.
    async fn compare(
        &mut self,
        context: &str,
        table: &'static str,
        found: &mut Vec<Difference>,
    ) -> Result<usize, CommandFailure> {
        let view = view_name(table);
        let mut rows = 0;
        let mut cursor = None;
        loop {
            let mut body = json!({ "limit": PAGE });
            if let (Some(cursor), Some(fields)) = (cursor.take(), body.as_object_mut()) {
                fields.insert("cursor".to_owned(), Value::String(cursor));
            }
            let live = self.ask(context, &view, &body).await?;
            self.past.advance(&self.position).await?;
            let page = parse(&view, &live)?;
            let last = page.rows.last().map(|row| row.key.clone());
            let expected = self.recomputed(context, &view, &body).await?;
            if live != expected {
                let rows = self.rows(context, &view, body, page.cursor.as_ref().and(last)).await?;
                let before = found.len();
                found.extend(differences(table, &page.rows, &rows));
                if found.len() == before && parse(&view, &expected)?.rows.len() == page.rows.len() {
                    found.extend(comparison::form(table, &live, &expected));
                }
            }
            rows += page.rows.len();
            cursor = page.cursor;
            if cursor.is_none() {
                return Ok(rows);
            }
        }
    }

    /// A page of the reporter's rows, whose position is noted.
    async fn ask(&mut self, context: &str, view: &str, body: &Value) -> Result<Vec<u8>, CommandFailure> {
        let freshness =
            Freshness { position: Some(self.position.to_string()), wait: self.wait, as_it_is: false };
        let source = ViewSource::Service(Box::new(self.connected.broker.clone()), freshness);
        let answer = ViewClient::new(source, context, view).answer(Operation::List, body).await?;
        let position: Option<StreamPosition> = answer.position.and_then(|position| position.parse().ok());
        match position {
            Some(position) if position.generation == self.position.generation => self.position = position,
            other => {
                let wanted = &self.position;
                let found = other.map_or("no position".to_owned(), |position| position.to_string());
                return Err(CommandFailure::new(
                    ExitCode::Data,
                    format_args!("{context}.{view} was asked as of {wanted} and answers as of {found}"),
                ));
            }
        }
        Ok(answer.body.to_vec())
    }

    async fn recomputed(&self, context: &str, view: &str, body: &Value) -> Result<Vec<u8>, CommandFailure> {
        let bytes_max = self.connected.client.server_info().max_payload;
        let body = body.to_string();
        let asked = self.queries.ask((context, view), Operation::List, body.as_bytes(), bytes_max).await;
        asked.map(|(body, _)| body).map_err(|error| CommandFailure::new(ExitCode::Software, error))
    }

    /// The recomputed rows of a page whose last key is `last`. On the last page, these are all remaining rows.
    async fn rows(
        &self,
        context: &str,
        view: &str,
        mut body: Value,
        last: Option<String>,
    ) -> Result<Vec<ViewRow>, CommandFailure> {
        let mut rows = Vec::new();
        loop {
            let page = parse(view, &self.recomputed(context, view, &body).await?)?;
            rows.extend(page.rows);
            let beyond = |row: &ViewRow| last.as_ref().is_some_and(|last| row.key > *last);
            let done = rows.last().is_some_and(beyond);
            rows.retain(|row| !beyond(row));
            match (page.cursor, body.as_object_mut()) {
                (Some(cursor), Some(fields)) if !done => {
                    fields.insert("cursor".to_owned(), Value::String(cursor));
                }
                _ => return Ok(rows),
            }
        }
    }
}

fn parse(view: &str, body: &[u8]) -> Result<Page, CommandFailure> {
    serde_json::from_slice(body).map_err(|error| {
        CommandFailure::new(
            ExitCode::Data,
            format_args!("{view} answers with something else than rows: {error}"),
        )
    })
}

impl Found {
    fn show(
        &self,
        report: &str,
        tables: &[&str],
        position: &StreamPosition,
        json: bool,
    ) -> Result<(), CommandFailure> {
        let count = self.differences.len();
        let rows: Vec<String> =
            tables.iter().zip(&self.tables).map(|(table, rows)| format!("{rows} in {table}")).collect();
        if json {
            for difference in &self.differences {
                output::line(difference.to_json())?;
            }
            let rows: Value = tables.iter().zip(&self.tables).map(|(table, rows)| (*table, *rows)).collect();
            let summary = json!({
                "report": report, "position": position.to_string(), "rows": rows, "differing": count,
            });
            return Ok(output::line(summary)?);
        }
        for difference in self.differences.iter().take(SHOWN_MAX) {
            output::line(difference)?;
        }
        if count > SHOWN_MAX {
            output::line(format_args!("and {} more of {report}", count - SHOWN_MAX))?;
        }
        let words = match count {
            0 => "equals its recomputation".to_owned(),
            count => format!("differs from its recomputation in {count} rows"),
        };
        Ok(output::line(format_args!("{report} {words} as of {position} (rows: {})", rows.join(", ")))?)
    }
}
