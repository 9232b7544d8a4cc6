//! Who comes: the keys of the file, which is read again when it changes, so that a key is revoked by taking it out.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use jiff::Timestamp;
use millstream_contract::{
    api_key::{ApiKey, ApiKeys, ApiKeysError, KeyHash},
    error_text::one_line,
    exit_code::{ExitCode, Failure},
    subject::CommandAddress,
};
use millstream_runtime::health::Condition;
use tokio_util::sync::CancellationToken;

/// How often the file is looked at: a revoked key is refused that long after at the latest.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
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
    key: Option<Arc<ApiKey>>,
}

impl Principal {
    /// The actor of what it sends.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether it may send a command.
    pub(crate) fn may_send(&self, address: &CommandAddress) -> bool {
        self.key.as_ref().is_none_or(|key| key.grants_command(address))
    }

    /// Whether it may ask for the row of a key.
    pub(crate) fn may_read(&self, context: &str, view: &str, key: &str) -> bool {
        self.key.as_ref().is_none_or(|own| own.grants_row(context, view, key))
    }

    /// Whether it may ask for all rows whose keys begin with `prefix`.
    pub(crate) fn may_list(&self, context: &str, view: &str, prefix: &str) -> bool {
        self.key.as_ref().is_none_or(|own| own.grants_list(context, view, prefix))
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

type Keys = HashMap<KeyHash, Principal>;

/// The keys there are. Clones share one state.
#[derive(Debug, Clone)]
pub(crate) enum KeyRing {
    /// Nobody is asked for a key: only programs on this machine can come.
    Open,
    /// Everybody is.
    Closed(Arc<RwLock<Keys>>),
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
        let keys = Arc::new(RwLock::new(parse(&path, &text)?));
        condition.holds();
        tokio::spawn(follow(path, text, Arc::clone(&keys), condition, stop));
        Ok(Self::Closed(keys))
    }

    /// Whether no key is asked for.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self, Self::Open)
    }

    /// Who has the key `token`, at the time `now`.
    pub(crate) fn identify(&self, token: Option<&str>, now: Timestamp) -> Result<Principal, Stranger> {
        let keys = match self {
            Self::Open => return Ok(Principal { name: ANYBODY.into(), key: None }),
            Self::Closed(keys) => keys.read().unwrap_or_else(PoisonError::into_inner),
        };
        let token = token.ok_or(Stranger::NoKey)?;
        let principal = keys.get(&KeyHash::of(token)).ok_or(Stranger::UnknownKey)?;
        let valid = principal.key.as_ref().is_some_and(|key| now < key.expires);
        if valid { Ok(principal.clone()) } else { Err(Stranger::Expired) }
    }
}

async fn follow(
    path: PathBuf,
    mut known: String,
    keys: Arc<RwLock<Keys>>,
    condition: Condition,
    stop: CancellationToken,
) {
    let mut trouble = String::new();
    while stop.run_until_cancelled(tokio::time::sleep(LOOK_INTERVAL)).await.is_some() {
        let read = match read(&path).await {
            Ok(text) if text == known && trouble.is_empty() => continue,
            Ok(text) => parse(&path, &text).map(|keys| (text, keys)),
            Err(error) => Err(error),
        };
        match read {
            Ok((text, new)) => {
                tracing::info!(keys = new.len(), "the keys are read again");
                *keys.write().unwrap_or_else(PoisonError::into_inner) = new;
                known = text;
                trouble.clear();
                condition.holds();
            }
            Err(error) => {
                let sentence = one_line(&error);
                if sentence != trouble {
                    tracing::error!(error = sentence, "the keys stay as they were");
                    condition.fails(format!("{sentence}; the keys are those that were read before"));
                    trouble = sentence;
                }
            }
        }
    }
}

async fn read(path: &Path) -> Result<String, KeyRingError> {
    let text = tokio::fs::read_to_string(path).await;
    text.map_err(|source| KeyRingError::File { path: path.to_owned(), source })
}

fn parse(path: &Path, text: &str) -> Result<Keys, KeyRingError> {
    let form = |source| KeyRingError::Form { path: path.to_owned(), source: Box::new(source) };
    let all: ApiKeys = toml::from_str(text).map_err(form)?;
    all.check().map_err(|source| KeyRingError::Keys { path: path.to_owned(), source })?;
    let principal = |key: ApiKey| {
        let name = Arc::from(key.name.as_str());
        (key.hash, Principal { name, key: Some(Arc::new(key)) })
    };
    Ok(all.keys.into_iter().map(principal).collect())
}
