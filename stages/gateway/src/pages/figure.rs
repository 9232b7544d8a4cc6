//! The page of a figure of a report: every posting that it is the sum of, with its event, its command and the sender.
//!
//! The ledger only keeps postings of corrections, so all of them are found as `millstream explain` does: the report is folded again from its
//! events, up to the position of the figure, and the row is watched. The content of an event's history is shown if the key grants that history.

use std::collections::{BTreeMap, VecDeque};

use askama::Template;
use axum::{http::StatusCode, response::Response};
use millstream_contract::{
    commit::StoredCommit, position::StreamPosition, stream_names::EVENTS, subject::EVENT_PREFIX,
};
use millstream_domain::{
    projection::{Projection, ProjectionError, Rows},
    report::Column,
    row_watch::{RowChange, RowChanges, WatchedProjection},
};
use millstream_jetstream::{broker::Broker as _, set_aside::is_set_aside};
use serde_json::Value;

use super::{
    address,
    layout::{Frame, page},
    report::{Asked, Head},
    report_chart::Chart,
    report_list::chosen_figure,
    value_text::{label, time},
};
use crate::problem::Problem;

/// The most events that are folded for a page: some hundred milliseconds of reading.
const FOLDED_MAX: u64 = 100_000;
/// The most bytes of commits that are folded for a page.
const FOLDED_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How many bytes are read at a time.
const READ_BYTES: usize = 1024 * 1024;
/// The number of postings on a page, the newest first.
const POSTINGS_MAX: usize = 500;

#[derive(Template)]
#[template(path = "pages/figure.html")]
struct FigurePage<'a> {
    frame: Frame<'a>,
    name: &'a str,
    title: String,
    list: String,
    row: String,
    date: &'a str,
    key: &'a str,
    head: Head,
    label: String,
    value: String,
    unit: String,
    chart: Option<Chart>,
    postings: Vec<Posting>,
    count: usize,
    /// The number of postings that the key does not grant, and their sum.
    hidden: usize,
    hidden_sum: String,
    sum: String,
    /// Why there are no postings.
    missing: String,
}

/// The sum of a figure's postings, and the newest of those that may be shown, the oldest first.
#[derive(Default)]
struct Postings {
    newest: VecDeque<Posting>,
    count: usize,
    sum: i64,
    hidden: usize,
    hidden_sum: i64,
}

struct Posting {
    recorded: String,
    event_type: String,
    event: String,
    aggregate: String,
    to_aggregate: String,
    actor: String,
    command: String,
    to_command: String,
    added: String,
    total: String,
}

/// The page.
pub(super) async fn page_of(asked: &Asked<'_>) -> Result<Response, Problem> {
    let name = asked.visit.parameter("figure");
    let column = chosen_figure(asked.report, name).filter(|column| column.name == name);
    let Some(column) = column else {
        let detail = format!("the report {} has no figure {name}", asked.report.name);
        return Err(Problem::malformed("query-malformed", detail));
    };
    let figure = asked.value.get(column.name).and_then(Value::as_i64).unwrap_or_default();
    let (chart, folded) = futures::join!(asked.chart(column), asked.postings(column));
    let (postings, missing) = match folded {
        Ok(postings) => (postings, String::new()),
        Err(problem) => (Postings::default(), super::api::Refusal::from(problem).detail),
    };
    let Postings { newest, count, sum, hidden, hidden_sum } = postings;
    let figure_page = FigurePage {
        // The page does not refresh itself, because each time it is made the whole report is folded.
        frame: Frame::new(asked.visit),
        name: asked.name,
        title: label(&asked.report.name),
        list: address::with(&address::path(&["reports", asked.name]), &[("date", asked.date)]),
        row: asked.to(&[("revision", asked.visit.parameter("revision"))]),
        date: asked.date,
        key: asked.key,
        head: asked.head(),
        label: label(column.name),
        value: asked.written(column, figure),
        unit: asked.unit(column),
        chart,
        postings: newest.into_iter().rev().collect(),
        count,
        hidden,
        hidden_sum: asked.written(column, hidden_sum),
        sum: if missing.is_empty() && sum == figure { String::new() } else { asked.written(column, sum) },
        missing,
    };
    page(StatusCode::OK, &figure_page)
}

