//! `millstream ready`: asks a stage once at its health address, for supervisors that can only run a command (Compose).

use std::net::SocketAddr;

use millstream_contract::exit_code::ExitCode;

use crate::{
    failure::CommandFailure,
    output,
    supervisor::readiness::{Readiness, ask},
};

/// Ask a stage at its health address whether it is ready; end with 0 if it is, otherwise say why not.
#[derive(Debug, clap::Args)]
pub(crate) struct ReadyArguments {
    /// The stage's `telemetry.address`, as in `127.0.0.1:9090`
    address: SocketAddr,
}

/// Runs it.
pub(crate) async fn run(arguments: ReadyArguments) -> Result<ExitCode, CommandFailure> {
    match ask(arguments.address).await {
        Readiness::Ready => {
            output::line("ready")?;
            Ok(ExitCode::Ok)
        }
        Readiness::NotReady(why) => Err(CommandFailure::new(ExitCode::Unavailable, why)),
    }
}
