//! The allow-lists of the stage are enough for its work.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends where something unexpected happens"
)]

use std::{path::Path, time::Duration};

use command_handler::config::StageConfig;
use millstream_jetstream::{
    broker::Broker, nats_broker::NatsBroker, testing::restricted_server::RestrictedServer,
};
use millstream_runtime::{
    config::{Origins, load},
    connection::{ClientIdentity, ConnectionMonitor, connect, dialer},
    health::Readiness,
    metrics::Metrics,
    shutdown::Shutdown,
    stage::{StageIdentity, StageRuntime},
    stage_needs::stage_needs,
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
    let mut lists = (
        needs.publish_subjects("$JS.API", &identity.inbox_prefix),
        needs.subscribe_subjects(&identity.inbox_prefix),
    );
    // Where senders want their outcomes, as in config/nats-accounts.conf.
    lists.0.extend(["_INBOX.>", "_R_.>", "reply.>"].map(str::to_owned));
    let server = RestrictedServer::start(&[(NAME.to_owned(), lists.0, lists.1)]).await;
    let config = load::<StageConfig>(&origins(&server.url(), folder.path())).unwrap().config;
    let client = connect(&config.nats, &identity, &ConnectionMonitor::unobserved()).await.unwrap();
    let dialer = dialer(&config.nats, &identity, &ConnectionMonitor::unobserved());
    let shutdown = Shutdown::new();
    let runtime = StageRuntime {
        identity: StageIdentity { name: NAME, version: "0.0.0", about: "" },
        process: NAME.to_owned(),
        broker: NatsBroker::new(client, dialer, None),
        metrics: Metrics::new(),
        readiness: Readiness::new(),
        shutdown: shutdown.clone(),
    };
    let accepted = runtime.metrics.handler().accepted;
    let mut stage = tokio::spawn(command_handler::run::<millstream_model::Reference>(config, runtime));

    let people = async_nats::jetstream::new(server.server().client().await);
    let body = r#"{"name":"Tea","supplier":"acme"}"#;
    people.publish("cmd.retail.product.tea.register", body.into()).await.unwrap().await.unwrap();
    let decided = async {
        while accepted.get() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        decided = tokio::time::timeout(PATIENCE, decided) => decided.expect("the command is decided"),
        ended = &mut stage => panic!("the stage ended: {ended:?}"),
    }
    submissions_are_answered(&server.server().client().await).await;
    shutdown.request();
    tokio::time::timeout(PATIENCE, stage).await.expect("it ends").unwrap().unwrap();
    let administrator = server.server().broker().await;
    assert_eq!(administrator.state("EVENTS").await.unwrap().last_sequence, 2);
    let lease = administrator.last("KV_LEASES", needs.listens.first().unwrap()).await.unwrap().unwrap();
    assert!(lease.payload.is_empty(), "the lease was given back");
}

/// What `nats req submit.…` answers: the outcome, or an error that says what to do.
async fn submissions_are_answered(client: &async_nats::Client) {
    let submit = async |subject: &str, headers: &[(&str, &str)], body: &str| {
        let mut map = async_nats::HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, *value);
        }
        let request = async_nats::Request::new().headers(map).payload(body.to_owned().into());
        client.send_request(subject.to_owned(), request.timeout(Some(PATIENCE))).await.unwrap()
    };
    let outcome = |message: &async_nats::Message| -> serde_json::Value {
        serde_json::from_slice(&message.payload).unwrap()
    };
    let reprice = r#"{"unit_price":250,"currency":"EUR"}"#;
    let id = [("Millstream-Command-Id", "reprice-1"), ("Millstream-Actor", "ada")];
    let first = outcome(&submit("submit.retail.product.tea.reprice", &id, reprice).await);
    assert_eq!(
        (first["outcome"].as_str(), first["command_id"].as_str()),
        (Some("accepted"), Some("reprice-1"))
    );
    let again = outcome(&submit("submit.retail.product.tea.reprice", &id, reprice).await);
    assert_eq!(again["outcome"].as_str(), Some("duplicate"), "{again}");
    let rejected = outcome(&submit("submit.retail.product.coffee.reprice", &[], reprice).await);
    assert_eq!(rejected["outcome"].as_str(), Some("rejected"), "{rejected}");

    // Many at once: one that is wrong spoils none of its neighbours.
    let many = (0..50).map(|number| {
        let body = if number == 7 { "no JSON" } else { r#"{"name":"Tea","supplier":"acme"}"# };
        submit("submit.retail.product.tea.register", &[], body)
    });
    let outcomes: Vec<_> = futures::future::join_all(many).await.iter().map(outcome).collect();
    let dead = outcomes.iter().filter(|outcome| outcome["outcome"] == "dead-lettered").count();
    let accepted = outcomes.iter().filter(|outcome| outcome["outcome"] == "accepted").count();
    assert_eq!((accepted, dead), (49, 1), "{outcomes:?}");

    let error = submit("submit.retail.product.tea.reprice", &[("Millstream-Wait-Ms", "soon")], reprice).await;
    let headers = error.headers.unwrap();
    assert_eq!(headers.get("Nats-Service-Error-Code").unwrap().as_str(), "400");
    assert!(headers.get("Nats-Service-Error").unwrap().as_str().contains("Millstream-Wait-Ms"));
}
