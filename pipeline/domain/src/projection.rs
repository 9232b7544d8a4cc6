//! Projections: pure functions from events to changes of rows.
//!
//! A projection sees every commit of the aggregates it handles, in order, and exactly once for each row store, because rows and checkpoint
//! are stored together. It may read its own rows; it reads no clock and nothing else.

mod decoded_row;
mod row_shape;

use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};

pub use self::{decoded_row::DecodedRow, row_shape::RowShape};

use millstream_contract::{commit::EventEnvelope, outcome::CommandOutcome};

use crate::decider::{Decider, EventError, EventSet as _};

/// Why a projection cannot continue. It halts there and reports the error; it never skips an event.
#[derive(Debug, thiserror::Error)]
pub enum ProjectionError {
    /// An event that this release cannot read.
    #[error(transparent)]
    Event(#[from] EventError),
    /// A row does not have the shape that this release writes. Raise the projection's version.
    #[error("row {key:?} of {table} does not decode")]
    Row {
        /// The table.
        table: String,
        /// The key.
        key: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The row store failed.
    #[error("the read store failed")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The events contradict each other.
    #[error("{0}")]
    Inconsistent(String),
}

/// A row in the form in which it is available.
#[derive(Debug, Clone)]
pub enum FoundRow {
    /// Decoded, as this transaction left it.
    Decoded(DecodedRow),
    /// Its JSON.
    Bytes(Vec<u8>),
}

/// The rows that a projection reads and writes. Within a table they are ordered by key, and values are JSON. Queries see changes together
/// with the checkpoint.
pub trait Rows {
    /// The value of `key`, as this projection last left it.
    ///
    /// # Errors
    /// [`ProjectionError::Store`].
    fn get(&self, table: &str, key: &str) -> Result<Option<Vec<u8>>, ProjectionError>;

    /// Sets `key`.
    fn put(&mut self, table: &str, key: &str, value: Vec<u8>);

    /// Removes `key`. Nothing happens if it is absent.
    fn delete(&mut self, table: &str, key: &str);

    /// All rows whose key starts with `prefix`, in the order of keys. Use it for few rows, because they are collected in memory.
    ///
    /// # Errors
    /// [`ProjectionError::Store`].
    fn scan(&self, table: &str, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, ProjectionError>;

    /// The same as [`Rows::get`], but a row that this transaction has left decoded is returned decoded. Changing it changes what is stored.
    ///
    /// # Errors
    /// [`ProjectionError::Store`].
    fn find(&self, table: &str, key: &str) -> Result<Option<FoundRow>, ProjectionError> {
        Ok(self.get(table, key)?.map(FoundRow::Bytes))
    }

    /// The same as [`Rows::put`], with a row that may stay decoded until it is stored.
    fn put_decoded(&mut self, table: &str, key: &str, row: DecodedRow) {
        self.put(table, key, row.bytes().to_vec());
    }
}

/// Typed access over [`Rows`].
impl dyn Rows + '_ {
    /// The row of `key`.
    ///
    /// # Errors
    /// [`ProjectionError::Row`] when it has another shape; [`ProjectionError::Store`].
    pub fn read<T: DeserializeOwned>(&self, table: &str, key: &str) -> Result<Option<T>, ProjectionError> {
        self.get(table, key)?.map(|value| parse_row(table, key, &value)).transpose()
    }

    /// Sets the row of `key`.
    pub fn write<T: Serialize>(&mut self, table: &str, key: &str, row: &T) {
        self.put(table, key, serde_json::to_vec(row).expect("rows hold only plain data with text keys"));
    }

    /// The row of `key`, for rows that change repeatedly. It works like `read`, but a row that this transaction has left decoded is not
    /// decoded again.
    ///
    /// # Errors
    /// As `read`.
    pub fn read_decoded<T: DeserializeOwned + Clone + 'static>(
        &self,
        table: &str,
        key: &str,
    ) -> Result<Option<T>, ProjectionError> {
        match self.find(table, key)? {
            None => Ok(None),
            Some(FoundRow::Bytes(value)) => parse_row(table, key, &value).map(Some),
            Some(FoundRow::Decoded(row)) => match row.get::<T>() {
                Some(row) => Ok(Some(row)),
                None => parse_row(table, key, &row.bytes()).map(Some),
            },
        }
    }

    /// Sets the row of `key`, for rows that change repeatedly. It works like `write`, but the row is encoded only when it is stored.
    pub fn write_decoded<T: Serialize + Send + 'static>(&mut self, table: &str, key: &str, row: T) {
        self.put_decoded(table, key, DecodedRow::new(row));
    }