impl Asked<'_> {
    /// Adds what events have added to a figure.
    fn add(&self, column: &Column, changes: Vec<RowChange>, postings: &mut Postings) {
        // A revision that is not the last one ends with the event that sealed it.
        let end = self.value.get("sealed_position").and_then(Value::as_u64).filter(|sealed| *sealed > 0);
        let figure = |row: &Option<Vec<u8>>| {
            let row: Value =
                row.as_deref().and_then(|row| serde_json::from_slice(row).ok()).unwrap_or_default();
            row.get(column.name).and_then(Value::as_i64).unwrap_or_default()
        };
        for change in changes.iter().filter(|change| end.is_none_or(|end| change.sequence <= end)) {
            let added = figure(&change.after).wrapping_sub(figure(&change.before));
            if added == 0 {
                continue;
            }
            postings.count += 1;
            postings.sum = postings.sum.wrapping_add(added);
            if !self.visit.principal.may_read_history(&change.stream_id) {
                postings.hidden += 1;
                postings.hidden_sum = postings.hidden_sum.wrapping_add(added);
                continue;
            }
            if postings.newest.len() == POSTINGS_MAX {
                postings.newest.pop_front();
            }
            postings.newest.push_back(self.posting(column, change, added, postings.sum));
        }
    }

    fn posting(&self, column: &Column, change: &RowChange, added: i64, total: i64) -> Posting {
        let recorded = change.recorded_at.to_string();
        let sign = if added > 0 { "+" } else { "" };
        let stream = &change.stream_id;
        let parts = ["aggregates", stream.context(), stream.aggregate(), stream.id()];
        Posting {
            recorded: time(&recorded).unwrap_or(recorded),
            event_type: change.event_type.clone(),
            added: format!("{sign}{}", self.written(column, added)),
            total: self.written(column, total),
            event: address::path(&["events", &change.sequence.to_string()]),
            aggregate: format!("{} {}", stream.aggregate(), stream.id()),
            to_aggregate: address::path(&parts),
            actor: change.command.actor.as_deref().unwrap_or_default().to_owned(),
            command: change.command.id.to_string(),
            to_command: address::with(
                &address::path(&["sent", &change.command.id]),
                &[("position", &change.command.position.to_string()), ("context", stream.context())],
            ),
        }
    }

    /// The postings of a figure, up to the position at which the row was read.
    async fn postings(&self, column: &Column) -> Result<Postings, Problem> {
        let commands = &self.visit.pages.commands;
        let _place = commands.places_for_states.take(self.visit.principal.name())?;
        let report = self.visit.pages.ledger(self.report).ok_or_else(|| {
            Problem::new(StatusCode::NOT_FOUND, "report-unknown", "there is no such report")
        })?;
        let until =
            self.answer.position.parse::<StreamPosition>().map_or(u64::MAX, |position| position.sequence);
        let aggregates: Vec<&str> = commands
            .aggregates
            .iter()
            .filter(|aggregate| {
                aggregate.context() == self.report.context && report.handles(aggregate.aggregate())
            })
            .map(|aggregate| aggregate.aggregate())
            .collect();
        let aggregate = if let [one] = aggregates[..] { one } else { "*" };
        let subject = format!("{EVENT_PREFIX}.{}.{aggregate}.*", self.report.context);
        let (watched, changes) = WatchedProjection::new(report, &self.report.name, self.place);
        let mut folding = Folding { rows: FoldedRows::default(), watched, changes, events: 0, bytes: 0 };
        let mut postings = Postings::default();
        let mut next = 1;
        loop {
            let page = commands.broker.load_page(EVENTS, &subject, next, READ_BYTES).await;
            let page = page.map_err(|error| Problem::unavailable("events-unavailable", error.to_string()))?;
            for message in &page.messages {
                if message.sequence > until {
                    break;
                }
                match StoredCommit::from_stored(message) {
                    Ok(commit) => folding.apply(&commit)?,
                    Err(error) => {
                        let aside = is_set_aside(&commands.broker, message).await;
                        if !aside
                            .map_err(|error| Problem::unavailable("events-unavailable", error.to_string()))?
                        {
                            return Err(unreadable(&format!("sequence {}: {error}", message.sequence)));
                        }
                    }
                }
            }
            // Both rows of each change are in memory while a page is folded.
            self.add(column, folding.changes.take(), &mut postings);
            tokio::task::yield_now().await;
            next = match page.messages.last() {
                Some(last) if page.more && last.sequence < until => last.sequence + 1,
                _ => return Ok(postings),
            };
        }
    }
}

/// A report that is being folded.
struct Folding {
    rows: FoldedRows,
    watched: WatchedProjection,
    changes: RowChanges,
    events: u64,
    bytes: usize,
}

impl Folding {
    fn apply(&mut self, commit: &StoredCommit) -> Result<(), Problem> {
        self.bytes += commit.body_bytes();
        for envelope in commit.envelopes() {
            self.events += 1;
            if self.watched.handles(envelope.stream_id.aggregate()) {
                let applied = self.watched.apply(&envelope, &mut self.rows);
                applied.map_err(|error| unreadable(&error.to_string()))?;
            }
        }
        if self.events > FOLDED_MAX || self.bytes > FOLDED_BYTES_MAX {
            let detail = format!(
                "The report is made of more than {FOLDED_MAX} events, or {FOLDED_BYTES_MAX} bytes of them; `millstream explain` folds them all"
            );
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "history-too-long", detail));
        }
        Ok(())
    }
}

fn unreadable(detail: &str) -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "history-unreadable", detail)
}

/// Rows in memory, by table and key, while a page is made.
#[derive(Default)]
struct FoldedRows(BTreeMap<String, BTreeMap<String, Vec<u8>>>);

impl Rows for FoldedRows {
    fn get(&self, table: &str, key: &str) -> Result<Option<Vec<u8>>, ProjectionError> {
        Ok(self.0.get(table).and_then(|rows| rows.get(key)).cloned())
    }

    fn put(&mut self, table: &str, key: &str, value: Vec<u8>) {
        match self.0.get_mut(table) {
            Some(rows) => rows.insert(key.to_owned(), value),
            None => self.0.entry(table.to_owned()).or_default().insert(key.to_owned(), value),
        };
    }

    fn delete(&mut self, table: &str, key: &str) {
        if let Some(rows) = self.0.get_mut(table) {
            rows.remove(key);
        }
    }

    fn scan(&self, table: &str, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, ProjectionError> {
        let Some(rows) = self.0.get(table) else { return Ok(Vec::new()) };
        let found = rows.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        Ok(found.map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}
