//! The allow-lists of the stage are enough for its work.
#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

use std::{path::Path, time::Duration};

use command_handler::config::StageConfig;
use millstream_engine::{
    broker::Broker,
    command_handler::Share,
    config::{Origins, load},
    connection::{ClientIdentity, ConnectionMonitor, connect},
    health::Readiness,
    metrics::Metrics,
    nats_broker::NatsBroker,
    shutdown::Shutdown,
    stage::{StageIdentity, StageRuntime},
    stage_needs::stage_needs,
    testing::restricted_server::RestrictedServer,
};

const NAME: &str = "command-handler";
const PATIENCE: Duration = Duration::from_secs(30);

fn origins(url: &str, folder: &Path) -> Origins {
    let password = folder.join("password");
    std::fs::write(&password, RestrictedServer::PASSWORD).unwrap();
    let settings = vec![
        format!("nats.url={url}"),
        format!("nats.user={NAME}"),
        format!("nats.password_file={}", password.display()),
        format!("command_handler.data_directory={}", folder.join("data").display()),
    ];
    Origins { settings, ..Origins::default() }
}

#[tokio::test]
async fn a_user_with_the_stages_allow_lists_decides_commands() {
    let folder = tempfile::TempDir::new().unwrap();
    let needs = stage_needs(NAME, "").unwrap();
    let identity = ClientIdentity::of_stage(NAME, "");
    let lists = (needs.publish_subjects("$JS.API"), needs.subscribe_subjects(&identity.inbox_prefix));
    let server = RestrictedServer::start(&[(NAME.to_owned(), lists.0, lists.1)]).await;
    let config = load::<StageConfig>(&origins(&server.url(), folder.path())).unwrap().config;
    let client = connect(&config.nats, &identity, &ConnectionMonitor::unobserved()).await.unwrap();
    let shutdown = Shutdown::new();
    let runtime = StageRuntime {
        identity: StageIdentity { name: NAME, version: "0", about: "" },
        process: NAME.to_owned(),
        broker: NatsBroker::new(client, None),
        metrics: Metrics::new(),
        readiness: Readiness::new(),
        shutdown: shutdown.clone(),
    };
    let accepted = runtime.metrics.handler(&Share::ALL.name()).accepted;
    let stage = tokio::spawn(command_handler::run(config, runtime));

    let people = async_nats::jetstream::new(server.server().client().await);
    let body = r#"{"name":"Tea","supplier":"acme"}"#;
    people.publish("cmd.retail.product.tea.register", body.into()).await.unwrap().await.unwrap();
    let decided = async {
        while accepted.get() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, decided).await.expect("the command is decided");
    shutdown.request();
    tokio::time::timeout(PATIENCE, stage).await.expect("it ends").unwrap().unwrap();
    let administrator = server.server().broker().await;
    assert_eq!(administrator.state("EVENTS").await.unwrap().last_sequence, 1);
    let lease = administrator.last("KV_LEASES", needs.listens.first().unwrap()).await.unwrap().unwrap();
    assert!(lease.payload.is_empty(), "the lease was given back");
}
