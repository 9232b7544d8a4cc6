//! What somebody can try who may only send commands and ask queries: have the server or a stage publish where the sender itself
//! may not, by naming that subject as the place for the answer. On a server with the production configuration and its stages.

use async_nats::{Client, HeaderMap, jetstream};
use end_to_end_tests::waiting::until;
use futures::{StreamExt as _, future::join_all};
use millstream_contract::{commit::StoredCommit, header, stream_names};
use millstream_jetstream::{broker::Broker as _, nats_server::free_port};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    process::Process,
    production_server::ProductionServer,
    stages_with_least_privilege::{STAGES, millstream, stage},
};

/// Subjects on which something would happen.
const TARGETS: [&str; 16] = [
    "$JS.API.STREAM.PURGE.COMMANDS",
    "$JS.API.STREAM.PURGE.OUTCOMES",
    "$JS.API.STREAM.MSG.DELETE.EVENTS",
    "$KV.LEASES.command-handler-0of1",
    "$KV.LEASES.process-manager",
    "evt.retail.product.x1",
    "out.0of1",
    "report.retail.store-daily.2506.2012-01-31",
    "dlq.COMMANDS.1",
    "timer.cmd.forged",
    "due.cmd.retail.till.9999_2026-01-31.close",
    "cmd.retail.till.9999_2026-01-31.close",
    "effect.retail.till.9999_2026-01-31.close",
    "cmdq.3.retail.till.9999_2026-01-31.close",
    "submit.retail.till.9999_2026-01-31.close",
    "_INBOX_command-handler.forged",
];

const PRODUCT: &str = r#"{"name":"Tea","supplier":"acme"}"#;

/// Somebody who forges reply subjects, and how many commands went out on the way.
struct Forger {
    client: Client,
    commands: u64,
}

impl Forger {
    async fn request(&self, subject: String, reply: &str, headers: &[(&str, &str)], body: &'static str) {
        let mut map = HeaderMap::new();
        headers.iter().for_each(|(name, value)| map.insert(*name, *value));
        let sent = self.client.publish_with_reply_and_headers(subject, reply.to_owned(), map, body.into());
        sent.await.unwrap();
    }

