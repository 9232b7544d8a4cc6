//! The audit log: who sent which command through the gateway, and who was refused. Each record holds the hash of the record before it.
//!
//! Each run of a gateway writes its own chain to the subject `audit.<run>` of the stream AUDIT. A message holds several records, one line
//! of JSON each. A record names a command by its subject, id and position. Deliberately absent: bodies, keys, tokens.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{stored_message::StoredMessage, stream_names::AUDIT};

/// The prefix of the subjects of AUDIT.
pub const AUDIT_PREFIX: &str = "audit";

/// The subject of a run of a gateway.
pub fn audit_subject(run: &str) -> String {
    format!("{AUDIT_PREFIX}.{run}")
}

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuditDecision {
    /// The gateway began to write.
    Began,
    /// The command is stored, at `position`.
    Stored,
    /// The same command was sent again; the first is at `position`.
    Repeated,
    /// The command was let in, but it is not known whether COMMANDS stored it.
    Unclear,
    /// The command was let in, but COMMANDS did not store it.
    NotStored,
    /// A dead letter was put back, at `position`.
    Retried,
    /// A dead letter was removed.
    Dropped,
    /// A statement was asked that no file has.
    Asked,
    /// The request was refused, for `code`.
    Denied,
    /// Some records could not be kept; `count` says how many.
    Lost,
    /// The gateway ended in good order. No record follows.
    Ended,
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditRecord {
    /// Its place in the chain, from 1.
    pub number: u64,
    /// The hash of the record before it. The first record has the hash of the run's name.
    pub previous: String,
    /// When.
    pub time: Timestamp,
    /// What was decided.
    pub decision: AuditDecision,
    /// Who asked: the name of a key, the name of a user, or the subject of a token. Absent if nobody was identified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// From which address it came; none over NATS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The subject of a command; the action on a dead letter, its name and its subject; `sql.ask` and the hash of a statement; or the method and
    /// path of any other request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub what: Option<String>,
    /// The command's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command_id: Option<String>,
    /// The command's position in COMMANDS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// How many requests of one kind this record stands for. Absent means one. If there are several, `time`,
    /// `address` and `what` are those of the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// When the last of them came, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Timestamp>,
}

/// The end of a chain that grows: number and hash of its last record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditChain {
    number: u64,
    hash: String,
}

impl AuditChain {
    /// The chain of a run, without a record yet.
    pub fn new(run: &str) -> Self {
        Self { number: 0, hash: hash(run.as_bytes()) }
    }

    /// How many records it has.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The hash of its last record.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Adds a record and returns its line. The chain itself sets the record's number and the hash of the record before it.
    pub fn add(&mut self, mut record: AuditRecord) -> String {
        record.number = self.number + 1;
        record.previous.clone_from(&self.hash);
        let line = serde_json::to_string(&record).expect("texts, numbers and a time are JSON");
        self.number = record.number;
        self.hash = hash(line.as_bytes());
        line
    }

    /// Continues the chain with a record that was read, if that record is the next one.
    fn follow(&mut self, record: &AuditRecord, line: &[u8]) -> Result<(), &'static str> {
        let found = if self.number.checked_add(1) != Some(record.number) {
            Err("another number than the next one")
        } else if record.previous != self.hash {
            Err("another hash of the record before it than that record has")
        } else {
            Ok(())
        };
        // After a break, the chain continues with the record that is there. Otherwise every later record would be reported, too.
        *self = Self { number: record.number, hash: hash(line) };
        found
    }
}

fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// The records of a message with their lines.
///
/// # Errors
/// The number of the first line that is not a record, counted from 1.
pub fn records(message: &StoredMessage) -> Result<Vec<(AuditRecord, &[u8])>, usize> {
    let lines = message.payload.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let read = |(number, line)| serde_json::from_slice(line).map(|record| (record, line)).map_err(|_| number);
    (1..).zip(lines).map(read).collect()
}

/// A record that was there earlier: the end of a chain, as an earlier check printed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditHead {
    /// The run.
    pub run: String,
    /// The record's number.
    pub number: u64,
    /// Its hash.
    pub hash: String,
}

impl std::fmt::Display for AuditHead {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}:{}:{}", self.run, self.number, self.hash)
    }
}

impl std::str::FromStr for AuditHead {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split(':').collect();
        let [run, number, hash] = parts.as_slice() else { return Err("a head is <run>:<number>:<hash>") };
        let number = number.parse().map_err(|_| "the number of a head is a whole number")?;
        Ok(Self { run: (*run).to_owned(), number, hash: (*hash).to_owned() })
    }
}

/// One chain, as far as it has been read.
#[derive(Debug)]
struct Read {
    chain: AuditChain,
    has_ended: bool,
}

