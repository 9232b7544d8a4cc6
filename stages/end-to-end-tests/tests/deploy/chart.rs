//! The chart: every example of values renders, is valid for three minor versions of Kubernetes and keeps what a deployment
//! must keep; bad values are refused with what to do.

use std::{collections::BTreeSet, fs};

use end_to_end_tests::{binaries::repository, kubernetes_validate};
use serde_json::{Map, Value};
use tempfile::TempDir;

use crate::{
    helm_chart::{Chart, NAMESPACE, documents, example, examples},
    stages_with_least_privilege::{GATEWAY, STAGES},
};

/// Kinds of which the validator has no schema: they come with their operators.
const FOREIGN_KINDS: [&str; 3] = ["ServiceMonitor", "PrometheusRule", "ScaledObject"];
/// What has to be said.
pub(crate) const SERVER: [&str; 4] =
    ["--set", "connection.url=nats://nats:4222", "--set", "image.repository=registry.example/millstream"];
/// Seconds between a stage's own limit and the end of its pod.
const LAST_WORDS: u64 = 20;

#[test]
fn examples_of_values_render_and_are_valid_for_three_minor_versions() {
    let (Some(chart), Some(validator)) = (Chart::find(), kubernetes_validate::find_or_install()) else {
        return;
    };
    let folder = TempDir::new().unwrap();
    assert!(examples().len() >= 4);
    for version in kubernetes_validate::VERSIONS {
        let mut all = String::new();
        let mut expected = 0;
        for example in examples() {
            let arguments = ["--values", example.to_str().unwrap()];
            chart.lint(&arguments).unwrap();
            let rendered = chart.render(version, &arguments).unwrap();
            let known = |object: &Value| !FOREIGN_KINDS.contains(&object["kind"].as_str().unwrap());
            expected += documents(&rendered).iter().filter(|object| known(object)).count();
            all.push_str(&rendered);
        }
        let file = folder.path().join("manifests.yaml");
        fs::write(&file, all).unwrap();
        let said = kubernetes_validate::validate(&validator, version, &file);
        assert_eq!(said.matches(" passed for resource ").count(), expected, "{version}: {said}");
    }
}

