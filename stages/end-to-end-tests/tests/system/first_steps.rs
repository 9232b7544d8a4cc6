//! docs/first-steps.md and the README's own lines, typed line by line into a shell: each command, and what the page shows
//! below it.

use end_to_end_tests::{
    binaries::{binary, repository},
    program::{self, Ended},
    system::{System, fresh_folder},
    waiting::until,
};

/// A typed line and what must be seen below it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) command: String,
    shown: Vec<String>,
}

/// The steps of all `console` blocks of a page.
pub(super) fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        match (inside, line.strip_prefix("$ ")) {
            (_, None) if line.starts_with("```") => inside = line == "```console",
            (true, Some(command)) => steps.push(Step { command: command.to_owned(), shown: vec![] }),
            (true, None) => steps.last_mut().unwrap().shown.push(line.to_owned()),
            (false, _) => {}
        }
    }
    steps
}

/// Whether `line` is what `pattern` shows, `…` standing for anything.
fn matches(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.split('…');
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut open_end = false;
    for part in parts {
        open_end = part.is_empty();
        match rest.find(part) {
            Some(found) => rest = &rest[found + part.len()..],
            None => return false,
        }
    }
    open_end || rest.is_empty()
}

pub(super) fn shows(step: &Step, printed: &str) -> bool {
    let mut lines = printed.lines();
    step.shown.iter().all(|pattern| lines.any(|line| matches(pattern, line)))
}

/// Looking changes nothing: it may be repeated until the rows are there.
fn only_looks(command: &str) -> bool {
    !command.starts_with("nats pub ")
}

/// Types every step of a page on a new system. `expected` is the least number of steps that the page must have, so that a
/// page whose blocks are no longer recognised fails.
async fn type_page(page: &str, expected: usize) {
    let steps = steps(&std::fs::read_to_string(repository().join(page)).unwrap());
    assert!(steps.len() >= expected, "{page} shows only {} steps", steps.len());
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    let Some(nats) = system.nats().await else { return };
    let programs =
        [nats.program().parent().unwrap().to_owned(), binary("millstream").parent().unwrap().to_owned()];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(programs.into_iter().chain(std::env::split_paths(&path))).unwrap();
    let type_in = async |line: &str| -> Ended {
        let mut shell = program::command("bash");
        shell.args(["-c", line]).env("PATH", &path).env("NATS_URL", system.url()).current_dir(folder.path());
        program::run(shell, b"").await
    };
    for step in &steps {
        let seen = |ended: &Ended| {
            let printed = format!("{}{}", ended.stdout, ended.stderr);
            ended.code() == Some(0) && shows(step, &printed)
        };
        if only_looks(&step.command) {
            until(format!("{step:?}"), async || seen(&type_in(&step.command).await).then_some(())).await;
        } else {
            let ended = type_in(&step.command).await;
            assert!(seen(&ended), "{step:?}\n{ended:?}");
        }
    }
    system.stop().await;
}

#[tokio::test]
async fn every_line_of_the_first_steps_works_as_shown() {
    type_page("docs/first-steps.md", 14).await;
}

#[tokio::test]
async fn every_line_of_the_readme_works_as_shown() {
    type_page("README.md", 3).await;
}

#[test]
fn ellipses_stand_for_anything_and_the_rest_is_literal() {
    for (pattern, line, expected) in [
        ("a…b", "a--b", true),
        ("a…b", "a--b.", false),
        ("…b…", "a--b.", true),
        ("ab", "ab", true),
        ("ab", "abc", false),
        ("…x…", "abc", false),
    ] {
        assert_eq!(matches(pattern, line), expected, "{pattern} {line}");
    }
    let page = "```console\n$ one\nshown\n$ two\n```\n$ not a step\n```sh\n$ nor this\n```\n";
    let expected = [("one", vec!["shown".to_owned()]), ("two", vec![])];
    assert_eq!(steps(page), expected.map(|(command, shown)| Step { command: command.into(), shown }));
}