    /// Changes the row of `key`, which starts as its default. It combines `read_decoded` and `write_decoded`.
    ///
    /// # Errors
    /// As `read`.
    pub fn update<T: Default + Serialize + DeserializeOwned + Send + 'static>(
        &mut self,
        table: &str,
        key: &str,
        change: impl Fn(&mut T),
    ) -> Result<(), ProjectionError> {
        let mut row: T = match self.find(table, key)? {
            None => T::default(),
            Some(FoundRow::Bytes(value)) => parse_row(table, key, &value)?,
            Some(FoundRow::Decoded(row)) => match row.alter(&change) {
                Some(()) => return Ok(()),
                None => parse_row(table, key, &row.bytes())?,
            },
        };
        change(&mut row);
        self.write_decoded(table, key, row);
        Ok(())
    }

    /// The same as `write`, with the fields `version` and `recorded_at` of the event added after those of `row`: the version of the
    /// aggregate that the row shows, and when it was recorded. The row's type has neither field.
    pub fn write_with_version<T: Serialize>(
        &mut self,
        table: &str,
        key: &str,
        row: &T,
        envelope: &EventEnvelope<'_>,
    ) {
        let EventEnvelope { aggregate_version: version, recorded_at, .. } = *envelope;
        self.write(table, key, &VersionedRow { row, version, recorded_at });
    }

    /// Changes the row of `key`, which starts as its default, and writes it as `write_with_version` does.
    ///
    /// # Errors
    /// As `read`.
    pub fn update_with_version<T: Default + Serialize + DeserializeOwned>(
        &mut self,
        table: &str,
        key: &str,
        envelope: &EventEnvelope<'_>,
        change: impl FnOnce(&mut T),
    ) -> Result<(), ProjectionError> {
        let mut row = self.read::<T>(table, key)?.unwrap_or_default();
        change(&mut row);
        self.write_with_version(table, key, &row, envelope);
        Ok(())
    }

    /// The rows whose key starts with `prefix`, in key order.
    ///
    /// # Errors
    /// [`ProjectionError::Row`] when one has another shape; [`ProjectionError::Store`].
    pub fn read_all<T: DeserializeOwned>(
        &self,
        table: &str,
        prefix: &str,
    ) -> Result<Vec<(String, T)>, ProjectionError> {
        self.scan(table, prefix)?
            .into_iter()
            .map(|(key, value)| parse_row(table, &key, &value).map(|row| (key, row)))
            .collect()
    }
}

/// A row and the two fields that every row of an aggregate has.
#[derive(Serialize)]
struct VersionedRow<'a, T> {
    #[serde(flatten)]
    row: &'a T,
    version: u64,
    recorded_at: Timestamp,
}

fn parse_row<T: DeserializeOwned>(table: &str, key: &str, value: &[u8]) -> Result<T, ProjectionError> {
    serde_json::from_slice(value).map_err(|source| ProjectionError::Row {
        table: table.to_owned(),
        key: key.to_owned(),
        source,
    })
}

/// A table's name as one token of a subject: `store-daily.revisions` is queried as `store-daily-revisions`.
pub fn view_name(table: &str) -> String {
    table.replace('.', "-")
}

/// From events to rows.
pub trait Projection: Send + Sync + 'static {
    /// The context whose events it reads, and under which its views are queried.
    fn context(&self) -> &'static str;

    /// Its name, which is also the name of its checkpoint and of its first view.
    fn name(&self) -> &'static str;

    /// Raised whenever the rows change for the same events. The store is then rebuilt from the first event.
    fn version(&self) -> u32 {
        1
    }

    /// The tables that can be queried, as `query.<context>.<view>`. Other tables are private notes of the projection.
    fn views(&self) -> &'static [&'static str];

    /// The shapes of the rows of its views, for stages that keep them as tables of a database. Rows without a shape are kept there as JSON.
    fn shapes(&self) -> Vec<RowShape> {
        Vec::new()
    }

    /// All tables it writes.
    fn tables(&self) -> &[&'static str] {
        self.views()
    }

    /// Whether it handles the events of `aggregate`. An unknown event type of such an aggregate halts it.
    fn handles(&self, aggregate: &str) -> bool;

    /// Whether it reads the events of `aggregate` of `context`. Only projections that belong to no context read several contexts.
    fn reads(&self, context: &str, aggregate: &str) -> bool {
        self.context() == context && self.handles(aggregate)
    }

    /// Called before the projection receives events of an incarnation of the stream: at the start, and whenever the stream was made anew.
    fn begins(&self, _generation: &str) {}

    /// Applies one event.
    ///
    /// # Errors
    /// [`ProjectionError`]; the projection then halts before this event's commit.
    fn apply(&self, envelope: &EventEnvelope<'_>, rows: &mut (dyn Rows + '_)) -> Result<(), ProjectionError>;
}

