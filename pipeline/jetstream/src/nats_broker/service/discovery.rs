//! Discovery: the answers to `$SRV.<verb>`, `$SRV.<verb>.<service>` and `$SRV.<verb>.<service>.<id>`, for the verbs `PING`, `INFO` and
//! `STATS`. Other verbs are ignored.

use std::sync::{Arc, PoisonError};

use async_nats::{Client, HeaderMap, Message};
use futures::{StreamExt, stream};
use serde_json::{Map, Value, json};
use time::format_description::well_known::Rfc3339;
use tokio_util::sync::CancellationToken;

use super::{EndpointFigures, QUEUE_GROUP, Shared, publish};
use crate::nats_broker::NatsBroker;

const PREFIX: &str = "$SRV";

/// Answers on `client` until `closing`. When this returns, the server learns of it before anything that the connection sends afterwards.
///
/// # Errors
/// When the connection is closed.
pub(super) async fn start(
    broker: &NatsBroker,
    client: &Client,
    shared: &Arc<Shared>,
    closing: CancellationToken,
) -> Result<(), async_nats::Error> {
    let Shared { about, id, .. } = &**shared;
    let name = &about.name;
    let mut questions = Vec::new();
    for subject in [format!("{PREFIX}.*"), format!("{PREFIX}.*.{name}"), format!("{PREFIX}.*.{name}.{id}")] {
        questions.push(client.subscribe(subject).await?);
    }
    let mut questions = stream::select_all(questions);
    let (broker, client, shared) = (broker.clone(), client.clone(), Arc::clone(shared));
    tokio::spawn(async move {
        // When the subscriptions are dropped at the end, they unsubscribe.
        while let Some(Some(question)) = closing.run_until_cancelled(questions.next()).await {
            shared.answer(&broker, &client, &question).await;
        }
    });
    Ok(())
}

impl Shared {
    async fn answer(&self, broker: &NatsBroker, client: &Client, question: &Message) {
        if !question.reply.as_ref().is_some_and(|reply| broker.may_answer(reply)) {
            return;
        }
        let body = match question.subject.split('.').nth(1) {
            Some("PING") => self.identity("ping", []),
            Some("INFO") => self.info(),
            Some("STATS") => self.stats(),
            _ => return,
        };
        let body = Ok(Value::from(body).to_string().into());
        if let Err(error) = publish(client, question, body, HeaderMap::new()).await {
            tracing::debug!(%error, "nobody took the answer to a question of discovery");
        }
    }

    fn identity<const N: usize>(&self, kind: &str, more: [(&str, Value); N]) -> Map<String, Value> {
        let identity = [
            ("type", json!(format!("io.nats.micro.v1.{kind}_response"))),
            ("name", json!(self.about.name)),
            ("id", json!(self.id)),
            ("version", json!(self.about.version)),
            ("metadata", json!(self.about.metadata)),
        ];
        identity.into_iter().chain(more).map(|(key, value)| (key.to_owned(), value)).collect()
    }

    fn info(&self) -> Map<String, Value> {
        let endpoints = self.each(|name, endpoint| {
            json!({
                "name": name,
                "subject": endpoint.subject,
                "queue_group": QUEUE_GROUP,
                "metadata": endpoint.metadata,
            })
        });
        self.identity("info", [("description", json!(self.about.description)), ("endpoints", endpoints)])
    }

    fn stats(&self) -> Map<String, Value> {
        let started = self.started.format(&Rfc3339).unwrap_or_default();
        let endpoints = self.each(|name, endpoint| self.figures(name, endpoint));
        self.identity("stats", [("started", json!(started)), ("endpoints", endpoints)])
    }

    fn figures(&self, name: &str, endpoint: &EndpointFigures) -> Value {
        let details = self.about.details.as_ref().map(|details| details(name));
        let counts = endpoint.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let nanoseconds = u64::try_from(counts.time.as_nanos()).unwrap_or(u64::MAX);
        let mut figures = json!({
            "name": name,
            "subject": endpoint.subject,
            "queue_group": QUEUE_GROUP,
            "num_requests": counts.requests,
            "num_errors": counts.errors,
            "last_error": counts.last_error,
            "processing_time": nanoseconds,
            "average_processing_time": nanoseconds.checked_div(counts.requests).unwrap_or(0),
        });
        if let (Some(details), Some(fields)) = (details, figures.as_object_mut()) {
            fields.insert("data".to_owned(), details);
        }
        figures
    }

