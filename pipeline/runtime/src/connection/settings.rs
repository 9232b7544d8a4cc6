//! The `[nats]` section. The sources, lowest first: the built-in server, the user's selected natscli context, `NATS_CONTEXT`, `NATS_*`
//! variables, then Millstream's own keys. A context named by `nats.context` or `--context` stands just below the source that named it. A
//! selected context is ignored if Millstream's own keys name a server, so that its credentials are not sent to a different server.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use async_nats::ServerAddr;
use millstream_contract::error_text::one_line;

use super::native;
use super::{ConnectError, check_files, read_file};
use crate::config::{Layer, Section, SectionKeys, Source, Value};

/// The address of nats-server unless configured otherwise.
const URL_DEFAULT: &str = "nats://127.0.0.1:4222";
/// Long enough for a server that starts at the same time.
const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);

/// Kubernetes updates a changed secret in a pod's files within two minutes.
const REFUSED_LIMIT_DEFAULT: Duration = Duration::from_secs(300);

/// The ways to authenticate, each with its keys. Keys in parentheses are only for natscli's contexts and variables, because they hold the
/// secret itself.
const CREDENTIAL_KINDS: [&[&str]; 4] = [
    &["nats.credentials_file"],
    &["nats.nkey_file"],
    &["nats.user", "nats.password_file", "nats.password"],
    &["nats.token_file", "nats.token"],
];

/// A secret, or the file that holds it.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// A file. White space around its content is ignored.
    File(PathBuf),
    /// The secret itself, from a natscli context or a `NATS_*` variable.
    Inline(String),
}

impl Secret {
    /// The secret itself.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub(super) fn read(&self, what: &'static str) -> Result<String, ConnectError> {
        match self {
            Self::File(path) => read_file(what, path),
            Self::Inline(secret) => Ok(secret.clone()),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(formatter, "File({})", path.display()),
            Self::Inline(_) => formatter.write_str("Inline(hidden)"),
        }
    }
}

/// How to authenticate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authentication {
    /// Without authentication.
    None,
    /// A name and a password.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A token.
    Token(Secret),
    /// The seed of an nkey.
    NkeyFile(PathBuf),
    /// A file with a JWT and a seed.
    CredentialsFile(PathBuf),
}

impl fmt::Display for Authentication {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => formatter.write_str("none given"),
            Self::Password { user, password: Secret::File(path) } => {
                write!(formatter, "user {user}, password in {}", path.display())
            }
            Self::Password { user, .. } => write!(formatter, "user {user}"),
            Self::Token(_) => formatter.write_str("a token"),
            Self::NkeyFile(path) => write!(formatter, "nkey {}", path.display()),
            Self::CredentialsFile(path) => write!(formatter, "credentials {}", path.display()),
        }
    }
}

/// The server, and how to connect to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionSettings {
    /// The servers of one cluster, without user or password in their URLs.
    pub urls: Vec<String>,
    /// Credentials.
    pub authentication: Authentication,
    /// Certificates to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate and its key.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// Whether TLS begins before the server sends anything (the server's `handshake_first`).
    pub tls_first: bool,
    /// The first token of reply subjects; the stage's own if `None`.
    pub inbox_prefix: Option<String>,
    /// How long the first connect is tried; for ever if zero.
    pub connect_timeout: Duration,
    /// How long a server that has accepted this process may refuse it before the process ends; for ever if zero.
    pub refused_limit: Duration,
    /// The JetStream domain; the server's own if `None`.
    pub jetstream_domain: Option<String>,
}

impl Section for ConnectionSettings {
    const NAME: &'static str = "nats";
    const ABOUT: &'static str =
        "The NATS server. Contexts and NATS_* variables of the nats CLI count too, below the keys here.";

