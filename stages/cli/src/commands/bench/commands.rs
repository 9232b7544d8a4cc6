//! `millstream bench commands`: how fast clients are served who wait for their answers, against a bare loop of the same hops.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use millstream_contract::{exit_code::ExitCode, position::StreamPosition, stream_names::EVENTS};
use millstream_domain::application::Benchmark;
use millstream_jetstream::{
    broker::Broker as _, nats_broker::NatsBroker, nats_server::free_port, provision::ProvisionOptions,
};

use super::{Sync, failed, on_all_cores};
use crate::{
    bench::{
        bare_commands::{BareCommands, BareWay},
        closed_loop::{Extent, Found},
        closed_loop_error::ClosedLoopError,
        command_figures::{CommandFigures, LoopFigures, Round},
        figures::{Latency, Rate},
        handler_rounds::HandlerRounds,
        load::Load,
        pipeline,
        process_costs::{self, ProcessCost, Processes},
        real_commands::{RealCommands, Way},
        storage::{self, Kept},
    },
    console::Console,
    deployment::{Deployment, DeploymentOptions},
    failure::CommandFailure,
    output,
    session::Session,
};

/// From a command to its row and its report.
const STAGES: [&str; 3] = ["command-handler", "projector", "reporter"];
const STAGES_WITH_PROCESSES: [&str; 4] = ["command-handler", "projector", "reporter", "process-manager"];
/// The name of the benchmark's own process among those whose cost is shown.
const OWN: &str = "the benchmark";
/// So many clients share a connection.
const CLIENTS_OF_A_CONNECTION: usize = 64;
/// Of each client at least so many commands are measured, where somebody says how many.
const COMMANDS_OF_A_CLIENT_MIN: u32 = 10;
/// How long is measured unless somebody says so.
const SECONDS_DEFAULT: u32 = 10;

/// Clients that wait for the outcome of each command before they send the next: how many commands a second, how long each waits, and
/// what each costs. Checks afterwards that every command had its one effect.
#[derive(Debug, clap::Args)]
pub(crate) struct CommandsArguments {
    /// Clients, each with one command on its way
    #[arg(long, default_value_t = 64, value_parser = crate::whole(1..=2048_u32), value_name = "N")]
    in_flight: u32,
    /// How clients send a command
    #[arg(long, value_enum, default_value_t = Way::Submit)]
    way: Way,
    /// When the server syncs
    #[arg(long, value_enum, default_value_t = Sync::Default)]
    sync: Sync,
    /// Servers that keep every stream, each a process of its own
    #[arg(long, default_value_t = NonZeroUsize::MIN, value_parser = crate::replicas, value_name = "1|3|5")]
    replicas: NonZeroUsize,
    /// Aggregates that the commands are spread over
    #[arg(long, default_value_t = 4096, value_parser = crate::whole(1..=u32::MAX), value_name = "A")]
    aggregates: u32,
    /// How long to measure each loop; 10 when neither this nor --commands is given. A fifth as much goes before it and is not counted
    #[arg(long, value_parser = crate::whole(1..=u32::MAX), value_name = "S", conflicts_with = "commands")]
    seconds: Option<u32>,
    /// How many commands to measure of each loop: at least ten for each client. A fifth as many go before them and are not counted
    #[arg(long, value_parser = crate::whole(1..=u32::MAX), value_name = "N")]
    commands: Option<u32>,
    /// How often to measure the bare loops and the real one in turn; the median of the ratios counts
    #[arg(long, default_value_t = 1, value_parser = crate::whole(1..=u32::MAX), value_name = "R")]
    rounds: u32,
    /// Run the process manager too, which reads the same events
    #[arg(long)]
    process_manager: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

impl CommandsArguments {
    fn extent(&self) -> Extent {
        match self.commands {
            Some(commands) => Extent::Commands(commands),
            None => Extent::Seconds(self.seconds.unwrap_or(SECONDS_DEFAULT)),
        }
    }

    /// Answers come in bursts, one for each client, so a few bursts tell no rate.
    fn refuse_too_few(&self) -> Result<(), CommandFailure> {
        let least = COMMANDS_OF_A_CLIENT_MIN * self.in_flight;
        match self.commands {
            Some(commands) if commands < least => Err(CommandFailure::usage(format_args!(
                "--commands {commands} are too few to tell a rate; with {} in flight, measure at least {least}",
                self.in_flight
            ))),
            _ => Ok(()),
        }
    }

    fn stages(&self) -> &'static [&'static str] {
        if self.process_manager { &STAGES_WITH_PROCESSES } else { &STAGES }
    }
}

/// Runs it.
pub(super) async fn run(
    arguments: CommandsArguments,
    benchmark: Benchmark,
    session: &Session,
) -> Result<ExitCode, CommandFailure> {
    arguments.refuse_too_few()?;
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
        stages: Some(arguments.stages()),
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
    arguments: &CommandsArguments,
    benchmark: Benchmark,
    deployment: &Deployment,
    folder: &Path,
) -> Result<CommandFigures, CommandFailure> {
    let in_flight = arguments.in_flight as usize;
    let connections = in_flight.div_ceil(CLIENTS_OF_A_CONNECTION);
    let names = arguments.stages().iter().map(|stage| (*stage).to_owned()).chain(deployment.server_names());
    let pids = names.filter_map(|name| Some((name.clone(), deployment.process(&name)?.pid?)));
    let bench = Bench {
        session: deployment.session().clone(),
        console: deployment.session().console.clone(),
        load: Load {
            benchmark,
            commands: 0,
            aggregates: arguments.aggregates as usize,
            // Of a loop that is not closed.
            singles: in_flight,
        },
        way: arguments.way,
        in_flight,
        connections,
        extent: arguments.extent(),
        processes: Processes::new(pids.chain([(OWN.to_owned(), std::process::id())])),
        options: deployment.provision_options(),
        folder: folder.to_owned(),
    };
    let rounds = arguments.rounds;
    let rounds = on_all_cores(async move { bench.rounds(rounds).await }).await?;
    Ok(CommandFigures {
        in_flight,
        connections,
        way: arguments.way.name(),
        sync: arguments.sync.name().to_owned(),
        replicas: arguments.replicas,
        aggregates: arguments.aggregates as usize,
        stages: arguments.stages().to_vec(),
        ratio: CommandFigures::ratio_of(&rounds),
        rounds,
    })
}

