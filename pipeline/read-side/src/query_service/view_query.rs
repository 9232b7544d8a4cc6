//! One query of one view: waits for the position, reads, and writes the answer. Deliberately absent: how queries and answers are sent.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use async_nats::HeaderMap;
use millstream_contract::{header, position::StreamPosition};
use millstream_runtime::file_work::end_of;
use millstream_store::read_store::{ReadStore, Snapshot};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use super::{
    QueryError, QueryServiceConfig,
    answer::{put_row, put_text, put_too_large},
    cursor,
    places::Place,
    request::{GetBody, ListBody, Listing, Operation, parse, parse_position, parse_wait},
};
use crate::{
    client_shares::Share,
    projection_runner::{ProjectionStatus, View},
};

/// The part of a message's size that stays free for headers and for the JSON around the rows.
const FRAME_BYTES: usize = 2_048;

/// A query as it arrived.
pub(super) struct Asked<'a> {
    pub(super) position: Option<&'a str>,
    pub(super) wait_ms: Option<&'a str>,
    pub(super) body: &'a [u8],
    /// The largest message that the server accepts.
    pub(super) bytes_max: usize,
}

/// How many reads of the file happen at once. Rows and lists have separate limits, because a list may take as long as thousands of rows.
const READS_MAX: usize = 16;

/// The permits to read, shared by all views of a service.
#[derive(Debug, Clone)]
pub(super) struct Reads {
    rows: Arc<Semaphore>,
    lists: Arc<Semaphore>,
}

impl Reads {
    pub(super) fn new() -> Self {
        let places = || Arc::new(Semaphore::new(READS_MAX));
        Self { rows: places(), lists: places() }
    }

    /// A permit for as long as the answer is in memory. The semaphores are never closed, so there always is one.
    async fn place(&self, read: &Read) -> Option<OwnedSemaphorePermit> {
        let places = match read {
            Read::Get { .. } => &self.rows,
            Read::List(_) => &self.lists,
        };
        Arc::clone(places).acquire_owned().await.ok()
    }
}

/// Rows as JSON, and their position.
pub(super) struct Answer {
    pub(super) body: Vec<u8>,
    pub(super) position: StreamPosition,
    pub(super) waited: Duration,
    /// Dropping it lets another query read. It must be dropped together with the body, or a thousand bodies of a megabyte could be in memory
    /// for clients that do not take them.
    pub(super) place: Option<OwnedSemaphorePermit>,
}

/// A view that can be queried.
#[derive(Clone)]
pub(super) struct ViewQuery {
    store: ReadStore,
    view: View,
    reads: Reads,
    config: QueryServiceConfig,
}

enum Read {
    Get { key: String },
    List(Listing),
}

impl ViewQuery {
    pub(super) fn new(store: ReadStore, view: View, reads: Reads, config: &QueryServiceConfig) -> Self {
        Self { store, view, reads, config: config.clone() }
    }