    /// A request whose answer is to go to `target`: an error and an outcome of `submit`, an answer of a view.
    async fn have_stages_answer(&mut self, target: &str) {
        let product = format!("submit.retail.product.forged-{}.register", self.commands);
        self.request(product.clone(), target, &[(header::WAIT_MS, "x")], PRODUCT).await;
        self.request(product, target, &[], PRODUCT).await;
        self.request("query.retail.product.get".to_owned(), target, &[], r#"{"key":"none"}"#).await;
        self.commands += 1;
    }

    /// A command that JetStream acknowledges, and one whose outcome is asked for in a header.
    async fn have_the_server_answer(&mut self, target: &str) {
        for headers in [&[][..], &[(header::REPLY, target)]] {
            let product = format!("cmd.retail.product.forged-{}.register", self.commands);
            self.request(product, target, headers, PRODUCT).await;
            self.commands += 1;
        }
    }
}

pub(crate) async fn start_stages(server: &ProductionServer, folder: &TempDir) -> Vec<(String, Process)> {
    let mut stages = Vec::new();
    for name in STAGES {
        let health = format!("127.0.0.1:{}", free_port().unwrap());
        let mut command = stage(name, server, folder.path());
        command.env("MILLSTREAM_TELEMETRY__ADDRESS", &health);
        let mut process = Process::start(command);
        process.healthy(&health, "/readyz").await;
        stages.push((health, process));
    }
    stages
}

/// Every command that was sent is there and decided, and nothing else is anywhere.
async fn nothing_else_happened(server: &ProductionServer, folder: &TempDir, commands: u64) {
    let operator = server.broker("operator").await;
    until("every command is decided", async || {
        let last = operator.last(stream_names::EVENTS, "evt.>").await.unwrap()?;
        (last.sequence >= commands).then_some(())
    })
    .await;
    for (stream, count) in [
        (stream_names::COMMANDS, commands),
        (stream_names::EVENTS, commands),
        (stream_names::REPORTS, 0),
        (stream_names::TIMERS, 0),
        (stream_names::DEAD_LETTERS, 0),
    ] {
        let state = operator.state(stream).await.unwrap();
        assert_eq!((state.first_sequence, state.last_sequence), (1, count), "{stream}");
    }
    for sequence in 1..=commands {
        let message = operator.get(stream_names::EVENTS, sequence).await.unwrap().unwrap();
        assert!(StoredCommit::from_stored(&message).is_ok(), "{message:?}");
        assert!(message.subject.starts_with("evt.retail.product.forged-"), "{}", message.subject);
    }
    let verified = millstream("operator", server, folder.path(), &["verify", "outcomes"]).await;
    let _verified = verified.expect_success("verify outcomes");
    let doctor = millstream("operator", server, folder.path(), &["doctor"]).await;
    assert!(doctor.stdout.lines().all(|line| line.starts_with("ok ")), "{}", doctor.stdout);
}

#[tokio::test]
async fn a_reply_subject_makes_nobody_publish_where_its_sender_may_not() {
    let server = ProductionServer::start_provisioned().await;
    let folder = TempDir::new().unwrap();
    let mut stages = start_stages(&server, &folder).await;
    let client = server.client("publisher").await;
    let mut forger = Forger { client: client.clone(), commands: 0 };
    for target in TARGETS {
        forger.have_stages_answer(target).await;
        forger.have_the_server_answer(target).await;
    }
    // Honest requests of the same user are answered: `nats pub -J`, `submit` and queries.
    let stored = jetstream::new(client.clone())
        .publish(format!("cmd.retail.product.forged-{}.register", forger.commands), PRODUCT.into())
        .await
        .unwrap();
    assert_eq!(stored.await.unwrap().stream, stream_names::COMMANDS);
    forger.commands += 1;
    let submit = format!("submit.retail.product.forged-{}.register", forger.commands);
    let outcome = client.request(submit, PRODUCT.into()).await.unwrap();
    let outcome: Value = serde_json::from_slice(&outcome.payload).unwrap();
    assert_eq!(outcome["outcome"], "accepted", "{outcome}");
    forger.commands += 1;
    let key = format!(r#"{{"key":"forged-{}"}}"#, forger.commands - 1);
    until("the view answers across accounts", async || {
        let answer = client.request("query.retail.product.get", key.clone().into()).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer.payload).ok()?;
        (answer["value"]["supplier"] == "acme").then_some(())
    })
    .await;

    // In the streams' own account the server would publish its acknowledgement anywhere; the stages do not.
    let mut inside = Forger { client: server.client("operator").await, commands: forger.commands };
    for target in TARGETS {
        inside.have_stages_answer(target).await;
        for question in ["stage.projector.status", "$SRV.PING", "$SRV.INFO.submit", "$SRV.STATS.millstream"] {
            inside.request(question.to_owned(), target, &[], "").await;
        }
    }
    nothing_else_happened(&server, &folder, inside.commands).await;
    for (health, process) in &mut stages {
        process.healthy(health, "/readyz").await;
    }
}

/// Senders who wait at the same time, and outcomes that a forger has sent to each of the places where theirs could be expected.
const SENDERS: usize = 32;

/// Places were counted: whoever had a command of its own answered to the next ones made others believe that theirs had been rejected.
#[tokio::test]
async fn an_answer_to_submit_cannot_be_forged_by_whoever_knows_the_process() {
    let server = ProductionServer::start_provisioned().await;
    let folder = TempDir::new().unwrap();
    let _stages = start_stages(&server, &folder).await;
    let (forger, honest) = (server.client("publisher").await, server.client("publisher").await);
    let mut heard = server.client("operator").await.subscribe("reply.submit.>").await.unwrap();
    let submit = async |number: usize| {
        let subject = format!("submit.retail.product.honest-{number}.register");
        let outcome = honest.request(subject, PRODUCT.into()).await.unwrap();
        serde_json::from_slice::<Value>(&outcome.payload).unwrap()
    };
    assert_eq!(submit(0).await["outcome"], "accepted");
    let place = heard.next().await.unwrap().subject.to_string();
    let (process, name) = place.rsplit_once('.').unwrap();
    for number in 1..=SENDERS {
        let mut headers = HeaderMap::new();
        // Whatever is behind the process, counted from what was seen: of a product that nobody has registered, so that it is rejected.
        for guess in [number.to_string(), format!("{name}{number}"), format!("submit.{number}")] {
            headers.insert(header::REPLY, format!("{process}.{guess}").as_str());
            let subject = format!("cmd.retail.product.never-{number}.discontinue");
            forger.publish_with_headers(subject, headers.clone(), "{}".into()).await.unwrap();
        }
    }
    let answers = join_all((1..=SENDERS).map(submit)).await;
    for answer in answers {
        assert_eq!(answer["outcome"], "accepted", "{answer}");
    }
    let verified = millstream("operator", &server, folder.path(), &["verify", "outcomes"]).await;
    let _verified = verified.expect_success("verify outcomes");
}
