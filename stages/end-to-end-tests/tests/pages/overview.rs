//! The overview: how fast it goes, what has stopped and why, how full the streams are.

use async_nats::jetstream;
use end_to_end_tests::{
    system::{System, fresh_folder},
    waiting::until,
};

use crate::{address, client, dead_letters};

#[tokio::test]
async fn the_overview_tells_rates_what_has_halted_and_what_is_set_aside() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    system.expect_said("pages for a browser").await;
    let client = client(&address(&system));
    let first = client.get("/").await;
    assert!(first.status == 200 && first.body.contains("0 a second"), "{first:?}");
    assert!(!first.body.contains("halted") && !first.body.contains("to look at"), "{first:?}");
    for stream in ["COMMANDS", "EVENTS", "OUTCOMES", "DEADLETTERS", "TIMERS", "REPORTS", "AUDIT"] {
        assert!(first.body.contains(stream), "{stream}: {first:?}");
    }

    dead_letters::keep(&system).await;
    let register = r#"{"name":"Tea","supplier":"acme"}"#;
    let sent = client.post("/v1/commands/retail/product/tea/register", register).await;
    assert_eq!(sent.status, 202, "{sent:?}");
    // Nothing else of COMMANDS is counted, so this is so for a minute from now on.
    until("the rate is told", async || client.get("/").await.body.contains("1 a minute").then_some(())).await;
    // A message that is no commit, on which views halt.
    let context = jetstream::new(system.broker().await.client().clone());
    let _stored =
        context.publish("evt.retail.till.1_2026-01-31", "{oops".into()).await.unwrap().await.unwrap();
    until("the overview tells the rest", async || {
        let body = client.get("/").await.body;
        let halted =
            body.contains("<span class=\"badge bad\">halted</span>") && body.contains(" halted at EVENTS ");
        let letters = body.contains("<a href=\"/dead-letters\">DEADLETTERS</a>")
            && body.contains("4 messages")
            && body.contains("to look at");
        (halted && letters).then_some(())
    })
    .await;
    system.stop().await;
}
