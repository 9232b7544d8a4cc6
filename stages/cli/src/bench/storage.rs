//! How many bytes streams and stages keep.

use std::{collections::BTreeMap, fs, io, os::unix::fs::MetadataExt as _, path::Path};

use millstream_contract::stream_names::STREAMS;
use millstream_jetstream::{
    broker::{Broker as _, BrokerError},
    nats_broker::NatsBroker,
};

use super::closed_loop_error::ClosedLoopError;

/// What a block of `st_blocks` holds (stat(3type)).
const BLOCK_BYTES: u64 = 512;

/// Bytes by stream, as the server counts them, and by folder of a process.
pub(crate) type Kept = BTreeMap<String, u64>;

/// What these streams hold.
pub(crate) async fn of_streams(broker: &NatsBroker, streams: &[&str]) -> Result<Kept, BrokerError> {
    let mut kept = Kept::new();
    for stream in streams {
        kept.insert((*stream).to_owned(), broker.state(stream).await?.usage.bytes);
    }
    Ok(kept)
}

/// What all streams hold, and what is in the folder of each process below `data`.
pub(crate) async fn of_all(broker: &NatsBroker, data: &Path) -> Result<Kept, ClosedLoopError> {
    let mut kept = of_streams(broker, &STREAMS).await?;
    let failed = |source| ClosedLoopError::Folder { folder: data.to_owned(), source };
    for entry in fs::read_dir(data).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = format!("{}/", entry.file_name().to_string_lossy());
        kept.insert(name, on_disk(&entry.path()).map_err(failed)?);
    }
    Ok(kept)
}

/// What a file or folder takes; a file may have holes. What has gone meanwhile takes nothing.
fn on_disk(path: &Path) -> io::Result<u64> {
    let gone = |error: io::Error| if error.kind() == io::ErrorKind::NotFound { Ok(0) } else { Err(error) };
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return gone(error),
    };
    let mut bytes = metadata.blocks() * BLOCK_BYTES;
    if metadata.is_dir() {
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) => return gone(error),
        };
        for entry in entries {
            bytes += on_disk(&entry?.path())?;
        }
    }
    Ok(bytes)
}

/// What was added between two moments, for each of so many commands; negative where something was removed. What did not change is
/// left out.
pub(crate) fn by_command(before: &Kept, after: &Kept, commands: usize) -> BTreeMap<String, f64> {
    let added = |(name, after): (&String, &u64)| {
        let before = before.get(name).copied().unwrap_or_default();
        let added = (*after as f64 - before as f64) / commands.max(1) as f64;
        (*after != before).then(|| (name.clone(), (added * 10.0).round() / 10.0))
    };
    after.iter().filter_map(added).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_divided_by_commands() {
        let kept = |pairs: [(&str, u64); 3]| Kept::from(pairs.map(|(name, bytes)| (name.to_owned(), bytes)));
        let before = kept([("COMMANDS", 900), ("EVENTS", 100), ("TIMERS", 7)]);
        let after = kept([("COMMANDS", 400), ("EVENTS", 1350), ("TIMERS", 7)]);
        let added = by_command(&before, &after, 100);
        assert_eq!(added, BTreeMap::from([("COMMANDS".to_owned(), -5.0), ("EVENTS".to_owned(), 12.5)]));
    }

    #[test]
    fn files_in_folders_count_with_what_they_take() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        let empty = on_disk(folder.path()).unwrap();
        fs::write(inner.join("c"), vec![1; 100_000]).unwrap();
        assert!(on_disk(folder.path()).unwrap() >= empty + 100_000);
    }
}
