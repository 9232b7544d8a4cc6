//! Follows the file of keys.

use std::{path::PathBuf, sync::Arc, time::Duration};

use millstream_contract::{api_key::ApiKeys, error_text::one_line};
use millstream_runtime::health::Condition;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{KeyRingError, Known, TokenSettings, parse, principal, read};
use crate::tokens::{Issuer, Issuers, source::KeySource};

/// How often the file is checked. A change takes effect after two checks, so a revoked key is refused within a second.
const LOOK_INTERVAL: Duration = Duration::from_millis(400);

/// Checks the file repeatedly.
pub(super) struct Follower {
    path: PathBuf,
    /// The text from which the keys come.
    known: String,
    /// The text of the last check.
    seen: String,
    /// The last logged problem.
    trouble: String,
    keys: watch::Sender<Known>,
    tokens: TokenSettings,
    condition: Condition,
    stop: CancellationToken,
}

impl Follower {
    pub(super) fn new(
        path: PathBuf,
        text: String,
        tokens: TokenSettings,
        condition: Condition,
        stop: CancellationToken,
    ) -> Result<Self, KeyRingError> {
        let all = parse(&path, &text)?;
        let keys = watch::Sender::new(Known::default());
        let (known, trouble) = (text.clone(), String::new());
        let follower = Self { path, known, seen: text, trouble, keys, tokens, condition, stop };
        follower.take(all);
        follower.condition.holds();
        Ok(follower)
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Known> {
        self.keys.subscribe()
    }

    pub(super) async fn follow(mut self) {
        let stop = self.stop.clone();
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_INTERVAL)).await.is_some() {
            let read = read(&self.path).await;
            self.look(read);
        }
    }

    /// Sets the current keys. Issuers whose keys still come from the same place keep those that were fetched.
    fn take(&self, all: ApiKeys) {
        let before = self.keys.borrow();
        let issuers = all.issuers.into_iter().map(|table| {
            let source = before.issuers.source(&table).unwrap_or_else(|| {
                let keys = self.keys.clone();
                let changed = move || keys.send_modify(|known| known.issuers.forget());
                Arc::new(KeySource::start(&table, self.tokens.refresh, changed, &self.stop))
            });
            Issuer::new(table, source)
        });
        let issuers = Issuers::new(issuers.collect(), self.tokens.leeway);
        let by_key = all.keys.into_iter().map(|key| {
            let (name, hash, expires) = (key.name.clone(), key.hash, key.expires);
            (hash, (principal(&name, key.into_grants()), expires))
        });
        let users = all.users.into_iter().map(|user| {
            let name = user.name.clone();
            (Arc::from(name.as_str()), principal(&name, user.into_grants()))
        });
        let new = Known { by_key: by_key.collect(), users: users.collect(), issuers };
        drop(before);
        self.keys.send_replace(new);
    }

    /// A text only counts if two checks in a row have read it. A single check may have met a file that is just being written; with only a part
    /// of the keys, it would revoke the others.
    pub(super) fn look(&mut self, read: Result<String, KeyRingError>) {
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
                let (keys, users, issuers) = (new.keys.len(), new.users.len(), new.issuers.len());
                tracing::info!(keys, users, issuers, "the keys are read again");
                self.take(new);
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
