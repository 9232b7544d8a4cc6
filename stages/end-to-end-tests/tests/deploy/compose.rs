//! compose.yaml without a container engine: it is parsed, held to what a deployment needs, and its services are started as
//! processes in the order of their conditions, with the passwords that make-passwords.sh makes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use end_to_end_tests::{
    binaries::{binary, repository},
    program,
    waiting::until,
};
use millstream_sql::testing::postgres_server::PostgresServer;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    container::Container,
    helm_chart::documents,
    load::Load,
    process::Process,
    production_server::{ProductionServer, USERS},
    stages_with_least_privilege::STAGES,
};

/// Where Compose puts a secret.
const SECRETS: &str = "/run/secrets";

/// The file, with the folders that stand for its volumes.
struct Compose {
    services: BTreeMap<String, Value>,
    file: Value,
    folder: TempDir,
}

/// A running service.
struct Service {
    name: String,
    process: Process,
    grace: Duration,
}

impl Compose {
    fn load() -> Self {
        Self::load_with(&[])
    }

    /// As Compose reads it where these variables are set.
    fn load_with(variables: &[(&str, &str)]) -> Self {
        let text = fs::read_to_string(repository().join("deploy/compose.yaml")).unwrap();
        let text = interpolated(&text, variables);
        let mut document: serde_yaml_ng::Value = serde_yaml_ng::from_str(&text).unwrap();
        document.apply_merge().unwrap();
        let file = serde_json::to_value(document).unwrap();
        let services = file["services"].as_object().unwrap();
        let services = services.iter().map(|(name, service)| (name.clone(), service.clone())).collect();
        Self { services, file, folder: TempDir::new().unwrap() }
    }

    /// The same with another file over it: variables, secrets and lists are added, as Compose does it.
    fn over(mut self, file: &str, variables: &[(&str, &str)]) -> Self {
        let text = fs::read_to_string(repository().join("deploy").join(file)).unwrap();
        let over: Value = serde_yaml_ng::from_str(&interpolated(&text, variables)).unwrap();
        let add = |to: &mut Value, more: &Value| {
            to.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        };
        add(&mut self.file["secrets"], &over["secrets"]);
        for (name, more) in over["services"].as_object().unwrap() {
            let service = self.services.get_mut(name).unwrap_or_else(|| panic!("there is no service {name}"));
            for (key, value) in more.as_object().unwrap() {
                match key.as_str() {
                    "environment" => add(&mut service[key], value),
                    "secrets" => {
                        service[key].as_array_mut().unwrap().extend(value.as_array().unwrap().clone())
                    }
                    _ => panic!("{key} of {name}: add here how Compose merges it"),
                }
            }
        }
        self
    }

    /// Names in an order in which each comes after those it depends on.
    fn in_order(&self) -> Vec<&str> {
        let mut ordered: Vec<&str> = Vec::new();
        while ordered.len() < self.services.len() {
            let next = self.services.iter().find(|(name, service)| {
                let depends = service["depends_on"].as_object();
                let met = depends.is_none_or(|on| on.keys().all(|name| ordered.contains(&name.as_str())));
                met && !ordered.contains(&name.as_str())
            });
            ordered.push(next.expect("no service waits for itself").0);
        }
        ordered
    }

    /// A service of our image as a container, on this server.
    fn container(&self, name: &str, server: &ProductionServer) -> Container {
        let service = &self.services[name];
        let words = texts(&service["command"]);
        let variables = service["environment"].as_object().unwrap().iter();
        let variables = variables.map(|(variable, value)| {
            let value = value.as_str().unwrap();
            // The name of the service is the server's name in the network of Compose.
            let value = if value == "nats://nats:4222" { server.url() } else { value.to_owned() };
            (variable.clone(), value)
        });
        let mut mounts = BTreeMap::new();
        for volume in texts(&service["volumes"]) {
            let (source, target) = volume.split_once(':').unwrap();
            let target = target.trim_end_matches(":ro").to_owned();
            mounts.insert(target, self.source(source));
        }
        for secret in texts(&service["secrets"]) {
            let file = self.file["secrets"][&secret]["file"].as_str().unwrap();
            mounts.insert(format!("{SECRETS}/{secret}"), self.source(file));
        }
        Container { words, variables: variables.collect(), mounts }
    }

