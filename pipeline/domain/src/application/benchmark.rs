//! The load of `bench commands` and `bench pipeline`: which commands are sent to measure an application, and which view shows their effect.

/// Commands of one aggregate type, each of which is accepted and causes exactly one event.
#[derive(Debug, Clone, Copy)]
pub struct Benchmark {
    /// The context.
    pub context: &'static str,
    /// The aggregate's name.
    pub aggregate: &'static str,
    /// The command that is sent. It must be accepted whether or not the aggregate exists.
    pub command: &'static str,
    /// The fields of the command with this number, as JSON, in a run with this name. The fields must differ for any two numbers and any two
    /// runs, because a command that changes nothing causes no event.
    pub body: fn(run: &str, number: usize) -> String,
    /// A view of the context whose keys are the aggregate's ids. It is asked until it shows the last command.
    pub view: &'static str,
}
