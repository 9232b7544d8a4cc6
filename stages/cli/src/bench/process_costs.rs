//! What processes cost: CPU time and bytes written, as Linux counts them. Nothing elsewhere.

use std::{collections::BTreeMap, fmt::Display, fs, time::Duration};

use serde::Serialize;

/// A tick of the CPU times in `/proc/<pid>/stat`: `USER_HZ` is 100 on every architecture that servers have.
const TICK: Duration = Duration::from_millis(10);
/// Where user and system time stand behind the name of the program (proc_pid_stat(5): fields 14 and 15, of which two come before).
const USER_TIME: usize = 11;

/// What a process has cost since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcessCost {
    cpu: Duration,
    written: u64,
}

impl ProcessCost {
    fn read(pid: impl Display) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let io = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
        Some(Self { cpu: cpu(&stat)?, written: written(&io)? })
    }
}

/// User and system time.
fn cpu(stat: &str) -> Option<Duration> {
    // The name may hold blanks and brackets.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(USER_TIME).map(str::parse::<u32>);
    let (user, system) = (times.next()?.ok()?, times.next()?.ok()?);
    Some(TICK * user.checked_add(system)?)
}

/// Bytes that went, or are to go, to the disk.
fn written(io: &str) -> Option<u64> {
    io.lines().find_map(|line| line.strip_prefix("write_bytes: "))?.trim().parse().ok()
}

/// Processes by name.
#[derive(Debug, Clone)]
pub(crate) struct Processes(Vec<(String, u32)>);

impl Processes {
    pub(crate) fn new(named: impl IntoIterator<Item = (String, u32)>) -> Self {
        Self(named.into_iter().collect())
    }

    /// What each has cost until now.
    pub(crate) fn costs(&self) -> BTreeMap<String, ProcessCost> {
        let read = |(name, pid): &(String, u32)| Some((name.clone(), ProcessCost::read(pid)?));
        self.0.iter().filter_map(read).collect()
    }

    /// Which of them runs no more.
    pub(crate) fn gone<'a>(&'a self, costs: &BTreeMap<String, ProcessCost>) -> Option<&'a str> {
        let known = !costs.is_empty();
        let gone = self.0.iter().find(|(name, _)| known && !costs.contains_key(name));
        gone.map(|(name, _)| name.as_str())
    }
}

/// What a process costs for each command.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct CommandCost {
    pub(crate) cpu_us: f64,
    pub(crate) written_bytes: f64,
}

/// What each process cost between two moments, for each of so many commands.
pub(crate) fn by_command(
    [before, after]: &[BTreeMap<String, ProcessCost>; 2],
    commands: usize,
) -> BTreeMap<String, CommandCost> {
    let tenths = |number: f64| (number / commands.max(1) as f64 * 10.0).round() / 10.0;
    let cost = |(name, after): (&String, &ProcessCost)| {
        let before = before.get(name)?;
        let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64() * 1_000_000.0;
        let written = after.written.saturating_sub(before.written) as f64;
        Some((name.clone(), CommandCost { cpu_us: tenths(cpu), written_bytes: tenths(written) }))
    };
    after.iter().filter_map(cost).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_bytes_are_read() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 1 2 3 4 250 50 6 7 20 0";
        assert_eq!(cpu(stat), Some(Duration::from_secs(3)));
        assert_eq!(written("rchar: 1\nwrite_bytes: 4096\ncancelled_write_bytes: 5\n"), Some(4096));
        assert_eq!((cpu("7 (a"), written("rchar: 1\n")), (None, None));
    }

    #[test]
    fn what_came_between_is_divided_by_commands() {
        let at = |millis, written| {
            BTreeMap::from([(
                "projector".to_owned(),
                ProcessCost { cpu: Duration::from_millis(millis), written },
            )])
        };
        let costs = by_command(&[at(1000, 500), at(1250, 2500)], 1000);
        assert_eq!(costs["projector"], CommandCost { cpu_us: 250.0, written_bytes: 2.0 });
    }

    #[test]
    fn own_cost_grows_and_who_has_gone_is_named() {
        let own = Processes::new([("own".to_owned(), std::process::id())]);
        assert!(own.costs().contains_key("own"));
        let two = Processes::new([("own".to_owned(), std::process::id()), ("gone".to_owned(), u32::MAX)]);
        assert_eq!((two.gone(&two.costs()), own.gone(&own.costs())), (Some("gone"), None));
    }
}
