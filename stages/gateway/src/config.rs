//! The `[gateway]` section.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    marker::PhantomData,
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    path::PathBuf,
    time::Duration,
};

use millstream_contract::{api_key::CommandPattern, error_text::one_line, near_name::near_name};
use millstream_domain::{
    application::{Application, ApplicationError, BuiltReport, DefaultSettings, Model, Views},
    decider::AggregateRegistry,
    projection::view_name,
    report::Column,
};
use millstream_runtime::config::{Section, SectionKeys};

use crate::key_ring::check_keys_file;

/// Nobody else can reach it.
const LISTEN_DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// A quarter of what nats-server takes by default, headers included.
const BODY_MAX_DEFAULT: u64 = 256 * 1024;
/// Smaller than any command that somebody means would be refused.
const BODY_MAX_LEAST: u64 = 1024;
/// Some thousand commands of usual size.
const LINES_BYTES_MAX_DEFAULT: u64 = 1024 * 1024;
/// As many as a key may send in a second by default.
const LINES_MAX_DEFAULT: u64 = 500;
/// Headers come in one or two packets; whoever takes longer holds a connection on purpose.
const HEADER_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// A large body over a slow network.
const BODY_TIMEOUT_DEFAULT: Duration = Duration::from_secs(20);
/// Longer than a server takes to elect a leader.
const STORE_WAIT_DEFAULT: Duration = Duration::from_secs(5);
/// Shorter than proxies give a request by default.
const WAIT_MAX_DEFAULT: Duration = Duration::from_secs(30);
/// What a client can ask for.
const WAIT_LEAST: Duration = Duration::from_secs(1);
/// As many as a process of `submit` takes, and some.
const REQUESTS_MAX_DEFAULT: u64 = 4096;
/// Most of them idle.
const CONNECTIONS_MAX_DEFAULT: u64 = 8192;
/// What one till or one supplier's system never reaches.
const RATE_DEFAULT: u64 = 500;
/// Many of them may come through one proxy.
const RATE_ADDRESS_DEFAULT: u64 = 5000;
/// A rate is a number of 32 bits.
const RATE_MAX: u64 = 1_000_000;
/// What a view lets one client have by default, and the gateway is one.
const WAITING_MAX_DEFAULT: u64 = 128;
/// A quarter of the connections.
const LIVE_MAX_DEFAULT: u64 = 2048;
/// For each row that is watched a question in that time.
const LIVE_RECHECK_DEFAULT: Duration = Duration::from_secs(30);
/// Three others who do the same leave something.
const KEY_SHARE_DEFAULT: u64 = 25;
/// The most that a wait for a semaphore's place can count.
const COUNT_MAX: u64 = 1_000_000;

/// What only the gateway of an application has: where it listens, who may come, and how much it takes.
pub struct StageConfig<A> {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The file of keys; without, whoever can reach it may send anything.
    pub keys_file: Option<PathBuf>,
    /// What it takes.
    pub limits: Limits,
    /// Commands that must say which version of their aggregate their sender has seen.
    pub preconditions_required: Vec<CommandPattern>,
    /// What the application has; nothing where it is not sound, which is noted.
    pub parts: Parts,
    application: PhantomData<fn() -> A>,
}

/// What the gateway knows of an application.
#[derive(Default)]
pub struct Parts {
    /// The contexts whose commands have outcomes.
    pub contexts: Vec<&'static str>,
    /// The rules.
    pub aggregates: AggregateRegistry,
    /// All views, with their contexts.
    pub views: BTreeSet<(String, String)>,
    /// Views of every context that follow OUTCOMES; all others follow EVENTS.
    pub outcome_views: BTreeSet<String>,
    /// Reports by name, and by `<context>.<name>` where two contexts have one of a name: alone, it is the first.
    pub reports: BTreeMap<String, KnownReport>,
}

