//! Logs on standard error: for people on a terminal, as JSON lines otherwise. Also the settings of the address that serves health and metrics.
//! A line that cannot be written is dropped and counted.
//!
//! Deliberately absent: log files and rotation. Whatever runs the process keeps its standard error.

mod json_line;

use std::io::IsTerminal;
use std::net::SocketAddr;

use json_line::JsonLine;
use tracing_subscriber::EnvFilter;

use crate::config::{Section, SectionKeys};
use crate::metrics::Count;
use crate::standard_streams::LogLines;

/// Part of the path of the client library's source files.
const CLIENT_SOURCE: &str = "async-nats-";

/// The client library's own log repeats what [`crate::connection`] logs. Rejections are answers to their senders, and there may be thousands a
/// second.
const FILTER_DEFAULT: &str = "info,async_nats=off,millstream::rejections=off";

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people on a terminal, JSON otherwise.
    Automatic,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// The `[telemetry]` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TelemetrySettings {
    /// The address of `/livez`, `/readyz` and `/metrics`; `None` if they are not served.
    pub address: Option<SocketAddr>,
    /// Which log lines are written.
    pub filter: String,
    /// Their format.
    pub format: LogFormat,
}

impl Section for TelemetrySettings {
    const NAME: &'static str = "telemetry";
    const ABOUT: &'static str = "Logs (always on standard error), and the address for health and metrics.";

    fn read(keys: &mut SectionKeys<'_>) -> Self {
        let text = keys.text(
            "address",
            "",
            "address and port of /livez, /readyz and /metrics, such as \"127.0.0.1:9090\"; empty for none",
        );
        let address = match (text.is_empty(), text.parse()) {
            (true, _) => None,
            (false, Ok(address)) => Some(address),
            (false, Err(_)) => {
                keys.problem(
                    "address",
                    format!("is `{text}`; it takes an address and a port, such as \"127.0.0.1:9090\""),
                );
                None
            }
        };
        let filter = keys.text(
            "filter",
            FILTER_DEFAULT,
            "which log lines are written: a level (error, warn, info, debug, trace), or levels by module; a line for each rejected command with millstream::rejections=info, for every command with debug",
        );
        if let Err(error) = EnvFilter::builder().parse(&filter) {
            keys.problem(
                "filter",
                format!("is `{filter}`: {error}; write for example \"info,millstream_write_side=debug\""),
            );
        }
        let formats =
            [("automatic", LogFormat::Automatic), ("human", LogFormat::Human), ("json", LogFormat::Json)];
        let format = keys.choice(
            "format",
            &formats,
            "automatic",
            "how log lines look; automatic is human on a terminal",
        );
        Self { address, filter, format }
    }
}

/// Starts writing log lines for the whole process, and counts those that are `dropped` because they cannot be written. Further calls in the
/// same process change nothing.
pub fn initialise(settings: &TelemetrySettings, stage: &str, instance: &str, dropped: Count) {
    let filter = EnvFilter::builder().parse_lossy(&settings.filter);
    let lines = LogLines { dropped };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || lines.clone())
        // Otherwise this would use `eprintln!`, which panics if standard error cannot be written.
        .log_internal_errors(false);
    let terminal = std::io::stderr().is_terminal();
    let json = match settings.format {
        LogFormat::Json => true,
        LogFormat::Human => false,
        LogFormat::Automatic => !terminal,
    };
    // A second subscriber is refused, because tests run several stages in one process.
    let first = if json {
        builder.event_format(JsonLine::new(stage, instance)).try_init().is_ok()
    } else {
        builder.with_ansi(terminal).with_target(false).try_init().is_ok()
    };
    if first {
        tell_panics_of_the_client();
    }
}

/// The client library panics at some bytes of a stored message, such as a bare carriage return in a header. That costs the connection on which
/// they came; its user notices and reads on ([`millstream_jetstream::line`]). It is not a crash, and is not logged as one.
fn tell_panics_of_the_client() {
    let otherwise = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().filter(|place| place.file().contains(CLIENT_SOURCE));
        match place {
            Some(place) => tracing::info!(
                file = place.file(),
                line = place.line(),
                panic = panic.payload_as_str().unwrap_or("without a text"),
                "the client library met bytes that it cannot read and ended one of its connections"
            ),
            None => otherwise(panic),
        }
    }));
}

#[cfg(test)]
mod tests;
