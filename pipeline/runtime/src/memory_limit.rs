//! How much memory the process may use, according to its container's control group, and how much of it a cache gets if the configuration says
//! `auto`.
//!
//! Both versions of control groups are read, including the groups around the process's own, because the limit of each of them applies.

use std::{fs, path::Path};

use crate::config::format_bytes;

/// Where Linux mounts control groups.
const MOUNT: &str = "/sys/fs/cgroup";
/// The file that lists the groups of the process.
const GROUPS: &str = "/proc/self/cgroup";
/// If there is no limit, the first version reports a number near this one.
const UNLIMITED: u64 = 1 << 60;
/// The minimum size of a file's cache: the upper levels of its trees must fit.
const CACHE_MIN: u64 = 8 * 1024 * 1024;

/// The limit of the process's container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryLimit {
    bytes: Option<u64>,
}

/// The size of a cache if the configuration says `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AutoSize {
    /// The container's limit is divided by this.
    pub one_in: u64,
    /// The maximum in bytes, which is also the size if no limit is set.
    pub most: u64,
}

impl MemoryLimit {
    /// The smallest limit of all groups of the process.
    #[must_use]
    pub fn of_this_process() -> Self {
        Self::of(&fs::read_to_string(GROUPS).unwrap_or_default(), Path::new(MOUNT))
    }

    /// A limit in bytes, or none.
    #[must_use]
    pub fn new(bytes: Option<u64>) -> Self {
        Self { bytes }
    }

    /// The limit in bytes; `None` if there is none.
    #[must_use]
    pub fn bytes(self) -> Option<u64> {
        self.bytes
    }

    /// The size of a cache in bytes: the configured one, or the one that `auto` stands for.
    #[must_use]
    pub fn size_of(self, configured: Option<u64>, auto: AutoSize) -> u64 {
        let derived = || match self.bytes {
            Some(limit) => (limit / auto.one_in).min(auto.most).max(CACHE_MIN),
            None => auto.most,
        };
        configured.unwrap_or_else(derived)
    }

    /// Logs the size of each cache, and warns if they take so much of the limit that the rest of the process has no room.
    pub fn log(self, caches: &[(&str, u64)]) {
        let shown: Vec<String> =
            caches.iter().map(|(name, bytes)| format!("{name} {}", rounded(*bytes))).collect();
        let caches_together: u64 = caches.iter().map(|(_, bytes)| bytes).sum();
        let limit = self.bytes.map_or_else(|| "none".to_owned(), rounded);
        if self.bytes.is_some_and(|limit| caches_together > limit / 4 * 3) {
            tracing::warn!(
                limit,
                caches = shown.join(", "),
                "the caches may take more than three quarters of the container's memory; lower them or raise its limit"
            );
        } else {
            tracing::info!(limit, caches = shown.join(", "), "memory");
        }
    }

    fn of(groups: &str, mount: &Path) -> Self {
        let limits = groups.lines().filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, group) = (parts.next()?, parts.next()?);
            let (base, file) = if controllers.is_empty() {
                (mount.to_owned(), "memory.max")
            } else if controllers.split(',').any(|controller| controller == "memory") {
                (mount.join("memory"), "memory.limit_in_bytes")
            } else {
                return None;
            };
            let own = base.join(group.trim_start_matches('/'));
            let around = own.ancestors().take_while(|folder| folder.starts_with(&base));
            around.filter_map(|folder| limit_in(&folder.join(file))).min()
        });
        Self { bytes: limits.min() }
    }
}

/// The limit in a file of a control group; `None` also for `max`.
fn limit_in(file: &Path) -> Option<u64> {
    let limit: u64 = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    (limit < UNLIMITED).then_some(limit)
}

/// Rounds down to whole MiB, which are easier to read.
fn rounded(bytes: u64) -> String {
    const MEBIBYTE: u64 = 1024 * 1024;
    format_bytes(if bytes < MEBIBYTE { bytes } else { bytes / MEBIBYTE * MEBIBYTE })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEBIBYTE: u64 = 1024 * 1024;
    const AUTO: AutoSize = AutoSize { one_in: 8, most: 256 * MEBIBYTE };

    fn limit(groups: &str, files: &[(&str, &str)]) -> Option<u64> {
        let mount = tempfile::tempdir().unwrap();
        for (file, content) in files {
            let path = mount.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        MemoryLimit::of(groups, mount.path()).bytes()
    }

    #[test]
    fn the_smallest_limit_of_the_groups_around_the_process_holds_in_both_versions() {
        let second =
            [("memory.max", "max\n"), ("pod/memory.max", "1073741824\n"), ("pod/a/memory.max", "max\n")];
        assert_eq!(limit("0::/pod/a\n", &second), Some(1 << 30));
        assert_eq!(limit("0::/\n", &[("memory.max", "536870912\n")]), Some(1 << 29));
        assert_eq!(limit("0::/\n", &[]), None);
        let first = [
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/docker/a/memory.limit_in_bytes", "268435456\n"),
        ];
        assert_eq!(limit("3:cpu:/docker/a\n2:memory:/docker/a\n0::/\n", &first), Some(1 << 28));
        assert_eq!(
            limit("2:hugetlb,memory:/elsewhere\n", &first),
            None,
            "seen from inside, the group is the root"
        );
    }

    #[test]
    fn cache_takes_its_part_of_the_limit_unless_it_is_configured() {
        let size = |bytes, configured| MemoryLimit::new(bytes).size_of(configured, AUTO);
        assert_eq!(size(Some(1024 * MEBIBYTE), None), 128 * MEBIBYTE);
        assert_eq!(size(Some(64 << 30), None), 256 * MEBIBYTE, "more brings little");
        assert_eq!(size(Some(MEBIBYTE), None), 8 * MEBIBYTE);
        assert_eq!(size(None, None), 256 * MEBIBYTE);
        assert_eq!(size(Some(MEBIBYTE), Some(5)), 5);
    }
}
