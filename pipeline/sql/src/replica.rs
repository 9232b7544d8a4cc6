//! Follows the projection runner: every batch is stored in the database, with its positions, before it is stored in the file of rows.
//!
//! Projections fold over the file; the database has the same rows for queries. If the tables of a projection are not what they should be
//! (missing, with another definition, of another stream, or behind the file because a backup was restored), they get all rows from the file, in
//! one transaction, as soon as the file is complete. Until then, readers see the old rows.

use std::{
    collections::HashMap,
    ops::{Bound, ControlFlow},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    time::Duration,
};

use millstream_contract::error_text::one_line;
use millstream_read_side::projection_runner::{FollowError, RowFollower};
use millstream_store::read_store::{
    Checkpoint, Direction, KeyRange, ProjectionId, ReadStore, Snapshot, Uncommitted,
};
use tokio_util::sync::CancellationToken;

use crate::{
    database::{Database, DatabaseError, Filling, Move, StoredPosition, TableChange},
    definition::Dialect,
    plan::{Plan, PlannedProjection, PlannedTable},
    table::TableRow,
};

/// The pause before a lost connection is re-established.
const RECONNECT_PAUSE: Duration = Duration::from_millis(250);
/// How many rows are read from the file at once when tables are filled.
const ROWS_AT_ONCE: usize = 2_000;

/// The next task for the thread of the database.
type Work = Box<dyn FnOnce(&mut dyn Database) + Send>;

/// The state of a projection's tables.
#[derive(Debug, Clone)]
enum Standing {
    /// They have the rows of the file, or newer ones: after a crash, the file has gone back and is catching up with them.
    Follows {
        /// The position of the tables.
        at: StoredPosition,
        /// The position of the file.
        file: u64,
        /// Whether rows were removed from the file while it was behind the tables. If so, the tables are filled again once the file has caught
        /// up.
        refill: bool,
    },
    /// They will be filled from the file when it is complete.
    ToFill {
        /// Their position, if they exist.
        before: Option<StoredPosition>,
    },
}

/// Keeps the tables of a database equal to the file of rows.
pub struct Replica {
    plan: Arc<Plan>,
    dialect: Dialect,
    work: mpsc::Sender<Work>,
    /// The positions in the database when the process began, until the projections begin.
    found: Mutex<HashMap<ProjectionId, StoredPosition>>,
    standings: Mutex<HashMap<ProjectionId, Standing>>,
    stop: CancellationToken,
}

