//! The audit log: a record for each command that comes, and for each request that is refused because of its sender.
//!
//! Records are collected and written together, so no command waits for its record. But no command is stored without a place for its record, so
//! nothing is lost while AUDIT accepts none: commands are then refused. Equal refusals are gathered in `refusals`, so that nobody can fill AUDIT
//! with them. `writer` appends to the chain. Deliberately absent: bodies, keys, tokens, and parameters of addresses; of a statement there is the
//! hash.

mod refusals;
mod writer;

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::http::{Method, StatusCode};
use jiff::Timestamp;
use millstream_contract::{
    audit::{AuditDecision, AuditRecord},
    configured_query::STATEMENT_SUBJECT,
    error_text::bounded,
};
use millstream_jetstream::{broker::Broker, id_source::IdSource};
use millstream_runtime::health::Condition;
use tokio::{
    sync::{mpsc, mpsc::error::TrySendError},
    task::JoinHandle,
};
use ulid::Ulid;

use self::{
    refusals::{Kind, Refusals},
    writer::Writer,
};
use crate::{key_ring::Principal, problem::Problem};

/// How many records may wait to be written. Each takes some hundred bytes.
const WAITING_MAX: usize = 16 * 1024;
/// The longest text from a client in a record.
const TEXT_MAX: usize = 300;

/// What is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audited {
    /// Commands and refusals.
    All,
    /// Only refusals.
    Denials,
    /// Nothing.
    Nothing,
}

/// Accepts records. Clones write to the same chain.
#[derive(Debug, Clone)]
pub(crate) struct Audit(Option<Arc<Open>>);

#[derive(Debug)]
struct Open {
    commands: bool,
    waiting: mpsc::Sender<AuditRecord>,
    counted: Arc<Counted>,
}

/// What has no record yet.
#[derive(Debug, Default)]
struct Counted {
    refusals: Refusals,
    /// Records for which there was no place.
    lost: AtomicU64,
}

impl Counted {
    /// The record of records that are lost, if some are.
    fn lost(&self) -> Option<AuditRecord> {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        (lost > 0).then(|| AuditRecord {
            count: Some(lost),
            ..AuditRecord::new(Timestamp::now(), AuditDecision::Lost)
        })
    }
}

/// The end of the log, for stopping the gateway.
pub(crate) struct AuditEnd(Option<JoinHandle<()>>);

impl AuditEnd {
    /// Waits at most `limit` until everything is written. All clones of [`Audit`] must be dropped before.
    pub(crate) async fn reached(self, limit: Duration) {
        let Some(writing) = self.0 else { return };
        match tokio::time::timeout(limit, writing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "what writes the audit log has failed"),
            Err(_) => tracing::error!("the audit log could not be written to its end"),
        }
    }
}

impl Audit {
    /// Begins to write, if the log is configured.
    pub(crate) fn start(
        audited: Audited,
        broker: impl Broker,
        ids: &IdSource,
        condition: Condition,
    ) -> (Self, AuditEnd) {
        if audited == Audited::Nothing {
            condition.holds();
            return (Self(None), AuditEnd(None));
        }
        let (waiting, records) = mpsc::channel(WAITING_MAX);
        let counted = Arc::<Counted>::default();
        let run = Ulid::generate().to_string();
        let writer = Writer::new(broker, &run, condition, ids.backoff());
        let writing = tokio::spawn(writer.write(records, Arc::clone(&counted)));
        let open = Open { commands: audited == Audited::All, waiting, counted };
        (Self(Some(Arc::new(open))), AuditEnd(Some(writing)))
    }

    /// Takes a place for the record of a command that is about to be stored, or of a dead letter that is about to be moved.
    ///
    /// # Errors
    /// A [`Problem`] when there is no place. It must not be done then.
    pub(crate) fn place(&self, principal: &Principal, subject: &str) -> Result<CommandRecord, Problem> {
        let Some(open) = self.0.as_ref().filter(|open| open.commands) else { return Ok(CommandRecord(None)) };
        match open.waiting.clone().try_reserve_owned() {
            Ok(place) => {
                let mut record = of(principal, AuditDecision::Unclear);
                record.what = Some(shortened(subject));
                Ok(CommandRecord(Some((place, Box::new(record)))))
            }
            Err(_) => {
                let detail =
                    "the audit log cannot be written now, so nothing is done; send the request again";
                Err(Problem::unavailable("audit-unavailable", detail))
            }
        }
    }