/// What is measured, and where.
struct Bench {
    session: Session,
    console: Console,
    load: Load,
    way: Way,
    in_flight: usize,
    connections: usize,
    extent: Extent,
    processes: Processes,
    options: ProvisionOptions,
    folder: PathBuf,
}

impl Bench {
    /// All rounds, and the proof of what was done in them.
    async fn rounds(&self, rounds: u32) -> Result<Vec<Round>, CommandFailure> {
        let (mut found, mut runs) = (Vec::new(), Vec::new());
        for number in 1..=rounds {
            let run = format!("round{number}");
            // Whatever drifts, drifts for both.
            let real_first = number % 2 == 0;
            let before = if real_first { Some(self.real(&run).await?) } else { None };
            let singly = self.bare(BareWay::Singly).await?;
            let in_batches = self.bare(BareWay::InBatches).await?;
            let (real, sent) = match before {
                Some(real) => real,
                None => self.real(&run).await?,
            };
            runs.push((run, sent));
            let round = Round::new(singly, in_batches, real);
            self.console.say(format_args!("round {number} of {rounds}: ratio {:.2}", round.ratio));
            found.push(round);
        }
        self.console.say("checking that every command had its one effect");
        let broker = self.connect().await?;
        pipeline::check_runs(&broker, &runs).await.map_err(failed)?;
        Ok(found)
    }

    async fn connect(&self) -> Result<NatsBroker, CommandFailure> {
        Ok(self.session.connect().await?.broker)
    }

    async fn client_connections(&self) -> Result<Vec<NatsBroker>, CommandFailure> {
        let mut connections = Vec::new();
        for _ in 0..self.connections {
            connections.push(self.connect().await?);
        }
        Ok(connections)
    }

    async fn bare(&self, way: BareWay) -> Result<LoopFigures, CommandFailure> {
        self.console.say(match way {
            BareWay::Singly => "bare loop, each append on its own",
            BareWay::InBatches => "bare loop, in batches",
        });
        let clients = self.client_connections().await?;
        let steps = [self.connect().await?, self.connect().await?, self.connect().await?];
        let bare =
            BareCommands { load: self.load, way, options: self.options.clone(), folder: self.folder.clone() };
        let observe = || self.processes.costs();
        let run = bare.run(&clients, steps, self.in_flight, self.extent, observe);
        let (found, kept) = run.await.map_err(failed)?;
        self.figures(&found, &Kept::new(), &kept).map_err(failed)
    }

    /// The figures, and how many commands were sent.
    async fn real(&self, run: &str) -> Result<(LoopFigures, usize), CommandFailure> {
        self.console.say("the stages");
        let clients = self.client_connections().await?;
        let broker = self.connect().await?;
        self.measured(&clients, &broker, run).await.map_err(failed)
    }

    async fn measured(
        &self,
        clients: &[NatsBroker],
        broker: &NatsBroker,
        run: &str,
    ) -> Result<(LoopFigures, usize), ClosedLoopError> {
        let data = self.folder.join("data");
        let kept = storage::of_all(broker, &data).await?;
        let rounds = HandlerRounds::ask(broker).await?;
        let commands = RealCommands { load: self.load, way: self.way, run: run.into() };
        let observe = || self.processes.costs();
        let found = commands.run(clients, self.in_flight, self.extent, observe).await?;
        let rounds_after = HandlerRounds::ask(broker).await?;
        let load = Load { commands: found.sent, ..self.load };
        let events = broker.state(EVENTS).await?;
        let end = StreamPosition::new(EVENTS, events.generation, events.last_sequence);
        pipeline::queryable(broker, load, &end).await?;
        let kept_after = storage::of_all(broker, &data).await?;
        let mut figures = self.figures(&found, &kept, &kept_after)?;
        figures.queryable_ms = (!found.queries.is_empty()).then(|| Latency::new(&found.queries));
        figures.queries = Some(found.queries.len());
        figures.commands_a_round =
            rounds.zip(rounds_after).and_then(|(before, after)| after.commands_a_round_since(before));
        Ok((figures, found.sent))
    }

    fn figures(
        &self,
        found: &Found<BTreeMap<String, ProcessCost>>,
        before: &Kept,
        after: &Kept,
    ) -> Result<LoopFigures, ClosedLoopError> {
        let commands = found.commands;
        let [_, ended] = &found.observed;
        if let Some(name) = self.processes.gone(ended) {
            return Err(ClosedLoopError::Ended { name: name.to_owned() });
        }
        Ok(LoopFigures {
            commands,
            commands_per_second: Rate::new(commands, found.elapsed).commands_per_second,
            answer_ms: Latency::new(&found.answers),
            queryable_ms: None,
            queries: None,
            costs: process_costs::by_command(&found.observed, commands),
            kept_bytes: storage::by_command(before, after, found.sent),
            commands_a_round: None,
        })
    }
}
