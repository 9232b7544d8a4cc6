//! The rules of gym. Pure: no clock, no randomness, no files, no server; time and ids arrive as arguments.
//!
//! One folder a context. Beside it, the function `context` in `<context>.rs` lists what the context has. `gym new context`
//! adds to the list of contexts here.

pub mod gym;

use millstream::prelude::*;

/// The application.
#[derive(Debug)]
pub struct Gym;

impl Application for Gym {
    const NAME: &'static str = "gym";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const ABOUT: &'static str = "Gym, on Millstream";

    fn contexts() -> Vec<Context> {
        vec![gym::context()]
    }
}
