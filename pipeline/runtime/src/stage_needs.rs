//! What each stage asks of the server: streams, consumers, subjects. The allow-lists of `config/nats-accounts.conf` and the
//! checks of `--check-config --connect` both hold to it: tests keep the lists neither narrower nor wider.

use millstream_contract::{
    audit::AUDIT_PREFIX,
    dead_letter::DEAD_LETTER_PREFIX,
    leases::{
        COMMAND_HANDLER_LEASE, PROCESS_MANAGER_LEASE, lease_subject, leases_stream, presence_subject,
        progress_subject,
    },
    outcome::OUTCOME_SUBJECT,
    stream_names::{AUDIT, COMMANDS, COMMANDS_CONSUMER, DEAD_LETTERS, EVENTS, OUTCOMES, REPORTS, TIMERS},
    subject::{
        CHANGED_PREFIX, COMMAND_PREFIX, EFFECT_PREFIX, EVENT_PREFIX, GATEWAY_REPLY_PREFIX, QUERY_PREFIX,
        SUBMIT_PREFIX, SUBMIT_REPLY_PREFIX, SUBMIT_SERVICE, TIMER_PREFIX, USER_PREFIX, USER_SERVICE,
        WATCHED_PREFIX,
    },
};

use crate::{
    connection::process_name,
    status_service::{SERVICE_NAME, status_subject},
};

/// A consumer that a stage makes at its own position, reads through and deletes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReaderNeed {
    /// The stream.
    pub stream: String,
    /// The consumer.
    pub consumer: String,
}

/// Subjects that a stage appends to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppendNeed {
    /// The stream that takes them.
    pub stream: String,
    /// A subject, with wildcards.
    pub subject: String,
}

/// What a stage asks of the server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StageNeeds {
    /// Streams that it looks at: they must be there and be as defined.
    pub streams: Vec<String>,
    /// Streams of which it tells how full they are, if they are there.
    pub looks: Vec<String>,
    /// What it reads in order.
    pub readers: Vec<ReaderNeed>,
    /// What it appends.
    pub appends: Vec<AppendNeed>,
    /// Streams of which it gets single messages from the leader.
    pub gets: Vec<String>,
    /// Streams of which it gets messages by subject from any replica.
    pub direct_gets: Vec<String>,
    /// Streams that it purges of what is no longer needed.
    pub purges: Vec<String>,
    /// Streams of which it removes single messages that later ones have replaced.
    pub removes: Vec<String>,
    /// Subjects on which it asks other replicas of itself. They are answered in the inbox that all of them have.
    pub asks: Vec<String>,
    /// Keys of leases: it shows that it is there while it has one, and asks whether others are.
    pub leases: Vec<String>,
    /// Subjects on which it asks views.
    pub queries: Vec<String>,
    /// Subjects on which it tells others something that nobody answers.
    pub tells: Vec<String>,
    /// Subjects that it listens to, besides its own inbox.
    pub listens: Vec<String>,
}

/// What the stage `name` needs as the process of that `instance`; `None` for a name that is no stage.
pub fn stage_needs(name: &str, instance: &str) -> Option<StageNeeds> {
    let process = process_name(name, instance);
    let mut needs = match name {
        "command-handler" => command_handler(&process),
        "projector" => projector(&process),
        "reporter" => reporter(&process),
        "process-manager" => process_manager(&process),
        "sql" => sql(&process),
        "gateway" => gateway(),
        _ => return None,
    };
    needs.listens.push(status_subject(&process));
    needs.listens.extend(discovery(SERVICE_NAME));
    needs.listens.extend(needs.leases.iter().map(|key| presence_subject(key, "*")));
    needs.listens.sort();
    needs.listens.dedup();
    Some(needs)
}

