//! The chart on a real API server: installed, tested, upgraded, rolled back, drained, restricted, with quotas, removed and installed again.

use std::fs;

use end_to_end_tests::binaries::repository;
use serde_json::Value;

use crate::{
    chart::{list, text},
    control_plane::{ControlPlane, eventually},
    helm_chart::example,
};

pub(crate) const CHART: &str = "deploy/helm/millstream";
/// What has to be said.
const SERVER: &str =
    "--set connection.url=nats://nats.messaging:4222 --set image.repository=registry.example/millstream";
pub(crate) const WAIT: &str = "--wait --timeout 90s";
/// The longest name of a release.
const LONG: &str = "a-name-of-fifty-three-characters-which-is-the-longest";

impl ControlPlane {
    fn install(&self, release: &str, namespace: &str, values: &str) {
        self.expect(&format!("helm install {release} {CHART} --namespace {namespace} {values} {WAIT}"));
    }

    fn upgrade(&self, release: &str, namespace: &str, values: &str) {
        self.expect(&format!("helm upgrade {release} {CHART} --namespace {namespace} {values} {WAIT}"));
    }

    /// Claims by name, with what tells one from another of the same name.
    fn claims(&self, namespace: &str) -> Vec<(String, String)> {
        let found = self.get(namespace, "persistentvolumeclaims");
        let each = |claim: &Value| {
            (text(&claim["metadata"]["name"]).to_owned(), text(&claim["metadata"]["uid"]).to_owned())
        };
        list(&found["items"]).iter().map(each).collect()
    }

    fn replicas(&self, namespace: &str, set: &str) -> (u64, u64) {
        let found = self.get(namespace, &format!("statefulset {set}"));
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        (number(&found["spec"]["replicas"]), number(&found["status"]["readyReplicas"]))
    }
}

/// The lines of a block of shell below a heading of docs/deploy.md.
fn documented(heading: &str) -> Vec<String> {
    let text = fs::read_to_string(repository().join("docs/deploy.md")).unwrap();
    let (_, section) = text.split_once(&format!("# {heading}\n")).expect("the heading is there");
    let section = section.split("\n## ").next().unwrap();
    let (_, block) = section.split_once("```sh\n").expect("it has lines to type");
    let (block, _) = block.split_once("```").unwrap();
    block.replace("\\\n", " ").lines().map(str::to_owned).collect()
}

async fn lives(values: &str, namespace: &str) {
    let Some(plane) = ControlPlane::find().await else { return };
    plane.make_namespace(namespace).await;
    let values = format!("--values {}", example(values));
    plane.install("shop", namespace, &values);
    plane.expect(&format!("helm test shop --namespace {namespace} --timeout 90s"));
    plane.upgrade("shop", namespace, &format!("{values} --set shutdownLimitSeconds=31"));
    plane.upgrade(
        "shop",
        namespace,
        &format!("{values} --set stages.projector.replicas=3 --set setup.streamReplicas=3"),
    );
    plane.expect(&format!("helm rollback shop 1 --namespace {namespace} {WAIT}"));
    let claims = plane.claims(namespace);
    assert!(!claims.is_empty());
    plane.expect(&format!("helm uninstall shop --namespace {namespace} {WAIT}"));
    eventually("all pods are gone", || {
        list(&plane.get(namespace, "pods")["items"])
            .iter()
            .all(|pod| pod["spec"]["restartPolicy"] != "Always")
    })
    .await;
    assert_eq!(plane.claims(namespace), claims, "an uninstall keeps what is stored");
    plane.install("shop", namespace, &values);
    assert_eq!(plane.claims(namespace), claims, "the same volumes serve again");
}

#[tokio::test]
async fn with_a_server_of_its_own_it_is_installed_changed_and_installed_again() {
    lives("bundled-nats-values.yaml", "bundled").await;
}

#[tokio::test]
async fn with_servers_that_are_there_it_is_installed_changed_and_installed_again() {
    lives("existing-server-values.yaml", "existing").await;
}

#[tokio::test]
async fn as_in_production_it_is_installed_changed_and_installed_again() {
    lives("production-values.yaml", "production").await;
}

/// A set whose name is too long is taken, and never gets a pod.
#[tokio::test]
async fn every_stage_starts_whatever_the_release_is_called() {
    let Some(plane) = ControlPlane::find().await else { return };
    for (number, release) in ["123", "true", "my.shop", LONG].into_iter().enumerate() {
        let namespace = format!("named-{number}");
        plane.make_namespace(&namespace).await;
        plane.install(release, &namespace, SERVER);
        let sets = plane.get(&namespace, "statefulsets");
        assert_eq!(list(&sets["items"]).len(), 4, "{release}");
        for set in list(&sets["items"]) {
            assert_eq!(set["status"]["readyReplicas"], set["spec"]["replicas"], "{release}");
        }
    }
    // Another release of nearly the same name is another one.
    plane.install(&format!("{}r", &LONG[..LONG.len() - 1]), "named-3", SERVER);
    assert_eq!(list(&plane.get("named-3", "statefulsets")["items"]).len(), 8);
}

/// Without NATS no stage is ready.
#[tokio::test]
async fn a_node_is_drained_while_no_stage_is_ready() {
    let Some(plane) = ControlPlane::find().await else { return };
    plane.make_namespace("drained").await;
    plane.install("drained", "drained", SERVER);
    let set = "drained-millstream-command-handler";
    assert_eq!(plane.replicas("drained", set), (2, 2));
    plane.expect("kubectl annotate namespace drained tests.millstream/unready=true");
    eventually("no pod is ready", || plane.replicas("drained", set) == (2, 0)).await;
    plane.expect(
        "kubectl drain node --pod-selector app.kubernetes.io/instance=drained --force --ignore-daemonsets \
         --delete-emptydir-data --timeout 60s",
    );
    plane.expect("kubectl uncordon node");
}