/// A report and where it is asked for.
#[derive(Debug, Clone)]
pub struct KnownReport {
    /// The context.
    pub context: &'static str,
    /// Its name, which is that of its view of current rows.
    pub name: String,
    /// What people see of a row.
    pub columns: &'static [Column],
}

impl KnownReport {
    /// Its view of all revisions.
    pub fn revisions(&self) -> String {
        format!("{}-revisions", self.name)
    }

    /// Its view of the lines by which revisions differ.
    pub fn differences(&self) -> String {
        format!("{}-differences", self.name)
    }
}

/// How much the gateway takes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Largest body in bytes.
    pub body_max: usize,
    /// Largest body with several commands, in bytes.
    pub lines_bytes_max: usize,
    /// Most commands in a request.
    pub lines_max: usize,
    /// How long the headers of a request may take to come.
    pub header_timeout: Duration,
    /// How long its body may take.
    pub body_timeout: Duration,
    /// How long a command may take to be stored.
    pub store_wait: Duration,
    /// How long a request may wait for an outcome.
    pub wait_max: Duration,
    /// Requests at a time.
    pub requests_max: usize,
    /// Requests that wait for a position at a time.
    pub waiting_max: usize,
    /// Streams of live rows at a time.
    pub live_max: usize,
    /// After which time without a hint that it has changed a row is asked for again.
    pub live_recheck: Duration,
    /// How many percent of the places for what is in progress one key may hold.
    pub key_share: usize,
    /// Connections at a time.
    pub connections_max: usize,
    /// Requests a second of one key; none for any number.
    pub rate: Option<NonZeroU32>,
    /// Requests a second from one address; none for any number.
    pub rate_address: Option<NonZeroU32>,
}

impl<A: Application> Section for StageConfig<A> {
    const NAME: &'static str = "gateway";
    const ABOUT: &'static str = "Where HTTP is answered, for whom, and how much.";

    fn read(keys: &mut SectionKeys<'_>) -> Self {
        let listen = listen(keys);
        let keys_file = keys.optional_path(
            "keys_file",
            "file of the keys with which clients identify themselves, and of the users of NATS that need none (`millstream keys`); read again when it changes",
        );
        if keys_file.is_none() && !listen.ip().is_loopback() {
            keys.problem(
                "listen",
                "can be reached from outside and gateway.keys_file is not set: anybody could send commands; set it, or listen on 127.0.0.1",
            );
        }
        let mut limits = Limits::read(keys);
        if keys_file.is_none() {
            // There is one principal alone, of whose share nobody else would have anything.
            limits.key_share = 100;
        }
        let parts = Parts::of::<A>();
        let preconditions_required = preconditions_required(keys, parts.as_ref().ok());
        let parts = parts.unwrap_or_else(|error| {
            keys.general_problem(error);
            Parts::default()
        });
        Self { listen, keys_file, limits, preconditions_required, parts, application: PhantomData }
    }

    fn file_problems(&self) -> Vec<String> {
        let checked = self.keys_file.as_deref().map(check_keys_file);
        checked.and_then(Result::err).map(|error| one_line(&error)).into_iter().collect()
    }
}

impl Parts {
    pub(crate) fn of<A: Application>() -> Result<Self, ApplicationError> {
        let model = Model::of::<A>()?;
        let (contexts, aggregates) = (model.context_names(), model.aggregates());
        // Settings change what views hold, never what they are called.
        let Views { projections, outcome_projections } = model.views(&mut DefaultSettings::default());
        let built = Model::of::<A>()?.reports(&mut DefaultSettings::default());
        let mut reports = BTreeMap::new();
        for BuiltReport { ledger, columns } in &built {
            let (context, name) = (ledger.context(), ledger.name().to_owned());
            let report = KnownReport { context, name: name.clone(), columns };
            reports.insert(format!("{context}.{name}"), report.clone());
            reports.entry(name).or_insert(report);
        }
        let projections = projections.into_iter().chain(built.into_iter().map(|report| report.ledger));
        let mut views: BTreeSet<(String, String)> = projections
            .flat_map(|each| {
                let context = each.context();
                each.views().iter().map(move |table| (context.to_owned(), view_name(table)))
            })
            .collect();
        let outcome_views: BTreeSet<String> =
            outcome_projections.iter().map(|each| view_name(each.name())).collect();
        for context in &contexts {
            views.extend(outcome_views.iter().map(|view| ((*context).to_owned(), view.clone())));
        }
        Ok(Self { contexts, aggregates, views, outcome_views, reports })
    }
}