impl Replica {
    /// Takes charge of a database with a thread of its own, and creates missing tables, which are still empty. `stop` ends the wait for a
    /// database that cannot be reached.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub fn start(
        plan: Plan,
        mut open: impl FnMut() -> Result<Box<dyn Database>, DatabaseError> + Send + 'static,
        stop: CancellationToken,
    ) -> Result<Self, DatabaseError> {
        let (work, inbox) = mpsc::channel::<Work>();
        let (opened, answer) = mpsc::channel();
        let thread = std::thread::Builder::new().name("database".to_owned());
        let (planned, stopped) = (plan.clone(), stop.clone());
        let spawned = thread.spawn(move || {
            let taken = until_it_holds(&stopped, |_| {
                let mut database = open()?;
                let positions = take_over(database.as_mut(), &planned)?;
                Ok((database, positions))
            });
            let (mut database, positions) = match taken {
                Ok(taken) => taken,
                Err(error) => return drop(opened.send(Err(error))),
            };
            // The caller is still waiting for the result.
            let _ = opened.send(Ok((database.dialect(), positions)));
            while let Ok(work) = inbox.recv() {
                work(database.as_mut());
            }
        });
        spawned.map_err(|_| DatabaseError::Ended)?;
        let (dialect, positions) = answer.recv().map_err(|_| DatabaseError::Ended)??;
        for StoredPosition { projection, .. } in &positions {
            if plan.projection(projection).is_none() {
                tracing::warn!(%projection, "the database has tables of a projection that is not kept any more; they stay as they are");
            }
        }
        let found = positions.into_iter().map(|position| (position.projection.clone(), position)).collect();
        let standings = Mutex::new(HashMap::new());
        Ok(Self { plan: Arc::new(plan), dialect, work, found: Mutex::new(found), standings, stop })
    }

    fn standings(&self) -> MutexGuard<'_, HashMap<ProjectionId, Standing>> {
        self.standings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the thread of the database run a task, repeatedly until the connection holds, and waits for it.
    fn on_database<T: Send + 'static>(
        &self,
        mut attempt: impl FnMut(&mut dyn Database) -> Result<T, DatabaseError> + Send + 'static,
    ) -> Result<T, DatabaseError> {
        let (done, answer) = mpsc::channel();
        let stop = self.stop.clone();
        let work = move |database: &mut dyn Database| {
            let result = until_it_holds(&stop, |lost| {
                if lost {
                    database.connect_again()?;
                }
                attempt(database)
            });
            // The task lets go of what it holds before the caller goes on: whoever is told that a projection is filled may open the
            // file of rows anew, which has one owner.
            drop(attempt);
            // The caller is still waiting for the result.
            let _ = done.send(result);
        };
        self.work.send(Box::new(work)).map_err(|_| DatabaseError::Ended)?;
        answer.recv().map_err(|_| DatabaseError::Ended)?
    }

    /// The changes of a batch to tables that follow the file, and the positions that advance.
    fn changes(&self, uncommitted: &Uncommitted) -> Result<(Vec<TableChange>, Vec<Move>), DatabaseError> {
        let mut standings = self.standings();
        let mut moves = Vec::new();
        let mut passed = Vec::new();
        for (projection, to) in uncommitted.checkpoints() {
            if let Some(Standing::Follows { at, file, .. }) = standings.get_mut(projection) {
                *file = to.sequence;
                match to.sequence > at.checkpoint.sequence {
                    true => moves.push(Move {
                        projection: projection.clone(),
                        from: at.checkpoint.clone(),
                        to: to.clone(),
                    }),
                    false => passed.push(projection.clone()),
                }
            }
        }
        let mut changes = Vec::new();
        for (source, rows) in uncommitted.changed_rows() {
            let planned = self.plan.projections.iter().find_map(|projection| {
                let table = projection.tables.iter().find(|each| each.source == *source)?;
                Some((&projection.id, &table.table))
            });
            let Some((projection, table)) = planned else { continue };
            let Some(Standing::Follows { at, file, refill }) = standings.get_mut(projection) else {
                continue;
            };
            let is_behind = passed.contains(projection) || *file < at.checkpoint.sequence;
            let mut change = TableChange { table: Arc::clone(table), removed: Vec::new(), rows: Vec::new() };
            for (key, row) in rows {
                match row {
                    Some(row) if !is_behind => change.rows.push(table.row(key, &row)?),
                    None if !is_behind => change.removed.push(table.key_values(key)?),
                    Some(_) => {}
                    // The removal of outcome rows is not a message of the stream, so it would not come again.
                    None => *refill |= !passed.contains(projection) || projection.is_of_outcomes(),
                }
            }
            if !change.rows.is_empty() || !change.removed.is_empty() {
                changes.push(change);
            }
        }
        Ok((changes, moves))
    }

    fn write(&self, uncommitted: &Uncommitted) -> Result<(), DatabaseError> {
        let (changes, moves) = self.changes(uncommitted)?;
        if changes.is_empty() && moves.is_empty() {
            return Ok(());
        }
        let moved = moves.clone();
        self.on_database(move |database| database.write(&changes, &moves))?;
        let mut standings = self.standings();
        for Move { projection, to, .. } in moved {
            if let Some(Standing::Follows { at, .. }) = standings.get_mut(&projection) {
                at.checkpoint = Checkpoint { complete_from: 0, ..to };
            }
        }
        Ok(())
    }

    /// Fills the tables of every projection that waits for it and is complete in the file.
    fn fill_what_is_complete(&self, store: &ReadStore) -> Result<(), DatabaseError> {
        let waiting: Vec<(ProjectionId, Option<StoredPosition>)> = self
            .standings()
            .iter()
            .filter_map(|(projection, standing)| match standing {
                Standing::ToFill { before } => Some((projection.clone(), before.clone())),
                Standing::Follows { at, file, refill: true } if *file >= at.checkpoint.sequence => {
                    Some((projection.clone(), Some(at.clone())))
                }
                Standing::Follows { .. } => None,
            })
            .collect();
        if waiting.is_empty() {
            return Ok(());
        }
        let snapshot = store.snapshot()?;
        for (projection, before) in waiting {
            let checkpoint = snapshot.checkpoint(&projection)?;
            let (Some(planned), Some(checkpoint)) = (self.plan.projection(&projection), checkpoint) else {
                continue;
            };
            if !checkpoint.is_complete() {
                continue;
            }
            let file = checkpoint.sequence;
            let position = StoredPosition {
                projection: projection.clone(),
                checkpoint: Checkpoint { complete_from: 0, ..checkpoint },
                definition: planned.definition(self.dialect),
            };
            self.fill(planned.clone(), store, position.clone(), before)?;
            self.standings().insert(projection, Standing::Follows { at: position, file, refill: false });
        }
        Ok(())
    }

    fn fill(
        &self,
        planned: PlannedProjection,
        store: &ReadStore,
        position: StoredPosition,
        before: Option<StoredPosition>,
    ) -> Result<(), DatabaseError> {
        let store = store.clone();
        let projection = position.projection.clone();
        let sequence = position.checkpoint.sequence;
        let rows = self.on_database(move |database| {
            // Nothing is written to the file in the meantime, because its writer waits here.
            let snapshot = store.snapshot()?;
            let tables = planned.tables.iter().map(|each| Arc::clone(&each.table)).collect();
            let filling = Filling { position: position.clone(), before: before.clone(), tables };
            let mut filled = 0;
            database.fill(&filling, &mut |take| {
                for (index, each) in planned.tables.iter().enumerate() {
                    filled += hand_out(&snapshot, each, &mut |rows| take(index, rows))?;
                }
                Ok(())
            })?;
            Ok(filled)
        })?;
        tracing::info!(%projection, sequence, rows, "tables filled from the file of rows");
        Ok(())
    }
}