    /// The position of the view, for answers without rows.
    pub(super) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let status = self.view.status.borrow();
        if !status.generation.is_empty() {
            headers.insert(header::POSITION, status.position().to_string());
        }
        headers
    }

    pub(super) async fn answer(
        &self,
        operation: Operation,
        asked: &Asked<'_>,
        mut place: Place,
    ) -> Result<Answer, QueryError> {
        let read = match operation {
            Operation::Get => Read::Get { key: parse::<GetBody>(asked.body)?.key },
            Operation::List => Read::List(parse::<ListBody>(asked.body)?.listing()?),
        };
        let position = parse_position(asked.position)?;
        let wait = parse_wait(asked.wait_ms, &self.config)?;
        let began = Instant::now();
        // It is held until the answer is there. When a position is reached, all queries that waited for it are answered, a few at a time.
        let _waits = self.wait_for(position.as_ref(), wait, &mut place).await?;
        let waited = began.elapsed();
        let place = self.reads.place(&read).await;
        let this = self.clone();
        let bytes_max = asked.bytes_max.saturating_sub(FRAME_BYTES);
        let read = tokio::task::spawn_blocking(move || this.read(&read, bytes_max));
        let (body, position) = end_of(read).await?;
        Ok(Answer { body, position, waited, place })
    }

    /// Returns when the view is complete and has reached `asked`.
    async fn wait_for(
        &self,
        asked: Option<&StreamPosition>,
        wait: Duration,
        place: &mut Place,
    ) -> Result<Option<Share>, QueryError> {
        let mut status = self.view.status.clone();
        let ready = self.check(&status.borrow(), asked)?;
        if ready {
            return Ok(None);
        }
        let waits = place.wait()?;
        let _hurry = self.view.hurry.begin();
        let mut refused = Ok(());
        let reached = status.wait_for(|status| match self.check(status, asked) {
            Ok(ready) => ready,
            Err(error) => {
                refused = Err(error);
                true
            }
        });
        let reached = tokio::time::timeout(wait, reached).await.is_ok_and(|reached| reached.is_ok());
        refused?;
        match asked {
            _ if reached => Ok(Some(waits)),
            Some(asked) => Err(QueryError::NotReached {
                view: self.name(),
                asked: asked.to_string(),
                reached: self.view.status.borrow().position().to_string(),
                waited_ms: wait.as_millis(),
            }),
            None => Ok(None),
        }
    }

    /// Whether a query can be answered now. An error means that waiting would not help. A query without a position does not wait.
    fn check(&self, status: &ProjectionStatus, asked: Option<&StreamPosition>) -> Result<bool, QueryError> {
        if let Some(halt) = &status.halted {
            return Err(QueryError::Halted {
                view: self.name(),
                stream: status.stream,
                sequence: halt.sequence,
                reason: halt.reason.to_string(),
            });
        }
        let Some(asked) = asked else {
            return match status.is_complete() {
                true => Ok(true),
                false => Err(QueryError::Incomplete {
                    view: self.name(),
                    sequence: status.sequence,
                    complete_from: status.complete_from,
                }),
            };
        };
        if asked.stream != status.stream {
            return Err(QueryError::Malformed(format!(
                "{}: {asked} is a position in {}, but {} follows {}",
                header::POSITION,
                asked.stream,
                self.name(),
                status.stream
            )));
        }
        if !status.generation.is_empty() && *asked.generation != *status.generation {
            return Err(QueryError::OtherGeneration {
                view: self.name(),
                asked: asked.to_string(),
                reached: status.position().to_string(),
            });
        }
        Ok(status.is_complete() && status.sequence >= asked.sequence)
    }

    fn read(&self, read: &Read, bytes_max: usize) -> Result<(Vec<u8>, StreamPosition), QueryError> {
        let snapshot = self.store.snapshot()?;
        let position = self.position(&snapshot)?;
        let body = match read {
            Read::Get { key } => self.get(&snapshot, key, bytes_max, &position)?,
            Read::List(listing) => self.list(&snapshot, listing, bytes_max)?,
        };
        Ok((body, position))
    }

    fn get(
        &self,
        snapshot: &Snapshot,
        key: &str,
        bytes_max: usize,
        position: &StreamPosition,
    ) -> Result<Vec<u8>, QueryError> {
        let value = snapshot.get(&self.view.table, key)?.ok_or_else(|| QueryError::NoSuchKey {
            view: self.name(),
            key: key.to_owned(),
            position: Box::new(position.clone()),
        })?;
        let mut body = Vec::with_capacity(value.len() + key.len() + 32);
        put_row(&mut body, key, &value);
        if body.len() > bytes_max {
            return Err(self.too_large(key, body.len(), bytes_max));
        }
        Ok(body)
    }

    /// As many rows as the list asks for, but no more than fit into one message of the server. A row that does not fit into any message is
    /// listed with its key and size, so that it does not hide the rows after it.
    fn list(&self, snapshot: &Snapshot, listing: &Listing, bytes_max: usize) -> Result<Vec<u8>, QueryError> {
        let mut body = b"{\"rows\":[".to_vec();
        let mut count = 0;
        let mut last_key = String::new();
        let mut more = false;
        let mut key_too_large = None;
        snapshot.visit(&self.view.table, listing.range(), listing.direction, |key, value| {
            if count == listing.limit {
                more = true;
                return ControlFlow::Break(());
            }
            let before = body.len();
            if count > 0 {
                body.push(b',');
            }
            put_row(&mut body, key, value);
            // The cursor repeats the last key, with two digits for each byte.
            let fits = |body: &Vec<u8>| body.len() + 2 * key.len() <= bytes_max;
            if !fits(&body) && count == 0 {
                let bytes = body.len() - before;
                body.truncate(before);
                put_too_large(&mut body, key, bytes, bytes_max);
                if !fits(&body) {
                    key_too_large = Some((key.to_owned(), bytes));
                }
            }
            if !fits(&body) {
                body.truncate(before);
                more = true;
                return ControlFlow::Break(());
            }
            count += 1;
            last_key.clear();
            last_key.push_str(key);
            ControlFlow::Continue(())
        })?;
        if let Some((key, bytes)) = key_too_large {
            return Err(self.too_large(&key, bytes, bytes_max));
        }
        body.extend_from_slice(b"],\"cursor\":");
        match more {
            true => put_text(&mut body, &cursor::encode(&last_key)),
            false => body.extend_from_slice(b"null"),
        }
        body.push(b'}');
        Ok(body)
    }

    /// The position of the rows. It must come from the same snapshot as the rows, because the runner may commit in between.
    fn position(&self, snapshot: &Snapshot) -> Result<StreamPosition, QueryError> {
        let stream = self.view.status.borrow().stream;
        let checkpoint = snapshot.checkpoint(&self.view.projection)?;
        Ok(checkpoint.map_or_else(
            || StreamPosition::new(stream, "", 0),
            |checkpoint| StreamPosition::new(stream, checkpoint.generation, checkpoint.sequence),
        ))
    }

    fn too_large(&self, key: &str, bytes: usize, bytes_max: usize) -> QueryError {
        QueryError::RowTooLarge { view: self.name(), key: key.to_owned(), bytes, bytes_max }
    }

    fn name(&self) -> String {
        format!("{}.{}", self.view.context, self.view.name)
    }
}
