//! The audit log: a record for each command that comes, and for each request that is refused because of its sender.
//!
//! Records are collected and written together, so no command waits for its record. But no command is stored without a place for its record, so
//! nothing is lost while AUDIT accepts none: commands are then refused. Beyond a few refusals a second, refusals are only counted, so that
//! nobody can fill AUDIT with them. `writer` appends to the chain. Deliberately absent: bodies, keys, tokens, and parameters of addresses.

mod writer;

use std::{
    borrow::Cow,
    collections::HashMap,
    mem,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::http::{Method, StatusCode};
use jiff::Timestamp;
use millstream_contract::{
    audit::{AuditDecision, AuditRecord},
    error_text::bounded,
};
use millstream_jetstream::{id_source::IdSource, nats_broker::NatsBroker};
use millstream_runtime::health::Condition;
use tokio::{
    sync::{mpsc, mpsc::error::TrySendError},
    task::JoinHandle,
};
use ulid::Ulid;

use self::writer::Writer;
use crate::{key_ring::Principal, problem::Problem};

/// How many records may wait to be written. Each takes some hundred bytes.
const WAITING_MAX: usize = 16 * 1024;
/// How many refusals of one kind get a record of their own in a second. Each known sender has this many, and all unknown ones together have as
/// many.
const SINGLE_MAX: u64 = 10;
/// How long further refusals are counted before their number is written.
const WINDOW: Duration = Duration::from_secs(1);
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

/// The sender and the request of refusals.
type Kind = (Option<Arc<str>>, Cow<'static, str>);

/// Refusals that are counted.
#[derive(Debug, Default)]
struct Counted {
    kinds: Mutex<HashMap<Kind, Many>>,
    /// Records for which there was no place.
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct Many {
    /// The number in this window.
    count: u64,
    /// The first one that has no record of its own.
    first: Option<AuditRecord>,
}

impl Counted {
    /// Whether a refusal of this kind gets a record of its own.
    fn is_single(&self, kind: Kind, record: &AuditRecord) -> bool {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let many = kinds.entry(kind).or_default();
        many.count += 1;
        if many.count > SINGLE_MAX && many.first.is_none() {
            many.first = Some(record.clone());
        }
        many.count <= SINGLE_MAX
    }

    /// Ends the window: writes a record for each kind that had more refusals.
    fn ended(&self) -> Vec<AuditRecord> {
        let kinds = mem::take(&mut *self.kinds.lock().unwrap_or_else(PoisonError::into_inner));
        let more = kinds.into_values().filter_map(|Many { count, first }| {
            first.map(|first| AuditRecord { count: Some(count - SINGLE_MAX), ..first })
        });
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let lost = (lost > 0).then(|| AuditRecord {
            count: Some(lost),
            ..AuditRecord::new(Timestamp::now(), AuditDecision::Lost)
        });
        more.chain(lost).collect()
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
        broker: NatsBroker,
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

    /// Takes a place for the record of a command that is about to be stored.
    ///
    /// # Errors
    /// A [`Problem`] when there is no place. The command must not be stored then.
    pub(crate) fn place(&self, principal: &Principal, subject: &str) -> Result<CommandRecord, Problem> {
        let Some(open) = self.0.as_ref().filter(|open| open.commands) else { return Ok(CommandRecord(None)) };
        match open.waiting.clone().try_reserve_owned() {
            Ok(place) => {
                let mut record = of(principal, AuditDecision::Unclear);
                record.what = Some(shortened(subject));
                Ok(CommandRecord(Some((place, Box::new(record)))))
            }
            Err(_) => {
                let detail = "the audit log cannot be written now; the command is not stored, send it again";
                Err(Problem::unavailable("audit-unavailable", detail))
            }
        }
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

    /// Records that a request was refused, if the reason was its sender.
    pub(crate) fn refused(&self, who: &Asker, what: &str, (status, code): (StatusCode, &str)) {
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
        if open.counted.is_single((who.name.clone(), Cow::Owned(code.to_owned())), &record) {
            open.note(record);
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
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_some_records_and_a_number() {
        let counted = Counted::default();
        let record = AuditRecord::new(Timestamp::UNIX_EPOCH, AuditDecision::Denied);
        let kind = |who: &str, code: &'static str| (Some(Arc::from(who)), Cow::Borrowed(code));
        let single = |kind: fn() -> Kind, times: usize| {
            (0..times).filter(|_| counted.is_single(kind(), &record)).count()
        };
        assert_eq!(single(|| (None, Cow::Borrowed("key-unknown")), 1000), 10);
        assert_eq!(single(|| (None, Cow::Borrowed("key-missing")), 10), 10);
        assert!(
            counted.is_single(kind("till", "key-unknown"), &record),
            "another's flood takes nothing of till's"
        );
        counted.lost.store(3, Ordering::Relaxed);
        let mut counts: Vec<_> =
            counted.ended().into_iter().map(|each| (each.decision, each.count)).collect();
        counts.sort_by_key(|(_, count)| *count);
        assert_eq!(counts, [(AuditDecision::Lost, Some(3)), (AuditDecision::Denied, Some(990))]);
        assert!(counted.ended().is_empty());
        assert!(counted.is_single((None, Cow::Borrowed("key-unknown")), &record), "another second");
    }
}
