//! The chart on a real API server, its containers as processes beside a server with the production configuration: from an install to a right
//! report, and an upgrade of every stage under load.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_nats::Client;
use end_to_end_tests::binaries::binary;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    chart::{list, text},
    control_plane::{ControlPlane, eventually},
    helm_chart::example,
    kubernetes::{CHART, WAIT},
    load::Load,
    production_server::{ProductionServer, USERS, password},
    stages_with_least_privilege::{STAGES, millstream},
};

const NAMESPACE: &str = "running";

/// Asks for a row again and again, one question after the other.
struct Questions {
    stop: Arc<AtomicBool>,
    asking: tokio::task::JoinHandle<(u64, Vec<String>)>,
}

impl Questions {
    fn ask(client: Client) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let asking = tokio::spawn(async move {
            let (mut answered, mut refused) = (0, Vec::new());
            while !stopped.load(Ordering::Relaxed) {
                let body = r#"{"key":"helm-test"}"#;
                match client.request("query.retail.product.get", body.into()).await {
                    Err(error) => refused.push(error.to_string()),
                    Ok(answer) => match answer.headers.and_then(|headers| {
                        headers.get("Nats-Service-Error").map(std::string::ToString::to_string)
                    }) {
                        Some(error) => refused.push(error),
                        None => answered += 1,
                    },
                }
            }
            (answered, refused)
        });
        Self { stop, asking }
    }

    async fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (answered, refused) = self.asking.await.unwrap();
        assert!(answered > 0 && refused.is_empty(), "{answered} answers, and {refused:?}");
    }
}

async fn make_cluster(plane: &ControlPlane) {
    plane.make_namespace(NAMESPACE).await;
    let folder = binary("millstream").parent().unwrap().to_owned();
    let folder = folder.display();
    plane.expect(&format!("kubectl annotate namespace {NAMESPACE} 'tests.millstream/programs={folder}'"));
    let entries = USERS.map(|user| format!("--from-literal={user}.password={}", password(user)));
    let entries = entries.join(" ");
    plane.expect(&format!(
        "kubectl --namespace {NAMESPACE} create secret generic millstream-nats --from-literal=gateway-keys.toml= {entries}"
    ));
}

/// By name, which process it is and how often it was started again.
fn pods(plane: &ControlPlane) -> Vec<(String, String, u64)> {
    let found = plane.get(NAMESPACE, "pods");
    let stages = list(&found["items"]).iter().filter(|pod| pod["spec"]["restartPolicy"] == "Always");
    let each = |pod: &Value| {
        let restarts = &pod["status"]["containerStatuses"][0]["restartCount"];
        let (name, uid) = (text(&pod["metadata"]["name"]), text(&pod["metadata"]["uid"]));
        (name.to_owned(), uid.to_owned(), restarts.as_u64().unwrap_or_default())
    };
    stages.map(each).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_install_leads_to_a_report_and_an_upgrade_under_load_loses_nothing_and_refuses_no_query() {
    let Some(plane) = ControlPlane::find().await else { return };
    make_cluster(&plane).await;
    let (server, folder) = (ProductionServer::start().await, TempDir::new().unwrap());
    let two = STAGES.map(|stage| format!("--set stages.{stage}.replicas=2")).join(" ");
    let values = format!(
        "--namespace {NAMESPACE} --values {} --set connection.url={} {two}",
        example("reference-application-values.yaml"),
        server.url()
    );
    plane.expect(&format!("helm install shop {CHART} {values} {WAIT}"));
    plane.expect(&format!("helm test shop --namespace {NAMESPACE} --timeout 90s"));
    let before = pods(&plane);
    assert_eq!(before.len(), 2 * STAGES.len());

    let load = Load::start(&server).await;
    let questions = Questions::ask(server.client("operator").await);
    plane.expect(&format!("helm upgrade shop {CHART} {values} --set shutdownLimitSeconds=21 {WAIT}"));
    eventually("every pod is another one, and ready", || {
        let now = pods(&plane);
        now.len() == before.len()
            && now.iter().all(|(_, uid, _)| before.iter().all(|(_, old, _)| old != uid))
            && list(&plane.get(NAMESPACE, "statefulsets")["items"])
                .iter()
                .all(|set| set["status"]["readyReplicas"] == 2 && set["status"]["updatedReplicas"] == 2)
    })
    .await;
    questions.finish().await;
    load.finish(&server, async |arguments: &[&str]| {
        millstream("operator", &server, folder.path(), arguments).await
    })
    .await;
    for (name, _, restarts) in pods(&plane) {
        assert_eq!(
            restarts,
            0,
            "{name} was started again: {}",
            plane.expect(&format!("cat pods/{NAMESPACE}_{name}_*.log"))
        );
    }

    // What comes back is the same pod on the same volume.
    plane.expect(&format!("kubectl --namespace {NAMESPACE} delete pod shop-millstream-projector-1"));
    eventually("the pod is back", || {
        let set = plane.get(NAMESPACE, "statefulset shop-millstream-projector");
        set["status"]["readyReplicas"] == 2
    })
    .await;
    let log = plane.expect(&format!("cat pods/{NAMESPACE}_shop-millstream-projector-1_projector.log"));
    assert_eq!(log.matches("\"starting\"").count(), 3, "{log}");
    plane.expect(&format!("helm uninstall shop --namespace {NAMESPACE} {WAIT}"));
    eventually("all pods have ended by themselves", || pods(&plane).is_empty()).await;
    let kubelet = plane.expect("cat pods.log");
    assert!(!kubelet.contains("is killed after its grace period"), "{kubelet}");
    let log = server.log();
    let violations: Vec<&str> = log.lines().filter(|line| line.contains("Violation")).collect();
    assert!(violations.is_empty(), "{violations:#?}");
}
