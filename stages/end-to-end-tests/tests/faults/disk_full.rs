//! A full disk: the server's, a handler's, a projector's. Each says so, loses nothing, and goes on when there is space again.
//! The disk is a small tmpfs (`small_disk`): it refuses writes as a full disk does, but keeps nothing over a restart of the
//! machine, which no test here needs.

use std::{fs, path::Path};

use end_to_end_tests::{
    command_load::{CommandLoad, LoadSettings},
    dumps::decided,
    small_disk::SmallDisk,
    stage_process::StageProcess,
    system::fresh_folder,
    waiting::until,
};
use millstream_contract::{
    exit_code::ExitCode,
    header,
    stored_message::Headers,
    stream_names::{COMMANDS, EVENTS},
};
use millstream_jetstream::line::Dialer;
use millstream_jetstream::{
    broker::{ATOMIC_BATCH_MAX, Broker as _, NewMessage},
    nats_broker::NatsBroker,
    nats_server::{NatsServer, NatsServerConfig, NatsServerProgram, free_port},
    provision::{ProvisionOptions, provision},
    testing::test_server::{self, TestServer},
};

use crate::{
    projector::{has_applied_everything, rows},
    verdict::{expect_kept, seed},
};

/// More than the handler's index of ids keeps in memory: after these it has written to its file.
const MANY: usize = 67;

/// A server of its own, its store on the disk.
async fn server_on(disk: &SmallDisk, folder: &Path) -> NatsServer {
    let program = test_server::program().await;
    let inside = NatsServerProgram { path: disk.script_for(&program.path, folder), version: program.version };
    let config = NatsServerConfig::new(free_port().unwrap(), disk.path().join("store"));
    NatsServer::start(inside, config, folder).await.unwrap()
}

#[tokio::test]
async fn a_server_whose_disk_was_full_goes_on_and_has_lost_nothing() {
    let seed = seed("full disk of the server");
    let Some(disk) = SmallDisk::mount(32 * 1024).await else { return };
    let folder = fresh_folder();
    let mut server = server_on(&disk, folder.path()).await;
    let client = end_to_end_tests::command_load::patient_client(&server.url()).await;
    let context = async_nats::jetstream::new(client.clone());
    provision(&context, &ProvisionOptions::default()).await.unwrap();
    let mut handler = StageProcess::new("command-handler", "", &server.url(), folder.path());
    handler.start_ready().await;
    // Whoever submits waits for outcomes. If another stream is the first that cannot be written, nobody might fill COMMANDS.
    let settings = LoadSettings { padding: 2_000, submitted: 0.0, ..LoadSettings::new(seed) };
    let load = CommandLoad::start(&server.url(), &settings);
    load.goes_on(100).await;
    disk.fill(128);
    // A stream whose write failed answers no publish any more, until the server is started again (nats-server 2.15.1).
    until("COMMANDS takes nothing any more", async || {
        let log = fs::read_to_string(server.log_path()).unwrap();
        let said = |line: &str| line.contains("> COMMANDS'") && line.contains("no space left on device");
        log.lines().any(said).then_some(())
    })
    .await;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert(header::WAIT_MS, "2000");
    let answer = client
        .request_with_headers("submit.retail.stock.busy:1.receive", headers, "{\"quantity\":1}".into())
        .await
        .unwrap();
    let said = |name: &str| answer.headers.as_ref().unwrap().get(name).unwrap().to_string();
    assert_eq!(said("Nats-Service-Error-Code"), "503");
    assert!(said("Nats-Service-Error").contains("not known to be stored yet"), "{answer:?}");
    handler.expect_running();
    disk.free();
    server.stop().await;
    server.restart().await.unwrap();
    load.goes_on(50).await;
    let ledger = load.finish().await;
    let broker = NatsBroker::new(client, Dialer::plain(&server.url()), None);
    decided(&broker).await;
    expect_kept(&broker, &server.url(), &ledger).await;
    handler.expect_running();
}