fn command_handler(process: &str) -> StageNeeds {
    let lease = lease_subject(COMMAND_HANDLER_LEASE);
    let appends = vec![
        append(EVENTS, format!("{EVENT_PREFIX}.*.*.*")),
        append(OUTCOMES, OUTCOME_SUBJECT.to_owned()),
        append(DEAD_LETTERS, format!("{DEAD_LETTER_PREFIX}.{COMMANDS}.*")),
        append(COMMANDS, format!("{COMMAND_PREFIX}.*.*.*.*")),
        append(&leases_stream(), lease.clone()),
    ];
    StageNeeds {
        streams: owned(&[COMMANDS, EVENTS, OUTCOMES]),
        looks: owned(&[TIMERS, REPORTS, DEAD_LETTERS, AUDIT]),
        readers: vec![
            reader(COMMANDS, COMMANDS_CONSUMER),
            reader(OUTCOMES, &format!("{process}-ids")),
            reader(EVENTS, &format!("{process}-states")),
        ],
        appends,
        gets: vec![COMMANDS.to_owned(), OUTCOMES.to_owned(), EVENTS.to_owned(), leases_stream()],
        direct_gets: owned(&[EVENTS]),
        purges: owned(&[COMMANDS, OUTCOMES]),
        leases: owned(&[COMMAND_HANDLER_LEASE]),
        listens: submissions(lease),
        ..StageNeeds::default()
    }
}

/// What the lease tells, and what people submit.
fn submissions(lease: String) -> Vec<String> {
    let mut subjects = vec![format!("{SUBMIT_PREFIX}.*.*.*.*"), format!("{SUBMIT_REPLY_PREFIX}.*.*")];
    subjects.push(lease);
    subjects.extend(discovery(SUBMIT_SERVICE));
    subjects
}

fn projector(process: &str) -> StageNeeds {
    StageNeeds {
        streams: owned(&[EVENTS, OUTCOMES]),
        readers: [projections(EVENTS, process), projections(OUTCOMES, &format!("{process}-outcomes"))]
            .concat(),
        gets: owned(&[EVENTS, OUTCOMES]),
        asks: vec![format!("{QUERY_PREFIX}.*.*.whole")],
        tells: vec![format!("{CHANGED_PREFIX}.*.*")],
        listens: query_service("projector"),
        ..StageNeeds::default()
    }
}

fn reporter(process: &str) -> StageNeeds {
    StageNeeds {
        streams: owned(&[EVENTS, REPORTS]),
        readers: projections(EVENTS, process).to_vec(),
        appends: vec![append(REPORTS, "report.*.*.*.*".to_owned())],
        gets: owned(&[EVENTS, REPORTS]),
        removes: owned(&[REPORTS]),
        asks: vec![format!("{QUERY_PREFIX}.*.*.whole")],
        tells: vec![format!("{CHANGED_PREFIX}.*.*")],
        listens: query_service("reporter"),
        ..StageNeeds::default()
    }
}

/// It folds as projector and reporter do, and answers configured queries.
fn sql(process: &str) -> StageNeeds {
    StageNeeds {
        streams: owned(&[EVENTS, OUTCOMES]),
        readers: [projections(EVENTS, process), projections(OUTCOMES, &format!("{process}-outcomes"))]
            .concat(),
        gets: owned(&[EVENTS, OUTCOMES]),
        listens: [vec![format!("{QUERY_PREFIX}.*.*")], discovery("sql").to_vec()].concat(),
        ..StageNeeds::default()
    }
}

fn process_manager(process: &str) -> StageNeeds {
    let lease = lease_subject(PROCESS_MANAGER_LEASE);
    StageNeeds {
        streams: owned(&[EVENTS, TIMERS]),
        readers: [projections(EVENTS, process).to_vec(), vec![reader(TIMERS, PROCESS_MANAGER_LEASE)]]
            .concat(),
        appends: vec![
            append(COMMANDS, format!("{EFFECT_PREFIX}.*.*.*.*")),
            append(TIMERS, format!("{TIMER_PREFIX}.*")),
            append(DEAD_LETTERS, format!("{DEAD_LETTER_PREFIX}.{TIMERS}.*")),
            append(DEAD_LETTERS, format!("{DEAD_LETTER_PREFIX}.{EVENTS}.*")),
            append(&leases_stream(), lease.clone()),
            append(&leases_stream(), progress_subject("*")),
        ],
        gets: vec![EVENTS.to_owned(), TIMERS.to_owned(), leases_stream()],
        purges: owned(&[TIMERS]),
        leases: owned(&[PROCESS_MANAGER_LEASE]),
        listens: vec![lease],
        ..StageNeeds::default()
    }
}

/// The outcomes that it waits for, which rows have changed, and what users ask under their own names.
fn outcomes_changes_and_users() -> Vec<String> {
    let mut subjects = vec![format!("{GATEWAY_REPLY_PREFIX}.*.*"), format!("{CHANGED_PREFIX}.*.*")];
    subjects.extend([format!("{USER_PREFIX}.*.submit.*.*.*.*"), format!("{USER_PREFIX}.*.query.*.*.*")]);
    subjects.extend(discovery(USER_SERVICE));
    subjects
}

