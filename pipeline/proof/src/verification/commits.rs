//! Checks the commits of EVENTS, aggregate by aggregate: whole, chained, without gaps, and in the order of COMMANDS.

use std::collections::BTreeMap;

use millstream_contract::{
    commit::{COMMIT_HASH_LENGTH, CommittedCommand, StoredCommit, commit_hash},
    stored_message::StoredMessage,
    stream_names::EVENTS,
    subject::StreamId,
};

use super::{Check, Violation, foreign_messages::Strangers};

/// The content of EVENTS.
#[derive(Debug, Default)]
pub(super) struct Commits {
    /// All of them, in order.
    pub(super) stored: Vec<StoredCommit>,
    /// Where each command first takes effect on its own aggregate, by position: index into `stored`.
    pub(super) by_position: BTreeMap<u64, usize>,
    /// Where it takes effect on partners: indexes into `stored`.
    by_partner_position: BTreeMap<u64, Vec<usize>>,
}

/// How far an aggregate's history has come.
#[derive(Debug, Default)]
pub(super) struct Head {
    version: u64,
    last_position: u64,
    hash: Option<[u8; COMMIT_HASH_LENGTH]>,
}

impl Head {
    /// A message that is not a commit follows the others. The next commit, if any, names its hash.
    pub(super) fn pass_over(&mut self, message: &StoredMessage) {
        self.hash = Some(commit_hash(&message.payload));
    }
}

impl Commits {
    pub(super) fn read(events: &[StoredMessage], violations: &mut Vec<Violation>) -> Self {
        let mut commits = Self::default();
        let mut heads: BTreeMap<StreamId, Head> = BTreeMap::new();
        let mut commit_ids = BTreeMap::new();
        let mut strangers = Strangers::default();
        for message in events {
            let stored = match StoredCommit::from_stored(message) {
                Ok(stored) => stored,
                Err(error) => {
                    if let Ok(stream_id) = StreamId::from_event_subject(&message.subject) {
                        heads.entry(stream_id).or_default().pass_over(message);
                    }
                    strangers.meet(message, &error);
                    continue;
                }
            };
            strangers.look(message);
            if let Some(first) = commit_ids.insert(stored.commit.commit_id.clone(), message.sequence) {
                let detail = format!("commit {} stands at {first} already", stored.commit.commit_id);
                violations.push(Violation::new(Check::OneEffect, EVENTS, message.sequence, detail));
            }
            check_commit(&stored, heads.entry(stored.stream_id.clone()).or_default(), violations);
            commits.take(stored, violations);
        }
        violations.extend(strangers.violations());
        commits.check_partners(violations);
        commits
    }

    fn take(&mut self, stored: StoredCommit, violations: &mut Vec<Violation>) {
        let index = self.stored.len();
        for command in &stored.commit.commands {
            if command.partner_of.is_some() {
                self.by_partner_position.entry(command.position).or_default().push(index);
                continue;
            }
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

    /// A command that changes several aggregates changes all of them or none. Its commits on partners stand directly before the one on its own
    /// aggregate, and name that aggregate.
    fn check_partners(&self, violations: &mut Vec<Violation>) {
        for (&position, indexes) in &self.by_partner_position {
            let own = self.by_position.get(&position).and_then(|index| self.stored.get(*index));
            let after = indexes.iter().filter_map(|index| self.stored.get(index + 1));
            for (stored, after) in self.partners_of(position).zip(after.map(Some).chain([None])) {
                let own_id = own.map(|own| own.stream_id.as_str());
                let named = stored.commit.commands.iter().find(|command| command.position == position);
                let adjacent = after.is_some_and(|after| {
                    after.broker_sequence == stored.broker_sequence + 1
                        && after.commit.commands.iter().any(|command| command.position == position)
                });
                if own_id.is_none()
                    || named.and_then(|command| command.partner_of.as_deref()) != own_id
                    || !adjacent
                {
                    let detail = format!(
                        "the command of position {position} changes {} here, and what it does to its own aggregate does not follow at once",
                        stored.stream_id
                    );
                    violations.push(Violation::new(Check::OneEffect, EVENTS, stored.broker_sequence, detail));
                }
            }
        }
    }

    /// The commits in which the command of `position` takes effect on partners, in their order.
    pub(super) fn partners_of(&self, position: u64) -> impl Iterator<Item = &StoredCommit> {
        let indexes = self.by_partner_position.get(&position).map(Vec::as_slice).unwrap_or_default();
        indexes.iter().filter_map(|index| self.stored.get(*index))
    }

    /// The commit in which the command of `position` takes effect on its own aggregate.
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
    head.hash = Some(stored.hash());
}
