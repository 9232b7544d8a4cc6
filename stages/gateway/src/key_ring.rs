//! The keys, users and token issuers in the file of keys. The file is read again when it changes (by `follower`), so a key is revoked by
//! removing it from the file.

mod follower;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::http::StatusCode;
use jiff::Timestamp;
use millstream_contract::{
    api_key::{ApiKeys, ApiKeysError, Grants, KeyHash, LetterAction},
    configured_query::{ArgumentsRefused, QueryDescription},
    exit_code::{ExitCode, Failure},
    subject::{CommandAddress, StreamId},
};
use millstream_runtime::{
    file_work::{do_file_work, read_regular_file},
    health::Condition,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::follower::Follower;
use crate::{
    audit::Asker,
    problem::Problem,
    tokens::{Issuers, Refusal, is_token, source::Refresh},
};

/// How often keys in use are checked for expiry, because the clock may be set.
const CLOCK_LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// The actor if no keys are required.
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
    /// It is not a file of keys.
    #[error("gateway.keys_file {path} is no file of keys")]
    Form {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// Its keys cannot stand in one file.
    #[error("gateway.keys_file {path} cannot be used")]
    Keys {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: ApiKeysError,
    },
}

/// Checks whether the gateway could start with the keys of a file.
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

/// The sender of a request that was let in.
#[derive(Debug, Clone)]
pub(crate) struct Principal {
    name: Arc<str>,
    /// `None` if no keys are required and everything is granted.
    grants: Option<Arc<Grants>>,
    /// The address from which the request came; `None` over NATS.
    address: Option<IpAddr>,
}

impl Principal {
    /// The actor of what it sends.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The same sender with the address from which the request came.
    pub(crate) fn from(self, address: Option<IpAddr>) -> Self {
        Self { address, ..self }
    }

    /// Its name in the audit log.
    pub(crate) fn asker(&self) -> Asker {
        Asker { name: Some(Arc::clone(&self.name)), address: self.address }
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

    /// Whether it may read the row of a key.
    pub(crate) fn may_read(&self, context: &str, view: &str, key: &str) -> bool {
        self.grants.as_ref().is_none_or(|grants| grants.row(context, view, key))
    }

    /// Whether it may read some row of a view.
    pub(crate) fn may_ask(&self, context: &str, view: &str) -> bool {
        self.grants.as_ref().is_none_or(|grants| grants.some_row(context, view))
    }

    /// Whether it may send a command to some aggregate.
    pub(crate) fn may_give(&self, context: &str, aggregate: &str, command: &str) -> bool {
        self.grants.as_ref().is_none_or(|grants| grants.some_command([context, aggregate, command]))
    }

    /// The prefix that the keys of a list must have for it to read the list; empty for any.
    pub(crate) fn first_prefix(&self, context: &str, view: &str) -> Option<&str> {
        self.grants.as_ref().map_or(Some(""), |grants| grants.first_prefix(context, view))
    }

    /// Whether it may read the events of an aggregate.
    pub(crate) fn may_read_history(&self, stream_id: &StreamId) -> bool {
        self.grants.as_ref().is_none_or(|grants| grants.history(stream_id))
    }

    /// Whether it may do this with dead letters that were addressed to an aggregate, named by context, aggregate and id.
    pub(crate) fn may_touch_letter(&self, addressed: [&str; 3], action: LetterAction) -> bool {
        self.grants.as_ref().is_none_or(|grants| grants.letter(addressed, action))
    }

    /// Whether it may do this with some dead letters.
    pub(crate) fn may_touch_some_letter(&self, action: LetterAction) -> bool {
        self.grants.as_ref().is_none_or(|grants| grants.some_letter(action))
    }

    /// Whether there may be configured queries that it may ask.
    pub(crate) fn may_ask_queries(&self) -> bool {
        self.grants.as_ref().is_none_or(|grants| grants.any_configured_query())
    }

    /// Whether it may ask statements that no file has.
    pub(crate) fn may_ask_statements(&self) -> bool {
        self.grants.as_ref().is_none_or(|grants| grants.ad_hoc_sql())
    }

    /// Whether its key grants a configured query with some arguments.
    pub(crate) fn may_ask_query(&self, context: &str, name: &str) -> bool {
        self.grants.as_ref().is_none_or(|grants| grants.configured_query(context, name))
    }

    /// The arguments with which it asks a configured query if it gives `given`.
    ///
    /// # Errors
    /// The reason if its key, or the query's file, does not let it ask the query.
    pub(crate) fn arguments(
        &self,
        query: &QueryDescription,
        given: BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>, ArgumentsRefused> {
        match &self.grants {
            None => Ok(given),
            Some(_) if !query.is_for(&self.name) => Err(ArgumentsRefused::Query),
            Some(grants) => grants.arguments(query, given),
        }
    }

    /// The parameters of a configured query for which it may only give certain values.
    pub(crate) fn granted_values(&self, query: &QueryDescription) -> BTreeMap<String, BTreeSet<String>> {
        self.grants.as_ref().map(|grants| grants.granted_values(query)).unwrap_or_default()
    }

    /// Whether it may read all rows whose keys begin with `prefix`.
    pub(crate) fn may_list(&self, context: &str, view: &str, prefix: &str) -> bool {
        self.grants.as_ref().is_none_or(|grants| grants.list(context, view, prefix))
    }
}

/// Why somebody was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stranger {
    /// There was no key.
    NoKey,
    /// The key does not exist, or no longer does.
    UnknownKey,
    /// The key has expired.
    Expired,
    /// There was a token instead of a key, and it was refused.
    Token(Refusal),
}

/// How somebody identifies itself.
#[derive(Debug, Clone)]
enum Credential {
    Key(KeyHash),
    Token(Arc<str>),
}

impl Credential {
    fn of(text: &str) -> Self {
        if is_token(text) { Self::Token(Arc::from(text)) } else { Self::Key(KeyHash::of(text)) }
    }
}

/// A key or token that was let in, for requests that go on for a long time; `None` if no keys are required.
#[derive(Debug, Clone)]
pub(crate) struct Admission(Option<(Credential, watch::Receiver<Known>)>);

/// Why a key is no longer let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It is not valid any more.
    Stranger(Stranger),
    /// It grants less than before.
    NotGranted,
}

impl Admission {
    /// The current rights of `principal`. They may be less than when it was let in, because a body may take long to come.
    pub(crate) fn still(&self, principal: Principal) -> Result<Principal, Stranger> {
        let Some((credential, known)) = &self.0 else { return Ok(principal) };
        let still = known.borrow().principal(credential, Timestamp::now());
        still.map(|(still, _)| still.from(principal.address))
    }

    /// Returns when the key is no longer valid, or when what it grants is no longer enough for `is_granted`.
    pub(crate) async fn ended(&mut self, is_granted: impl Fn(&Principal) -> bool) -> Ended {
        let Some((credential, known)) = &mut self.0 else { return std::future::pending().await };
        loop {
            let now = Timestamp::now();
            let expires = match known.borrow_and_update().principal(credential, now) {
                Err(stranger) => return Ended::Stranger(stranger),
                Ok((principal, _)) if !is_granted(&principal) => return Ended::NotGranted,
                Ok((_, expires)) => expires,
            };
            let left = Duration::try_from(expires.duration_since(now)).unwrap_or_default();
            let look = tokio::time::sleep(left.min(CLOCK_LOOK_INTERVAL));
            tokio::select! {
                // If the file is no longer followed, the gateway is stopping.
                Ok(()) = known.changed() => {}
                () = look => {}
            }
        }
    }
}

/// Everybody who may be let in.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// The owners of keys, and until when each key is valid.
    by_key: HashMap<KeyHash, (Principal, Timestamp)>,
    /// Users of NATS, by name.
    users: HashMap<Arc<str>, Principal>,
    /// The issuers whose tokens are accepted.
    issuers: Issuers,
}

