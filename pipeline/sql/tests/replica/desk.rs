//! A file of rows, a database and a history of a shop, played as the projection runner plays them.

use std::path::PathBuf;

use millstream_contract::{commit::EventEnvelope, testing::dice::Dice};
use millstream_domain::{
    application::{DefaultSettings, Model},
    decider::EventSet as _,
    projection::{Projection, ProjectionError, RowShape, Rows},
    schemars::{self, JsonSchema},
    testing::project::{History, apply},
};
use millstream_model::{
    Reference,
    retail::till::{ReturnRecorded, SaleRecorded, TillClosed, TillEvent, TillLine},
};
use millstream_read_side::projection_runner::RowFollower as _;
use millstream_sql::{
    database::{Database, DatabaseError},
    plan::Plan,
    postgres_database::PostgresDatabase,
    replica::Replica,
    sqlite::SqliteDatabase,
    testing::{comparison as tables, postgres_server::PostgresServer},
};
use millstream_store::read_store::{
    Changes, Checkpoint, Durability, ProjectionId, ProjectionRows, ReadStore, Uncommitted,
};
use postgres::error::SqlState;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

const CACHE_SIZE: usize = 8 * 1024 * 1024;
const STORES: [&str; 3] = ["2506", "2_7", "a:b"];
const DATES: [&str; 3] = ["2012-01-30", "2012-01-31", "2012-02-01"];

/// Which database.
#[derive(Debug, Clone)]
pub(super) enum Where {
    Sqlite,
    Postgres { address: String, database: String, admin: String },
}

impl Where {
    /// A database of its own on a server.
    pub(super) fn postgres(server: &PostgresServer, number: u64) -> Self {
        let database = format!("tables_{number}");
        server.make_database(&database);
        Self::Postgres { address: server.address(&database), admin: server.address("postgres"), database }
    }
}

/// How many sales and, in a later version, closes a store has had.
struct TillTotal {
    with_closings: bool,
}

/// A row of the view `till-total`.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[schemars(crate = "schemars")]
struct TotalRow {
    /// The store.
    store: String,
    /// How many sales.
    sales: i64,
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[schemars(crate = "schemars")]
struct LaterTotalRow {
    store: String,
    sales: i64,
    /// How often a till was closed.
    closings: i64,
}

impl Projection for TillTotal {
    fn context(&self) -> &'static str {
        "retail"
    }

    fn name(&self) -> &'static str {
        "till-total"
    }

    fn version(&self) -> u32 {
        1 + u32::from(self.with_closings)
    }

    fn views(&self) -> &'static [&'static str] {
        &["till-total"]
    }

    fn shapes(&self) -> Vec<RowShape> {
        vec![match self.with_closings {
            false => RowShape::of::<TotalRow>("till-total", "<store>"),
            true => RowShape::of::<LaterTotalRow>("till-total", "<store>"),
        }]
    }

    fn handles(&self, aggregate: &str) -> bool {
        aggregate == "till"
    }

    fn apply(&self, envelope: &EventEnvelope<'_>, rows: &mut (dyn Rows + '_)) -> Result<(), ProjectionError> {
        let (store, _) = envelope.stream_id.id().rsplit_once('_').unwrap_or_default();
        let event = TillEvent::from_envelope(envelope)?;
        let mut row: LaterTotalRow = match rows.get("till-total", store)? {
            None => LaterTotalRow::default(),
            Some(row) if self.with_closings => serde_json::from_slice(&row).unwrap(),
            Some(row) => {
                let TotalRow { store, sales } = serde_json::from_slice(&row).unwrap();
                LaterTotalRow { store, sales, closings: 0 }
            }
        };
        row.store = store.to_owned();
        row.sales += i64::from(matches!(event, TillEvent::SaleRecorded(_)));
        row.closings += i64::from(matches!(event, TillEvent::Closed(_)));
        match self.with_closings {
            true => rows.write("till-total", store, &row),
            false => rows.write("till-total", store, &TotalRow { store: row.store, sales: row.sales }),
        }
        Ok(())
    }
}

/// Everything that belongs together.
pub(super) struct Desk {
    folder: TempDir,
    place: Where,
    with_closings: bool,
    generation: u32,
    history: History,
    sales: u64,
    files: u32,
    running: Option<Running>,
    backup: Option<(u32, PathBuf)>,
}

