//! The chart as the real helm renders it. The chart is copied. The nats chart in it is the official one where
//! `helm dependency build` has fetched it, and otherwise a stand-in (`nats-chart/`) that makes the same objects of the same values.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use end_to_end_tests::{binaries::repository, go_tool::GoTool};
use serde::Deserialize as _;
use serde_json::Value;
use tempfile::TempDir;

/// The name of the release in all tests.
pub(crate) const RELEASE: &str = "shop";
/// The namespace that is rendered for.
pub(crate) const NAMESPACE: &str = "millstream";

/// A copy of the chart, and helm.
pub(crate) struct Chart {
    helm: PathBuf,
    folder: TempDir,
}

impl Chart {
    /// None on a machine without Go, which builds helm.
    pub(crate) fn find() -> Option<Self> {
        let helm = GoTool {
            name: "helm",
            built: "helm",
            folder: "deploy/tools",
            module: "helm.sh/helm/v3",
            package: "helm.sh/helm/v3/cmd/helm",
            linked_with: "",
        };
        let chart = Self { helm: helm.find_or_build()?, folder: TempDir::new().unwrap() };
        copy(&repository().join("deploy/helm/millstream"), chart.folder.path());
        if !chart.has_official_nats() {
            let stand_in = repository().join("stages/end-to-end-tests/tests/deploy/nats-chart");
            copy(&stand_in, &chart.folder.path().join("charts/nats"));
        }
        Some(chart)
    }

    /// Whether `helm dependency build` was called in the repository, which needs more of the network than registries of packages.
    pub(crate) fn has_official_nats(&self) -> bool {
        let Ok(entries) = fs::read_dir(self.folder.path().join("charts")) else { return false };
        entries.map(|entry| entry.unwrap().file_name()).any(|name| name.to_string_lossy().ends_with(".tgz"))
    }

    /// `helm dependency build` of the chart without its dependencies, on a machine that knows no repository.
    pub(crate) fn build_dependencies(&self) -> Result<String, String> {
        let (charts, home) = (self.folder.path().join("charts"), TempDir::new().unwrap());
        fs::remove_dir_all(charts).unwrap();
        let chart = self.folder.path().to_str().unwrap();
        let mut helm = Command::new(&self.helm);
        helm.args(["dependency", "build", chart]).env("HELM_CONFIG_HOME", home.path());
        said(helm.env("HELM_CACHE_HOME", home.path()))
    }

    /// What helm finds to say against the chart with these values.
    pub(crate) fn lint(&self, arguments: &[&str]) -> Result<String, String> {
        let chart = self.folder.path().to_str().unwrap();
        self.helm(&[&["lint", "--strict", chart][..], arguments].concat())
    }

    /// All manifests for a minor version of Kubernetes, or helm's words.
    pub(crate) fn render(&self, kubernetes: &str, arguments: &[&str]) -> Result<String, String> {
        self.render_release(RELEASE, kubernetes, arguments)
    }

    /// The same of a release of another name.
    pub(crate) fn render_release(
        &self,
        release: &str,
        kubernetes: &str,
        arguments: &[&str],
    ) -> Result<String, String> {
        let (chart, version) = (self.folder.path().to_str().unwrap(), format!("{kubernetes}.0"));
        let fixed = ["template", release, chart, "--namespace", NAMESPACE, "--kube-version", &version];
        self.helm(&[&fixed[..], arguments].concat())
    }

    /// Where the chart is, and helm.
    pub(crate) fn paths(&self) -> (&Path, &Path) {
        (self.folder.path(), &self.helm)
    }

    fn helm(&self, arguments: &[&str]) -> Result<String, String> {
        said(Command::new(&self.helm).args(arguments))
    }
}

fn said(command: &mut Command) -> Result<String, String> {
    let output = command.output().unwrap();
    let [said, complaints] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    if output.status.success() { Ok(said) } else { Err(format!("{said}{complaints}")) }
}

/// The files of ci/, by path.
pub(crate) fn examples() -> Vec<PathBuf> {
    let folder = repository().join("deploy/helm/millstream/ci");
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// One file of ci/.
pub(crate) fn example(name: &str) -> String {
    let path = repository().join("deploy/helm/millstream/ci").join(name);
    path.to_str().unwrap().to_owned()
}

/// The documents of a YAML text, empty ones left out.
pub(crate) fn documents(text: &str) -> Vec<Value> {
    serde_yaml_ng::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).unwrap())
        .filter(|document| !document.is_null())
        .collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, target).unwrap();
        }
    }
}
