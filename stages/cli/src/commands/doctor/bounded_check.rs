//! Ends checks that would get no answer, because the server forbids the question and says nothing more, or because it has gone away.

use std::time::Duration;

use millstream_contract::exit_code::ExitCode;
use millstream_runtime::{connection::Forbidden, stage_check::Check};
use tokio::time::Instant;

use super::{
    time_limits::{CHECK_MAX, SILENCE_MAX},
    trouble,
};
use crate::session::not_allowed;

/// Runs checks, and knows how long the server has been silent in all.
pub(super) struct BoundedChecks<'a> {
    forbidden: &'a Forbidden,
    silence: std::cell::Cell<Duration>,
}

impl<'a> BoundedChecks<'a> {
    pub(super) fn new(forbidden: &'a Forbidden) -> Self {
        Self { forbidden, silence: std::cell::Cell::default() }
    }

    /// The result of a check, or why there is none.
    pub(super) async fn one(&self, what: &str, check: impl Future<Output = Check>) -> Check {
        self.ask(check).await.unwrap_or_else(|reason| reason.check(what))
    }

    /// The results of several checks that are made together, or why there are none.
    pub(super) async fn all(&self, what: &str, checks: impl Future<Output = Vec<Check>>) -> Vec<Check> {
        self.ask(checks).await.unwrap_or_else(|reason| vec![reason.check(what)])
    }

    async fn ask<T>(&self, question: impl Future<Output = T>) -> Result<T, NoAnswer> {
        if self.silence.get() >= SILENCE_MAX {
            return Err(NoAnswer::NotAsked);
        }
        let before = self.forbidden.publishes();
        let begun = Instant::now();
        tokio::select! {
            biased;
            done = question => Ok(done),
            subject = self.forbidden.publish_after(before) => Err(NoAnswer::Forbidden(subject)),
            () = tokio::time::sleep(CHECK_MAX) => {
                self.silence.set(self.silence.get() + begun.elapsed());
                Err(NoAnswer::Silent)
            }
        }
    }
}

/// Why a question has no answer.
enum NoAnswer {
    Forbidden(String),
    Silent,
    NotAsked,
}

impl NoAnswer {
    fn check(self, what: &str) -> Check {
        let result = Err(match self {
            Self::Forbidden(subject) => trouble(ExitCode::NotPermitted, not_allowed(&subject)),
            Self::Silent => {
                let words = format!("no answer in {} s; is the server still there?", CHECK_MAX.as_secs());
                trouble(ExitCode::Unavailable, words)
            }
            Self::NotAsked => trouble(ExitCode::Unavailable, "not asked, since the server does not answer"),
        });
        Check { what: what.to_owned(), result }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that went away made it take ten minutes: each question waited on its own.
    #[tokio::test(start_paused = true)]
    async fn server_that_is_silent_is_not_asked_for_ever() {
        let forbidden = Forbidden::default();
        let asking = BoundedChecks::new(&forbidden);
        let begun = Instant::now();
        let mut said = Vec::new();
        for number in 0..20 {
            let what = format!("question {number}");
            said.push(asking.one(&what, std::future::pending()).await.to_string());
        }
        assert_eq!(begun.elapsed(), SILENCE_MAX);
        assert_eq!(said.first().unwrap(), "trouble question 0: no answer in 5 s; is the server still there?");
        assert_eq!(said.last().unwrap(), "trouble question 19: not asked, since the server does not answer");
    }
}
