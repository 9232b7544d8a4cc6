//! The refusals with their codes, and the JSON of answers.

use millstream_contract::position::StreamPosition;
use millstream_store::read_store::StoreError;

/// Why a query has no answer. The codes are those of HTTP.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The body or a header is malformed. The text names the field.
    #[error("{0}")]
    Malformed(String),
    /// The view has no row with that key.
    #[error("{view} has no row {key:?}")]
    NoSuchKey {
        /// The view.
        view: String,
        /// The key.
        key: String,
        /// The position at which there is no such row.
        position: Box<StreamPosition>,
    },
    /// The position is of another generation of the stream.
    #[error("{asked} is of another generation than {view}, which is at {reached}: the stream was made anew")]
    OtherGeneration {
        /// The view.
        view: String,
        /// The position that was asked for.
        asked: String,
        /// The view's position.
        reached: String,
    },
    /// One row is larger than an answer may be.
    #[error(
        "row {key:?} of {view} has {bytes} bytes and an answer at most {bytes_max}: raise the server's max_payload, or read the row with `millstream query --as-of`, which folds it itself"
    )]
    RowTooLarge {
        /// The view.
        view: String,
        /// The key.
        key: String,
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// Too many queries are being answered already.
    #[error("{in_flight_max} queries{} are being answered already; try again", if *.of_client { " of this client" } else { "" })]
    Busy {
        /// How many are answered at once.
        in_flight_max: usize,
        /// Whether the client's share is reached, or the limit for all clients.
        of_client: bool,
    },
    /// Too many queries wait for their position already.
    #[error("{waiting_max} queries{} wait for their position already; try again", if *.of_client { " of this client" } else { "" })]
    BusyWaiting {
        /// How many may wait.
        waiting_max: usize,
        /// Whether the client's share is reached, or the limit for all clients.
        of_client: bool,
    },
    /// The view halted at an event that it could not apply.
    #[error("{view} halted at {stream} {sequence}: {reason}")]
    Halted {
        /// The view.
        view: String,
        /// The stream.
        stream: &'static str,
        /// The sequence.
        sequence: u64,
        /// Why.
        reason: String,
    },
    /// The view's rows are being built and are not complete yet.
    #[error("{view} is being built: at {sequence} of {complete_from}; try again later")]
    Incomplete {
        /// The view.
        view: String,
        /// How far it has come.
        sequence: u64,
        /// The sequence at which it will be complete.
        complete_from: u64,
    },
    /// The position was not reached in time.
    #[error("{view} has not reached {asked} within {waited_ms} ms; it is at {reached}")]
    NotReached {
        /// The view.
        view: String,
        /// The position that was asked for.
        asked: String,
        /// The view's position.
        reached: String,
        /// How long the query waited.
        waited_ms: u128,
    },
    /// The read store failed.
    #[error("the read store failed")]
    Store(#[source] Box<StoreError>),
}

impl From<StoreError> for QueryError {
    fn from(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}

impl QueryError {
    /// The value of `Nats-Service-Error-Code`.
    pub fn code(&self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::NoSuchKey { .. } => 404,
            Self::OtherGeneration { .. } => 409,
            Self::RowTooLarge { .. } => 413,
            Self::Busy { .. } | Self::BusyWaiting { .. } => 429,
            Self::Store(_) => 500,
            Self::Halted { .. } | Self::Incomplete { .. } => 503,
            Self::NotReached { .. } => 504,
        }
    }
}

/// `{"key":…,"value":…}`, the value as stored.
pub(super) fn put_row(body: &mut Vec<u8>, key: &str, value: &[u8]) {
    body.extend_from_slice(b"{\"key\":");
    put_text(body, key);
    body.extend_from_slice(b",\"value\":");
    body.extend_from_slice(value);
    body.push(b'}');
}

/// `{"key":…,"too_large":{"bytes":…,"bytes_max":…}}`, for a row that no answer can hold.
pub(super) fn put_too_large(body: &mut Vec<u8>, key: &str, bytes: usize, bytes_max: usize) {
    body.extend_from_slice(b"{\"key\":");
    put_text(body, key);
    body.extend_from_slice(
        format!(",\"too_large\":{{\"bytes\":{bytes},\"bytes_max\":{bytes_max}}}}}").as_bytes(),
    );
}

pub(super) fn put_text(body: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(body, text).expect("a text is always JSON, and memory can always be written");
}
