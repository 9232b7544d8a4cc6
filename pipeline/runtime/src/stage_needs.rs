//! What each stage needs of the server: streams, consumers, subjects. The allow-lists of `config/nats-accounts.conf` and the checks of
//! `--check-config --connect` follow this list; tests make sure that the allow-lists are neither narrower nor wider.

use millstream_contract::{
    audit::AUDIT_PREFIX,
    configured_query::STATEMENT_SUBJECT,
    dead_letter::DEAD_LETTER_PREFIX,
    leases::{
        COMMAND_HANDLER_LEASE, PROCESS_MANAGER_LEASE, lease_subject, leases_stream, presence_subject,
        progress_subject,
    },
    letter_service::{DROP_SUBJECT, LETTER_SERVICE, RETRY_SUBJECT},
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

/// A consumer that a stage makes at its own position, reads from and deletes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReaderNeed {
    /// The stream.
    pub stream: String,
    /// The consumer.
    pub consumer: String,
}

/// Subjects to which a stage appends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppendNeed {
    /// The stream that stores them.
    pub stream: String,
    /// A subject, with wildcards.
    pub subject: String,
}

/// What a stage asks of the server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StageNeeds {
    /// Streams that it checks: they must exist and have the defined form.
    pub streams: Vec<String>,
    /// Streams of which it reports how full they are, if they exist.
    pub looks: Vec<String>,
    /// The consumers with which it reads in order.
    pub readers: Vec<ReaderNeed>,
    /// The subjects to which it appends.
    pub appends: Vec<AppendNeed>,
    /// Streams of which it gets single messages from the leader.
    pub gets: Vec<String>,
    /// Streams of which it gets messages by subject from any replica.
    pub direct_gets: Vec<String>,
    /// Streams that it purges of messages that are no longer needed.
    pub purges: Vec<String>,
    /// Streams from which it removes single messages that later ones have replaced.
    pub removes: Vec<String>,
    /// Subjects on which it asks other replicas of its own stage. Answers come to the inbox that all of them share.
    pub asks: Vec<String>,
    /// Keys of leases. It shows that it is alive while it holds one, and asks whether the holders of others are.
    pub leases: Vec<String>,
    /// Subjects on which it queries views, and asks other stages.
    pub queries: Vec<String>,
    /// Subjects on which it sends messages that nobody answers.
    pub tells: Vec<String>,
    /// Subjects to which it subscribes, besides its own inbox.
    pub listens: Vec<String>,
}

/// What the stage `name` needs as the process of that `instance`; `None` if there is no such stage.
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
        // It puts a process's command back that was set aside.
        append(COMMANDS, format!("{EFFECT_PREFIX}.*.*.*.*")),
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
        gets: [owned(&[COMMANDS, OUTCOMES, EVENTS, DEAD_LETTERS]), vec![leases_stream()]].concat(),
        direct_gets: owned(&[EVENTS]),
        purges: owned(&[COMMANDS, OUTCOMES, DEAD_LETTERS]),
        leases: owned(&[COMMAND_HANDLER_LEASE]),
        listens: submissions_and_letters(lease),
        ..StageNeeds::default()
    }
}

