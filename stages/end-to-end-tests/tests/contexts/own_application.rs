//! docs/guides/your-own-application.md, typed from an empty folder on: it leads to examples/gym, letter by letter. That application
//! passes its tests, and its program does what the guide says, typed with the `nats` CLI.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use end_to_end_tests::{
    binaries::{binary, repository, target_folder},
    nats_cli::NatsCli,
    program,
    system::{System, fresh_folder},
    waiting::until,
};
use jiff::{Timestamp, tz::TimeZone};
use millstream_jetstream::nats_server::free_port;

use super::{
    own_app::like_this_checkout,
    own_context::{Block, blocks, cargo_once, copy, millstream, run},
};

/// Where the example is.
const EXAMPLE: &str = "examples/gym";

/// What an example has of its own: which Millstream it is built with, and what it is an example of.
const OWN: [&str; 2] = ["Cargo.toml", "README.md"];

/// Seven days, for a test; the guide says the same.
const PATIENCE: (&str, &str) = ("MILLSTREAM_PROCESS_MANAGER__DUNNING_PATIENCE", "3s");

fn guide() -> Vec<Block> {
    let guide = fs::read_to_string(repository().join("docs/guides/your-own-application.md")).unwrap();
    assert!(guide.contains(&format!("export {}={}", PATIENCE.0, PATIENCE.1)));
    blocks(&guide, &["model/"])
}

/// Every line of the guide's shell blocks.
fn lines(guide: &[Block]) -> Vec<&str> {
    guide.iter().filter(|block| block.language == "sh").flat_map(|block| block.text.lines()).collect()
}

/// The application that the guide leads to, without its golden files.
fn typed(folder: &Path) -> PathBuf {
    let checkout = repository().to_str().unwrap();
    let new = ["new", "app", "gym", "--aggregate", "member", "--millstream-path", checkout];
    run(millstream(&binary("millstream"), &new), folder);
    let root = folder.join("gym");
    fs::copy(repository().join("Cargo.lock"), root.join("Cargo.lock")).unwrap();
    run(cargo_once(&["fmt"]), &root);
    let guide = guide();
    for removed in lines(&guide).iter().filter_map(|line| line.strip_prefix("rm -r ")) {
        fs::remove_dir_all(root.join(removed)).unwrap();
    }
    let mut files: BTreeMap<&str, String> = BTreeMap::new();
    for block in guide.iter().filter(|block| block.language == "rust") {
        let text = files.entry(&block.file).or_default();
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&block.text);
    }
    for (file, text) in files {
        fs::write(root.join(file), text).unwrap();
    }
    run(cargo_once(&["fmt", "--check"]), &root);
    root
}

/// The files below a folder, by their paths in it.
fn files(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for path in fs::read_dir(next).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = fs::read_to_string(&path).unwrap();
                found.insert(path.strip_prefix(folder).unwrap().to_owned(), text);
            }
        }
    }
    found
}

#[test]
fn guide_leads_to_the_example() {
    let folder = fresh_folder();
    let typed = files(&typed(folder.path()));
    let is_made = |path: &Path| path.starts_with("target") || path == Path::new("Cargo.lock");
    let example = files(&repository().join(EXAMPLE));
    for (path, text) in example.iter().filter(|(path, _)| !is_made(path)) {
        if path.starts_with("model/golden") || OWN.iter().any(|own| path == Path::new(own)) {
            continue;
        }
        let guides = typed.get(path).map(String::as_str);
        assert_eq!(guides, Some(text.as_str()), "{} is not what the guide makes of it", path.display());
    }
    let sources = typed.keys().filter(|path| path.starts_with("model") || path.starts_with("program"));
    for path in sources {
        assert!(example.contains_key(path), "{EXAMPLE} lacks {}", path.display());
    }
}

/// More code than this, and the crate `millstream` makes its users type too much.
const CODE_LINES_MAX: usize = 450;

