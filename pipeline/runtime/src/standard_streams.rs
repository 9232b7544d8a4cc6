//! What a process prints, in one way for stages and commands: results go to standard output, everything else to standard error.
//!
//! The reader of a result must learn if it is incomplete, so a failed write ends the command ([`OutputError`]). Messages on standard error
//! accompany work that continues without them. If such a line cannot be written, because a disk is full or a terminal is gone, it is dropped;
//! it never ends a process.
//!
//! Deliberately absent: `eprintln!`, which panics if a write fails.

use std::{
    fmt::Display,
    io::{self, Write},
    sync::{Mutex, PoisonError},
};

use millstream_contract::{
    error_text::one_line,
    exit_code::{ExitCode, Failure},
};

use crate::metrics::Count;

/// Whether the last line on standard error was cut short. A process has one standard error, and lines of its threads must not mix.
static CUT: Mutex<bool> = Mutex::new(false);

/// Standard output cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
pub struct OutputError(#[source] io::Error);

impl Failure for OutputError {
    /// A reader that has closed the pipe (`… | head`) has what it wanted.
    fn exit_code(&self) -> ExitCode {
        if self.0.kind() == io::ErrorKind::BrokenPipe { ExitCode::Ok } else { ExitCode::InputOutput }
    }
}

/// Writes a part of a result to standard output.
///
/// # Errors
/// [`OutputError`]; the process then ends.
pub fn write_result(text: &str) -> Result<(), OutputError> {
    io::stdout().lock().write_all(text.as_bytes()).map_err(OutputError)
}

/// Writes a line to standard error, or drops it.
pub fn write_error_line(line: impl Display) {
    let _written_or_dropped = put_on_standard_error(format!("{line}\n").as_bytes());
}

/// Prints the answer of a command line's parser, which is an error or a requested text, and returns the exit code.
#[must_use]
pub fn answer_command_line(answer: &clap::Error) -> ExitCode {
    // The parser knows which of its words are coloured.
    match (answer.print(), answer.use_stderr()) {
        (_, true) => ExitCode::Usage,
        (Ok(()), false) => ExitCode::Ok,
        (Err(error), false) => refuse_output(&OutputError(error)),
    }
}

/// Reports that a result could not be written, and returns the exit code.
pub(crate) fn refuse_output(error: &OutputError) -> ExitCode {
    let code = error.exit_code();
    if code != ExitCode::Ok {
        write_error_line(format_args!("error: {}", one_line(error)));
    }
    code
}

/// Writes log lines to standard error, one for each call of `write`, and counts those that it drops.
#[derive(Debug, Clone)]
pub(crate) struct LogLines {
    /// How many it has dropped.
    pub(crate) dropped: Count,
}

impl Write for LogLines {
    /// It always accepts everything, because an error would only be printed in the same way.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if put_on_standard_error(line).is_err() {
            self.dropped.inc();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn put_on_standard_error(line: &[u8]) -> Result<(), Dropped> {
    let mut cut = CUT.lock().unwrap_or_else(PoisonError::into_inner);
    put(&mut io::stderr(), &mut cut, line)
}

/// A line that was not written, or not completely.
#[derive(Debug, PartialEq, Eq)]
struct Dropped;

/// Writes a line. After a line that was `cut`, it begins a new one, so that only one line is lost.
fn put(to: &mut impl Write, cut: &mut bool, line: &[u8]) -> Result<(), Dropped> {
    let begun_anew = if *cut { [b"\n", line].concat() } else { line.to_vec() };
    let mut rest = &*begun_anew;
    while !rest.is_empty() {
        match to.write(rest) {
            Ok(0) => return Err(Dropped),
            Ok(written) => {
                rest = rest.get(written..).unwrap_or_default();
                *cut = !rest.is_empty();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(Dropped),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with room for so many bytes.
    #[derive(Default)]
    struct Disk {
        room: usize,
        holds: Vec<u8>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.room);
            if taken == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.room -= taken;
            self.holds.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_for_which_there_is_no_room_takes_no_other_with_it() {
        let (mut disk, mut cut) = (Disk { room: 9, ..Disk::default() }, false);
        assert_eq!(put(&mut disk, &mut cut, b"first\n"), Ok(()));
        assert_eq!(put(&mut disk, &mut cut, b"second\n"), Err(Dropped));
        assert_eq!(put(&mut disk, &mut cut, b"third\n"), Err(Dropped));
        disk.room = 100;
        assert_eq!(put(&mut disk, &mut cut, b"fourth\n"), Ok(()));
        assert_eq!(put(&mut disk, &mut cut, b"fifth\n"), Ok(()));
        assert_eq!(String::from_utf8(disk.holds).unwrap(), "first\nsec\nfourth\nfifth\n");
    }

    #[test]
    fn a_line_that_was_dropped_as_a_whole_leaves_no_empty_one() {
        let (mut disk, mut cut) = (Disk::default(), false);
        assert_eq!(put(&mut disk, &mut cut, b"first\n"), Err(Dropped));
        disk.room = 100;
        assert_eq!(put(&mut disk, &mut cut, b"second\n"), Ok(()));
        assert_eq!(String::from_utf8(disk.holds).unwrap(), "second\n");
    }
}
