//! The `[reporter]` section.

use millstream_engine::{
    config::{Section, SectionKeys},
    read_side::ReadSideSettings,
};

/// What only the reporter has: where its ledgers are, how they are fed and queried, and whether it publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageConfig {
    /// What it shares with the projector.
    pub read_side: ReadSideSettings,
    /// Whether revisions are published on REPORTS.
    pub publish: bool,
}

impl Section for StageConfig {
    const NAME: &'static str = "reporter";
    const ABOUT: &'static str = "How reports are kept, published and queried.";

    fn read(keys: &mut SectionKeys<'_>) -> Self {
        Self {
            read_side: ReadSideSettings::read(keys, "data/reporter"),
            publish: keys.flag(
                "publish",
                true,
                "publish revisions on REPORTS; without, they wait in the outbox",
            ),
        }
    }
}
