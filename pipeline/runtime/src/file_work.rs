//! Blocking work on files, kept away from the threads on which async tasks run, and the ends of tasks.

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::JoinError,
};

/// Does `work`. Never returns when the runtime is shutting down and no longer does it: the task that waits ends with it.
///
/// In a runtime with one thread, as the simulation has, the work is done in place. On another thread the machine would decide
/// what happens first, and the same seed would give different runs.
pub async fn do_file_work<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        return work();
    }
    end_of(tokio::task::spawn_blocking(work)).await
}

/// What a task that nobody cancels has done. Its panic goes on here. Never returns when the runtime has cancelled it by shutting down:
/// the task that waits ends with it.
pub async fn end_of<T>(task: impl Future<Output = Result<T, JoinError>>) -> T {
    match task.await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn end_of_a_task_is_what_it_has_done_or_its_panic() {
        assert_eq!(end_of(tokio::spawn(async { 7 })).await, 7);
        let panicking = tokio::spawn(async { panic!("a mistake") });
        let panicked = tokio::spawn(end_of(panicking)).await.unwrap_err();
        assert!(panicked.is_panic());
    }

    /// Whoever waited panicked over the panic that was not there.
    #[tokio::test(start_paused = true)]
    async fn task_that_the_runtime_has_cancelled_has_no_end() {
        let cancelled = tokio::spawn(std::future::pending::<()>());
        cancelled.abort();
        assert!(tokio::time::timeout(Duration::from_secs(3600), end_of(cancelled)).await.is_err());
    }
}