/// Reads AUDIT in order and reports what is wrong with it.
#[derive(Debug)]
pub struct AuditCheck {
    /// The sequence that comes next.
    next: u64,
    /// Whether an operator's limit of age or size has removed the beginning of the stream. If so, chains may begin with any record.
    is_cut: bool,
    chains: BTreeMap<String, Read>,
    heads: Vec<AuditHead>,
    records: u64,
    faults: Vec<String>,
}

impl AuditCheck {
    /// Begins to read a stream whose first message is at `first`. The records named by `heads` must be there.
    pub fn new(first: u64, heads: Vec<AuditHead>) -> Self {
        let (chains, faults) = (BTreeMap::new(), Vec::new());
        Self { next: first.max(1), is_cut: first > 1, chains, heads, records: 0, faults }
    }

    /// Takes the next message.
    pub fn take(&mut self, message: &StoredMessage) {
        let sequence = message.sequence;
        if sequence != self.next {
            self.faults.push(format!(
                "{AUDIT} goes on at {sequence} and not at {}: messages are missing",
                self.next
            ));
        }
        self.next = sequence + 1;
        let run = message.subject.strip_prefix(AUDIT_PREFIX).and_then(|rest| rest.strip_prefix('.'));
        let Some(run) = run else {
            self.faults
                .push(format!("{AUDIT} {sequence} is on {}, which is no subject of a run", message.subject));
            return;
        };
        match records(message) {
            Ok(records) => {
                for (record, line) in records {
                    self.take_record(sequence, run, &record, line);
                }
            }
            Err(line) => self.faults.push(format!("{AUDIT} {sequence}, line {line}, is no record")),
        }
    }

    fn take_record(&mut self, sequence: u64, run: &str, record: &AuditRecord, line: &[u8]) {
        self.records += 1;
        let place = format!("{AUDIT} {sequence}, record {} of run {run}", record.number);
        let is_cut = self.is_cut;
        let read = self.chains.entry(run.to_owned()).or_insert_with(|| {
            let mut chain = AuditChain::new(run);
            if is_cut {
                chain = AuditChain { number: record.number.saturating_sub(1), hash: record.previous.clone() };
            }
            Read { chain, has_ended: false }
        });
        if read.has_ended {
            self.faults.push(format!("{place}, stands behind the end of its chain"));
        }
        if let Err(wrong) = read.chain.follow(record, line) {
            self.faults.push(format!("{place}, has {wrong}: a record was removed, added or changed"));
        }
        read.has_ended |= record.decision == AuditDecision::Ended;
        let chain = &read.chain;
        self.heads.retain(|head| {
            let is_here = head.run == run && head.number == record.number;
            if is_here && head.hash != chain.hash {
                self.faults.push(format!("{place}, is another one than was there before"));
            }
            !is_here
        });
    }

    /// The result, when `last` is the stream's last sequence.
    pub fn end(mut self, last: u64) -> AuditFindings {
        if self.next <= last {
            self.faults.push(format!("{AUDIT} ends at {last}, and nothing is there from {} on", self.next));
        }
        for head in &self.heads {
            self.faults.push(format!(
                "record {} of run {}, which was there before, is missing",
                head.number, head.run
            ));
        }
        let heads = self.chains.into_iter().map(|(run, Read { chain, has_ended })| {
            let AuditChain { number, hash } = chain;
            (AuditHead { run, number, hash }, has_ended)
        });
        AuditFindings { records: self.records, heads: heads.collect(), faults: self.faults }
    }
}

/// What was found in AUDIT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditFindings {
    /// How many records there are.
    pub records: u64,
    /// The last record of each chain, and whether the chain has come to its end.
    pub heads: Vec<(AuditHead, bool)>,
    /// What is wrong, a sentence each.
    pub faults: Vec<String>,
}

impl AuditRecord {
    /// A record with the current time, to be added to a chain.
    pub fn new(time: Timestamp, decision: AuditDecision) -> Self {
        Self {
            number: 0,
            previous: String::new(),
            time,
            decision,
            who: None,
            address: None,
            what: None,
            command_id: None,
            position: None,
            code: None,
            count: None,
            last: None,
        }
    }

