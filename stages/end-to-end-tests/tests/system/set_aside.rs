//! A slip of the keyboard: a message on EVENTS that is no commit. Whoever reads it stops and says so; an operator sets it aside,
//! and everybody goes on behind it, without a restart.

use std::os::unix::fs::PermissionsExt as _;

use async_nats::jetstream;
use end_to_end_tests::{
    system::{System, fresh_folder},
    waiting::until,
};
use millstream_contract::stream_names::{COMMANDS, DEAD_LETTERS, EVENTS, REPORTS, TIMERS};
use millstream_jetstream::broker::Broker as _;
use nix::sys::signal::Signal;
use serde_json::json;

const TILL: [&str; 3] = ["retail", "till", "1_2026-01-31"];

async fn sell(system: &System, sale: &str) -> Option<i32> {
    let body = json!({
        "sale": sale, "currency": "USD", "lines": [{ "sku": "1", "quantity": 1, "unit_price": 5 }]
    });
    let [context, aggregate, id] = TILL;
    system.millstream(&["send", context, aggregate, id, "record-sale", &body.to_string()]).await.code()
}

/// Lets the message stand on EVENTS, as the second one of the till. Its sequence. Only whoever has the key of the stages can.
async fn slip(system: &System) -> String {
    let context = jetstream::new(system.broker().await.client().clone());
    let stored = context.publish(format!("evt.{}", TILL.join(".")), "{oops".into()).await.unwrap();
    stored.await.unwrap().sequence.to_string()
}

async fn troubles(system: &System) -> String {
    let doctor = system.millstream(&["doctor"]).await;
    doctor.stdout.lines().filter(|line| !line.starts_with("ok ")).map(|line| format!("{line}\n")).collect()
}

/// The line that somebody typed, and others like it, on every subject that stages alone write.
#[tokio::test]
async fn a_slip_of_the_keyboard_is_refused_by_the_server_of_up() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    let mode = std::fs::metadata(system.key_file()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "others can read the key of the stages");
    system.expect_said(&system.key_file().to_string_lossy()).await;
    let Some(nats) = system.nats().await else { return };
    for subject in [
        "evt.retail.till.1_2026-01-31",
        "out.0of1",
        "dlq.COMMANDS.1",
        "report.retail.store-daily.1.2026-01-31",
        "due.cmd.retail.till.1_2026-01-31.close",
        "effect.retail.till.1_2026-01-31.close",
        "$KV.LEASES.command-handler-0of1",
    ] {
        let refused = nats.run(&["pub", subject, "{}"]).await;
        let said = format!("{}{}", refused.stdout, refused.stderr);
        assert!(said.contains(&format!("Permissions Violation for Publish to \"{subject}\"")), "{refused:?}");
    }
    let broker = system.broker().await;
    for stream in [COMMANDS, EVENTS, REPORTS, DEAD_LETTERS, TIMERS] {
        assert_eq!(broker.state(stream).await.unwrap().last_sequence, 0, "something is stored on {stream}");
    }
    assert_eq!(sell(&system, "S-1").await, Some(0));
    assert_eq!(troubles(&system).await, "");
    system.stop().await;
}

#[tokio::test]
async fn a_message_that_is_no_commit_is_set_aside_and_everybody_goes_on_behind_it() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    assert_eq!(sell(&system, "S-1").await, Some(0));
    let slip = &*slip(&system).await;
    let way_out = &*format!("events set-aside {slip}");
    let shown = system.millstream(&["events", "show", slip]).await.expect_success("events show").stdout;
    assert!(shown.contains("no_commit") && shown.contains("{oops"), "{shown}");

    // Views, reports and processes halt before it and name the way out; commands of the till are set aside.
    for view in ["till", "sale", "store-daily"] {
        let subject = format!("query.retail.{view}.list");
        let (code, text) =
            until(format!("{view} halts"), async || system.query(&subject, &json!({})).await.err()).await;
        assert!(code == "503" && text.contains(way_out), "{view}: {text}");
    }
    for stage in ["projector", "reporter", "process-manager"] {
        until(format!("doctor names the way out of {stage}"), async || {
            let troubles = troubles(&system).await;
            let of_stage = |line: &&str| line.contains(&format!("stage {stage}:"));
            troubles.lines().find(of_stage).filter(|line| line.contains(way_out)).map(drop)
        })
        .await;
    }
    assert_eq!(sell(&system, "S-2").await, Some(11));
    let letters = system.millstream(&["deadletters", "list"]).await.stdout;
    assert!(letters.contains("history-unreadable") && letters.contains(way_out), "{letters}");

    let because = ["--reason", "typed into the wrong window"];
    let commit =
        system.millstream(&["events", "set-aside", "1", "--actor", "anna", because[0], because[1]]).await;
    assert_eq!(commit.code(), Some(65), "a commit is never set aside: {commit:?}");
    let nobody = system.millstream(&["events", "set-aside", slip, because[0], because[1]]).await;
    assert_eq!(nobody.code(), Some(64), "who does it must be known: {nobody:?}");
    let _ended = system
        .millstream(&["events", "set-aside", slip, "--actor", "anna", because[0], because[1]])
        .await
        .expect_success("millstream events set-aside");
    let shown = system.millstream(&["events", "show", slip]).await.stdout;
    assert!(shown.contains("anna") && shown.contains(because[1]), "{shown}");

    until("everybody goes on", async || troubles(&system).await.is_empty().then_some(())).await;
    let _ended =
        system.millstream(&["deadletters", "retry", "--all"]).await.expect_success("the sale is decided now");
    assert!(system.signal("command-handler", Signal::SIGKILL));
    assert_eq!(sell(&system, "S-3").await, Some(0), "by a handler that reads the history anew");
    for sale in ["S-1", "S-2", "S-3"] {
        let key = json!({ "key": format!("1_2026-01-31/{sale}") });
        until(format!("the row of {sale}"), async || system.query("query.retail.sale.get", &key).await.ok())
            .await;
    }
    for arguments in [
        &["history", "retail", "till", "1_2026-01-31"][..],
        &["query", "retail", "sale", "1_2026-01-31/S-1", "--as-of", slip],
        &["verify", "outcomes"],
    ] {
        let _ended = system.millstream(arguments).await.expect_success(&arguments.join(" "));
    }
    system.stop().await;
}
