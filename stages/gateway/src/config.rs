//! The `[gateway]` section. `limits` has the limits of requests.

mod limits;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    marker::PhantomData,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;
use millstream_contract::{api_key::CommandPattern, error_text::one_line, near_name::near_name};
use millstream_domain::{
    application::{Application, ApplicationError, BuiltReport, DefaultSettings, Model, Views},
    decider::AggregateRegistry,
    projection::view_name,
    report::Column,
};
use millstream_runtime::config::{Section, SectionKeys};

pub use self::limits::Limits;
use crate::{
    audit::Audited,
    certificate::CertificateFiles,
    client_address::{ForwardedHeader, TrustedProxies},
    command_ids::check_id_secret_file,
    key_ring::{TokenSettings, check_keys_file},
    tokens::source::Refresh,
};

/// Only programs on the same machine can reach it.
const LISTEN_DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// Clocks that are synchronised over the network differ by less.
const TOKEN_LEEWAY_DEFAULT: Duration = Duration::from_secs(30);
/// With a larger value, an expired token would be as good as a valid one.
const TOKEN_LEEWAY_MAX: Duration = Duration::from_secs(300);
/// Issuers publish a new key for longer than this before they sign with it.
const ISSUER_REFRESH_DEFAULT: Duration = Duration::from_secs(600);
/// Somebody who makes up tokens cannot make the gateway ask an issuer more often than this.
const ISSUER_REFRESH_PAUSE_DEFAULT: Duration = Duration::from_secs(30);

/// The settings that only the gateway of an application has: where it listens, who may use it, and its limits.
pub struct StageConfig<A> {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The certificate for TLS; without it, TLS is not used.
    pub certificate: Option<CertificateFiles>,
    /// The file of keys; without it, everybody who can reach the gateway may send anything.
    pub keys_file: Option<PathBuf>,
    /// The file of the secret in ids of commands that are made of an `Idempotency-Key`; without it, others can work such ids out.
    pub id_secret_file: Option<PathBuf>,
    /// Proxies that report the addresses of clients.
    pub proxies: TrustedProxies,
    /// What the audit log records.
    pub audited: Audited,
    /// How tokens are checked.
    pub(crate) tokens: TokenSettings,
    /// Its limits.
    pub limits: Limits,
    /// Commands that must name the aggregate version that their sender has seen.
    pub preconditions_required: Vec<CommandPattern>,
    /// The parts of the application; empty if the application is invalid, which is noted.
    pub parts: Parts,
    application: PhantomData<fn() -> A>,
}

/// What the gateway knows about an application.
#[derive(Default)]
pub struct Parts {
    /// The contexts whose commands have outcomes.
    pub contexts: Vec<&'static str>,
    /// The rules of the aggregates.
    pub aggregates: AggregateRegistry,
    /// All views, with their contexts.
    pub views: BTreeSet<(String, String)>,
    /// Views of every context that follow OUTCOMES; all others follow EVENTS.
    pub outcome_views: BTreeSet<String>,
    /// Reports by name, and by `<context>.<name>`. If two contexts have a report with the same name, the name alone means the first one.
    pub reports: BTreeMap<String, KnownReport>,
}

/// A report and its views.
#[derive(Debug, Clone)]
pub struct KnownReport {
    /// The context.
    pub context: &'static str,
    /// Its name, which is that of its view of current rows.
    pub name: String,
    /// The columns that people see.
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

impl<A: Application> Section for StageConfig<A> {
    const NAME: &'static str = "gateway";
    const ABOUT: &'static str = "Where HTTP is answered, for whom, and how much.";

    fn read(keys: &mut SectionKeys<'_>) -> Self {
        let listen = listen(keys);
        let certificate = certificate(keys);
        let keys_file = keys.optional_path(
            "keys_file",
            "file of the keys with which clients identify themselves (`millstream keys`), of the issuers whose tokens (JWT) are taken, and of the users of NATS that need none; read again when it changes",
        );
        if keys_file.is_none() && !listen.ip().is_loopback() {
            keys.problem(
                "listen",
                "can be reached from outside and gateway.keys_file is not set: anybody could send commands; set it, or listen on 127.0.0.1",
            );
        }
        let id_secret_file = keys.optional_path(
            "id_secret_file",
            "file of a secret of at least 32 characters, the same for all gateways: it goes into the ids of commands that have an Idempotency-Key. Without it, whoever may publish commands on NATS and knows or guesses a sender's key can use the id first. If you change it, a request that is sent again with an Idempotency-Key of before takes effect a second time",
        );
        let proxies = proxies(keys);
        let audited = audited(keys);
        let tokens = tokens(keys);
        let mut limits = Limits::read(keys);
        if keys_file.is_none() {
            // There is only one principal, and nobody else would benefit from limiting its share.
            limits.key_share = 100;
        }
        let parts = Parts::of::<A>();
        let preconditions_required = preconditions_required(keys, parts.as_ref().ok());
        let parts = parts.unwrap_or_else(|error| {
            keys.general_problem(error);
            Parts::default()
        });
        Self {
            listen,
            certificate,
            proxies,
            audited,
            keys_file,
            id_secret_file,
            tokens,
            limits,
            preconditions_required,
            parts,
            application: PhantomData,
        }
    }

