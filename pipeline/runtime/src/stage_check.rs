//! Asks the server whether a stage could work: its version, the streams and their definitions, and every operation that the stage needs.
//! Nothing is changed: each request is built so that the server first permits the request and then refuses its content.

use std::{fmt, time::Duration};

use async_nats::{Client, HeaderMap, Subscriber, client::RequestErrorKind, jetstream};
use millstream_contract::{
    error_text::one_line,
    exit_code::{ExitCode, Failure},
    leases::presence_subject,
};
use millstream_jetstream::{
    nats_server::{VERSION_MIN, Version},
    provision::{ProvisionOptions, StreamFinding, StreamPresence, verify},
};

use crate::{
    connection::{ClientIdentity, ConnectError, ConnectionSettings, Forbidden, connect, inbox_prefix},
    stage_needs::StageNeeds,
};

/// How long the server may take for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// No stream has this name, so an append that expects it is permitted and then refused.
const NO_STREAM: &str = "MILLSTREAM-CHECK";
/// No JetStream request accepts this as its content.
const NO_REQUEST: &str = "{\"millstream\":check";

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What.
    pub what: String,
    /// What was found, or the problem and what to do.
    pub result: Result<String, Trouble>,
}

/// A problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// One sentence, with what to do.
    pub sentence: String,
    /// The exit code of a stage with this problem.
    pub code: ExitCode,
}

impl fmt::Display for Check {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.result {
            Ok(found) => write!(formatter, "ok      {}: {found}", self.what),
            Err(trouble) => write!(formatter, "trouble {}: {}", self.what, trouble.sentence),
        }
    }
}

/// Connects as the stage would and checks everything that it needs.
///
/// # Errors
/// [`ConnectError`] when there is no connection. In that case nothing else can be checked.
pub async fn check_stage(
    settings: &ConnectionSettings,
    identity: &ClientIdentity,
    needs: &StageNeeds,
) -> Result<Vec<Check>, ConnectError> {
    let forbidden = Forbidden::default();
    let client = connect(settings, identity, &forbidden.noted_by_monitor()).await?;
    let domain = settings.jetstream_domain.as_deref();
    let api = domain.map_or_else(|| "$JS.API".to_owned(), |domain| format!("$JS.{domain}.API"));
    let jetstream = context(&client, domain);
    let to_others = to_others(needs, inbox_prefix(settings, identity));
    for probe in &to_others {
        publish(&client, probe).await;
    }
    let subscriptions = subscribe(&client, needs).await;
    let mut checks = vec![check_version(&client)];
    checks.extend(check_streams(&jetstream, needs, &api, &client, &forbidden).await);
    let probes = probes(needs, &api);
    let published = probes.iter().map(|probe| check_publish(&client, probe, &forbidden));
    checks.extend(futures::future::join_all(published).await);
    // If the server refused subscriptions or messages to other processes, it said so before it answered anything above. The last event that the
    // client library reports for a connection is that it is closed.
    close(&client, &forbidden).await;
    drop(subscriptions);
    checks.extend(to_others.iter().map(|probe| judge_publish(probe, &forbidden)));
    checks.extend(needs.listens.iter().map(|subject| judge_subscription(subject, &forbidden)));
    Ok(checks)
}

/// Streams that are missing or differ from what a stage needs.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StreamsUnusable(String);

impl Failure for StreamsUnusable {
    fn exit_code(&self) -> ExitCode {
        ExitCode::Configuration
    }
}

