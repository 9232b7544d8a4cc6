//! Letters for the pages to show, and who may do what with them.

use end_to_end_tests::{
    program,
    system::{System, fresh_folder, millstream},
    waiting::until,
};
use jiff::Timestamp;
use millstream_contract::{
    dead_letter::DeadLetter, header, stored_message::StoredMessage, stream_names::COMMANDS,
};
use millstream_jetstream::dead_letter_store::DeadLetterStore;

use crate::{
    client,
    doors::{FORM, form},
    with_keys,
};

/// What a release could not decide that had a mistake, and what nobody can read.
pub(crate) async fn keep(system: &System) {
    let letter = |sequence, subject: &str, body: &[u8], code, cause| {
        let message = StoredMessage {
            subject: format!("cmdq.1.{subject}"),
            sequence,
            stored_at: Timestamp::UNIX_EPOCH,
            headers: [(header::ACTOR, "till-2506"), ("X-Note", "<script>document.title = 1</script>")]
                .into_iter()
                .collect(),
            payload: body.to_vec().into(),
        };
        DeadLetter::new(COMMANDS, &message, code, cause)
    };
    let product = |sequence, id: &str| {
        let body = format!("{{\"name\":\"{id}\",\"supplier\":\"acme\"}}");
        let cause = "the rules of retail.product panicked: attempt to subtract with overflow";
        letter(sequence, &format!("retail.product.{id}.register"), body.as_bytes(), "rules-panicked", cause)
    };
    let malformed = "the body is no command: expected value at line 1 column 1";
    let letters = [
        product(9001, "honey"),
        product(9002, "syrup"),
        letter(9003, "retail.till.2506_2026-03-14.close", b"\x00\x01close\xff", "body-malformed", malformed),
        letter(9004, "orders.order.O-9.place", b"<b>not JSON</b>", "body-malformed", malformed),
    ];
    let kept = DeadLetterStore::new(system.broker().await).try_keep(&letters).await;
    assert!(kept.iter().all(Result::is_ok), "{kept:?}");
}

#[tokio::test]
async fn whoever_may_only_look_neither_retries_nor_drops_and_that_is_in_the_audit_log() {
    const OWN: &str = "/dead-letters/COMMANDS.9003";
    let folder = fresh_folder();
    let (system, office, store) = with_keys(folder.path()).await;
    keep(&system).await;
    let client = client(&crate::address(&system));
    let of_store = client.with("Cookie", &format!("millstream-key={store}"));
    let list = of_store.get("/dead-letters").await;
    assert!(list.status == 200 && list.body.contains("COMMANDS.9003"), "{list:?}");
    assert!(!list.body.contains("COMMANDS.9001"), "another's letter: {list:?}");
    assert_eq!(of_store.get("/dead-letters/COMMANDS.9001").await.status, 403);
    let shown = of_store.get(OWN).await;
    assert!(
        !shown.body.contains("<script>document") && shown.body.contains("neither retry nor drop"),
        "{shown:?}"
    );

    let send = async |key: &str, letter: &str, action: &str| {
        let key = format!("millstream-key={key}");
        // The key of the office sees a form on the page of each letter; that of the store has the token of the page's sign-out.
        let (cookie, token) = form(&client.with("Cookie", &key), letter).await;
        let browser = client.with("Content-Type", FORM).with("Cookie", &format!("{cookie}; {key}"));
        browser.request("POST", &format!("{letter}/{action}"), &format!("form-token={token}")).await
    };
    for action in ["retry", "drop"] {
        assert_eq!(send(&store, OWN, action).await.status, 403, "{action}");
    }
    let without_token = client.with("Content-Type", FORM).with("Cookie", &format!("millstream-key={office}"));
    assert_eq!(without_token.request("POST", &format!("{OWN}/drop"), "form-token=").await.status, 403);
    assert_eq!(
        client.with("Cookie", &format!("millstream-key={office}")).get(OWN).await.status,
        200,
        "still there"
    );
    let dropped = send(&office, OWN, "drop").await;
    assert_eq!(
        dropped.header("location"),
        Some("/dead-letters?done=dropped&letter=COMMANDS.9003"),
        "{dropped:?}"
    );
    until("what was refused, and what was done, is in the audit log", async || {
        let mut audit = millstream();
        audit.args(["audit", "list", "--json"]).env("NATS_URL", system.url());
        let said = program::run(audit, b"").await.expect_success("audit list").stdout;
        let has = |parts: &[&str]| said.lines().any(|line| parts.iter().all(|part| line.contains(part)));
        let refused =
            |action: &str| has(&["letter-not-granted", "store-2506", &format!("POST {OWN}/{action}")]);
        (refused("retry") && refused("drop") && has(&["dropped", "office", "COMMANDS.9003 cmd.retail.till"]))
            .then_some(())
    })
    .await;
    system.stop().await;
}
