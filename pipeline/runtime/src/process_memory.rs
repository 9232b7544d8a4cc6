//! How much memory a process uses, according to Linux. Other systems report nothing.

use std::fmt::Display;

/// The current resident memory in bytes; `None` if the process has ended.
#[must_use]
pub fn now(pid: impl Display) -> Option<u64> {
    field(&status(pid)?, "VmRSS:")
}

/// The largest resident memory since the process began, in bytes; `None` if it has ended.
#[must_use]
pub fn most(pid: impl Display) -> Option<u64> {
    field(&status(pid)?, "VmHWM:")
}

/// Formats bytes for people.
#[must_use]
pub fn mebibytes(bytes: u64) -> u64 {
    bytes / (1024 * 1024)
}

fn status(pid: impl Display) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{pid}/status")).ok()
}

/// A line such as `VmHWM:     12345 kB` (proc_pid_status(5)); the unit is 1024 bytes.
fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        let status = "Name:\tnats\nVmHWM:\t    2048 kB\nVmRSS:\t 7 kB\n";
        assert_eq!(field(status, "VmHWM:"), Some(2 * 1024 * 1024));
        assert_eq!(field(status, "VmRSS:"), Some(7 * 1024));
        assert_eq!(field("Name:\tnats\n", "VmHWM:"), None);
    }

    #[test]
    fn own_memory_is_some_and_at_most_the_most() {
        let own = std::process::id();
        assert!(now(own).unwrap() > 0 && now(own).unwrap() <= most(own).unwrap());
    }
}
