//! {{Context}}: what this context is about, in a sentence.

pub mod {{aggregate_module}};
pub mod {{aggregate_module}}_daily;

use millstream::prelude::*;

/// The context, as in subjects.
pub const CONTEXT: &str = "{{context}}";

/// What the context has.
pub fn context() -> Context {
    Context::new(CONTEXT).aggregate::<{{aggregate_module}}::{{Aggregate}}>().report({{aggregate_module}}_daily::{{Aggregate}}Daily)
}
