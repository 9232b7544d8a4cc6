//! {{Context}}: what this context is about, in a sentence.

pub mod {{aggregate_module}};
pub mod {{aggregate_module}}_number;

use millstream::{
    prelude::*,
    values::claims::{Claim, ClaimProcess},
};

/// The context, as in subjects.
pub const CONTEXT: &str = "{{context}}";

/// Where the claims are.
#[derive(Debug)]
pub struct Here;

impl InContext for Here {
    const CONTEXT: &'static str = CONTEXT;
}

/// What the context has.
pub fn context() -> Context {
    Context::new(CONTEXT)
        .aggregate::<{{aggregate_module}}::{{Aggregate}}>()
        .aggregate::<Claim<Here>>()
        .process("{{aggregate}}-number", |_| ClaimProcess::<{{aggregate_module}}_number::{{Aggregate}}Number>::default())
}