impl Known {
    /// The owner of a key or token at the time `now`, and until when it is valid.
    fn principal(&self, credential: &Credential, now: Timestamp) -> Result<(Principal, Timestamp), Stranger> {
        match credential {
            Credential::Key(hash) => {
                let (principal, expires) = self.by_key.get(hash).ok_or(Stranger::UnknownKey)?;
                if now < *expires { Ok((principal.clone(), *expires)) } else { Err(Stranger::Expired) }
            }
            // Without issuers, tokens are not announced as a possibility.
            Credential::Token(_) if self.issuers.len() == 0 => Err(Stranger::UnknownKey),
            Credential::Token(token) => {
                let verified = self.issuers.verify(token, now).map_err(Stranger::Token)?;
                Ok((
                    Principal { name: verified.actor, grants: Some(verified.grants), address: None },
                    verified.expires,
                ))
            }
        }
    }
}

/// How tokens are checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TokenSettings {
    /// How far the clocks of an issuer and of this machine may differ.
    pub(crate) leeway: Duration,
    /// How often the keys of issuers are fetched.
    pub(crate) refresh: Refresh,
}

/// The current keys. Clones share one state.
#[derive(Debug, Clone)]
pub(crate) enum KeyRing {
    /// No key is required, because only programs on this machine can connect.
    Open,
    /// A key is required.
    Closed(watch::Receiver<Known>),
}

