//! How long a handler decides nothing while it makes a batch of all states that changed: `StateCache::begin_write` stands between two
//! rounds. Run it with `--release`.

use std::{error::Error, io::Write, num::NonZeroUsize};

use millstream_contract::subject::StreamId;
use millstream_domain::decider::AggregateRegistry;
use millstream_proof::testing::account::Account;
use millstream_write_side::{
    aggregate_state::AggregateState,
    state_cache::{CacheLimits, StateCache},
    state_snapshots::StateSnapshots,
};
use tokio::time::Instant;

/// So many states change.
const STATES: usize = 100_000;
/// So often.
const TIMES: u64 = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let registry = AggregateRegistry::new().with::<Account>();
    let limits =
        CacheLimits { states: NonZeroUsize::MAX, bytes: u64::MAX, unsaved_commits: NonZeroUsize::MAX };
    let mut cache = StateCache::new(limits, registry.clone(), StateSnapshots::in_memory()?);
    let account = registry.get("bank", "account").ok_or("the account is registered")?;
    let ids: Result<Vec<_>, _> =
        (0..STATES).map(|number| StreamId::new("bank", "account", &format!("account-{number}"))).collect();
    let ids = ids?;
    for version in 1..=TIMES {
        for id in &ids {
            let mut state = cache.take(id).unwrap_or_else(|| AggregateState::initial(account));
            state.version = version;
            cache.put(id.clone(), state);
        }
        let begun = Instant::now();
        let batch = cache.begin_write(true).ok_or("the file can be written")?;
        let took = begun.elapsed();
        cache.snapshots().write(&batch)?;
        cache.end_write(Ok(()));
        writeln!(std::io::stdout(), "{} states in {took:?}", batch.snapshots.len())?;
    }
    Ok(())
}
