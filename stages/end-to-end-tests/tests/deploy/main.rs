//! What a deployment is made of, tried without a container engine and without a cluster: here the production server's
//! configuration and the stages on it, each with the permissions of its own user.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends where something unexpected happens"
)]

mod administrator;
mod allow_lists;
mod boards;
mod bundled_nats;
mod chart;
mod chart_values;
mod compose;
mod container;
mod control_plane;
mod forgeries;
mod helm_chart;
mod kubernetes;
mod kubernetes_running;
mod limits;
mod load;
mod metrics_format;
mod origins;
mod own_application;
mod permission_matrix;
mod pods;
mod process;
mod production_server;
mod raw_client;
mod rotation;
mod runbooks;
mod stages_with_least_privilege;
mod start_failures;
mod symbols;
mod users;
