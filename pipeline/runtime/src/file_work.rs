//! Runs blocking work on files away from the threads of async tasks, and waits for the ends of tasks.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
};

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::JoinError,
};

/// Runs `work`. If the runtime shuts down before the work is done, this never returns, and the waiting task ends with the runtime.
///
/// In a runtime with one thread, as the simulation has, the work is done in place. On another thread, the machine would decide what happens
/// first, and the same seed would give different runs.
pub async fn do_file_work<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        return work();
    }
    end_of(tokio::task::spawn_blocking(work)).await
}

/// The text of a regular file. Reading anything else, such as a pipe without a writer, might wait for ever.
///
/// # Errors
/// When it cannot be read, or is not a regular file.
pub fn read_regular_file(path: &Path) -> io::Result<String> {
    read_regular_file_up_to(path, u64::MAX)
}

/// The same for a file of at most this many bytes.
///
/// # Errors
/// As above, and [`io::ErrorKind::FileTooLarge`].
pub fn read_regular_file_up_to(path: &Path, bytes_max: u64) -> io::Result<String> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    let mut text = String::new();
    let mut file = File::open(path)?.take(bytes_max);
    file.read_to_string(&mut text)?;
    if file.into_inner().read(&mut [0])? > 0 {
        let message = format!("it has more than {bytes_max} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(text)
}

/// The result of a task that nobody cancels. If the task panicked, the panic continues here. If the runtime has cancelled the task by shutting
/// down, this never returns, and the waiting task ends with the runtime.
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

    #[test]
    fn a_pipe_to_which_nobody_writes_is_refused_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let (file, pipe) = (folder.path().join("file"), folder.path().join("pipe"));
        fs::write(&file, "text").unwrap();
        assert_eq!(read_regular_file(&file).unwrap(), "text");
        assert_eq!(read_regular_file_up_to(&file, 4).unwrap(), "text");
        let refused = read_regular_file_up_to(&file, 3).unwrap_err();
        assert_eq!(refused.to_string(), "it has more than 3 bytes");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for other in [&pipe, Path::new("/dev/null"), folder.path()] {
            let refused = read_regular_file(other).unwrap_err();
            assert_eq!(refused.to_string(), "it is no regular file", "{}", other.display());
        }
    }

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
