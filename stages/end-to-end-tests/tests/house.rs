//! The rules of the house that no compiler checks: who may depend on whom, what is pure, how files look, that links in the
//! documentation lead somewhere. Each failure lists every offence, so that one run tells all.
//!
//! Deliberately absent: whether configuration files load is shown by the programs that load them (tests/system/configuration.rs).

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use cargo_metadata::{DependencyKind, MetadataCommand, Package};
use end_to_end_tests::binaries::repository;

/// Longest file, tests aside.
const FILE_LINES_MAX: usize = 500;
/// What the model may be built with. A new edge needs an ADR.
const MODEL_DEPENDENCIES: [&str; 6] = ["blake3", "jiff", "millstream", "serde", "serde_json", "thiserror"];
/// What the values may be built with. A new edge needs an ADR.
const VALUES_DEPENDENCIES: [&str; 12] = [
    "blake3",
    "csv",
    "icu_casemap",
    "icu_normalizer",
    "icu_properties",
    "iso_currency",
    "jiff",
    "millstream-contract",
    "millstream-domain",
    "serde",
    "serde_json",
    "thiserror",
];
/// Words that give away that code is not pure: waiting, clocks, chance, files, the network, the server, the store.
const IMPURE: [&str; 12] = [
    "async",
    "await",
    "tokio",
    "futures",
    "async_nats",
    "redb",
    "rand",
    "SystemTime",
    "Instant",
    "env",
    "fs",
    "net",
];
/// The packages of the stages. They have neither the server's client nor the store in their own hands.
const STAGES: [&str; 6] = [
    "millstream-command-handler",
    "millstream-projector",
    "millstream-reporter",
    "millstream-process-manager",
    "millstream-gateway",
    "millstream-sql-stage",
];
/// What an application's rules are built with through the facade without its default features.
const FACADE_DEPENDENCIES: [&str; 7] = [
    "jiff",
    "millstream-contract",
    "millstream-domain",
    "millstream-values",
    "rmp-serde",
    "serde",
    "serde_json",
];

