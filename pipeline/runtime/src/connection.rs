//! The connection to NATS: settings ([`ConnectionSettings`]), the first attempts to connect, and what is logged and counted during its life.
//! After the first success it reconnects for ever, unless it is refused for good. Messages that may hold foreign bytes use lines of their own.
//!
//! Deliberately absent: everything about JetStream.

mod backoff;
mod credentials;
mod forbidden;
mod monitor;
mod native;
mod settings;
mod tls;

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectErrorKind, ConnectOptions};
use futures::StreamExt as _;

pub use forbidden::Forbidden;
pub use monitor::ConnectionMonitor;
pub use settings::{Authentication, ConnectionSettings, Secret};

use millstream_contract::{
    error_text::one_line,
    exit_code::{ExitCode, Failure},
};
use millstream_jetstream::line::{Dialer, Transport};

use crate::config::format_duration;

/// How a client shows itself to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientIdentity {
    /// Shown by `nats server report connections`.
    pub name: String,
    /// First token of the subjects on which it gets replies, unless the settings name another one. A prefix of its own
    /// keeps the permissions of one client from reading another's replies.
    pub inbox_prefix: String,
}

impl ClientIdentity {
    /// The identity of a stage's process: `projector`, or `projector-2` for the instance `2`.
    #[must_use]
    pub fn of_stage(stage: &str, instance: &str) -> Self {
        Self { name: process_name(stage, instance), inbox_prefix: stage_inbox(stage) }
    }
}

/// What the replies to a stage begin with. Those to the gateway come from other stages, which answer on the inboxes of clients alone.
#[must_use]
pub fn stage_inbox(stage: &str) -> String {
    let separator = if stage == "gateway" { "." } else { "_" };
    format!("_INBOX{separator}{stage}")
}

/// The name of a stage's process.
#[must_use]
pub fn process_name(stage: &str, instance: &str) -> String {
    if instance.is_empty() { stage.to_owned() } else { format!("{stage}-{instance}") }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A file that the settings name cannot be read.
    #[error("{what} {} cannot be read; check the path and who may read it", .path.display())]
    File {
        /// What the file is.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of credentials holds something else.
    #[error("{what} {} holds no JWT and seed of a user, as nsc writes them", .path.display())]
    NoCredentials {
        /// What the file is.
        what: &'static str,
        /// Where.
        path: PathBuf,
    },
    /// The server knows us and refuses.
    #[error(
        "{urls} refuses the credentials ({credentials}); check [nats] in the configuration or the nats context"
    )]
    NotPermitted {
        /// Which servers.
        urls: String,
        /// Which credentials were used.
        credentials: String,
    },
    /// The credentials do not work on our own side.
    #[error(
        "the credentials ({credentials}) cannot sign; the file must hold the seed of a user, as nsc or `nats auth` made it"
    )]
    Unusable {
        /// Which credentials.
        credentials: String,
    },
    /// Nobody answered in time.
    #[error(
        "no connection to {urls} within {}: {reason}; check nats.url and whether nats-server runs there", format_duration(*.waited)
    )]
    Unreachable {
        /// Which servers.
        urls: String,
        /// How long it was tried.
        waited: Duration,
        /// What the last attempt met.
        reason: String,
    },
}

impl Failure for ConnectError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::File { .. } | Self::NoCredentials { .. } | Self::Unusable { .. } => ExitCode::Configuration,
            Self::NotPermitted { .. } => ExitCode::NotPermitted,
            Self::Unreachable { .. } => ExitCode::Unavailable,
        }
    }
}

/// Connects, and tries again until the settings' patience ends: a process may be started before its server.
///
/// # Errors
/// [`ConnectError`]; refused credentials are not tried again.
pub async fn connect(
    settings: &ConnectionSettings,
    identity: &ClientIdentity,
    monitor: &ConnectionMonitor,
) -> Result<Client, ConnectError> {
    let urls = settings.urls.join(", ");
    let options = options(settings, identity, monitor)?.name(&identity.name);
    let mut options = options.require_tls(means_tls(settings));
    if settings.tls_first {
        options = options.tls_first();
    }
    let credentials = settings.authentication.to_string();
    let mut last_reason = String::new();
    let attempts = async {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match options.clone().connect(settings.urls.as_slice()).await {
                Ok(client) => return Ok(client),
                Err(error) if error.kind() == ConnectErrorKind::AuthorizationViolation => {
                    return Err(ConnectError::NotPermitted { urls: urls.clone(), credentials });
                }
                Err(error) if error.kind() == ConnectErrorKind::Authentication => {
                    return Err(ConnectError::Unusable { credentials });
                }
                Err(error) => {
                    let reason = describe(&error);
                    monitor.waiting(&urls, &reason);
                    last_reason = reason;
                }
            }
            tokio::time::sleep(backoff::delay(attempt)).await;
        }
    };
    let outcome = if settings.connect_timeout.is_zero() {
        Some(attempts.await)
    } else {
        tokio::time::timeout(settings.connect_timeout, attempts).await.ok()
    };
    let Some(connected) = outcome else {
        let reason = if last_reason.is_empty() { "no answer".to_owned() } else { last_reason };
        return Err(ConnectError::Unreachable { urls, waited: settings.connect_timeout, reason });
    };
    let client = connected?;
    monitor.connected(&urls, &client);
    Ok(client)
}

