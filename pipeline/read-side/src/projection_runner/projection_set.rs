//! The projections of a process, and the names under which their rows can be queried.

use std::collections::BTreeSet;

pub use millstream_domain::projection::view_name;
use millstream_domain::projection::{OutcomeProjection, Projection};
use millstream_store::read_store::{ProjectionId, TableName};

/// Two projections of one process have the same name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {name} is claimed twice; names must differ within a process")]
pub struct NameTaken {
    /// What the name is for: a projection or a view.
    pub kind: &'static str,
    /// The name.
    pub name: String,
}

/// What a projection folds: events or outcomes.
pub(super) enum Input {
    Events(Box<dyn Projection>),
    Outcomes(Box<dyn OutcomeProjection>),
}

/// One projection of the set.
pub(super) struct Member {
    pub(super) id: ProjectionId,
    pub(super) version: u32,
    pub(super) input: Input,
}

/// A view by its names, with the table that has its rows.
pub(super) struct ViewName {
    pub(super) context: String,
    pub(super) view: String,
    pub(super) table: TableName,
    pub(super) member: usize,
}

/// Projections that share a file.
#[derive(Default)]
pub struct ProjectionSet {
    pub(super) members: Vec<Member>,
    pub(super) views: Vec<ViewName>,
}

impl ProjectionSet {
    /// Combines projections of events with projections of outcomes. Every context in `contexts` shows the view of each projection
    /// of outcomes.
    ///
    /// # Errors
    /// [`NameTaken`] when two have the same name in a context, or the same view.
    pub fn new(
        projections: Vec<Box<dyn Projection>>,
        outcome_projections: Vec<Box<dyn OutcomeProjection>>,
        contexts: &[&str],
    ) -> Result<Self, NameTaken> {
        let mut set = Self::default();
        for projection in projections {
            let id = ProjectionId::of_context(projection.context(), projection.name());
            let member = set.members.len();
            for table in projection.views() {
                set.views.push(ViewName {
                    context: projection.context().to_owned(),
                    view: view_name(table),
                    table: TableName::new(&id, table),
                    member,
                });
            }
            set.members.push(Member { id, version: projection.version(), input: Input::Events(projection) });
        }
        for projection in outcome_projections {
            let id = ProjectionId::of_outcomes(projection.name());
            let member = set.members.len();
            set.views.extend(contexts.iter().map(|context| ViewName {
                context: (*context).to_owned(),
                view: view_name(projection.name()),
                table: TableName::new(&id, context),
                member,
            }));
            set.members.push(Member {
                id,
                version: projection.version(),
                input: Input::Outcomes(projection),
            });
        }
        set.check_names()?;
        Ok(set)
    }

    pub(super) fn members_of_events(&self) -> Vec<usize> {
        self.indices(|input| matches!(input, Input::Events(_)))
    }

    pub(super) fn members_of_outcomes(&self) -> Vec<usize> {
        self.indices(|input| matches!(input, Input::Outcomes(_)))
    }

    fn indices(&self, wanted: impl Fn(&Input) -> bool) -> Vec<usize> {
        (0..).zip(&self.members).filter(|(_, member)| wanted(&member.input)).map(|(index, _)| index).collect()
    }

    fn check_names(&self) -> Result<(), NameTaken> {
        let mut ids = BTreeSet::new();
        if let Some(member) = self.members.iter().find(|member| !ids.insert(member.id.as_str())) {
            return Err(NameTaken { kind: "projection", name: member.id.to_string() });
        }
        let mut views = BTreeSet::new();
        match self.views.iter().find(|each| !views.insert((each.context.as_str(), each.view.as_str()))) {
            Some(each) => Err(NameTaken { kind: "view", name: format!("{}.{}", each.context, each.view) }),
            None => Ok(()),
        }
    }
}
