//! `kill -9` of nats-server, again and again under load, started again on the same store.
//!
//! With `sync_interval: always` nothing may be lost, by what the server promises. With the default nothing may be lost either:
//! what the process has written is in the page cache, which survives it. What the default may lose is lost with the machine
//! (power, kernel); no process can play that.

use std::time::Duration;

use end_to_end_tests::{
    command_load::{CommandLoad, LoadSettings},
    dumps::settled,
    system::{System, fresh_folder},
};
use millstream_contract::testing::dice::Dice;
use tokio::time::sleep;

use crate::verdict::{expect_kept, seed};

const KILLS: u32 = 5;
/// Acknowledged between two kills, at least: each store that is opened again holds something new.
const BETWEEN_KILLS: u64 = 30;

async fn kill_the_server_again_and_again(sync: &[&str]) {
    let seed = seed(&format!("broker killed {sync:?}"));
    let mut dice = Dice::new(seed);
    let folder = fresh_folder();
    let system = System::start(folder.path(), sync).await;
    let load = CommandLoad::start(&system.url(), &LoadSettings::new(seed));
    for _ in 0..KILLS {
        load.goes_on(BETWEEN_KILLS).await;
        sleep(dice.time(Duration::from_millis(500))).await;
        system.kill("nats-server").await;
    }
    load.goes_on(BETWEEN_KILLS).await;
    let ledger = load.finish().await;
    let broker = system.broker().await;
    settled(&broker).await;
    let (dump, _) = expect_kept(&broker, &system.url(), &ledger).await;
    assert!(dump.commands.len() as u64 >= u64::from(KILLS) * BETWEEN_KILLS);
    system.stop().await;
}

#[tokio::test]
async fn nothing_is_lost_when_a_server_that_always_syncs_is_killed() {
    kill_the_server_again_and_again(&["--sync", "always"]).await;
}

#[tokio::test]
async fn nothing_is_lost_when_a_server_with_the_default_sync_is_killed() {
    kill_the_server_again_and_again(&[]).await;
}