/// Opens further connections ("lines") with the settings and under the name of the process's connection. What the server forbids on
/// a line is told to `monitor`.
pub fn dialer(
    settings: &ConnectionSettings,
    identity: &ClientIdentity,
    monitor: &ConnectionMonitor,
) -> Dialer {
    let (settings, identity, monitor) = (settings.clone(), identity.clone(), monitor.clone());
    let urls = settings.urls.clone();
    let transport = Transport {
        name: identity.name.clone(),
        tls_required: means_tls(&settings),
        tls_first: settings.tls_first,
        tls: Arc::new({
            let settings = settings.clone();
            move || tls::client_config(&settings)
        }),
    };
    let make = move || {
        options(&settings, &identity, &ConnectionMonitor::unobserved()).map_err(|error| one_line(&error))
    };
    Dialer::new(&urls, transport, make, move |event| monitor.observe_line(event))
}

/// Ends when the credentials were refused, or could not be read, for as long as the settings allow, although that was tried again at each
/// attempt.
pub(crate) async fn refused(settings: &ConnectionSettings, monitor: &ConnectionMonitor) -> ConnectError {
    monitor.refused(settings.refused_limit).await;
    // No server refuses what was never presented to it.
    if let Err(unreadable) = credentials::check(&settings.authentication) {
        return unreadable;
    }
    ConnectError::NotPermitted {
        urls: settings.urls.join(", "),
        credentials: settings.authentication.to_string(),
    }
}

/// Ends when the client's own task has ended, which leaves a client that neither sends nor hears anything and says nothing of
/// it. It never reconnects; only a new process helps.
pub async fn ended(client: &Client) {
    if let Ok(mut nothing) = client.subscribe(client.new_inbox()).await {
        while nothing.next().await.is_some() {}
    }
}

/// The client's task has ended.
#[derive(Debug, thiserror::Error)]
#[error("the task of the connection to NATS has ended; the process must be started again")]
pub struct ConnectionEnded;

impl Failure for ConnectionEnded {
    fn exit_code(&self) -> ExitCode {
        ExitCode::Unavailable
    }
}

/// First part of the subjects on which a client gets replies.
pub(crate) fn inbox_prefix<'a>(settings: &'a ConnectionSettings, identity: &'a ClientIdentity) -> &'a str {
    settings.inbox_prefix.as_deref().unwrap_or(&identity.inbox_prefix)
}

/// Whether the settings name certificates: then nothing goes out without TLS. A server that wants none may be somebody else in its place.
fn means_tls(settings: &ConnectionSettings) -> bool {
    settings.ca_file.is_some() || settings.client_certificate.is_some()
}

/// But for the name and TLS.
fn options(
    settings: &ConnectionSettings,
    identity: &ClientIdentity,
    monitor: &ConnectionMonitor,
) -> Result<ConnectOptions, ConnectError> {
    let prefix = inbox_prefix(settings, identity);
    let watching = monitor.clone();
    // The client reads these files only when it connects and then reports an I/O error without a name.
    check_certificates(settings)?;
    let mut options = credentials::options(&settings.authentication)?
        .custom_inbox_prefix(prefix)
        .event_callback(move |event| {
            let monitor = watching.clone();
            async move { monitor.observe(&event) }
        })
        .reconnect_delay_callback({
            let monitor = monitor.clone();
            move |attempt| if monitor.was_connected() { backoff::delay(attempt) } else { Duration::ZERO }
        });
    if let Some(path) = &settings.ca_file {
        options = options.add_root_certificates(path.clone());
    }
    if let Some((certificate, key)) = &settings.client_certificate {
        options = options.add_client_certificate(certificate.clone(), key.clone());
    }
    Ok(options)
}

fn check_certificates(settings: &ConnectionSettings) -> Result<(), ConnectError> {
    if let Some(path) = &settings.ca_file {
        read_file("nats.ca_file", path)?;
    }
    if let Some((certificate, key)) = &settings.client_certificate {
        read_file("nats.cert_file", certificate)?;
        read_file("nats.key_file", key)?;
    }
    Ok(())
}

/// Reads every file that a connection needs, and connects to nothing.
fn check_files(settings: &ConnectionSettings) -> Result<(), ConnectError> {
    check_certificates(settings)?;
    credentials::options(&settings.authentication).map(drop)
}

/// Reads a file that holds one secret or document; white space around it does not count.
fn read_file(what: &'static str, path: &std::path::Path) -> Result<String, ConnectError> {
    std::fs::read_to_string(path).map(|text| text.trim().to_owned()).map_err(|source| ConnectError::File {
        what,
        path: path.to_owned(),
        source,
    })
}

/// What went wrong, in a person's words.
fn describe(error: &async_nats::ConnectError) -> String {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
    let mut innermost = None;
    while let Some(current) = cause {
        innermost = Some(current.to_string());
        if let Some(file_error) = current.downcast_ref::<io::Error>()
            && file_error.kind() == io::ErrorKind::ConnectionRefused
        {
            return "connection refused".to_owned();
        }
        cause = current.source();
    }
    let detail = innermost.unwrap_or_default();
    match error.kind() {
        ConnectErrorKind::Dns => format!("the host name cannot be resolved ({detail})"),
        ConnectErrorKind::TimedOut => "no answer in time".to_owned(),
        ConnectErrorKind::Tls => format!("TLS: {detail}"),
        kind if detail.is_empty() => kind.to_string(),
        ConnectErrorKind::Io if detail.contains("certificate") => format!("TLS: {detail}"),
        _ => detail,
    }
}