    /// A file beside compose.yaml, one of the secrets, or the folder of a volume.
    fn source(&self, name: &str) -> PathBuf {
        if let Some(secret) = name.strip_prefix("./secrets/") {
            return self.folder.path().join(secret);
        }
        if name.starts_with('.') {
            let path = repository().join("deploy").join(name);
            assert!(path.exists(), "{name} is not there");
            return path;
        }
        assert!(self.file["volumes"].get(name).is_some(), "{name} is no volume");
        let folder = self.folder.path().join(name);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// Starts a service and waits until its health check, run as Compose runs it, says that it is healthy.
    async fn start(&self, name: &str, server: &ProductionServer) -> Service {
        let (command, health) = self.container(name, server).command();
        let service = &self.services[name];
        let mut process = Process::start(command);
        let check = texts(&service["healthcheck"]["test"]);
        let [kind, program, subcommand, _] = check.as_slice() else { panic!("{check:?}") };
        assert_eq!((kind.as_str(), program.as_str()), ("CMD", "/usr/local/bin/millstream"));
        until(format!("{name} is healthy"), async || {
            process.expect_running();
            let mut check = program::command(binary("millstream"));
            check.arg(subcommand).arg(health.as_deref().unwrap());
            (program::run(check, b"").await.code() == Some(0)).then_some(())
        })
        .await;
        Service { name: name.to_owned(), process, grace: seconds(&service["stop_grace_period"]) }
    }
}

impl Service {
    async fn stop(mut self) {
        self.process.terminate();
        assert_eq!(self.process.exit_code(self.grace).await, 0, "{}: {}", self.name, self.process.log());
    }
}

/// A text with `${NAME:-default}` replaced.
fn interpolated(text: &str, variables: &[(&str, &str)]) -> String {
    let (mut rest, mut done) = (text, String::new());
    while let Some((before, after)) = rest.split_once("${") {
        let (variable, after) = after.split_once('}').unwrap();
        let set = |name: &str| variables.iter().find(|(set, _)| *set == name).map(|(_, value)| *value);
        done += before;
        done += match (variable.split_once(":-"), variable.split_once(":?")) {
            (Some((name, default)), _) => set(name).unwrap_or(default),
            (None, Some((name, words))) => set(name).unwrap_or_else(|| panic!("{name}: {words}")),
            (None, None) => panic!("{variable} has no default"),
        };
        rest = after;
    }
    done + rest
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn seconds(text: &Value) -> Duration {
    Duration::from_secs(text.as_str().unwrap().strip_suffix('s').unwrap().parse().unwrap())
}

/// Runs make-passwords.sh as the documentation says.
async fn make_passwords(folder: &Path) {
    let mut command = program::command(repository().join("deploy/make-passwords.sh"));
    command.arg(folder);
    let _said = program::run(command, b"").await.expect_success("make-passwords.sh");
}

fn password_of(folder: &Path, user: &str) -> String {
    fs::read_to_string(folder.join(format!("{user}.password"))).unwrap()
}

#[tokio::test]
async fn passwords_are_made_once_and_the_server_gets_the_same() {
    let folder = TempDir::new().unwrap();
    make_passwords(folder.path()).await;
    let first: Vec<String> = USERS.iter().map(|user| password_of(folder.path(), user)).collect();
    assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), USERS.len(), "each user has its own");
    assert!(first.iter().all(|password| password.len() == 48), "{first:?}");
    make_passwords(folder.path()).await;
    let second: Vec<String> = USERS.iter().map(|user| password_of(folder.path(), user)).collect();
    assert_eq!(first, second, "what is there is kept");
    let server = fs::read_to_string(folder.path().join("nats-passwords.conf")).unwrap();
    let secret = fs::read_to_string(folder.path().join("gateway-id.secret")).unwrap();
    assert_eq!(secret.len(), 64, "more than the gateway asks for: {secret}");
    for user in USERS {
        let variable = format!("{}_PASSWORD: \"", user.to_uppercase().replace('-', "_"));
        assert!(server.contains(&variable), "{user} is missing in {server}");
    }
}

#[test]
fn services_are_safe_and_fit_together() {
    let compose = Compose::load();
    let names: BTreeSet<&str> = compose.services.keys().map(String::as_str).collect();
    let expected: BTreeSet<&str> = STAGES.into_iter().chain(["gateway", "nats", "setup", "sql"]).collect();
    assert_eq!(names, expected);
    for (name, service) in &compose.services {
        assert_eq!(texts(&service["cap_drop"]), ["ALL"], "{name}");
        assert_eq!(texts(&service["security_opt"]), ["no-new-privileges:true"], "{name}");
        let image = service["image"].as_str().unwrap();
        assert!(image.contains(':') && !image.ends_with(":latest"), "{name}: {image}");
        assert!(name == "setup" || service["healthcheck"]["test"].is_array(), "{name} has no health check");
        if name != "nats" {
            assert_eq!(service["read_only"], true, "{name}");
            assert_eq!(service["user"], "65532:65532", "{name}");
            let mut own = vec![name.clone()];
            if name == "gateway" {
                own.extend(["gateway-keys", "gateway-id"].map(str::to_owned));
            }
            assert_eq!(texts(&service["secrets"]), own, "{name} gets its own secrets alone");
        }
        for port in texts(&service["ports"]) {
            assert!(port.starts_with("127.0.0.1:"), "{name} is open to everybody: {port}");
        }
    }
    let nats = &compose.services["nats"];
    let mounted: Vec<String> = texts(&nats["volumes"]);
    for file in ["nats-server.conf", "nats-accounts.conf", "nats-passwords.conf"] {
        assert!(mounted.iter().any(|volume| volume.ends_with(&format!(":/etc/nats/{file}:ro"))), "{file}");
    }
    assert_eq!(texts(&nats["command"]), ["--config", "/etc/nats/nats-server.conf"]);
    assert!(mounted.contains(&"nats-data:/data".to_owned()), "the server's store_dir is below /data");
    assert_eq!(documents(&compose.file.to_string()).len(), 1);
}

