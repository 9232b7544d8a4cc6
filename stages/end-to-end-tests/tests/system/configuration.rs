//! Every file in `config/` is taken by the program it is for; a file that no program is known for is an offence.

use std::path::Path;

use end_to_end_tests::{
    binaries::{binary, repository},
    program::{self, Ended},
};

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
