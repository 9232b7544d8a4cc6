//! {{Context}}: what this context is about, in a sentence.

pub mod {{aggregate_module}};
pub mod {{aggregate_module}}_deadline;

use millstream::prelude::*;

/// The context, as in subjects.
pub const CONTEXT: &str = "{{context}}";

/// What the context has.
pub fn context() -> Context {
    Context::new(CONTEXT)
        .aggregate::<{{aggregate_module}}::{{Aggregate}}>()
        .process("{{aggregate}}-deadline", {{aggregate_module}}_deadline::{{Aggregate}}Deadline::from_keys)
}