/// Commands enough to make the handler write to its files.
async fn store_many(broker: &NatsBroker) {
    for group in 0..MANY {
        let message = |number: usize| {
            let mut headers = Headers::new();
            headers.push(header::COMMAND_ID, format!("many-{group}-{number}"));
            NewMessage {
                subject: format!("cmd.retail.stock.many:{}.receive", number % 100),
                expected_last: None,
                headers,
                payload: "{\"quantity\":1}".into(),
            }
        };
        let group: Vec<NewMessage> = (0..ATOMIC_BATCH_MAX).map(message).collect();
        broker.append_atomically(COMMANDS, group).await.unwrap();
    }
}

/// It ended because of the disk, and said so.
async fn ended_for_want_of_space(stage: &mut StageProcess, file: &str) {
    let code = stage.exit_code().await;
    let log = stage.log();
    assert_eq!(code, i32::from(ExitCode::InputOutput.number()), "{log}");
    let error = log.lines().last().unwrap_or_default();
    for words in ["error: ", "no space left", "free some", file] {
        assert!(error.contains(words), "no {words:?} in {error:?}");
    }
}

#[tokio::test]
async fn a_handler_whose_disk_was_full_goes_on_and_has_lost_nothing() {
    let seed = seed("full disk of a handler");
    let Some(disk) = SmallDisk::mount(32 * 1024).await else { return };
    let server = TestServer::start_provisioned().await;
    let folder = fresh_folder();
    let data = format!("command_handler.data_directory={}", disk.path().join("handler").display());
    let new =
        || StageProcess::new("command-handler", "", &server.url(), folder.path()).set(&data).inside(&disk);
    let mut handler = new();
    handler.start_ready().await;
    let load = CommandLoad::start(&server.url(), &LoadSettings::new(seed));
    load.goes_on(100).await;
    disk.fill(0);
    let broker = server.broker().await;
    store_many(&broker).await;
    ended_for_want_of_space(&mut handler, "command-ids.redb").await;
    // Again and again while there is no space.
    handler.start();
    ended_for_want_of_space(&mut handler, "command-ids.redb").await;
    disk.free();
    handler.start_ready().await;
    load.goes_on(50).await;
    let ledger = load.finish().await;
    decided(&broker).await;
    let (dump, _) = expect_kept(&broker, &server.url(), &ledger).await;
    assert!(dump.commands.len() > MANY * ATOMIC_BATCH_MAX);
    handler.stop().await;
}

#[tokio::test]
async fn a_projector_whose_disk_was_full_goes_on_to_the_same_rows() {
    let seed = seed("full disk of a projector");
    let Some(disk) = SmallDisk::mount(32 * 1024).await else { return };
    let server = TestServer::start_provisioned().await;
    let folder = fresh_folder();
    let mut handler = StageProcess::new("command-handler", "", &server.url(), folder.path());
    handler.start_ready().await;
    let data = format!("projector.data_directory={}", disk.path().join("projector").display());
    let mut projector =
        StageProcess::new("projector", "", &server.url(), folder.path()).set(&data).inside(&disk);
    projector.start_ready().await;
    let load = CommandLoad::start(&server.url(), &LoadSettings::new(seed));
    load.goes_on(100).await;
    disk.fill(0);
    ended_for_want_of_space(&mut projector, "rows.redb").await;
    load.goes_on(100).await;
    disk.free();
    projector.start_ready().await;
    let ledger = load.finish().await;
    let broker = server.broker().await;
    decided(&broker).await;
    expect_kept(&broker, &server.url(), &ledger).await;
    assert!(broker.state(EVENTS).await.unwrap().last_sequence > 100);
    has_applied_everything(&broker).await;
    projector.stop().await;
    let mut rebuilt = StageProcess::new("projector", "", &server.url(), folder.path());
    rebuilt.start_ready().await;
    has_applied_everything(&broker).await;
    rebuilt.stop().await;
    let copy = folder.path().join("copy.redb");
    fs::copy(disk.from_outside("projector/rows.redb"), &copy).unwrap();
    assert_eq!(rows(&copy), rows(&folder.path().join("projector/rows.redb")));
}
