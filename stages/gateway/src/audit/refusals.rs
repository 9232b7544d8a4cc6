//! Gathers equal refusals, so that nobody fills AUDIT by being refused: the first is written at once, and those that follow become one record
//! every ten minutes, with their number.
//!
//! Refusals are equal when sender, code, kind of address and network are. Memory is bounded by the number of kinds that are gathered at a time.
//! Beyond it, where a sender was refused is given up first, and who was refused only beyond twice that number: one sender with many addresses
//! takes no other one's name out of the log. So refusals add at most 2 × ([`KINDS_MAX`] + [`STRANGERS_MAX`]) + 1 records in ten minutes, and as
//! many once when they begin.

use std::{
    collections::HashMap,
    mem,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use millstream_contract::audit::{AuditDecision, AuditRecord};

/// How long equal refusals are gathered.
pub(super) const WINDOW: Duration = Duration::from_secs(600);
/// Kinds of refusals of known senders that are gathered at a time, and as many again without where. Each takes about a kilobyte.
const KINDS_MAX: usize = 512;
/// The same of strangers, who are as many as there are addresses, so that they take no places of known senders.
const STRANGERS_MAX: usize = 128;
/// The code of a record about all refusals beyond those, and the kind of address where that is given up.
const OTHERS: &str = "others";

/// What equal refusals have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    who: Option<Arc<str>>,
    code: String,
    route: String,
    network: Option<IpAddr>,
}

impl Kind {
    /// Of a sender, if it is known, who was refused for `code` at a kind of address.
    pub(super) fn new(who: Option<Arc<str>>, code: &str, route: &str, address: Option<IpAddr>) -> Self {
        Self { who, code: code.to_owned(), route: route.to_owned(), network: address.map(network) }
    }
}

/// An IPv4 address, or the 64 bits of an IPv6 address that say whose it is: whoever has one has all that begin so.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address @ IpAddr::V4(_) => address,
    }
}

/// Refusals of one kind that have no record yet.
#[derive(Debug, Default)]
struct Many {
    count: u64,
    /// The first of them, and when the last came.
    begun: Option<(AuditRecord, Timestamp)>,
}

impl Many {
    fn add(&mut self, record: AuditRecord) {
        self.count += 1;
        let last = record.time;
        match &mut self.begun {
            Some((_, until)) => *until = last,
            None => self.begun = Some((record, last)),
        }
    }

    /// The record of them, if there are some; then there are none.
    fn take(&mut self) -> Option<AuditRecord> {
        let Self { count, begun } = mem::take(self);
        let (first, last) = begun?;
        let several = count > 1;
        Some(AuditRecord { count: several.then_some(count), last: several.then_some(last), ..first })
    }
}

/// What is gathered.
#[derive(Debug, Default)]
struct Gathered {
    known: HashMap<Kind, Many>,
    strangers: HashMap<Kind, Many>,
    others: Many,
}

/// Takes refusals.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<Gathered>);

impl Refusals {
    /// Takes the record of a refusal. Returns it if it is to be written at once.
    pub(super) fn add(&self, kind: Kind, record: AuditRecord) -> Option<AuditRecord> {
        let mut gathered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Gathered { known, strangers, others } = &mut *gathered;
        let (kinds, max) = match kind.who {
            Some(_) => (known, KINDS_MAX),
            None => (strangers, STRANGERS_MAX),
        };
        let has_place = kinds.len() < max || kinds.contains_key(&kind);
        let kind = if has_place { kind } else { Kind { route: OTHERS.to_owned(), network: None, ..kind } };
        if let Some(many) = kinds.get_mut(&kind) {
            many.add(record);
            return None;
        }
        if kinds.len() < 2 * max {
            kinds.insert(kind, Many::default());
            return Some(record);
        }
        let code = Some(OTHERS.to_owned());
        others.add(AuditRecord { code, ..AuditRecord::new(record.time, AuditDecision::Denied) });
        None
    }

