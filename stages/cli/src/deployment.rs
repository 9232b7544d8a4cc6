//! A whole Millstream in one folder: nats-server and every stage as child processes.
//!
//! The folder `D` has `D/lock` (who uses the folder), `D/processes.json`, `D/logs/<process>.log`, `D/data/<process>/`, and
//! `D/config/<process>.toml` with the stages' key `D/config/stages.nk`. The configuration is written anew at each start;
//! the gateways' secret `D/data/gateway-id.secret` is made once.

mod access;
mod stage_setting;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File, TryLockError},
    io,
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use futures::future::join_all;
use millstream_contract::exit_code::{ExitCode, Failure};
use millstream_jetstream::{
    nats_server::{
        ClusterConfig, NatsServerConfig, NatsServerProgram, SearchPlaces, free_port, keep_port,
        wait_for_jetstream,
    },
    provision::{ProvisionOptions, StreamFinding, provision},
};
use millstream_runtime::connection::process_name;

use self::access::{StageKey, id_secret};
pub(crate) use self::stage_setting::StageSetting;
use crate::{
    commands::stage::{CHECK_CONFIG, STAGE},
    failure::CommandFailure,
    session::{SERVER_PROGRAM_VARIABLE, Session, is_connection_variable},
    supervisor::{ProcessSpec, ReadyCheck, Supervised, Supervisor, process_list::ProcessEntry},
};

/// The stages in the order in which they are started: the name, and the section of the configuration.
pub(crate) const STAGES: [(&str, &str); 6] = [
    ("command-handler", "command_handler"),
    ("projector", "projector"),
    ("reporter", "reporter"),
    ("process-manager", "process_manager"),
    (SQL, "sql"),
    (GATEWAY, "gateway"),
];

/// The stage that serves HTTP and has no files.
const GATEWAY: &str = "gateway";
/// The stage that keeps views and reports as tables.
pub(crate) const SQL: &str = "sql";
/// The name of a single server.
const SERVER: &str = "nats-server";
/// Longer than a stage's own limit (`shutdown.limit`), after which the stage ends by itself.
const STAGE_STOP_WAIT: Duration = Duration::from_secs(25);
/// The time for nats-server to close its files.
const SERVER_STOP_WAIT: Duration = Duration::from_secs(30);

/// What to run.
#[derive(Debug, Clone)]
pub(crate) struct DeploymentOptions {
    /// The folder for everything.
    pub(crate) folder: PathBuf,
    /// The port of nats-server, or of the first server.
    pub(crate) nats_port: u16,
    /// The port of the gateway, or of the first gateway; any free one if absent.
    pub(crate) http_port: Option<u16>,
    /// The number of servers, each of which keeps every stream. More than one server are a cluster.
    pub(crate) servers: NonZeroUsize,
    /// When nats-server syncs to disk; its default if absent.
    pub(crate) sync_interval: Option<String>,
    /// The number of processes of a stage, by its name, if it is not one.
    pub(crate) replicas: BTreeMap<String, NonZeroUsize>,
    /// Configuration keys for the stages; the last value of a key counts.
    pub(crate) settings: Vec<StageSetting>,
    /// Whether views and reports are kept as tables, too.
    pub(crate) sql: bool,
    /// The stages to run; all if absent.
    pub(crate) stages: Option<&'static [&'static str]>,
}

impl DeploymentOptions {
    /// Whether the stage `sql` runs.
    pub(crate) fn keeps_tables(&self) -> bool {
        self.sql || self.replicas.contains_key(SQL)
    }
}