    fn each(&self, tell: impl Fn(&str, &EndpointFigures) -> Value) -> Value {
        let endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner).clone();
        endpoints.iter().map(|(name, endpoint)| tell(name, endpoint)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Write as _},
        net::TcpStream,
    };

    use async_nats::RequestErrorKind;

    use super::super::*;
    use crate::testing::test_server::TestServer;

    async fn service(broker: &NatsBroker, client: Client) -> (Service, Endpoint) {
        let mut about = About::new("echo", "1.2.3", "Says what it hears");
        about.details = Some(Arc::new(|endpoint| Value::from(format!("of {endpoint}"))));
        let service = Service::start(broker, client.clone(), about).await.unwrap();
        let endpoint = service.endpoints().add("say", "echo.say", &[("format", "text/plain")]).await.unwrap();
        // The server works through a connection in order: it knows the endpoint when it has handed this question over.
        asked(&client, "$SRV.PING.echo").await;
        (service, endpoint)
    }

    async fn until_nobody_answers(people: &Client, subject: &str) {
        // A question that the server hands over while the subscription ends is lost.
        let asked = || async_nats::Request::new().timeout(Some(Duration::from_millis(100)));
        while let Err(RequestErrorKind::TimedOut) | Ok(_) =
            people.send_request(subject.to_owned(), asked()).await.map_err(|error| error.kind())
        {}
    }

    async fn asked(people: &Client, subject: &str) -> Value {
        let answer = people.request(subject.to_owned(), "".into()).await.unwrap();
        serde_json::from_slice(&answer.payload).unwrap()
    }

    /// Publishes without the runtime, which has one thread here and reads nothing meanwhile. When this returns, the server has sent them on.
    fn publish_beside_the_runtime(url: &str, subject: &str, count: usize) {
        let mut line = TcpStream::connect(url.strip_prefix("nats://").unwrap()).unwrap();
        let mut answers = BufReader::new(line.try_clone().unwrap()).lines();
        let publishes = format!("PUB {subject} 0\r\n\r\n").repeat(count);
        // The server answers the second PING after it has sent on what came with the first.
        for sent in [format!("CONNECT {{\"verbose\":false}}\r\n{publishes}PING\r\n"), "PING\r\n".to_owned()] {
            line.write_all(sent.as_bytes()).unwrap();
            while answers.next().unwrap().unwrap() != "PONG" {}
        }
    }

    /// A process that is asked to stop on a busy machine has not read yet what the server has sent. It was thrown away, and nobody answered.
    #[tokio::test]
    async fn what_the_server_has_sent_is_handed_out_when_an_endpoint_stops() {
        let server = TestServer::start().await;
        let (_service, mut endpoint) = service(&server.broker().await, server.client().await).await;
        publish_beside_the_runtime(&server.url(), "echo.say", 100);
        endpoint.stop().await;
        let mut count = 0;
        while endpoint.next().await.is_some() {
            count += 1;
        }
        assert_eq!(count, 100);
    }

    #[tokio::test]
    async fn a_service_is_found_by_all_three_names_and_counts_what_it_answers() {
        let server = TestServer::start().await;
        let (broker, people) = (server.broker().await, server.client().await);
        let (service, mut endpoint) = service(&broker, server.client().await).await;
        let answering = tokio::spawn(async move {
            while let Some(request) = endpoint.next().await {
                let error = ServiceError::new(400, "no words");
                let body = Some(request.message.payload.clone()).filter(|body| !body.is_empty()).ok_or(error);
                request.respond(&broker, body, HeaderMap::new()).await.unwrap();
            }
        });
        assert_eq!(people.request("echo.say", "hello".into()).await.unwrap().payload, "hello");
        let refused = people.request("echo.say", "".into()).await.unwrap();
        assert_eq!(refused.headers.unwrap().get(ERROR_TEXT).unwrap().as_str(), "no words");

        let id = asked(&people, "$SRV.PING").await["id"].as_str().unwrap().to_owned();
        let info = asked(&people, "$SRV.INFO.echo").await;
        assert_eq!(
            (&info["endpoints"][0]["subject"], &info["endpoints"][0]["metadata"]["format"], &info["id"]),
            (&"echo.say".into(), &"text/plain".into(), &id.as_str().into()),
            "{info}"
        );
        let stats = asked(&people, &format!("$SRV.STATS.echo.{id}")).await;
        let figures = &stats["endpoints"][0];
        assert_eq!(
            [&figures["num_requests"], &figures["num_errors"], &figures["last_error"], &figures["data"]],
            [&2.into(), &1.into(), &"400:no words".into(), &Value::from("of say")],
            "{stats}"
        );
        drop(service);
        answering.await.unwrap();
        until_nobody_answers(&people, "$SRV.PING.echo").await;
    }

    #[tokio::test]
    async fn discovery_answers_nowhere_but_in_inboxes() {
        let server = TestServer::start().await;
        let (broker, people) = (server.broker().await, server.client().await);
        let _service = service(&broker, server.client().await).await;
        let mut stored = people.subscribe("out.0of1").await.unwrap();
        for verb in ["PING", "INFO", "STATS"] {
            for subject in [format!("$SRV.{verb}"), format!("$SRV.{verb}.echo")] {
                people.publish_with_reply(subject, "out.0of1", "".into()).await.unwrap();
            }
        }
        // Questions of one asker are answered in order, so whatever went to `out.0of1` has been sent before this comes back.
        asked(&people, "$SRV.PING").await;
        asked(&people, "$SRV.PING.echo").await;
        people.publish("out.0of1", "the end".into()).await.unwrap();
        assert_eq!(stored.next().await.unwrap().payload, "the end");
    }
}
