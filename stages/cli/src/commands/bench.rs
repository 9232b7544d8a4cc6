//! `millstream bench`: how fast, against a bare loop on the same server in the same run.

mod commands;
#[cfg(feature = "reference")]
mod rebuild;

use std::{collections::BTreeMap, future::Future, num::NonZeroUsize, thread};

use clap::ValueEnum;
use millstream_contract::{error_text::one_line, exit_code::ExitCode};
use millstream_domain::application::Benchmark;
use millstream_jetstream::{nats_broker::NatsBroker, nats_server::free_port};
use millstream_runtime::process_memory;

use crate::{
    bench::{
        bare_loop,
        figures::{Figures, Latency, Rate},
        latency,
        load::Load,
        pipeline,
    },
    deployment::{Deployment, DeploymentOptions, SQL, STAGES},
    failure::CommandFailure,
    output,
    session::Session,
    supervisor::process_list::ProcessEntry,
};

/// The stages from a command to a row, which the bare loop does without a domain.
const STAGES_OF_THE_PATH: [&str; 2] = ["command-handler", "projector"];

/// When the server syncs what it acknowledges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sync {
    /// nats-server's default: every two minutes
    Default,
    /// Before every acknowledgement, as in production
    Always,
}

impl Sync {
    fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Always => "always",
        }
    }

    /// As nats-server's configuration has it.
    fn interval(self) -> Option<String> {
        (self == Self::Always).then(|| "always".to_owned())
    }
}

/// Measure the stages against a bare loop.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Commands(commands::CommandsArguments),
    Pipeline(PipelineArguments),
    #[cfg(feature = "reference")]
    Rebuild(rebuild::RebuildArguments),
}

