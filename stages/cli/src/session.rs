//! What every command that talks to a server needs: the connection by natscli's contexts, NATS_* variables and flags.

use std::{collections::BTreeMap, time::Duration};

use async_nats::{Client, jetstream};
use millstream_engine::{
    config::{Origins, load_connection},
    connection::{ClientIdentity, ConnectionMonitor, Dialer, connect},
    nats_broker::NatsBroker,
};

use crate::{failure::CommandFailure, talk::Talk};

/// The environment of the process, read once in main.
pub type Environment = BTreeMap<String, String>;

/// A person waits less patiently than a stage.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(5);
/// Whoever sets this waits as long as it says.
const CONNECT_WAIT_VARIABLE: &str = "MILLSTREAM_NATS__CONNECT_TIMEOUT";

/// Flags above natscli's contexts and variables.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ConnectionArguments {
    /// URL of the NATS server, before `NATS_URL` and contexts
    #[arg(long, short = 's', global = true, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// natscli context to use, before `NATS_CONTEXT` and the selected one
    #[arg(long = "context", global = true, value_name = "NAME")]
    pub(crate) nats_context: Option<String>,
    /// Credentials file, before `NATS_CREDS`
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) creds: Option<String>,
}

/// One run of a command.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    /// Says things.
    pub(crate) talk: Talk,
    /// The environment of the process.
    pub(crate) environment: Environment,
    arguments: ConnectionArguments,
}

/// A connection in its three forms.
#[derive(Debug, Clone)]
pub(crate) struct Connected {
    /// Plain NATS.
    pub(crate) client: Client,
    /// JetStream by the client's own types: streams and consumers.
    pub(crate) jetstream: jetstream::Context,
    /// JetStream as the engine sees it.
    pub(crate) broker: NatsBroker,
}

impl Session {
    pub(crate) fn new(talk: Talk, environment: Environment, arguments: ConnectionArguments) -> Self {
        Self { talk, environment, arguments }
    }

    /// The same, for another server.
    pub(crate) fn for_server(&self, url: &str) -> Self {
        let arguments =
            ConnectionArguments { server: Some(url.to_owned()), ..ConnectionArguments::default() };
        let mut environment = self.environment.clone();
        environment.retain(|name, _| !name.starts_with("NATS_"));
        Self { talk: self.talk.clone(), environment, arguments }
    }

    /// The flags above, as a stage's command line takes them.
    pub(crate) fn stage_flags(&self) -> Vec<String> {
        let ConnectionArguments { server, nats_context, creds } = &self.arguments;
        let mut flags = Vec::new();
        for (key, value) in
            [("nats.url", server), ("nats.context", nats_context), ("nats.credentials_file", creds)]
        {
            if let Some(value) = value {
                flags.extend(["--set".to_owned(), format!("{key}={value}")]);
            }
        }
        flags
    }

    /// Connects.
    ///
    /// # Errors
    /// When the settings are wrong or the server does not answer.
    pub(crate) async fn connect(&self) -> Result<Connected, CommandFailure> {
        let flags = [
            ("nats.url", &self.arguments.server),
            ("nats.context", &self.arguments.nats_context),
            ("nats.credentials_file", &self.arguments.creds),
        ];
        let origins = Origins {
            file: None,
            environment: self.environment.clone(),
            settings: flags
                .iter()
                .filter_map(|(key, value)| value.as_ref().map(|value| format!("{key}={value}")))
                .collect(),
        };
        let mut settings = load_connection(&origins)?;
        if !self.environment.contains_key(CONNECT_WAIT_VARIABLE) {
            settings.connect_timeout = CONNECT_WAIT_MAX;
        }
        let identity = ClientIdentity { name: "millstream".to_owned(), inbox_prefix: "_INBOX".to_owned() };
        let monitor = ConnectionMonitor::unobserved();
        let client = connect(&settings, &identity, &monitor).await?;
        let jetstream = match &settings.jetstream_domain {
            Some(domain) => jetstream::with_domain(client.clone(), domain),
            None => jetstream::new(client.clone()),
        };
        let dialer = Dialer::new(&settings, &identity, &monitor);
        let broker = NatsBroker::new(client.clone(), dialer, settings.jetstream_domain.as_deref());
        Ok(Connected { client, jetstream, broker })
    }
}