/// Every file of the repository: what version control would hold, as far as names tell.
fn files() -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("the repository can be read") {
            let path = entry.expect("the repository can be read").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let hidden = name.starts_with('.') && ![".ci", ".cargo"].contains(&name.as_str());
            if hidden || name == "target" {
                continue;
            }
            if path.is_dir() {
                walk(&path, found);
            } else {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(repository(), &mut found);
    found.sort();
    found
}

fn with_extension(extension: &str) -> Vec<PathBuf> {
    files().into_iter().filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn relative(path: &Path) -> String {
    path.strip_prefix(repository()).unwrap_or(path).display().to_string()
}

#[track_caller]
fn expect_none(rule: &str, offences: &[String]) {
    assert!(offences.is_empty(), "{rule}:\n{}", offences.join("\n"));
}

/// The packages of the workspace by name, with the folder each stands in.
fn packages() -> BTreeMap<String, (String, Package)> {
    let metadata = MetadataCommand::new()
        .manifest_path(repository().join("Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo describes the workspace");
    metadata
        .packages
        .into_iter()
        .map(|package| {
            let folder = relative(package.manifest_path.as_std_path().parent().expect("it is in a folder"));
            (package.name.to_string(), (folder, package))
        })
        .collect()
}

fn dependencies(package: &Package, with_tests: bool) -> BTreeSet<String> {
    package
        .dependencies
        .iter()
        .filter(|dependency| with_tests || dependency.kind == DependencyKind::Normal)
        .map(|dependency| dependency.name.clone())
        .collect()
}

/// The plan of the house: what each package of `pipeline/` may be built with, tests aside. A new edge needs an ADR.
const PLAN: [(&str, &[&str]); 11] = [
    ("pipeline/contract", &[]),
    ("pipeline/domain", &["pipeline/contract"]),
    ("pipeline/values", &["pipeline/contract", "pipeline/domain"]),
    ("pipeline/jetstream", &["pipeline/contract"]),
    ("pipeline/store", &["pipeline/contract", "pipeline/domain"]),
    ("pipeline/runtime", &["pipeline/contract", "pipeline/domain", "pipeline/jetstream"]),
    ("pipeline/write-side", BELOW_THE_SIDES),
    ("pipeline/read-side", BELOW_THE_SIDES),
    ("pipeline/processes", BELOW_PROCESSES),
    ("pipeline/proof", BELOW_PROOF),
    ("pipeline/sql", BELOW_SQL),
];
const BELOW_THE_SIDES: &[&str] =
    &["pipeline/contract", "pipeline/domain", "pipeline/jetstream", "pipeline/store", "pipeline/runtime"];
/// The process manager keeps its outbox in rows.
const BELOW_PROCESSES: &[&str] = &[
    "pipeline/contract",
    "pipeline/domain",
    "pipeline/jetstream",
    "pipeline/store",
    "pipeline/runtime",
    "pipeline/read-side",
];
/// It keeps elsewhere what the read side keeps in its file.
const BELOW_SQL: &[&str] = &[
    "pipeline/contract",
    "pipeline/domain",
    "pipeline/jetstream",
    "pipeline/store",
    "pipeline/runtime",
    "pipeline/read-side",
    "pipeline/values",
];
const BELOW_PROOF: &[&str] = &[
    "pipeline/contract",
    "pipeline/domain",
    "pipeline/jetstream",
    "pipeline/store",
    "pipeline/runtime",
    "pipeline/write-side",
    "pipeline/read-side",
];

#[test]
fn dependencies_follow_the_plan() {
    let packages = packages();
    let plan: BTreeMap<&str, &[&str]> = PLAN.into_iter().collect();
    let mut offences = Vec::new();
    for (name, (folder, package)) in &packages {
        for dependency in dependencies(package, false) {
            let Some((to, _)) = packages.get(&dependency) else { continue };
            let allowed = match folder.as_str() {
                "pipeline/model" => to == "pipeline/millstream",
                // The one place that knows every stage: it makes one program of them.
                "pipeline/millstream" => to != "pipeline/model" && to != "stages/end-to-end-tests",
                "stages/reference" => to != "stages/end-to-end-tests",
                "stages/end-to-end-tests" => true,
                folder => match plan.get(folder) {
                    Some(below) => below.contains(&to.as_str()),
                    // Stages and commands take any application: they know the wings, and no domain.
                    None => plan.contains_key(to.as_str()),
                },
            };
            if !allowed {
                offences.push(format!("{name} ({folder}) depends on {dependency} ({to})"));
            }
        }
    }
    expect_none("what a package may be built with is in the plan", &offences);
    for (folder, _) in PLAN {
        let known = packages.values().any(|(found, _)| found == folder);
        assert!(known, "{folder} is gone: this test no longer checks anything about it");
    }
}

#[test]
fn planted_bugs_are_built_for_the_simulation_alone() {
    let mut offences = Vec::new();
    let mut found = false;
    for (name, (_, package)) in packages() {
        if package.features.contains_key("simulation") && name != "millstream-proof" {
            offences.push(format!("{name} has it: bugs are played from outside of the engine"));
        }
        for dependency in &package.dependencies {
            if dependency.features.iter().any(|feature| feature == "simulation") {
                let own = name == "millstream-proof" && dependency.kind == DependencyKind::Development;
                found |= own;
                if !own {
                    offences.push(format!("{name} turns it on ({:?})", dependency.kind));
                }
            }
        }
    }
    expect_none("the feature `simulation` builds bugs in", &offences);
    assert!(found, "the feature has another name now: this test no longer checks anything");
}

#[test]
fn model_and_values_are_built_with_nothing_that_could_make_them_impure() {
    let packages = packages();
    for (name, allowed) in
        [("millstream-model", MODEL_DEPENDENCIES.as_slice()), ("millstream-values", &VALUES_DEPENDENCIES)]
    {
        let (_, package) = packages.get(name).expect("the package exists");
        let offences: Vec<String> = dependencies(package, false)
            .into_iter()
            .filter(|dependency| !allowed.contains(&dependency.as_str()))
            .collect();
        expect_none(&format!("{name} may depend on none of these without an ADR"), &offences);
    }
}

#[test]
fn rules_that_name_the_facade_alone_are_built_without_server_and_store() {
    let packages = packages();
    let (_, facade) = packages.get("millstream").expect("there is a facade");
    let always = facade.dependencies.iter().filter(|it| it.kind == DependencyKind::Normal && !it.optional);
    let offences: Vec<String> = always
        .map(|dependency| dependency.name.clone())
        .filter(|name| !FACADE_DEPENDENCIES.contains(&name.as_str()))
        .collect();
    expect_none("the facade without features brings none of these without an ADR", &offences);
}

#[test]
fn stages_and_commands_know_no_domain() {
    let packages = packages();
    let mut offences = Vec::new();
    for library in STAGES.iter().chain(&["millstream-cli", "millstream"]) {
        let (_, package) = packages.get(*library).expect("the package exists");
        if dependencies(package, false).contains("millstream-model") {
            offences.push(format!("{library} depends on millstream-model"));
        }
    }
    expect_none("stages and commands take any application; only stages/reference names one", &offences);
}

#[test]
fn stages_leave_server_and_store_to_the_wings() {
    let packages = packages();
    let mut offences = Vec::new();
    for stage in STAGES {
        let (_, package) = packages.get(stage).expect("the stage exists");
        for forbidden in ["async-nats", "redb"] {
            if dependencies(package, false).contains(forbidden) {
                offences.push(format!("{stage} depends on {forbidden}"));
            }
        }
    }
    expect_none("stages reach NATS and redb through the crates of pipeline/", &offences);
}

/// The code of a file without comments, texts and its tests.
fn code(text: &str) -> String {
    let tests = text.find("#[cfg(test)]").unwrap_or(text.len());
    // A package's version is known when it is built.
    let text = text.get(..tests).unwrap_or(text).replace(r#"env!("CARGO_PKG_VERSION")"#, "");
    let mut code = String::new();
    for line in text.lines() {
        let line = line.split("//").next().unwrap_or_default();
        // Texts are every second part between quotes.
        code.extend(line.split('"').step_by(2).flat_map(|part| [part, " "]));
        code.push('\n');
    }
    code
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|character: char| !character.is_alphanumeric() && character != '_')
}

fn is_test(path: &Path) -> bool {
    let path = relative(path);
    path.contains("/tests/")
        || path.ends_with("tests.rs")
        || path.contains("/testing/")
        || path.contains("test_")
}

#[test]
fn contracts_and_the_model_are_pure() {
    let pure = |path: &Path| {
        let path = relative(path);
        ["pipeline/contract/src/", "pipeline/domain/src/", "pipeline/values/src/", "pipeline/model/src/"]
            .iter()
            .any(|folder| path.starts_with(folder))
            // They read and write the files of records and golden events, for `millstream schema` and for tests.
            && !["pipeline/domain/src/schema/files.rs", "pipeline/domain/src/schema/recorded.rs"]
                .contains(&path.as_str())
    };
    let mut offences = Vec::new();
    let mut checked = 0;
    for path in with_extension("rs").into_iter().filter(|path| pure(path) && !is_test(path)) {
        checked += 1;
        let code = code(&read(&path));
        let clock = code.contains("::now(").then_some("now");
        for word in words(&code).filter(|word| IMPURE.contains(word)).chain(clock) {
            offences.push(format!("{}: {word}", relative(&path)));
        }
    }
    assert!(checked > 20, "only {checked} files were looked at");
    expect_none("no async, clock, randomness, NATS or redb here", &offences);
}

#[test]
fn every_source_file_opens_with_what_it_is_for() {
    let opens = |path: &PathBuf| {
        let text = read(path);
        // A program that is still to come says nothing yet.
        text.starts_with("//! ") || text == "fn main() {}\n"
    };
    let offences: Vec<String> =
        with_extension("rs").iter().filter(|path| !opens(path)).map(|path| relative(path)).collect();
    expect_none("each .rs file opens with `//! `", &offences);
}

#[test]
fn no_file_is_named_for_nothing() {
    let names = ["mod", "utils", "util", "common", "helpers", "misc"];
    let named_so =
        |path: &PathBuf| path.file_stem().is_some_and(|stem| names.iter().any(|name| stem == *name));
    let offences: Vec<String> =
        with_extension("rs").iter().filter(|path| named_so(path)).map(|path| relative(path)).collect();
    expect_none("files are named for what they hold", &offences);
}

#[test]
fn files_stay_short_enough_to_read() {
    let mut offences = Vec::new();
    for path in with_extension("rs").into_iter().filter(|path| !is_test(path)) {
        let text = read(&path);
        let lines = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count();
        if lines > FILE_LINES_MAX {
            offences.push(format!("{}: {lines} lines", relative(&path)));
        }
    }
    expect_none(&format!("at most {FILE_LINES_MAX} lines, tests aside"), &offences);
}

#[test]
fn nothing_is_left_for_later_or_bound_to_one_machine() {
    // Written in halves, or this file would be an offence itself.
    let words_left = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("HA", "CK")];
    let places = [concat!("/tm", "p/"), concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];
    let extensions =
        ["rs", "md", "toml", "sh", "yaml", "yml", "conf", "json", "mod", "tpl", "txt", "py", "run"];
    let mut offences = Vec::new();
    for path in files() {
        let extension = path.extension().and_then(|extension| extension.to_str());
        if !extension.is_some_and(|extension| extensions.contains(&extension)) && !path.ends_with(".ci/run") {
            continue;
        }
        for (number, line) in (1..).zip(read(&path).lines()) {
            let left = words(line).find(|word| words_left.contains(word));
            if let Some(found) = left.or_else(|| places.into_iter().find(|place| line.contains(place))) {
                offences.push(format!("{}:{number}: {found}", relative(&path)));
            }
        }
    }
    expect_none("nothing is left for later, and no path of one machine is told", &offences);
}

/// The targets of `[…](target)` with the number of their lines, code blocks aside.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    let mut in_code = false;
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        for part in line.split("](").skip(1) {
            if let Some((target, _)) = part.split_once(')') {
                links.push((number, target.to_owned()));
            }
        }
    }
    links
}

