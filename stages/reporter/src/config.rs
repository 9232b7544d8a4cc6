//! The `[reporter]` section.

use std::{fmt, marker::PhantomData, time::Duration};

use millstream_domain::{
    application::{Application, Model},
    projection::Projection,
};
use millstream_read_side::read_side::ReadSideSettings;
use millstream_runtime::config::{Section, SectionKeys};

/// How often the states of open revisions are published unless configured otherwise.
const OPEN_INTERVAL_DEFAULT: Duration = Duration::from_secs(5);

/// The settings that only the reporter of an application has: where its ledgers are, how they are fed and queried, and whether it publishes.
pub struct StageConfig<A> {
    /// The settings that it shares with the projector.
    pub read_side: ReadSideSettings,
    /// Whether revisions are published on REPORTS.
    pub publish: bool,
    /// How often the states of open revisions are published.
    pub open_interval: Duration,
    /// The ledgers of the reports, with their own settings; none if the application is invalid, which is noted.
    pub ledgers: Vec<Box<dyn Projection>>,
    application: PhantomData<fn() -> A>,
}

impl<A: Application> Section for StageConfig<A> {
    const NAME: &'static str = "reporter";
    const ABOUT: &'static str = "How reports are kept, published and queried.";

    fn read(keys: &mut SectionKeys<'_>) -> Self {
        let read_side = ReadSideSettings::read(keys, "data/reporter");
        let publish =
            keys.flag("publish", true, "publish revisions on REPORTS; without, they wait in the outbox");
        let open_interval = keys.duration(
            "open_interval",
            OPEN_INTERVAL_DEFAULT,
            "how often the newest state of each open revision is published; sealed ones do not wait",
        );
        let ledgers = match Model::of::<A>() {
            Ok(model) => {
                let ledgers: Vec<_> = model.reports(keys).into_iter().map(|report| report.ledger).collect();
                read_side.check_contexts(keys, &ledgers);
                ledgers
            }
            Err(error) => {
                keys.general_problem(error);
                Vec::new()
            }
        };
        Self { read_side, publish, open_interval, ledgers, application: PhantomData }
    }
}

impl<A> fmt::Debug for StageConfig<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("StageConfig");
        shown.field("read_side", &self.read_side).field("publish", &self.publish).finish_non_exhaustive()
    }
}
