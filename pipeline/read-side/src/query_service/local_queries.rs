//! The queries of `query_service` without NATS: the same bodies and the same answers, from rows in this process.

use millstream_contract::position::StreamPosition;
use millstream_store::read_store::ReadStore;

use super::{
    Operation, QueryError, QueryServiceConfig,
    places::Place,
    view_query::{Answer, Asked, Reads, ViewQuery},
};
use crate::projection_runner::ViewDirectory;

/// Views of a store that can be queried within the process.
#[derive(Debug)]
pub struct LocalQueries {
    store: ReadStore,
    views: ViewDirectory,
    reads: Reads,
    config: QueryServiceConfig,
}

impl LocalQueries {
    /// The views of a store.
    pub fn new(store: ReadStore, views: ViewDirectory) -> Self {
        let config = QueryServiceConfig::new("local", env!("CARGO_PKG_VERSION"));
        Self { store, views, reads: Reads::new(), config }
    }

    /// The answer that the service would give to `body`, in at most `bytes_max` bytes, and the position of its rows.
    ///
    /// # Errors
    /// [`QueryError`]; an unknown view is [`QueryError::Malformed`].
    pub async fn ask(
        &self,
        (context, view): (&str, &str),
        operation: Operation,
        body: &[u8],
        bytes_max: usize,
    ) -> Result<(Vec<u8>, StreamPosition), QueryError> {
        let Some(found) = self.views.get(context, view) else {
            return Err(QueryError::Malformed(format!("there is no view {context}.{view}")));
        };
        let query = ViewQuery::new(self.store.clone(), found.clone(), self.reads.clone(), &self.config);
        let asked = Asked { position: None, wait_ms: None, body, bytes_max };
        let place = Place { at_once: None, waits: self.config.waits(), client: String::new() };
        let Answer { body, position, .. } = query.answer(operation, &asked, place).await?;
        Ok((body, position))
    }
}