    fn read(keys: &mut SectionKeys<'_>) -> Self {
        refuse_secrets(keys);
        add_native_layers(keys);
        keep_one_kind_of_credentials(keys);
        let urls = read_urls(keys);
        let authentication = read_authentication(keys);
        let ca_file =
            keys.optional_path("ca_file", "PEM file of the certificates to trust; the system's when not set");
        let certificate = keys.optional_path("cert_file", "PEM file of our own certificate, for mutual TLS");
        let key = keys.optional_path("key_file", "PEM file of its key");
        if certificate.is_some() != key.is_some() {
            keys.general_problem("`nats.cert_file` and `nats.key_file` belong together; set both or neither");
        }
        let tls_first = keys.flag("tls_first", false, "start with TLS, for a server with handshake_first");
        let inbox_prefix = read_inbox_prefix(keys);
        let connect_timeout = keys.duration(
            "connect_timeout",
            CONNECT_TIMEOUT_DEFAULT,
            "how long the first connect is tried before the process ends with exit code 69; \"0\" for ever",
        );
        let refused_limit = keys.duration(
            "refused_limit",
            REFUSED_LIMIT_DEFAULT,
            "how long, after the first connect, the server may refuse the credentials before the process ends with exit code 77; \"0\" for ever",
        );
        let jetstream_domain = keys.optional_text("jetstream_domain", "JetStream domain, behind a leaf node");
        Self {
            urls,
            authentication,
            ca_file,
            client_certificate: certificate.zip(key),
            tls_first,
            inbox_prefix,
            connect_timeout,
            refused_limit,
            jetstream_domain,
        }
    }

    fn file_problems(&self) -> Vec<String> {
        check_files(self).err().map(|error| one_line(&error)).into_iter().collect()
    }
}

/// Secrets are never values of Millstream's keys, because they would end up in listings, histories and tickets.
fn refuse_secrets(keys: &mut SectionKeys<'_>) {
    for name in ["password", "token"] {
        if keys.resolve(name).is_some() {
            keys.problem(
                name,
                format!("would hold a secret; write it into a file and set `nats.{name}_file`"),
            );
            for layer in keys.layers() {
                layer.values.remove(&format!("nats.{name}"));
            }
        }
    }
}

fn add_native_layers(keys: &mut SectionKeys<'_>) {
    let environment = keys.environment().clone();
    let own_url = keys.resolve("url").is_some();
    let own = keys.optional_text(
        "context",
        "name of a natscli context (`nats context ls`); \"\" for none, not even the selected one",
    );
    let own_place = keys.layers().iter().rposition(|layer| layer.values.contains_key("nats.context"));
    let variables = native::variables(&environment);
    let name = match own_place {
        Some(_) => own,
        None => match environment.get("NATS_CONTEXT").filter(|name| !name.is_empty()) {
            Some(name) => Some(name.clone()),
            None if own_url => None,
            None => native::selected_context(&environment),
        },
    };
    let context = match name.filter(|name| !name.is_empty()).map(|name| native::context(&name, &environment))
    {
        Some(Ok(layer)) => layer,
        Some(Err(problem)) => {
            keys.general_problem(problem);
            Layer::default()
        }
        None => Layer::default(),
    };
    let layers = keys.layers();
    match own_place {
        Some(place) => {
            layers.insert(place, context);
            layers.insert(0, variables);
        }
        None => {
            layers.insert(0, variables);
            layers.insert(0, context);
        }
    }
}

/// Kinds of credentials exclude each other. The highest layer with any credentials decides which kind is used.
fn keep_one_kind_of_credentials(keys: &mut SectionKeys<'_>) {
    let kinds_in = |layer: &Layer| {
        CREDENTIAL_KINDS.iter().filter(|kind| has_any(layer, kind)).copied().collect::<Vec<_>>()
    };
    let Some(kinds) = keys.layers().iter().rev().map(kinds_in).find(|kinds| !kinds.is_empty()) else {
        return;
    };
    if kinds.len() > 1 {
        let names: Vec<&str> = kinds.iter().filter_map(|kind| kind.first().copied()).collect();
        keys.general_problem(format!("{} are set in one place; keep one of them", names.join(" and ")));
    }
    for layer in keys.layers() {
        layer.values.retain(|key, _| {
            let is_credential = CREDENTIAL_KINDS.iter().any(|kind| kind.contains(&key.as_str()));
            !is_credential || kinds.iter().any(|kind| kind.contains(&key.as_str()))
        });
    }
}

fn read_urls(keys: &mut SectionKeys<'_>) -> Vec<String> {
    let urls = keys.list("url", &[URL_DEFAULT], "servers of one cluster");
    if urls.is_empty() {
        keys.problem("url", "is empty; name a server, such as \"nats://127.0.0.1:4222\"");
    }
    for url in &urls {
        match ServerAddr::from_str(url) {
            Ok(address) if address.username().is_some() || address.password().is_some() => {
                keys.problem("url", "carries a user or password; set `nats.user` and `nats.password_file`");
            }
            Ok(_) => {}
            Err(error) => {
                keys.problem(
                    "url",
                    format!("is `{url}`: {error}; write for example \"nats://127.0.0.1:4222\""),
                );
            }
        }
    }
    urls
}

