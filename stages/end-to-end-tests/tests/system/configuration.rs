//! Every file in `config/` is taken by the program it is for; a file that no program is known for is an offence.

use std::path::Path;

use end_to_end_tests::{
    binaries::{binary, repository},
    program::{self, Ended},
    stage_process::StageProcess,
    system::fresh_folder,
    waiting::until,
};
use millstream_jetstream::testing::test_server::TestServer;

async fn check(program: &Path, arguments: &[&str], file: &Path) -> Ended {
    let mut command = program::command(program);
    command.args(arguments).arg(file).current_dir(repository());
    program::run(command, b"").await
}

#[tokio::test]
async fn every_file_in_config_is_taken_by_its_program() {
    let mut offences = Vec::new();
    let mut checked = 0;
    for entry in std::fs::read_dir(repository().join("config")).unwrap() {
        let file = entry.unwrap().path();
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        let ended = match name.rsplit_once('.') {
            // tests/system/import.rs uses them, and the mapping's own tests read each.
            None if name == "import" => continue,
            // The stage `sql` reads them; the tests of `pipeline/sql` ask each.
            None if name == "queries" => continue,
            // Grafana reads it; pipeline/sql/tests/queries/board.rs asks what it asks.
            None if name == "grafana" => continue,
            // These want passwords beside them; tests/deploy starts a server with them.
            Some((_, "conf")) => continue,
            Some((stage, "toml")) => check(&binary(stage), &["--check-config", "--config"], &file).await,
            _ => panic!("config/{name} is for no program that this test knows"),
        };
        checked += 1;
        if ended.code() != Some(0) {
            offences.push(format!("{name}: {}{}", ended.stdout, ended.stderr));
        }
    }
    assert!(offences.is_empty(), "{}", offences.join("\n"));
    assert!(checked >= 3, "only {checked} files were found");
}

/// A stage ended with 78 at its start, while its check said that the configuration was valid.
#[tokio::test]
async fn a_check_knows_the_names_of_the_application() {
    for (stage, setting, said) in [
        ("projector", "projector.contexts=nope", "names the context nope"),
        // A context without any report.
        ("reporter", "reporter.contexts=retail,comments", "names the context comments"),
        ("process-manager", "process_manager.begin=nope=now", "names process nope"),
    ] {
        let mut command = program::command(binary(stage));
        command.args(["--check-config", "--set", setting]);
        let ended = program::run(command, b"").await;
        assert_eq!(ended.code(), Some(78), "{setting}: {ended:?}");
        assert!(ended.stderr.contains(said) && ended.stderr.contains("there are"), "{setting}: {ended:?}");
    }
}

/// `check` compared the zones, a start did not: days were closed at another hour than they begin, and everything was ready.
#[tokio::test]
async fn two_stages_with_different_time_zones_are_not_ready_and_say_why() {
    let server = TestServer::start_provisioned().await;
    let folder = fresh_folder();
    let stage = |name| StageProcess::new(name, "", &server.url(), folder.path());
    let mut handler = stage("command-handler").set("command_handler.time_zone=America/New_York");
    let mut wrong = stage("process-manager");
    handler.start_ready().await;
    wrong.start();
    let said = |process: &'static str, words: [&'static str; 2]| {
        move |readiness: String| {
            let line = readiness.lines().find(|line| line.contains("days would end at another hour"))?;
            assert!(words.iter().all(|word| line.contains(word)), "{process}: {line}");
            Some(())
        }
    };
    let words = ["command_handler.time_zone", "\"America/New_York\""];
    until("the process manager says why", async || {
        wrong.expect_running();
        said("process-manager", words)(wrong.readiness().await)
    })
    .await;
    let words = ["process_manager.time_zone of the active process is \"UTC\"", "\"America/New_York\" here"];
    until("the command handler says why", async || {
        handler.expect_running();
        said("command-handler", words)(handler.readiness().await)
    })
    .await;
    assert_eq!(wrong.log().matches("days would end at another hour").count(), 1, "{}", wrong.log());
    wrong.stop().await;

    let mut right = stage("process-manager").set("process_manager.time_zone=america/new_york");
    right.start_ready().await;
    handler.ready().await;
    right.stop().await;
    handler.stop().await;
}
