//! Live rows over faults: the last state comes, whatever is killed.

use end_to_end_tests::{
    live_stream::LiveStream,
    system::{System, fresh_folder},
    waiting::until,
};

use crate::{
    commands::clients,
    live::{price, register, reprice},
};

#[tokio::test]
async fn no_last_state_is_lost_when_projector_and_server_are_killed() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &["--set", "gateway.live_recheck=1h"]).await;
    let client = until("the gateway is told", async || clients(&system).into_iter().next()).await;
    register(&client).await;
    let mut live = LiveStream::open(&client, "watch=retail/product/tea").await;
    live.until(|event| event.data["value"]["name"] == "Tea").await;
    let mut number = 0;
    for name in ["projector", "nats-server", "projector"] {
        number += 1;
        reprice(&client, number).await;
        live.until(|event| price(&event.data) == Some(number.into())).await;
        // What changes while it is away, and right before, is there afterwards.
        number += 1;
        reprice(&client, number).await;
        system.kill(name).await;
        live.until(|event| price(&event.data) == Some(number.into())).await;
        number += 1;
        reprice(&client, number).await;
        live.until(|event| price(&event.data) == Some(number.into())).await;
    }
    let _said = system.stop().await;
}
