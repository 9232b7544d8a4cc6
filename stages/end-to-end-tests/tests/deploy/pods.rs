//! The chart's pods as processes on a server with the production configuration: what is rendered is what runs. A pod of a
//! StatefulSet keeps its number and its volume, starts when its probes say so, and ends within its grace period.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use end_to_end_tests::{
    binaries::binary,
    program::{self, Ended},
    waiting::until,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    chart::{containers, pod_spec},
    container::Container,
    helm_chart::{Chart, documents, example, examples},
    load::Load,
    process::Process,
    production_server::{ProductionServer, USERS, password},
    stages_with_least_privilege::{STAGES, millstream},
};

/// What stands for a cluster: the rendered objects, the secret that the chart expects, and folders for claims.
struct Cluster {
    server: ProductionServer,
    objects: Vec<Value>,
    folder: TempDir,
}

/// A running pod.
struct Pod {
    set: String,
    number: u64,
    process: Process,
    grace: Duration,
}

impl Cluster {
    /// Renders the chart for a new server, with helm's arguments. None on a machine without Go.
    async fn install(arguments: &[&str]) -> Option<Self> {
        let chart = Chart::find()?;
        // Built now: no waiting below is for a compiler.
        let _program = binary("millstream");
        let server = ProductionServer::start().await;
        let url = format!("connection.url={}", server.url());
        let image = "--set=image.repository=registry.example/millstream";
        let rendered = chart.render("1.36", &[arguments, &["--set", url.as_str(), image]].concat()).unwrap();
        let cluster = Self { server, objects: documents(&rendered), folder: TempDir::new().unwrap() };
        // The hook before everything else.
        cluster.run_to_end("Job", "setup").await;
        Some(cluster)
    }

    fn object(&self, kind: &str, suffix: &str) -> &Value {
        let wanted = |object: &&Value| {
            object["kind"] == kind && object["metadata"]["name"].as_str().unwrap().ends_with(suffix)
        };
        self.objects.iter().find(wanted).unwrap_or_else(|| panic!("no {kind} …{suffix}"))
    }

    /// Runs the containers of a pod that ends, one after the other, as init containers and a single container do, each until it
    /// succeeds.
    async fn run_to_end(&self, kind: &str, suffix: &str) {
        let spec = pod_spec(self.object(kind, suffix)).unwrap();
        let volumes = self.volumes(spec, None);
        for container in containers(spec) {
            let container = container_of(container, &volumes, "");
            assert_eq!(spec["restartPolicy"], "OnFailure");
            until(container.words.join(" "), async || {
                let ended = program::run(container.command().0, b"").await;
                (ended.code() == Some(0)).then_some(())
            })
            .await;
        }
    }

    /// The stages' sets with their numbers of pods.
    fn pods(&self) -> Vec<(String, u64)> {
        let sets = self.objects.iter().filter(|object| object["kind"] == "StatefulSet");
        sets.flat_map(|set| {
            let name = set["metadata"]["name"].as_str().unwrap().to_owned();
            (0..set["spec"]["replicas"].as_u64().unwrap()).map(move |number| (name.clone(), number))
        })
        .collect()
    }

    /// Starts a pod and waits until all its probes answer well, in the order in which a kubelet asks.
    async fn start(&self, set: &str, number: u64) -> Pod {
        let object = self.object("StatefulSet", set);
        let spec = pod_spec(object).unwrap();
        let claims = object["spec"]["volumeClaimTemplates"].as_array().unwrap();
        let volumes = self.volumes(spec, Some((claims, &format!("{set}-{number}"))));
        let described = &spec["containers"][0];
        let (command, health) = container_of(described, &volumes, &number.to_string()).command();
        let mut process = Process::start(command);
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            let get = &described[probe]["httpGet"];
            assert_eq!(get["port"], "health");
            process.healthy(health.as_deref().unwrap(), get["path"].as_str().unwrap()).await;
        }
        let grace = Duration::from_secs(spec["terminationGracePeriodSeconds"].as_u64().unwrap());
        Pod { set: set.to_owned(), number, process, grace }
    }

    /// A folder a volume, by name.
    fn volumes(&self, spec: &Value, claims: Option<(&Vec<Value>, &str)>) -> BTreeMap<String, PathBuf> {
        let mut volumes = BTreeMap::new();
        for volume in spec["volumes"].as_array().into_iter().flatten() {
            let name = volume["name"].as_str().unwrap().to_owned();
            let folder = tempfile::Builder::new().tempdir_in(self.folder.path()).unwrap().keep();
            if let Some(items) = volume["secret"]["items"].as_array() {
                assert_eq!(volume["secret"]["secretName"], "millstream-nats");
                for item in items {
                    let content = secret(item["key"].as_str().unwrap());
                    fs::write(folder.join(item["path"].as_str().unwrap()), content).unwrap();
                }
            } else {
                let data = &self.object("ConfigMap", volume["configMap"]["name"].as_str().unwrap())["data"];
                for (file, content) in data.as_object().unwrap() {
                    fs::write(folder.join(file), content.as_str().unwrap()).unwrap();
                }
            }
            volumes.insert(name, folder);
        }
        if let Some((claims, pod)) = claims {
            for claim in claims {
                let name = claim["metadata"]["name"].as_str().unwrap();
                let folder = self.folder.path().join(format!("{name}-{pod}"));
                fs::create_dir_all(&folder).unwrap();
                volumes.insert(name.to_owned(), folder);
            }
        }
        volumes
    }

    async fn start_all(&self) -> Vec<Pod> {
        let mut pods = Vec::new();
        for (set, number) in self.pods() {
            pods.push(self.start(&set, number).await);
        }
        pods
    }

    async fn finish(&self, load: Load) {
        load.finish(&self.server, async |arguments: &[&str]| self.millstream(arguments).await).await;
        let log = self.server.log();
        let violations: Vec<&str> = log.lines().filter(|line| line.contains("Violation")).collect();
        assert!(violations.is_empty(), "{violations:#?}");
    }

    async fn millstream(&self, arguments: &[&str]) -> Ended {
        millstream("operator", &self.server, self.folder.path(), arguments).await
    }
}

