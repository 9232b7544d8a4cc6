//! What single values of the chart do: names, the defaults of all pods, ports, what is added to pods, setup without hooks, doors of HTTP.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::{
    boards::{PIPELINE, board},
    chart::{SERVER, containers, list, pod_spec, text},
    helm_chart::{Chart, documents, example},
    stages_with_least_privilege::STAGES,
};

/// A revision of a StatefulSet is a label of its pods, of at most 63 characters, 11 of which are not the set's name.
const SET_NAME_MAX: usize = 52;
/// The longest that helm allows.
const LONG: &str = "a-name-of-fifty-three-characters-which-is-the-longest";

fn render(chart: &Chart, settings: &[&str]) -> Vec<Value> {
    // The last one of the same kind wins; `--set` would win over all of these.
    let server =
        [r#"connection.url="nats://nats:4222""#, r#"image.repository="registry.example/millstream""#];
    let settings: Vec<&str> =
        server.iter().chain(settings).flat_map(|setting| ["--set-json", *setting]).collect();
    documents(&chart.render("1.36", &settings).unwrap())
}

fn find<'a>(objects: &'a [Value], kind: &str, suffix: &str) -> &'a Value {
    let wanted =
        |object: &&Value| object["kind"] == kind && text(&object["metadata"]["name"]).ends_with(suffix);
    objects.iter().find(wanted).unwrap_or_else(|| panic!("no {kind} …{suffix}"))
}

/// What the API server takes as the name of a service, and of everything else.
fn is_a_name(value: &Value) -> bool {
    let name = value.as_str().unwrap_or_default();
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(letters)
        && !name.ends_with('-')
        && name.len() <= 63
}

#[test]
fn names_fit_whatever_the_release_is_called() {
    let Some(chart) = Chart::find() else { return };
    let other = format!("{}r", &LONG[..LONG.len() - 1]);
    let mut taken = BTreeSet::new();
    for release in ["123", "true", "1e5", "my.shop", "my-shop", "1shop", LONG, &other] {
        let objects = documents(&chart.render_release(release, "1.36", &SERVER).unwrap());
        for object in &objects {
            let (name, labels) =
                (&object["metadata"]["name"], object["metadata"]["labels"].as_object().unwrap());
            assert!(is_a_name(name), "{release}: {name}");
            assert!(labels.values().all(Value::is_string), "{release}: {labels:?}");
            assert!(object["metadata"]["namespace"].is_string(), "{release}: {object}");
            if object["kind"] == "StatefulSet" {
                assert!(text(name).len() <= SET_NAME_MAX, "{release}: {name}");
                assert!(taken.insert(text(name).to_owned()), "{release}: {name} is another release's");
                let account = &object["spec"]["template"]["spec"]["serviceAccountName"];
                assert_eq!(account, &find(&objects, "ServiceAccount", "")["metadata"]["name"]);
            }
        }
    }
    assert_eq!(taken.len(), 8 * STAGES.len());
}

/// What fits keeps its name: another name would be another set with other volumes.
#[test]
fn names_that_fit_stay_as_they_were() {
    let Some(chart) = Chart::find() else { return };
    let objects = documents(&chart.render("1.36", &SERVER).unwrap());
    assert_eq!(find(&objects, "StatefulSet", "-projector")["metadata"]["name"], "shop-millstream-projector");
}

#[test]
fn setup_and_the_test_get_the_defaults_of_all_pods() {
    let Some(chart) = Chart::find() else { return };
    let objects = render(
        &chart,
        &[
            r#"defaults.tolerations=[{"key":"dedicated","operator":"Exists"}]"#,
            r#"defaults.nodeSelector={"pool":"pipelines"}"#,
            r#"defaults.affinity={"nodeAffinity":{}}"#,
            r#"defaults.priorityClassName="pipelines""#,
            r#"defaults.podAnnotations={"sidecar.istio.io/inject":"false"}"#,
            r#"defaults.podLabels={"team":"shops"}"#,
            r#"defaults.resources={"limits":{"cpu":"500m"}}"#,
            r#"defaults.podTemplate={"spec":{"runtimeClassName":"gvisor"}}"#,
            r#"setup.priorityClassName="urgent""#,
        ],
    );
    for (kind, suffix, priority) in
        [("Job", "-setup", "urgent"), ("Pod", "-test", "urgent"), ("StatefulSet", "-projector", "pipelines")]
    {
        let object = find(&objects, kind, suffix);
        let spec = pod_spec(object).unwrap();
        let metadata =
            if kind == "Pod" { &object["metadata"] } else { &object["spec"]["template"]["metadata"] };
        assert_eq!(spec["tolerations"][0]["key"], "dedicated", "{kind}");
        assert_eq!(spec["nodeSelector"]["pool"], "pipelines", "{kind}");
        assert_eq!(spec["affinity"], json!({ "nodeAffinity": {} }), "{kind}");
        assert_eq!(spec["priorityClassName"], priority, "{kind}");
        assert_eq!(spec["runtimeClassName"], "gvisor", "{kind}");
        assert_eq!(metadata["annotations"]["sidecar.istio.io/inject"], "false", "{kind}");
        assert_eq!(metadata["labels"]["team"], "shops", "{kind}");
        for container in containers(spec) {
            assert_eq!(container["resources"]["limits"]["cpu"], "500m", "{kind}");
        }
    }
}

