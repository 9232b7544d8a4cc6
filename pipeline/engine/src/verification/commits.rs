//! The commits of EVENTS, aggregate by aggregate: whole, chained, without gaps, in the order of COMMANDS.

use std::{collections::BTreeMap, error::Error};

use super::{Check, Violation};
use crate::contract::{
    commit::{COMMIT_HASH_LENGTH, CommittedCommand, StoredCommit},
    stored_message::StoredMessage,
    stream_names::EVENTS,
    subject::StreamId,
};

/// What EVENTS holds.
#[derive(Debug, Default)]
pub(super) struct Commits {
    /// All of them, in order.
    pub(super) stored: Vec<StoredCommit>,
    /// Where each command position takes effect first: index into `stored`.
    pub(super) by_position: BTreeMap<u64, usize>,
}

/// How far an aggregate's history has come.
#[derive(Debug, Default)]
pub(super) struct Head {
    version: u64,
    last_position: u64,
    hash: Option<[u8; COMMIT_HASH_LENGTH]>,
}

impl Commits {
    pub(super) fn read(events: &[StoredMessage], violations: &mut Vec<Violation>) -> Self {
        let mut commits = Self::default();
        let mut heads: BTreeMap<StreamId, Head> = BTreeMap::new();
        let mut commit_ids = BTreeMap::new();
        for message in events {
            let stored = match StoredCommit::from_stored(message) {
                Ok(stored) => stored,
                Err(error) => {
                    let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
                    let detail = format!("{error}{cause}");
                    violations.push(Violation::new(Check::Whole, EVENTS, message.sequence, detail));
                    continue;
                }
            };
            if let Some(first) = commit_ids.insert(stored.commit.commit_id.clone(), message.sequence) {
                let detail = format!("commit {} stands at {first} already", stored.commit.commit_id);
                violations.push(Violation::new(Check::OneEffect, EVENTS, message.sequence, detail));
            }
            check_commit(&stored, heads.entry(stored.stream_id.clone()).or_default(), violations);
            commits.take(stored, violations);
        }
        commits
    }

    fn take(&mut self, stored: StoredCommit, violations: &mut Vec<Violation>) {
        let index = self.stored.len();
        for command in &stored.commit.commands {
            let first = *self.by_position.entry(command.position).or_insert(index);
            if first != index {
                let first = self.stored.get(first).map_or(0, |stored| stored.broker_sequence);
                let detail =
                    format!("the command of position {} took effect at {first} already", command.position);
                violations.push(Violation::new(Check::OneEffect, EVENTS, stored.broker_sequence, detail));
            }
        }
        self.stored.push(stored);
    }

    /// The commit in which the command of `position` takes effect.
    pub(super) fn of_position(&self, position: u64) -> Option<(&StoredCommit, &CommittedCommand)> {
        let stored = self.stored.get(*self.by_position.get(&position)?)?;
        let command = stored.commit.commands.iter().find(|command| command.position == position)?;
        Some((stored, command))
    }
}

pub(super) fn check_commit(stored: &StoredCommit, head: &mut Head, violations: &mut Vec<Violation>) {
    let commit = &stored.commit;
    let stream_id = &stored.stream_id;
    let mut report = |check, detail: String| {
        violations.push(Violation::new(check, EVENTS, stored.broker_sequence, detail));
    };
    if commit.events.is_empty() || commit.commands.is_empty() {
        report(Check::Whole, format!("the commit of {stream_id} holds no events or no commands"));
        return;
    }
    if commit.first_version != head.version + 1 {
        let (found, expected) = (commit.first_version, head.version + 1);
        report(Check::Versions, format!("{stream_id} goes on with version {found} instead of {expected}"));
    }
    if commit.previous.as_deref() != head.hash.as_ref().map(<[u8; COMMIT_HASH_LENGTH]>::as_slice) {
        report(Check::Whole, format!("`previous` is not the hash of the commit before of {stream_id}"));
    }
    for (index, command) in (0_u32..).zip(&commit.commands) {
        if command.position <= head.last_position {
            let (position, last) = (command.position, head.last_position);
            report(Check::Order, format!("{stream_id}: position {position} takes effect after {last}"));
        }
        head.last_position = head.last_position.max(command.position);
        if !commit.events.iter().any(|event| event.command == index) {
            report(Check::Whole, format!("command {} of {stream_id} caused none of the events", command.id));
        }
    }
    if !commit.events.is_sorted_by_key(|event| event.command) {
        report(Check::Order, format!("the events of {stream_id} are not in the order of their commands"));
    }
    head.version = commit.last_version();
    head.hash = Some(stored.hash);
}
