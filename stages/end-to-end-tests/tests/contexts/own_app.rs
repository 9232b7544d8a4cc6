//! An application of one's own, as `millstream new app` and `new context` write it: outside of the checkout it builds with the
//! packaged crates alone, passes its tests, and its one program is every stage and every command.

use std::{
    fs,
    path::{Path, PathBuf},
};

use end_to_end_tests::{
    binaries::{binary, repository, target_folder},
    system::{System, fresh_folder},
    waiting::until,
};
use millstream_jetstream::nats_server::free_port;
use serde_json::Value;

use super::{
    own_context::{cargo_once, millstream, profiles, run},
    packages::{patch, unpacked},
};

/// Another version than Millstream's, so that the two can be told apart.
const VERSION: &str = "1.4.0";

/// With a version and the packaged crates, and with the profiles and the dependencies' versions of this checkout, so that these are
/// not built again.
pub(super) fn like_this_checkout(root: &Path) {
    let own = root.join("Cargo.toml");
    let text = fs::read_to_string(&own).unwrap();
    let text = text.replacen("version = \"0.1.0\"", &format!("version = {VERSION:?}"), 1);
    fs::write(&own, text + &patch(unpacked()) + &profiles()).unwrap();
    fs::copy(repository().join("Cargo.lock"), root.join("Cargo.lock")).unwrap();
}

/// The application that `new app` and `new context` write into a folder.
fn written(folder: &Path) -> PathBuf {
    let new = ["new", "app", "studio", "--first-context", "members", "--aggregate", "member"];
    run(millstream(&binary("millstream"), &new), folder);
    let again = millstream(&binary("millstream"), &new).current_dir(folder).output().unwrap();
    assert_eq!(again.status.code(), Some(64), "{}", String::from_utf8_lossy(&again.stderr));
    let root = folder.join("studio");
    like_this_checkout(&root);
    for context in [
        ["clubs", "--aggregate", "club", "--like", "view"],
        ["takings", "--aggregate", "day", "--like", "report"],
        ["fees", "--aggregate", "fee", "--like", "process"],
        ["lockers", "--aggregate", "locker", "--like", "claims"],
    ] {
        let new = [&["new", "context"], &context[..]].concat();
        run(millstream(&binary("millstream"), &new), &root);
    }
    run(cargo_once(&["fmt", "-p", "studio-model", "-p", "studio"]), &root);
    root
}

fn passes_its_tests(root: &Path) {
    let tested = run(cargo_once(&["test", "--offline", "--workspace"]), root);
    for test in [
        "members::member::tests::every_rejection_is_provoked",
        "clubs::club_view::tests::row_shows_the_present_title",
        "takings::day_daily::tests::late_entry_restates_the_closed_day",
        "fees::fee_deadline::tests::what_nobody_settles_expires_and_can_no_longer_be_settled",
        "lockers::locker_number::tests::a_number_is_given_once_until_it_comes_back",
        "events_are_as_they_were_recorded",
    ] {
        assert!(tested.contains(&format!("{test} ... ok")), "{tested}");
    }
}

/// Its program, asked what it can tell without a server.
fn program(root: &Path) -> PathBuf {
    // All targets, so that the libraries are those of the tests.
    run(cargo_once(&["build", "--offline", "--workspace", "--all-targets"]), root);
    let program = root.join("program/studio");
    fs::copy(target_folder().join("debug/studio"), &program).unwrap();
    let millstream_version = env!("CARGO_PKG_VERSION");
    let version = run(millstream(&program, &["--version"]), root);
    assert_eq!(version, format!("studio {VERSION} (Millstream {millstream_version})\n"));
    let of_stage = run(millstream(&program, &["stage", "projector", "--version"]), root);
    assert_eq!(of_stage, format!("projector {VERSION} (Millstream {millstream_version})\n"));
    let usage = run(millstream(&program, &["history", "--help"]), root);
    assert!(usage.contains("Usage: studio history [OPTIONS]"), "{usage}");
    let checked = run(millstream(&program, &["schema", "check"]), root);
    assert!(checked.contains("21 event types are as they are recorded"), "{checked}");
    let settings = run(millstream(&program, &["stage", "process-manager", "--reference-config"]), root);
    assert!(
        settings.contains("# fee_patience = \"7d\""),
        "a setting of the application has its line: {settings}"
    );
    program
}

