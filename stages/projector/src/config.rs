//! The `[projector]` section.

use millstream_engine::{
    config::{Section, SectionKeys},
    read_side::ReadSideSettings,
};

/// What only the projector has: where its rows are and how they are fed and queried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageConfig {
    /// What it shares with the reporter.
    pub read_side: ReadSideSettings,
}

impl Section for StageConfig {
    const NAME: &'static str = "projector";
    const ABOUT: &'static str = "How views are filled and queried.";

    fn read(keys: &mut SectionKeys<'_>) -> Self {
        Self { read_side: ReadSideSettings::read(keys, "data/projector") }
    }
}
