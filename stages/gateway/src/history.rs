//! `GET /v1/history/{context}/{aggregate}/{id}`: an aggregate's events, the newest first, or its state as of a moment.
//!
//! Both are read from EVENTS itself, so they never lag. A page is read backwards from commit to commit. A state is folded by the aggregate's
//! own rules, from the first event on. Deliberately absent: states of long histories, which would take longer than a request may.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderMap, StatusCode},
    response::Response,
};
use millstream_contract::{
    event_json, moment::Moment, position::StreamPosition, stream_names::EVENTS, subject::StreamId,
};
use millstream_domain::decider::AggregateType;
use millstream_jetstream::{
    broker::Broker as _,
    event_store::{BackPage, EventStore, LoadError},
    position_at_moment::Until,
};
use millstream_write_side::past_state::PastState;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    commands::Commands,
    key_ring::Principal,
    problem::Problem,
    queries::{current, freshness},
    views::{ViewAnswer, past_problem},
    whole_number,
};

/// How many events a page has, unless the client says otherwise.
const EVENTS_DEFAULT: usize = 50;
/// The most events on a page. A commit is never cut, so the last one may exceed this.
pub(crate) const EVENTS_MAX: usize = 500;
/// A page ends when its commits have this many bytes, because as JSON they take several times as much memory.
const PAGE_BYTES: usize = 512 * 1024;
/// The most events from which a state is folded: some hundred milliseconds of reading.
const FOLDED_MAX: u64 = 100_000;
/// The most bytes of commits from which a state is folded.
const FOLDED_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The parameters of a history request.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole_number::parameter")]
    limit: Option<usize>,
    /// The sequence of the commit at which a page begins.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole_number::parameter")]
    before: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at: Option<String>,
}

/// A page of events, or a state.
pub(crate) async fn get(
    State(commands): State<Arc<Commands>>,
    Extension(principal): Extension<Principal>,
    parts: Result<Path<[String; 3]>, PathRejection>,
    query: Result<Query<Asked>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Path([context, aggregate, id]) = parts?;
    let stream_id = StreamId::new(&context, &aggregate, &id)
        .map_err(|error| Problem::malformed("address-malformed", error.to_string()))?;
    let Query(asked) = query.map_err(|error| Problem::malformed("query-malformed", error.body_text()))?;
    if !principal.may_read_history(&stream_id) {
        let detail = format!("the history of {stream_id} is not granted to {}", principal.name());
        return Err(Problem::new(StatusCode::FORBIDDEN, "history-not-granted", detail));
    }
    let rules = commands.aggregates.get(&context, &aggregate).ok_or_else(|| {
        let detail = format!("there is no aggregate {context}.{aggregate}");
        Problem::new(StatusCode::NOT_FOUND, "aggregate-unknown", detail)
    })?;
    let freshness = freshness(&headers, &commands, &principal)?;
    commands.views.reached(&freshness).await?;
    match &asked.at {
        Some(at) => {
            if asked.limit.is_some() || asked.before.is_some() {
                return Err(malformed("at is asked for alone, without limit and before"));
            }
            let _place = commands.places_for_states.take(principal.name())?;
            let answer = commands.state_at(&stream_id, rules, at).await?;
            Ok(current(&headers, answer, None))
        }
        None => {
            let _place = commands.places_for_histories.take(principal.name())?;
            let (answer, next) = commands.page_of_events(&stream_id, &asked).await?;
            Ok(current(&headers, answer, next))
        }
    }
}

