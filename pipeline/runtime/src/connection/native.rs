//! What users of the `nats` CLI have already configured, its contexts and variables, as layers of Millstream's keys.
//!
//! Deliberately absent: `nsc`, `op://` and other stores of secrets for which natscli runs other programs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use millstream_contract::error_text::one_line;
use serde::Deserialize;

use super::settings::{keep_first_kind, place_urls};
use crate::config::{Layer, Source, Value, expand_home};

/// Variables of natscli whose value is used for a key as it is.
const VARIABLES: [(&str, &str); 7] = [
    ("NATS_CREDS", "nats.credentials_file"),
    ("NATS_NKEY", "nats.nkey_file"),
    ("NATS_CERT", "nats.cert_file"),
    ("NATS_KEY", "nats.key_file"),
    ("NATS_CA", "nats.ca_file"),
    ("NATS_TOKEN", "nats.token"),
    ("NATS_PASSWORD", "nats.password"),
];

/// A natscli context as its file has it. Its other fields are not about a connection.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ContextFile {
    url: String,
    user: String,
    password: String,
    token: String,
    creds: String,
    nkey: String,
    cert: String,
    key: String,
    ca: String,
    tls_first: bool,
    inbox_prefix: String,
    jetstream_domain: String,
    jetstream_api_prefix: String,
    nsc: String,
    user_jwt: String,
    socks_proxy: String,
}

/// The layer of the `NATS_*` variables.
pub(super) fn variables(environment: &BTreeMap<String, String>) -> Layer {
    let mut layer = Layer::default();
    let mut put = |key: &str, name: &str, value: &str| {
        let source = Source::Variable(name.to_owned());
        layer.values.insert(key.to_owned(), (Value::Word(value.to_owned()), source));
    };
    let set = |name: &str| environment.get(name).filter(|value| !value.is_empty());
    for (name, key) in VARIABLES {
        if let Some(value) = set(name) {
            put(key, name, value);
        }
    }
    if let Some(user) = set("NATS_USER") {
        // natscli takes a user without a password for a token.
        let key = if set("NATS_PASSWORD").is_some() { "nats.user" } else { "nats.token" };
        put(key, "NATS_USER", user);
    }
    keep_first_kind(&mut layer);
    if let Some(url) = set("NATS_URL") {
        place_urls(&mut layer, url, &Source::Variable("NATS_URL".to_owned()));
    }
    layer
}

/// The context that the user selected with `nats context select`.
pub(super) fn selected_context(environment: &BTreeMap<String, String>) -> Option<String> {
    // A missing selection is not an error, because the file does not exist for anybody who does not use contexts.
    let text = std::fs::read_to_string(folder(environment)?.join("context.txt")).ok()?;
    Some(text.trim().to_owned()).filter(|name| !name.is_empty())
}

/// The layer of the context `name`, a name or the path of a `.json` file.
///
/// # Errors
/// A sentence: there is no such context, it cannot be read, or it needs something that only natscli does.
pub(super) fn context(name: &str, environment: &BTreeMap<String, String>) -> Result<Layer, String> {
    let path = path_of(name, environment)?;
    let text = std::fs::read_to_string(&path).map_err(|error| {
        format!("nats context `{name}`: {} cannot be read: {error}; see `nats context ls`", path.display())
    })?;
    let file: ContextFile = serde_json::from_str(&text)
        .map_err(|error| format!("nats context `{name}`: {}: {}", path.display(), one_line(&error)))?;
    refuse_unsupported(name, &file)?;
    let source = Source::Context(name.to_owned());
    let mut layer = Layer::default();
    let user_is_token = file.password.is_empty();
    let values = [
        ("nats.credentials_file", &file.creds),
        ("nats.nkey_file", &file.nkey),
        (if user_is_token { "nats.token" } else { "nats.user" }, &file.user),
        ("nats.password", &file.password),
        ("nats.token", &file.token),
        ("nats.cert_file", &file.cert),
        ("nats.key_file", &file.key),
        ("nats.ca_file", &file.ca),
        ("nats.inbox_prefix", &file.inbox_prefix),
        ("nats.jetstream_domain", &file.jetstream_domain),
    ];
    for (key, value) in values.into_iter().filter(|(_, value)| !value.is_empty()) {
        layer.values.insert(key.to_owned(), (Value::Word(value.clone()), source.clone()));
    }
    if file.tls_first {
        layer.values.insert("nats.tls_first".to_owned(), (Value::Boolean(true), source.clone()));
    }
    keep_first_kind(&mut layer);
    place_urls(&mut layer, &file.url, &source);
    Ok(layer)
}

fn refuse_unsupported(name: &str, file: &ContextFile) -> Result<(), String> {
    let only_natscli = [
        ("nsc", &file.nsc),
        ("user_jwt", &file.user_jwt),
        ("socks_proxy", &file.socks_proxy),
        ("jetstream_api_prefix", &file.jetstream_api_prefix),
    ];
    if let Some((field, _)) = only_natscli.iter().find(|(_, value)| !value.is_empty()) {
        return Err(format!(
            "nats context `{name}`: `{field}` is not supported; use another context or [nats] keys"
        ));
    }
    match file.creds.split_once("://") {
        Some((scheme, _)) => Err(format!(
            "nats context `{name}`: credentials by `{scheme}://` are not supported; write them into a file and set `nats.credentials_file`"
        )),
        None => Ok(()),
    }
}

fn path_of(name: &str, environment: &BTreeMap<String, String>) -> Result<PathBuf, String> {
    if Path::new(name).extension().is_some_and(|extension| extension == "json") {
        return Ok(expand_home(name, environment));
    }
    if name.contains(['/', '\\']) || name.contains("..") {
        return Err(format!("nats context `{name}`: not a name of a context; see `nats context ls`"));
    }
    let folder = folder(environment)
        .ok_or_else(|| format!("nats context `{name}`: neither XDG_CONFIG_HOME nor HOME is set"))?;
    Ok(folder.join("context").join(format!("{name}.json")))
}

/// The folder of natscli's settings.
fn folder(environment: &BTreeMap<String, String>) -> Option<PathBuf> {
    let set = |name: &str| environment.get(name).filter(|value| !value.is_empty());
    let base = match set("XDG_CONFIG_HOME") {
        Some(base) => PathBuf::from(base),
        None => PathBuf::from(set("HOME")?).join(".config"),
    };
    Some(base.join("nats"))
}