/// Checks the streams before a stage begins its work. If a stream cannot be checked now, because the server is busy or forbids it, the stage
/// itself will report it.
///
/// # Errors
/// [`StreamsUnusable`] names all problems in one line, with what to do.
pub(crate) async fn verify_streams(
    client: &Client,
    domain: Option<&str>,
    needs: &StageNeeds,
) -> Result<(), StreamsUnusable> {
    let jetstream = &context(client, domain);
    let mut wrong = Vec::new();
    for stream in &needs.streams {
        match verify(jetstream, &ProvisionOptions::default(), &[stream]).await {
            Ok(findings) => wrong.extend(findings.iter().filter_map(|found| {
                let Trouble { sentence, .. } = judge(found).err()?;
                // The text of a difference names the stream.
                let rest = sentence.strip_prefix(&format!("{stream}: ")).unwrap_or(&sentence);
                Some(format!("stream {stream}: {rest}"))
            })),
            Err(error) => tracing::warn!(stream, error = one_line(&error), "cannot look at the stream yet"),
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(StreamsUnusable(wrong.join("; "))) }
}

fn context(client: &Client, domain: Option<&str>) -> jetstream::Context {
    match domain {
        Some(domain) => jetstream::with_domain(client.clone(), domain),
        None => jetstream::new(client.clone()),
    }
}

fn check_version(client: &Client) -> Check {
    let found = client.server_info().version;
    let what = "server version".to_owned();
    // The program prints a `v` before its version; the server itself does not.
    let result = match Version::parse(&format!("v{found}")) {
        Some(version) if version >= VERSION_MIN => Ok(found),
        _ => Err(Trouble {
            sentence: format!("it is {found}; nats-server {VERSION_MIN} or newer is needed"),
            code: ExitCode::Configuration,
        }),
    };
    Check { what, result }
}

async fn check_streams(
    jetstream: &jetstream::Context,
    needs: &StageNeeds,
    api: &str,
    client: &Client,
    forbidden: &Forbidden,
) -> Vec<Check> {
    let mut checks = Vec::new();
    for stream in &needs.streams {
        let what = format!("stream {stream}");
        let allowed = Probe::request(format!("{api}.STREAM.INFO.{stream}"), "look at the stream".to_owned());
        let Check { result: Ok(_), .. } = check_publish(client, &allowed, forbidden).await else {
            checks.push(Check { what, result: Err(denied("looking at it", &allowed.subject)) });
            continue;
        };
        let result = match verify(jetstream, &ProvisionOptions::default(), &[stream]).await {
            Ok(findings) => findings.iter().find(|found| found.stream == *stream).map_or_else(
                || {
                    Err(Trouble {
                        sentence: "Millstream has no such stream".to_owned(),
                        code: ExitCode::Software,
                    })
                },
                judge,
            ),
            Err(error) => Err(Trouble { sentence: one_line(&error), code: ExitCode::Unavailable }),
        };
        checks.push(Check { what, result });
    }
    checks
}

fn judge(found: &StreamFinding) -> Result<String, Trouble> {
    let trouble = |sentence: String| Err(Trouble { sentence, code: ExitCode::Configuration });
    if found.presence == StreamPresence::Missing {
        return trouble("it does not exist; run `millstream setup`".to_owned());
    }
    let required: Vec<String> =
        found.differences.iter().filter(|each| each.required).map(ToString::to_string).collect();
    if !required.is_empty() {
        return trouble(required.join("; "));
    }
    match &found.generation {
        Some(generation) => Ok(format!("as defined, generation {generation}")),
        None => trouble("it has no generation; it was not made by `millstream setup`".to_owned()),
    }
}

/// A request that shows whether it is permitted and does nothing.
#[derive(Debug, Clone)]
struct Probe {
    subject: String,
    what: String,
    headers: HeaderMap,
    payload: &'static str,
}

impl Probe {
    fn request(subject: String, what: String) -> Self {
        Self { subject, what, headers: HeaderMap::new(), payload: NO_REQUEST }
    }

    fn append(subject: &str, what: String) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Stream", NO_STREAM);
        Self { subject: subject.replace('*', "check"), what, headers, payload: "" }
    }
}

fn probes(needs: &StageNeeds, api: &str) -> Vec<Probe> {
    let mut probes = Vec::new();
    for stream in &needs.looks {
        let subject = format!("{api}.STREAM.INFO.{stream}");
        probes.push(Probe::request(subject, format!("look how full {stream} is")));
    }
    for reader in &needs.readers {
        for (operation, verb) in
            [("CREATE", "make"), ("DELETE", "delete"), ("INFO", "look at"), ("MSG.NEXT", "read through")]
        {
            let (stream, consumer) = (&reader.stream, reader.consumer.replace('*', "check"));
            let subject = format!("{api}.CONSUMER.{operation}.{stream}.{consumer}");
            probes.push(Probe::request(subject, format!("{verb} consumer {consumer} of {stream}")));
        }
    }
    for stream in &needs.gets {
        let subject = format!("{api}.STREAM.MSG.GET.{stream}");
        probes.push(Probe::request(subject, format!("get messages of {stream}")));
    }
    for stream in &needs.direct_gets {
        let subject = format!("{api}.DIRECT.GET.{stream}");
        probes.push(Probe::request(subject, format!("get messages of {stream} from any replica")));
    }
    for stream in &needs.purges {
        let subject = format!("{api}.STREAM.PURGE.{stream}");
        probes.push(Probe::request(subject, format!("purge {stream}")));
    }
    for stream in &needs.removes {
        let subject = format!("{api}.STREAM.MSG.DELETE.{stream}");
        probes.push(Probe::request(subject, format!("remove messages of {stream}")));
    }
    for append in &needs.appends {
        let what = format!("append {} to {}", append.subject, append.stream);
        probes.push(Probe::append(&append.subject, what));
    }
    probes
}

