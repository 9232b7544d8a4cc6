//! The limits of the gateway: how much it accepts, from whom, and for how long.

use std::{num::NonZeroU32, time::Duration};

use millstream_runtime::config::SectionKeys;

/// A quarter of what nats-server accepts by default, headers included.
const BODY_MAX_DEFAULT: u64 = 256 * 1024;
/// A smaller limit would refuse ordinary commands.
const BODY_MAX_LEAST: u64 = 1024;
/// Some thousand commands of usual size.
const LINES_BYTES_MAX_DEFAULT: u64 = 1024 * 1024;
/// As many as a key may send in a second, by default.
const LINES_MAX_DEFAULT: u64 = 500;
/// Headers come in one or two packets. A client that takes longer holds the connection on purpose.
const HEADER_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// Long enough for a large body over a slow network.
const BODY_TIMEOUT_DEFAULT: Duration = Duration::from_secs(20);
/// Longer than a server takes to elect a leader.
const STORE_WAIT_DEFAULT: Duration = Duration::from_secs(5);
/// Shorter than the time that proxies allow for a request by default.
const WAIT_MAX_DEFAULT: Duration = Duration::from_secs(30);
/// The shortest wait that a client can ask for, because clients ask for whole seconds.
const WAIT_LEAST: Duration = Duration::from_secs(1);
/// As many as a process of `submit` accepts.
const REQUESTS_MAX_DEFAULT: u64 = 4096;
/// Most of them idle.
const CONNECTIONS_MAX_DEFAULT: u64 = 8192;
/// More than a till or a supplier's system ever sends.
const RATE_DEFAULT: u64 = 500;
/// Many clients may come through one proxy.
const RATE_ADDRESS_DEFAULT: u64 = 5000;
/// A rate is a 32-bit number.
const RATE_MAX: u64 = 1_000_000;
/// What a view allows one client by default; the gateway is one client.
const WAITING_MAX_DEFAULT: u64 = 128;
/// As many as the stage `sql` runs at once by default. One key may only hold a share of them, so it never takes all.
const QUERIES_MAX_DEFAULT: u64 = 4;
/// A quarter of the connections.
const LIVE_MAX_DEFAULT: u64 = 2048;
/// Each watched row costs one query in this time.
const LIVE_RECHECK_DEFAULT: Duration = Duration::from_secs(30);
/// Three others who do the same still leave something.
const KEY_SHARE_DEFAULT: u64 = 25;
/// More than any gateway serves at a time, and fewer than a semaphore can count.
const COUNT_MAX: u64 = 1_000_000;

/// The limits of the gateway.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The largest body, in bytes.
    pub body_max: usize,
    /// The largest body with several commands, in bytes.
    pub lines_bytes_max: usize,
    /// The most commands in a request.
    pub lines_max: usize,
    /// How long the headers of a request may take to arrive.
    pub header_timeout: Duration,
    /// How long its body may take to arrive.
    pub body_timeout: Duration,
    /// How long a command may take to be stored.
    pub store_wait: Duration,
    /// How long a request may wait for an outcome.
    pub wait_max: Duration,
    /// Requests in progress at a time.
    pub requests_max: usize,
    /// Requests that wait for a position at a time.
    pub waiting_max: usize,
    /// Configured queries in progress at a time.
    pub queries_max: usize,
    /// Streams of live rows at a time.
    pub live_max: usize,
    /// After how much time without a hint a row is queried again.
    pub live_recheck: Duration,
    /// The percentage of the places that one key may hold.
    pub key_share: usize,
    /// Connections at a time.
    pub connections_max: usize,
    /// Requests a second from one key; `None` for no limit.
    pub rate: Option<NonZeroU32>,
    /// Requests a second from one address; `None` for no limit.
    pub rate_address: Option<NonZeroU32>,
}

