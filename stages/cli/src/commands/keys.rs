//! `millstream keys`: manages the keys with which clients of the gateway identify themselves, and the users of NATS that need none. They are in
//! a file, which holds only hashes.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{Timestamp, Unit};
use millstream_contract::{
    api_key::{
        ApiKey, ApiKeys, ApiKeysError, CommandPattern, HistoryPattern, KeyHash, LetterPattern, NatsUser,
        QueryPattern, Token,
    },
    configured_query::ConfiguredQueryPattern,
    exit_code::{ExitCode, Failure},
    subject::USER_PREFIX,
    token_issuer::ClaimGrant,
};
use millstream_runtime::file_work::read_regular_file;
use serde_json::json;

use crate::{failure::CommandFailure, output};

/// As long as people remember what a key was for.
const EXPIRES_AFTER_DEFAULT: &str = "90d";
/// The gateway can read it, whichever user it runs as, because a hash is not a secret.
const FILE_MODE: u32 = 0o644;

/// Manage the keys of the gateway's clients, and users of NATS.
#[derive(Debug, clap::Args)]
pub(crate) struct KeysArguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    New(NewArguments),
    User(UserArguments),
    List(ListArguments),
    Revoke(RevokeArguments),
}

/// Make a key and print it; it is shown once, and the file keeps its hash.
#[derive(Debug, clap::Args)]
struct NewArguments {
    #[command(flatten)]
    granted: GrantedArguments,
    /// Histories that may be read: CONTEXT.AGGREGATE.ID, where * stands for any characters of a part; may be repeated
    #[arg(long = "history", value_name = "PATTERN", value_parser = history_pattern)]
    histories: Vec<HistoryPattern>,
    /// Dead letters that may be read, retried or dropped: CONTEXT.AGGREGATE.ID.ACTION, where * stands for any characters of a part; may be
    /// repeated
    #[arg(long = "letters", value_name = "PATTERN", value_parser = letter_pattern)]
    letters: Vec<LetterPattern>,
    /// How long the key is valid
    #[arg(long, value_name = "DURATION", default_value = EXPIRES_AFTER_DEFAULT, value_parser = crate::duration)]
    expires_after: Duration,
}

/// Add a user of NATS, whose name the server proves, or replace what it may do; print what the server must know of it.
#[derive(Debug, clap::Args)]
struct UserArguments {
    #[command(flatten)]
    granted: GrantedArguments,
}

/// What keys and users have in common.
#[derive(Debug, clap::Args)]
struct GrantedArguments {
    /// The name: the actor of each command, and a token of a user's subjects; lower-kebab-case
    name: String,
    /// File of the keys, as in gateway.keys_file; it is created if it does not exist
    #[arg(long)]
    file: PathBuf,
    /// Commands that may be sent: CONTEXT.AGGREGATE.ID.COMMAND, where * stands for any characters of a part; may be repeated
    #[arg(long = "command", value_name = "PATTERN", value_parser = pattern)]
    commands: Vec<CommandPattern>,
    /// Rows that may be read: CONTEXT.VIEW.KEY, where * stands for any characters of a part; may be repeated
    #[arg(long = "query", value_name = "PATTERN", value_parser = query_pattern)]
    queries: Vec<QueryPattern>,
    /// Configured queries that may be asked: CONTEXT.QUERY, where * stands for any characters of a part, and perhaps ?PARAMETER=VALUE, which
    /// fixes a parameter; may be repeated
    #[arg(long = "sql", value_name = "PATTERN", value_parser = sql_pattern)]
    sql: Vec<ConfiguredQueryPattern>,
    /// Statements of its own may be asked, which read all tables, where the stage sql answers such (sql.ad_hoc)
    #[arg(long)]
    ad_hoc_sql: bool,
}

/// List the keys and users of a file.
#[derive(Debug, clap::Args)]
struct ListArguments {
    /// File of the keys
    #[arg(long)]
    file: PathBuf,
    /// One JSON object a key
    #[arg(long)]
    json: bool,
}