    /// Takes a place for the record of a statement that is about to be asked, of which the record has the hash.
    ///
    /// # Errors
    /// As [`Self::place`].
    pub(crate) fn place_for_statement(
        &self,
        principal: &Principal,
        statement: &str,
    ) -> Result<CommandRecord, Problem> {
        let what = format!("{STATEMENT_SUBJECT} {}", blake3::hash(statement.as_bytes()).to_hex());
        let mut record = self.place(principal, &what)?;
        if let Some((_, record)) = &mut record.0 {
            record.decision = AuditDecision::Asked;
        }
        Ok(record)
    }

    /// Records a command that had been sent before.
    pub(crate) fn repeated(&self, principal: &Principal, subject: &str, id: &str, position: u64) {
        let Some(open) = self.0.as_ref().filter(|open| open.commands) else { return };
        let mut record = of(principal, AuditDecision::Repeated);
        record.what = Some(shortened(subject));
        record.command_id = Some(id.to_owned());
        record.position = Some(position);
        open.note(record);
    }

    /// Records that a request was refused, if the reason was its sender. `route` is the kind of what was asked, of which there are few.
    pub(crate) fn refused(&self, who: &Asker, route: &str, what: &str, (status, code): (StatusCode, &str)) {
        let Some(open) = &self.0 else { return };
        let for_who = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::TOO_MANY_REQUESTS];
        if !for_who.contains(&status) {
            return;
        }
        let mut record = AuditRecord::new(Timestamp::now(), AuditDecision::Denied);
        record.who = who.name.as_deref().map(str::to_owned);
        record.address = who.address.map(|address| address.to_string());
        record.what = Some(shortened(what));
        record.code = Some(code.to_owned());
        let kind = Kind::new(who.name.clone(), code, route, who.address);
        if let Some(first) = open.counted.refusals.add(kind, record) {
            open.note(first);
        }
    }
}

/// The sender of a request, as far as it is known.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asker {
    pub(crate) name: Option<Arc<str>>,
    pub(crate) address: Option<IpAddr>,
}

/// The text for a request in a record. Its parameters are left out, because they may contain anything.
pub(crate) fn called(method: &Method, path: &str) -> String {
    format!("{method} {path}")
}