impl Parts {
    /// What is wrong with a pattern that fits no command which clients may send: nobody would be asked for anything.
    fn fits_no_command(&self, pattern: &CommandPattern) -> Option<String> {
        let commands: Vec<[&str; 3]> = self
            .aggregates
            .iter()
            .flat_map(|aggregate| {
                let internal = aggregate.internal_commands();
                let names = aggregate.command_names().iter().filter(|name| !internal.contains(*name));
                names.map(|name| [aggregate.context(), aggregate.aggregate(), *name])
            })
            .collect();
        if commands.iter().any(|command| pattern.fits(*command)) {
            return None;
        }
        let [context, aggregate, id, command] = pattern.parts();
        let known: Vec<String> = commands.iter().map(|command| command.join(".")).collect();
        let near = near_name(&[context, aggregate, command].join("."), known.iter().map(String::as_str));
        let meant = near.and_then(|near| commands.iter().find(|command| command.join(".") == near));
        let hint = match meant {
            Some([context, aggregate, command]) => {
                format!("did you mean {context}.{aggregate}.{id}.{command}?")
            }
            None => "`GET /v1/docs` of a gateway lists them".to_owned(),
        };
        let text = String::from(pattern.clone());
        Some(format!("has {text}, which fits no command that a client may send; {hint}"))
    }
}

fn preconditions_required(keys: &mut SectionKeys<'_>, parts: Option<&Parts>) -> Vec<CommandPattern> {
    const NAME: &str = "preconditions_required";
    let texts = keys.list(
        NAME,
        &[],
        "patterns of commands, such as retail.product.*.reprice, that must carry If-Match or If-None-Match; others get 428",
    );
    let mut patterns = Vec::new();
    for text in texts {
        match CommandPattern::try_from(text) {
            Ok(pattern) => {
                if let Some(unknown) = parts.and_then(|parts| parts.fits_no_command(&pattern)) {
                    keys.problem(NAME, unknown);
                }
                patterns.push(pattern);
            }
            Err(error) => keys.problem(NAME, format!("is wrong: {error}")),
        }
    }
    patterns
}

fn listen(keys: &mut SectionKeys<'_>) -> SocketAddr {
    let text = keys.text(
        "listen",
        &LISTEN_DEFAULT.to_string(),
        "address and port for HTTP; any but a loopback one takes keys_file. There is no TLS: put what ends it in front",
    );
    text.parse().unwrap_or_else(|_| {
        keys.problem("listen", format!("is {text:?}; it takes an address and a port, such as 0.0.0.0:8080"));
        LISTEN_DEFAULT
    })
}

impl Limits {
    fn read(keys: &mut SectionKeys<'_>) -> Self {
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
        "percent of the places of each kind that one key may hold: of requests_max, of waiting_max, of live_max, of 64 requests with several commands, of 16 for a history and of 4 for a state as of a moment; more get 429; 100 for all",
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
        "requests a second from one address, a proxy's where there is one; more get 429; 0 for any number",
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

impl<A> fmt::Debug for StageConfig<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("StageConfig");
        shown.field("listen", &self.listen).field("keys_file", &self.keys_file);
        shown.field("limits", &self.limits);
        shown.field("preconditions_required", &self.preconditions_required).finish_non_exhaustive()
    }
}
