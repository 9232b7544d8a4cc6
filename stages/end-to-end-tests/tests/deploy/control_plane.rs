//! A control plane of Kubernetes: etcd, kube-apiserver, kube-controller-manager, kubectl and helm, on this machine alone. In the place of
//! scheduler and kubelets stands a program that binds pods, says that they run, and provides volumes. Where a namespace asks for it, it runs
//! their containers as processes.
//!
//! To build it takes some minutes, so tests use it where it is: `.ci/run kubernetes` builds it and runs them. Elsewhere they say that
//! they are skipped.

use std::{
    fs::{self, File},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex, Weak},
};

use end_to_end_tests::{
    go_tool::GoTool,
    program::announce_skip,
    waiting::{PATIENCE, until},
};
use millstream_jetstream::nats_server::free_port;
use serde_json::Value;
use tempfile::TempDir;

use crate::helm_chart::Chart;

const PROGRAM: GoTool = GoTool {
    name: "control-plane",
    built: "control-plane",
    folder: "stages/end-to-end-tests/control-plane",
    module: "k8s.io/kubernetes",
    package: ".",
    linked_with: "-s -w -X k8s.io/component-base/version.gitVersion=v{version} \
                  -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=34",
};
/// Nodes say nothing here, so that nobody may take them for dead; nobody measures pods.
const CONTROLLERS: &str = "*,-node-lifecycle-controller,-horizontal-pod-autoscaler-controller";
/// What a cluster has: a class of volumes that grow, a priority, and the kinds of operators that the chart makes objects for.
const CLUSTER: &str = include_str!("cluster.yaml");

/// The one of all tests that run at the same time.
static SHARED: Mutex<Weak<ControlPlane>> = Mutex::new(Weak::new());

pub(crate) struct ControlPlane {
    processes: Vec<Child>,
    folder: TempDir,
    chart: Chart,
}