#[test]
fn what_is_added_to_pods_takes_nothing_away() {
    let Some(chart) = Chart::find() else { return };
    let objects = render(
        &chart,
        &[
            r#"defaults.extraEnv=[{"name":"HTTPS_PROXY","value":"http://proxy:3128"}]"#,
            r#"defaults.extraVolumes=[{"name":"ca","configMap":{"name":"ca"}}]"#,
            r#"defaults.extraVolumeMounts=[{"name":"ca","mountPath":"/etc/ca"}]"#,
            r#"defaults.initContainers=[{"name":"secrets","image":"vault:1","restartPolicy":"Always"}]"#,
            r#"defaults.extraContainers=[{"name":"log-shipper","image":"vector:1"}]"#,
        ],
    );
    let without = render(&chart, &[]);
    for (kind, suffix) in [("Job", "-setup"), ("Pod", "-test"), ("StatefulSet", "-projector")] {
        let (spec, plain) = (pod_spec(find(&objects, kind, suffix)), pod_spec(find(&without, kind, suffix)));
        let (spec, plain) = (spec.unwrap(), plain.unwrap());
        let names = |spec: &Value| -> Vec<String> {
            list(&spec["containers"]).iter().map(|container| text(&container["name"]).to_owned()).collect()
        };
        let beside: &[&str] = if kind == "StatefulSet" { &["log-shipper"] } else { &[] };
        let expected: Vec<String> =
            names(plain).into_iter().chain(beside.iter().map(|name| (*name).to_owned())).collect();
        assert_eq!(names(spec), expected, "{kind}");
        assert_eq!(spec["initContainers"][0]["name"], "secrets", "{kind}");
        let own = &spec["containers"][0];
        let before = &plain["containers"][0];
        for (key, added) in [("env", "HTTPS_PROXY"), ("volumeMounts", "ca")] {
            assert_eq!(list(&own[key]).len(), list(&before[key]).len() + 1, "{kind} {key}");
            assert_eq!(list(&own[key]).last().unwrap()["name"], added, "{kind}");
        }
        assert_eq!(list(&spec["volumes"]).len(), list(&plain["volumes"]).len() + 1, "{kind}");
    }
}

fn egress_ports(policy: &Value, rule: usize) -> BTreeSet<u64> {
    list(&policy["spec"]["egress"][rule]["ports"]).iter().map(|port| port["port"].as_u64().unwrap()).collect()
}

#[test]
fn policies_open_the_ports_that_are_used() {
    let Some(chart) = Chart::find() else { return };
    for (url, ports) in [
        ("nats://nats:4222", vec![4222]),
        ("nats://nats", vec![4222]),
        ("tls://a:4333,tls://b:4334", vec![4333, 4334]),
        ("ws://a,wss://b/", vec![80, 443]),
    ] {
        let objects = render(&chart, &[&format!("connection.url=\"{url}\"")]);
        let policy = find(&objects, "NetworkPolicy", "-projector");
        assert_eq!(egress_ports(policy, 0), [53, 5353].into());
        assert_eq!(egress_ports(policy, 1), ports.into_iter().collect(), "{url}");
    }
    let objects = render(
        &chart,
        &[
            "networkPolicy.natsPort=14222",
            r#"stages.projector.extraEgress=[{"ports":[{"protocol":"TCP","port":5432}]}]"#,
        ],
    );
    let policy = find(&objects, "NetworkPolicy", "-projector");
    assert_eq!(egress_ports(policy, 1), [14222].into());
    assert_eq!(egress_ports(policy, 2), [5432].into());
    assert_eq!(find(&objects, "NetworkPolicy", "-reporter")["spec"]["egress"][2], Value::Null);
}