/// Messages to other processes: questions to replicas, to owners of leases and to views, messages that nobody answers, and an answer in the
/// inbox that all replicas share, where nobody waits for it. A listener there, such as the check of another stage, need not answer.
fn to_others(needs: &StageNeeds, inbox: &str) -> Vec<Probe> {
    let question =
        |subject: &String| Probe::request(subject.replace('*', "check"), "ask other replicas".to_owned());
    let mut probes: Vec<Probe> = needs.asks.iter().map(question).collect();
    if !probes.is_empty() {
        probes.push(Probe::request(format!("{inbox}.check"), "answer other replicas".to_owned()));
    }
    let owners = needs.leases.iter().map(|key| presence_subject(key, "check"));
    probes.extend(
        owners.map(|subject| Probe::request(subject, "ask whether the owner of a lease is there".to_owned())),
    );
    let views = needs.queries.iter();
    probes.extend(views.map(|query| Probe::request(query.replace('*', "check"), format!("ask {query}"))));
    let told = needs.tells.iter();
    probes
        .extend(told.map(|subject| Probe::request(subject.replace('*', "check"), format!("tell {subject}"))));
    probes
}

/// Sends a probe that nobody answers.
async fn publish(client: &Client, probe: &Probe) {
    if let Err(error) = client.publish(probe.subject.clone(), probe.payload.into()).await {
        tracing::warn!(subject = probe.subject, %error, "cannot publish");
    }
}

/// Sends a probe. Any answer means that it is permitted, and so does the message that nobody listens.
async fn check_publish(client: &Client, probe: &Probe, forbidden: &Forbidden) -> Check {
    let request = async_nats::Request::new()
        .headers(probe.headers.clone())
        .payload(probe.payload.into())
        .timeout(Some(ANSWER_TIMEOUT));
    let answered = tokio::select! {
        answer = client.send_request(probe.subject.clone(), request) => match answer {
            Ok(_) => Ok("allowed".to_owned()),
            Err(error) if error.kind() == RequestErrorKind::NoResponders => Ok("allowed".to_owned()),
            Err(error) => Err(Trouble {
                sentence: format!("no answer to {}: {error}", probe.subject),
                code: ExitCode::Unavailable,
            }),
        },
        () = forbidden.publish_to(&probe.subject) => Err(denied(&probe.what, &probe.subject)),
    };
    Check { what: probe.what.clone(), result: answered }
}

fn denied(what: &str, subject: &str) -> Trouble {
    Trouble {
        sentence: format!("the server forbids it ({what}); let this user publish to {subject}"),
        code: ExitCode::NotPermitted,
    }
}

/// Subscribes to the subjects to which the stage would subscribe.
async fn subscribe(client: &Client, needs: &StageNeeds) -> Vec<Subscriber> {
    let mut subscriptions = Vec::new();
    for subject in &needs.listens {
        match client.subscribe(subject.clone()).await {
            Ok(subscription) => subscriptions.push(subscription),
            Err(error) => tracing::warn!(subject, %error, "cannot subscribe"),
        }
    }
    subscriptions
}

async fn close(client: &Client, forbidden: &Forbidden) {
    let closed = async {
        match client.drain().await {
            Ok(()) => forbidden.closed().await,
            Err(error) => tracing::debug!(%error, "the connection was closed already"),
        }
    };
    if tokio::time::timeout(ANSWER_TIMEOUT, closed).await.is_err() {
        tracing::warn!("the connection did not close in time; a refused subscription may be missing below");
    }
}

/// The result of a probe that nobody answers, known once the connection is closed.
fn judge_publish(probe: &Probe, forbidden: &Forbidden) -> Check {
    let result = match forbidden.publish(&probe.subject) {
        true => Err(denied(&probe.what, &probe.subject)),
        false => Ok("allowed".to_owned()),
    };
    Check { what: probe.what.clone(), result }
}

fn judge_subscription(subject: &str, forbidden: &Forbidden) -> Check {
    let result = if forbidden.subscription(subject) {
        Err(Trouble {
            sentence: format!("the server forbids it; let this user subscribe to {subject}"),
            code: ExitCode::NotPermitted,
        })
    } else {
        Ok("allowed".to_owned())
    };
    Check { what: format!("listen to {subject}"), result }
}

#[cfg(test)]
mod tests;