impl ControlPlane {
    /// None where it is not built.
    pub(crate) async fn find() -> Option<Arc<Self>> {
        if !PROGRAM.path().is_file() && std::env::var_os("MILLSTREAM_CONTROL_PLANE").is_none() {
            announce_skip("a control plane of Kubernetes is not built here; `.ci/run kubernetes` builds it");
            return None;
        }
        let program = PROGRAM.find_or_build()?;
        let chart = Chart::find()?;
        // Whoever comes second waits until the first has started it.
        tokio::task::spawn_blocking(move || {
            let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let running = shared.upgrade().unwrap_or_else(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                Arc::new(runtime.block_on(Self::start(&program, chart)))
            });
            *shared = Arc::downgrade(&running);
            Some(running)
        })
        .await
        .unwrap()
    }

    async fn start(program: &Path, chart: Chart) -> Self {
        let folder = TempDir::new().unwrap();
        let home = folder.path().to_owned();
        let mut plane = Self { processes: Vec::new(), folder, chart };
        let at = |name: &str| home.join(name).to_str().unwrap().to_owned();
        let (key, tokens, certificates) = (at("key.pem"), at("tokens.csv"), at("certificates"));
        let (kubeconfig, store) = (at("kubeconfig"), at("etcd"));
        let [clients, peers] = [(); 2].map(|()| format!("http://127.0.0.1:{}", free_port().unwrap()));
        let port = free_port().unwrap().to_string();
        fs::write(&tokens, "secret,administrator,administrator,\"system:masters\"\n").unwrap();
        fs::write(&kubeconfig, KUBECONFIG.replace("{port}", &port)).unwrap();
        plane.write_programs(program);
        assert!(Command::new(program).args(["key", &key]).status().unwrap().success());

        plane.spawn(program, &["etcd", &store, &clients, &peers]);
        let server = [
            ["--etcd-servers", &clients],
            ["--secure-port", &port],
            ["--bind-address", "127.0.0.1"],
            ["--advertise-address", "127.0.0.1"],
            ["--cert-dir", &certificates],
            ["--token-auth-file", &tokens],
            ["--authorization-mode", "RBAC"],
            ["--service-cluster-ip-range", "10.0.0.0/16"],
            ["--service-account-issuer", "https://tests.invalid"],
            ["--service-account-key-file", &key],
            ["--service-account-signing-key-file", &key],
            ["--endpoint-reconciler-type", "none"],
        ];
        plane.spawn(program, &[&["kube-apiserver"][..], server.as_flattened()].concat());
        until("the API server is ready", async || plane.type_in("kubectl get --raw /readyz").ok()).await;
        let controllers = [
            ["--kubeconfig", &kubeconfig],
            ["--leader-elect", "false"],
            ["--secure-port", "0"],
            ["--service-account-private-key-file", &key],
            ["--controllers", CONTROLLERS],
        ];
        let controllers: Vec<String> =
            controllers.iter().map(|[flag, value]| format!("{flag}={value}")).collect();
        let controllers: Vec<&str> = controllers.iter().map(String::as_str).collect();
        plane.spawn(program, &[&["kube-controller-manager"][..], &controllers].concat());
        fs::create_dir(at("pods")).unwrap();
        plane.spawn(program, &["pods", &kubeconfig, &at("pods")]);
        fs::write(at("cluster.yaml"), CLUSTER).unwrap();
        until("kinds and classes are known", async || {
            plane.type_in("kubectl apply --filename cluster.yaml").ok()
        })
        .await;
        until("the namespace default has its account", async || {
            plane.type_in("kubectl --namespace default get serviceaccount default").ok()
        })
        .await;
        plane
    }

    /// `kubectl` and `helm` for what is typed, and the chart where a checkout has it.
    fn write_programs(&self, program: &Path) {
        let (chart, helm) = self.chart.paths();
        let (bin, deploy) = (self.folder.path().join("bin"), self.folder.path().join("deploy/helm"));
        fs::create_dir_all(&bin).unwrap();
        fs::create_dir_all(&deploy).unwrap();
        symlink(chart, deploy.join("millstream")).unwrap();
        symlink(helm, bin.join("helm")).unwrap();
        let kubectl = bin.join("kubectl");
        fs::write(&kubectl, format!("#!/bin/sh\nexec '{}' kubectl \"$@\"\n", program.display())).unwrap();
        fs::set_permissions(&kubectl, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Starts a part, which ends when its standard input does.
    fn spawn(&mut self, program: &Path, arguments: &[&str]) {
        let log = File::create(self.folder.path().join(format!("{}.log", arguments[0]))).unwrap();
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        self.processes.push(command.spawn().unwrap());
    }

    fn bash(&self, line: &str) -> Output {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let own = [self.folder.path().join("bin")];
        let path = std::env::join_paths(own.into_iter().chain(std::env::split_paths(&path))).unwrap();
        let home = self.folder.path();
        Command::new("bash")
            .args(["-o", "pipefail", "-c", line])
            .env("PATH", path)
            .env("KUBECONFIG", home.join("kubeconfig"))
            .envs(["HELM_CONFIG_HOME", "HELM_CACHE_HOME", "HELM_DATA_HOME"].map(|name| (name, home)))
            .current_dir(home)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Types a line into a shell: what it printed, or what it said when it failed.
    pub(crate) fn type_in(&self, line: &str) -> Result<String, String> {
        let output = self.bash(line);
        let [said, complaints] =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        if output.status.success() { Ok(said) } else { Err(format!("{said}{complaints}")) }
    }

    /// The same, where it has to succeed.
    pub(crate) fn expect(&self, line: &str) -> String {
        self.type_in(line).unwrap_or_else(|said| panic!("{line}: {said}"))
    }

    /// What `kubectl get` finds.
    pub(crate) fn get(&self, namespace: &str, what: &str) -> Value {
        let found = self.expect(&format!("kubectl --namespace {namespace} get {what} --output json"));
        serde_json::from_str(&found).unwrap()
    }

    /// Makes a namespace that takes nothing but what Pod Security calls "restricted".
    pub(crate) async fn make_namespace(&self, name: &str) {
        self.expect(&format!("kubectl create namespace {name}"));
        self.expect(&format!("kubectl label namespace {name} pod-security.kubernetes.io/enforce=restricted"));
        until("the namespace has its account", async || {
            self.type_in(&format!("kubectl --namespace {name} get serviceaccount default")).ok()
        })
        .await;
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            // One that has ended already is none to be ended.
            let _gone = process.kill();
            let _status = process.wait();
        }
    }
}

/// Waits until `probe` holds.
pub(crate) async fn eventually(what: &str, probe: impl Fn() -> bool) {
    end_to_end_tests::waiting::until_within(PATIENCE, what, async || probe().then_some(())).await;
}

const KUBECONFIG: &str = "\
apiVersion: v1
kind: Config
clusters: [{ name: tests, cluster: { server: 'https://127.0.0.1:{port}', insecure-skip-tls-verify: true } }]
users: [{ name: administrator, user: { token: secret } }]
contexts: [{ name: tests, context: { cluster: tests, user: administrator } }]
current-context: tests
";
