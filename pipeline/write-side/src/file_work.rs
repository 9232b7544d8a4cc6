//! Blocking work on files, kept away from the threads on which async tasks run.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Does `work`. Never returns when the runtime is shutting down and no longer does it: the task that waits ends with it.
///
/// In a runtime with one thread, as the simulation has, the work is done in place. On another thread the machine would decide
/// what happens first, and the same seed would give different runs.
pub(crate) async fn do_file_work<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => std::future::pending().await,
    }
}
