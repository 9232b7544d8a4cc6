//! A nats-server with the very files of config/: only passwords, addresses and the store are the test's own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use async_nats::{Client, ConnectOptions, jetstream};
use end_to_end_tests::binaries::repository;
use millstream_jetstream::line::Dialer;
use millstream_jetstream::{
    nats_broker::NatsBroker,
    nats_server::{free_port, wait_until_ready},
    provision::{ProvisionOptions, provision},
    testing::test_server::program,
};
use millstream_runtime::connection::stage_inbox;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// The users of nats-accounts.conf, in its order.
pub(crate) const USERS: [&str; 11] = [
    "command-handler",
    "projector",
    "reporter",
    "sql",
    "process-manager",
    "gateway",
    "setup",
    "operator",
    "administrator",
    "publisher",
    "store-2506",
];
/// Hash of the operator's password: bcrypt, as passwords of production are (`nats server passwd`). The others are plain.
const OPERATOR_HASH: &str = "$2a$04$nBGSJoMT4PqdXYS3eVnxB.xoAs/Rxr/yUh2rZid1/weFf38p4KfjW";
/// Where the production server keeps its streams.
const STORE: &str = "store_dir: \"/data/jetstream\"";
/// How often a start is repeated when somebody else took the port in between.
const START_TRIES: usize = 5;

/// The password of a user of [`ProductionServer`].
pub(crate) fn password(user: &str) -> String {
    format!("{user}-secret-of-the-tests")
}

/// What nats-passwords.conf holds: one variable a user.
pub(crate) fn passwords_file() -> String {
    USERS
        .map(|user| {
            let name = user.to_uppercase().replace('-', "_");
            let secret = if user == "operator" { OPERATOR_HASH.to_owned() } else { password(user) };
            format!("{name}_PASSWORD: \"{secret}\"\n")
        })
        .concat()
}

/// Copies the server's configuration into a folder, with the passwords of the tests beside it and the store inside; answers
/// the main file's path. The store is the only line that differs: the server refuses a flag for what the file says.
pub(crate) fn copy_configuration(folder: &Path) -> PathBuf {
    copy_configuration_with(folder, &passwords_file())
}

fn copy_configuration_with(folder: &Path, passwords: &str) -> PathBuf {
    let config = repository().join("config");
    let main = fs::read_to_string(config.join("nats-server.conf")).unwrap();
    assert_eq!(main.matches(STORE).count(), 1, "{STORE}");
    let own = format!("store_dir: \"{}\"", folder.join("store").display());
    fs::write(folder.join("nats-server.conf"), main.replace(STORE, &own)).unwrap();
    fs::copy(config.join("nats-accounts.conf"), folder.join("nats-accounts.conf")).unwrap();
    fs::write(folder.join("nats-passwords.conf"), passwords).unwrap();
    folder.join("nats-server.conf")
}

/// The server. It is killed when dropped, and its folder goes with it.
pub(crate) struct ProductionServer {
    child: Child,
    folder: TempDir,
    pub(crate) port: u16,
    /// Of each user, as `<user>.password`, where they are not those of the tests.
    passwords: Option<PathBuf>,
}

impl ProductionServer {
    /// Starts it.
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    /// Starts it with the passwords that make-passwords.sh has made in a folder.
    pub(crate) async fn start_with_passwords(folder: &Path) -> Self {
        Self::start_with(Some(folder.to_owned())).await
    }

    async fn start_with(passwords: Option<PathBuf>) -> Self {
        let text = passwords.as_ref().map_or_else(passwords_file, |folder| {
            fs::read_to_string(folder.join("nats-passwords.conf")).unwrap()
        });
        let program = program().await.path;
        for _ in 0..START_TRIES {
            let folder = TempDir::new().unwrap();
            let (port, monitoring) = (free_port().unwrap(), free_port().unwrap());
            let log = fs::File::create(folder.path().join("log")).unwrap();
            let mut child = Command::new(&program)
                .arg("--config")
                .arg(copy_configuration_with(folder.path(), &text))
                .args(["--addr", "127.0.0.1", "--port", &port.to_string()])
                .args(["--http_port", &monitoring.to_string()])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .kill_on_drop(true)
                .spawn()
                .unwrap();
            tokio::select! {
                ready = wait_until_ready(port) => {
                    ready.unwrap();
                    return Self { child, folder, port, passwords };
                }
                status = child.wait() => {
                    let log = fs::read_to_string(folder.path().join("log")).unwrap();
                    assert!(log.contains("address already in use"), "{status:?}: {log}");
                }
            }
        }
        panic!("no port stays free for nats-server");
    }

    /// The same with Millstream's streams, made by the user that may make them.
    pub(crate) async fn start_provisioned() -> Self {
        let server = Self::start().await;
        let context = jetstream::new(server.client("setup").await);
        provision(&context, &ProvisionOptions::default()).await.unwrap();
        server
    }

    /// The URL for clients.
    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// A connection of one user, with the inbox that is that user's.
    pub(crate) async fn client(&self, user: &str) -> Client {
        self.options(user).connect(self.url()).await.unwrap()
    }

    /// JetStream as one user.
    pub(crate) async fn broker(&self, user: &str) -> NatsBroker {
        let dialer = Dialer::with_options(&self.url(), self.options(user));
        NatsBroker::new(self.client(user).await, dialer, None)
    }

    fn options(&self, user: &str) -> ConnectOptions {
        let inbox = match user {
            "setup" | "operator" | "administrator" => "_INBOX".to_owned(),
            "publisher" | "store-2506" => format!("_INBOX.{user}"),
            stage => stage_inbox(stage),
        };
        let password = match &self.passwords {
            Some(folder) => fs::read_to_string(folder.join(format!("{user}.password"))).unwrap(),
            None => password(user),
        };
        ConnectOptions::with_user_and_password(user.to_owned(), password)
            .custom_inbox_prefix(inbox)
            .connection_timeout(Duration::from_secs(30))
    }

    /// Gives it other passwords and has it read its configuration again.
    pub(crate) fn reload_with(&self, passwords: &str) {
        fs::write(self.folder.path().join("nats-passwords.conf"), passwords).unwrap();
        let pid = i32::try_from(self.child.id().expect("it runs")).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGHUP).unwrap();
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}
