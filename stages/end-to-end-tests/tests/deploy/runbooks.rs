//! Every line of the runbooks, typed into a shell beside running stages and a real server: each command works and shows what
//! the runbook says, in the situation that the runbook is for.

use std::{collections::BTreeMap, ffi::OsString, fs, path::PathBuf};

use end_to_end_tests::{
    binaries::{binary, repository},
    nats_cli::NatsCli,
    program::{self, Ended},
    waiting::{PATIENCE, until},
};
use millstream_jetstream::{nats_server::free_port, testing::test_server::TestServer};
use tempfile::TempDir;

use crate::{
    process::Process,
    stages_with_least_privilege::STAGES,
    start_failures::{plain, set},
};

/// A server, its stages, and a shell with both command lines.
struct Desk {
    server: TestServer,
    folder: TempDir,
    stages: BTreeMap<&'static str, Process>,
    path: OsString,
}

/// A typed line, and what must be seen in this order: pieces of text between ellipses.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) command: String,
    shown: Vec<String>,
}

impl Desk {
    /// With all stages, a product and a dead letter. None on a machine without Go, which builds the nats CLI.
    async fn open() -> Option<Self> {
        let server = TestServer::start_provisioned().await;
        let nats = NatsCli::for_server(server.url()).await?;
        let programs = [nats.program().clone(), binary("millstream")].map(|mut path| {
            path.pop();
            path
        });
        let present = std::env::var_os("PATH").unwrap_or_default();
        let all: Vec<PathBuf> = programs.into_iter().chain(std::env::split_paths(&present)).collect();
        let path = std::env::join_paths(all).unwrap();
        let mut desk = Self { server, folder: TempDir::new().unwrap(), stages: BTreeMap::new(), path };
        desk.start_stages(&STAGES).await;
        let register = r#"millstream send retail product tea register '{"name":"Tea","supplier":"acme"}'"#;
        for (command, code) in [(register, 0), ("millstream send retail product tea fly '{bad'", 11)] {
            let ended = desk.type_in(command).await;
            assert_eq!(ended.code(), Some(code), "{command}: {ended:?}");
        }
        Some(desk)
    }