fn read_inbox_prefix(keys: &mut SectionKeys<'_>) -> Option<String> {
    let prefix = keys
        .optional_text("inbox_prefix", "first part of the subjects of replies; the stage's own when not set");
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if let Some(prefix) = &prefix
        && (prefix.starts_with('.') || prefix.ends_with('.') || !prefix.chars().all(allowed))
    {
        keys.problem("inbox_prefix", format!("is `{prefix}`; it takes A-Z a-z 0-9 - _ and dots between"));
    }
    prefix
}

fn read_authentication(keys: &mut SectionKeys<'_>) -> Authentication {
    let credentials = keys.optional_path("credentials_file", "file with a user's JWT and seed (.creds)");
    let nkey = keys.optional_path("nkey_file", "file with the seed of an nkey");
    let user = keys.optional_text("user", "name of a user with a password");
    let password_file = keys.optional_path("password_file", "file with the user's password");
    let token_file = keys.optional_path("token_file", "file with a token");
    let password = choose_secret(keys, "password", password_file);
    let token = choose_secret(keys, "token", token_file);
    if let Some(path) = credentials {
        Authentication::CredentialsFile(path)
    } else if let Some(path) = nkey {
        Authentication::NkeyFile(path)
    } else if let Some(token) = token {
        Authentication::Token(token)
    } else {
        match (user, password) {
            (None, None) => Authentication::None,
            (Some(user), Some(password)) => Authentication::Password { user, password },
            (Some(_), None) => {
                keys.problem("user", "needs `nats.password_file`");
                Authentication::None
            }
            (None, Some(_)) => {
                keys.general_problem("`nats.password_file` needs `nats.user`");
                Authentication::None
            }
        }
    }
}

/// A secret from Millstream's keys or from natscli. It is removed from the layers, so that no listing shows it.
fn choose_secret(keys: &mut SectionKeys<'_>, name: &str, file: Option<PathBuf>) -> Option<Secret> {
    let inline = keys.resolve(name);
    for layer in keys.layers() {
        layer.values.remove(&format!("nats.{name}"));
    }
    match (file, inline) {
        (Some(path), _) => Some(Secret::File(path)),
        (None, Some((Value::Word(secret), source))) => {
            keys.hidden_entry(name, source);
            Some(Secret::Inline(secret))
        }
        (None, _) => None,
    }
}

/// Splits user and password off natscli's URLs, in which they are allowed. They count if the layer has no other credentials.
pub(super) fn place_urls(layer: &mut Layer, text: &str, source: &Source) {
    let has_credentials = CREDENTIAL_KINDS.iter().any(|kind| has_any(layer, kind));
    let mut urls = Vec::new();
    for url in text.split(',').map(str::trim).filter(|url| !url.is_empty()) {
        let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
        let Some((credentials, host)) = rest.rsplit_once('@') else {
            urls.push(url.to_owned());
            continue;
        };
        urls.push(format!("{scheme}://{host}"));
        let values = match credentials.split_once(':') {
            Some((user, password)) => vec![("nats.user", user), ("nats.password", password)],
            None => vec![("nats.token", credentials)],
        };
        for (key, secret) in values.into_iter().filter(|_| !has_credentials) {
            let value = (Value::Word(secret.to_owned()), source.clone());
            layer.values.entry(key.to_owned()).or_insert(value);
        }
    }
    if !urls.is_empty() {
        layer.values.insert("nats.url".to_owned(), (Value::List(urls), source.clone()));
    }
}

/// If natscli has several kinds of credentials in one place, it uses one of them. That one is kept.
pub(super) fn keep_first_kind(layer: &mut Layer) {
    let order = ["nats.user", "nats.credentials_file", "nats.nkey_file", "nats.token"];
    let first = order.into_iter().find(|key| layer.values.contains_key(*key));
    let kept = CREDENTIAL_KINDS.iter().find(|kind| first.is_some_and(|key| kind.contains(&key)));
    for kind in CREDENTIAL_KINDS.iter().filter(|kind| Some(*kind) != kept) {
        layer.values.retain(|key, _| !kind.contains(&key.as_str()));
    }
}

fn has_any(layer: &Layer, kind: &[&str]) -> bool {
    kind.iter().any(|key| layer.values.contains_key(*key))
}