    /// Ends the window: the records of what was gathered. A kind of which nothing came has its next refusal written at once again.
    pub(super) fn ended(&self) -> Vec<AuditRecord> {
        let mut gathered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Gathered { known, strangers, others } = &mut *gathered;
        let mut records: Vec<AuditRecord> = others.take().into_iter().collect();
        for kinds in [known, strangers] {
            kinds.retain(|_, many| {
                let record = many.take();
                let goes_on = record.is_some();
                records.extend(record);
                goes_on
            });
        }
        records.sort_by_key(|record| record.time);
        records
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn record(second: i64) -> AuditRecord {
        AuditRecord::new(Timestamp::from_second(second).unwrap(), AuditDecision::Denied)
    }

    fn kind(who: Option<&str>, code: &str, route: &str, address: IpAddr) -> Kind {
        Kind::new(who.map(Arc::from), code, route, Some(address))
    }

    fn v4(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(number).into()
    }

    /// Count, and the seconds of the first and the last.
    fn told(records: &[AuditRecord]) -> Vec<(Option<u64>, i64, Option<i64>)> {
        let told =
            |each: &AuditRecord| (each.count, each.time.as_second(), each.last.map(Timestamp::as_second));
        records.iter().map(told).collect()
    }

    #[test]
    fn the_first_is_told_at_once_and_the_rest_as_a_number_with_their_times() {
        let refusals = Refusals::default();
        let add = |second| refusals.add(kind(Some("till"), "a", "/v1", v4(1)), record(second)).is_some();
        assert_eq!((0..100).filter(|second| add(*second)).collect::<Vec<_>>(), [0]);
        assert_eq!(told(&refusals.ended()), [(Some(99), 1, Some(99))]);
        assert!(!add(100), "it goes on");
        assert_eq!(told(&refusals.ended()), [(None, 100, None)]);
        assert!(refusals.ended().is_empty());
        assert!(add(101), "it begins again");
    }

    #[test]
    fn whatever_tells_refusals_apart_has_a_record_of_its_own() {
        let refusals = Refusals::default();
        let [one, same, other] =
            ["2001:db8::1", "2001:db8::2:1", "2001:db8:0:1::1"].map(|text| text.parse().unwrap());
        for (kind, is_first) in [
            (kind(Some("till"), "a", "/v1", v4(1)), true),
            (kind(Some("shop"), "a", "/v1", v4(1)), true),
            (kind(None, "a", "/v1", v4(1)), true),
            (kind(Some("till"), "b", "/v1", v4(1)), true),
            (kind(Some("till"), "a", "/v2", v4(1)), true),
            (kind(Some("till"), "a", "/v1", v4(2)), true),
            (kind(Some("till"), "a", "/v1", one), true),
            (kind(Some("till"), "a", "/v1", same), false),
            (kind(Some("till"), "a", "/v1", other), true),
            (kind(Some("till"), "a", "/v1", "::ffff:0.0.0.1".parse().unwrap()), false),
        ] {
            assert_eq!(refusals.add(kind.clone(), record(0)).is_some(), is_first, "{kind:?}");
        }
    }

    #[test]
    fn senders_of_any_number_of_addresses_take_a_bounded_place_and_no_other_ones_name() {
        let refusals = Refusals::default();
        let from_everywhere = |who: Option<&str>, numbers: std::ops::Range<u32>| {
            let named = || AuditRecord { who: who.map(str::to_owned), ..record(7) };
            let firsts =
                numbers.filter(|number| refusals.add(kind(who, "a", "/v1", v4(*number)), named()).is_some());
            firsts.count()
        };
        assert_eq!(from_everywhere(None, 0..10_000), STRANGERS_MAX + 1);
        assert_eq!(from_everywhere(Some("till"), 0..10_000), KINDS_MAX + 1);
        assert_eq!(from_everywhere(Some("shop"), 0..10), 1, "it has a record with its name");
        let mut ended = refusals.ended();
        ended.sort_by(|one, other| one.who.cmp(&other.who));
        let expected = [10_000 - STRANGERS_MAX - 1, 9, 10_000 - KINDS_MAX - 1]
            .map(|count| (Some(count as u64), 7, Some(7)));
        assert_eq!(told(&ended), expected);
        assert_eq!(
            ended.iter().map(|each| each.who.as_deref()).collect::<Vec<_>>(),
            [None, Some("shop"), Some("till")]
        );
        assert_eq!(from_everywhere(None, 0..1), 1, "there are places again");
    }

    #[test]
    fn what_is_beyond_all_places_is_one_number() {
        let refusals = Refusals::default();
        let first = (0..10_000).filter(|code| {
            refusals.add(kind(Some("till"), &format!("code-{code}"), "/v1", v4(1)), record(7)).is_some()
        });
        assert_eq!(first.count(), 2 * KINDS_MAX);
        let ended = refusals.ended();
        assert_eq!(told(&ended), [(Some(10_000 - 2 * KINDS_MAX as u64), 7, Some(7))]);
        assert_eq!((&ended[0].who, ended[0].code.as_deref()), (&None, Some("others")));
    }
}
