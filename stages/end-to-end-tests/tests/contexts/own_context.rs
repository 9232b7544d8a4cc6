//! docs/guides/your-own-context.md, done as it says in a copy of what it needs of the checkout: the starting point is written,
//! compiles and passes its tests; so does the guide's own code; and its commands are typed with the `nats` CLI to stages that
//! are built with the new context.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use end_to_end_tests::{
    binaries::{binary, cargo, repository, target_folder},
    system::{System, fresh_folder},
};
use millstream_engine::nats_server::free_port;

const PROGRAMS: [&str; 5] = ["millstream", "command-handler", "projector", "reporter", "process-manager"];
const PACKAGES: [&str; 6] = [
    "pipeline/model",
    "stages/cli",
    "stages/command-handler",
    "stages/projector",
    "stages/reporter",
    "stages/process-manager",
];

/// All programs in one, so that they are linked once, under a name that no other build writes.
const MAIN: &str = r#"//! Every program, by the name under which this one is called.
use std::process::ExitCode;

use clap::Parser as _;
use millstream_engine::{
    config::Config,
    stage::{StageIdentity, StageRuntime, run_stage},
};

macro_rules! stage {
    ($name:literal, $stage:ident) => {{
        let identity = StageIdentity { name: $name, version: "0.0.0", about: "of a context of one's own" };
        let run = |config: Config<$stage::config::StageConfig>, runtime: StageRuntime| $stage::run(config, runtime);
        run_stage(identity, std::env::args_os(), std::env::vars_os(), run)
    }};
}

fn main() -> ExitCode {
    let own = std::env::current_exe().unwrap();
    match own.file_name().unwrap().to_str().unwrap() {
        "command-handler" => stage!("command-handler", command_handler),
        "projector" => stage!("projector", projector),
        "reporter" => stage!("reporter", reporter),
        "process-manager" => stage!("process-manager", process_manager),
        _ => millstream_cli::run(millstream_cli::Arguments::parse(), std::env::vars().collect()),
    }
}
"#;

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    }
}

/// A checkout with a model of its own and the engine of this one, so that the engine is not built again.
fn checkout(root: &Path) {
    for path in PACKAGES.iter().chain(&["Cargo.lock", "docs/contexts.md", "rustfmt.toml"]) {
        copy(&repository().join(path), &root.join(path));
    }
    let workspace = fs::read_to_string(repository().join("Cargo.toml")).unwrap();
    let (before, after) = workspace.split_once("members = [").unwrap();
    let (_, after) = after.split_once(']').unwrap();
    let members = PACKAGES.map(|package| format!("{package:?}")).join(", ");
    let engine = format!("path = {:?}", repository().join("pipeline/engine"));
    let after = after.replace("path = \"pipeline/engine\"", &engine);
    fs::write(root.join("Cargo.toml"), format!("{before}members = [{members}, \"programs\"]{after}"))
        .unwrap();
    let stages = PACKAGES.iter().filter_map(|package| package.strip_prefix("stages/"));
    let stage = |stage: &str| {
        let name = if stage == "cli" { "millstream-cli" } else { stage };
        format!("{name} = {{ path = \"../stages/{stage}\" }}\n")
    };
    // With the engine as these tests have it.
    let manifest = format!(
        "[package]\nname = \"programs-of-the-guide\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[dependencies]\n{}{}{}",
        "clap.workspace = true\n",
        "millstream-engine = { workspace = true, features = [\"testing\"] }\n",
        stages.map(stage).collect::<String>()
    );
    fs::create_dir_all(root.join("programs/src")).unwrap();
    fs::write(root.join("programs/Cargo.toml"), manifest).unwrap();
    fs::write(root.join("programs/src/main.rs"), MAIN).unwrap();
}

/// `cargo <arguments>`, not incrementally: two workspaces that build one engine at a time must not share such a folder.
fn cargo_once(arguments: &[&str]) -> Command {
    let mut command = cargo(arguments);
    command.env("CARGO_INCREMENTAL", "0");
    command
}

fn run(mut command: Command, folder: &Path) -> String {
    let output = command.current_dir(folder).output().unwrap();
    let (said, complaint) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{said}\n{complaint}", output.status);
    said.into_owned()
}

fn millstream(program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).env_clear();
    command
}