/// Repeats an operation until the connection to the database holds, or until the process is asked to end. `attempt` is told whether the
/// connection was lost before.
fn until_it_holds<T>(
    stop: &CancellationToken,
    mut attempt: impl FnMut(bool) -> Result<T, DatabaseError>,
) -> Result<T, DatabaseError> {
    let mut lost = false;
    loop {
        match attempt(lost) {
            Err(error) if error.is_lost() => {
                if stop.is_cancelled() {
                    tracing::error!(
                        error = one_line(&error),
                        "the process ends while the database cannot be used"
                    );
                    return Err(DatabaseError::Stopped);
                }
                if !lost {
                    tracing::warn!(
                        error = one_line(&error),
                        "the database cannot be used now; trying again until it can"
                    );
                }
                lost = true;
                #[expect(
                    clippy::disallowed_methods,
                    reason = "the database's own thread, between two tries to connect"
                )]
                std::thread::sleep(RECONNECT_PAUSE);
            }
            other => {
                if lost {
                    tracing::info!("the database is there again");
                }
                return other;
            }
        }
    }
}

/// Reads the positions in a database, and creates the tables of projections that have none.
fn take_over(database: &mut dyn Database, plan: &Plan) -> Result<Vec<StoredPosition>, DatabaseError> {
    let positions = database.positions()?;
    let is_new = |planned: &&PlannedProjection| positions.iter().all(|each| each.projection != planned.id);
    let missing = plan.projections.iter().filter(is_new).flat_map(|planned| &planned.tables);
    let missing: Vec<_> = missing.map(|each| Arc::clone(&each.table)).collect();
    database.make_missing(&missing)?;
    Ok(positions)
}

/// Hands out the rows of a table of the file in portions. Returns how many there were.
fn hand_out(
    snapshot: &Snapshot,
    planned: &PlannedTable,
    take: &mut dyn FnMut(Vec<TableRow>) -> Result<(), DatabaseError>,
) -> Result<usize, DatabaseError> {
    let (mut rows, mut count, mut failed) = (Vec::new(), 0, None);
    let everything = KeyRange { lower: Bound::Unbounded, upper: Bound::Unbounded };
    snapshot.visit(&planned.source, everything, Direction::Ascending, |key, row| {
        let read = planned.table.row(key, row).map_err(DatabaseError::from).and_then(|row| {
            rows.push(row);
            count += 1;
            if rows.len() < ROWS_AT_ONCE { Ok(()) } else { take(std::mem::take(&mut rows)) }
        });
        match read {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    match failed {
        Some(error) => Err(error),
        None => take(rows).map(|()| count),
    }
}

impl RowFollower for Replica {
    fn checkpoint(&self, projection: &ProjectionId) -> Option<Checkpoint> {
        if let Some(standing) = self.standings().get(projection) {
            return match standing {
                Standing::Follows { at, .. } | Standing::ToFill { before: Some(at) } => {
                    Some(at.checkpoint.clone())
                }
                Standing::ToFill { before: None } => None,
            };
        }
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.get(projection).map(|found| found.checkpoint.clone())
    }

    fn begins(&self, projection: &ProjectionId, checkpoint: &Checkpoint, belongs: bool) {
        let Some(planned) = self.plan.projection(projection) else { return };
        let stored = match self.standings().remove(projection) {
            Some(Standing::Follows { at, .. }) => Some(at),
            Some(Standing::ToFill { before }) => before,
            None => self.found.lock().unwrap_or_else(PoisonError::into_inner).remove(projection),
        };
        let standing = match stored {
            Some(at) => {
                let reason = if at.definition != planned.definition(self.dialect) {
                    Some("they are defined otherwise")
                } else if !belongs || at.checkpoint.generation != checkpoint.generation {
                    Some("they show a stream that is not there any more")
                } else if at.checkpoint.version != checkpoint.version {
                    Some("another version of the projection filled them")
                } else if at.checkpoint.sequence < checkpoint.sequence {
                    Some("they are behind the file of rows, as those of a restored backup are")
                } else {
                    None
                };
                match reason {
                    Some(reason) => {
                        tracing::warn!(%projection, sequence = at.checkpoint.sequence, reason, "tables are built anew");
                        Standing::ToFill { before: Some(at) }
                    }
                    None => Standing::Follows { at, file: checkpoint.sequence, refill: false },
                }
            }
            None => Standing::ToFill { before: None },
        };
        self.standings().insert(projection.clone(), standing);
    }

    fn follow(&self, changes: &Uncommitted) -> Result<(), FollowError> {
        self.write(changes).map_err(FollowError::new)
    }

    fn settled(&self, store: &ReadStore) -> Result<(), FollowError> {
        self.fill_what_is_complete(store).map_err(FollowError::new)
    }
}
