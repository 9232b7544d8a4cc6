//! A slow disk under the server: it stands still for up to a second again and again, as a process does whose writes are not
//! taken, and what it answers comes late.
//!
//! No disk is slowed down here: that needs privileges that a test has not (a device mapper, an I/O controller). SIGSTOP stands
//! for writes and syncs that block the whole server, the proxy for acknowledgements that wait for theirs while others pass.

use std::time::Duration;

use end_to_end_tests::{
    command_load::{CommandLoad, LoadSettings},
    dumps::decided,
    nats_proxy::{Kind, NatsProxy, Seen, Verdict},
    stage_process::StageProcess,
    system::fresh_folder,
};
use millstream_contract::testing::dice::Dice;
use millstream_jetstream::{
    provision::{ProvisionOptions, provision},
    testing::test_server::TestServer,
};
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use crate::verdict::{duration, expect_kept, fences, seed};

const SLOW_FOR: Duration = Duration::from_secs(15);
/// One of so many acknowledgements is late.
const LATE_ONE_OF: u64 = 25;
const LATE_MAX: Duration = Duration::from_millis(400);
const STILL_MAX: Duration = Duration::from_millis(900);

#[tokio::test]
async fn a_slow_disk_under_the_server_costs_time_only() {
    let seed = seed("slow disk");
    let server = TestServer::start_with(|config| config.sync_interval = Some("always".to_owned())).await;
    let context = async_nats::jetstream::new(server.client().await);
    provision(&context, &ProvisionOptions::default()).await.unwrap();
    let late = move |seen: &Seen<'_>| {
        let mut dice = Dice::new(seed).fork(seen.number);
        match seen.kind {
            Kind::Acknowledgement(_) if dice.below(LATE_ONE_OF) == 0 => Verdict::Stall(dice.time(LATE_MAX)),
            _ => Verdict::Pass,
        }
    };
    let proxy = NatsProxy::start(server.process().config().port, late).await;
    let folder = fresh_folder();
    let mut handlers =
        ["1", "2"].map(|name| StageProcess::new("command-handler", name, &proxy.url(), folder.path()));
    for handler in &mut handlers {
        handler.start_ready().await;
    }
    let load = CommandLoad::start(&proxy.url(), &LoadSettings::new(seed));
    load.goes_on(20).await;
    let mut dice = Dice::new(seed);
    let end = Instant::now() + duration(SLOW_FOR);
    while Instant::now() < end {
        server.process().signal(Signal::SIGSTOP);
        sleep(dice.time(STILL_MAX)).await;
        server.process().signal(Signal::SIGCONT);
        sleep(dice.time(STILL_MAX)).await;
    }
    load.goes_on(20).await;
    let ledger = load.finish().await;
    proxy.heal().await;
    let broker = server.broker().await;
    decided(&broker).await;
    let (dump, _) = expect_kept(&broker, &server.url(), &ledger).await;
    let late: u64 = proxy.injected().values().sum();
    assert!(late > 0, "no acknowledgement was late");
    eprintln!("{late} late acknowledgements, {} takeovers", fences(&dump));
    for handler in &mut handlers {
        handler.expect_running();
    }
}
