//! Runs blocking work on several cores at once, for threads that do nothing else in the meantime.
//!
//! Deliberately absent: a thread pool. A caller with little work stays on its own thread, and for more work a new thread costs less than it
//! saves.

use std::sync::{Mutex, PoisonError};

/// How many threads to use at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cores(usize);

impl Cores {
    /// The number of cores, as far as it is known.
    pub fn all() -> Self {
        Self(std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get))
    }

    /// Runs `work` on every task and returns the results in the order of the tasks. A free thread takes the next task, so the largest tasks
    /// should come first.
    ///
    /// # Panics
    /// When `work` panics.
    pub fn each<T: Send, R: Send>(self, tasks: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
        let threads = self.0.min(tasks.len());
        if threads <= 1 {
            return tasks.into_iter().map(work).collect();
        }
        let mut done: Vec<(usize, R)> = Vec::with_capacity(tasks.len());
        let waiting = Mutex::new(tasks.into_iter().enumerate());
        let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
        let run = || std::iter::from_fn(next).map(|(place, task)| (place, work(task))).collect::<Vec<_>>();
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
            done.extend(run());
            for other in others {
                match other.join() {
                    Ok(results) => done.extend(results),
                    Err(panicked) => std::panic::resume_unwind(panicked),
                }
            }
        });
        done.sort_unstable_by_key(|(place, _)| *place);
        done.into_iter().map(|(_, result)| result).collect()
    }

    /// This number if there is `enough` to do, otherwise one.
    pub fn when(self, enough: bool) -> Self {
        if enough { self } else { Self(1) }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Barrier, thread};

    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_tasks() {
        for cores in [Cores(1), Cores(3)] {
            let doubled = cores.each((0..100).collect(), |number| number * 2);
            assert_eq!(doubled, (0..200).step_by(2).collect::<Vec<_>>());
        }
    }

    #[test]
    fn tasks_are_done_at_the_same_time() {
        // Each waits for the other: on one thread this would never end.
        let both = Barrier::new(2);
        let threads = Cores(2).each(vec![(), ()], |()| {
            both.wait();
            thread::current().id()
        });
        assert_ne!(threads.first(), threads.last());
    }

    #[test]
    fn without_enough_to_do_everything_stays_on_the_calling_thread() {
        let threads = Cores(8).when(false).each(vec![(); 10], |()| format!("{:?}", thread::current().id()));
        let here = format!("{:?}", thread::current().id());
        assert_eq!(threads.into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([here]));
    }

    #[test]
    #[should_panic(expected = "task 3")]
    fn panic_of_a_task_is_passed_on() {
        Cores(2).each((0..10).collect(), |number| assert_ne!(number, 3, "task 3"));
    }
}
