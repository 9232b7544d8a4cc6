//! The `[projector]` section.

use std::{fmt, marker::PhantomData};

use millstream_domain::application::{Application, Model, Views};
use millstream_read_side::read_side::ReadSideSettings;
use millstream_runtime::config::{Section, SectionKeys};

/// The settings that only the projector of an application has: where its rows are, how they are fed and queried, and what fills them.
pub struct StageConfig<A> {
    /// The settings that it shares with the reporter.
    pub read_side: ReadSideSettings,
    /// The projections of the views, with their own settings; none if the application is invalid, which is noted.
    pub views: Views,
    application: PhantomData<fn() -> A>,
}

impl<A: Application> Section for StageConfig<A> {
    const NAME: &'static str = "projector";
    const ABOUT: &'static str = "How views are filled and queried.";

    fn read(keys: &mut SectionKeys<'_>) -> Self {
        let read_side = ReadSideSettings::read(keys, "data/projector");
        let views = match Model::of::<A>() {
            Ok(model) => {
                let views = model.views(keys);
                read_side.check_contexts(keys, &views.projections);
                views
            }
            Err(error) => {
                keys.general_problem(error);
                Views { projections: Vec::new(), outcome_projections: Vec::new() }
            }
        };
        Self { read_side, views, application: PhantomData }
    }
}

impl<A> fmt::Debug for StageConfig<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("StageConfig").field("read_side", &self.read_side).finish_non_exhaustive()
    }
}
