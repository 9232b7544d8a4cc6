//! The rules of {{app}}. Pure: no clock, no randomness, no files, no server; time and ids arrive as arguments.
//!
//! One folder a context. Beside it, the function `context` in `<context>.rs` lists what the context has. `{{app}} new context`
//! adds to the list of contexts here.

pub mod {{context_module}};

use millstream::prelude::*;

/// The application.
#[derive(Debug)]
pub struct {{App}};

impl Application for {{App}} {
    const NAME: &'static str = "{{app}}";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const ABOUT: &'static str = "{{App}}, on Millstream";

    fn contexts() -> Vec<Context> {
        vec![{{context_module}}::context()]
    }
}
