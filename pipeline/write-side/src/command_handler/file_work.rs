//! Work on files, kept away from the threads on which tasks run.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Does `work`; `None` when the runtime is shutting down and does it no more.
///
/// In a runtime of one thread, as the simulation has, it is done in place: beside it, the machine would decide what comes first,
/// and one seed would be several runs.
pub(super) async fn do_file_work<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        return Some(work());
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Some(done),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => None,
    }
}
