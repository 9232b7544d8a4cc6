//! From commits and outcomes to rows, reports and answers.
//!
//! [`projection_runner`] keeps projections up with their streams, [`query_service`] answers questions about the rows,
//! [`report_publisher`] puts revisions on REPORTS, [`read_side`] puts them together for a stage.
//! Deliberately absent: decisions, and what a row means.

#![deny(missing_docs)]

pub mod projection_runner;
pub mod query_service;
pub mod read_side;
pub mod report_publisher;