#[test]
fn readme_of_the_example_counts_its_lines() {
    let example = files(&repository().join(EXAMPLE));
    let counted = |path: &Path| path.starts_with("model/src") || path.starts_with("program/src");
    let sources = example.iter().filter(|(path, _)| counted(path));
    let lines: Vec<&str> = sources.flat_map(|(_, text)| text.lines()).map(str::trim).collect();
    let code = lines.iter().filter(|line| !line.is_empty() && !line.starts_with("//")).count();
    let counts = format!("{code} lines of code, and {} with comments and blank lines", lines.len());
    let readme = &example[Path::new("README.md")];
    assert!(readme.contains(&counts), "the README does not say that they are {counts}");
    assert!(code <= CODE_LINES_MAX, "{code} lines of code are more than {CODE_LINES_MAX}");
}

/// The example in a folder of its own, built with the packaged crates, as others get them.
fn example(folder: &Path) -> PathBuf {
    let root = folder.join("gym");
    let source = repository().join(EXAMPLE);
    for part in ["Cargo.toml", "model", "program"] {
        copy(&source.join(part), &root.join(part));
    }
    let workspace = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let (here, elsewhere) =
        ("path = \"../../pipeline/millstream\"", concat!("version = \"", env!("CARGO_PKG_VERSION"), "\""));
    assert!(workspace.contains(here), "{workspace}");
    fs::write(root.join("Cargo.toml"), workspace.replace(here, elsewhere)).unwrap();
    like_this_checkout(&root);
    root
}

/// The program of the example, whose tests pass; its golden files are those that it makes up.
fn tested_program(root: &Path) -> PathBuf {
    let tested = run(cargo_once(&["test", "--offline", "--workspace"]), root);
    for test in [
        "every_rejection_is_provoked",
        "one_address_is_one_members",
        "who_does_not_pay_within_seven_days_is_suspended",
        "events_are_as_they_were_recorded",
    ] {
        assert!(tested.contains(&format!("test {test} ... ok")), "{tested}");
    }
    run(cargo_once(&["build", "--offline", "--workspace", "--all-targets"]), root);
    let program = root.join("program/gym");
    fs::copy(target_folder().join("debug/gym"), &program).unwrap();
    let golden = root.join("model/golden");
    let recorded = files(&golden);
    fs::remove_dir_all(golden.join("gym")).unwrap();
    let said = run(millstream(&program, &["schema", "record"]), root);
    assert!(said.contains("recorded gym/member/member-joined.v1"), "{said}");
    assert_eq!(files(&golden), recorded, "golden files are made up as they are recorded");
    program
}

/// Types a line of the guide that begins with `gym`, again until what stands behind its ` # ` is in the answer.
async fn type_own(system: &System, root: &Path, line: &str) {
    let (line, expected) = line.split_once(" # ").unwrap_or((line, ""));
    let arguments: Vec<&str> = line.split_whitespace().skip(1).collect();
    until(format!("{line} says {expected}"), async || {
        let mut command = system.command(&arguments);
        command.current_dir(root);
        let ended = program::run(command, b"").await;
        (ended.status.success() && ended.stdout.contains(expected.trim())).then_some(())
    })
    .await;
}

async fn type_guide(system: &System, nats: &NatsCli, root: &Path) {
    let guide = guide();
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date().to_string();
    let typed: Vec<String> =
        lines(&guide).iter().map(|line| line.replace("$(date -u +%F)", &today)).collect();
    assert!(typed.iter().filter(|line| line.starts_with("nats ")).count() > 10, "{typed:?}");
    for line in typed {
        match line.split_whitespace().next() {
            Some("nats") => nats.type_line(&line).await,
            Some("gym") => type_own(system, root, &line).await,
            Some("rm") => {}
            other => panic!("nobody types {other:?}: {line}"),
        }
    }
}

#[tokio::test]
async fn example_does_what_the_guide_says() {
    let folder = fresh_folder();
    let root = example(folder.path());
    let program = tested_program(&root);
    let data = fresh_folder();
    let system = System::start_program(program, data.path(), free_port().unwrap(), &[], &[PATIENCE]).await;
    let Some(nats) = system.nats().await else { return };
    type_guide(&system, &nats, &root).await;
    let _equal = system.millstream(&["report", "verify"]).await.expect_success("report verify");
    let _sound = system.millstream(&["doctor"]).await.expect_success("doctor");
    system.stop().await;
}