/// From publish to queryable: throughput, then latency at a steady rate. Checks afterwards that every command had its one
/// effect.
#[derive(Debug, clap::Args)]
pub(crate) struct PipelineArguments {
    /// Commands to publish
    #[arg(long, default_value_t = 100_000, value_parser = crate::whole(1..=u32::MAX), value_name = "N")]
    commands: u32,
    /// Aggregates they are spread over
    #[arg(long, default_value_t = 4096, value_parser = crate::whole(1..=u32::MAX), value_name = "A")]
    aggregates: u32,
    /// When the server syncs
    #[arg(long, value_enum, default_value_t = Sync::Default)]
    sync: Sync,
    /// Servers that keep every stream, each a process of its own
    #[arg(long, default_value_t = NonZeroUsize::MIN, value_parser = crate::replicas, value_name = "1|3|5")]
    replicas: NonZeroUsize,
    /// Commands a second while latency is measured
    #[arg(long, default_value_t = 1000, value_parser = crate::whole(1..=u32::MAX), value_name = "R")]
    rate: u32,
    /// Commands for latency
    #[arg(long, default_value_t = 5000, value_parser = crate::whole(1..=u32::MAX), value_name = "N")]
    latency_commands: u32,
    /// Run the reporter and the process manager too, which read the same events beside the measured path
    #[arg(long)]
    all_stages: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(crate) async fn run(arguments: BenchArguments, session: &Session) -> Result<ExitCode, CommandFailure> {
    match arguments.what {
        What::Commands(arguments) => commands::run(arguments, benchmark(session)?, session).await,
        What::Pipeline(arguments) => pipeline(arguments, session).await,
        #[cfg(feature = "reference")]
        What::Rebuild(arguments) => rebuild::run(arguments, session).await,
    }
}

/// What the application is measured with.
fn benchmark(session: &Session) -> Result<Benchmark, CommandFailure> {
    session.model()?.benchmark().ok_or_else(|| {
        let text = "this application has no benchmark: give it a function `benchmark` that says which commands to send";
        CommandFailure::usage(text)
    })
}

async fn pipeline(arguments: PipelineArguments, session: &Session) -> Result<ExitCode, CommandFailure> {
    let benchmark = benchmark(session)?;
    let folder = tempfile::tempdir().map_err(|error| CommandFailure::file(&std::env::temp_dir(), &error))?;
    let options = DeploymentOptions {
        folder: folder.path().to_owned(),
        http_port: None,
        nats_port: free_port()?,
        servers: arguments.replicas,
        sync_interval: arguments.sync.interval(),
        replicas: BTreeMap::new(),
        settings: Vec::new(),
        sql: false,
        stages: (!arguments.all_stages).then_some(&STAGES_OF_THE_PATH[..]),
    };
    let mut deployment = Deployment::prepare(options, session)?;
    session.console.say("starting nats-server and the stages");
    let figures = match deployment.start().await {
        Ok(()) => measure(&arguments, benchmark, &deployment, folder.path()).await,
        Err(failure) => Err(failure),
    };
    deployment.stop().await;
    let figures = figures?;
    let text = if arguments.json {
        serde_json::to_string(&figures).expect("figures are plain numbers")
    } else {
        figures.text()
    };
    output::line(text)?;
    Ok(ExitCode::Ok)
}

async fn measure(
    arguments: &PipelineArguments,
    benchmark: Benchmark,
    deployment: &Deployment,
    folder: &std::path::Path,
) -> Result<Figures, CommandFailure> {
    let load = Load {
        benchmark,
        commands: arguments.commands as usize,
        aggregates: arguments.aggregates as usize,
        // Fewer than a client queues (2048): an append that waits for a place there could be overtaken, and refute the
        // sequences that the bare loop predicts.
        singles: if arguments.sync == Sync::Always && arguments.replicas == NonZeroUsize::MIN {
            128
        } else {
            1000
        },
    };
    let steady = Load { commands: arguments.latency_commands as usize, ..load };
    let (rate, console) = (arguments.rate, deployment.session().console.clone());
    let session = deployment.session().clone();
    let folder = folder.to_owned();
    let provision = deployment.provision_options();
    let stages = if arguments.all_stages {
        STAGES.map(|(stage, _)| stage).into_iter().filter(|stage| *stage != SQL).collect()
    } else {
        STAGES_OF_THE_PATH.to_vec()
    };
    let measured = on_all_cores(async move {
        let connect = async || session.connect().await.map(|connected| connected.broker);
        console.say("bare loop");
        let brokers: [NatsBroker; 3] = [connect().await?, connect().await?, connect().await?];
        let bare = bare_loop::run(&brokers, load, &provision, &folder).await.map_err(failed)?;
        console.say("pipeline");
        let broker = connect().await?;
        let real = pipeline::run(&broker, load, "bench").await.map_err(failed)?;
        console.say("checking that every command had its one effect");
        pipeline::check(&broker, load, "bench").await.map_err(failed)?;
        console.say(format_args!("latency at {rate} commands/s"));
        let broker = connect().await?;
        let latencies = latency::run(&broker, steady, rate, "steady").await.map_err(failed)?;
        pipeline::check(&broker, steady, "steady").await.map_err(failed)?;
        let (bare, real) = (Rate::new(load.commands, bare), Rate::new(load.commands, real));
        Ok((bare, real, Latency::new(&latencies)))
    })
    .await;
    let processes = stages.iter().map(|stage| (*stage).to_owned()).chain(deployment.server_names());
    let processes: Vec<_> = processes.filter_map(|name| deployment.process(&name)).collect();
    let (bare_loop, pipeline, latency_ms) = measured?;
    Ok(Figures {
        commands: load.commands,
        aggregates: load.aggregates,
        sync: arguments.sync.name().to_owned(),
        replicas: arguments.replicas,
        stages,
        bare_loop,
        pipeline,
        ratio: (pipeline.commands_per_second / bare_loop.commands_per_second * 100.0).round() / 100.0,
        latency_rate: rate,
        latency_ms,
        memory_peak_bytes: processes.iter().filter_map(peak).collect(),
    })
}

/// The most memory of a process that runs, by its name.
fn peak(process: &ProcessEntry) -> Option<(String, u64)> {
    Some((process.name.clone(), process_memory::most(process.pid?)?))
}

/// Runs the load on a runtime with a thread a core; the command line's own has one thread.
async fn on_all_cores<T: Send + 'static>(
    work: impl Future<Output = Result<T, CommandFailure>> + Send + 'static,
) -> Result<T, CommandFailure> {
    let (done, answer) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
        CommandFailure::new(ExitCode::Software, format_args!("cannot start the runtime: {error}"))
    })?;
    let thread = thread::spawn(move || {
        let result = runtime.block_on(work);
        // The receiver is gone only when the whole command was given up.
        let _ = done.send(result);
        runtime.shutdown_background();
    });
    let result = answer.await;
    let ended = thread.join();
    match (result, ended) {
        (Ok(result), Ok(())) => result,
        _ => Err(CommandFailure::new(ExitCode::Software, "the benchmark's thread panicked")),
    }
}

/// A benchmark that failed has no exit code of its own.
fn failed(error: impl std::error::Error + 'static) -> CommandFailure {
    CommandFailure::new(ExitCode::Software, one_line(&error))
}