    /// When the last request came for which it stands.
    pub fn until(&self) -> Timestamp {
        self.last.unwrap_or(self.time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stored_message::Headers;

    /// Messages of two runs, with two records each.
    fn stored() -> Vec<StoredMessage> {
        let mut chains = [("01A", AuditChain::new("01A")), ("01B", AuditChain::new("01B"))];
        let mut messages = Vec::new();
        for sequence in 1..=6 {
            let (run, chain) = &mut chains[usize::from(sequence % 2 == 0)];
            let mut record = AuditRecord::new(Timestamp::UNIX_EPOCH, AuditDecision::Stored);
            record.position = Some(sequence);
            let (first, second) = (chain.add(record.clone()), chain.add(record));
            messages.push(StoredMessage {
                subject: audit_subject(run),
                sequence,
                stored_at: Timestamp::UNIX_EPOCH,
                headers: Headers::new(),
                payload: format!("{first}\n{second}\n").into(),
            });
        }
        messages
    }

    fn findings(messages: &[StoredMessage], heads: Vec<AuditHead>) -> AuditFindings {
        let first = messages.first().map_or(1, |message| message.sequence);
        let mut check = AuditCheck::new(first, heads);
        messages.iter().for_each(|message| check.take(message));
        check.end(messages.last().map_or(0, |message| message.sequence))
    }

    fn faults(messages: &[StoredMessage]) -> Vec<String> {
        findings(messages, Vec::new()).faults
    }

    /// As whoever copies a stream without some of it would store the rest.
    fn numbered_anew(mut messages: Vec<StoredMessage>) -> Vec<StoredMessage> {
        for (sequence, message) in (1..).zip(&mut messages) {
            message.sequence = sequence;
        }
        messages
    }

    #[test]
    fn whatever_is_removed_added_or_changed_between_is_found() {
        let whole = stored();
        let found = findings(&whole, Vec::new());
        assert_eq!((found.records, found.faults), (12, Vec::<String>::new()));
        for place in 0..whole.len() {
            let mut without = whole.clone();
            without.remove(place);
            if place > 0 && place + 1 < whole.len() {
                assert!(!faults(&without).is_empty(), "a gap at {place}");
            }
            // The ends of chains are what heads are for.
            if place < 4 {
                assert!(!faults(&numbered_anew(without)).is_empty(), "without {place}");
            }
            let mut changed = whole.clone();
            let text = String::from_utf8(whole[place].payload.to_vec()).unwrap();
            changed[place].payload = text.replacen("stored", "denied", 1).into();
            assert!(!faults(&changed).is_empty(), "{place} changed");
            let mut shortened = whole.clone();
            let first_line = text.lines().next().unwrap().to_owned();
            shortened[place].payload = first_line.into();
            assert!(place >= 4 || !faults(&shortened).is_empty(), "{place} shortened");
            let mut twice = whole.clone();
            twice.insert(place, whole[place].clone());
            assert!(!faults(&numbered_anew(twice)).is_empty(), "{place} twice");
        }
        let mut exchanged = whole.clone();
        exchanged.swap(0, 2);
        assert!(!faults(&numbered_anew(exchanged)).is_empty());
    }

    #[test]
    fn records_of_before_and_gathered_ones_are_read() {
        let line = r#"{"number":7,"previous":"00","time":"2026-11-30T09:00:00Z","decision":"denied","code":"key-unknown","count":990"#;
        let [before, now] = [format!("{line}}}"), format!(r#"{line},"last":"2026-11-30T09:10:00Z"}}"#)]
            .map(|line| (serde_json::from_str::<AuditRecord>(&line).unwrap(), line));
        assert_eq!((before.0.count, before.0.until()), (Some(990), before.0.time));
        assert_eq!(now.0.until().to_string(), "2026-11-30T09:10:00Z");
        for (record, line) in [before, now] {
            assert_eq!(serde_json::to_string(&record).unwrap(), line, "what is hashed is what was written");
        }
    }

    #[test]
    fn heads_that_were_kept_find_what_is_missing_at_the_end() {
        let whole = stored();
        let heads: Vec<AuditHead> =
            findings(&whole, Vec::new()).heads.into_iter().map(|(head, _)| head).collect();
        assert_eq!(findings(&whole, heads.clone()).faults, Vec::<String>::new());
        assert_eq!(heads[0].to_string().parse(), Ok(heads[0].clone()));
        for missing in 1..=6 {
            let rest = &whole[..whole.len() - missing];
            assert!(!findings(rest, heads.clone()).faults.is_empty(), "without the last {missing}");
        }
        let other = vec![AuditHead { hash: hash(b"other"), ..heads[0].clone() }];
        assert_eq!(findings(&whole, other).faults.len(), 1);
        for text in ["", "a:b", "a:b:c", "a:1:c:d"] {
            assert!(text.parse::<AuditHead>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_stream_whose_beginning_has_aged_out_is_whole_from_there_on() {
        let whole = stored();
        assert_eq!(faults(&whole[2..]), Vec::<String>::new());
        let mut changed = whole[2..].to_vec();
        changed.remove(1);
        assert!(!faults(&changed).is_empty());
        let mut foreign = whole.clone();
        foreign[3].payload = "{}".into();
        assert!(!faults(&foreign).is_empty());
    }
}