    fn file_problems(&self) -> Vec<String> {
        let keys = self.keys_file.as_deref().map(check_keys_file).and_then(Result::err);
        let secret = self.id_secret_file.as_deref().map(check_id_secret_file).and_then(Result::err);
        let certificate = self.certificate.as_ref().map(CertificateFiles::check).and_then(Result::err);
        let problems = keys.map(|error| one_line(&error)).into_iter();
        let problems = problems.chain(secret.map(|error| one_line(&error)));
        problems.chain(certificate.map(|error| one_line(&error))).collect()
    }
}

impl Parts {
    pub(crate) fn of<A: Application>() -> Result<Self, ApplicationError> {
        let model = Model::of::<A>()?;
        let (contexts, aggregates) = (model.context_names(), model.aggregates());
        // Settings may change the content of views, but never their names.
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
    /// What is wrong with a pattern that matches no command that clients may send. It would have no effect.
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

fn certificate(keys: &mut SectionKeys<'_>) -> Option<CertificateFiles> {
    let certificate = keys.optional_path(
        "tls_cert_file",
        "PEM file of the certificate with which TLS is spoken, and those that it is signed with; read again when it changes. Without, there is no TLS: put what ends it in front",
    );
    let key = keys.optional_path("tls_key_file", "PEM file of its private key");
    match (certificate, key) {
        (Some(certificate), Some(key)) => Some(CertificateFiles { certificate, key }),
        (None, None) => None,
        (Some(_), None) => {
            keys.problem("tls_key_file", "is not set, and tls_cert_file is: TLS takes both");
            None
        }
        (None, Some(_)) => {
            keys.problem("tls_cert_file", "is not set, and tls_key_file is: TLS takes both");
            None
        }
    }
}

fn proxies(keys: &mut SectionKeys<'_>) -> TrustedProxies {
    const NAME: &str = "trusted_proxies";
    let texts = keys.list(
        NAME,
        &[],
        "networks of proxies, such as 10.0.0.0/8, that tell in forwarded_header from which address a request comes; nobody else's word on that counts",
    );
    let mut networks = Vec::new();
    for text in texts {
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        match network {
            Ok(network) => networks.push(network),
            Err(_) => keys
                .problem(NAME, format!("has {text:?}; it takes addresses and networks, such as 10.0.0.0/8")),
        }
    }
    let choices =
        [("x-forwarded-for", ForwardedHeader::XForwardedFor), ("forwarded", ForwardedHeader::Forwarded)];
    let header = keys.choice(
        "forwarded_header",
        &choices,
        "x-forwarded-for",
        "the header in which these proxies tell it. They must write it themselves, and pass on no other",
    );
    TrustedProxies { networks, header }
}

fn audited(keys: &mut SectionKeys<'_>) -> Audited {
    let choices = [("all", Audited::All), ("denials", Audited::Denials), ("nothing", Audited::Nothing)];
    keys.choice(
        "audit",
        &choices,
        "all",
        "what is recorded in AUDIT: all for commands and refusals, denials for refusals alone, nothing. With all, no command is taken while AUDIT takes no records",
    )
}

fn tokens(keys: &mut SectionKeys<'_>) -> TokenSettings {
    let leeway = keys.duration(
        "token_leeway",
        TOKEN_LEEWAY_DEFAULT,
        "how far the clock of a token's issuer may be from this one; at most 5m",
    );
    if leeway > TOKEN_LEEWAY_MAX {
        keys.problem("token_leeway", "must be at most 5m");
    }
    let every = keys.positive_duration(
        "issuer_refresh",
        ISSUER_REFRESH_DEFAULT,
        "how often the public keys of issuers are fetched",
    );
    let pause = keys.positive_duration(
        "issuer_refresh_pause",
        ISSUER_REFRESH_PAUSE_DEFAULT,
        "the shortest time between two such fetches, also when a token names a key that is not known",
    );
    TokenSettings { leeway, refresh: Refresh { every: every.max(pause), pause } }
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
        "address and port for HTTP; any but a loopback one takes keys_file, and tls_cert_file unless something in front ends TLS",
    );
    text.parse().unwrap_or_else(|_| {
        keys.problem("listen", format!("is {text:?}; it takes an address and a port, such as 0.0.0.0:8080"));
        LISTEN_DEFAULT
    })
}

impl<A> fmt::Debug for StageConfig<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("StageConfig");
        shown.field("listen", &self.listen).field("keys_file", &self.keys_file);
        shown.field("limits", &self.limits);
        shown.field("preconditions_required", &self.preconditions_required).finish_non_exhaustive()
    }
}