/// Take all keys and the user of a name out of the file; a gateway refuses them within a second from when it sees the change, which a
/// container may not do before it is restarted (docs/guides/http.md).
#[derive(Debug, clap::Args)]
struct RevokeArguments {
    /// The name of the keys and of the user
    name: String,
    /// File of the keys
    #[arg(long)]
    file: PathBuf,
    /// Only the keys whose hash begins with this, as `keys list` shows it
    #[arg(long, value_name = "HASH", default_value = "")]
    hash: String,
}

/// Why a file of keys cannot be used.
#[derive(Debug, thiserror::Error)]
enum KeysError {
    #[error("{path} cannot be used")]
    File { path: PathBuf, source: io::Error },
    #[error("{path} is no file of keys")]
    Form { path: PathBuf, source: Box<toml::de::Error> },
    #[error(transparent)]
    Keys(#[from] ApiKeysError),
    #[error("{path} has no such key or user of {name}")]
    Unknown { path: PathBuf, name: String },
}

impl Failure for KeysError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::File { source, .. } => ExitCode::of_file_error(source),
            Self::Form { .. } => ExitCode::Data,
            Self::Keys(_) | Self::Unknown { .. } => ExitCode::Usage,
        }
    }
}

/// Runs it.
pub(crate) fn run(arguments: KeysArguments) -> Result<ExitCode, CommandFailure> {
    match arguments.action {
        Action::New(arguments) => new(arguments),
        Action::User(arguments) => user(arguments),
        Action::List(arguments) => list(&arguments),
        Action::Revoke(arguments) => revoke(&arguments),
    }
}

fn new(arguments: NewArguments) -> Result<ExitCode, CommandFailure> {
    let NewArguments { granted, histories, letters, expires_after } = arguments;
    let GrantedArguments { name, file, commands, queries, sql, ad_hoc_sql } = granted;
    let expires = Timestamp::now().checked_add(expires_after).and_then(|expires| expires.round(Unit::Second));
    let expires = expires.map_err(|error| CommandFailure::usage(format_args!("--expires-after: {error}")))?;
    let token = Token::new(rand::random());
    let file = itself(file)?;
    let _alone = alone(&file)?;
    let mut keys = read_or_none(&file)?;
    let hash = KeyHash::of(token.as_str());
    keys.keys.push(ApiKey { name, hash, expires, commands, queries, histories, sql, letters, ad_hoc_sql });
    keys.check().map_err(KeysError::Keys)?;
    write(&file, &keys)?;
    output::line(token.as_str())?;
    Ok(ExitCode::Ok)
}

fn user(arguments: UserArguments) -> Result<ExitCode, CommandFailure> {
    let GrantedArguments { name, file, commands, queries, sql, ad_hoc_sql } = arguments.granted;
    let file = itself(file)?;
    let _alone = alone(&file)?;
    let mut keys = read_or_none(&file)?;
    keys.users.retain(|user| user.name != name);
    keys.users.push(NatsUser { name: name.clone(), commands, queries, sql, ad_hoc_sql });
    keys.check().map_err(KeysError::Keys)?;
    write(&file, &keys)?;
    output::line(account(&name))?;
    Ok(ExitCode::Ok)
}

