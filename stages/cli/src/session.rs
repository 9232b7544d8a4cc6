//! What every command that talks to a server needs: the connection, configured by natscli's contexts, NATS_* variables and flags.

use std::{collections::BTreeMap, path::Path, time::Duration};

use async_nats::{Client, jetstream};
use millstream_contract::exit_code::ExitCode;
use millstream_domain::application::{BuiltReport, Model, Views};
use millstream_jetstream::nats_broker::NatsBroker;
use millstream_runtime::{
    config::{Origins, load_connection, load_part},
    connection::{Authentication, ClientIdentity, ConnectionSettings, Forbidden, connect, dialer},
};

use crate::{console::Console, failure::CommandFailure, program::Program};

/// The environment of the process, read once in main.
pub(crate) type Environment = BTreeMap<String, String>;

/// A person is less patient than a stage.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(5);
/// If this variable is set, it says how long to wait.
const CONNECT_WAIT_VARIABLE: &str = "MILLSTREAM_NATS__CONNECT_TIMEOUT";

/// Names the nats-server program to start. It is not about a connection, although its name looks like it.
pub(crate) const SERVER_PROGRAM_VARIABLE: &str = "NATS_SERVER";
/// The file of the key with which to connect.
const NKEY_VARIABLE: &str = "MILLSTREAM_NATS__NKEY_FILE";

/// Flags above natscli's contexts and variables.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct ConnectionArguments {
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
    /// Prints messages.
    pub(crate) console: Console,
    /// The environment of the process.
    pub(crate) environment: Environment,
    /// The application.
    pub(crate) program: Program,
    arguments: ConnectionArguments,
    /// What the server forbids on its connections.
    pub(crate) forbidden: Forbidden,
}

/// A connection in its three forms.
#[derive(Debug, Clone)]
pub(crate) struct Connected {
    /// Plain NATS.
    pub(crate) client: Client,
    /// JetStream with the client library's own types: streams and consumers.
    pub(crate) jetstream: jetstream::Context,
    /// JetStream as the engine uses it.
    pub(crate) broker: NatsBroker,
}

impl Session {
    pub(crate) fn new(
        console: Console,
        environment: Environment,
        program: Program,
        arguments: ConnectionArguments,
    ) -> Self {
        Self { console, environment, program, arguments, forbidden: Forbidden::default() }
    }

    /// The application's model.
    ///
    /// # Errors
    /// When its names do not fit together.
    pub(crate) fn model(&self) -> Result<Model, CommandFailure> {
        Ok((self.program.model)()?)
    }

    /// The projections of the application's views, with their settings from the environment.
    ///
    /// # Errors
    /// When the application is not sound, or a setting is wrong.
    pub(crate) fn views(&self) -> Result<Views, CommandFailure> {
        let model = self.model()?;
        Ok(load_part(&self.variables(), "projector", |keys| model.views(keys))?)
    }

    /// The application's reports, with their settings from the environment.
    ///
    /// # Errors
    /// When the application is not sound, or a setting is wrong.
    pub(crate) fn reports(&self) -> Result<Vec<BuiltReport>, CommandFailure> {
        let model = self.model()?;
        Ok(load_part(&self.variables(), "reporter", |keys| model.reports(keys))?)
    }

    fn variables(&self) -> Origins {
        Origins { environment: self.environment.clone(), ..Origins::default() }
    }

    /// The same, for a server that this process starts. Its users have nothing to do with those that the person has elsewhere.
    pub(crate) fn for_server(&self, url: &str, nkey_file: &Path) -> Self {
        let arguments =
            ConnectionArguments { server: Some(url.to_owned()), ..ConnectionArguments::default() };
        let mut environment = self.environment.clone();
        environment.retain(|name, _| !is_connection_variable(name));
        environment.insert(NKEY_VARIABLE.to_owned(), nkey_file.to_string_lossy().into_owned());
        let forbidden = Forbidden::default();
        Self { console: self.console.clone(), environment, program: self.program, arguments, forbidden }
    }

    /// For a command that does not connect to an existing server.
    ///
    /// # Errors
    /// When a flag names a server. `why` says what to do instead.
    pub(crate) fn refuse_connection_flags(&self, why: &str) -> Result<(), CommandFailure> {
        let ConnectionArguments { server, nats_context, creds } = &self.arguments;
        let given = [("--server", server), ("--context", nats_context), ("--creds", creds)];
        match given.iter().find(|(_, value)| value.is_some()) {
            Some((flag, _)) => {
                Err(CommandFailure::usage(format_args!("{flag} is not for this command: {why}")))
            }
            None => Ok(()),
        }
    }

    /// The flags above, in the form of a stage's command line.
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

    /// Runs `work`, but returns at once if the server forbids something, because the answer would never come.
    ///
    /// # Errors
    /// The error of `work`, or that it is not allowed.
    pub(crate) async fn unless_forbidden<T>(
        &self,
        work: impl Future<Output = Result<T, CommandFailure>>,
    ) -> Result<T, CommandFailure> {
        let before = self.forbidden.publishes();
        tokio::select! {
            biased;
            done = work => done,
            subject = self.forbidden.publish_after(before) => {
                Err(CommandFailure::new(ExitCode::NotPermitted, not_allowed(&subject)))
            }
        }
    }

    /// Connects.
    ///
    /// # Errors
    /// When the settings are wrong or the server does not answer.
    pub(crate) async fn connect(&self) -> Result<Connected, CommandFailure> {
        let settings = self.settings()?;
        let identity = ClientIdentity { name: "millstream".to_owned(), inbox_prefix: "_INBOX".to_owned() };
        let monitor = self.forbidden.noted_by_monitor();
        let client = connect(&settings, &identity, &monitor).await?;
        let jetstream = match &settings.jetstream_domain {
            Some(domain) => jetstream::with_domain(client.clone(), domain),
            None => jetstream::new(client.clone()),
        };
        let dialer = dialer(&settings, &identity, &monitor);
        let broker = NatsBroker::new(client.clone(), dialer, settings.jetstream_domain.as_deref());
        Ok(Connected { client, jetstream, broker })
    }

    /// The name of the user as whom it connects, if the settings name one.
    ///
    /// # Errors
    /// When the settings are wrong.
    pub(crate) fn user(&self) -> Result<Option<String>, CommandFailure> {
        Ok(match self.settings()?.authentication {
            Authentication::Password { user, .. } => Some(user),
            _ => None,
        })
    }

    fn settings(&self) -> Result<ConnectionSettings, CommandFailure> {
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
        Ok(settings)
    }
}

/// Whether a variable says where or how to connect.
pub(crate) fn is_connection_variable(name: &str) -> bool {
    name.starts_with("NATS_") && name != SERVER_PROGRAM_VARIABLE || name.starts_with("MILLSTREAM_NATS__")
}

/// The message if the server forbids publishing on a subject.
pub(crate) fn not_allowed(subject: &str) -> String {
    format!(
        "not allowed: the server does not let this user publish to {subject} (docs/permissions.md says who may)"
    )
}