/// Why the deployment cannot be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeploymentError {
    #[error("{folder} is used by another `{program} up`")]
    InUse { folder: PathBuf, program: &'static str },
    #[error(
        "{server} holds no streams, but the stages kept files of earlier ones in {kept}: the server's folder is gone, and with it every event. \
         Put it back; or, to begin with nothing, remove {data} too. Nothing was started"
    )]
    StoreGone { server: PathBuf, kept: String, data: PathBuf },
    #[error("{path} is a file; name a folder")]
    NoFolder { path: PathBuf },
    #[error("cannot use {path}")]
    File { path: PathBuf, source: io::Error },
    #[error("port {port} is taken; stop what listens there or choose another with {flag}")]
    PortTaken { port: u16, flag: &'static str, source: io::Error },
    #[error("nats-server and the gateway cannot both listen on port {port}; choose another with --http-port")]
    PortTwice { port: u16 },
    #[error("there is no stage {name}; there are {known}")]
    StageUnknown { name: String, known: String },
}

impl Failure for DeploymentError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::InUse { .. } | Self::PortTaken { .. } => ExitCode::AlreadyRunning,
            Self::File { source, .. } => ExitCode::of_file_error(source),
            Self::StoreGone { .. } => ExitCode::Data,
            Self::StageUnknown { .. } | Self::NoFolder { .. } | Self::PortTwice { .. } => ExitCode::Usage,
        }
    }
}

/// Running processes. Stop them with [`Deployment::stop`]. If this process dies, they die with it.
#[derive(Debug)]
pub(crate) struct Deployment {
    options: DeploymentOptions,
    session: Session,
    /// Variables about connections that the user needs elsewhere. They would override the files of the stages.
    foreign_variables: Vec<String>,
    supervisor: Supervisor,
    /// The key with which the stages and this process connect.
    key: StageKey,
    /// The URLs of all servers.
    nats_urls: String,
    servers: Vec<Supervised>,
    stages: Vec<Supervised>,
    /// The addresses of the gateways.
    http_addresses: Vec<SocketAddr>,
    /// Held for as long as the deployment lives.
    _lock: File,
}

impl Deployment {
    /// Takes possession of the folder. Starts nothing yet.
    ///
    /// # Errors
    /// When it is in use or cannot be used, or a replica of an unknown stage is asked for.
    pub(crate) fn prepare(options: DeploymentOptions, session: &Session) -> Result<Self, CommandFailure> {
        if let Some(name) = options.replicas.keys().find(|name| STAGES.iter().all(|(stage, _)| stage != name))
        {
            let known = STAGES.map(|(stage, _)| stage).join(", ");
            return Err(DeploymentError::StageUnknown { name: name.clone(), known }.into());
        }
        let lock = take_folder(&options.folder, session.program.name)?;
        let supervisor = Supervisor::new(&options.folder, session.console.clone())?;
        let config = options.folder.join("config");
        let key = StageKey::make(&config)
            .map_err(|source| DeploymentError::File { path: config.clone(), source })?;
        let nats_urls = NatsServerConfig::new(options.nats_port, "").url();
        let variables = session.environment.keys();
        let foreign_variables = variables.filter(|name| is_connection_variable(name)).cloned().collect();
        let session = session.for_server(&nats_urls, &key.file);
        Ok(Self {
            options,
            session,
            foreign_variables,
            supervisor,
            key,
            nats_urls,
            servers: Vec::new(),
            stages: Vec::new(),
            http_addresses: Vec::new(),
            _lock: lock,
        })
    }