/// What runs.
struct Running {
    projections: Vec<Box<dyn Projection>>,
    store: ReadStore,
    replica: Replica,
}

fn projections(with_closings: bool) -> Vec<Box<dyn Projection>> {
    let views = Model::of::<Reference>().unwrap().views(&mut DefaultSettings::default()).projections;
    let reports = Model::of::<Reference>().unwrap().reports(&mut DefaultSettings::default());
    let retail = views.into_iter().chain(reports.into_iter().map(|report| report.ledger));
    let retail = retail.filter(|each| each.context() == "retail" && each.handles("till"));
    retail.chain([Box::new(TillTotal { with_closings }) as Box<dyn Projection>]).collect()
}

fn id(projection: &dyn Projection) -> ProjectionId {
    ProjectionId::of_context(projection.context(), projection.name())
}

impl Desk {
    pub(super) fn new(place: Where) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            place,
            with_closings: false,
            generation: 1,
            history: History::new("retail"),
            sales: 0,
            files: 0,
            running: None,
            backup: None,
        }
    }

    pub(super) fn take_history_of(&mut self, other: &Self) {
        self.history = other.history.clone();
        self.sales = other.sales;
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join(format!("rows-{}.redb", self.files))
    }

    fn sqlite(&self) -> PathBuf {
        self.folder.path().join("replica.sqlite")
    }

    fn generation(&self) -> String {
        format!("generation-{}", self.generation)
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("it runs")
    }

    pub(super) fn stop(&mut self) {
        self.running = None;
        // The thread of the database ends behind its last work; SQLite's lock goes with it.
        if matches!(self.place, Where::Sqlite) {
            let lock = std::fs::File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .open(self.folder.path().join("replica.sqlite.lock"));
            lock.unwrap().lock().unwrap();
        }
    }

    /// Starts on the file and the database as they are, as the runner starts: it judges each checkpoint by the stream.
    pub(super) fn begin(&mut self) {
        let projections = projections(self.with_closings);
        let store = ReadStore::open(&self.file(), CACHE_SIZE).unwrap();
        let plan = Plan::new(projections.iter().map(AsRef::as_ref), [], &["retail"]).unwrap();
        let (place, sqlite) = (self.place.clone(), self.sqlite());
        let open = move || -> Result<Box<dyn Database>, DatabaseError> {
            Ok(match &place {
                Where::Sqlite => Box::new(SqliteDatabase::open(&sqlite)?),
                Where::Postgres { address, .. } => Box::new(PostgresDatabase::connect(address, None)?),
            })
        };
        let replica = Replica::start(plan, open, CancellationToken::new()).unwrap();
        let end = self.history.commits().len() as u64;
        for projection in &projections {
            let id = id(projection.as_ref());
            let found = store.snapshot().unwrap().checkpoint(&id).unwrap();
            let checkpoint = match found.filter(|found| self.belongs(found, projection.version())) {
                Some(found) => found,
                None => {
                    let start = Checkpoint::start(&self.generation(), projection.version(), end);
                    store.reset(&id, &start).unwrap();
                    start
                }
            };
            let own = replica.checkpoint(&id);
            let belongs = own.is_some_and(|own| self.belongs(&own, projection.version()));
            replica.begins(&id, &checkpoint, belongs);
            replica.settled(&store).unwrap();
        }
        self.running = Some(Running { projections, store, replica });
    }

    /// Whether a checkpoint belongs to the stream, as `checkpoint_check.rs` finds.
    fn belongs(&self, checkpoint: &Checkpoint, version: u32) -> bool {
        let at = usize::try_from(checkpoint.sequence).unwrap();
        checkpoint.generation == self.generation()
            && checkpoint.version == version
            && (at == 0
                || self
                    .history
                    .commits()
                    .get(at - 1)
                    .is_some_and(|commit| *commit.commit.commit_id == *checkpoint.message_id))
    }

    /// The changes of the next commits, at most `most` of them.
    fn next(&self, most: usize) -> Option<Uncommitted> {
        let Running { projections, store, .. } = self.running();
        let snapshot = store.snapshot().unwrap();
        let mut changes = Vec::new();
        for projection in projections {
            let id = id(projection.as_ref());
            let checkpoint = snapshot.checkpoint(&id).unwrap().unwrap();
            let from = usize::try_from(checkpoint.sequence).unwrap();
            let commits = self.history.commits().get(from..).unwrap();
            let commits = commits.get(..most.min(commits.len())).unwrap();
            let Some(last) = commits.last() else { continue };
            let mut rows = ProjectionRows::new(&snapshot, &id, projection.tables().iter().copied());
            apply(projection.as_ref(), commits, &mut rows);
            let checkpoint = Checkpoint {
                sequence: last.broker_sequence,
                message_id: last.commit.commit_id.to_string(),
                ..checkpoint
            };
            changes.push(Changes { projection: id, rows, checkpoint: Some(checkpoint) });
        }
        (!changes.is_empty()).then(|| Uncommitted::new(changes))
    }

    fn apply_next(&self, most: usize) -> Result<bool, String> {
        let Some(changes) = self.next(most) else { return Ok(false) };
        let Running { store, replica, .. } = self.running();
        let said = |error: millstream_read_side::projection_runner::FollowError| {
            millstream_contract::error_text::one_line(&error)
        };
        replica.follow(&changes).map_err(said)?;
        store.commit_prepared(&changes, Durability::Durable).unwrap();
        replica.settled(store).map_err(said)?;
        Ok(true)
    }

    fn happen(&mut self, dice: &mut Dice) {
        for _ in 0..dice.between(1, 12) {
            let till = format!("{}_{}", dice.pick(&STORES), dice.pick(&DATES));
            let lines = |dice: &mut Dice| -> Vec<TillLine> {
                let count = dice.between(1, 3);
                (0..count)
                    .map(|line| TillLine {
                        sku: format!("sku {line}'\"\\"),
                        quantity: dice.between(1, 9) as i64,
                        unit_price: dice.below(5000) as i64,
                    })
                    .collect()
            };
            self.sales += 1;
            let currency = "USD".to_owned().try_into().unwrap();
            let event = match dice.below(6) {
                0 => TillEvent::Closed(TillClosed { closing: u32::try_from(self.sales).unwrap() }),
                1 => TillEvent::ReturnRecorded(ReturnRecorded {
                    return_id: format!("R-{}", self.sales),
                    sale: dice.chance(0.7).then(|| format!("S-{}", dice.between(1, self.sales))),
                    currency,
                    lines: lines(dice),
                    late: dice.chance(0.2),
                }),
                _ => TillEvent::SaleRecorded(SaleRecorded {
                    sale: format!("S-{}", self.sales),
                    currency,
                    lines: lines(dice),
                    sold_at: dice.chance(0.3).then(|| "a quarter past ü\u{0} nine".to_owned()),
                    late: dice.chance(0.2),
                }),
            };
            self.history.add("till", &till, [event]);
        }
    }

    /// Some commits come, and some batches are applied.
    pub(super) fn live(&mut self, dice: &mut Dice) {
        self.try_to_live(dice).unwrap();
    }

    pub(super) fn try_to_live(&mut self, dice: &mut Dice) -> Result<(), String> {
        self.happen(dice);
        for _ in 0..dice.between(1, 4) {
            self.apply_next(dice.between(1, 9) as usize)?;
        }
        Ok(())
    }

    /// Applies everything that is there.
    pub(super) fn catch_up(&mut self) {
        while self.apply_next(7).unwrap() {}
    }

    pub(super) fn restart(&mut self) {
        self.stop();
        self.begin();
    }

    /// The database has a batch that the file does not have.
    pub(super) fn crash_before_the_file(&mut self, dice: &mut Dice) {
        self.happen(dice);
        if let Some(changes) = self.next(dice.between(1, 9) as usize) {
            self.running().replica.follow(&changes).unwrap();
        }
        self.restart();
    }

    /// The file goes back to what was synced last, several batches ago.
    pub(super) fn crash_and_lose_the_end_of_the_file(&mut self, dice: &mut Dice) {
        self.stop();
        let synced = self.folder.path().join("synced.redb");
        std::fs::copy(self.file(), &synced).unwrap();
        self.begin();
        for _ in 0..3 {
            self.live(dice);
        }
        self.stop();
        std::fs::copy(&synced, self.file()).unwrap();
        self.begin();
    }

    pub(super) fn lose_the_file(&mut self) {
        self.stop();
        self.files += 1;
        self.begin();
    }

    /// The file of SQLite, with what belongs to it, under the process that fills it.
    pub(super) fn remove_the_tables(&self) {
        for ending in ["", "-wal", "-shm"] {
            std::fs::remove_file(self.folder.path().join(format!("replica.sqlite{ending}"))).unwrap();
        }
    }

    pub(super) fn keep_a_backup(&mut self) {
        self.stop();
        let kept = self.folder.path().join("backup.sqlite");
        match &self.place {
            Where::Sqlite => drop(std::fs::copy(self.sqlite(), &kept).unwrap()),
            Where::Postgres { database, admin, .. } => {
                copy_database(admin, database, &format!("{database}_backup"));
            }
        }
        self.backup = Some((self.generation, kept));
        self.begin();
    }

    pub(super) fn restore_the_backup(&mut self) {
        let Some((_, kept)) = self.backup.clone() else { return };
        self.stop();
        match &self.place {
            Where::Sqlite => {
                for ending in ["-wal", "-shm"] {
                    let path = self.folder.path().join(format!("replica.sqlite{ending}"));
                    assert!(!path.exists(), "the last connection leaves one file");
                }
                std::fs::copy(kept, self.sqlite()).unwrap();
            }
            Where::Postgres { database, admin, .. } => {
                copy_database(admin, &format!("{database}_backup"), database);
            }
        }
        self.begin();
    }

    pub(super) fn make_the_stream_anew(&mut self) {
        self.stop();
        self.generation += 1;
        self.history = History::new("retail");
        self.begin();
    }

    /// Another version of a view, with another column.
    pub(super) fn change_a_view(&mut self) {
        self.stop();
        self.with_closings = true;
        self.begin();
    }

    /// Compares if the database is where the file is.
    pub(super) fn compare_when_caught_up(&self) {
        let Running { projections, store, replica } = self.running();
        let snapshot = store.snapshot().unwrap();
        let at = |projection: &dyn Projection| {
            let id = id(projection);
            let file = snapshot.checkpoint(&id).unwrap().unwrap();
            replica.checkpoint(&id).is_some_and(|own| {
                own.sequence == file.sequence && file.is_complete() && own.generation == file.generation
            })
        };
        if projections.iter().map(AsRef::as_ref).all(at) {
            self.compare();
        }
    }

    /// Every table has the rows of the file, column by column.
    pub(super) fn compare(&self) {
        let Running { projections, store, .. } = self.running();
        let mut rows = 0;
        for projection in projections {
            let shapes = projection.shapes();
            for view in projection.views() {
                let shape = shapes.iter().find(|shape| shape.view == *view);
                let found = tables::rows_of_file(&store.snapshot().unwrap(), &id(projection.as_ref()), view);
                let table = |table: (&str, &str)| self.json_rows(table);
                rows += tables::compare(projection.context(), view, shape.is_some(), &found, table);
            }
        }
        assert!(rows > 0 || self.history.commits().is_empty() || self.sales == 0, "nothing was compared");
    }

    /// The rows of a query, as JSON, by the database itself.
    fn json_rows(&self, table: (&str, &str)) -> Vec<serde_json::Value> {
        match &self.place {
            Where::Sqlite => tables::of_sqlite(&self.sqlite(), table),
            Where::Postgres { address, .. } => tables::of_postgres(address, table),
        }
    }

    pub(super) fn count(&self, context: &str, table: &str) -> usize {
        self.json_rows((context, table)).len()
    }

    pub(super) fn columns(&self, context: &str, table: &str) -> Vec<String> {
        match &self.place {
            Where::Sqlite => tables::columns_of_sqlite(&self.sqlite(), (context, table)),
            Where::Postgres { address, .. } => tables::columns_of_postgres(address, (context, table)),
        }
    }
}

/// Makes one database a copy of another, to which nobody is connected.
fn copy_database(admin: &str, from: &str, to: &str) {
    let mut client = postgres::Client::connect(admin, postgres::NoTls).unwrap();
    client.batch_execute(&format!("DROP DATABASE IF EXISTS {to} WITH (FORCE)")).unwrap();
    // The connection of a stage that has ended may still be there for a moment.
    let mut refused = None;
    for _ in 0..250 {
        match client.batch_execute(&format!("CREATE DATABASE {to} TEMPLATE {from}")) {
            Ok(()) => return,
            Err(error) if error.code() == Some(&SqlState::OBJECT_IN_USE) => refused = Some(error),
            Err(error) => panic!("{from} cannot be copied: {error}"),
        }
        #[expect(clippy::disallowed_methods, reason = "between two looks at whether the connection is gone")]
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("{from} cannot be copied: {refused:?}");
}