/// The pods of setup and of the test are bounded by what bounds the stages.
#[tokio::test]
async fn a_quota_that_counts_processors_admits_every_pod_whose_defaults_bound_them() {
    let Some(plane) = ControlPlane::find().await else { return };
    plane.make_namespace("bounded").await;
    plane.expect("kubectl --namespace bounded create quota all --hard limits.cpu=20,limits.memory=40Gi,requests.cpu=20");
    plane.install("shop", "bounded", &format!("{SERVER} --set defaults.resources.limits.cpu=500m"));
    plane.expect("helm test shop --namespace bounded --timeout 90s");
}

/// A manifest without the field would give the set one replica, until somebody measures that there should be more.
#[tokio::test]
async fn autoscaling_that_is_switched_on_keeps_the_replicas_that_are_there() {
    let Some(plane) = ControlPlane::find().await else { return };
    plane.make_namespace("scaled").await;
    let three = format!("{SERVER} --set stages.projector.replicas=3");
    plane.install("shop", "scaled", &three);
    plane.upgrade("shop", "scaled", &format!("{three} --set stages.projector.autoscaling.enabled=true"));
    assert_eq!(plane.replicas("scaled", "shop-millstream-projector"), (3, 3));
    // What the autoscaler has set meanwhile stays, too.
    plane.expect("kubectl --namespace scaled scale statefulset shop-millstream-projector --replicas 2");
    plane.upgrade("shop", "scaled", &format!("{three} --set stages.projector.autoscaling.enabled=true"));
    assert_eq!(plane.replicas("scaled", "shop-millstream-projector").0, 2);
}

#[tokio::test]
async fn volumes_grow_as_the_documentation_says() {
    let Some(plane) = ControlPlane::find().await else { return };
    plane.make_namespace("shop").await;
    plane.install("shop", "shop", &format!("{SERVER} --set stages.projector.replicas=2"));
    let pods = || {
        let found = plane.get("shop", "pods --selector app.kubernetes.io/component=projector");
        let uids = list(&found["items"]).iter().map(|pod| text(&pod["metadata"]["uid"]).to_owned());
        uids.collect::<Vec<_>>()
    };
    let (before, claims) = (pods(), plane.claims("shop"));
    let lines = documented("Growing a volume");
    let upgrade = lines.last().unwrap();
    let refused = plane.type_in(upgrade).unwrap_err();
    assert!(refused.contains("Growing a volume") && refused.contains("10Gi"), "{refused}");
    // Nothing has happened yet: the size from before can be upgraded with.
    plane.expect(&format!("helm upgrade shop {CHART} --namespace shop --reuse-values {WAIT}"));
    for line in &lines {
        plane.expect(line);
    }
    let set = plane.get("shop", "statefulset shop-millstream-projector");
    let size = &set["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"];
    assert_eq!(size, "20Gi");
    for number in 0..2 {
        let claim =
            plane.get("shop", &format!("persistentvolumeclaim data-shop-millstream-projector-{number}"));
        assert_eq!(claim["spec"]["resources"]["requests"]["storage"], "20Gi");
    }
    assert_eq!(plane.claims("shop"), claims);
    eventually("the new set has its pods", || plane.replicas("shop", "shop-millstream-projector") == (2, 2))
        .await;
    assert_eq!(pods(), before, "no pod was restarted");
}

/// As Argo CD and Flux apply what they have rendered: again and again, without hooks.
#[tokio::test]
async fn what_is_rendered_without_hooks_can_be_applied_again_with_another_setup() {
    let Some(plane) = ControlPlane::find().await else { return };
    for (namespace, server) in [
        ("applied", "--set setup.hook=false --set connection.url=nats://nats.messaging:4222"),
        ("applied-nats", "--set nats.enabled=true"),
    ] {
        plane.make_namespace(namespace).await;
        for replicas in [1, 1, 3] {
            plane.expect(&format!(
                "helm template shop {CHART} --kube-version 1.34.0 --namespace {namespace} --set image.repository=registry.example/millstream {server} \
                 --set setup.streamReplicas={replicas} --no-hooks | kubectl apply --namespace {namespace} --filename -"
            ));
        }
        let jobs = plane.get(namespace, "jobs");
        assert_eq!(list(&jobs["items"]).len(), 2, "one for each setup: {jobs}");
    }
}

/// Setup comes before the stages, so that a release whose streams cannot be made is none.
#[tokio::test]
async fn a_setup_that_fails_stops_the_upgrade_before_anything_is_changed() {
    let Some(plane) = ControlPlane::find().await else { return };
    plane.make_namespace("refused").await;
    plane.install("shop", "refused", SERVER);
    let before = plane.get("refused", "statefulset shop-millstream-projector")["spec"].clone();
    plane.expect("kubectl annotate namespace refused tests.millstream/failing=true");
    let refused = plane.type_in(&format!(
        "helm upgrade shop {CHART} --namespace refused {SERVER} --set shutdownLimitSeconds=31 --timeout 15s"
    ));
    assert!(refused.unwrap_err().contains("pre-upgrade hooks failed"));
    assert_eq!(plane.get("refused", "statefulset shop-millstream-projector")["spec"], before);
}