    /// Starts everything in order, and returns when all is ready. Nothing is started if a stage refuses its configuration, or if streams are
    /// gone for which the stages have files.
    ///
    /// # Errors
    /// What could not be started. Call [`Deployment::stop`] in this case, too.
    pub(crate) async fn start(&mut self) -> Result<(), CommandFailure> {
        self.check_store()?;
        // Ports are chosen below before anything listens. Who keeps one already, such as the process that chose it for us, may do so.
        let _kept = [Some(self.options.nats_port), self.options.http_port].map(|port| port.map(keep_port));
        let servers = self.server_configs()?;
        self.nats_urls = servers.iter().map(NatsServerConfig::url).collect::<Vec<_>>().join(",");
        self.session = self.session.for_server(&self.nats_urls, &self.key.file);
        let stages = self.stage_specs()?;
        for refused in join_all(stages.iter().map(refused_configuration)).await {
            refused?;
        }
        self.start_servers(servers).await?;
        let connected = self.session.connect().await?;
        wait_for_jetstream(&connected.jetstream).await?;
        let findings = provision(&connected.jetstream, &self.provision_options()).await?;
        if let Some(bad) = findings.iter().find(|finding| !StreamFinding::is_usable(finding)) {
            let lines = crate::commands::setup::lines(bad, self.session.program.name).join("\n");
            return Err(CommandFailure::new(ExitCode::Configuration, lines));
        }
        for spec in stages {
            self.stages.push(self.supervisor.start(spec)?);
        }
        for stage in &self.stages {
            stage.ready().await?;
        }
        Ok(())
    }

    /// Stops the stages, then nats-server, each within its time limit.
    pub(crate) async fn stop(&mut self) {
        self.stop_stages().await;
        let console = self.session.console.clone();
        join_all(self.servers.drain(..).map(|server| server.stop(&console))).await;
    }

    /// The settings with which streams are created.
    pub(crate) fn provision_options(&self) -> ProvisionOptions {
        ProvisionOptions { replicas: Some(self.options.servers), ..ProvisionOptions::default() }
    }

    /// Stops only the stages.
    pub(crate) async fn stop_stages(&mut self) {
        let console = self.session.console.clone();
        join_all(self.stages.drain(..).map(|stage| stage.stop(&console))).await;
    }

    /// For commands to this deployment's server.
    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    /// The file of the key with which the stages connect.
    pub(crate) fn key_file(&self) -> &Path {
        &self.key.file
    }

    /// A line of `processes.json`.
    pub(crate) fn process(&self, name: &str) -> Option<ProcessEntry> {
        self.supervisor.process(name)
    }

    /// The number of processes, nats-server included.
    pub(crate) fn process_count(&self) -> usize {
        self.stages.len() + self.servers.len()
    }

    /// The HTTP addresses of the gateways.
    pub(crate) fn http_addresses(&self) -> &[SocketAddr] {
        &self.http_addresses
    }

    /// The names of the servers.
    pub(crate) fn server_names(&self) -> Vec<String> {
        match self.options.servers.get() {
            1 => vec![SERVER.to_owned()],
            count => (1..=count).map(|number| format!("{SERVER}-{number}")).collect(),
        }
    }

    /// Otherwise, streams would be created again, and the stages would silently discard what they have.
    fn check_store(&self) -> Result<(), DeploymentError> {
        let data = self.options.folder.join("data");
        let servers = self.server_names();
        if servers.iter().any(|server| holds_streams(&data.join(server))) {
            return Ok(());
        }
        let mut kept = names_in(&data);
        kept.retain(|name| !servers.contains(name) && !names_in(&data.join(name)).is_empty());
        match (servers.first(), kept.is_empty()) {
            (Some(server), false) => {
                let server = data.join(server);
                Err(DeploymentError::StoreGone { server, kept: kept.join(", "), data })
            }
            _ => Ok(()),
        }
    }

    /// Starts all servers, then waits for each, because the servers of a cluster wait for each other.
    async fn start_servers(&mut self, configs: Vec<NatsServerConfig>) -> Result<(), CommandFailure> {
        let program = NatsServerProgram::find(&search_places(&self.session))?;
        for (name, config) in self.server_names().into_iter().zip(configs) {
            let port = config.port;
            // Another nats-server on this port would send the same greeting.
            check_free(port, "--nats-port")?;
            let file = self.write_config(&format!("{name}.conf"), &config.render())?;
            let spec = ProcessSpec {
                name,
                program: program.path.clone(),
                arguments: vec!["--config".into(), file.into()],
                variables_removed: Vec::new(),
                ready: ReadyCheck::NatsServer(port),
                stop_wait: SERVER_STOP_WAIT,
            };
            self.servers.push(self.supervisor.start(spec)?);
        }
        for server in &self.servers {
            server.ready().await?;
        }
        Ok(())
    }

