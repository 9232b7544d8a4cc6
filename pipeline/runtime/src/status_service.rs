//! Presents every process of every stage as a NATS micro service with the same name, so that `nats micro stats millstream` shows the whole
//! pipeline. `stage.<process>.status` answers whether the process is ready and, if not, why; the statistics contain the values of `/metrics`.
//! It also works where nobody can reach the health address.
//!
//! Deliberately absent: operations that change anything.

use std::sync::Arc;

use async_nats::{Client, HeaderMap};
use futures::FutureExt;
use millstream_contract::stream_names::EVENTS;
use millstream_jetstream::nats_broker::{
    NatsBroker,
    service::{About, Endpoint, Service},
    sifted_service::SiftedService,
};
use serde_json::{Value, json};

use crate::{connection::process_name, health::Readiness, metrics::Metrics};

/// The name of the service, which all processes share.
pub const SERVICE_NAME: &str = "millstream";

/// The subject on which a process reports its state.
pub fn status_subject(process: &str) -> String {
    format!("stage.{process}.status")
}

/// The process, and the sources of its state.
#[derive(Debug, Clone)]
pub struct ObservedProcess {
    /// The stage.
    pub stage: String,
    /// The instance, if it has a name.
    pub instance: String,
    /// Its semantic version.
    pub version: String,
    /// Whether it is ready.
    pub readiness: Readiness,
    /// What it counts.
    pub metrics: Metrics,
}

impl ObservedProcess {
    fn status(&self) -> Value {
        let reasons = self.readiness.reasons();
        json!({
            "stage": self.stage,
            "instance": self.instance,
            "version": self.version,
            "ready": reasons.is_empty(),
            "reasons": reasons,
        })
    }

    fn figures(&self) -> Value {
        self.metrics.observe_readiness(&self.readiness);
        let mut status = self.status();
        if let Some(fields) = status.as_object_mut() {
            fields.insert("figures".to_owned(), self.metrics.snapshot());
        }
        status
    }
}

/// Why the service cannot run.
#[derive(Debug, thiserror::Error)]
#[error("the status service cannot be started")]
pub struct StatusServiceError(#[source] async_nats::Error);

/// A running status service. [`StatusService::stop`] ends it.
#[derive(Debug)]
pub struct StatusService {
    service: SiftedService,
}

impl StatusService {
    /// Starts the service for a process.
    ///
    /// # Errors
    /// When there is no connection.
    pub async fn start(broker: &NatsBroker, process: ObservedProcess) -> Result<Self, StatusServiceError> {
        let answering = broker.clone();
        let register = move |client| register(client, answering.clone(), process.clone()).boxed();
        Ok(Self { service: SiftedService::open(broker, EVENTS, register).await.map_err(StatusServiceError)? })
    }

    /// Ends the service.
    pub async fn stop(self) {
        self.service.close().await;
    }
}

async fn register(
    client: Client,
    broker: NatsBroker,
    process: ObservedProcess,
) -> Result<Service, async_nats::Error> {
    let name = process_name(&process.stage, &process.instance);
    let mut about = About::new(SERVICE_NAME, &process.version, &format!("Millstream process {name}"));
    let metadata = [("stage", &process.stage), ("instance", &process.instance), ("process", &name)];
    about.metadata = metadata.map(|(key, value)| (key.to_owned(), value.clone())).into();
    let observed = process.clone();
    about.details = Some(Arc::new(move |_| observed.figures()));
    let service = Service::start(&broker, client, about).await?;
    let endpoint =
        service.endpoints().add("status", &status_subject(&name), &[("format", "application/json")]).await?;
    tokio::spawn(answer(endpoint, broker, process));
    Ok(service)
}

async fn answer(mut endpoint: Endpoint, broker: NatsBroker, process: ObservedProcess) {
    while let Some(request) = endpoint.next().await {
        let body = process.status().to_string();
        if let Err(error) = request.respond(&broker, Ok(body.into()), HeaderMap::new()).await {
            tracing::debug!(%error, "nobody took the status");
        }
    }
}

#[cfg(test)]
mod tests {
    use millstream_jetstream::testing::test_server::TestServer;

    use super::*;

    #[tokio::test]
    async fn a_process_says_why_it_is_not_ready_and_shows_its_figures() {
        let server = TestServer::start().await;
        let process = ObservedProcess {
            stage: "projector".to_owned(),
            instance: "2".to_owned(),
            version: "1.2.3".to_owned(),
            readiness: Readiness::new(),
            metrics: Metrics::new(),
        };
        let condition = process.readiness.condition("nats");
        process.metrics.reader("EVENTS", "projector-2").position.set(42);
        let service = StatusService::start(&server.broker().await, process.clone()).await.unwrap();
        let people = server.client().await;
        let status = |subject: String| {
            let people = people.clone();
            async move {
                let answer = people.request(subject, "".into()).await.unwrap();
                serde_json::from_slice::<Value>(&answer.payload).unwrap()
            }
        };
        let answer = status(status_subject("projector-2")).await;
        assert_eq!(
            (&answer["ready"], &answer["reasons"][0]),
            (&json!(false), &json!("nats: starting")),
            "{answer}"
        );
        condition.holds();
        assert_eq!(status(status_subject("projector-2")).await["ready"], true);
        let statistics = status(format!("$SRV.STATS.{SERVICE_NAME}")).await;
        let figures = &statistics["endpoints"][0]["data"]["figures"];
        assert_eq!(
            figures["millstream_reader_position{stream=\"EVENTS\",reader=\"projector-2\"}"], 42,
            "{statistics}"
        );
        service.stop().await;
        let gone = people.request(status_subject("projector-2"), "".into()).await;
        assert!(gone.is_err(), "{gone:?}");
    }
}
