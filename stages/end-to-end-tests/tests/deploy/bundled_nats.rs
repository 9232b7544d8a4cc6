//! The NATS server that the chart brings: the official chart with the production configuration and the accounts of config/.

use std::{collections::BTreeSet, fs};

use end_to_end_tests::binaries::repository;
use serde_json::Value;

use crate::{
    chart::{containers, list, pod_spec, text},
    helm_chart::{Chart, documents, example},
};

/// Where the server's files are in its container. The accounts are what this chart adds to the official one's.
const PLACES: [&str; 4] = ["/etc/nats-config", "/var/run/nats", "/data/jetstream", "/etc/millstream"];

struct Bundled {
    objects: Vec<Value>,
}

impl Bundled {
    fn render() -> Option<Self> {
        let example = example("bundled-nats-values.yaml");
        let rendered = Chart::find()?.render("1.36", &["--values", &example]).unwrap();
        Some(Self { objects: documents(&rendered) })
    }

    fn find(&self, kind: &str, name: &str) -> &Value {
        let wanted = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
        self.objects.iter().find(wanted).unwrap_or_else(|| panic!("no {kind} {name}"))
    }

    fn pod(&self) -> &Value {
        pod_spec(self.find("StatefulSet", "shop-nats")).unwrap()
    }

    fn container(&self, name: &str) -> &Value {
        containers(self.pod()).find(|container| container["name"] == name).unwrap()
    }
}

fn paths(container: &Value) -> BTreeSet<&str> {
    list(&container["volumeMounts"]).iter().map(|mount| text(&mount["mountPath"])).collect()
}

/// A `merge` of a list takes away what the official chart has put there: the server came up without configuration and without data.
#[test]
fn the_server_has_its_own_files_and_the_accounts() {
    let Some(bundled) = Bundled::render() else { return };
    assert_eq!(paths(bundled.container("nats")), PLACES.into());
    let volumes: BTreeSet<&str> =
        list(&bundled.pod()["volumes"]).iter().map(|volume| text(&volume["name"])).collect();
    assert_eq!(volumes, ["config", "pid", "nats-accounts"].into());
    let accounts = list(&bundled.pod()["volumes"]).iter().find(|volume| volume["name"] == "nats-accounts");
    let sources = &accounts.unwrap()["projected"]["sources"];
    let shipped = text(&sources[0]["configMap"]["name"]);
    let shipped = text(&bundled.find("ConfigMap", shipped)["data"]["nats-accounts.conf"]).trim();
    let expected = fs::read_to_string(repository().join("config/nats-accounts.conf")).unwrap();
    assert_eq!(shipped, expected.trim(), "files/nats-accounts.conf leads to config/");
    assert_eq!(sources[1]["secret"]["items"][0]["key"], "nats-passwords.conf");

    let config = text(&bundled.find("ConfigMap", "shop-nats-config")["data"]["nats.conf"]);
    // Relative to /etc/nats-config, where the official chart keeps its file.
    assert!(config.contains("include ../millstream/nats-accounts.conf"), "{config}");
    assert!(config.contains("\"sync_interval\": \"always\""), "{config}");
    assert!(config.contains("\"max_buffered_msgs\": 5000"), "{config}");
}

#[test]
fn the_server_reads_changed_accounts_and_passwords_without_a_restart() {
    let Some(bundled) = Bundled::render() else { return };
    let reloader = bundled.container("reloader");
    let watched: Vec<&str> = list(&reloader["args"]).iter().map(text).collect();
    for file in ["nats-config/nats.conf", "millstream/nats-accounts.conf", "millstream/nats-passwords.conf"] {
        assert!(watched.contains(&format!("/etc/{file}").as_str()), "{file}: {watched:?}");
    }
    assert!(paths(reloader).contains("/etc/millstream"), "{reloader}");
}

/// That its pods keep to Pod Security's "restricted" is seen where all examples are (chart.rs).
#[test]
fn the_server_knows_its_limit_of_memory() {
    let Some(bundled) = Bundled::render() else { return };
    let nats = bundled.container("nats");
    let limit = text(&nats["resources"]["limits"]["memory"]).strip_suffix("Gi").unwrap();
    let limit: u64 = limit.parse::<u64>().unwrap() * 1024;
    let told = list(&nats["env"]).iter().find(|variable| variable["name"] == "GOMEMLIMIT").unwrap();
    let told: u64 = text(&told["value"]).strip_suffix("MiB").unwrap().parse().unwrap();
    assert_eq!(told, limit * 9 / 10);
}

/// A hook would wait for a server that comes after it.
#[test]
fn setup_runs_beside_the_server() {
    let Some(bundled) = Bundled::render() else { return };
    let job = bundled.objects.iter().find(|object| object["kind"] == "Job").unwrap();
    assert_eq!(job["metadata"]["annotations"], Value::Null);
}

/// With a lock file, helm fetches what it names and knows the repository only when somebody has added it.
#[test]
fn the_locked_version_is_the_one_that_is_asked_for() {
    let Some(chart) = Chart::find() else { return };
    let read = |path: &str| {
        let text = fs::read_to_string(repository().join(path)).unwrap();
        serde_yaml_ng::from_str::<Value>(&text).unwrap()
    };
    let asked = read("deploy/helm/millstream/Chart.yaml")["dependencies"][0]["version"].clone();
    assert_eq!(read("deploy/helm/millstream/Chart.lock")["dependencies"][0]["version"], asked);
    assert_eq!(read("stages/end-to-end-tests/tests/deploy/nats-chart/Chart.yaml")["version"], asked);
    let refused = chart.build_dependencies().unwrap_err();
    assert!(refused.contains("no repository definition for https://nats-io.github.io/k8s"), "{refused}");
    let documented = fs::read_to_string(repository().join("docs/deploy.md")).unwrap();
    let repository = documented.find("\nhelm repo add nats https://nats-io.github.io/k8s/helm/charts/\n");
    assert!(repository.unwrap() < documented.find("\nhelm dependency build").unwrap());
}
