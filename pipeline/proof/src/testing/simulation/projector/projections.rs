//! Two projections that notice every message that is missing, doubled or out of order.

use millstream_contract::{
    commit::{EventEnvelope, StoredCommit},
    stored_message::StoredMessage,
};
use millstream_domain::{
    projection::{Projection, ProjectionError, Rows},
    testing::memory_rows::MemoryRows,
};
use millstream_read_side::projection_runner::ProjectionSet;
use millstream_store::read_store::{ProjectionId, ReadStore, TableName};
use serde::{Deserialize, Serialize};

/// What a row records about the events it has seen.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Seen {
    events: u64,
    chain: u64,
}

impl Seen {
    fn add(&mut self, envelope: &EventEnvelope<'_>) {
        self.events += 1;
        for byte in envelope.data {
            self.chain = (self.chain ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// A projection of the context `bank`, of the accounts or of everything.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ledger {
    name: &'static str,
    tables: &'static [&'static str],
    accounts_only: bool,
    version: u32,
}

const ACCOUNTS: Ledger =
    Ledger { name: "accounts", tables: &["accounts", "accounts.open"], accounts_only: true, version: 1 };
const ALL: Ledger = Ledger { name: "all", tables: &["all", "all.open"], accounts_only: false, version: 1 };

impl Projection for Ledger {
    fn context(&self) -> &'static str {
        "bank"
    }

    fn name(&self) -> &'static str {
        self.name
    }

    fn version(&self) -> u32 {
        self.version
    }

    fn views(&self) -> &'static [&'static str] {
        self.tables
    }

    fn handles(&self, aggregate: &str) -> bool {
        !self.accounts_only || aggregate == "account"
    }

    fn apply(&self, envelope: &EventEnvelope<'_>, rows: &mut (dyn Rows + '_)) -> Result<(), ProjectionError> {
        let [seen_in, open_in] = self.tables else { return Ok(()) };
        let key = envelope.stream_id.id();
        let mut seen: Seen = rows.read(seen_in, key)?.unwrap_or_default();
        seen.add(envelope);
        rows.write(seen_in, key, &seen);
        // A row that is added and removed repeatedly.
        if rows.get(open_in, key)?.is_some() {
            rows.delete(open_in, key);
        } else {
            rows.write(open_in, key, &envelope.broker_sequence);
        }
        Ok(())
    }
}

impl Ledger {
    pub(super) fn id(self) -> ProjectionId {
        ProjectionId::of_context("bank", self.name)
    }

    /// The rows that these messages should give, as [`ReadStore`] dumps them.
    fn expected(self, messages: &[StoredMessage]) -> Result<Vec<String>, ProjectionError> {
        let mut rows = MemoryRows::new();
        for stored in messages.iter().filter_map(|message| StoredCommit::from_stored(message).ok()) {
            if self.handles(stored.stream_id.aggregate()) {
                for envelope in stored.envelopes() {
                    self.apply(&envelope, &mut rows)?;
                }
            }
        }
        let mut lines = Vec::new();
        for table in self.tables {
            let name = TableName::new(&self.id(), table);
            for (key, value) in rows.scan(table, "")? {
                let value = String::from_utf8_lossy(&value).into_owned();
                lines.push(format!(r#"{{"table":"{}","key":"{key}","value":{value}}}"#, name.as_str()));
            }
        }
        lines.sort();
        Ok(lines)
    }

    /// What is wrong with the rows, if anything.
    pub(super) fn disagreement(self, store: &ReadStore, ever: &[Vec<StoredMessage>]) -> Option<String> {
        let wrong = |what: String| Some(format!("C6 checkpoint: {}: {what}", self.name));
        let read = || {
            let snapshot = store.snapshot()?;
            let mut dump = Vec::new();
            snapshot.dump(&mut dump)?;
            Ok::<_, millstream_store::read_store::StoreError>((snapshot.checkpoint(&self.id())?, dump))
        };
        let (checkpoint, dump) = match read() {
            Ok(read) => read,
            Err(error) => return wrong(format!("the file cannot be read: {error}")),
        };
        let prefix = format!(r#"{{"table":"bank.{}."#, self.name);
        let dump = String::from_utf8_lossy(&dump).into_owned();
        let mut rows: Vec<&str> = dump.lines().filter(|line| line.starts_with(&prefix)).collect();
        rows.sort_unstable();
        let (sequence, id) = checkpoint.map_or((0, String::new()), |it| (it.sequence, it.message_id));
        let mut folds = ever.iter().filter_map(|history| {
            let end = history.partition_point(|message| message.sequence <= sequence);
            let before = history.get(..end)?;
            let last = before.last().and_then(|message| StoredCommit::from_stored(message).ok());
            let named =
                last.is_some_and(|last| *last.commit.commit_id == *id && last.broker_sequence == sequence);
            (named || sequence == 0).then(|| self.expected(before))
        });
        if folds.any(|fold| fold.is_ok_and(|fold| fold == rows)) {
            return None;
        }
        wrong(format!("the rows are not those of {id:?} at {sequence}: {rows:?}"))
    }
}

/// The projections of one release.
pub(super) struct Projected {
    /// The version of one of them. The version of the other never changes, so the two stand at different places after a change.
    pub(super) version: u32,
}

/// The projections of a release.
pub(super) fn projected(version: u32) -> Projected {
    Projected { version }
}

impl Projected {
    pub(super) fn each(&self) -> impl Iterator<Item = Ledger> + use<> {
        [ACCOUNTS, Ledger { version: self.version, ..ALL }].into_iter()
    }

    pub(super) fn set(&self) -> ProjectionSet {
        let projections = self.each().map(|each| Box::new(each) as Box<dyn Projection>).collect();
        ProjectionSet::new(projections, Vec::new(), &[]).expect("their names differ")
    }

    /// The progress of the one that is furthest behind.
    pub(super) fn reached(&self, store: &ReadStore) -> u64 {
        let Ok(snapshot) = store.snapshot() else { return 0 };
        let reached =
            |each: Ledger| snapshot.checkpoint(&each.id()).ok().flatten().map_or(0, |it| it.sequence);
        self.each().map(reached).min().unwrap_or(0)
    }
}
