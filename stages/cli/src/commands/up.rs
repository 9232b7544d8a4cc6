//! `millstream up`: everything in one folder, until Ctrl-C or SIGTERM.

use std::{num::NonZeroUsize, path::PathBuf, str::FromStr};

use millstream_contract::exit_code::ExitCode;
use millstream_runtime::{config::parse_duration, shutdown::Shutdown};
use millstream_sql::replica_runner::SQLITE_FILE;

use crate::{
    deployment::{Deployment, DeploymentOptions, SQL, StageSetting},
    failure::CommandFailure,
    session::Session,
};

/// Run nats-server and all stages until Ctrl-C or SIGTERM.
///
/// A process that dies is started again. If you start `up` again on the same folder, everything continues where it was.
#[derive(Debug, clap::Args)]
pub(crate) struct UpArguments {
    /// Folder for data, logs and processes.json
    #[arg(long)]
    dir: PathBuf,
    /// Port of nats-server
    #[arg(long, default_value_t = 4222, value_name = "PORT", value_parser = crate::whole(1..=u16::MAX))]
    nats_port: u16,
    /// Port of the gateway, which accepts commands over HTTP; by default any free one
    #[arg(long, value_name = "PORT", value_parser = crate::whole(1..=u16::MAX))]
    http_port: Option<u16>,
    /// Do not keep views and reports as tables; by default they are, in D/data/sql/replica.sqlite or in the database of --set sql.database=
    #[arg(long)]
    no_sql: bool,
    /// When nats-server syncs to disk: `always`, or a duration such as `10s`; by default every 2 minutes
    #[arg(long, value_name = "WHEN", value_parser = sync_interval)]
    sync: Option<String>,
    /// Run several processes of a stage, such as command-handler=2; may be repeated
    #[arg(long, value_name = "STAGE=N")]
    replicas: Vec<StageReplicas>,
    /// Set a configuration key of the stages, such as command_handler.round_max=1000; may be repeated, and the last value of a key counts
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<StageSetting>,
}

/// The most processes of one stage: more than a machine has any use for.
const REPLICAS_MAX: usize = 100;

#[derive(Debug, Clone)]
struct StageReplicas {
    stage: String,
    count: NonZeroUsize,
}

impl FromStr for StageReplicas {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (stage, count) = text.split_once('=').ok_or("write STAGE=N, as in command-handler=2")?;
        let count = count.parse().ok().filter(|count: &NonZeroUsize| count.get() <= REPLICAS_MAX);
        let count =
            count.ok_or_else(|| format!("write a number from 1 to {REPLICAS_MAX} behind {stage}="))?;
        Ok(Self { stage: stage.to_owned(), count })
    }
}

/// A duration as nats-server accepts it. It has no unit for days, and would report an error only in its log.
fn sync_interval(text: &str) -> Result<String, String> {
    if text == "always" {
        return Ok(text.to_owned());
    }
    match parse_duration(text) {
        Ok(duration) if !duration.is_zero() => Ok(format!("{}ms", duration.as_millis())),
        _ => Err("write `always`, or a duration above zero with its unit, as in 10s or 2m".to_owned()),
    }
}

/// What `up` sets of the stage that keeps tables, where its user does not.
fn settings_of_tables(given: &[StageSetting]) -> Result<Vec<StageSetting>, String> {
    let sets = |name: &str| given.iter().any(|setting| setting.sets(name));
    let mut own = Vec::new();
    if !sets("sql.damaged_file") {
        // Everything in the tables comes from the events, so that nobody has to be asked before they are filled anew.
        own.push("sql.damaged_file=rebuild");
    }
    if !sets("sql.ad_hoc") && (!sets("sql.database") || sets("sql.readers")) {
        // Only programs on this machine reach it, and keys grant it to none that does not have it by name.
        own.push("sql.ad_hoc=true");
    }
    own.into_iter().map(str::parse).collect()
}

/// Runs it.
pub(crate) async fn run(arguments: UpArguments, session: &Session) -> Result<ExitCode, CommandFailure> {
    session.refuse_connection_flags("`up` runs a server of its own; choose its port with --nats-port")?;
    let console = session.console.clone();
    let shutdown = Shutdown::new();
    shutdown.on_signals().map_err(|error| {
        CommandFailure::new(ExitCode::Software, format_args!("cannot watch signals: {error}"))
    })?;
    let folder =
        std::path::absolute(&arguments.dir).map_err(|error| CommandFailure::file(&arguments.dir, &error))?;
    let mut settings = arguments.set;
    if !arguments.no_sql {
        settings.extend(settings_of_tables(&settings).map_err(CommandFailure::usage)?);
    }
    let options = DeploymentOptions {
        folder: folder.clone(),
        nats_port: arguments.nats_port,
        http_port: arguments.http_port,
        servers: NonZeroUsize::MIN,
        sync_interval: arguments.sync,
        replicas: arguments.replicas.into_iter().map(|each| (each.stage, each.count)).collect(),
        settings,
        sql: !arguments.no_sql,
        stages: None,
    };
    if !options.keeps_tables() && options.settings.iter().any(|setting| setting.section() == "sql") {
        return Err(CommandFailure::usage(
            "--set sql.… is for the stage that keeps tables, which does not run with --no-sql",
        ));
    }
    let tables = options.keeps_tables().then(|| {
        let in_folder = folder.join("data").join(SQL).join(SQLITE_FILE);
        match options.settings.iter().any(|setting| setting.sets("sql.database")) {
            true => "the database that sql.database names".to_owned(),
            false => format!("{} sql --database {}", session.program.name, in_folder.display()),
        }
    });
    let mut deployment = Deployment::prepare(options, session)?;
    console.say(format_args!("starting; logs are in {}", folder.join("logs").display()));
    let started = tokio::select! {
        started = deployment.start() => Some(started),
        () = shutdown.requested() => None,
    };
    if let Some(Ok(())) = &started {
        console.say(format_args!(
            "ready: {} processes; Ctrl-C stops them. In another terminal:\n  export NATS_URL=nats://127.0.0.1:{}\n\
             Whoever connects without credentials may not publish what stages alone write, such as evt.…; their key is in\n  {}",
            deployment.process_count(),
            arguments.nats_port,
            deployment.key_file().display()
        ));
        for address in deployment.http_addresses() {
            console.say(format_args!("commands over HTTP: http://{address}/v1/commands"));
            console.say(format_args!("pages for a browser: http://{address}/"));
        }
        if let Some(tables) = tables {
            console.say(format_args!("tables of views and reports: {tables}"));
        }
        shutdown.requested().await;
    }
    if deployment.process_count() > 0 {
        console.say("stopping");
        deployment.stop().await;
        console.say("stopped");
    }
    match started {
        Some(Err(failure)) => Err(failure),
        Some(Ok(())) | None => Ok(ExitCode::Ok),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// nats-server was started three times with what it does not take.
    #[test]
    fn sync_takes_what_nats_server_takes() {
        for (text, taken) in
            [("always", "always"), ("10s", "10000ms"), ("1m30s", "90000ms"), ("1d", "86400000ms")]
        {
            assert_eq!(sync_interval(text).as_deref(), Ok(taken));
        }
        for text in ["never", "", "0", "0s", "10", "-1s", "1w"] {
            assert!(sync_interval(text).is_err(), "{text}");
        }
    }
}