/// What Argo CD and Flux without hooks need. A job cannot be changed, so that a changed one needs another name.
#[test]
fn without_hooks_a_changed_setup_is_another_job() {
    let Some(chart) = Chart::find() else { return };
    let job = |more: &str| {
        let objects = render(&chart, &["setup.hook=false", more]);
        let (job, policy) = (find(&objects, "Job", ""), find(&objects, "NetworkPolicy", "-setup"));
        assert_eq!(policy["metadata"]["annotations"], Value::Null, "{more}");
        assert_eq!(job["metadata"]["annotations"]["helm.sh/hook"], Value::Null, "{more}");
        job.clone()
    };
    let first = job("setup.streamReplicas=1");
    assert_eq!(first, job("setup.streamReplicas=1"));
    let second = job("setup.streamReplicas=3");
    assert_ne!(first["metadata"]["name"], second["metadata"]["name"]);
    let labelled = job(r#"defaults.podLabels={"team":"shops"}"#);
    let plain = job(r#"defaults.podLabels={}"#);
    assert_ne!(
        labelled["metadata"]["name"], plain["metadata"]["name"],
        "its labels cannot be changed either"
    );
    let annotated = job(r#"setup.annotations={"argocd.argoproj.io/sync-wave":"-1"}"#);
    assert_eq!(annotated["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"], "-1");
    assert!(is_a_name(&second["metadata"]["name"]));
}

/// The API writes 0.1Gi in thousandths. A size that the chart cannot tell would be another one at every upgrade.
#[test]
fn sizes_are_told_in_every_unit_of_kubernetes() {
    let Some(chart) = Chart::find() else { return };
    for (size, bytes) in [
        ("107374182400m", "107374182"),
        ("0.1Gi", "107374182"),
        ("2147483648000m", "2147483648"),
        ("1500", "1500"),
    ] {
        let object = format!(
            r#"extraObjects=[{{"kind":"Told","metadata":{{"name":"size"}},"bytes":"{{{{ include \"millstream.bytes\" \"{size}\" }}}}"}}]"#
        );
        assert_eq!(
            find(&render(&chart, &[&object]), "Told", "size")["bytes"].to_string().trim_matches('"'),
            bytes,
            "{size}"
        );
    }
}

#[test]
fn a_budget_never_keeps_a_pod_that_is_not_ready() {
    let Some(chart) = Chart::find() else { return };
    let values = example("bundled-nats-values.yaml");
    let objects = documents(&chart.render("1.36", &["--values", &values]).unwrap());
    let budgets: Vec<&Value> =
        objects.iter().filter(|object| object["kind"] == "PodDisruptionBudget").collect();
    assert!(budgets.len() >= 2, "of the server and of the command handler");
    for budget in budgets {
        assert_eq!(budget["spec"]["unhealthyPodEvictionPolicy"], "AlwaysAllow", "{budget}");
    }
}

#[test]
fn the_gateway_stands_behind_an_ingress_or_a_route() {
    let Some(chart) = Chart::find() else { return };
    let objects = render(
        &chart,
        &[
            "stages.gateway.enabled=true",
            r#"stages.gateway.http.ingress={"enabled":true,"className":"nginx","host":"shop.example","tlsSecretName":"shop-tls"}"#,
            r#"stages.gateway.http.route={"enabled":true,"hostnames":["shop.example"],"parentRefs":[{"name":"public"}]}"#,
        ],
    );
    let service = find(&objects, "Service", "-gateway-http");
    let ingress = &find(&objects, "Ingress", "-gateway")["spec"];
    let backend = &ingress["rules"][0]["http"]["paths"][0]["backend"]["service"];
    assert_eq!(backend["name"], service["metadata"]["name"]);
    assert_eq!(backend["port"]["name"], service["spec"]["ports"][0]["name"]);
    assert_eq!(ingress["tls"][0], json!({ "hosts": ["shop.example"], "secretName": "shop-tls" }));
    let route = &find(&objects, "HTTPRoute", "-gateway")["spec"];
    assert_eq!(route["parentRefs"][0]["name"], "public");
    let backend = &route["rules"][0]["backendRefs"][0];
    assert_eq!(
        (&backend["name"], &backend["port"]),
        (&service["metadata"]["name"], &service["spec"]["ports"][0]["port"])
    );
}

#[test]
fn the_gateway_has_the_secret_of_its_ids_only_where_one_is_named() {
    let Some(chart) = Chart::find() else { return };
    let gateway = |settings: &[&str]| {
        let objects = render(&chart, &[&["stages.gateway.enabled=true"], settings].concat());
        let pod = pod_spec(find(&objects, "StatefulSet", "-gateway")).unwrap().clone();
        let named = |list: &Value, name: &str| {
            list.as_array().unwrap().iter().find(|each| each["name"] == name).cloned()
        };
        let container = &pod["containers"][0];
        let file =
            named(&container["env"], "MILLSTREAM_GATEWAY__ID_SECRET_FILE").map(|each| each["value"].clone());
        (file, named(&container["volumeMounts"], "id"), named(&pod["volumes"], "id"))
    };
    assert_eq!(gateway(&[]), (None, None, None));
    let (file, mount, volume) = gateway(&[r#"stages.gateway.http.idSecret="millstream-nats""#]);
    assert_eq!(file, Some(json!("/etc/millstream-id/secret")));
    assert_eq!(mount, Some(json!({ "name": "id", "mountPath": "/etc/millstream-id", "readOnly": true })));
    let items = json!([{ "key": "gateway-id.secret", "path": "secret" }]);
    let secret = json!({ "name": "id", "secret": { "secretName": "millstream-nats", "items": items } });
    assert_eq!(volume, Some(secret));
}

/// Everything that the stage needs for a PostgreSQL: addresses, passwords, queries, and a way there.
#[test]
fn the_tables_may_be_in_a_postgresql_that_is_asked_as_its_reader() {
    let Some(chart) = Chart::find() else { return };
    let sql = |settings: &[&str]| {
        let objects = render(&chart, &[&["stages.sql.enabled=true"], settings].concat());
        let pod = pod_spec(find(&objects, "StatefulSet", "-sql")).unwrap().clone();
        (pod, find(&objects, "NetworkPolicy", "-sql").clone())
    };
    let set = |pod: &Value| -> BTreeMap<String, String> {
        let variables = list(&pod["containers"][0]["env"]).iter();
        let own = variables.filter(|each| text(&each["name"]).starts_with("MILLSTREAM_SQL__"));
        own.map(|each| (text(&each["name"]).replace("MILLSTREAM_SQL__", ""), text(&each["value"]).to_owned()))
            .collect()
    };
    let (pod, policy) = sql(&[]);
    assert_eq!(set(&pod).into_keys().collect::<Vec<_>>(), ["DATA_DIRECTORY"]);
    assert_eq!(policy["spec"]["egress"][2], Value::Null);
    let (pod, policy) = sql(&[
        "stages.sql.adHoc=true",
        r#"stages.sql.queries={"retail":"shop-queries"}"#,
        r#"stages.sql.postgres={"database":"postgres://m@db.internal:5433/shop?sslmode=require","readers":"postgres://r@db.internal/shop","secretName":"shop-postgres"}"#,
    ]);
    let expected = [
        ("AD_HOC", "true"),
        ("DATABASE", "postgres://m@db.internal:5433/shop?sslmode=require"),
        ("DATA_DIRECTORY", "/data"),
        ("PASSWORD_FILE", "/etc/millstream-postgres/password"),
        ("QUERIES", "/etc/millstream-queries"),
        ("READERS", "postgres://r@db.internal/shop"),
        ("READERS_PASSWORD_FILE", "/etc/millstream-postgres/readers-password"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    assert_eq!(set(&pod), expected);
    assert_eq!(egress_ports(&policy, 2), [5432, 5433].into());
    let named = |all: &Value, name: &str| {
        list(all)
            .iter()
            .find(|each| each["name"] == name)
            .unwrap_or_else(|| panic!("no {name}: {all}"))
            .clone()
    };
    let mounts = &pod["containers"][0]["volumeMounts"];
    assert_eq!(named(mounts, "queries-retail")["mountPath"], "/etc/millstream-queries/retail");
    assert_eq!(named(mounts, "postgres")["mountPath"], "/etc/millstream-postgres");
    assert_eq!(named(&pod["volumes"], "queries-retail")["configMap"], json!({ "name": "shop-queries" }));
    assert_eq!(named(&pod["volumes"], "postgres")["secret"], json!({ "secretName": "shop-postgres" }));
}

#[test]
fn images_come_from_the_registry_that_is_named() {
    let Some(chart) = Chart::find() else { return };
    for (settings, expected) in [
        (
            &[r#"image.registry="registry.example:5000""#, r#"image.repository="shops/millstream""#][..],
            "registry.example:5000/shops/millstream:",
        ),
        (
            &[r#"global={"image":{"registry":"mirror.example"}}"#, r#"image.repository="millstream""#],
            "mirror.example/millstream:",
        ),
        (&[r#"image.repository="registry.example/millstream""#], "registry.example/millstream:"),
    ] {
        let objects = render(&chart, settings);
        let images = objects
            .iter()
            .filter_map(pod_spec)
            .flat_map(containers)
            .map(|container| text(&container["image"]));
        for image in images {
            assert!(image.starts_with(expected), "{image}");
        }
    }
}

#[test]
fn the_board_that_the_chart_brings_is_the_one_of_the_repository() {
    let Some(chart) = Chart::find() else { return };
    let objects = render(
        &chart,
        &["grafanaDashboard.enabled=true", r#"grafanaDashboard.annotations={"folder":"Shop"}"#],
    );
    let found = find(&objects, "ConfigMap", "-dashboard");
    let metadata = &found["metadata"];
    assert_eq!(
        (&metadata["labels"]["grafana_dashboard"], &metadata["annotations"]["folder"]),
        (&json!("1"), &json!("Shop"))
    );
    let brought: Value = serde_json::from_str(text(&found["data"]["millstream-pipeline.json"])).unwrap();
    assert_eq!(brought, board(PIPELINE));
}