#[test]
fn bad_values_are_refused_with_what_to_do() {
    let Some(chart) = Chart::find() else { return };
    let cases: &[(&[&str], &str)] = &[
        (&[], "set connection.url to the NATS servers"),
        (
            &["connection.url=nats://a:4222", "image.repository="],
            "set image.repository to where your image is",
        ),
        (&["connection.url=nats://a:4222", "nats.enabled=true"], "name two different servers"),
        (&["connection.url=localhost"], "/connection/url"),
        (&["nats.enabled=true", "connection.secret.kind=none"], "connection.secret.kind must be password"),
        (&["nats.enabled=true", "connection.secret.name=other"], "must be named millstream-nats"),
        (&["nats.enabled=true", "stages.projector.replicas=4"], "allow 3"),
        (&["image.tag=latest"], "/image/tag"),
        (&["image.program=/usr/local/bin/gym"], "/image/program"),
        (&["test.command={members,member,anna}"], "/test/command"),
        (&["test.query={members}"], "/test/query"),
        (&["stages.projektor.replicas=1"], "projektor"),
        (&["stages.projector.replica=1"], "replica"),
        (&["stages.projector.replicas=-1"], "replicas"),
        (&["stages.command-handler.autoscaling.enabled=true"], "autoscaling"),
        (
            &["stages.projector.autoscaling.enabled=true", "stages.projector.keda.enabled=true"],
            "would both set the number of replicas",
        ),
        (&["stages.projector.keda.enabled=true"], "stages.projector.keda.triggers is empty"),
        (
            &["stages.projector.autoscaling.enabled=true", "stages.projector.autoscaling.minReplicas=9"],
            "minReplicas is above maxReplicas",
        ),
        (&["connection.tls.clientCertificate=true"], "needs connection.tls.secretName"),
        (&["setup.streamReplicas=2"], "streamReplicas"),
        (&["setup.maxBytes.EVENTZ=1GiB"], "EVENTZ"),
        (&["setup.maxBytes.TIMERS=1GiB"], "TIMERS"),
        (&["stages.projector.persistence.size=10"], "size"),
        (&["healthPort=80"], "healthPort"),
        (&["shutdownLimitSeconds=0"], "shutdownLimitSeconds"),
        (&["conection.url=nats://a:4222"], "conection"),
        (&["fullnameOverride=my.shop"], "/fullnameOverride"),
        (&["nats.enabled=true", "nats.fullnameOverride=1nats"], "with a letter in front and no dots"),
        (&["stages.gateway.http.ingress.enabled=true"], "ingress.enabled=true needs a host"),
        (&["stages.gateway.http.route.enabled=true"], "route.enabled=true needs parentRefs"),
        (&["stages.sql.postgres.database=db.internal"], "/stages/sql/postgres/database"),
        (&["stages.sql.postgres.readers=postgres://r@db/shop"], "needs stages.sql.postgres.database"),
        (
            &["stages.sql.postgres.database=postgres://m@db/shop", "stages.sql.adHoc=true"],
            "needs stages.sql.postgres.readers",
        ),
        (
            &["stages.sql.postgres.database=postgres://m@db/shop", "stages.sql.replicas=2"],
            "one pod fills a PostgreSQL",
        ),
        (&["stages.sql.queries.Retail=shop-queries"], "invalid propertyName 'Retail'"),
    ];
    for (settings, expected) in cases {
        let names_server =
            settings.iter().any(|setting| setting.contains("url=") || setting.contains("nats.en"));
        let server: &[&str] = if names_server || settings.is_empty() { &SERVER[2..] } else { &SERVER };
        let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
        let refused = chart.render("1.36", &[server, &settings].concat());
        let words = refused.expect_err(&format!("{settings:?} is accepted"));
        assert!(words.contains(expected), "{settings:?}: {words}");
    }
}

/// Every offence of every example in one message.
#[test]
fn what_is_rendered_is_safe_and_fits_together() {
    let Some(chart) = Chart::find() else { return };
    for example in examples() {
        let rendered = chart.render("1.36", &["--values", example.to_str().unwrap()]).unwrap();
        let objects = documents(&rendered);
        let mut offences = Vec::new();
        for object in &objects {
            let name = format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"]));
            let mut all = pod_offences(object, &objects);
            all.extend(stage_offences(object, &objects));
            all.extend(selector_offences(object, &objects));
            offences.extend(all.into_iter().map(|offence| format!("{name}: {offence}")));
        }
        assert!(offences.is_empty(), "{}: {offences:#?}", example.display());
    }
}

#[test]
fn every_stage_has_its_pods_and_every_program_is_in_the_image() {
    let Some(chart) = Chart::find() else { return };
    let with_others = ["--set", "stages.gateway.enabled=true", "--set", "stages.sql.enabled=true"];
    let with_gateway = [&SERVER[..], &with_others].concat();
    let objects = documents(&chart.render("1.36", &with_gateway).unwrap());
    let programs: BTreeSet<String> = objects
        .iter()
        .filter_map(pod_spec)
        .flat_map(containers)
        .map(|container| text(&container["command"][0]).to_owned())
        .collect();
    let expected: BTreeSet<String> = STAGES
        .iter()
        .chain(&[GATEWAY, "sql", "millstream"])
        .map(|name| format!("/usr/local/bin/{name}"))
        .collect();
    assert_eq!(programs, expected);

    let dockerfile = fs::read_to_string(repository().join("deploy/Dockerfile")).unwrap();
    let installed: BTreeSet<String> = dockerfile
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("target/distribution/"))
        .map(|name| format!("/usr/local/bin/{name}"))
        .collect();
    assert_eq!(installed, expected);
    assert!(dockerfile.contains("USER 65532:65532"), "the chart runs the image as this user");
}