impl KeyRing {
    /// Reads the file, if there is one, and reads it again whenever it changes, until `stop`. If a later version cannot be used, the keys stay
    /// as they are, and `condition` does not hold.
    ///
    /// # Errors
    /// [`KeyRingError`] when it cannot be used at the start.
    pub(crate) async fn open(
        file: Option<PathBuf>,
        tokens: TokenSettings,
        condition: Condition,
        stop: CancellationToken,
    ) -> Result<Self, KeyRingError> {
        let Some(path) = file else {
            condition.holds();
            return Ok(Self::Open);
        };
        let text = read(&path).await?;
        let follower = Follower::new(path, text, tokens, condition, stop)?;
        let keys = follower.subscribe();
        tokio::spawn(follower.follow());
        Ok(Self::Closed(keys))
    }

    /// Whether no key is required.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self, Self::Open)
    }

    /// The owner of the key or token `text` at the time `now`. If the key of a token is not known yet, the keys of its issuer are fetched.
    pub(crate) async fn identify(
        &self,
        text: Option<&str>,
        now: Timestamp,
    ) -> Result<(Principal, Admission), Stranger> {
        let Self::Closed(known) = self else {
            return Ok((Principal { name: ANYBODY.into(), grants: None, address: None }, Admission(None)));
        };
        let text = text.ok_or(Stranger::NoKey)?;
        let credential = Credential::of(text);
        let mut principal = known.borrow().principal(&credential, now);
        if let Err(Stranger::Token(Refusal::Key | Refusal::Unavailable)) = principal {
            let source = known.borrow().issuers.source_of(text);
            if let Some(source) = source
                && source.fetched_again().await
            {
                principal = known.borrow().principal(&credential, now);
            }
        }
        principal.map(|(principal, _)| (principal, Admission(Some((credential, known.clone())))))
    }

    /// The names of all users of NATS.
    pub(crate) fn users(&self) -> BTreeSet<Arc<str>> {
        match self {
            Self::Open => BTreeSet::new(),
            Self::Closed(known) => known.borrow().users.keys().cloned().collect(),
        }
    }

    /// The user of NATS with this name. Without a file there are no users.
    pub(crate) fn user(&self, name: &str) -> Option<Principal> {
        match self {
            Self::Open => None,
            Self::Closed(known) => known.borrow().users.get(name).cloned(),
        }
    }
}

async fn read(path: &Path) -> Result<String, KeyRingError> {
    let file = path.to_owned();
    let text = do_file_work(move || read_regular_file(&file)).await;
    text.map_err(|source| KeyRingError::File { path: path.to_owned(), source })
}

fn parse(path: &Path, text: &str) -> Result<ApiKeys, KeyRingError> {
    let form = |source| KeyRingError::Form { path: path.to_owned(), source: Box::new(source) };
    let all: ApiKeys = toml::from_str(text).map_err(form)?;
    all.check().map_err(|source| KeyRingError::Keys { path: path.to_owned(), source })?;
    Ok(all)
}

fn principal(name: &str, grants: Grants) -> Principal {
    Principal { name: Arc::from(name), grants: Some(Arc::new(grants)), address: None }
}

#[cfg(test)]
mod tests;