/// What the server has to know about a user: an account of its own, which keeps the user's replies and connections away from others.
fn account(name: &str) -> String {
    let variable = name.to_ascii_uppercase().replace('-', "_");
    format!(
        r#"{name} {{
  limits {{ max_connections: 16, max_subscriptions: 256, max_payload: 320KB }}
  imports: [
    {{ service: {{ account: MILLSTREAM, subject: "{USER_PREFIX}.{name}.submit.*.*.*.*" }} }}
    {{ service: {{ account: MILLSTREAM, subject: "{USER_PREFIX}.{name}.query.*.*.*" }} }}
    {{ service: {{ account: MILLSTREAM, subject: "{USER_PREFIX}.{name}.query.*.*" }} }}
    {{ service: {{ account: MILLSTREAM, subject: "{USER_PREFIX}.{name}.sql.ask" }} }}
  ]
  users: [
    {{
      user: "{name}"
      password: ${variable}_PASSWORD
      permissions {{
        publish {{ allow: ["{USER_PREFIX}.{name}.>"] }}
        subscribe {{ allow: ["_INBOX.{name}.>"] }}
      }}
    }}
  ]
}}"#
    )
}

fn list(arguments: &ListArguments) -> Result<ExitCode, CommandFailure> {
    let ApiKeys { keys, users, issuers } = read(&arguments.file)?;
    if arguments.json {
        for key in &keys {
            output::line(json!(key))?;
        }
        for user in &users {
            output::line(json!(user))?;
        }
        for issuer in &issuers {
            output::line(json!(issuer))?;
        }
        return Ok(ExitCode::Ok);
    }
    let now = Timestamp::now();
    let of_keys = keys.iter().map(|key| {
        let state = if key.expires <= now { "expired" } else { "valid" };
        let hash = key.hash.to_string();
        let hash = hash.get(..12).unwrap_or(&hash).to_owned();
        let (commands, queries, histories) =
            (joined(&key.commands), joined(&key.queries), joined(&key.histories));
        let expires = key.expires.to_string();
        let (sql, letters) = (with_ad_hoc(joined(&key.sql), key.ad_hoc_sql), joined(&key.letters));
        vec![key.name.clone(), hash, state.to_owned(), expires, commands, queries, histories, sql, letters]
    });
    let of_users = users.iter().map(|user| {
        let (commands, queries) = (joined(&user.commands), joined(&user.queries));
        vec![
            user.name.clone(),
            "user of NATS".to_owned(),
            "valid".to_owned(),
            String::new(),
            commands,
            queries,
            String::new(),
            with_ad_hoc(joined(&user.sql), user.ad_hoc_sql),
            String::new(),
        ]
    });
    let of_issuers = issuers.iter().map(|issuer| {
        let all = |texts: fn(&ClaimGrant) -> &Vec<String>| {
            let texts: Vec<&str> = issuer.grants.iter().flat_map(texts).map(String::as_str).collect();
            texts.join(" ")
        };
        vec![
            issuer.name.clone(),
            "issuer of tokens".to_owned(),
            "valid".to_owned(),
            String::new(),
            all(|grant| &grant.commands),
            all(|grant| &grant.queries),
            all(|grant| &grant.histories),
            with_ad_hoc(all(|grant| &grant.sql), issuer.grants.iter().any(|grant| grant.ad_hoc_sql)),
            all(|grant| &grant.letters),
        ]
    });
    let rows: Vec<Vec<String>> = of_keys.chain(of_users).chain(of_issuers).collect();
    let columns = ["name", "hash", "state", "expires", "commands", "queries", "histories", "sql", "letters"]
        .map(str::to_owned);
    output::line(output::table(&columns, &rows, &[]))?;
    Ok(ExitCode::Ok)
}

fn revoke(arguments: &RevokeArguments) -> Result<ExitCode, CommandFailure> {
    let RevokeArguments { name, file, hash } = arguments;
    let file = itself(file.clone())?;
    let _alone = alone(&file)?;
    let mut keys = read(&file)?;
    let before = (keys.keys.len(), keys.users.len());
    keys.keys.retain(|key| key.name != *name || !key.hash.to_string().starts_with(hash.as_str()));
    // A user has no hash that could be matched.
    keys.users.retain(|user| user.name != *name || !hash.is_empty());
    let (of_keys, of_users) = (before.0 - keys.keys.len(), before.1 - keys.users.len());
    if of_keys + of_users == 0 {
        return Err(KeysError::Unknown { path: file, name: name.clone() }.into());
    }
    write(&file, &keys)?;
    if of_keys > 0 {
        output::line(format_args!("{of_keys} key(s) of {name} revoked"))?;
    }
    if of_users > 0 {
        output::line(format_args!("user {name} revoked"))?;
    }
    Ok(ExitCode::Ok)
}

