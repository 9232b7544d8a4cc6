//! How long `doctor` waits: for the processes of the stages, for readers, and for the server.

use std::time::Duration;

/// How long `doctor` waits for the processes of all stages to answer. A process that runs answers well within this time.
pub(super) const PROCESSES_WAIT: Duration = Duration::from_secs(1);
/// A process that has not answered by then may have been busy. It is asked once more, and `doctor` waits this long.
pub(super) const PROCESS_SECOND_WAIT: Duration = Duration::from_secs(2);

/// How often `doctor` looks at a reader before it counts as absent.
pub(super) const READER_LOOKS_MAX: u32 = 10;
/// The pause between two looks at a reader.
pub(super) const READER_LOOK_PAUSE: Duration = Duration::from_millis(100);

/// How long one check may take. A server that works answers each question of a check well within a second.
pub(super) const CHECK_MAX: Duration = Duration::from_secs(5);
/// How long all checks together may wait in vain. After that, the remaining checks are not begun.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(10);
