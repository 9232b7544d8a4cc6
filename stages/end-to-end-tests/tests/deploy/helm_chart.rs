//! The chart as the real helm renders it. The chart is copied, and in the place of the nats chart, which is fetched from
//! elsewhere, stands one that shows with which values it was called.

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
        };
        let chart = Self { helm: helm.find_or_build()?, folder: TempDir::new().unwrap() };
        copy(&repository().join("deploy/helm/millstream"), chart.folder.path());
        let nats = chart.folder.path().join("charts/nats");
        fs::create_dir_all(nats.join("templates")).unwrap();
        fs::write(nats.join("Chart.yaml"), "apiVersion: v2\nname: nats\nversion: 1.99.0\n").unwrap();
        let shown = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: nats-chart\n  namespace: millstream\n\
                     data:\n  values: {{ toJson .Values | quote }}\n";
        fs::write(nats.join("templates/shown.yaml"), shown).unwrap();
        Some(chart)
    }

    /// What helm finds to say against the chart with these values.
    pub(crate) fn lint(&self, arguments: &[&str]) -> Result<String, String> {
        let chart = self.folder.path().to_str().unwrap();
        self.helm(&[&["lint", "--strict", chart][..], arguments].concat())
    }

    /// All manifests for a minor version of Kubernetes, or helm's words.
    pub(crate) fn render(&self, kubernetes: &str, arguments: &[&str]) -> Result<String, String> {
        let (chart, version) = (self.folder.path().to_str().unwrap(), format!("{kubernetes}.0"));
        let fixed = ["template", RELEASE, chart, "--namespace", NAMESPACE, "--kube-version", &version];
        self.helm(&[&fixed[..], arguments].concat())
    }

    fn helm(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new(&self.helm).args(arguments).output().unwrap();
        let [said, complaints] =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        if output.status.success() { Ok(said) } else { Err(format!("{said}{complaints}")) }
    }
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
