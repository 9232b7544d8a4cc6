//! Plain messages that no stream stores.
#![expect(clippy::unwrap_used, reason = "a scenario is a test: what it unwraps is what it asserts")]

use bytes::Bytes;
use millstream_contract::stored_message::Headers;

use super::Ground;
use crate::broker::Broker;

/// An answer is sent only to a subject that is allowed for answers; any other subject gets nothing.
pub async fn reply_goes_to_places_for_replies_alone<G: Ground>(ground: &mut G) {
    ground.listen(&["cmd.>", "$KV.>", "elsewhere.>", "_INBOX.scenario.>"]).await;
    let broker = ground.connect().await;
    for subject in ["cmd.a.b.c.d", "$KV.LEASES.a", "elsewhere.a", "_INBOX.scenario.*", "_INBOX.scenario.a"] {
        broker.send(subject, Headers::new(), Bytes::from_static(b"{}")).await.unwrap();
    }
    // The messages of one connection arrive in order, so all have come when the last one has.
    let mut heard = Vec::new();
    while !heard.iter().any(|subject| subject == "_INBOX.scenario.a") {
        heard.extend(ground.heard().await);
    }
    assert_eq!(heard, ["_INBOX.scenario.a"]);
}
