//! Streams on the overview: how much each holds, how full it is, and how fast it has grown in the last minute.

use std::time::Duration;

use jiff::Timestamp;
use millstream_contract::stream_names::DEAD_LETTERS;
use millstream_jetstream::{
    broker::{Broker as _, CROWDED, StreamState},
    nats_broker::NatsBroker,
    position_at_moment::last_stored_before,
};

use super::chart;

/// The time over which rates are counted: long enough to be steady, short enough to be about now.
const RATE_WINDOW: Duration = Duration::from_secs(60);

/// A stream as a page shows it.
pub(super) struct Stream {
    pub(super) name: &'static str,
    pub(super) last: String,
    pub(super) held: String,
    pub(super) messages: u64,
    pub(super) fill: String,
    pub(super) meter: String,
    pub(super) is_crowded: bool,
    /// How much came in the last minute; empty if it is not known.
    pub(super) rate: String,
    /// Why nothing is known.
    pub(super) why: String,
}

impl Stream {
    /// The stream with this state, or why it is not known.
    pub(super) fn new(name: &'static str, state: &Result<StreamState, String>) -> Self {
        let state = match state {
            Ok(state) => state,
            Err(why) => {
                let [last, held, fill, meter, rate] = [(); 5].map(|()| String::new());
                let (messages, is_crowded, why) = (0, false, why.clone());
                return Self { name, last, held, messages, fill, meter, is_crowded, rate, why };
            }
        };
        let ratio = state.usage.ratio();
        let thousandths = (ratio * 1_000.0) as u64;
        Self {
            name,
            last: grouped(state.last_sequence),
            held: format!("{} messages, {}", grouped(state.usage.messages), size(state.usage.bytes)),
            messages: state.usage.messages,
            fill: format!("{}.{} % full", thousandths / 10, thousandths % 10),
            meter: chart::meter(thousandths),
            is_crowded: ratio > CROWDED,
            rate: String::new(),
            why: String::new(),
        }
    }

    /// Whether it holds dead letters.
    pub(super) fn is_of_letters(&self) -> bool {
        self.name == DEAD_LETTERS
    }
}

/// The state of a stream, or why it is not known.
pub(super) async fn state(broker: &NatsBroker, name: &str) -> Result<StreamState, String> {
    broker.state(name).await.map_err(|error| error.to_string())
}

/// How many messages a second came to a stream with this state in the last minute, as a text; empty if that is not known. It is counted in the
/// stream itself, so that it is the same on every replica of the gateway.
pub(super) async fn rate(broker: &NatsBroker, name: &str, now: &Result<StreamState, String>) -> String {
    let (Ok(since), Ok(now)) = (Timestamp::now().checked_sub(RATE_WINDOW), now) else { return String::new() };
    let Ok(before) = last_stored_before(broker, name, since, u64::MAX).await else { return String::new() };
    // What was purged since came earlier, as far as anybody can tell.
    let before = before.max(now.first_sequence.saturating_sub(1));
    per_second(now.last_sequence.saturating_sub(before))
}

fn per_second(in_a_minute: u64) -> String {
    match in_a_minute {
        0 => "0 a second".to_owned(),
        // Less than one tenth would be shown as none.
        1..6 => format!("{in_a_minute} a minute"),
        _ => {
            let tenths = in_a_minute.saturating_mul(10) / RATE_WINDOW.as_secs();
            if tenths >= 1_000 {
                format!("{} a second", grouped(tenths / 10))
            } else {
                format!("{}.{} a second", tenths / 10, tenths % 10)
            }
        }
    }
}

/// A number with a narrow space between thousands.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    grouped
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{} KiB", bytes / 1_024),
        1_048_576..1_073_741_824 => format!("{} MiB", bytes / 1_048_576),
        _ => format!("{} GiB", bytes / 1_073_741_824),
    }
}

/// A length of time in the two largest units that it has.
pub(super) fn span(seconds: u64) -> String {
    match seconds {
        0 => "under 1 s".to_owned(),
        1..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(grouped),
            ["0", "999", "1\u{202f}000", "1\u{202f}234\u{202f}567"]
        );
        assert_eq!([1_023, 2_048, 3 << 20, 5 << 30].map(size), ["1023 B", "2 KiB", "3 MiB", "5 GiB"]);
    }

    #[test]
    fn rates_and_times_are_told_in_fitting_units() {
        assert_eq!(
            [0, 1, 5, 6, 90, 5_999, 600_000].map(per_second),
            [
                "0 a second",
                "1 a minute",
                "5 a minute",
                "0.1 a second",
                "1.5 a second",
                "99.9 a second",
                "10\u{202f}000 a second"
            ]
        );
        assert_eq!(
            [0, 59, 75, 7_500, 180_000].map(span),
            ["under 1 s", "59 s", "1 min 15 s", "2 h 5 min", "2 d 2 h"]
        );
    }
}
