//! `GET /v1/live?watch=<context>/<view>/<key>&list=<context>/<view>/<prefix>`: rows and lists, and their new states whenever they change, as
//! Server-Sent Events.
//!
//! In reading order: `hub` knows what is watched, and receives announcements of changes; a `topic` queries a view for one row or list, for all
//! its watchers; a `watcher` is one client, with its own pace; `frames` writes the events. Deliberately absent: rows that nobody watches, and
//! intermediate states: a slow watcher sees the last state of a row, not each of them.

mod frames;
mod hub;
mod topic;
mod watcher;

use std::{collections::BTreeMap, convert::Infallible, sync::Arc};

use axum::{
    Extension,
    body::Body,
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures::stream;
use millstream_contract::{
    position::StreamPosition,
    stream_names::{EVENTS, OUTCOMES},
};
use millstream_jetstream::broker::{Broker as _, StreamState};

pub(crate) use self::hub::Hub;
use self::{
    topic::{Address, What},
    watcher::Watcher,
};
use crate::{
    command_request::one,
    commands::Commands,
    key_ring::{Admission, Principal},
    listener::Taking,
    problem::Problem,
    queries::{freshness, not_granted},
};

/// The most rows and lists on one stream. A page shows a few, and each costs the gateway queries of its own.
pub(crate) const WATCHES_MAX: usize = 32;
/// The position of the last event that a client has received. The client sends it when it reconnects.
const LAST_EVENT_ID: &str = "last-event-id";
/// Tells proxies such as nginx to pass on each event at once.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Marks an answer with a streaming body, which itself reports whether its client takes it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GoesOn;

/// A stream of events.
pub(crate) async fn get(
    State(commands): State<Arc<Commands>>,
    Extension(principal): Extension<Principal>,
    Extension(admission): Extension<Admission>,
    Extension(taking): Extension<Taking>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Query(parameters) =
        query.map_err(|error| Problem::malformed("query-malformed", error.body_text()))?;
    let addresses = addresses(&parameters)?;
    for address in &addresses {
        check_granted(&principal, address)?;
    }
    for address in &addresses {
        commands.views.check_known(&address.context, &address.view)?;
    }
    let freshness = freshness(&headers, &commands, &principal)?;
    let mut seen = commands.seen(one(&headers, LAST_EVENT_ID)?).await?;
    // A client that reconnects has already seen what it waited for.
    for position in commands.views.shown_at(&freshness).await? {
        seen.entry(position.stream.clone()).or_insert(Seen::UpTo(position));
    }
    let place = commands.places_for_live.take(principal.name())?;
    let watched = addresses.into_iter().map(|address| {
        let stream = commands.views.stream_of(&address.view);
        let seen = seen.get(stream).cloned().unwrap_or(Seen::Nothing);
        (commands.live.watch(address), seen)
    });
    let watcher = Watcher::new(&commands.live, watched.collect(), admission, taking, place);
    let body = stream::unfold(watcher, |mut watcher| async move {
        let chunk = watcher.next().await?;
        Some((Ok::<_, Infallible>(chunk), watcher))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (ACCEL_BUFFERING, HeaderValue::from_static("no")),
    ];
    Ok((StatusCode::OK, headers, Extension(GoesOn), Body::from_stream(body)).into_response())
}

/// What a reconnecting client has seen of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It connects for the first time.
    Nothing,
    /// Everything up to a position.
    UpTo(StreamPosition),
    /// Something that no longer holds: the stream was made again, or has lost its tail.
    Else,
}

impl Commands {
    /// What `Last-Event-ID` says about each stream.
    async fn seen(&self, text: Option<&str>) -> Result<BTreeMap<String, Seen>, Problem> {
        let mut seen = BTreeMap::new();
        for position in text.map(positions).transpose()?.unwrap_or_default() {
            let state = self.broker.state(&position.stream).await;
            let state =
                state.map_err(|error| Problem::unavailable("events-unavailable", error.to_string()))?;
            seen.insert(position.stream.clone(), seen_of(position, &state));
        }
        Ok(seen)
    }
}

/// Nobody can have seen anything beyond the end of a stream, and waiting for it would delay everybody who watches the same row.
fn seen_of(position: StreamPosition, state: &StreamState) -> Seen {
    let is_there = position.generation == state.generation && position.sequence <= state.last_sequence;
    if is_there { Seen::UpTo(position) } else { Seen::Else }
}

/// The positions in an event's id.
fn positions(text: &str) -> Result<Vec<StreamPosition>, Problem> {
    let malformed = || {
        let detail = format!("Last-Event-ID is {text:?}; it takes the id of an event, as a stream had it");
        Problem::malformed("position-malformed", detail)
    };
    let positions: Result<Vec<StreamPosition>, _> = text.split(',').map(str::parse).collect();
    let positions = positions.map_err(|_| malformed())?;
    let are_ours = positions.iter().all(|position| [EVENTS, OUTCOMES].contains(&position.stream.as_str()));
    if are_ours && positions.len() <= 2 { Ok(positions) } else { Err(malformed()) }
}

fn addresses(parameters: &[(String, String)]) -> Result<Vec<Address>, Problem> {
    let malformed = |detail: String| Problem::malformed("query-malformed", detail);
    let mut addresses = Vec::new();
    for (name, value) in parameters {
        let address = match name.as_str() {
            "watch" => Address::parse(value, What::Row),
            "list" => Address::parse(value, What::List),
            _ => return Err(malformed(format!("there is no parameter {name:?}; there are watch and list"))),
        };
        let address = address.ok_or_else(|| {
            malformed(format!(
                "{name} is {value:?}; it takes <context>/<view>/<key>, or /<prefix> for a list"
            ))
        })?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    match addresses.len() {
        0 => Err(malformed(
            "say what to watch: watch=<context>/<view>/<key> or list=<context>/<view>/<prefix>".to_owned(),
        )),
        1..=WATCHES_MAX => Ok(addresses),
        count => {
            Err(malformed(format!("these are {count} rows and lists; a stream has at most {WATCHES_MAX}")))
        }
    }
}

/// The same check as for the query.
fn check_granted(principal: &Principal, address: &Address) -> Result<(), Problem> {
    if address.is_granted_to(principal) {
        return Ok(());
    }
    let what = match address.what {
        What::Row(_) => "this row",
        What::List(_) => "a list of this prefix",
    };
    Err(not_granted(principal, &format!("{}.{}", address.context, address.view), what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(parameters: &[(&str, &str)]) -> Result<Vec<String>, Problem> {
        let parameters: Vec<_> =
            parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Ok(addresses(&parameters)?.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn rows_and_lists_are_named_by_their_addresses() {
        let both = [
            ("watch", "retail/store-daily/2026-01-02/7"),
            ("list", "retail/stock/"),
            ("list", "retail/stock/"),
        ];
        assert_eq!(parsed(&both).unwrap(), ["retail/store-daily/2026-01-02/7", "retail/stock/"], "each once");
        for wrong in [
            &[][..],
            &[("watch", "retail/till")],
            &[("watch", "retail/till/")],
            &[("watch", "/till/7")],
            &[("list", "retail")],
            &[("look", "retail/till/7")],
        ] {
            assert!(parsed(wrong).unwrap_err().is(400, "query-malformed"), "{wrong:?}");
        }
        let keys: Vec<String> = (0..=WATCHES_MAX).map(|number| format!("retail/till/{number}")).collect();
        let many: Vec<(&str, &str)> = keys.iter().map(|key| ("watch", key.as_str())).collect();
        assert!(parsed(&many).unwrap_err().is(400, "query-malformed"));
        assert_eq!(parsed(&many[1..]).unwrap().len(), WATCHES_MAX);
    }

    #[test]
    fn an_id_is_of_streams_that_views_follow_and_of_what_is_there() {
        assert_eq!(positions("EVENTS:01JD:7,OUTCOMES:01JE:3").unwrap().len(), 2);
        for wrong in ["", "7", "COMMANDS:01JD:7", "EVENTS:01JD:7,EVENTS:01JD:8,EVENTS:01JD:9"] {
            assert!(positions(wrong).unwrap_err().is(400, "position-malformed"), "{wrong}");
        }
        let state = StreamState {
            generation: "01JD".to_owned(),
            first_sequence: 1,
            last_sequence: 7,
            usage: millstream_jetstream::broker::StreamUsage::default(),
        };
        let at = |generation, sequence| StreamPosition::new(EVENTS, generation, sequence);
        assert_eq!(seen_of(at("01JD", 7), &state), Seen::UpTo(at("01JD", 7)));
        assert_eq!(seen_of(at("01JD", 8), &state), Seen::Else, "the stream has lost its end");
        assert_eq!(seen_of(at("01JC", 1), &state), Seen::Else);
    }
}