impl Commands {
    async fn page_of_events(
        &self,
        stream_id: &StreamId,
        asked: &Asked,
    ) -> Result<(ViewAnswer, Option<String>), Problem> {
        let limit = asked.limit.unwrap_or(EVENTS_DEFAULT);
        if limit == 0 || limit > EVENTS_MAX {
            return Err(malformed(&format!("limit is 1 to {EVENTS_MAX}")));
        }
        let store = EventStore::new(self.broker.clone());
        let page = store.page_back(stream_id, asked.before, limit, PAGE_BYTES).await.map_err(load_problem)?;
        let Some(BackPage { commits, before }) = page else {
            let Some(before) = asked.before else { return Err(unknown(stream_id)) };
            let detail = format!("{stream_id} has no commit at {before}");
            return Err(Problem::new(StatusCode::NOT_FOUND, "history-unknown", detail));
        };
        let events: Vec<_> =
            commits.iter().flat_map(|commit| event_json::events(commit).into_iter().rev()).collect();
        let newest = commits.first().map_or(0, |commit| commit.broker_sequence);
        let body = json!({ "aggregate": stream_id.to_string(), "events": events, "before": before });
        let next = before.and_then(|before| {
            let query = serde_urlencoded::to_string(Asked { before: Some(before), ..asked.clone() }).ok()?;
            let path = stream_id.to_string().replace('.', "/");
            Some(format!("</v1/history/{path}?{query}>; rel=\"next\""))
        });
        Ok((self.at_position(newest, &body), next))
    }

    async fn state_at(
        &self,
        stream_id: &StreamId,
        rules: &Arc<dyn AggregateType>,
        at: &str,
    ) -> Result<ViewAnswer, Problem> {
        let moment: Moment = at.parse().map_err(|error| malformed(&format!("at: {error}")))?;
        if !matches!(moment, Moment::Time(_)) && moment.to_string() != at {
            return Err(malformed(&format!("at: {at:?} is not how {moment} is written")));
        }
        let until = Until::of(&self.broker, &moment).await.map_err(past_problem)?;
        let (mut folded, mut bytes) = (PastState::initial(rules), 0);
        let mut history = EventStore::new(self.broker.clone())
            .current_history(stream_id, 0)
            .await
            .map_err(|error| load_problem(error.into()))?;
        'read: while let Some(page) = history.next_page().await.map_err(load_problem)? {
            for commit in &page {
                if !until.takes(commit) {
                    break 'read;
                }
                folded.apply(commit).map_err(|error| unreadable(&error.to_string()))?;
                bytes += commit.body_bytes();
            }
            if folded.version() > FOLDED_MAX || bytes > FOLDED_BYTES_MAX {
                let detail = format!(
                    "{stream_id} had more than {FOLDED_MAX} events, or {FOLDED_BYTES_MAX} bytes of them, by then; `millstream history --as-of` folds them all"
                );
                return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "history-too-long", detail));
            }
        }
        if folded.last_sequence() == 0 && self.has_no_events(stream_id).await? {
            return Err(unknown(stream_id));
        }
        let body = folded.json(stream_id, &moment).map_err(|error| unreadable(&error.to_string()))?;
        Ok(self.at_position(folded.last_sequence(), &body))
    }

    fn at_position(&self, sequence: u64, body: &serde_json::Value) -> ViewAnswer {
        let position = StreamPosition::new(EVENTS, self.views.events.generation(), sequence).to_string();
        ViewAnswer { body: body.to_string().into(), position: Some(position) }
    }

    /// Whether an aggregate has no events at all. Before its first event an aggregate has a state, too, but an id without any events is a
    /// typing error.
    async fn has_no_events(&self, stream_id: &StreamId) -> Result<bool, Problem> {
        let last = self.broker.last(EVENTS, &stream_id.event_subject()).await;
        last.map(|last| last.is_none()).map_err(|error| load_problem(error.into()))
    }
}

fn unknown(stream_id: &StreamId) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "history-unknown", format!("{stream_id} has no events"))
}

fn malformed(detail: &str) -> Problem {
    Problem::malformed("query-malformed", detail)
}

fn load_problem(error: LoadError) -> Problem {
    match error {
        LoadError::Broker(error) => Problem::unavailable("events-unavailable", error.to_string()),
        LoadError::NoCommit(error) => unreadable(&error.to_string()),
    }
}

fn unreadable(detail: &str) -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "history-unreadable", detail)
}
