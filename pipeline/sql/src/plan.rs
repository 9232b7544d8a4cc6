//! The tables of an application, projection by projection.

use std::{collections::BTreeSet, sync::Arc};

use millstream_domain::projection::{OutcomeProjection, Projection, RowShape, view_name};
use millstream_store::read_store::{ProjectionId, TableName};

use crate::{
    definition::{BESIDE, DECIMAL, Dialect, SYSTEM, definition_of},
    table::{ShapeError, Table},
};

/// The longest name that PostgreSQL keeps whole, minus the longest suffix that a table's name gets: that of the index on `business_date`.
const NAME_LENGTH_MAX: usize = 63 - "_business_date".len();

/// A table and the view that it shows.
#[derive(Debug, Clone)]
pub struct PlannedTable {
    /// The view's table in the file of rows.
    pub source: TableName,
    /// The table.
    pub table: Arc<Table>,
}

/// The tables of a projection. They share one position and are rebuilt together.
#[derive(Debug, Clone)]
pub struct PlannedProjection {
    /// The projection.
    pub id: ProjectionId,
    /// Its tables.
    pub tables: Vec<PlannedTable>,
}

impl PlannedProjection {
    /// Everything that defines its tables. If a database was filled with another definition, the tables are rebuilt.
    pub fn definition(&self, dialect: Dialect) -> String {
        definition_of(dialect, self.tables.iter().map(|each| &*each.table))
    }
}

/// Why an application has no tables.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A view's shape cannot be used.
    #[error("no table can be made in context {context}")]
    Shape {
        /// The context.
        context: String,
        /// Why.
        #[source]
        source: ShapeError,
    },
    /// A shape names a view that does not exist.
    #[error("{projection} tells the shape of {view}, which is no view of it")]
    NoView {
        /// The projection.
        projection: String,
        /// The view.
        view: String,
    },
    /// Two tables have the same name.
    #[error("two tables would be called {name}")]
    Twice {
        /// The name.
        name: String,
    },
    /// A name is too long for PostgreSQL.
    #[error("the table {name} needs a name of at most {NAME_LENGTH_MAX} letters")]
    TooLong {
        /// The name.
        name: String,
    },
    /// A context has the name of the schema of Millstream's own tables.
    #[error("no context of an application with a database can be called {SYSTEM}")]
    Reserved,
}

/// All tables of an application.
#[derive(Debug, Clone)]
pub struct Plan {
    /// By projection.
    pub projections: Vec<PlannedProjection>,
}

impl Plan {
    /// The tables of all views of these projections. Those of outcomes have a table in each of the contexts.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn new<'p>(
        projections: impl IntoIterator<Item = &'p dyn Projection>,
        outcome_projections: impl IntoIterator<Item = &'p dyn OutcomeProjection>,
        contexts: &[&str],
    ) -> Result<Self, PlanError> {
        let of_events = projections.into_iter().map(of_projection);
        let of_outcomes = outcome_projections.into_iter().map(|projection| of_outcomes(projection, contexts));
        let plan = Self { projections: of_events.chain(of_outcomes).collect::<Result<_, _>>()? };
        plan.check_names()?;
        Ok(plan)
    }

    /// The tables of a projection.
    pub fn projection(&self, id: &ProjectionId) -> Option<&PlannedProjection> {
        self.projections.iter().find(|each| each.id == *id)
    }

    /// The contexts that have tables, as subjects have them.
    pub fn contexts(&self) -> Vec<String> {
        let mut contexts: Vec<String> = self
            .projections
            .iter()
            .filter(|each| !each.id.is_of_outcomes())
            .filter_map(|each| each.id.as_str().split('.').next().map(str::to_owned))
            .collect();
        contexts.sort_unstable();
        contexts.dedup();
        contexts
    }

    /// The projections of events. An answer's position is a position of theirs.
    pub fn of_events(&self) -> Vec<String> {
        let of_events = self.projections.iter().filter(|each| !each.id.is_of_outcomes());
        of_events.map(|each| each.id.to_string()).collect()
    }

    /// All tables.
    pub fn tables(&self) -> impl Iterator<Item = &Table> {
        self.projections.iter().flat_map(|each| &each.tables).map(|each| &*each.table)
    }

    fn check_names(&self) -> Result<(), PlanError> {
        let mut seen = BTreeSet::new();
        for table in self.tables() {
            if table.context == SYSTEM {
                return Err(PlanError::Reserved);
            }
            let lists = table.lists.iter().map(|list| &list.name);
            for name in [&table.name].into_iter().chain(lists) {
                let full = format!("{}_{name}", table.context);
                if full.len() > NAME_LENGTH_MAX {
                    return Err(PlanError::TooLong { name: full });
                }
                for name in [full.clone(), format!("{full}{DECIMAL}"), format!("{full}{BESIDE}")] {
                    if !seen.insert(name.clone()) {
                        return Err(PlanError::Twice { name });
                    }
                }
            }
        }
        Ok(())
    }
}

fn of_projection(projection: &dyn Projection) -> Result<PlannedProjection, PlanError> {
    let context = projection.context();
    let id = ProjectionId::of_context(context, projection.name());
    let shapes = projection.shapes();
    if let Some(shape) = shapes.iter().find(|shape| !projection.views().contains(&shape.view)) {
        return Err(PlanError::NoView { projection: id.to_string(), view: shape.view.to_owned() });
    }
    let tables = projection.views().iter().map(|view| {
        let shape = shapes.iter().find(|shape| shape.view == *view);
        let table = Arc::new(table(context, view, shape)?);
        Ok(PlannedTable { source: TableName::new(&id, view), table })
    });
    let tables = tables.collect::<Result<_, _>>()?;
    Ok(PlannedProjection { id, tables })
}

fn of_outcomes(
    projection: &dyn OutcomeProjection,
    contexts: &[&str],
) -> Result<PlannedProjection, PlanError> {
    let id = ProjectionId::of_outcomes(projection.name());
    let shape = projection.shape();
    if let Some(shape) = shape.as_ref().filter(|shape| shape.view != projection.name()) {
        return Err(PlanError::NoView { projection: id.to_string(), view: shape.view.to_owned() });
    }
    let tables = contexts.iter().map(|context| {
        let table = Arc::new(table(context, projection.name(), shape.as_ref())?);
        Ok(PlannedTable { source: TableName::new(&id, context), table })
    });
    let tables = tables.collect::<Result<_, _>>()?;
    Ok(PlannedProjection { id, tables })
}

fn table(context: &str, view: &str, shape: Option<&RowShape>) -> Result<Table, PlanError> {
    match shape {
        None => Ok(Table::without_shape(context, &view_name(view))),
        Some(shape) => Table::of_shape(context, shape)
            .map_err(|source| PlanError::Shape { context: context.to_owned(), source }),
    }
}