#[test]
fn a_program_of_ones_own_is_every_stage_and_every_command() {
    let Some(chart) = Chart::find() else { return };
    let example = example("own-application-values.yaml");
    let objects = documents(&chart.render("1.36", &["--values", &example]).unwrap());
    let mut stages = BTreeSet::new();
    for object in &objects {
        for container in pod_spec(object).into_iter().flat_map(containers) {
            let words: Vec<&str> = list(&container["command"]).iter().map(text).collect();
            assert_eq!(words[0], "/usr/local/bin/gym", "{words:?}");
            if object["kind"] == "StatefulSet" {
                assert_eq!((words[1], words.len()), ("stage", 3), "{words:?}");
                stages.insert(words[2].to_owned());
            }
        }
    }
    assert_eq!(stages, STAGES.map(str::to_owned).into());
}

/// Another command under the id of an earlier one would get that one's outcome.
#[test]
fn another_command_of_the_test_has_another_id() {
    let Some(chart) = Chart::find() else { return };
    let id = |name: &str| {
        let objects = documents(&chart.render("1.36", &["--values", &example(name)]).unwrap());
        let test = objects.iter().find(|object| object["kind"] == "Pod").unwrap();
        let send = &test["spec"]["initContainers"][0]["command"];
        assert_eq!((&send[1], &send[2]), (&"send".into(), &"--id".into()));
        text(&send[3]).to_owned()
    };
    let own = id("own-application-values.yaml");
    assert_eq!(own, id("own-application-values.yaml"), "the same command keeps its id");
    assert_ne!(own, id("reference-application-values.yaml"));
}

/// A release has one version (CONTRIBUTING.md, "a release").
#[test]
fn what_is_deployed_has_the_version_of_the_programs() {
    let version = env!("CARGO_PKG_VERSION");
    let expected = [
        ("deploy/helm/millstream/Chart.yaml", format!("\nversion: {version}\nappVersion: \"{version}\"\n")),
        ("deploy/Dockerfile", format!("\nARG VERSION={version}\n")),
        ("deploy/Dockerfile", format!(" --tag millstream:{version} ")),
        ("deploy/compose.yaml", format!("millstream:{version}}}\n")),
        ("docs/deploy.md", format!(" --tag millstream:{version} ")),
    ];
    for (file, words) in expected {
        let text = fs::read_to_string(repository().join(file)).unwrap();
        assert!(text.contains(&words), "{file} does not say {words:?}");
    }
    let changes = fs::read_to_string(repository().join("CHANGELOG.md")).unwrap();
    let newest = changes.lines().find(|line| line.starts_with("## ")).unwrap();
    assert!(newest.contains(version), "the newest release of CHANGELOG.md is {newest:?}");
}

/// Whoever deploys an application of their own never meets the reference domains.
#[test]
fn defaults_name_nothing_of_the_reference_domains() {
    let aggregates = millstream_model::aggregates();
    let mut names: BTreeSet<String> = BTreeSet::from(["retail", "sku", "tills", "stores"].map(str::to_owned));
    for aggregate in aggregates.iter() {
        names.extend([aggregate.context().to_owned(), aggregate.aggregate().to_owned()]);
    }
    // A word of the language, which every text needs.
    names.remove("order");
    let mut files = vec![repository().join("deploy")];
    let mut offences = Vec::new();
    while let Some(path) = files.pop() {
        if path.is_dir() {
            let inside = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
            files.extend(inside.filter(|path| !path.ends_with("ci") && !path.ends_with("tools")));
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let words = text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '-'));
        let found = words.filter(|word| names.contains(*word));
        offences.extend(found.map(|word| format!("{}: {word}", path.display())));
    }
    assert!(offences.is_empty(), "{offences:#?}");
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The specification of the pods that an object makes.
pub(crate) fn pod_spec(object: &Value) -> Option<&Value> {
    match text(&object["kind"]) {
        "Pod" => Some(&object["spec"]),
        "StatefulSet" | "Job" | "Deployment" => Some(&object["spec"]["template"]["spec"]),
        _ => None,
    }
}

