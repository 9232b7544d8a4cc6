//! `millstream demo`: sends a made-up day through the whole pipeline, and proves that its figures are right.

use std::{collections::BTreeMap, num::NonZeroUsize, time::Duration};

use millstream_contract::{
    exit_code::ExitCode,
    outcome::{CommandOutcome, Outcome},
    position::StreamPosition,
    stored_message::Headers,
    stream_names,
    subject::{CommandAddress, Origin},
};
use millstream_jetstream::{broker::Broker as _, nats_server::free_port};
use millstream_runtime::shutdown::Shutdown;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::report::{Format, ReportView};
use crate::{
    command_publisher::OutgoingCommand,
    demo::{
        day::{DATE, Day, TypedCommand},
        sums,
    },
    deployment::{Deployment, DeploymentOptions},
    dispatcher::Dispatcher,
    failure::CommandFailure,
    output,
    query_client::{Freshness, ViewSource},
    session::{Connected, Session},
};

/// The context of the demo's day.
const CONTEXT: &str = "retail";
/// The process that is killed.
const VICTIM: &str = "command-handler";
/// A killed handler is back within the life of its lease.
const PATIENCE: Duration = Duration::from_secs(30);

/// Run a made-up day of deliveries and sales through everything, and check every figure.
///
/// nats-server and all stages run in a temporary folder. The command handler is killed in the middle. Ends with 0 only
/// if every figure of both reports equals the demo's own sums.
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArguments {
    /// End when all is checked, instead of staying up until Ctrl-C
    #[arg(long)]
    exit: bool,
    /// How many sales to make up
    #[arg(long, default_value_t = 5000, value_name = "N", value_parser = crate::whole(100..=1_000_000_u32))]
    sales: u32,
}

/// Runs it.
pub(crate) async fn run(arguments: DemoArguments, session: &Session) -> Result<ExitCode, CommandFailure> {
    let shutdown = Shutdown::new();
    shutdown.on_signals().map_err(|error| {
        CommandFailure::new(ExitCode::Software, format_args!("cannot watch signals: {error}"))
    })?;
    let folder = tempfile::Builder::new().prefix("millstream-demo-").tempdir().map_err(|error| {
        CommandFailure::new(ExitCode::CannotCreate, format_args!("temporary folder: {error}"))
    })?;
    let options = DeploymentOptions {
        folder: folder.path().to_owned(),
        http_port: None,
        nats_port: free_port()?,
        servers: NonZeroUsize::MIN,
        sync_interval: None,
        replicas: BTreeMap::new(),
        settings: Vec::new(),
        sql: false,
        stages: None,
    };
    let url = format!("nats://127.0.0.1:{}", options.nats_port);
    session.console.say(format_args!("starting nats-server and all stages in {}", folder.path().display()));
    let mut deployment = Deployment::prepare(options, session)?;
    let ended = tokio::select! {
        ended = show(&arguments, &mut deployment) => Some(ended),
        () = shutdown.requested() => None,
    };
    if matches!(ended, Some(Ok(_))) {
        say_what_next(session, &url);
        for address in deployment.http_addresses() {
            session.console.say(format_args!("and in a browser, while it is up:\n  http://{address}/"));
        }
        if !arguments.exit {
            session.console.say("everything stays up; Ctrl-C stops it and removes the folder");
            shutdown.requested().await;
        }
    }
    deployment.stop().await;
    ended.unwrap_or_else(|| Err(CommandFailure::new(ExitCode::Software, "interrupted")))
}

/// The whole day.
async fn show(arguments: &DemoArguments, deployment: &mut Deployment) -> Result<ExitCode, CommandFailure> {
    let session = deployment.session().clone();
    deployment.start().await?;
    let connected = session.connect().await?;
    let day = Day::generate(arguments.sales);
    let mut demo = Demo {
        deployment,
        dispatcher: Dispatcher::begin(connected.clone(), "demo", PATIENCE).await?,
        session,
        sent: 0,
        highest_sequence: 0,
    };
    demo.send_all("products and deliveries", day.morning(), false).await?;
    demo.send_all("sales and returns", day.counters(), true).await?;
    demo.refused_and_repeated(&day).await?;
    demo.send_all("closing the day", day.evening(), false).await?;
    let position = demo.position(&connected).await?;
    demo.dispatcher.end().await;
    let wrong = check(&demo.session, &day, &connected, &position).await?;
    if wrong.is_empty() {
        demo.session.console.say("\nevery figure of both reports equals the demo's own sums");
        return Ok(ExitCode::Ok);
    }
    Err(CommandFailure::new(ExitCode::Data, format_args!("the figures are wrong:\n{}", wrong.join("\n"))))
}

struct Demo<'a> {
    deployment: &'a Deployment,
    session: Session,
    dispatcher: Dispatcher<()>,
    sent: u64,
    highest_sequence: u64,
}