impl Limits {
    pub(super) fn read(keys: &mut SectionKeys<'_>) -> Self {
        let body_max = size(keys, "body_max", BODY_MAX_DEFAULT, "largest body of a request");
        let lines_bytes_max = size(
            keys,
            "lines_bytes_max",
            LINES_BYTES_MAX_DEFAULT,
            "largest body of a request with several commands (application/jsonl)",
        );
        let lines_max = count(
            keys,
            "lines_max",
            LINES_MAX_DEFAULT,
            "commands in such a request; each counts for the rates as a request does",
        );
        let header_timeout = keys.positive_duration(
            "header_timeout",
            HEADER_TIMEOUT_DEFAULT,
            "how long the headers of a request may take to come",
        );
        let body_timeout = keys.positive_duration(
            "body_timeout",
            BODY_TIMEOUT_DEFAULT,
            "how long its body may take to come, and its answer to be taken",
        );
        let store_wait = keys.positive_duration(
            "store_wait",
            STORE_WAIT_DEFAULT,
            "how long a command may take to be stored; then the answer is 503",
        );
        let wait_max = keys.duration(
            "wait_max",
            WAIT_MAX_DEFAULT,
            "how long a request may wait for an outcome or a position (Prefer: wait); at least 1s, or 0 for no wait",
        );
        if !wait_max.is_zero() && wait_max < WAIT_LEAST {
            keys.problem("wait_max", "must be at least 1s, or 0 for no wait: clients ask for whole seconds");
        }
        let requests_max =
            count(keys, "requests_max", REQUESTS_MAX_DEFAULT, "requests at a time; more get 503");
        let waiting_max = waiting_max(keys);
        let queries_max = queries_max(keys);
        let (live_max, live_recheck) = live(keys);
        let key_share = key_share(keys);
        let connections_max = count(
            keys,
            "connections_max",
            CONNECTIONS_MAX_DEFAULT,
            "connections at a time; more are closed at once",
        );
        let (rate, rate_address) = rates(keys);
        Self {
            body_max,
            lines_bytes_max,
            lines_max,
            header_timeout,
            body_timeout,
            store_wait,
            wait_max,
            requests_max,
            waiting_max,
            queries_max,
            live_max,
            live_recheck,
            key_share,
            connections_max,
            rate,
            rate_address,
        }
    }
}

fn waiting_max(keys: &mut SectionKeys<'_>) -> usize {
    count(
        keys,
        "waiting_max",
        WAITING_MAX_DEFAULT,
        "requests with Millstream-Position at a time; more get 503. A view lets one gateway have queries_waiting_client_max",
    )
}

fn queries_max(keys: &mut SectionKeys<'_>) -> usize {
    count(
        keys,
        "queries_max",
        QUERIES_MAX_DEFAULT,
        "configured queries (/v1/queries) at a time; more get 503. All gateways together should have no more than sql.queries_max: then no key has all of those",
    )
}

fn live(keys: &mut SectionKeys<'_>) -> (usize, Duration) {
    let max =
        count(keys, "live_max", LIVE_MAX_DEFAULT, "streams of live rows (/v1/live) at a time; more get 503");
    let recheck = keys.positive_duration(
        "live_recheck",
        LIVE_RECHECK_DEFAULT,
        "how long a row on such a stream may be old at most, should it be lost that it has changed",
    );
    (max, recheck)
}

fn key_share(keys: &mut SectionKeys<'_>) -> usize {
    let share = keys.number(
        "key_share",
        KEY_SHARE_DEFAULT,
        1..=100,
        "percent of the places of each kind that one key may hold: of requests_max, of waiting_max, of live_max, of queries_max, of 64 requests with several commands, of 16 for a history and of 4 for a state as of a moment; more get 429; 100 for all",
    );
    usize::try_from(share).unwrap_or(usize::MAX)
}

fn rates(keys: &mut SectionKeys<'_>) -> (Option<NonZeroU32>, Option<NonZeroU32>) {
    let of_keys =
        rate(keys, "rate", RATE_DEFAULT, "requests a second with one key, more get 429; 0 for any number");
    let of_addresses = rate(
        keys,
        "rate_address",
        RATE_ADDRESS_DEFAULT,
        "requests a second from one address, a proxy's own unless it is one of trusted_proxies; more get 429; 0 for any number",
    );
    (of_keys, of_addresses)
}

fn size(keys: &mut SectionKeys<'_>, name: &str, default: u64, help: &'static str) -> usize {
    let size = keys.bytes(name, default, help);
    if size < BODY_MAX_LEAST {
        keys.problem(name, "must be at least 1KiB");
    }
    usize::try_from(size).unwrap_or(usize::MAX)
}

fn count(keys: &mut SectionKeys<'_>, name: &str, default: u64, help: &'static str) -> usize {
    usize::try_from(keys.number(name, default, 1..=COUNT_MAX, help)).unwrap_or(usize::MAX)
}

fn rate(keys: &mut SectionKeys<'_>, name: &str, default: u64, help: &'static str) -> Option<NonZeroU32> {
    let rate = keys.number(name, default, 0..=RATE_MAX, help);
    u32::try_from(rate).ok().and_then(NonZeroU32::new)
}
