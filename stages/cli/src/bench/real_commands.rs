//! Clients of the real stages: they send commands as anybody does and wait for their outcomes.

use std::sync::Arc;

use async_nats::{HeaderMap, Message};
use clap::ValueEnum;
use futures::{FutureExt as _, future::BoxFuture};
use millstream_contract::{
    header,
    outcome::{Outcome, OutcomeReply},
    position::StreamPosition,
    stream_names::EVENTS,
    subject::{COMMAND_PREFIX, SUBMIT_PREFIX},
};
use millstream_jetstream::{broker::Broker as _, nats_broker::NatsBroker};

use super::{
    client_place::{self, ClientPlace},
    closed_loop::{self, ClosedLoopClient, Extent, Found},
    closed_loop_error::ClosedLoopError,
    load::Load,
    pipeline,
};

/// How a client sends a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Way {
    /// As a request to submit.…, which a command handler stores together with others and answers
    Submit,
    /// Itself, to cmd.…, with a subject for the outcome in the header Millstream-Reply
    Publish,
}

impl Way {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Submit => "submit",
            Self::Publish => "publish",
        }
    }
}

/// What the clients send, under ids that begin with `run`.
#[derive(Debug, Clone)]
pub(crate) struct RealCommands {
    pub(crate) load: Load,
    pub(crate) way: Way,
    pub(crate) run: Arc<str>,
}

impl RealCommands {
    /// Runs the loop with so many clients over these connections.
    pub(crate) async fn run<O>(
        self,
        connections: &[NatsBroker],
        in_flight: usize,
        extent: Extent,
        observe: impl Fn() -> O + Send,
    ) -> Result<Found<O>, ClosedLoopError> {
        let (places, _handing_over) = client_place::open(connections, in_flight).await?;
        let mut clients = Vec::with_capacity(places.len());
        let mut generation = None;
        for place in places {
            let generation = match &generation {
                Some(known) => Arc::clone(known),
                None => {
                    let found: Arc<str> = place.broker.state(EVENTS).await?.generation.into();
                    Arc::clone(generation.insert(found))
                }
            };
            clients.push(Client { place, commands: self.clone(), generation });
        }
        closed_loop::run(clients, extent, observe).await
    }
}

struct Client {
    place: ClientPlace,
    commands: RealCommands,
    /// That of EVENTS.
    generation: Arc<str>,
}

impl ClosedLoopClient for Client {
    async fn send(&mut self, number: usize) -> Result<u64, ClosedLoopError> {
        let RealCommands { load, way, run } = &self.commands;
        let reply = self.place.reply_subject(number);
        let mut headers = HeaderMap::new();
        headers.insert(header::COMMAND_ID, Load::id(run, number));
        let (address, body) = (load.address(number), load.body(run, number));
        let client = self.place.broker.client();
        match way {
            Way::Submit => {
                let subject = format!("{SUBMIT_PREFIX}.{address}");
                client.publish_with_reply_and_headers(subject, reply, headers, body).await?;
            }
            Way::Publish => {
                headers.insert(header::REPLY, reply);
                client.publish_with_headers(format!("{COMMAND_PREFIX}.{address}"), headers, body).await?;
            }
        }
        event(&self.place.answer(number).await?)
    }

    fn queryable(
        &self,
        number: usize,
        event: u64,
    ) -> Option<BoxFuture<'static, Result<(), ClosedLoopError>>> {
        let (broker, load) = (self.place.broker.clone(), self.commands.load);
        let position = StreamPosition::new(EVENTS, &*self.generation, event);
        let asking = async move {
            let (query, key) = (load.query(), load.key(number));
            while !pipeline::ask(&broker, &query, &key, &position).await.map_err(ClosedLoopError::Query)? {}
            Ok(())
        };
        Some(asking.boxed())
    }
}

/// The one event that an answer names.
fn event(answer: &Message) -> Result<u64, ClosedLoopError> {
    if let Some(text) = answer.headers.as_ref().and_then(|headers| headers.get("Nats-Service-Error")) {
        return Err(ClosedLoopError::Refused { text: text.to_string() });
    }
    if let Some(status) = answer.status {
        return Err(ClosedLoopError::Refused { text: format!("status {status}") });
    }
    let value = serde_json::from_slice(&answer.payload).unwrap_or_default();
    match OutcomeReply::from_json(&value).map(|reply| reply.outcome) {
        Some(Outcome::Accepted { sequence, events: 1, .. }) => Ok(sequence),
        _ => Err(ClosedLoopError::NotAccepted {
            answer: String::from_utf8_lossy(&answer.payload).into_owned(),
        }),
    }
}
