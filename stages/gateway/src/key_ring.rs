//! Who comes: the keys and users of the file, which is read again when it changes, so that a key is revoked by taking it out.

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::http::StatusCode;
use jiff::Timestamp;
use millstream_contract::{
    api_key::{ApiKeys, ApiKeysError, Grants, KeyHash},
    error_text::one_line,
    exit_code::{ExitCode, Failure},
    subject::{CommandAddress, StreamId},
};
use millstream_runtime::{
    file_work::{do_file_work, read_regular_file},
    health::Condition,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::problem::Problem;

/// How often the file is looked at. A change takes two looks, so that a revoked key is refused within a second.
const LOOK_INTERVAL: Duration = Duration::from_millis(400);
/// How often it is looked whether a key has expired that is in use: the clock may be set.
const CLOCK_LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// Who sends where no keys are asked for.
const ANYBODY: &str = "local";

/// Why the file of keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyRingError {
    /// It cannot be read.
    #[error("gateway.keys_file {path} cannot be read")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is none of keys.
    #[error("gateway.keys_file {path} is no file of keys")]
    Form {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// Its keys cannot stand together.
    #[error("gateway.keys_file {path} cannot be used")]
    Keys {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: ApiKeysError,
    },
}

/// Whether the gateway could start with the keys of a file.
///
/// # Errors
/// [`KeyRingError`].
pub(crate) fn check_keys_file(path: &Path) -> Result<(), KeyRingError> {
    let text = read_regular_file(path);
    let text = text.map_err(|source| KeyRingError::File { path: path.to_owned(), source })?;
    parse(path, &text).map(drop)
}

impl Failure for KeyRingError {
    fn exit_code(&self) -> ExitCode {
        ExitCode::Configuration
    }
}

/// Somebody whose request was let in.
#[derive(Debug, Clone)]
pub(crate) struct Principal {
    name: Arc<str>,
    /// None where no keys are asked for, and everything is granted.
    grants: Option<Arc<Grants>>,
}

impl Principal {
    /// The actor of what it sends.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether it may send a command.
    ///
    /// # Errors
    /// A [`Problem`] when it may not.
    pub(crate) fn check_may_send(&self, address: &CommandAddress) -> Result<(), Problem> {
        if self.grants.as_ref().is_none_or(|grants| grants.command(address)) {
            return Ok(());
        }
        let detail = format!("{address} is not granted to {}", self.name);
        Err(Problem::new(StatusCode::FORBIDDEN, "command-not-granted", detail))
    }

    /// Whether it may ask for the row of a key.
    pub(crate) fn may_read(&self, context: &str, view: &str, key: &str) -> bool {
        self.grants.as_ref().is_none_or(|grants| grants.row(context, view, key))
    }

    /// Whether it may ask for some row of a view.
    pub(crate) fn may_ask(&self, context: &str, view: &str) -> bool {
        self.grants.as_ref().is_none_or(|grants| grants.some_row(context, view))
    }

    /// Whether it may give a command to some aggregate.
    pub(crate) fn may_give(&self, context: &str, aggregate: &str, command: &str) -> bool {
        self.grants.as_ref().is_none_or(|grants| grants.some_command([context, aggregate, command]))
    }

    /// With what the keys of a list begin that it may ask for; empty for any.
    pub(crate) fn first_prefix(&self, context: &str, view: &str) -> Option<&str> {
        self.grants.as_ref().map_or(Some(""), |grants| grants.first_prefix(context, view))
    }

    /// Whether it may read the events of an aggregate.
    pub(crate) fn may_read_history(&self, stream_id: &StreamId) -> bool {
        self.grants.as_ref().is_none_or(|grants| grants.history(stream_id))
    }

    /// Whether it may ask for all rows whose keys begin with `prefix`.
    pub(crate) fn may_list(&self, context: &str, view: &str, prefix: &str) -> bool {
        self.grants.as_ref().is_none_or(|grants| grants.list(context, view, prefix))
    }
}

/// Why somebody was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stranger {
    /// There was no key.
    NoKey,
    /// The key is not there, or no longer.
    UnknownKey,
    /// The key's time is over.
    Expired,
}

/// A key that was let in, for what goes on for longer than a request; none where no keys are asked for.
#[derive(Debug, Clone)]
pub(crate) struct Admission(Option<(KeyHash, watch::Receiver<Known>)>);

/// Why a key is let in no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It is not valid any more.
    Stranger(Stranger),
    /// It grants less than before.
    NotGranted,
}