/// It reads COMMANDS only to tell whether a command is stored, and whether a key that comes again came with the same command; and
/// the first record of OUTCOMES, which tells of which commands there is none any more. It reads EVENTS for the histories of aggregates.
fn gateway() -> StageNeeds {
    StageNeeds {
        streams: owned(&[COMMANDS, EVENTS, OUTCOMES, AUDIT]),
        appends: vec![
            append(COMMANDS, format!("{COMMAND_PREFIX}.*.*.*.*")),
            append(AUDIT, format!("{AUDIT_PREFIX}.*")),
        ],
        gets: owned(&[COMMANDS, EVENTS, OUTCOMES, AUDIT]),
        direct_gets: owned(&[EVENTS]),
        queries: [".*.*.get", ".*.*.list", ".*.*"].map(|rest| format!("{QUERY_PREFIX}{rest}")).to_vec(),
        tells: vec![format!("{WATCHED_PREFIX}.*.*")],
        listens: outcomes_changes_and_users(),
        ..StageNeeds::default()
    }
}

impl StageNeeds {
    /// The subjects that the server must let it publish to; `api` is the prefix of JetStream's API, `$JS.API` without a
    /// domain, and `inbox` the first part of its replies.
    pub fn publish_subjects(&self, api: &str, inbox: &str) -> Vec<String> {
        let mut subjects = Vec::new();
        let looked_at = self.streams.iter().chain(&self.looks);
        subjects.extend(looked_at.map(|stream| format!("{api}.STREAM.INFO.{stream}")));
        for ReaderNeed { stream, consumer } in &self.readers {
            for operation in ["CREATE", "DELETE", "INFO", "MSG.NEXT"] {
                subjects.push(format!("{api}.CONSUMER.{operation}.{stream}.{consumer}"));
            }
        }
        subjects.extend(self.gets.iter().map(|stream| format!("{api}.STREAM.MSG.GET.{stream}")));
        subjects.extend(self.direct_gets.iter().map(|stream| format!("{api}.DIRECT.GET.{stream}")));
        subjects.extend(self.purges.iter().map(|stream| format!("{api}.STREAM.PURGE.{stream}")));
        subjects.extend(self.removes.iter().map(|stream| format!("{api}.STREAM.MSG.DELETE.{stream}")));
        subjects.extend(self.queries.iter().cloned());
        subjects.extend(self.tells.iter().cloned());
        if !self.asks.is_empty() {
            subjects.extend(self.asks.iter().cloned());
            // Where it answers other replicas that ask.
            subjects.push(format!("{inbox}.>"));
        }
        subjects.extend(self.leases.iter().map(|key| presence_subject(key, "*")));
        subjects.extend(self.appends.iter().map(|append| append.subject.clone()));
        subjects
    }

    /// The subjects that the server must let it subscribe to, `inbox` being the first part of its replies.
    pub fn subscribe_subjects(&self, inbox: &str) -> Vec<String> {
        let mut subjects = vec![format!("{inbox}.>")];
        subjects.extend(self.listens.iter().cloned());
        subjects
    }
}

/// The consumer through which projections that are far behind catch up, beside those that read through `consumer`.
pub fn consumer_behind(consumer: &str) -> String {
    format!("{consumer}-behind")
}

/// A consumer of projections, and the one of those that are far behind.
fn projections(stream: &str, consumer: &str) -> [ReaderNeed; 2] {
    [reader(stream, consumer), reader(stream, &consumer_behind(consumer))]
}

fn query_service(name: &str) -> Vec<String> {
    let mut subjects = vec![format!("{QUERY_PREFIX}.>"), format!("{WATCHED_PREFIX}.*.*")];
    subjects.extend(discovery(name));
    subjects
}

/// What a NATS micro service listens to in order to be found.
fn discovery(service: &str) -> [String; 3] {
    ["$SRV.*".to_owned(), format!("$SRV.*.{service}"), format!("$SRV.*.{service}.*")]
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn reader(stream: &str, consumer: &str) -> ReaderNeed {
    ReaderNeed { stream: stream.to_owned(), consumer: consumer.to_owned() }
}

fn append(stream: &str, subject: String) -> AppendNeed {
    AppendNeed { stream: stream.to_owned(), subject }
}
