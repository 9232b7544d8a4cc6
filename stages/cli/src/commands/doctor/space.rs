//! Checks how full the streams are, long before one is full.

use futures::future::join_all;
use millstream_contract::{exit_code::ExitCode, stream_names::STREAMS};
use millstream_jetstream::{
    broker::{Broker, CROWDED},
    nats_broker::NatsBroker,
};
use millstream_runtime::stage_check::{Check, Trouble};

use super::trouble;

/// How much of its limit each stream uses. A crowded stream needs attention; the active handler makes room in COMMANDS and OUTCOMES. If a
/// stream cannot be read, another check reports that.
pub(super) async fn space(broker: &NatsBroker) -> Check {
    let looks = STREAMS.map(async |stream| (stream, broker.state(stream).await.ok()));
    let found = join_all(looks).await;
    let used: Vec<(&str, f64)> =
        found.into_iter().filter_map(|(stream, state)| Some((stream, state?.usage.ratio()))).collect();
    Check { what: "space".to_owned(), result: told(&used) }
}

fn told(used: &[(&str, f64)]) -> Result<String, Trouble> {
    if used.is_empty() {
        return Err(trouble(ExitCode::Unavailable, "no stream could be looked at".to_owned()));
    }
    let words = |(stream, ratio): &(&str, f64)| format!("{stream} {:.0} %", ratio * 100.0);
    let crowded: Vec<String> = used.iter().filter(|(_, ratio)| *ratio > CROWDED).map(words).collect();
    if crowded.is_empty() {
        return Ok(used.iter().map(words).collect::<Vec<_>>().join(", "));
    }
    let sentence = format!(
        "{} of the limit is taken; raise max_bytes before it is full (docs/runbooks/disk-full.md)",
        crowded.join(", ")
    );
    Err(trouble(ExitCode::InputOutput, sentence))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_that_is_nearly_full_is_named() {
        assert_eq!(told(&[("COMMANDS", 0.123), ("EVENTS", 0.8)]).unwrap(), "COMMANDS 12 %, EVENTS 80 %");
        let sentence = told(&[("COMMANDS", 0.5), ("EVENTS", 0.81)]).unwrap_err().sentence;
        assert!(sentence.starts_with("EVENTS 81 % of the limit is taken"), "{sentence}");
    }
}
