//! docs/guides/import.md, typed as a person types it: its files saved, its lines entered, and what it shows below them seen.

use std::path::Path;

use end_to_end_tests::{
    binaries::{binary, repository},
    program,
    system::{System, fresh_folder},
    waiting::until,
};

use super::first_steps::{Step, shows, steps};

/// The blocks that are files: named by the last text between backticks before them.
fn save_files(page: &str, folder: &Path) -> usize {
    let (mut name, mut block, mut saved) = ("", None::<String>, 0);
    for line in page.lines() {
        match &mut block {
            Some(text) if line == "```" => {
                std::fs::write(folder.join(name), text).unwrap();
                (block, saved) = (None, saved + 1);
            }
            Some(text) => text.push_str(&format!("{line}\n")),
            None if line == "```csv" || line == "```toml" => block = Some(String::new()),
            None => name = line.strip_suffix("`:").and_then(|line| line.rsplit('`').next()).unwrap_or(name),
        }
    }
    saved
}

#[tokio::test]
async fn every_block_of_the_guide_works_as_shown() {
    let page = std::fs::read_to_string(repository().join("docs/guides/import.md")).unwrap();
    let folder = fresh_folder();
    assert_eq!(
        save_files(&page, folder.path()),
        6,
        "the guide has other files now: does this test save them all?"
    );
    let steps = steps(&page);
    assert_eq!(steps.len(), 15, "the guide has other lines now: does this test type them all?");
    let system = System::start(folder.path(), &[]).await;
    let programs = binary("millstream").parent().unwrap().to_owned();
    let others = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(programs).chain(std::env::split_paths(&others))).unwrap();
    let seen = async |step: &Step| {
        let mut shell = program::command("sh");
        shell.args(["-c", &step.command]).current_dir(folder.path());
        shell.env("PATH", &path).env("NATS_URL", system.url());
        let ended = program::run(shell, b"").await.expect_success(&step.command);
        let printed = format!("{}{}", ended.stdout, ended.stderr);
        (shows(step, &printed), printed)
    };
    for step in &steps {
        if step.command.contains(" report ") || step.command.contains(" query ") {
            until(&step.command, async || seen(step).await.0.then_some(())).await;
        } else {
            let (is_shown, printed) = seen(step).await;
            assert!(is_shown, "{step:?} printed\n{printed}");
        }
    }
    system.stop().await;
}
