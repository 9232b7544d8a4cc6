//! A PostgreSQL server for a test: the installed version, in a temporary folder, on a free port of the loopback interface. PostgreSQL refuses
//! to run as root, so if the test is root, the server runs as the user `postgres`.

use std::{
    fs,
    io::Write as _,
    net::TcpListener,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use postgres::{Client, NoTls};
use tempfile::TempDir;

/// The superuser of the server. Anybody on the loopback interface may be this user.
const USER: &str = "postgres";
/// How often a starting server is checked, long enough for a busy machine.
const LOOKS_MAX: usize = 1_200;
/// The pause between two checks.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// A server. Dropping it kills it.
#[derive(Debug)]
pub struct PostgresServer {
    programs: PathBuf,
    folder: TempDir,
    port: u16,
    owner: Option<(u32, u32)>,
    with_tls: bool,
    process: Option<Child>,
}

impl PostgresServer {
    /// Starts the installed PostgreSQL. If none is installed, it says so and returns no server; if `CI` is set, the test fails.
    ///
    /// # Panics
    /// When one is installed and does not start.
    pub fn start() -> Option<Self> {
        let mut server = Self::made()?;
        server.start_again();
        Some(server)
    }

    /// The same, but the server also accepts TLS, with a certificate and its key in PEM.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn start_with_tls(certificate: &str, key: &str) -> Option<Self> {
        let mut server = Self::made()?;
        for (name, text) in [("server.crt", certificate), ("server.key", key)] {
            let path = server.data().join(name);
            fs::write(&path, text).expect("the folder of the server can be written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its owner may do so");
            if let Some((user, group)) = server.owner {
                chown(&path, Some(user), Some(group)).expect("root gives a file away");
            }
        }
        server.with_tls = true;
        server.start_again();
        Some(server)
    }

    /// A server that does not run yet.
    fn made() -> Option<Self> {
        let Some(programs) = programs() else {
            let on_ci = std::env::var_os("CI").is_some();
            assert!(!on_ci, "PostgreSQL is not installed");
            let said = std::io::stderr().write_all(b"skipped: PostgreSQL is not installed\n");
            said.expect("the reason of a skip can be told");
            return None;
        };
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let owner = fs::read_to_string("/proc/self/status").ok().filter(|status| is_root(status)).map(|_| {
            let ids = user_and_group(USER).expect("PostgreSQL's package made its user");
            chown(folder.path(), Some(ids.0), Some(ids.1)).expect("root gives a folder away");
            ids
        });
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("it has a port").port();
        drop(listener);
        let server = Self { programs, folder, port, owner, with_tls: false, process: None };
        let made = server
            .command("initdb")
            .args([
                "--auth=trust",
                "--no-sync",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--username",
                USER,
                "--pgdata",
            ])
            .arg(server.data())
            .output()
            .expect("initdb starts");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        Some(server)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir(self.folder.path()).env_remove("PGHOST").env_remove("PGPORT");
        if let Some((user, group)) = self.owner {
            command.gid(group).uid(user);
        }
        command
    }

    /// Starts it again after [`Self::kill`], and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub fn start_again(&mut self) {
        self.process = Some(self.spawn());
        for _ in 0..LOOKS_MAX {
            if Client::connect(&self.address("postgres"), NoTls).is_ok() {
                return;
            }
            // It refuses to start while processes of the killed server still exist.
            let ended =
                self.process.as_mut().is_some_and(|process| matches!(process.try_wait(), Ok(Some(_))));
            if ended {
                self.process = Some(self.spawn());
            }
            #[expect(
                clippy::disallowed_methods,
                reason = "between two looks at whether it answers, up to a bound"
            )]
            std::thread::sleep(LOOK_PAUSE);
        }
        panic!("PostgreSQL does not answer: {}", self.log());
    }

    fn spawn(&self) -> Child {
        let log = fs::File::options().create(true).append(true).open(self.folder.path().join("log"));
        let log = log.expect("the log can be written");
        self.command("postgres")
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1"])
            .args(["-c", "unix_socket_directories=", "-c", "max_connections=50", "-c", "fsync=off"])
            .args(["-c", if self.with_tls { "ssl=on" } else { "ssl=off" }])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("postgres starts")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Kills it with SIGKILL. Its other processes end by themselves.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.kill().expect("it can be killed");
        process.wait().expect("it has ended");
    }

    /// Makes an empty database.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn make_database(&self, name: &str) {
        self.run("postgres", &format!("CREATE DATABASE {name}"));
    }

    /// Runs statements in a database.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn run(&self, database: &str, statements: &str) {
        let ran = self.client(database).batch_execute(statements);
        ran.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
    }

    /// A connection to a database.
    ///
    /// # Panics
    /// When there is none.
    pub fn client(&self, database: &str) -> Client {
        Client::connect(&self.address(database), NoTls).expect("the server answers")
    }

    /// The address of a database.
    pub fn address(&self, database: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{database}", self.port)
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // It may have ended.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn is_root(status: &str) -> bool {
    status.lines().any(|line| line.starts_with("Uid:\t0\t"))
}

/// The ids of a user, from `/etc/passwd`.
fn user_and_group(name: &str) -> Option<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// The folder of the newest PostgreSQL in Debian's layout, or of the one on the path.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort();
    let has_programs = |folder: &Path| folder.join("initdb").is_file() && folder.join("postgres").is_file();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let newest = versions.into_iter().rev().map(|(_, folder)| folder);
    newest.chain(std::env::split_paths(&path)).find(|folder| has_programs(folder))
}
