//! The read side: from commits and outcomes to rows, reports and answers.
//!
//! In reading order: [`projection_runner`] reads the streams and keeps projections up to date. [`query_service`] answers questions about their
//! rows, and [`change_teller`] announces which rows have changed. [`report_publisher`] publishes revisions of reports on REPORTS. [`read_side`]
//! puts these together for a stage.
//!
//! Deliberately absent: decisions, and what a row means.

pub mod change_teller;
pub mod client_shares;
pub mod projection_runner;
pub mod query_service;
pub mod read_side;
pub mod report_publisher;
