//! The processes of all stages: those that report their state, and those that stand still. A process that stands still keeps its connection and
//! its subscriptions, so the server passes a question on to it. If there were no such process, the server would say at once that nobody
//! listens.

use std::collections::{BTreeMap, BTreeSet};

use async_nats::{Client, Request, client::RequestErrorKind};
use futures::{StreamExt as _, future::join_all};
use millstream_contract::exit_code::ExitCode;
use millstream_runtime::{
    connection::{Forbidden, process_name},
    stage_check::Check,
    status_service::{SERVICE_NAME, status_subject},
};
use serde::Deserialize;
use serde_json::Value;

use super::{
    STAGES, WHERE_WANTED,
    time_limits::{PROCESS_SECOND_WAIT, PROCESSES_WAIT},
    trouble,
};

/// How many instances are asked at once, by their numbers, which begin at 0 or 1. If none of them exists, no further ones are asked.
const NUMBERS_AT_ONCE: usize = 10;
/// `up` starts no more processes of a stage.
const NUMBER_MAX: usize = 100;

/// What a process reports about itself.
#[derive(Debug, Deserialize)]
pub(super) struct ProcessStatus {
    pub(super) stage: String,
    #[serde(default)]
    pub(super) instance: String,
    pub(super) ready: bool,
    pub(super) reasons: BTreeSet<String>,
    #[serde(default)]
    pub(super) figures: BTreeMap<String, f64>,
}

/// All that there are.
#[derive(Debug, Default)]
pub(super) struct Processes {
    /// The processes that answer.
    pub(super) answering: Vec<ProcessStatus>,
    /// The stage and name of each process that does not answer.
    silent: Vec<(&'static str, String)>,
}

impl Processes {
    /// Asks for all of them.
    pub(super) async fn find(client: &Client, forbidden: &Forbidden) -> Self {
        let silent = async {
            let stages = STAGES.into_iter().chain(WHERE_WANTED);
            join_all(stages.map(|stage| silent(client, forbidden, stage))).await.concat()
        };
        let (answering, silent) = tokio::join!(answering(client), silent);
        Self { answering, silent }
    }

    /// Whether a stage runs and all its processes are ready, including standbys.
    pub(super) fn ready(&self, stage: &str) -> Check {
        let sentence = match self.told(stage) {
            Ok(0) => Err(format!("nobody answers; does the {stage} run?")),
            told => told.map(|count| format!("{count} process(es), ready")),
        };
        check(stage, sentence)
    }

    /// The same for a stage that need not run.
    pub(super) fn ready_if_any(&self, stage: &str) -> Check {
        match self.told(stage) {
            Ok(0) => check(stage, Ok("none is connected, and none has to be".to_owned())),
            _ => self.ready(stage),
        }
    }

    /// How many processes are ready, or what is wrong with the others.
    fn told(&self, stage: &str) -> Result<usize, String> {
        let own = || self.answering.iter().filter(|process| process.stage == stage);
        let silent = self.silent.iter().filter(|(of, _)| *of == stage).map(|(_, name)| {
            format!(
                "{name} is connected and does not answer: it stands still; look into its log and start it again (docs/runbooks/lag-grows.md)"
            )
        });
        let unready = own().filter(|process| !process.ready);
        let unready = unready.map(|process| process.reasons.iter().cloned().collect::<Vec<_>>().join("; "));
        let wrong: Vec<String> = silent.chain(unready.take(1)).collect();
        if wrong.is_empty() { Ok(own().count()) } else { Err(wrong.join("; ")) }
    }
}

fn check(stage: &str, sentence: Result<String, String>) -> Check {
    let result = sentence.map_err(|sentence| trouble(ExitCode::Unavailable, sentence));
    Check { what: format!("stage {stage}"), result }
}

/// Every process of every stage is an instance of one micro service.
async fn answering(client: &Client) -> Vec<ProcessStatus> {
    let mut found = Vec::new();
    let collect = async {
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(inbox.clone()).await.ok()?;
        client.publish_with_reply(format!("$SRV.STATS.{SERVICE_NAME}"), inbox, "".into()).await.ok()?;
        while let Some(message) = answers.next().await {
            // If nobody listens, the answer is an empty message with a status.
            let answer = serde_json::from_slice::<Value>(&message.payload).ok()?;
            let status = answer.pointer("/endpoints/0/data").cloned().unwrap_or_default();
            found.extend(serde_json::from_value::<ProcessStatus>(status).ok());
        }
        Some(())
    };
    // Nobody knows how many there are, so those that answer in time count as all of them.
    let _ = tokio::time::timeout(PROCESSES_WAIT, collect).await;
    found
}

/// The result of a question to one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Answers,
    Absent,
    Silent,
}