impl Open {
    fn note(&self, record: AuditRecord) {
        if let Err(TrySendError::Full(_) | TrySendError::Closed(_)) = self.waiting.try_send(record) {
            self.counted.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The record of a command that may be stored. If it is dropped without a result, it says that the result is not known, because the client may
/// have left.
#[derive(Debug)]
pub(crate) struct CommandRecord(Option<(mpsc::OwnedPermit<AuditRecord>, Box<AuditRecord>)>);

impl CommandRecord {
    /// The command's id.
    pub(crate) fn named(&mut self, id: &str) {
        if let Some((_, record)) = &mut self.0 {
            record.command_id = Some(id.to_owned());
        }
    }

    /// Sets that the command is stored.
    pub(crate) fn stored(mut self, position: u64) {
        if let Some((_, record)) = &mut self.0 {
            record.decision = AuditDecision::Stored;
            record.position = Some(position);
        }
    }

    /// Sets that a dead letter was put back, as the command with this id.
    pub(crate) fn retried(mut self, id: &str, position: u64) {
        if let Some((_, record)) = &mut self.0 {
            record.decision = AuditDecision::Retried;
            record.command_id = Some(shortened(id));
            record.position = Some(position);
        }
    }

    /// Sets that a dead letter was removed.
    pub(crate) fn dropped(mut self) {
        if let Some((_, record)) = &mut self.0 {
            record.decision = AuditDecision::Dropped;
        }
    }

    /// Sets that the command is not stored.
    pub(crate) fn not_stored(mut self) {
        if let Some((_, record)) = &mut self.0 {
            record.decision = AuditDecision::NotStored;
        }
    }
}

impl Drop for CommandRecord {
    fn drop(&mut self) {
        if let Some((place, record)) = self.0.take() {
            drop(place.send(*record));
        }
    }
}

fn of(principal: &Principal, decision: AuditDecision) -> AuditRecord {
    let Asker { name, address } = principal.asker();
    let mut record = AuditRecord::new(Timestamp::now(), decision);
    record.who = name.map(|name| name.to_string());
    record.address = address.map(|address| address.to_string());
    record
}

fn shortened(text: &str) -> String {
    bounded(text).chars().take(TEXT_MAX).collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use millstream_contract::{
        audit::{AuditCheck, records},
        stream_names::AUDIT,
    };
    use millstream_jetstream::testing::{
        fault_plan::FaultPlan,
        memory_broker::{MemoryBroker, MemoryStreamConfig},
    };
    use millstream_runtime::health::Readiness;

    use super::{refusals::WINDOW, *};
    use crate::key_ring::KeyRing;

    const SOON: Duration = Duration::from_secs(5);

    /// What stands in the log: decisions, and of refusals how many there are. That it is whole is checked.
    fn written(broker: &MemoryBroker) -> Vec<(AuditDecision, Option<u64>)> {
        let messages = broker.dump(AUDIT);
        let mut check = AuditCheck::new(1, Vec::new());
        messages.iter().for_each(|message| check.take(message));
        let findings = check.end(messages.len() as u64);
        assert!(findings.faults.is_empty(), "{findings:?}");
        let all = messages.iter().flat_map(|message| records(message).unwrap());
        all.map(|(record, _)| (record.decision, record.count)).collect()
    }

    /// At ten a second with a record each, a single client filled AUDIT within days; then everybody's commands were refused.
    #[tokio::test(start_paused = true)]
    async fn whoever_is_refused_again_and_again_adds_a_record_every_ten_minutes() {
        let broker = MemoryBroker::new(1, FaultPlan::none());
        broker.make_stream(MemoryStreamConfig::new(AUDIT, &["audit.*"]));
        let condition = Readiness::new().condition("audit");
        let ids = IdSource::new("audit".to_owned());
        let (audit, end) = Audit::start(Audited::Denials, broker.clone(), &ids, condition);
        let who = Asker { name: None, address: Some(Ipv4Addr::LOCALHOST.into()) };
        let refuse = |times: usize| {
            for number in 0..times {
                let what = format!("POST /v1/commands/{number}");
                audit.refused(&who, "/v1/commands/{id}", &what, (StatusCode::UNAUTHORIZED, "key-unknown"));
            }
        };
        let mut expected = vec![(AuditDecision::Began, None), (AuditDecision::Denied, None)];
        refuse(1000);
        tokio::time::sleep(SOON).await;
        assert_eq!(written(&broker), expected, "the first is written at once");
        for more in [999, 1000] {
            tokio::time::sleep(WINDOW).await;
            expected.push((AuditDecision::Denied, Some(more)));
            assert_eq!(written(&broker), expected);
            refuse(1000);
        }
        drop(audit);
        end.reached(SOON).await;
        expected.extend([(AuditDecision::Denied, Some(1000)), (AuditDecision::Ended, None)]);
        assert_eq!(written(&broker), expected, "what was gathered is written at the end");
    }

    #[tokio::test(start_paused = true)]
    async fn a_statement_has_a_record_with_its_hash_and_nothing_else_of_it() {
        let broker = MemoryBroker::new(1, FaultPlan::none());
        broker.make_stream(MemoryStreamConfig::new(AUDIT, &["audit.*"]));
        let condition = Readiness::new().condition("audit");
        let ids = IdSource::new("audit".to_owned());
        let (audit, end) = Audit::start(Audited::All, broker.clone(), &ids, condition);
        let (principal, _) = KeyRing::Open.identify(None, Timestamp::now()).await.unwrap();
        drop(audit.place_for_statement(&principal, "SELECT 1").unwrap());
        drop(audit);
        end.reached(SOON).await;
        let messages = broker.dump(AUDIT);
        let all = messages.iter().flat_map(|message| records(message).unwrap());
        let asked: Vec<AuditRecord> =
            all.map(|(record, _)| record).filter(|record| record.decision == AuditDecision::Asked).collect();
        let what = format!("sql.ask {}", blake3::hash(b"SELECT 1").to_hex());
        assert_eq!(asked.len(), 1, "{asked:?}");
        assert_eq!((asked[0].who.as_deref(), asked[0].what.as_deref()), (Some("local"), Some(what.as_str())));
    }
}