fn pod_labels(object: &Value) -> Option<&Map<String, Value>> {
    let metadata = match text(&object["kind"]) {
        "Pod" => &object["metadata"],
        "StatefulSet" | "Job" | "Deployment" => &object["spec"]["template"]["metadata"],
        _ => return None,
    };
    metadata["labels"].as_object()
}

/// All containers, those that run before included.
pub(crate) fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    list(&spec["initContainers"]).iter().chain(list(&spec["containers"]))
}

/// What every pod must have: nothing that Pod Security's "restricted" refuses, nothing mounted that is not there.
fn pod_offences(object: &Value, objects: &[Value]) -> Vec<String> {
    let Some(spec) = pod_spec(object) else { return Vec::new() };
    let mut offences = Vec::new();
    let mut expect = |holds: bool, offence: &str| {
        if !holds {
            offences.push(offence.to_owned());
        }
    };
    expect(spec["securityContext"]["runAsNonRoot"] == true, "may run as root");
    expect(spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", "no seccomp profile");
    expect(spec["automountServiceAccountToken"] == false, "gets a token for the cluster");
    let account = spec["serviceAccountName"].as_str().unwrap_or("default");
    let is_there =
        |object: &Value| object["kind"] == "ServiceAccount" && object["metadata"]["name"] == account;
    expect(account == "default" || objects.iter().any(is_there), "its service account is not there");
    let names = |list: &Value| -> BTreeSet<String> {
        list.as_array().into_iter().flatten().map(|each| text(&each["name"]).to_owned()).collect()
    };
    let mut volumes = names(&spec["volumes"]);
    for claim in list(&object["spec"]["volumeClaimTemplates"]) {
        volumes.insert(text(&claim["metadata"]["name"]).to_owned());
    }
    for container in containers(spec) {
        let security = &container["securityContext"];
        expect(security["allowPrivilegeEscalation"] == false, "may gain privileges");
        expect(security["readOnlyRootFilesystem"] == true, "may write to its image");
        expect(security["capabilities"]["drop"][0] == "ALL", "keeps capabilities");
        expect(container["resources"]["requests"]["cpu"].is_string(), "asks for no CPU");
        expect(container["resources"]["limits"]["memory"].is_string(), "has no limit of memory");
        let image = text(&container["image"]);
        expect(image.contains(':') && !image.ends_with(":latest"), "its image is not a certain one");
        expect(names(&container["volumeMounts"]).is_subset(&volumes), "mounts what is not there");
        let secret = |variable: &Value| {
            let name = text(&variable["name"]);
            ["PASSWORD", "TOKEN", "SEED", "SECRET"].iter().any(|word| name.ends_with(word))
        };
        expect(!list(&container["env"]).iter().any(secret), "has a secret in its environment");
    }
    offences
}

/// What a stage must have: probes on a port that its policy opens, time to end, a budget where there are several.
fn stage_offences(object: &Value, objects: &[Value]) -> Vec<String> {
    if object["kind"] != "StatefulSet" || component(object) == "nats" {
        return Vec::new();
    }
    let (name, spec) = (&object["metadata"]["name"], &object["spec"]["template"]["spec"]);
    let container = &spec["containers"][0];
    let mut offences = Vec::new();
    let mut expect = |holds: bool, offence: &str| {
        if !holds {
            offences.push(offence.to_owned());
        }
    };
    let port = &container["ports"][0]["containerPort"];
    for (probe, path) in
        [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")]
    {
        let get = &container[probe]["httpGet"];
        expect(get["path"] == path && get["port"] == container["ports"][0]["name"], probe);
    }
    let variable = |name: &str| {
        let found = list(&container["env"]).iter().find(|variable| variable["name"] == name);
        found.map_or("", |variable| text(&variable["value"])).to_owned()
    };
    expect(variable("MILLSTREAM_TELEMETRY__ADDRESS") == format!("0.0.0.0:{port}"), "serves health elsewhere");
    let limit: u64 = variable("MILLSTREAM_SHUTDOWN__LIMIT").trim_end_matches('s').parse().unwrap();
    expect(spec["terminationGracePeriodSeconds"] == limit + LAST_WORDS, "is killed before its limit");
    let routed_to = list(&container["ports"]).iter().any(|port| port["name"] == "http");
    let lingers = container["lifecycle"]["preStop"]["sleep"]["seconds"].is_u64();
    expect(routed_to == lingers, "it closes while requests are routed to it, or waits for nobody");
    let named =
        |kind: &str| objects.iter().find(|each| each["kind"] == kind && each["metadata"]["name"] == *name);
    if let Some(policy) = named("NetworkPolicy") {
        expect(policy["spec"]["ingress"][0]["ports"][0]["port"] == *port, "its policy opens another port");
    }
    expect(named("Service").unwrap()["spec"]["clusterIP"] == "None", "its pods have no names");
    let scaled = named("HorizontalPodAutoscaler").or(named("ScaledObject")).is_some();
    expect(object["spec"]["replicas"].is_null() == scaled, "its replicas are set by two");
    let several = scaled || object["spec"]["replicas"].as_u64().unwrap() > 1;
    let budgets = objects.iter().any(|each| each["kind"] == "PodDisruptionBudget");
    expect(!budgets || named("PodDisruptionBudget").is_some() == several, "its disruption budget is wrong");
    expect(spec["topologySpreadConstraints"].is_array() == several, "its spread is wrong");
    let claims = list(&object["spec"]["volumeClaimTemplates"]);
    let memory = list(&spec["volumes"]).iter().any(|volume| volume["emptyDir"].is_object());
    let keeps = list(&container["volumeMounts"]).iter().any(|mount| mount["name"] == "data");
    expect(
        keeps != has_no_files(object),
        "it has a place for data where it has none, or none where it has some",
    );
    expect(claims.len() == usize::from(keeps && !memory), "its data has not one place");
    let retained = &object["spec"]["persistentVolumeClaimRetentionPolicy"];
    expect(retained["whenDeleted"] == "Retain" && retained["whenScaled"] == "Retain", "its data may go");
    offences
}

/// The gateway holds nothing.
fn has_no_files(object: &Value) -> bool {
    component(object) == GATEWAY
}

fn component(object: &Value) -> &str {
    text(&object["metadata"]["labels"]["app.kubernetes.io/component"])
}

/// Whoever selects pods selects those of exactly one object.
fn selector_offences(object: &Value, objects: &[Value]) -> Vec<String> {
    let selector = match text(&object["kind"]) {
        "Service" => &object["spec"]["selector"],
        "StatefulSet" | "PodDisruptionBudget" => &object["spec"]["selector"]["matchLabels"],
        "NetworkPolicy" => &object["spec"]["podSelector"]["matchLabels"],
        _ => return Vec::new(),
    };
    let selector = selector.as_object().unwrap();
    let selects =
        |labels: &Map<String, Value>| selector.iter().all(|(key, value)| labels.get(key) == Some(value));
    let selected = objects.iter().filter_map(pod_labels).filter(|labels| selects(labels)).count();
    let mut offences = Vec::new();
    if selected != 1 {
        offences.push(format!("selects the pods of {selected} objects"));
    }
    if object["metadata"]["namespace"] != NAMESPACE {
        offences.push("is in another namespace".to_owned());
    }
    offences
}