impl Admission {
    /// Who `principal` is by now: what its key grants may be less than when it was let in, or nothing. A body may take long to come.
    pub(crate) fn still(&self, principal: Principal) -> Result<Principal, Stranger> {
        let Some((hash, known)) = &self.0 else { return Ok(principal) };
        known.borrow().principal(hash, Timestamp::now())
    }

    /// Ends when the key is valid no longer, or what it grants is not enough for `is_granted`.
    pub(crate) async fn ended(&mut self, is_granted: impl Fn(&Principal) -> bool) -> Ended {
        let Some((hash, known)) = &mut self.0 else { return std::future::pending().await };
        loop {
            let expires = match known.borrow_and_update().by_key.get(hash) {
                None => return Ended::Stranger(Stranger::UnknownKey),
                Some((principal, _)) if !is_granted(principal) => return Ended::NotGranted,
                Some((_, expires)) => *expires,
            };
            let left = Duration::try_from(expires.duration_since(Timestamp::now())).unwrap_or_default();
            if left.is_zero() {
                return Ended::Stranger(Stranger::Expired);
            }
            let look = tokio::time::sleep(left.min(CLOCK_LOOK_INTERVAL));
            tokio::select! {
                // When the file is followed no more, the gateway is stopping.
                Ok(()) = known.changed() => {}
                () = look => {}
            }
        }
    }
}

/// Who there is.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// Those with a key, and until when it is valid.
    by_key: HashMap<KeyHash, (Principal, Timestamp)>,
    /// Users of NATS, by name.
    users: HashMap<Arc<str>, Principal>,
}

impl Known {
    /// Who has a key, at the time `now`.
    fn principal(&self, hash: &KeyHash, now: Timestamp) -> Result<Principal, Stranger> {
        let (principal, expires) = self.by_key.get(hash).ok_or(Stranger::UnknownKey)?;
        if now < *expires { Ok(principal.clone()) } else { Err(Stranger::Expired) }
    }
}

/// The keys there are. Clones share one state.
#[derive(Debug, Clone)]
pub(crate) enum KeyRing {
    /// Nobody is asked for a key: only programs on this machine can come.
    Open,
    /// Everybody is.
    Closed(watch::Receiver<Known>),
}

impl KeyRing {
    /// Reads the file, if there is one, and again whenever it changes, until `stop`. What cannot be read later leaves the keys as they
    /// are, and `condition` does not hold.
    ///
    /// # Errors
    /// [`KeyRingError`] when it cannot be used at the start.
    pub(crate) async fn open(
        file: Option<PathBuf>,
        condition: Condition,
        stop: CancellationToken,
    ) -> Result<Self, KeyRingError> {
        let Some(path) = file else {
            condition.holds();
            return Ok(Self::Open);
        };
        let text = read(&path).await?;
        let follower = Follower::new(path, text, condition)?;
        let keys = follower.keys.subscribe();
        tokio::spawn(follower.follow(stop));
        Ok(Self::Closed(keys))
    }

    /// Whether no key is asked for.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self, Self::Open)
    }

    /// Who has the key `token`, at the time `now`.
    pub(crate) fn identify(&self, token: Option<&str>, now: Timestamp) -> Result<Principal, Stranger> {
        let known = match self {
            Self::Open => return Ok(Principal { name: ANYBODY.into(), grants: None }),
            Self::Closed(known) => known.borrow(),
        };
        let token = token.ok_or(Stranger::NoKey)?;
        known.principal(&KeyHash::of(token), now)
    }

    /// The key `token` as one that was let in.
    pub(crate) fn admission(&self, token: Option<&str>) -> Admission {
        match (self, token) {
            (Self::Closed(known), Some(token)) => Admission(Some((KeyHash::of(token), known.clone()))),
            _ => Admission(None),
        }
    }

    /// The names of all users of NATS.
    pub(crate) fn users(&self) -> BTreeSet<Arc<str>> {
        match self {
            Self::Open => BTreeSet::new(),
            Self::Closed(known) => known.borrow().users.keys().cloned().collect(),
        }
    }

    /// The user of NATS with this name. Without a file there is none.
    pub(crate) fn user(&self, name: &str) -> Option<Principal> {
        match self {
            Self::Open => None,
            Self::Closed(known) => known.borrow().users.get(name).cloned(),
        }
    }
}

/// Looks at the file again and again.
struct Follower {
    path: PathBuf,
    /// The text that the keys are from.
    known: String,
    /// The text of the last look.
    seen: String,
    /// What was wrong with it, and told.
    trouble: String,
    keys: watch::Sender<Known>,
    condition: Condition,
}

impl Follower {
    fn new(path: PathBuf, text: String, condition: Condition) -> Result<Self, KeyRingError> {
        let keys = watch::Sender::new(parse(&path, &text)?);
        condition.holds();
        Ok(Self { path, known: text.clone(), seen: text, trouble: String::new(), keys, condition })
    }