    fn server_configs(&self) -> Result<Vec<NatsServerConfig>, CommandFailure> {
        let names = self.server_names();
        let mut routes = Vec::new();
        if names.len() > 1 {
            for _ in &names {
                routes.push(free_port()?);
            }
        }
        let mut configs = Vec::new();
        for (index, name) in names.into_iter().enumerate() {
            let port = if index == 0 { self.options.nats_port } else { free_port()? };
            let mut config = NatsServerConfig::new(port, self.options.folder.join("data").join(&name));
            config.sync_interval.clone_from(&self.options.sync_interval);
            config.extra = self.key.users();
            if let Some(route) = routes.get(index) {
                config.cluster = Some(ClusterConfig { port: *route, routes: routes.clone() });
                config.name = name;
            }
            configs.push(config);
        }
        Ok(configs)
    }

    /// Every process of every stage that is to run.
    fn stage_specs(&mut self) -> Result<Vec<ProcessSpec>, CommandFailure> {
        let only = self.options.stages;
        let keeps_tables = self.options.keeps_tables();
        let chosen = |stage: &str| match only {
            Some(stages) => stages.contains(&stage),
            None => stage != SQL || keeps_tables,
        };
        let mut specs = Vec::new();
        for (stage, section) in STAGES.into_iter().filter(|(stage, _)| chosen(stage)) {
            let replicas = self.options.replicas.get(stage).map_or(1, |count| count.get());
            for number in 1..=replicas {
                let instance = if replicas == 1 { String::new() } else { number.to_string() };
                specs.push(self.stage_spec(stage, section, &instance)?);
            }
        }
        Ok(specs)
    }

    fn stage_spec(
        &mut self,
        stage: &str,
        section: &str,
        instance: &str,
    ) -> Result<ProcessSpec, CommandFailure> {
        let name = process_name(stage, instance);
        let own = self.own_settings(stage, &name)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let connection = BTreeMap::from([
            ("url", self.nats_urls.clone()),
            ("nkey_file", self.key.file.to_string_lossy().into_owned()),
            ("connect_timeout", "0s".to_owned()),
        ]);
        let config = BTreeMap::from([
            ("process", BTreeMap::from([("instance", instance.to_owned())])),
            ("nats", connection),
            ("telemetry", BTreeMap::from([("address", address.to_string()), ("format", "json".to_owned())])),
            (section, own),
        ]);
        let text = toml::to_string(&config).expect("tables of text are TOML");
        let file = self.write_config(&format!("{name}.toml"), &text)?;
        let mut arguments = vec![STAGE.into(), stage.into(), OsString::from("--config"), file.into()];
        let flags = self.options.settings.iter().filter_map(|setting| setting.flag_for(section));
        arguments.extend(flags.flatten().map(OsString::from));
        Ok(ProcessSpec {
            program: own_program()?,
            name,
            arguments,
            variables_removed: self.foreign_variables.clone(),
            ready: ReadyCheck::Stage(address),
            stop_wait: STAGE_STOP_WAIT,
        })
    }

