//! For tests of stages: their configuration files.

pub mod stage_files;