/// The anchors that a page's headings get.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let heading = line.trim_start_matches('#').trim().to_lowercase();
            let kept =
                heading.chars().filter(|character| character.is_alphanumeric() || " -_".contains(*character));
            kept.map(|character| if character == ' ' { '-' } else { character }).collect()
        })
        .collect()
}

#[test]
fn links_in_the_documentation_lead_somewhere() {
    let mut offences = Vec::new();
    for path in with_extension("md") {
        let text = read(&path);
        for (number, target) in links(&text) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target.as_str(), ""));
            let folder = path.parent().expect("a file is in a folder");
            let page = if file.is_empty() { path.clone() } else { folder.join(file) };
            let found = page.exists() && (anchor.is_empty() || anchors(&read(&page)).contains(anchor));
            if !found {
                offences.push(format!("{}:{number}: {target}", relative(&path)));
            }
        }
    }
    expect_none("these links lead nowhere", &offences);
}

/// The page tells where things stand. What it names by its whole path must be there: a file that is moved was still named where it had been.
#[test]
fn files_that_the_architecture_names_are_there() {
    let page = repository().join("ARCHITECTURE.md");
    let text = read(&page);
    let named = text.split('`').skip(1).step_by(2).filter(|text| {
        let of_the_house = ["pipeline/", "stages/", "config/", "deploy/", "docs/"];
        of_the_house.iter().any(|folder| text.starts_with(folder)) && !text.contains(['*', '<', '{', ' '])
    });
    let named: Vec<&str> = named.collect();
    assert!(named.len() > 50, "the page names {} files only", named.len());
    let missing: Vec<String> =
        named.into_iter().filter(|path| !repository().join(path).exists()).map(str::to_owned).collect();
    expect_none("the architecture names files that are not there", &missing);
}