/// What `helm test` gives `send` or `query`, as the application's values of the chart say.
fn test_of_chart(root: &Path, step: &str) -> Vec<String> {
    let values = fs::read_to_string(root.join("values.yaml")).unwrap();
    let values: Value = serde_yaml_ng::from_str(&values).unwrap();
    let words = &values["test"][if step == "send" { "command" } else { step }];
    words.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn new_application_builds_passes_its_tests_and_runs() {
    let folder = fresh_folder();
    let root = written(folder.path());
    passes_its_tests(&root);
    let program = program(&root);

    let data = fresh_folder();
    let system = System::start_program(program, data.path(), free_port().unwrap(), &[], &[]).await;
    let said = |ended: &str| -> Value { serde_json::from_str(ended.lines().next().unwrap()).unwrap() };
    let send = ["send", "members", "member", "anna", "add", r#"{"title":"Anna"}"#, "--actor", "desk"];
    let _sent = system.millstream(&send).await.expect_success("send");
    let row = ["query", "members", "member", "anna", "--json"];
    let row = system.millstream(&row).await.expect_success("query");
    assert_eq!(said(&row.stdout)["value"]["title"], "Anna");
    assert_eq!(said(&row.stdout)["value"]["version"], 1);
    let explained =
        system.millstream(&["explain", "member", "anna", "--json"]).await.expect_success("explain");
    assert_eq!(said(&explained.stdout)["actor"], "desk");
    let past = ["history", "members", "member", "anna", "--as-of", "1", "--json"];
    let past = system.millstream(&past).await.expect_success("history");
    assert_eq!(said(&past.stdout)["state"]["title"], "Anna");
    let close = ["send", "takings", "day", "north_2012-01-31", "close"];
    for sent in [
        &["send", "takings", "day", "north_2012-01-31", "record", r#"{"entry":"E-1","amount":500}"#][..],
        &close,
    ] {
        let _sent = system.millstream(sent).await.expect_success("send");
    }
    let report = ["report", "day-daily", "--date", "2012-01-31", "--format", "csv"];
    let report = system.millstream(&report).await.expect_success("report");
    assert!(report.stdout.contains("north,2012-01-31,1,sealed,1,5.00"), "{}", report.stdout);
    let database = data.path().join("data/sql/replica.sqlite").to_str().unwrap().to_owned();
    let tables = "SELECT business_date, amount FROM takings.day_daily_decimal";
    let tables = ["sql", "--database", &database, "--format", "csv", "--command", tables];
    until("the report is in its table", async || {
        let rows = system.millstream(&tables).await.expect_success("sql").stdout;
        rows.contains("2012-01-31,5.00").then_some(())
    })
    .await;
    for step in ["send", "query"] {
        let words = test_of_chart(&root, step);
        let words: Vec<&str> = [step].into_iter().chain(words.iter().map(String::as_str)).collect();
        let _said = system.millstream(&words).await.expect_success("what `helm test` does");
    }
    let _equal = system.millstream(&["report", "verify"]).await.expect_success("report verify");
    let none = system.millstream(&["report", "store-daily", "--date", "2012-01-31"]).await;
    assert!(none.stderr.contains("there is no report store-daily; there are day-daily"), "{}", none.stderr);
    let other = system.millstream(&["history", "retail", "till", "1", "--as-of", "1"]).await;
    assert!(
        other.stderr.contains(
            "there are clubs.club, fees.fee, lockers.claim, lockers.locker, members.member, millstream.set-aside, takings.day"
        ),
        "{}",
        other.stderr
    );
    let _sound = system.millstream(&["doctor"]).await.expect_success("doctor");
    system.stop().await;
}