/// A shorter form of a projection of one aggregate's events. It is a [`Projection`] in the aggregate's context, and its first view gives it
/// its name.
///
/// ```
/// # use millstream_domain::{contract::commit::EventEnvelope, decider::{Decider, DecisionContext, Rejection}};
/// # use millstream_domain::projection::{AggregateView, Projection, ProjectionError, Rows};
/// # millstream_domain::commands! { pub enum LampCommand { Light {} = "light" } }
/// # millstream_domain::events! { pub enum LampEvent of "lamp" { Lit {} = "lamp-lit" v 1 } }
/// # struct Lamp;
/// # impl Decider for Lamp {
/// #     type Command = LampCommand;
/// #     type Event = LampEvent;
/// #     type State = ();
/// #     const CONTEXT: &'static str = "home";
/// #     const AGGREGATE: &'static str = "lamp";
/// #     fn decide(_: &(), _: &LampCommand, _: &DecisionContext<'_>) -> Result<Vec<LampEvent>, Rejection> { Ok(vec![]) }
/// #     fn evolve(_: &mut (), _: &LampEvent) {}
/// # }
/// struct LampView;
///
/// impl AggregateView for LampView {
///     type Aggregate = Lamp;
///     const VIEWS: &'static [&'static str] = &["lamp"];
///
///     fn fold(&self, event: LampEvent, envelope: &EventEnvelope<'_>, rows: &mut (dyn Rows + '_)) -> Result<(), ProjectionError> {
///         let LampEvent::Lit(_) = event;
///         rows.write("lamp", envelope.stream_id.id(), &true);
///         Ok(())
///     }
/// }
/// assert_eq!((LampView.context(), LampView.name()), ("home", "lamp"));
/// ```
pub trait AggregateView: Send + Sync + 'static {
    /// Whose events it reads.
    type Aggregate: Decider;

    /// The tables that can be queried; the first one gives it its name.
    const VIEWS: &'static [&'static str];

    /// As [`Projection::version`].
    const VERSION: u32 = 1;

    /// As [`Projection::shapes`].
    fn shapes(&self) -> Vec<RowShape> {
        Vec::new()
    }

    /// Applies one event.
    ///
    /// # Errors
    /// As [`Projection::apply`].
    fn fold(
        &self,
        event: <Self::Aggregate as Decider>::Event,
        envelope: &EventEnvelope<'_>,
        rows: &mut (dyn Rows + '_),
    ) -> Result<(), ProjectionError>;
}

impl<V: AggregateView> Projection for V {
    fn context(&self) -> &'static str {
        V::Aggregate::CONTEXT
    }

    fn name(&self) -> &'static str {
        V::VIEWS.first().copied().unwrap_or_default()
    }

    fn version(&self) -> u32 {
        V::VERSION
    }

    fn views(&self) -> &'static [&'static str] {
        V::VIEWS
    }

    fn shapes(&self) -> Vec<RowShape> {
        AggregateView::shapes(self)
    }

    fn handles(&self, aggregate: &str) -> bool {
        aggregate == V::Aggregate::AGGREGATE
    }

    fn apply(&self, envelope: &EventEnvelope<'_>, rows: &mut (dyn Rows + '_)) -> Result<(), ProjectionError> {
        self.fold(<V::Aggregate as Decider>::Event::from_envelope(envelope)?, envelope, rows)
    }
}

/// From outcomes to rows: what became of each command. It reads OUTCOMES instead of EVENTS.
pub trait OutcomeProjection: Send + Sync + 'static {
    /// Its name, which is also the name of its view in every context.
    fn name(&self) -> &'static str;

    /// As [`Projection::version`].
    fn version(&self) -> u32 {
        1
    }

    /// The shape of its rows, as in [`Projection::shapes`]; the view has its name.
    fn shape(&self) -> Option<RowShape> {
        None
    }

    /// The position in COMMANDS of the newest command that a row is about; `None`, the default, for a row that stays for good.
    ///
    /// A row with a position stays as long as OUTCOMES holds a record of that command or a later one, and is removed some time after that.
    /// So OUTCOMES limits the number of rows, and there is no row that a rebuild would not make. The runner asks this about every row,
    /// repeatedly and beside applying outcomes, so it must only look at the row.
    fn newest_command(&self, _row: &[u8]) -> Option<u64> {
        None
    }

    /// Applies the outcome of one command.
    ///
    /// # Errors
    /// [`ProjectionError`].
    fn apply(&self, outcome: &CommandOutcome, rows: &mut (dyn Rows + '_)) -> Result<(), ProjectionError>;
}
