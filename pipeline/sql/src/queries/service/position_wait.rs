//! Requests with a position wait until the tables show it.

use std::time::Duration;

use async_nats::Message;
use millstream_contract::{
    configured_query::problem, error_text::one_line, header, header_check::check_headers,
    position::StreamPosition, stream_names::EVENTS,
};
use millstream_jetstream::nats_broker::headers_from;
use millstream_read_side::{
    client_shares::NoPlace,
    projection_runner::{ProjectionStatus, any_changed},
};
use tokio::sync::watch;

use super::{super::refusal::Refusal, Shared, client};

/// The `Millstream-…` headers that a request may have.
const HEADERS: [&str; 2] = [header::POSITION, header::WAIT_MS];
/// How long a request waits for its position, unless it says otherwise.
const WAIT_DEFAULT: Duration = Duration::from_secs(2);
/// How long it may wait at most.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// How many requests may wait for their positions at once. Further ones are refused.
pub(super) const WAITING_MAX: usize = 1_024;
/// How many of them may be one client's, as of views.
pub(super) const WAITING_CLIENT_MAX: usize = 128;

impl Shared {
    /// The position that a request names, once the tables show it.
    pub(super) async fn awaited(&self, message: &Message) -> Result<Option<StreamPosition>, Refusal> {
        let headers = headers_from(message.headers.as_ref());
        check_headers(&headers, &HEADERS).map_err(|error| Refusal::malformed(error.to_string()))?;
        let Some(text) = headers.find(header::POSITION) else { return Ok(None) };
        let position: StreamPosition = text.parse().map_err(|error| Refusal::malformed(one_line(&error)))?;
        let wait = wait_of(headers.find(header::WAIT_MS)).map_err(Refusal::malformed)?;
        let mut statuses = self.of_events(&position)?;
        if behind(&mut statuses, &position)?.is_none() {
            return Ok(Some(position));
        }
        let full = |NoPlace { max, of_client }| {
            let of = if of_client { " of this connection, or of its account," } else { "" };
            Refusal::new(
                429,
                problem::BUSY,
                format!("{max} requests{of} wait for positions already; try again"),
            )
        };
        let _waiting = self.waiting.take(client(message)).map_err(full)?;
        // A request whose position is reached is answered even at the end.
        tokio::select! {
            biased;
            reached = self.reached(&mut statuses, &position, wait) => reached.map(|()| Some(position)),
            () = self.closing.cancelled() => Err(Refusal::new(503, problem::UNAVAILABLE, "the stage ends")),
        }
    }

    /// How far the tables of events are.
    ///
    /// # Errors
    /// If the position is one of another stream.
    fn of_events(
        &self,
        position: &StreamPosition,
    ) -> Result<Vec<watch::Receiver<ProjectionStatus>>, Refusal> {
        if position.stream != EVENTS {
            let status =
                format!("a position of {} is none that tables show; name one of {EVENTS}", position.stream);
            return Err(Refusal::malformed(status));
        }
        Ok(self.statuses.iter().filter(|status| status.borrow().stream == EVENTS).cloned().collect())
    }

    /// Waits until the tables show a position that they do not show yet.
    async fn reached(
        &self,
        statuses: &mut [watch::Receiver<ProjectionStatus>],
        position: &StreamPosition,
        wait: Duration,
    ) -> Result<(), Refusal> {
        let _hurry = self.hurry.begin();
        let reached = async {
            while behind(statuses, position)?.is_some() {
                any_changed(statuses.iter_mut()).await;
            }
            Ok(())
        };
        if let Ok(reached) = tokio::time::timeout(wait, reached).await {
            return reached;
        }
        match behind(statuses, position)? {
            None => Ok(()),
            Some(at) => {
                let wait = wait.as_millis();
                let status =
                    format!("the tables have not reached {position} within {wait} ms; they are at {at}");
                Err(Refusal::new(504, problem::NOT_REACHED, status))
            }
        }
    }
}

/// Where the first tables are that do not show a position yet, if there are such.
///
/// # Errors
/// If tables follow another generation of the stream: they never show that position.
fn behind(
    statuses: &mut [watch::Receiver<ProjectionStatus>],
    position: &StreamPosition,
) -> Result<Option<StreamPosition>, Refusal> {
    let mut first = None;
    for status in statuses {
        let status = status.borrow_and_update();
        let is_known = !status.generation.is_empty();
        if is_known && *status.generation != *position.generation {
            let at = status.position();
            let text = format!(
                "{position} is of another generation than the tables, which are at {at}: the stream was made anew"
            );
            return Err(Refusal::new(409, problem::OF_ANOTHER_GENERATION, text));
        }
        if !is_known || status.sequence < position.sequence {
            first.get_or_insert_with(|| status.position());
        }
    }
    Ok(first)
}

fn wait_of(text: Option<&str>) -> Result<Duration, String> {
    let Some(text) = text else { return Ok(WAIT_DEFAULT) };
    let milliseconds =
        text.parse().map_err(|_| format!("{}: {text:?} is no number of milliseconds", header::WAIT_MS))?;
    Ok(Duration::from_millis(milliseconds).min(WAIT_MAX))
}
