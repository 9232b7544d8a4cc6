//! Reads from its reply subject where a delivered message stands.

use jiff::Timestamp;

/// Where a delivered message stands, according to its reply subject: `$JS.ACK.<stream>.<consumer>.<delivered>.<stream sequence>.<consumer
/// sequence>.<nanoseconds>.<pending>`, or the same with domain and account hash before the stream.
pub(super) struct Place {
    pub(super) stream_sequence: u64,
    pub(super) consumer_sequence: u64,
    pub(super) stored_at: Timestamp,
    pub(super) pending: u64,
}

impl Place {
    pub(super) fn parse(reply: &str) -> Option<Self> {
        let tokens = reply.split('.').count();
        let skip = match tokens {
            9 => 5,
            count if count >= 11 => 7,
            _ => return None,
        };
        let mut numbers = reply.split('.').skip(skip);
        let stream_sequence = numbers.next()?.parse().ok()?;
        let consumer_sequence = numbers.next()?.parse().ok()?;
        let nanoseconds: i64 = numbers.next()?.parse().ok()?;
        let pending = numbers.next()?.parse().ok()?;
        Some(Self {
            stream_sequence,
            consumer_sequence,
            stored_at: Timestamp::from_nanosecond(i128::from(nanoseconds)).ok()?,
            pending,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_reply_subjects_are_read() {
        for reply in [
            "$JS.ACK.EVENTS.projector.1.17.4.1785312000000000000.9",
            "$JS.ACK._.hash.EVENTS.projector.1.17.4.1785312000000000000.9.random",
        ] {
            let place = Place::parse(reply).unwrap();
            assert_eq!((place.stream_sequence, place.consumer_sequence), (17, 4), "{reply}");
        }
        assert!(Place::parse("_INBOX.x").is_none());
    }
}
