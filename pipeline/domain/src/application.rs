//! What an application is: a name, a version, and contexts with their aggregates, views, reports and processes.
//!
//! Every stage and every command of the command line takes an [`Application`] and nothing else. It only lists its parts; [`Model::of`]
//! checks the list and hands out what a stage needs. Pure: nothing here reads files, clocks or servers.
//!
//! ```
//! use millstream_domain::application::{Application, Context, Model};
//!
//! struct Gym;
//!
//! impl Application for Gym {
//!     const NAME: &'static str = "gym";
//!     const VERSION: &'static str = "1.0.0";
//!     const ABOUT: &'static str = "Memberships of a chain of gyms";
//!
//!     fn contexts() -> Vec<Context> {
//!         vec![Context::new("gym")]
//!     }
//! }
//!
//! assert!(Model::of::<Gym>().is_ok());
//! ```

mod benchmark;
mod check;
mod context;
mod model;
mod problem;
mod settings;

#[cfg(test)]
mod tests;

pub use self::{
    benchmark::Benchmark,
    context::Context,
    model::{BuiltReport, Model, Views},
    problem::{ApplicationError, ApplicationProblem},
    settings::{DefaultSettings, SettingKeys},
};

/// A system of one's own: what the stages run and what the command line knows.
///
/// All functions are pure and cheap. They are called whenever somebody needs a part, so that they must return the same parts
/// each time.
pub trait Application: 'static {
    /// Its name, lower-kebab-case: that of its program.
    const NAME: &'static str;

    /// Its version, as in `1.4.0`; usually the version of its package.
    const VERSION: &'static str;

    /// One line that says what it is for.
    const ABOUT: &'static str;

    /// Its contexts. Settings appear in configuration files in the order of this list.
    fn contexts() -> Vec<Context>;

    /// The commands with which `bench commands` and `bench pipeline` measure it; without them there is nothing to measure with.
    fn benchmark() -> Option<Benchmark> {
        None
    }
}