impl Pod {
    /// SIGTERM; it must end by itself within its grace period, with 0.
    async fn stop(mut self) {
        self.process.terminate();
        let code = self.process.exit_code(self.grace).await;
        assert_eq!(code, 0, "{}-{}: {}", self.set, self.number, self.process.log());
    }
}

/// An entry of the secret that deploy/make-passwords.sh makes.
fn secret(key: &str) -> String {
    let user = key.strip_suffix(".password").unwrap();
    assert!(USERS.contains(&user), "there is no user {user}");
    password(user)
}

fn container_of(described: &Value, volumes: &BTreeMap<String, PathBuf>, number: &str) -> Container {
    let words = |name: &str| {
        let list = described[name].as_array().into_iter().flatten();
        list.map(|word| word.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let variable = |variable: &Value| {
        let value = match variable["value"].as_str() {
            Some(value) => value.to_owned(),
            None => {
                let field = &variable["valueFrom"]["fieldRef"]["fieldPath"];
                assert_eq!(field, "metadata.labels['apps.kubernetes.io/pod-index']");
                number.to_owned()
            }
        };
        (variable["name"].as_str().unwrap().to_owned(), value)
    };
    let mount = |mount: &Value| {
        let folder: &Path = &volumes[mount["name"].as_str().unwrap()];
        (mount["mountPath"].as_str().unwrap().to_owned(), folder.to_owned())
    };
    let all = |name: &str| described[name].as_array().cloned().unwrap_or_default();
    Container {
        words: [words("command"), words("args")].concat(),
        variables: all("env").iter().map(variable).collect(),
        mounts: all("volumeMounts").iter().map(mount).collect(),
    }
}

#[tokio::test]
async fn what_is_rendered_runs_and_ends_within_its_grace_period_under_load() {
    let values = example("reference-application-values.yaml");
    let Some(cluster) = Cluster::install(&["--values", &values]).await else { return };
    let pods = cluster.start_all().await;
    let started: Vec<&str> = pods.iter().map(|pod| pod.set.as_str()).collect();
    assert!(STAGES.iter().all(|stage| started.iter().any(|set| set.ends_with(stage))), "{started:?}");
    cluster.run_to_end("Pod", "-test").await;

    let load = Load::start(&cluster.server).await;
    for pod in pods {
        pod.stop().await;
    }
    // What was sent while nobody was there is decided by who comes.
    let pods = cluster.start_all().await;
    cluster.finish(load).await;
    for pod in pods {
        pod.stop().await;
    }
}

/// An application of one program, with a test of its own: here the comments, of which neither the chart nor its defaults know.
#[tokio::test]
async fn an_application_of_one_program_runs_and_passes_the_test_that_its_values_name() {
    let arguments = [
        "--set=image.program=millstream",
        "--set-json",
        r#"test.command=["comments","comment","helm","create","{\"picture\":\"P\",\"text\":\"Helm\"}","--actor","helm"]"#,
        "--set=test.query={comments,comment,helm}",
    ];
    let Some(cluster) = Cluster::install(&arguments).await else { return };
    let pods = cluster.start_all().await;
    for _run in ["first", "again"] {
        cluster.run_to_end("Pod", "-test").await;
    }
    let history =
        cluster.millstream(&["history", "comments", "comment", "helm"]).await.expect_success("history");
    assert_eq!(history.stdout.matches("comment-created").count(), 1, "{}", history.stdout);
    for pod in pods {
        pod.stop().await;
    }
}

/// Without a command and a query, the test asks `doctor`.
#[tokio::test]
async fn without_a_command_the_test_of_the_chart_fails_until_all_stages_are_ready() {
    let Some(cluster) = Cluster::install(&["--set=image.program=millstream"]).await else { return };
    let spec = pod_spec(cluster.object("Pod", "-test")).unwrap();
    let words: Vec<&Value> = containers(spec).map(|container| &container["command"]).collect();
    assert_eq!(words, [&json!(["/usr/local/bin/millstream", "doctor"])]);
    let doctor = container_of(&spec["containers"][0], &cluster.volumes(spec, None), "");
    let early = program::run(doctor.command().0, b"").await;
    assert_ne!(early.code(), Some(0), "no stage runs: {}", early.stdout);
    let pods = cluster.start_all().await;
    cluster.run_to_end("Pod", "-test").await;
    for pod in pods {
        pod.stop().await;
    }
}

/// A user's JWT and seed, as nsc writes them. No server knows this user.
const CREDENTIALS: &str = "-----BEGIN NATS USER JWT-----\neyJ0eXAiOiJqd3QiLCJhbGciOiJlZDI1NTE5In0\n------END NATS USER JWT------\n\n\
-----BEGIN USER NKEY SEED-----\nSUADA3WIQ3KLHLCAXZDYWB5HZZNZOVWJB6LD27MKV57CQA7MGQVKVU7JRQ\n------END USER NKEY SEED------\n";

/// The files of a volume of secrets. One of keys is empty, and has no keys.
fn write_secrets(volume: &Value, folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    match volume["secret"]["items"].as_array() {
        Some(items) => {
            for item in items {
                let path = item["path"].as_str().unwrap();
                let content = if path == "creds" { CREDENTIALS } else { "" };
                fs::write(folder.join(path), content).unwrap();
            }
        }
        // What a secret of TLS holds.
        None => {
            for file in ["ca.crt", "tls.crt", "tls.key"] {
                fs::write(folder.join(file), "").unwrap();
            }
        }
    }
}

/// TLS, credentials, a file of the stage's own: what the examples of values say is what a stage understands.
#[tokio::test]
async fn examples_of_values_make_configurations_that_the_stages_accept() {
    let Some(chart) = Chart::find() else { return };
    for example in examples() {
        let objects = documents(&chart.render("1.36", &["--values", example.to_str().unwrap()]).unwrap());
        let folder = TempDir::new().unwrap();
        for set in objects.iter().filter(|object| object["kind"] == "StatefulSet") {
            let spec = pod_spec(set).unwrap();
            let described = &spec["containers"][0];
            if described["name"] == "nats" {
                // The server that the chart brings along is no stage.
                continue;
            }
            let mut volumes = BTreeMap::new();
            for mount in described["volumeMounts"].as_array().unwrap() {
                let name = mount["name"].as_str().unwrap();
                volumes.insert(name.to_owned(), folder.path().join(name));
            }
            let secrets = spec["volumes"].as_array().into_iter().flatten();
            for volume in secrets.filter(|volume| !volume["secret"].is_null()) {
                write_secrets(volume, &volumes[volume["name"].as_str().unwrap()]);
            }
            let own = objects.iter().find(|object| {
                object["kind"] == "ConfigMap" && object["metadata"]["name"] == set["metadata"]["name"]
            });
            if let Some(config) = own {
                fs::create_dir_all(&volumes["config"]).unwrap();
                let text = config["data"]["stage.toml"].as_str().unwrap();
                fs::write(volumes["config"].join("stage.toml"), text).unwrap();
            }
            let mut container = container_of(described, &volumes, "0");
            if container.words[0] == "/usr/local/bin/gym" {
                // The reference application stands for the one of the example.
                container.words[0] = "/usr/local/bin/millstream".to_owned();
            }
            container.words.push("--check-config".to_owned());
            let ended = program::run(container.command().0, b"").await;
            assert_eq!(ended.code(), Some(0), "{}: {ended:?}", example.display());
        }
    }
}

/// As a StatefulSet's rolling update: from the highest number down, each pod ready before the next one goes.
#[tokio::test]
async fn a_rolling_restart_under_load_loses_nothing() {
    let two = STAGES.map(|stage| format!("--set=stages.{stage}.replicas=2"));
    let two: Vec<&str> = two.iter().map(String::as_str).collect();
    let Some(cluster) = Cluster::install(&two).await else { return };
    let pods = cluster.start_all().await;
    let load = Load::start(&cluster.server).await;
    let mut updated = Vec::new();
    for pod in pods.into_iter().rev() {
        let (set, number) = (pod.set.clone(), pod.number);
        pod.stop().await;
        updated.push(cluster.start(&set, number).await);
    }
    cluster.finish(load).await;
    for pod in updated {
        pod.stop().await;
    }
}