/// The processes of a stage that are connected and do not answer, among those without an instance or with a number.
async fn silent(client: &Client, forbidden: &Forbidden, stage: &'static str) -> Vec<(&'static str, String)> {
    let mut silent = Vec::new();
    for first in (0..=NUMBER_MAX).step_by(NUMBERS_AT_ONCE) {
        let numbers = (first..first + NUMBERS_AT_ONCE).map(|number| number.to_string());
        let alone = (first == 0).then(String::new);
        let names: Vec<String> =
            alone.into_iter().chain(numbers).map(|instance| process_name(stage, &instance)).collect();
        let asked = names.iter().map(|name| presence(client, forbidden, name));
        let found = join_all(asked).await;
        if found.iter().all(|presence| *presence == Presence::Absent) {
            break;
        }
        // A server that does not answer says nothing about any process: nobody has both no instance and each of the first numbers.
        if first == 0 && found.iter().all(|presence| *presence == Presence::Silent) {
            return Vec::new();
        }
        let still = names.into_iter().zip(found).filter(|(_, presence)| *presence == Presence::Silent);
        silent.extend(still.map(|(name, _)| (stage, name)));
    }
    silent
}

async fn presence(client: &Client, forbidden: &Forbidden, process: &str) -> Presence {
    let subject = status_subject(process);
    for wait in [PROCESSES_WAIT, PROCESS_SECOND_WAIT] {
        let request = Request::new().timeout(Some(wait));
        match client.send_request(subject.clone(), request).await {
            Ok(_) => return Presence::Answers,
            Err(error) if error.kind() == RequestErrorKind::NoResponders => return Presence::Absent,
            // The server does not pass on a forbidden question, and its silence says nothing about the process.
            Err(_) if forbidden.publish(&subject) => return Presence::Absent,
            Err(_) => {}
        }
    }
    Presence::Silent
}

#[cfg(test)]
mod tests {
    use millstream_jetstream::testing::test_server::TestServer;

    use super::*;

    const GATEWAY: &str = "gateway";

    fn status(stage: &str, reasons: &[&str]) -> ProcessStatus {
        ProcessStatus {
            stage: stage.to_owned(),
            instance: String::new(),
            ready: reasons.is_empty(),
            reasons: reasons.iter().map(|reason| (*reason).to_owned()).collect(),
            figures: BTreeMap::new(),
        }
    }

    #[test]
    fn one_process_that_stands_still_is_told_beside_others_that_are_ready() {
        let mut processes = Processes { answering: vec![status(GATEWAY, &[])], silent: Vec::new() };
        assert_eq!(processes.ready_if_any(GATEWAY).result.unwrap(), "1 process(es), ready");
        processes.silent.push((GATEWAY, "gateway-2".to_owned()));
        processes.silent.push(("reporter", "reporter".to_owned()));
        let told = processes.ready_if_any(GATEWAY).result.unwrap_err().sentence;
        assert!(told.starts_with("gateway-2 is connected and does not answer"), "{told}");
        let told = processes.ready("reporter").result.unwrap_err().sentence;
        assert!(told.starts_with("reporter is connected and does not answer"), "{told}");
    }

    #[test]
    fn a_stage_of_which_none_is_there_is_missed_only_where_it_has_to_be() {
        let nobody = Processes::default();
        let missed = nobody.ready("projector").result.unwrap_err().sentence;
        assert_eq!(missed, "nobody answers; does the projector run?");
        assert!(nobody.ready_if_any(GATEWAY).result.is_ok());
        let starting =
            Processes { answering: vec![status(GATEWAY, &["nats: starting"])], silent: Vec::new() };
        assert_eq!(starting.ready_if_any(GATEWAY).result.unwrap_err().sentence, "nats: starting");
    }

    /// Whoever listens and never answers stands for a process that stands still.
    #[tokio::test]
    async fn who_listens_and_does_not_answer_is_found_by_any_number() {
        let server = TestServer::start().await;
        let (still, asking) = (server.client().await, server.client().await);
        let mut kept = Vec::new();
        for name in ["gateway", "gateway-3", "gateway-12", "projector-1"] {
            kept.push(still.subscribe(status_subject(name)).await.unwrap());
        }
        // What comes back shows that the server knows of the subscriptions before it.
        let mut echo = still.subscribe("echo").await.unwrap();
        still.publish("echo", "".into()).await.unwrap();
        assert!(echo.next().await.is_some());
        let found = Processes::find(&asking, &Forbidden::default()).await;
        let expected = [
            ("projector", "projector-1"),
            (GATEWAY, "gateway"),
            (GATEWAY, "gateway-3"),
            (GATEWAY, "gateway-12"),
        ];
        assert_eq!(found.silent, expected.map(|(stage, name)| (stage, name.to_owned())));
    }
}