/// Presence of lease holders, commands that people submit, and dead letters that the gateway has retried or dropped.
fn submissions_and_letters(lease: String) -> Vec<String> {
    let mut subjects = vec![format!("{SUBMIT_PREFIX}.*.*.*.*"), format!("{SUBMIT_REPLY_PREFIX}.*.*")];
    subjects.push(lease);
    subjects.extend(discovery(SUBMIT_SERVICE));
    subjects.extend(owned(&[RETRY_SUBJECT, DROP_SUBJECT]));
    subjects.extend(discovery(LETTER_SERVICE));
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

/// It folds like projector and reporter, and answers configured queries and other statements.
fn sql(process: &str) -> StageNeeds {
    StageNeeds {
        streams: owned(&[EVENTS, OUTCOMES]),
        readers: [projections(EVENTS, process), projections(OUTCOMES, &format!("{process}-outcomes"))]
            .concat(),
        gets: owned(&[EVENTS, OUTCOMES]),
        listens: [
            vec![format!("{QUERY_PREFIX}.*.*"), STATEMENT_SUBJECT.to_owned()],
            discovery("sql").to_vec(),
        ]
        .concat(),
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

/// The outcomes for which it waits, the announcements of changed rows, and requests of users under their own names.
fn outcomes_changes_and_users() -> Vec<String> {
    let mut subjects = vec![format!("{GATEWAY_REPLY_PREFIX}.*.*"), format!("{CHANGED_PREFIX}.*.*")];
    subjects.extend(
        ["submit.*.*.*.*", "query.*.*.*", "query.*.*", STATEMENT_SUBJECT]
            .map(|asked| format!("{USER_PREFIX}.*.{asked}")),
    );
    subjects.extend(discovery(USER_SERVICE));
    subjects
}

/// It reads COMMANDS only to find out whether a command is stored, and whether a repeated key came with the same command. It reads the first
/// record of OUTCOMES to find out which commands have no record any more. It reads EVENTS for the histories of aggregates, and
/// DEADLETTERS to show them; the command handler retries and drops them.
fn gateway() -> StageNeeds {
    StageNeeds {
        streams: owned(&[COMMANDS, EVENTS, OUTCOMES, AUDIT]),
        appends: vec![
            append(COMMANDS, format!("{COMMAND_PREFIX}.*.*.*.*")),
            append(AUDIT, format!("{AUDIT_PREFIX}.*")),
        ],
        looks: owned(&[DEAD_LETTERS, TIMERS, REPORTS]),
        gets: owned(&[COMMANDS, EVENTS, OUTCOMES, AUDIT, DEAD_LETTERS]),
        direct_gets: owned(&[EVENTS]),
        queries: [".*.*.get", ".*.*.list", ".*.*"]
            .map(|rest| format!("{QUERY_PREFIX}{rest}"))
            .into_iter()
            .chain(owned(&[STATEMENT_SUBJECT, RETRY_SUBJECT, DROP_SUBJECT]))
            .collect(),
        tells: vec![format!("{WATCHED_PREFIX}.*.*")],
        listens: outcomes_changes_and_users(),
        ..StageNeeds::default()
    }
}

impl StageNeeds {
    /// The subjects on which the server must let it publish. `api` is the prefix of JetStream's API (`$JS.API` without a domain), and `inbox`
    /// is the first part of its reply subjects.
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
            // The inbox in which it answers other replicas.
            subjects.push(format!("{inbox}.>"));
        }
        subjects.extend(self.leases.iter().map(|key| presence_subject(key, "*")));
        subjects.extend(self.appends.iter().map(|append| append.subject.clone()));
        subjects
    }

    /// The subjects to which the server must let it subscribe. `inbox` is the first part of its reply subjects.
    pub fn subscribe_subjects(&self, inbox: &str) -> Vec<String> {
        let mut subjects = vec![format!("{inbox}.>")];
        subjects.extend(self.listens.iter().cloned());
        subjects
    }
}

/// The second consumer, with which projections that are far behind catch up beside those that read through `consumer`.
pub fn consumer_behind(consumer: &str) -> String {
    format!("{consumer}-behind")
}

/// A consumer of projections, and the one for projections that are far behind.
fn projections(stream: &str, consumer: &str) -> [ReaderNeed; 2] {
    [reader(stream, consumer), reader(stream, &consumer_behind(consumer))]
}

fn query_service(name: &str) -> Vec<String> {
    let mut subjects = vec![format!("{QUERY_PREFIX}.>"), format!("{WATCHED_PREFIX}.*.*")];
    subjects.extend(discovery(name));
    subjects
}

/// The subjects to which a NATS micro service subscribes so that it can be found.
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