#[test]
fn variables_name_the_image_the_program_and_the_files_of_an_application() {
    let own = [
        ("MILLSTREAM_IMAGE", "registry.example/gym:1.4.0"),
        ("MILLSTREAM_PROGRAM", "gym"),
        ("MILLSTREAM_CONFIG", "/etc/gym"),
    ];
    let compose = Compose::load_with(&own);
    let ours = compose.services.iter().filter(|(name, _)| *name != "nats");
    for (name, service) in ours {
        assert_eq!(service["image"], "registry.example/gym:1.4.0", "{name}");
        assert_eq!(texts(&service["command"])[0], "/usr/local/bin/gym", "{name}");
        if name != "setup" {
            assert_eq!(texts(&service["command"])[1..3], ["stage", name], "{name}");
            assert_eq!(texts(&service["healthcheck"]["test"])[1], "/usr/local/bin/gym", "{name}");
            let file = format!("/etc/gym/{name}.toml:/etc/millstream/{name}.toml:ro");
            assert!(texts(&service["volumes"]).contains(&file), "{name} has no {file}");
        }
    }
}

/// The roles as docs/guides/sql.md makes them.
const ROLES: &str = "CREATE ROLE millstream LOGIN PASSWORD 'fills'; CREATE ROLE millstream_reader LOGIN PASSWORD 'reads'; \
     ALTER DATABASE shop OWNER TO millstream";

#[tokio::test]
async fn the_tables_are_in_a_postgresql_and_are_asked_as_its_reader() {
    let Some(database) = tokio::task::spawn_blocking(PostgresServer::start).await.unwrap() else { return };
    let database = tokio::task::spawn_blocking(move || {
        database.make_database("shop");
        database.run("shop", ROLES);
        database
    });
    let database = database.await.unwrap();
    let address = |role: &str| database.address("shop").replace("postgres@", &format!("{role}@"));
    let variables = [
        ("MILLSTREAM_POSTGRES_DATABASE", address("millstream")),
        ("MILLSTREAM_POSTGRES_READERS", address("millstream_reader")),
    ];
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    let compose = Compose::load().over("compose-postgres.yaml", &variables);
    make_passwords(compose.folder.path()).await;
    for (secret, password) in [("postgres", "fills"), ("postgres-readers", "reads")] {
        fs::write(compose.folder.path().join(format!("{secret}.password")), password).unwrap();
    }
    let server = ProductionServer::start_with_passwords(compose.folder.path()).await;
    let (setup, _) = compose.container("setup", &server).command();
    let _said = program::run(setup, b"").await.expect_success("setup");
    let sql = compose.start("sql", &server).await;
    let operator = server.client("operator").await;
    let answer = operator.request("query.retail.top-sellers", "{}".into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(answer["query"], "retail.top-sellers", "{answer}");
    sql.stop().await;
    // What a connection of the test to the database leaves is ended away from the async threads.
    tokio::task::spawn_blocking(move || drop(database)).await.unwrap();
}

#[tokio::test]
async fn services_run_in_the_order_of_their_conditions_and_a_command_becomes_a_report() {
    let compose = Compose::load();
    make_passwords(compose.folder.path()).await;
    let server = ProductionServer::start_with_passwords(compose.folder.path()).await;
    let mut running = Vec::new();
    for name in compose.in_order() {
        match name {
            "nats" => {}
            "setup" => {
                let (command, _) = compose.container(name, &server).command();
                let _said = program::run(command, b"").await.expect_success("setup");
            }
            stage => running.push(compose.start(stage, &server).await),
        }
    }
    let load = Load::start(&server).await;
    let restarted = running.remove(0);
    let name = restarted.name.clone();
    restarted.stop().await;
    running.push(compose.start(&name, &server).await);
    let report = async |arguments: &[&str]| {
        let mut command = program::command(binary("millstream"));
        command
            .env("MILLSTREAM_NATS__URL", server.url())
            .env("MILLSTREAM_NATS__USER", "operator")
            .env("MILLSTREAM_NATS__PASSWORD_FILE", compose.folder.path().join("operator.password"))
            .args(arguments);
        program::run(command, b"").await
    };
    load.finish(&server, report).await;
    for service in running {
        service.stop().await;
    }
}
