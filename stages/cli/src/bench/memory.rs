//! How much memory each process took at most, as Linux counts it. Nothing elsewhere.

use std::{collections::BTreeMap, fs};

use crate::supervisor::process_list::ProcessEntry;

/// Peak resident memory in bytes by process, of those that run and of which it is known.
pub(crate) fn peaks(processes: &[ProcessEntry]) -> BTreeMap<String, u64> {
    let peak = |process: &ProcessEntry| {
        let status = fs::read_to_string(format!("/proc/{}/status", process.pid?)).ok()?;
        Some((process.name.clone(), peak_in(&status)?))
    };
    processes.iter().filter_map(peak).collect()
}

/// The line `VmHWM:     12345 kB` (proc_pid_status(5)); the unit is 1024 bytes.
fn peak_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_in_bytes() {
        assert_eq!(peak_in("Name:\tnats\nVmHWM:\t    2048 kB\nVmRSS:\t 7 kB\n"), Some(2 * 1024 * 1024));
        assert_eq!(peak_in("Name:\tnats\n"), None);
    }
}
