//! The file of keys, looked at again and again.

use std::{path::PathBuf, sync::Arc, time::Duration};

use millstream_contract::{api_key::ApiKeys, error_text::one_line};
use millstream_runtime::health::Condition;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{KeyRingError, Known, TokenSettings, parse, principal, read};
use crate::tokens::{Issuer, Issuers, source::KeySource};

/// How often the file is looked at. A change takes two looks, so that a revoked key is refused within a second.
const LOOK_INTERVAL: Duration = Duration::from_millis(400);

/// Looks at the file again and again.
pub(super) struct Follower {
    path: PathBuf,
    /// The text that the keys are from.
    known: String,
    /// The text of the last look.
    seen: String,
    /// What was wrong with it, and told.
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

    /// From now on these are the keys. Issuers whose keys are where they were keep those that were fetched.
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

    /// A text counts when two looks in a row have read it: one alone may have met a file that is just being written, and what stands
    /// there then, nothing or some of the keys, would revoke the others.
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