/// The tests of the model, or some of them.
fn tested(root: &Path, filter: &[&str]) -> String {
    let arguments = [
        "test",
        "--offline",
        "-p",
        "millstream-model",
        "--lib",
        "--test",
        "golden",
        "--test",
        "contexts_page",
    ];
    run(cargo_once(&[&arguments, filter].concat()), root)
}

/// A block of the guide: its language, its text, and the file that was named last.
struct Block {
    language: String,
    text: String,
    file: String,
}

fn blocks(guide: &str) -> Vec<Block> {
    let (mut blocks, mut file, mut open): (Vec<Block>, String, Option<Block>) = (vec![], String::new(), None);
    for line in guide.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(language), None) => {
                open = Some(Block { language: language.into(), text: String::new(), file: file.clone() });
            }
            (None, Some(block)) => block.text += &format!("{line}\n"),
            (None, None) if !line.starts_with('|') => {
                let named = line.split('`').skip(1).step_by(2);
                let files = named.filter(|name| name.starts_with("pipeline/") || name.starts_with("docs/"));
                file = files.last().map_or(file, str::to_owned);
            }
            (None, None) => {}
        }
    }
    blocks
}

/// Puts a block's lines with `+` where its other lines stand, in place of those with `-`.
fn change(root: &Path, block: &Block) {
    let path = root.join(&block.file);
    let side = |left_out: char| {
        let lines = block.text.lines().filter(|line| !line.starts_with(left_out));
        lines.map(|line| format!("{}\n", line.get(1..).unwrap_or_default())).collect::<String>()
    };
    let text = fs::read_to_string(&path).unwrap();
    let found = text.matches(&side('+')).count();
    assert_eq!(found, 1, "{} has {found} times:\n{}", block.file, side('+'));
    fs::write(&path, text.replacen(&side('+'), &side('-'), 1)).unwrap();
}

/// The programs under their own names.
fn programs(root: &Path) -> PathBuf {
    run(cargo_once(&["build", "--offline", "--quiet", "-p", "programs-of-the-guide"]), root);
    let (built, folder) = (target_folder().join("debug/programs-of-the-guide"), root.join("programs/bin"));
    fs::create_dir_all(&folder).unwrap();
    for name in PROGRAMS {
        fs::copy(&built, folder.join(name)).unwrap();
    }
    folder.join("millstream")
}

#[tokio::test]
async fn guide_leads_to_a_context_of_ones_own() {
    let folder = fresh_folder();
    let root = folder.path();
    checkout(root);
    let wrote =
        run(millstream(&binary("millstream"), &["new", "context", "library", "--aggregate", "book"]), root);
    assert!(wrote.contains("wrote pipeline/model/src/library/book.rs") && wrote.contains("Next:"), "{wrote}");
    let again =
        millstream(&binary("millstream"), &["new", "context", "library"]).current_dir(root).output().unwrap();
    assert_eq!(again.status.code(), Some(64), "{}", String::from_utf8_lossy(&again.stderr));
    let tests = tested(root, &[]);
    assert!(tests.contains("library::book::tests::every_rejection_is_provoked ... ok"), "{tests}");

    let guide = fs::read_to_string(repository().join("docs/guides/your-own-context.md")).unwrap();
    let blocks = blocks(&guide);
    for block in blocks.iter().filter(|block| block.language != "sh") {
        match &*block.language {
            "diff" => change(root, block),
            _ => fs::write(root.join(&block.file), &block.text).unwrap(),
        }
    }
    run(cargo(&["fmt", "--check", "-p", "millstream-model"]), root);
    let program = programs(root);
    let recorded = run(millstream(&program, &["schema", "record"]), root);
    assert!(recorded.contains("recorded library/book/book-lent.v1"), "{recorded}");
    tested(root, &[]);

    let data = fresh_folder();
    let system = System::start_program(program, data.path(), free_port().unwrap(), &[], &[]).await;
    let Some(nats) = system.nats().await else { return };
    let lines: Vec<&str> =
        blocks.iter().filter(|block| block.language == "sh").flat_map(|block| block.text.lines()).collect();
    assert!(lines.len() > 5, "{lines:?}");
    for line in lines {
        nats.type_line(line).await;
    }
    let history =
        system.millstream(&["history", "library", "book", "moby-dick"]).await.expect_success("history");
    assert_eq!(history.stdout.matches("book-lent").count(), 3, "{}", history.stdout);
    system.stop().await;
}
