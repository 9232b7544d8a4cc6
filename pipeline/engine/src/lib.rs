//! The crates of the engine under one name, until everybody names the crate that has what they need.

pub use millstream_contract::{self as contract, error_text, exit_code, seeded_bug};
pub use millstream_domain::{
    commands, content_digest, decider, events, process, projection, report, report_tables, row_watch, schema,
};
pub use millstream_jetstream::{
    broker, event_store, group_append, intake, lease, nats_broker, nats_server, past, provision, retry,
    stream_feed, stream_reader,
};
pub use millstream_processes::process_runner;
pub use millstream_proof::verification;
pub use millstream_read_side::{projection_runner, query_service, read_side, report_publisher};
pub use millstream_runtime::{
    config, connection, health, metrics, shutdown, stage, stage_check, stage_needs, status_service, telemetry,
};
pub use millstream_store::{read_store, side_by_side, text_key};
pub use millstream_write_side::{
    aggregate_state, command_handler, id_index, outcome_journal, round, settlement, state_cache,
    state_snapshots, submit_service,
};

/// What tests need.
#[cfg(feature = "testing")]
pub mod testing {
    pub use millstream_contract::testing::*;
    pub use millstream_domain::testing::*;
    pub use millstream_jetstream::testing::*;
    pub use millstream_proof::testing::*;
    pub use millstream_runtime::testing::*;
    pub use millstream_store::testing::*;

    /// Tests of projections.
    pub mod project {
        pub use millstream_domain::testing::project::*;
        pub use millstream_store::testing::batchings::assert_repeatable;
    }
}
