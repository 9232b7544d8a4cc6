//! Whole systems: the real binaries, a real nats-server, the real `nats` CLI. One module for each thing that a person does
//! or that goes wrong.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends where something unexpected happens"
)]

mod bad_input;
mod command_line;
mod configuration;
mod damaged_row;
mod figures;
mod first_steps;
mod import;
mod import_files;
mod import_guide;
mod import_mended;
mod import_order;
mod import_property;
mod import_rows;
mod lifecycle;
mod nats_cli_alone;
mod set_aside;
mod tables;