    /// What a process of a stage has for itself: a folder or, for the gateway, an address and the secret that all gateways share.
    fn own_settings(
        &mut self,
        stage: &str,
        name: &str,
    ) -> Result<BTreeMap<&'static str, String>, CommandFailure> {
        let data = self.options.folder.join("data");
        if stage == GATEWAY {
            let first = self.options.http_port.filter(|_| self.http_addresses.is_empty());
            match first {
                Some(port) if port == self.options.nats_port => {
                    return Err(DeploymentError::PortTwice { port }.into());
                }
                Some(port) => check_free(port, "--http-port")?,
                None => {}
            }
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, first.map_or_else(free_port, Ok)?));
            self.http_addresses.push(address);
            let secret = id_secret(&data).map_err(|source| DeploymentError::File { path: data, source })?;
            let secret = secret.to_string_lossy().into_owned();
            return Ok(BTreeMap::from([("listen", address.to_string()), ("id_secret_file", secret)]));
        }
        let data = data.join(name);
        fs::create_dir_all(&data).map_err(|source| DeploymentError::File { path: data.clone(), source })?;
        Ok(BTreeMap::from([("data_directory", data.to_string_lossy().into_owned())]))
    }

    fn write_config(&self, name: &str, text: &str) -> Result<PathBuf, DeploymentError> {
        let folder = self.options.folder.join("config");
        let path = folder.join(name);
        fs::create_dir_all(&folder)
            .and_then(|()| fs::write(&path, text))
            .map_err(|source| DeploymentError::File { path: path.clone(), source })?;
        Ok(path)
    }
}

/// The sorted content of a folder; empty if there is no such folder.
fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Whether a nats-server keeps streams of any account in its folder.
fn holds_streams(server: &Path) -> bool {
    let store = server.join("jetstream");
    names_in(&store).iter().any(|account| !names_in(&store.join(account).join("streams")).is_empty())
}

fn check_free(port: u16, flag: &'static str) -> Result<(), DeploymentError> {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .map(drop)
        .map_err(|source| DeploymentError::PortTaken { port, flag, source })
}

/// Asks a stage whether it accepts its configuration, so that its rules are not repeated here.
///
/// # Errors
/// The message of the stage, with its exit code.
async fn refused_configuration(spec: &ProcessSpec) -> Result<(), CommandFailure> {
    let mut command = tokio::process::Command::new(&spec.program);
    command.args(&spec.arguments).arg(CHECK_CONFIG).stdin(Stdio::null()).kill_on_drop(true);
    for name in &spec.variables_removed {
        command.env_remove(name);
    }
    let output = command.output().await.map_err(|error| CommandFailure::file(&spec.program, &error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let problems: Vec<&str> = said.lines().map(|line| line.strip_prefix("error: ").unwrap_or(line)).collect();
    let code = output.status.code().and_then(|code| u8::try_from(code).ok());
    let (name, problems) = (&spec.name, problems.join("; "));
    let leave_out = if name.starts_with(SQL) { "; --no-sql leaves this stage out" } else { "" };
    Err(CommandFailure::new(
        ExitCode::Configuration,
        format_args!("nothing was started: {name} refuses its configuration: {problems}{leave_out}"),
    )
    .with_code(code.unwrap_or(ExitCode::Software.number())))
}

fn take_folder(folder: &Path, program: &'static str) -> Result<File, DeploymentError> {
    if let Some(path) = folder.ancestors().find(|path| path.is_file()) {
        return Err(DeploymentError::NoFolder { path: path.to_owned() });
    }
    let path = folder.join("lock");
    let failed = |source| DeploymentError::File { path: path.clone(), source };
    fs::create_dir_all(folder).map_err(failed)?;
    let lock = File::create(&path).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(DeploymentError::InUse { folder: folder.to_owned(), program }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// This program, which is also every stage: `<program> stage <name>`.
pub(crate) fn own_program() -> Result<PathBuf, DeploymentError> {
    std::env::current_exe()
        .map_err(|source| DeploymentError::File { path: PathBuf::from("this program"), source })
}

fn search_places(session: &Session) -> SearchPlaces {
    let variable = |name| session.environment.get(name);
    let folder = |name| variable(name).map(PathBuf::from);
    SearchPlaces {
        named: folder(SERVER_PROGRAM_VARIABLE),
        path: variable("PATH").map(OsString::from),
        cache: SearchPlaces::cache_folder(
            std::env::current_exe().ok().as_deref(),
            folder("XDG_CACHE_HOME"),
            folder("HOME"),
        ),
    }
}
