//! Limits how many requests are in progress at a time. Each takes a place, and one principal may hold only a share of the places, so it cannot
//! keep others out, whatever it sends and however long that takes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    config::Limits,
    problem::{Problem, SOON},
};

/// How many requests with several commands may be in progress. They hold many times more memory than others.
const LINES_MAX: usize = 64;
/// How many pages of histories may be in progress. While commits are converted to JSON, they take fourteen times their bytes in memory (560 MB
/// for 40), so a page of half a megabyte and one more commit takes about 20 MB.
const HISTORIES_MAX: usize = 16;
/// How many states as of a moment may be in progress. By the same measure, 8 MB of commits take about 100 MB.
const STATES_MAX: usize = 4;
/// How many requests for dead letters may be in progress. A page looks through some megabytes of letters.
const LETTERS_MAX: usize = 16;
/// How many overviews may be in the making. Each asks every view, and a dozen times for states of streams.
const OVERVIEWS_MAX: usize = 16;

/// The places, and how many of them each principal holds.
#[derive(Debug)]
pub(crate) struct Places {
    /// What takes the places, in the plural.
    what: &'static str,
    all: Arc<Semaphore>,
    each_max: usize,
    held: Mutex<HashMap<Arc<str>, usize>>,
}

/// A place. It is free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    holder: Arc<str>,
    _of_all: OwnedSemaphorePermit,
}

impl Places {
    /// Places for all requests.
    pub(crate) fn for_requests(limits: &Limits) -> Arc<Self> {
        Self::new("requests", limits.requests_max, limits.key_share)
    }

    /// Places for requests with several commands.
    pub(crate) fn for_lines(limits: &Limits) -> Arc<Self> {
        Self::new("requests with several commands", LINES_MAX, limits.key_share)
    }

    /// Places for requests that read a history.
    pub(crate) fn for_histories(limits: &Limits) -> Arc<Self> {
        Self::new("requests for a history", HISTORIES_MAX, limits.key_share)
    }

    /// Places for requests that fold a state.
    pub(crate) fn for_states(limits: &Limits) -> Arc<Self> {
        Self::new("requests for a state as of a moment", STATES_MAX, limits.key_share)
    }

    /// Places for requests that read or move dead letters.
    pub(crate) fn for_letters(limits: &Limits) -> Arc<Self> {
        Self::new("requests for dead letters", LETTERS_MAX, limits.key_share)
    }

    /// Places for overviews.
    pub(crate) fn for_overviews(limits: &Limits) -> Arc<Self> {
        Self::new("overviews", OVERVIEWS_MAX, limits.key_share)
    }

    /// Places for requests that wait for a position.
    pub(crate) fn for_waiting(limits: &Limits) -> Arc<Self> {
        Self::new("requests that wait for a position", limits.waiting_max, limits.key_share)
    }

    /// Places for configured queries.
    pub(crate) fn for_queries(limits: &Limits) -> Arc<Self> {
        Self::new("configured queries", limits.queries_max, limits.key_share)
    }

    /// Places for streams of live rows.
    pub(crate) fn for_live(limits: &Limits) -> Arc<Self> {
        Self::new("streams of live rows", limits.live_max, limits.key_share)
    }

    /// `max` places for `what`. Each principal may hold `share_percent` of them, rounded up.
    fn new(what: &'static str, max: usize, share_percent: usize) -> Arc<Self> {
        let each_max = max.saturating_mul(share_percent).div_ceil(100);
        Arc::new(Self { what, all: Arc::new(Semaphore::new(max)), each_max, held: Mutex::default() })
    }

    /// A place for somebody who is not identified yet.
    ///
    /// # Errors
    /// A [`Problem`] when no place is free.
    pub(crate) fn of_anybody(&self) -> Result<OwnedSemaphorePermit, Problem> {
        Arc::clone(&self.all).try_acquire_owned().map_err(|_| {
            let detail = format!("as many {} as this gateway takes are in progress; try again", self.what);
            Problem::unavailable("busy", detail)
        })
    }

    /// Makes it the place of `holder`.
    ///
    /// # Errors
    /// A [`Problem`] when the holder already has its share.
    pub(crate) fn given_to(
        self: &Arc<Self>,
        holder: &str,
        place: OwnedSemaphorePermit,
    ) -> Result<Place, Problem> {
        let mut held = self.held();
        let holder: Arc<str> = holder.into();
        let count = held.get(&holder).copied().unwrap_or(0);
        if count >= self.each_max {
            let (max, what) = (self.each_max, self.what);
            let detail = format!(
                "{holder} has {count} {what} in progress, and nobody may have more than {max}; try again when one has ended"
            );
            let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "share-exceeded", detail);
            return Err(problem.retry_after(SOON));
        }
        held.insert(Arc::clone(&holder), count + 1);
        Ok(Place { places: Arc::clone(self), holder, _of_all: place })
    }

    /// A place for `holder`.
    ///
    /// # Errors
    /// A [`Problem`] when no place is free, or `holder` already has its share.
    pub(crate) fn take(self: &Arc<Self>, holder: &str) -> Result<Place, Problem> {
        self.given_to(holder, self.of_anybody()?)
    }

    fn held(&self) -> MutexGuard<'_, HashMap<Arc<str>, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.held();
        if let Some(count) = held.get_mut(&self.holder) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_holds_more_than_a_share_and_what_is_given_back_is_free() {
        let places = Places::new("requests", 5, 25);
        let first = places.take("a").unwrap();
        let _second = places.take("a").unwrap();
        assert!(
            places.take("a").unwrap_err().is(429, "share-exceeded"),
            "two are a quarter of five, rounded up"
        );
        let _others = ["b", "b", "c"].map(|holder| places.take(holder).unwrap());
        assert!(places.take("d").unwrap_err().is(503, "busy"), "all five are taken");
        drop(first);
        let _again = places.take("a").unwrap();
        assert_eq!(places.held().get("a"), Some(&2));
    }

    #[test]
    fn whoever_is_refused_takes_nothing_and_nobody_who_has_gone_is_remembered() {
        let places = Places::new("requests", 4, 25);
        let held = places.take("a").unwrap();
        for _ in 0..10 {
            assert!(places.take("a").unwrap_err().is(429, "share-exceeded"));
        }
        let others = ["b", "c", "d"].map(|holder| places.take(holder).unwrap());
        drop((held, others));
        assert!(places.held().is_empty());
        assert_eq!(Places::new("requests", 3, 100).each_max, 3);
    }
}