    async fn start_stages(&mut self, names: &[&'static str]) {
        for name in names {
            let health = format!("127.0.0.1:{}", free_port().unwrap());
            let address = format!("telemetry.address={health}");
            let mut process = Process::start(set(plain(name, &self.server, self.folder.path()), &[&address]));
            process.healthy(&health, "/readyz").await;
            self.stages.insert(name, process);
        }
    }

    async fn stop_stages(&mut self, names: &[&'static str]) {
        for name in names {
            let mut process = self.stages.remove(name).unwrap();
            process.terminate();
            assert_eq!(process.exit_code(PATIENCE).await, 0, "{name}: {}", process.log());
        }
    }

    async fn type_in(&self, line: &str) -> Ended {
        let mut shell = program::command("bash");
        shell
            .args(["-c", line])
            .env("PATH", &self.path)
            .env("NATS_URL", self.server.url())
            .env("DATA", self.folder.path().join("projector"))
            .current_dir(self.folder.path());
        program::run(shell, b"").await
    }

    /// Types all lines; those that only look are repeated until they show what they should.
    async fn follow(&self, steps: &[Step]) {
        assert!(!steps.is_empty());
        for step in steps {
            let seen = async || {
                let ended = self.type_in(&step.command).await;
                let printed = format!("{}{}", ended.stdout, ended.stderr);
                (ended.code() == Some(0) && shows(step, &printed)).then_some(()).ok_or(printed)
            };
            if ["backup", "restore", "--apply", "drop", "mv ", "rm "]
                .iter()
                .any(|word| step.command.contains(word))
            {
                if let Err(printed) = seen().await {
                    panic!("{step:?} shows {printed}");
                }
            } else {
                until(format!("{step:?}"), async || seen().await.ok()).await;
            }
        }
    }
}

pub(crate) fn shows(step: &Step, printed: &str) -> bool {
    let mut rest = printed;
    step.shown.iter().flat_map(|line| line.split('…')).all(|piece| match rest.find(piece) {
        Some(found) => {
            rest = &rest[found + piece.len()..];
            true
        }
        None => false,
    })
}

/// The steps of the `console` blocks of a runbook, below each heading.
pub(crate) fn runbook(name: &str) -> Vec<(String, Vec<Step>)> {
    let text = fs::read_to_string(repository().join("docs/runbooks").join(name)).unwrap();
    let mut sections: Vec<(String, Vec<Step>)> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if let (false, Some((_, heading))) = (inside, line.split_once("# ")) {
            if line.starts_with('#') {
                sections.push((heading.to_owned(), Vec::new()));
            }
        } else if inside {
            let steps = &mut sections.last_mut().unwrap().1;
            match line.strip_prefix("$ ") {
                Some(command) => steps.push(Step { command: command.to_owned(), shown: vec![] }),
                None => steps.last_mut().unwrap().shown.push(line.to_owned()),
            }
        }
    }
    sections.retain(|(_, steps)| !steps.is_empty());
    sections
}

fn only_section(name: &str) -> Vec<Step> {
    let sections: [(String, Vec<Step>); 1] =
        runbook(name).try_into().expect("all steps are below one heading");
    let [(_, steps)] = sections;
    steps
}

#[tokio::test]
async fn looking_and_mending_while_all_runs() {
    let Some(desk) = Desk::open().await else { return };
    for name in
        ["lag-grows.md", "dead-letters.md", "process-rejections.md", "handler-takeover.md", "disk-full.md"]
    {
        desk.follow(&only_section(name)).await;
    }
}

#[tokio::test]
async fn a_message_that_is_no_commit_is_set_aside() {
    let Some(desk) = Desk::open().await else { return };
    let slip = desk.type_in("nats pub -J evt.retail.product.tea oops").await;
    assert!(format!("{}{}", slip.stdout, slip.stderr).contains("Sequence: 2"), "{slip:?}");
    desk.follow(&only_section("no-commit-on-events.md")).await;
}

#[tokio::test]
async fn a_projection_is_rebuilt() {
    let Some(mut desk) = Desk::open().await else { return };
    let mut steps = only_section("rebuild-a-projection.md");
    let after = steps.split_off(1);
    desk.stop_stages(&["projector"]).await;
    desk.follow(&steps).await;
    assert!(desk.folder.path().join("projector/rows.redb.before").is_file());
    desk.start_stages(&["projector"]).await;
    desk.follow(&after).await;
}

#[tokio::test]
async fn a_backup_is_restored_on_a_new_server() {
    let Some(mut desk) = Desk::open().await else { return };
    let sections = runbook("restore-a-backup.md");
    let [(_, backup), (_, restore)] = sections.as_slice() else { panic!("{sections:?}") };
    desk.follow(backup).await;
    desk.stop_stages(&STAGES).await;
    for stage in STAGES {
        fs::remove_dir_all(desk.folder.path().join(stage)).unwrap();
    }
    desk.server = TestServer::start().await;
    let setup = restore.iter().position(|step| step.command == "millstream setup").unwrap();
    desk.follow(&restore[..=setup]).await;
    desk.start_stages(&STAGES).await;
    desk.follow(&restore[setup + 1..]).await;
}

/// An alert on a metric that nobody counts would never sound.
#[test]
fn metrics_named_in_the_documentation_are_counted() {
    let documentation = repository().join("docs");
    let contract = fs::read_to_string(documentation.join("metrics.md")).unwrap();
    let mut pages = vec![documentation.join("deploy.md"), repository().join("deploy/alerts.yaml")];
    let runbooks = fs::read_dir(documentation.join("runbooks")).unwrap();
    pages.extend(runbooks.map(|entry| entry.unwrap().path()));
    let mut named = 0;
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        let words = text.split(|c: char| !(c.is_ascii_lowercase() || c == '_'));
        for metric in words.filter(|word| word.starts_with("millstream_")) {
            assert!(contract.contains(&format!("| `{metric}` |")), "{metric} in {}", page.display());
            named += 1;
        }
    }
    assert!(named > 5, "{named}");
}

#[test]
fn every_alert_names_a_runbook_and_the_list_of_alerts_names_it() {
    #[derive(serde::Deserialize)]
    struct Alerts {
        groups: Vec<Group>,
    }
    #[derive(serde::Deserialize)]
    struct Group {
        rules: Vec<Rule>,
    }
    #[derive(serde::Deserialize)]
    struct Rule {
        alert: String,
        annotations: BTreeMap<String, String>,
    }
    let text = fs::read_to_string(repository().join("deploy/alerts.yaml")).unwrap();
    let alerts: Alerts = serde_yaml_ng::from_str(&text).unwrap();
    let listed = fs::read_to_string(repository().join("docs/deploy.md")).unwrap();
    let rules: Vec<Rule> = alerts.groups.into_iter().flat_map(|group| group.rules).collect();
    assert!(rules.len() > 5);
    for Rule { alert, annotations } in rules {
        assert!(repository().join(&annotations["runbook"]).is_file(), "{alert}: {annotations:?}");
        assert!(listed.contains(&format!("`{alert}`")), "{alert} is not in docs/deploy.md");
    }
}

#[test]
fn every_runbook_is_listed_and_tried() {
    let folder = repository().join("docs/runbooks");
    let listed = fs::read_to_string(folder.join("README.md")).unwrap();
    let own = include_str!("runbooks.rs");
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name != "README.md" {
            assert!(listed.contains(&format!("({name})")), "{name} is not in the list");
            assert!(own.contains(&format!("\"{name}\"")), "{name} is not tried");
        }
    }
}
