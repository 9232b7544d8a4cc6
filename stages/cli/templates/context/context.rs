//! {{Context}}: what this context is about, in a sentence.

pub mod {{aggregate_module}};
pub mod {{aggregate_module}}_view;

use millstream::application::Context;

/// The context, as in subjects.
pub const CONTEXT: &str = "{{context}}";

/// What the context has.
pub fn context() -> Context {
    Context::new(CONTEXT).aggregate::<{{aggregate_module}}::{{Aggregate}}>().view({{aggregate_module}}_view::{{Aggregate}}View)
}
