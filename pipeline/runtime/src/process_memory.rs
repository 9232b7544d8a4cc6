//! What memory a process takes, from `/proc`.

/// Resident memory now, in bytes; none when the process has gone.
#[must_use]
pub fn now(pid: i32) -> Option<u64> {
    field(pid, "VmRSS:")
}

/// The most resident memory since the process began, in bytes; none when it has gone.
#[must_use]
pub fn most(pid: i32) -> Option<u64> {
    field(pid, "VmHWM:")
}

/// For people.
#[must_use]
pub fn mebibytes(bytes: u64) -> u64 {
    bytes / (1024 * 1024)
}

fn field(pid: i32, name: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}
