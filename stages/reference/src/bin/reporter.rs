//! `reporter` of the reference application: keeps reports, publishes and answers queries of them. Arguments, environment and exit code only.

use std::process::ExitCode;

use millstream_model::Reference;

/// Small messages are many allocations: faster than the system's allocator (docs/benchmarks.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    reporter::program::<Reference>(std::env::args_os(), std::env::vars_os())
}
