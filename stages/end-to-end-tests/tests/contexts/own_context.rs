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
use millstream_jetstream::nats_server::free_port;

/// The model, which the guide changes. Everything else is taken from this checkout.
const MODEL: &str = "pipeline/model";

/// The profiles of this checkout, for a workspace elsewhere: with them nothing is built again that was built here.
pub(super) fn profiles() -> String {
    let workspace = fs::read_to_string(repository().join("Cargo.toml")).unwrap();
    let (_, profiles) = workspace.split_once("[profile.dev]").unwrap();
    // Elsewhere they are dependencies like any other, and would be optimised.
    let own =
        workspace.lines().filter(|line| line.contains("{ path = ") && !line.starts_with("millstream-model"));
    let own: String = own
        .filter_map(|line| line.split_once(" = "))
        .map(|(package, _)| {
            format!("\n[profile.dev.package.{package}]\nopt-level = 0\ndebug = \"line-tables-only\"\n")
        })
        .collect();
    format!("\n[profile.dev]{profiles}{own}")
}

/// The program of the changed model, under a name that no other build writes.
const MAIN: &str = r#"//! The program of the guide.
fn main() -> std::process::ExitCode {
    millstream::main::<millstream_model::Reference>()
}
"#;

pub(super) fn copy(from: &Path, to: &Path) {
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

/// A checkout with a model of its own and the engine, stages and commands of this one, so that they are not built again.
fn checkout(root: &Path) {
    for path in [MODEL, "Cargo.lock", "docs/contexts.md", "rustfmt.toml"] {
        copy(&repository().join(path), &root.join(path));
    }
    let workspace = fs::read_to_string(repository().join("Cargo.toml")).unwrap();
    let (before, after) = workspace.split_once("members = [").unwrap();
    let (_, after) = after.split_once(']').unwrap();
    let elsewhere = |line: &str| match line.split_once("path = \"") {
        Some((name, path)) if !path.starts_with(MODEL) => {
            format!("{name}path = \"{}/{path}\n", repository().display())
        }
        _ => format!("{line}\n"),
    };
    let (after, _) = after.split_once("[profile.dev]").unwrap();
    let after = after.lines().map(elsewhere).collect::<String>() + &profiles();
    fs::write(root.join("Cargo.toml"), format!("{before}members = [{MODEL:?}, \"programs\"]{after}"))
        .unwrap();
    // With the engine as these tests have it.
    let manifest = "[package]\nname = \"programs-of-the-guide\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[dependencies]\n\
        millstream = { workspace = true, features = [\"allocator\", \"cli\", \"testing\"] }\nmillstream-model.workspace = true\n";
    fs::create_dir_all(root.join("programs/src")).unwrap();
    fs::write(root.join("programs/Cargo.toml"), manifest).unwrap();
    fs::write(root.join("programs/src/main.rs"), MAIN).unwrap();
}

/// `cargo <arguments>`, not incrementally: two workspaces that build one engine at a time must not share such a folder.
pub(super) fn cargo_once(arguments: &[&str]) -> Command {
    let mut command = cargo(arguments);
    command.env("CARGO_INCREMENTAL", "0");
    command
}

pub(super) fn run(mut command: Command, folder: &Path) -> String {
    let output = command.current_dir(folder).output().unwrap();
    let (said, complaint) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{said}\n{complaint}", output.status);
    said.into_owned()
}

pub(super) fn millstream(program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).env_clear();
    command
}

/// The tests of the model. They and the program are built for the whole workspace and with one choice of targets: each of them alone would
/// have all dependencies built with other features.
const TESTS: [&str; 5] = ["--lib", "--test", "golden", "--test", "contexts_page"];

fn tested(root: &Path) -> String {
    run(cargo_once(&[&["test", "--offline", "--workspace"], &TESTS[..]].concat()), root)
}

/// A block of the guide: its language, its text, and the file that was named last.
pub(super) struct Block {
    pub(super) language: String,
    pub(super) text: String,
    pub(super) file: String,
}

/// The blocks of a guide whose files begin with one of `folders`.
pub(super) fn blocks(guide: &str, folders: &[&str]) -> Vec<Block> {
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
                let files = named.filter(|name| folders.iter().any(|folder| name.starts_with(folder)));
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

/// The program, under the name that it has in this test alone.
fn program(root: &Path) -> PathBuf {
    run(
        cargo_once(&[&["build", "--offline", "--quiet", "--workspace", "--bins"], &TESTS[..]].concat()),
        root,
    );
    let program = root.join("programs/millstream");
    fs::copy(target_folder().join("debug/programs-of-the-guide"), &program).unwrap();
    program
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
    let tests = tested(root);
    assert!(tests.contains("library::book::tests::every_rejection_is_provoked ... ok"), "{tests}");

    let guide = fs::read_to_string(repository().join("docs/guides/your-own-context.md")).unwrap();
    let blocks = blocks(&guide, &["pipeline/", "docs/"]);
    for block in blocks.iter().filter(|block| block.language != "sh") {
        match &*block.language {
            "diff" => change(root, block),
            _ => fs::write(root.join(&block.file), &block.text).unwrap(),
        }
    }
    run(cargo(&["fmt", "--check", "-p", "millstream-model"]), root);
    let program = program(root);
    let recorded = run(millstream(&program, &["schema", "record"]), root);
    assert!(recorded.contains("recorded library/book/book-lent.v1"), "{recorded}");
    tested(root);

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