fn joined<P: Clone + Into<String>>(patterns: &[P]) -> String {
    patterns.iter().cloned().map(Into::into).collect::<Vec<String>>().join(" ")
}

/// Patterns of configured queries, and whether statements of its own are granted besides.
fn with_ad_hoc(patterns: String, is_granted: bool) -> String {
    match (is_granted, patterns.is_empty()) {
        (false, _) => patterns,
        (true, true) => "ad-hoc".to_owned(),
        (true, false) => format!("{patterns} ad-hoc"),
    }
}

fn pattern(text: &str) -> Result<CommandPattern, String> {
    CommandPattern::try_from(text.to_owned()).map_err(|error| error.to_string())
}

fn query_pattern(text: &str) -> Result<QueryPattern, String> {
    QueryPattern::try_from(text.to_owned()).map_err(|error| error.to_string())
}

fn sql_pattern(text: &str) -> Result<ConfiguredQueryPattern, String> {
    ConfiguredQueryPattern::try_from(text.to_owned()).map_err(|error| error.to_string())
}

fn letter_pattern(text: &str) -> Result<LetterPattern, String> {
    LetterPattern::try_from(text.to_owned()).map_err(|error| error.to_string())
}

fn history_pattern(text: &str) -> Result<HistoryPattern, String> {
    HistoryPattern::try_from(text.to_owned()).map_err(|error| error.to_string())
}

/// The file to which a link leads. The link stays a link when the file is replaced.
fn itself(file: PathBuf) -> Result<PathBuf, KeysError> {
    match fs::canonicalize(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(file),
        itself => itself.map_err(|source| KeysError::File { path: file, source }),
    }
}

/// The folder of a file.
fn folder(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Between reading and writing, nobody else who runs this command may change a file of the folder: a revoked key must not come back.
fn alone(file: &Path) -> Result<File, KeysError> {
    let folder = folder(file);
    let failed = |source| KeysError::File { path: folder.to_owned(), source };
    let held = File::open(folder).map_err(failed)?;
    held.lock().map_err(failed)?;
    Ok(held)
}

fn read_or_none(file: &Path) -> Result<ApiKeys, KeysError> {
    match read(file) {
        Err(KeysError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(ApiKeys::default())
        }
        read => read,
    }
}

fn read(file: &Path) -> Result<ApiKeys, KeysError> {
    let path = file.to_owned();
    let text = read_regular_file(file);
    let text = text.map_err(|source| KeysError::File { path: path.clone(), source })?;
    let keys: ApiKeys =
        toml::from_str(&text).map_err(|source| KeysError::Form { path, source: Box::new(source) })?;
    keys.check()?;
    Ok(keys)
}

/// The file is replaced as a whole, because the gateway may read it at any moment.
fn write(file: &Path, keys: &ApiKeys) -> Result<(), KeysError> {
    let failed = |source| KeysError::File { path: file.to_owned(), source };
    let text = toml::to_string(keys).expect("texts, times and lists of texts are TOML");
    // Those who could read the keys before can read them afterwards, and nobody else.
    let permissions =
        fs::metadata(file).map_or(fs::Permissions::from_mode(FILE_MODE), |old| old.permissions());
    let mut new = tempfile::NamedTempFile::new_in(folder(file)).map_err(failed)?;
    new.as_file().set_permissions(permissions).map_err(failed)?;
    new.write_all(text.as_bytes()).map_err(failed)?;
    new.as_file().sync_all().map_err(failed)?;
    new.persist(file).map_err(|error| failed(error.error))?;
    Ok(())
}
