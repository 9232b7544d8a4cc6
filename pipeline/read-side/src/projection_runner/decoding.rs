//! Messages on their way from a source to the writer. A message is decoded once, and only if a projection wants it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use millstream_contract::{
    commit::{CommitError, StoredCommit, content_digest},
    outcome::{OutcomeRecord, OutcomeRecordError},
    stored_message::StoredMessage,
    stream_names::OUTCOMES,
};

use super::{
    projection_set::{Input, Member},
    status::StatusBoard,
};

/// The contents of a message.
pub(super) enum Content {
    /// A commit that at least one projection wants.
    Commit(Result<StoredCommit, CommitError>),
    /// A record of outcomes.
    Record(Result<OutcomeRecord, OutcomeRecordError>),
    /// A commit that no projection wants, which is not decoded, or a message that was set aside. It still moves the checkpoints.
    Unwanted,
}

/// A message, and the projections that want it.
pub(super) struct Item {
    pub(super) message: StoredMessage,
    /// Their indices in the set.
    pub(super) wanted_by: Arc<[usize]>,
    pub(super) content: Content,
}

impl Item {
    /// Whether it is wanted and is no commit.
    pub(super) fn is_no_commit(&self) -> bool {
        matches!(self.content, Content::Commit(Err(_)))
    }

    /// Lets projections pass over it.
    pub(super) fn pass_over(&mut self) {
        self.content = Content::Unwanted;
    }

    /// The id of the message, which a checkpoint names so that another message at the same sequence is recognised.
    pub(super) fn message_id(&self) -> String {
        match &self.content {
            Content::Commit(Ok(stored)) => stored.commit.commit_id.to_string(),
            Content::Record(Ok(record)) => record.record_id.to_string(),
            _ => message_id(&self.message),
        }
    }
}

/// Which messages that are no commits matter: those that a projection reaches. Whether one was set aside is a question to the server,
/// so it is asked about these alone.
pub(super) struct Reach<'a> {
    statuses: &'a StatusBoard,
    /// The projections that halt at a message in front.
    ended: BTreeSet<usize>,
}

impl<'a> Reach<'a> {
    /// Of the projections on this board, in messages that are looked at in order.
    pub(super) fn new(statuses: &'a StatusBoard) -> Self {
        Self { statuses, ended: BTreeSet::new() }
    }

    /// Whether a projection comes to this message that is no commit.
    pub(super) fn covers(&self, item: &Item) -> bool {
        item.is_no_commit() && item.wanted_by.iter().any(|member| self.comes_to(*member, item))
    }

    /// The message was not set aside, so that every projection which comes to it halts there.
    pub(super) fn ends_at(&mut self, item: &Item) {
        let halting = item.wanted_by.iter().filter(|member| self.comes_to(**member, item));
        let halting: Vec<usize> = halting.copied().collect();
        self.ended.extend(halting);
    }

    /// A projection that is beyond the message has passed over it, and is not fed with it.
    fn comes_to(&self, member: usize, item: &Item) -> bool {
        !self.ended.contains(&member)
            && !self.statuses.is_halted(member)
            && self.statuses.sequence(member) < item.message.sequence
    }
}

/// The commit id of a commit, the record id of an outcome record, and a hash of anything else.
pub(super) fn message_id(message: &StoredMessage) -> String {
    StoredCommit::from_stored(message)
        .map(|stored| stored.commit.commit_id)
        .or_else(|_| OutcomeRecord::from_stored(message).map(|record| record.record_id))
        .map_or_else(|_| content_digest(&message.payload), |id| id.to_string())
}

/// Decodes the messages of one reader for the projections that it feeds.
pub(super) enum ItemSorter {
    Commits(CommitSorter),
    Records { members: Arc<[usize]> },
}

impl ItemSorter {
    /// For the messages of `stream`, and the projections with these indices in the set.
    pub(super) fn new(stream: &str, members: &[usize]) -> Self {
        match stream {
            OUTCOMES => Self::Records { members: members.into() },
            _ => Self::Commits(CommitSorter::new(members)),
        }
    }

    pub(super) fn item(&mut self, members: &[Member], message: StoredMessage) -> Item {
        match self {
            Self::Commits(sorter) => sorter.item(members, message),
            Self::Records { members } => record_item(members, message),
        }
    }
}

/// Finds out which projections want a commit of EVENTS.
pub(super) struct CommitSorter {
    /// The projections that are fed, by their indices in the set.
    fed: Box<[usize]>,
    /// The projections by the part of the subject before the aggregate's id.
    wanted_by: HashMap<Box<str>, Arc<[usize]>>,
    nobody: Arc<[usize]>,
}

impl CommitSorter {
    pub(super) fn new(fed: &[usize]) -> Self {
        Self { fed: fed.into(), wanted_by: HashMap::new(), nobody: Arc::from([]) }
    }

    pub(super) fn item(&mut self, members: &[Member], message: StoredMessage) -> Item {
        let wanted_by = self.wanted_by(members, &message.subject);
        let content = match wanted_by.is_empty() {
            true => Content::Unwanted,
            false => Content::Commit(StoredCommit::from_stored(&message)),
        };
        Item { message, wanted_by, content }
    }

    fn wanted_by(&mut self, members: &[Member], subject: &str) -> Arc<[usize]> {
        let Some((kind, _id)) = subject.rsplit_once('.') else { return Arc::clone(&self.nobody) };
        if let Some(known) = self.wanted_by.get(kind) {
            return Arc::clone(known);
        }
        let wanted_by: Arc<[usize]> = who_wants(&self.fed, members, kind).into();
        self.wanted_by.insert(kind.into(), Arc::clone(&wanted_by));
        wanted_by
    }
}

/// `kind` is `evt.<context>.<aggregate>`.
fn who_wants(fed: &[usize], members: &[Member], kind: &str) -> Vec<usize> {
    let mut tokens = kind.split('.').skip(1);
    let (Some(context), Some(aggregate)) = (tokens.next(), tokens.next()) else { return Vec::new() };
    let wants = |index: &usize| match members.get(*index).map(|member| &member.input) {
        Some(Input::Events(projection)) => projection.reads(context, aggregate),
        _ => false,
    };
    fed.iter().copied().filter(wants).collect()
}

/// A record of outcomes, for all projections of outcomes.
fn record_item(members: &Arc<[usize]>, message: StoredMessage) -> Item {
    let content = Content::Record(OutcomeRecord::from_stored(&message));
    Item { message, wanted_by: Arc::clone(members), content }
}
