//! Whether the file of the tables is whole, and what happens if it is not.

use std::{path::PathBuf, sync::Arc};

use millstream_read_side::read_side::DamagedFile;
use millstream_runtime::{file_work::end_of, health::Condition, metrics::Metrics, shutdown::Shutdown};
use millstream_store::file::mark_damaged;

use crate::{database::DatabaseError, queries::reader::Reader};

/// The condition of readiness, and what the file is called in the metric of damaged files.
pub(crate) const TABLES: &str = "tables";

/// What is needed to watch over it.
pub(crate) struct TablesHealth {
    pub(crate) condition: Condition,
    pub(crate) metrics: Metrics,
    pub(crate) damaged_file: DamagedFile,
    /// The file; none in PostgreSQL, which looks after its own.
    pub(crate) path: Option<PathBuf>,
}

impl TablesHealth {
    /// Looks for damage once, and notices what queries meet, until `shutdown`. Damage is marked for the next start. If that sets the file
    /// aside, the shutdown is requested, and the damage returned; otherwise queries that do not meet it are still answered, and the stage is
    /// no longer ready.
    pub(crate) async fn watch(self, reader: Arc<dyn Reader>, shutdown: Shutdown) -> Option<String> {
        let Self { condition, metrics, damaged_file, path } = self;
        let looking = tokio::task::spawn_blocking({
            let (reader, stop) = (Arc::clone(&reader), shutdown.token().clone());
            move || reader.look_for_damage(&stop)
        });
        let (mut known, mut to_fill_anew) = (None, None);
        let troubles = || {
            if known.is_none()
                && let Some(detail) = reader.damage()
            {
                metrics.damaged_files(TABLES).inc();
                if let Some(path) = &path {
                    mark_damaged(path, &detail);
                }
                known = Some(DatabaseError::Damaged { detail: detail.clone() }.to_string());
                if damaged_file == DamagedFile::Rebuild {
                    to_fill_anew = Some(detail);
                    shutdown.request();
                } else {
                    tracing::error!(error = known, "what is whole is still answered");
                }
            }
            known.iter().cloned().collect()
        };
        condition.follow(shutdown.token(), troubles).await;
        end_of(looking).await;
        to_fill_anew
    }
}
