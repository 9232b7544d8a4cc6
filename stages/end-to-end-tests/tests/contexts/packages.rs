//! What a registry would get: the packages of every crate that is published, made without a warning and unpacked. An application of
//! one's own is built of nothing else (own_app.rs), so a file that a package lacks fails there.
//!
//! Deliberately absent: uploading. CONTRIBUTING.md says how a release is published.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use cargo_metadata::{DependencyKind, MetadataCommand, Package};
use end_to_end_tests::{
    binaries::{cargo, repository, target_folder},
    system::fresh_folder,
};

use super::own_context::run;

/// Below the folder into which cargo builds. It stays, and only what changes is written: what is built of it is not built again.
const UNPACKED: &str = "unpacked-packages";

/// Every package of the workspace.
fn workspace() -> Vec<Package> {
    let metadata = MetadataCommand::new()
        .manifest_path(repository().join("Cargo.toml"))
        .no_deps()
        .other_options(["--offline".to_owned()])
        .exec()
        .unwrap();
    metadata.packages
}

/// An empty list of registries is how `publish = false` reads.
fn is_published(package: &Package) -> bool {
    package.publish.as_ref().is_none_or(|registries| !registries.is_empty())
}

/// Where the packages of this checkout are unpacked, by crate. They are made once for all tests of this process.
pub(super) fn unpacked() -> &'static BTreeMap<String, PathBuf> {
    static CRATES: OnceLock<BTreeMap<String, PathBuf>> = OnceLock::new();
    CRATES.get_or_init(unpack)
}

fn unpack() -> BTreeMap<String, PathBuf> {
    let (published, kept): (Vec<Package>, Vec<Package>) = workspace().into_iter().partition(is_published);
    // The state of the working copy is what is tested; what is compiled is seen by who depends on it.
    let mut package = cargo(&["package", "--offline", "--workspace", "--no-verify", "--allow-dirty"]);
    for name in kept {
        package.args(["--exclude", &name.name]);
    }
    let output = package.env("CARGO_TERM_COLOR", "never").current_dir(repository()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("warning"), "{said}");

    let folder = fresh_folder();
    let place = target_folder().join(UNPACKED);
    let mut crates = BTreeMap::new();
    for package in published {
        let name = format!("{}-{}", package.name, package.version);
        let file = target_folder().join(format!("package/{name}.crate"));
        let mut tar = Command::new("tar");
        tar.arg("-xzf").arg(&file).arg("-C").arg(folder.path());
        run(tar, folder.path());
        update(&folder.path().join(&name), &place.join(&name));
        crates.insert(package.name.to_string(), place.join(&name));
    }
    crates
}

/// Makes `to` equal to `from`, and leaves alone what is equal.
fn update(from: &Path, to: &Path) {
    let names = |folder: &Path| -> BTreeSet<PathBuf> {
        let entries = fs::read_dir(folder).into_iter().flatten();
        entries.map(|entry| PathBuf::from(entry.unwrap().file_name())).collect()
    };
    fs::create_dir_all(to).unwrap();
    for gone in names(to).difference(&names(from)) {
        let path = to.join(gone);
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }
    for name in names(from) {
        let (from, to) = (from.join(&name), to.join(&name));
        if from.is_dir() {
            update(&from, &to);
        } else if fs::read(&to).ok() != Some(fs::read(&from).unwrap()) {
            fs::write(&to, fs::read(&from).unwrap()).unwrap();
        }
    }
}

/// The section of a workspace's `Cargo.toml` that takes these crates in place of a registry's.
pub(super) fn patch(crates: &BTreeMap<String, PathBuf>) -> String {
    let lines = crates.iter().map(|(name, folder)| format!("{name} = {{ path = {folder:?} }}\n"));
    format!("\n[patch.crates-io]\n{}", lines.collect::<String>())
}

#[test]
fn published_crates_share_one_version_and_need_no_unpublished_crate() {
    let packages = workspace();
    let published: BTreeSet<&str> = packages
        .iter()
        .filter(|package| is_published(package))
        .map(|package| package.name.as_str())
        .collect();
    assert!(published.contains("millstream") && !published.contains("millstream-model"), "{published:?}");
    let mut offences = Vec::new();
    for package in packages.iter().filter(|package| is_published(package)) {
        if package.version.to_string() != env!("CARGO_PKG_VERSION") {
            offences.push(format!("{} has the version {}", package.name, package.version));
        }
        let own = package.dependencies.iter().filter(|dependency| dependency.path.is_some());
        for dependency in own.filter(|dependency| dependency.kind != DependencyKind::Development) {
            if !published.contains(dependency.name.as_str()) {
                offences.push(format!("{} needs {}", package.name, dependency.name));
            }
            // `^0.1.0` would let the crates of two releases meet after a version was raised in one place alone.
            if dependency.req.to_string() != format!("^{}", env!("CARGO_PKG_VERSION")) {
                offences.push(format!("{} needs {} {}", package.name, dependency.name, dependency.req));
            }
        }
        let development = package.dependencies.iter().filter(|it| it.kind == DependencyKind::Development);
        for dependency in development.filter(|it| it.path.is_some() && it.req.to_string() != "*") {
            let name = &dependency.name;
            offences.push(format!("{} names a version of {name}, which only its tests need", package.name));
        }
    }
    assert!(offences.is_empty(), "{offences:#?}");
}