impl Demo<'_> {
    /// Sends commands that must all be accepted. With `kill_handler`, the command handler is killed when half of them are.
    async fn send_all(
        &mut self,
        what: &str,
        commands: Vec<TypedCommand>,
        kill_handler: bool,
    ) -> Result<(), CommandFailure> {
        let total = commands.len();
        let bar = self.session.console.bar(what, total as u64);
        let (mut settled, mut killed) = (0, !kill_handler);
        let mut rest = commands.into_iter();
        loop {
            let next = if self.dispatcher.has_room() { rest.next() } else { None };
            if let Some(command) = next {
                self.sent += 1;
                let command = outgoing(command, format!("demo-{}", self.sent))?;
                self.dispatcher.send((), command).await?;
                continue;
            }
            if self.dispatcher.is_settled() {
                break;
            }
            for outcome in self.dispatcher.progress().await? {
                self.expect_accepted(&outcome.outcome)?;
                settled += 1;
                bar.inc(1);
            }
            if !killed && settled >= total / 2 {
                killed = true;
                self.kill_handler()?;
            }
        }
        bar.finish_and_clear();
        self.session.console.say(format_args!("{what}: {total} commands accepted"));
        Ok(())
    }

    fn expect_accepted(&mut self, outcome: &CommandOutcome) -> Result<(), CommandFailure> {
        match outcome.outcome.first() {
            Outcome::Accepted { sequence, .. } => {
                self.highest_sequence = self.highest_sequence.max(*sequence);
                Ok(())
            }
            other => Err(CommandFailure::new(
                ExitCode::Data,
                format_args!("{} should have been accepted, and was {other}", outcome.address),
            )),
        }
    }

    fn kill_handler(&self) -> Result<(), CommandFailure> {
        let pid = self.deployment.process(VICTIM).and_then(|entry| entry.pid);
        let failed = || CommandFailure::new(ExitCode::Software, format_args!("{VICTIM} does not run"));
        let pid = pid.and_then(|pid| i32::try_from(pid).ok()).ok_or_else(failed)?;
        self.session
            .console
            .say(format_args!("kill -9 of the {VICTIM} (process {pid}), in the middle of the work"));
        kill(Pid::from_raw(pid), Signal::SIGKILL).map_err(|_| failed())
    }

    /// A sale under a known id with other content is refused, and a command under a known id takes effect once.
    async fn refused_and_repeated(&mut self, day: &Day) -> Result<(), CommandFailure> {
        let Some(sale) = day.sales.first() else { return Ok(()) };
        let mut other = sale.clone();
        other.lines.iter_mut().for_each(|line| line.quantity += 1);
        let refused = self.send_one(other.command(), "demo-refused").await?;
        let Outcome::Rejected { code, message } = &refused.outcome else {
            return Err(unexpected("a sale with other content", &refused));
        };
        self.session.console.say(format_args!("refused, as it should be: {message} ({code})"));
        let first_id = format!("demo-{}", day.morning().len() + 1);
        let repeated = self.send_one(sale.command(), &first_id).await?;
        let Outcome::Duplicate { of, .. } = &repeated.outcome else {
            return Err(unexpected("a repeated command", &repeated));
        };
        self.session
            .console
            .say(format_args!("sent again, changed nothing: {first_id} is the command at position {of}"));
        Ok(())
    }

    async fn send_one(&mut self, command: TypedCommand, id: &str) -> Result<CommandOutcome, CommandFailure> {
        self.dispatcher.send((), outgoing(command, id.to_owned())?).await?;
        loop {
            if let Some(settled) = self.dispatcher.progress().await?.into_iter().next() {
                return Ok(settled.outcome);
            }
        }
    }

    /// The position that a report must have reached to contain the whole day.
    async fn position(&self, connected: &Connected) -> Result<StreamPosition, CommandFailure> {
        let state = connected.broker.state(stream_names::EVENTS).await?;
        Ok(StreamPosition::new(stream_names::EVENTS, state.generation, self.highest_sequence))
    }
}

fn unexpected(what: &str, outcome: &CommandOutcome) -> CommandFailure {
    CommandFailure::new(
        ExitCode::Data,
        format_args!("{what} was not treated as such, but {}", outcome.outcome),
    )
}

fn outgoing(command: TypedCommand, id: String) -> Result<OutgoingCommand, CommandFailure> {
    let address = CommandAddress::new(CONTEXT, command.aggregate, &command.id, command.command)
        .map_err(|error| CommandFailure::new(ExitCode::Software, error))?;
    let (origin, headers) = (Origin::Sender, Headers::new());
    Ok(OutgoingCommand { address, origin, id, body: command.body.to_string().into(), headers })
}

/// Shows both reports and reports where they are wrong.
async fn check(
    session: &Session,
    day: &Day,
    connected: &Connected,
    position: &StreamPosition,
) -> Result<Vec<String>, CommandFailure> {
    let mut wrong = Vec::new();
    let expected = [
        ("store-daily", "store", sums::store_daily(day)),
        ("supplier-daily", "supplier", sums::supplier_daily(day)),
    ];
    for (name, who, expected) in expected {
        let report = ReportView::find(&session.reports()?, name)?;
        let freshness = Freshness { position: Some(position.to_string()), wait: PATIENCE, as_it_is: false };
        let source = ViewSource::Service(Box::new(connected.broker.clone()), freshness);
        let rows = report.rows(&source, DATE, None, None).await?;
        output::line(format_args!("\n{name}, {DATE}\n{}", report.render(&rows, Format::Table)))?;
        wrong.extend(sums::differences(name, who, &expected, &rows));
    }
    Ok(wrong)
}

fn say_what_next(session: &Session, url: &str) {
    session.console.say(format_args!(
        "\nwith the nats CLI, while it is up:\n\
         \x20 export NATS_URL={url}\n\
         \x20 nats sub --translate 'millstream decode' 'evt.>'\n\
         \x20 nats pub -J cmd.{CONTEXT}.till.north_{DATE}.record-sale \\\n\
         \x20     '{{\"sale\":\"by-hand\",\"currency\":\"EUR\",\"lines\":[{{\"sku\":\"blue-dairy-1\",\"quantity\":1,\"unit_price\":250}}]}}'\n\
         \x20 nats req query.{CONTEXT}.store-daily.get '{{\"key\":\"{DATE}/north\"}}'\n\
         \x20 nats stream report; nats consumer report EVENTS; nats micro ls\n\
         and with millstream:\n\
         \x20 millstream report supplier-daily --date {DATE} --format csv\n\
         \x20 millstream history {CONTEXT} till north_{DATE}"
    ));
}