    async fn follow(mut self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_INTERVAL)).await.is_some() {
            let read = read(&self.path).await;
            self.look(read);
        }
    }

    /// A text counts when two looks in a row have read it: one alone may have met a file that is just being written, and what stands
    /// there then, nothing or some of the keys, would revoke the others.
    fn look(&mut self, read: Result<String, KeyRingError>) {
        let read = match read {
            Ok(text) if text != self.seen => {
                self.seen = text;
                return;
            }
            Ok(text) if text == self.known && self.trouble.is_empty() => return,
            Ok(text) => parse(&self.path, &text).map(|keys| (text, keys)),
            Err(error) => Err(error),
        };
        match read {
            Ok((text, new)) => {
                tracing::info!(keys = new.by_key.len(), users = new.users.len(), "the keys are read again");
                self.keys.send_replace(new);
                self.known = text;
                self.trouble.clear();
                self.condition.holds();
            }
            Err(error) => {
                let sentence = one_line(&error);
                if sentence != self.trouble {
                    tracing::error!(error = sentence, "the keys stay as they were");
                    self.condition.fails(format!("{sentence}; the keys are those that were read before"));
                    self.trouble = sentence;
                }
            }
        }
    }
}

async fn read(path: &Path) -> Result<String, KeyRingError> {
    let file = path.to_owned();
    let text = do_file_work(move || read_regular_file(&file)).await;
    text.map_err(|source| KeyRingError::File { path: path.to_owned(), source })
}

fn parse(path: &Path, text: &str) -> Result<Known, KeyRingError> {
    let form = |source| KeyRingError::Form { path: path.to_owned(), source: Box::new(source) };
    let all: ApiKeys = toml::from_str(text).map_err(form)?;
    all.check().map_err(|source| KeyRingError::Keys { path: path.to_owned(), source })?;
    let principal = |name: &str, grants: Grants| {
        let name: Arc<str> = Arc::from(name);
        Principal { name, grants: Some(Arc::new(grants)) }
    };
    let by_key = all.keys.into_iter().map(|key| {
        let (name, hash, expires) = (key.name.clone(), key.hash, key.expires);
        (hash, (principal(&name, key.into_grants()), expires))
    });
    let users = all.users.into_iter().map(|user| {
        let name = user.name.clone();
        (Arc::from(name.as_str()), principal(&name, user.into_grants()))
    });
    Ok(Known { by_key: by_key.collect(), users: users.collect() })
}

#[cfg(test)]
mod tests {
    use millstream_contract::api_key::Token;
    use millstream_runtime::health::Readiness;

    use super::*;

    fn entry(seed: u8) -> String {
        let hash = KeyHash::of(Token::new([seed; 32]).as_str());
        format!(
            "[[key]]\nname = \"shop\"\nhash = \"{hash}\"\nexpires = \"2099-01-01T00:00:00Z\"\ncommands = []\n\n"
        )
    }

    #[test]
    fn a_file_that_is_just_being_written_revokes_nothing() {
        let (readiness, path) = (Readiness::new(), PathBuf::from("keys.toml"));
        let both = [entry(1), entry(2)].concat();
        let mut follower = Follower::new(path, both.clone(), readiness.condition("keys")).unwrap();
        let ring = KeyRing::Closed(follower.keys.subscribe());
        let known =
            |seed: u8| ring.identify(Some(Token::new([seed; 32]).as_str()), Timestamp::UNIX_EPOCH).is_ok();
        // Both are files of keys by themselves: one without any, and one that is cut behind its first.
        for half_written in [String::new(), entry(1)] {
            follower.look(Ok(half_written));
            assert!(known(1) && known(2), "one look is not enough");
            follower.look(Ok(both.clone()));
            assert!(known(1) && known(2));
        }
        follower.look(Ok(entry(1)));
        follower.look(Ok(String::new()));
        follower.look(Ok(entry(2)));
        assert!(known(1) && known(2), "two looks that differ are not enough");
        follower.look(Ok(entry(2)));
        assert!(!known(1) && known(2), "the first is revoked");
        for _ in 0..2 {
            follower.look(Ok("[[key]]\nname = \"half".to_owned()));
        }
        assert!(known(2) && !readiness.reasons().is_empty(), "what is no file of keys is told");
        for _ in 0..2 {
            follower.look(Ok(entry(2)));
        }
        assert!(known(2) && readiness.reasons().is_empty(), "{:?}", readiness.reasons());
        for _ in 0..2 {
            follower.look(Ok(String::new()));
        }
        assert!(!known(2), "a file that stays empty has no keys");
    }
}
