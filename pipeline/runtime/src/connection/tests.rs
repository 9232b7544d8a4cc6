//! Connecting to real servers: credentials, TLS, contexts, and the words for each failure.

use std::time::Duration;

use async_nats::connection::State;
use millstream_jetstream::{
    nats_server::free_port,
    testing::{raw_client::RawClient, test_server::TestServer},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::*;
use crate::{
    config::{Origins, Section, load_connection},
    health::Readiness,
    metrics::Metrics,
};

fn settings(values: &[String]) -> ConnectionSettings {
    load_connection(&Origins { settings: values.to_vec(), ..Origins::default() }).unwrap()
}

fn to(url: &str) -> ConnectionSettings {
    settings(&[format!("nats.url={url}")])
}

fn identity() -> ClientIdentity {
    ClientIdentity::of_stage("projector", "")
}

struct Observed {
    monitor: ConnectionMonitor,
    metrics: Metrics,
    readiness: Readiness,
}

impl Observed {
    fn new() -> Self {
        let (metrics, readiness) = (Metrics::new(), Readiness::new());
        let monitor = ConnectionMonitor::new(metrics.connection(), readiness.condition("nats"));
        Self { monitor, metrics, readiness }
    }
}

/// Waits for a condition that another task brings about.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let reached = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), reached).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn nobody_listening_ends_with_the_url_and_the_reason() {
    let url = format!("nats://127.0.0.1:{}", free_port().unwrap());
    let mut settings = to(&url);
    settings.connect_timeout = Duration::from_millis(300);
    let error = connect(&settings, &identity(), &Observed::new().monitor).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "no connection to {url} within 300ms: connection refused; check nats.url and whether nats-server runs there"
        )
    );
    assert_eq!(error.exit_code(), ExitCode::Unavailable);
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_called_so() {
    let mut settings = to("nats://no-such-host.invalid:4222");
    settings.connect_timeout = Duration::from_secs(5);
    let observed = Observed::new();
    let monitor = observed.monitor.clone();
    let trying = tokio::spawn(async move { connect(&settings, &identity(), &monitor).await });
    until("the reason", || observed.readiness.reasons().concat().contains("cannot be resolved")).await;
    trying.abort();
}

#[tokio::test]
async fn a_server_that_starts_later_is_found() {
    let mut server = TestServer::start().await;
    let settings = to(&server.url());
    server.stop().await;
    let observed = Observed::new();
    let monitor = observed.monitor.clone();
    let connecting = tokio::spawn(async move { connect(&settings, &identity(), &monitor).await });
    until("the first refusal", || observed.readiness.reasons().concat().contains("connection refused")).await;
    server.restart().await;
    let client = connecting.await.unwrap().unwrap();
    assert_eq!(client.connection_state(), State::Connected);
    assert!(observed.readiness.reasons().is_empty());
}

#[tokio::test]
async fn a_wrong_password_is_said_at_once_and_not_tried_for_ever() {
    let server = TestServer::start_with(|config| {
        config.extra = "authorization { users: [ { user: projector, password: right } ] }".to_owned();
    })
    .await;
    let folder = tempfile::TempDir::new().unwrap();
    let password = folder.path().join("password");
    let settings = settings(&[
        format!("nats.url={}", server.url()),
        "nats.user=projector".to_owned(),
        format!("nats.password_file={}", password.display()),
        "nats.connect_timeout=0".to_owned(),
    ]);
    let observed = Observed::new();

    let error = connect(&settings, &identity(), &observed.monitor).await.unwrap_err();
    assert!(matches!(error, ConnectError::File { what: "nats.password_file", .. }), "{error:?}");
    assert_eq!(error.exit_code(), ExitCode::Configuration);

    std::fs::write(&password, "wrong\n").unwrap();
    let error = connect(&settings, &identity(), &observed.monitor).await.unwrap_err();
    let words = error.to_string();
    assert!(words.contains("refuses the credentials (user projector, password in "), "{words}");
    assert!(!words.contains("wrong"), "{words}");
    assert_eq!(error.exit_code(), ExitCode::NotPermitted);

    std::fs::write(&password, "right\n").unwrap();
    let client = connect(&settings, &identity(), &observed.monitor).await.unwrap();
    client.flush().await.unwrap();
}

#[tokio::test]
async fn a_lost_server_shows_in_readiness_and_metrics_until_it_is_back() {
    let mut server = TestServer::start().await;
    let observed = Observed::new();
    let client = connect(&to(&server.url()), &identity(), &observed.monitor).await.unwrap();
    assert_eq!(observed.metrics.connection().connected.get(), 1);
    server.kill().await;
    until("not ready", || {
        observed.readiness.reasons().concat().starts_with("nats: the connection to NATS is lost")
    })
    .await;
    assert_eq!(observed.metrics.connection().connected.get(), 0);
    server.restart().await;
    until("ready again", || observed.readiness.reasons().is_empty()).await;
    assert_eq!(observed.metrics.connection().connected.get(), 1);
    assert_eq!(observed.metrics.connection().reconnects.get(), 1);
    client.flush().await.unwrap();
}

#[tokio::test]
async fn the_server_sees_the_name_and_replies_come_to_our_own_inbox() {
    let server = TestServer::start().await;
    let identity = ClientIdentity::of_stage("projector", "2");
    let client = connect(&to(&server.url()), &identity, &ConnectionMonitor::unobserved()).await.unwrap();
    assert_eq!(identity.name, "projector-2");
    assert!(client.new_inbox().starts_with("_INBOX_projector."), "{}", client.new_inbox());
}

/// A file of the test authority.
fn certificate(name: &str) -> String {
    format!("{}/src/connection/certificates/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A server that speaks TLS only and wants to see a certificate of ours.
async fn server_with_mutual_tls() -> TestServer {
    TestServer::start_with(|config| {
        config.extra = format!(
            "tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", verify: true }}",
            certificate("server.pem"),
            certificate("server-key.pem"),
            certificate("authority.pem"),
        );
    })
    .await
}

#[tokio::test]
async fn both_sides_prove_themselves_by_certificates() {
    let server = server_with_mutual_tls().await;
    let settings = settings(&[
        format!("nats.url={}", server.url()),
        format!("nats.ca_file={}", certificate("authority.pem")),
        format!("nats.cert_file={}", certificate("client.pem")),
        format!("nats.key_file={}", certificate("client-key.pem")),
    ]);
    let client = connect(&settings, &identity(), &ConnectionMonitor::unobserved()).await.unwrap();
    client.flush().await.unwrap();
}

#[tokio::test]
async fn a_sifted_line_speaks_tls_as_the_connection_does() {
    let server = server_with_mutual_tls().await;
    let first = TestServer::start_with(|config| {
        let (server, key) = (certificate("server.pem"), certificate("server-key.pem"));
        config.extra =
            format!("tls {{ cert_file: \"{server}\", key_file: \"{key}\", handshake_first: \"3s\" }}");
    })
    .await;
    let authority = format!("nats.ca_file={}", certificate("authority.pem"));
    let ours = [
        format!("nats.cert_file={}", certificate("client.pem")),
        format!("nats.key_file={}", certificate("client-key.pem")),
    ];
    let dial = async |url: String, values: &[String]| {
        let values: Vec<_> = [&[format!("nats.url={url}"), authority.clone()], values].concat();
        dialer(&settings(&values), &identity(), &ConnectionMonitor::unobserved()).dial_sifted().await
    };
    for (url, values) in [(server.url(), &ours[..]), (first.url(), &["nats.tls_first=true".to_owned()])] {
        let line = dial(url, values).await.unwrap();
        let mut heard = line.client().subscribe("subject").await.unwrap();
        line.client().publish("subject", "body".into()).await.unwrap();
        assert_eq!(&*heard.next().await.unwrap().payload, b"body");
    }
    let refused = dial(server.url(), &[]).await.unwrap_err();
    assert!(refused.to_lowercase().contains("certificate"), "{refused}");
    let nowhere = format!("nats://127.0.0.1:{}", free_port().unwrap());
    let refused = dial(nowhere.clone(), &[]).await.unwrap_err();
    assert!(refused.contains(&nowhere) && refused.contains("refused"), "{refused}");
}

#[tokio::test]
async fn a_sifted_line_has_the_name_and_the_user_of_the_connection() {
    let monitor = free_port().unwrap();
    let server = TestServer::start_with(|config| {
        config.extra = format!(
            "http: \"127.0.0.1:{monitor}\", authorization {{ users: [ {{ user: projector, password: right }} ] }}"
        );
    })
    .await;
    let folder = tempfile::TempDir::new().unwrap();
    let password = folder.path().join("password");
    let settings = settings(&[
        format!("nats.url={}", server.url()),
        "nats.user=projector".to_owned(),
        format!("nats.password_file={}", password.display()),
    ]);
    let dialer = dialer(&settings, &identity(), &ConnectionMonitor::unobserved());
    std::fs::write(&password, "wrong").unwrap();
    let refused = dialer.dial_sifted().await.unwrap_err();
    assert!(refused.contains("authorization violation"), "{refused}");
    std::fs::write(&password, "right").unwrap();
    let line = dialer.dial_sifted().await.unwrap();
    let client = line.client();
    // An answer of more than a message may be read at a time, and one without anybody who answers.
    let large = vec![b'x'; client.server_info().max_payload];
    let mut heard = client.subscribe("subject").await.unwrap();
    client.publish("subject", large.clone().into()).await.unwrap();
    assert_eq!(heard.next().await.unwrap().payload, large);
    let nobody = client.request("nobody", "".into()).await.unwrap_err();
    assert_eq!(nobody.kind(), async_nats::RequestErrorKind::NoResponders);
    let mut monitor = TcpStream::connect(("127.0.0.1", monitor)).await.unwrap();
    monitor.write_all(b"GET /connz HTTP/1.0\r\n\r\n").await.unwrap();
    let mut listed = String::new();
    monitor.read_to_string(&mut listed).await.unwrap();
    let names: Vec<_> = listed.lines().filter(|line| line.trim_start().starts_with("\"name\"")).collect();
    assert!(matches!(*names, [name] if name.contains("\"projector\"")), "{listed}");
}

/// Whoever takes a server's place says that it wants no TLS, and was told the password.
#[tokio::test]
async fn nothing_is_said_without_tls_where_certificates_are_named() {
    let server = TestServer::start().await;
    let mut settings = settings(&[
        format!("nats.url={}", server.url()),
        format!("nats.ca_file={}", certificate("authority.pem")),
    ]);
    settings.connect_timeout = Duration::from_secs(1);
    let error = connect(&settings, &identity(), &ConnectionMonitor::unobserved()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
    let dialer = dialer(&settings, &identity(), &ConnectionMonitor::unobserved());
    dialer.dial().await.unwrap_err();
    dialer.dial_sifted().await.unwrap_err();
}

#[tokio::test]
async fn a_server_of_an_unknown_authority_is_not_trusted_and_said_so() {
    let server = server_with_mutual_tls().await;
    let mut settings = settings(&[format!("nats.url={}", server.url())]);
    settings.connect_timeout = Duration::from_secs(2);
    let error = connect(&settings, &identity(), &ConnectionMonitor::unobserved()).await.unwrap_err();
    assert!(error.to_string().contains("TLS: invalid peer certificate: UnknownIssuer"), "{error}");
}

#[tokio::test]
async fn a_client_without_the_certificate_that_the_server_wants_is_told_so() {
    let server = server_with_mutual_tls().await;
    let mut settings = settings(&[
        format!("nats.url={}", server.url()),
        format!("nats.ca_file={}", certificate("authority.pem")),
    ]);
    settings.connect_timeout = Duration::from_secs(2);
    let error = connect(&settings, &identity(), &ConnectionMonitor::unobserved()).await.unwrap_err();
    assert!(error.to_string().to_lowercase().contains("certificate"), "{error}");
}

#[tokio::test]
async fn an_nkey_from_a_file_signs_and_a_file_without_one_is_named() {
    let server = TestServer::start_with(|config| {
        config.extra =
            "authorization { users: [ { nkey: UDKQPEYGDJHFU3ZDHFLTQ6CCVONRWHDJZGRSC3FCELKHBY4F4KLGAOF3 } ] }"
                .to_owned();
    })
    .await;
    let folder = tempfile::TempDir::new().unwrap();
    let seed = folder.path().join("seed.nk");
    let settings =
        settings(&[format!("nats.url={}", server.url()), format!("nats.nkey_file={}", seed.display())]);

    std::fs::write(&seed, "SUAIMB5EC4L73P2L244IMD6H2JKFPLFUX57PXU4KBNV52GD6XBYTO43YUU\n").unwrap();
    let client = connect(&settings, &identity(), &ConnectionMonitor::unobserved()).await.unwrap();
    client.flush().await.unwrap();

    std::fs::write(&seed, "not a seed\n").unwrap();
    let error = connect(&settings, &identity(), &ConnectionMonitor::unobserved()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unusable { .. }), "{error:?}");
    assert!(error.to_string().contains("seed.nk"), "{error}");
}

#[tokio::test]
async fn what_the_server_forbids_shows_in_readiness_unless_it_is_a_reply() {
    let everything = vec![">".to_owned()];
    let users = [("projector".to_owned(), vec!["unused".to_owned()], everything)];
    let server = millstream_jetstream::testing::restricted_server::RestrictedServer::start(&users).await;
    let folder = tempfile::TempDir::new().unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, millstream_jetstream::testing::restricted_server::RestrictedServer::PASSWORD)
        .unwrap();
    let settings = settings(&[
        format!("nats.url={}", server.url()),
        "nats.user=projector".to_owned(),
        format!("nats.password_file={}", password.display()),
    ]);
    let observed = Observed::new();
    let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let monitor = observed.monitor.clone().with_listener(move |event| {
        if matches!(event, async_nats::Event::ServerError(_)) {
            heard.send(()).unwrap();
        }
    });
    let client = connect(&settings, &identity(), &monitor).await.unwrap();
    // Events are handled one after the other: when the second is heard, the first has had its effect.
    for reply in ["reply.to.a.person", "reply.to.another"] {
        client.publish(reply, "".into()).await.unwrap();
        hears.recv().await.unwrap();
    }
    assert_eq!(observed.readiness.reasons(), Vec::<String>::new());
    client.publish("$JS.API.STREAM.INFO.EVENTS", "".into()).await.unwrap();
    until("the reason", || observed.readiness.reasons().concat().contains("$JS.API.STREAM.INFO.EVENTS"))
        .await;
}

#[tokio::test]
async fn a_task_that_ended_by_itself_is_noticed() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let _subscription = client.subscribe("subject").await.unwrap();
    client.flush().await.unwrap();
    let watched = client.clone();
    let watch = tokio::spawn(async move { super::ended(&watched).await });
    let mut raw = RawClient::connect(&server.url()).await;
    // The library panics at a bare carriage return.
    let end = async {
        while !watch.is_finished() {
            raw.publish("subject", "NATS/1.0\r\nX: a\rb\r\n\r\n", "").await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), end).await.expect("it is noticed");
}

/// "The server refuses" sends its reader to the server, which was asked for nothing.
#[tokio::test]
async fn credentials_that_are_gone_are_not_said_to_be_refused() {
    let server = TestServer::start_with(|config| {
        config.extra = "authorization { users: [ { user: projector, password: right } ] }".to_owned();
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, "right").unwrap();
    let settings = settings(&[
        format!("nats.url={}", server.url()),
        "nats.user=projector".to_owned(),
        format!("nats.password_file={}", password.display()),
        "nats.refused_limit=1ms".to_owned(),
    ]);
    // Hears only what is told here: the client's own news come at any time.
    let observed = Observed::new();
    let client = connect(&settings, &identity(), &Observed::new().monitor).await.unwrap();
    observed.monitor.connected(&server.url(), &client);
    let trouble = async_nats::ConnectErrorKind::Authentication.to_string();
    for is_there in [true, false] {
        if !is_there {
            std::fs::remove_file(&password).unwrap();
        }
        observed
            .monitor
            .observe(&async_nats::Event::ClientError(async_nats::ClientError::Other(trouble.clone())));
        let error = super::refused(&settings, &observed.monitor).await;
        let words =
            if is_there { "refuses the credentials" } else { "password cannot be read; check the path" };
        let code = if is_there { ExitCode::NotPermitted } else { ExitCode::Configuration };
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(error.exit_code(), code);
    }
}

/// A file that ends with its last line was "no file of credentials".
#[test]
fn the_files_of_a_connection_are_judged_without_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("user.creds");
    let problems = || settings(&[format!("nats.credentials_file={}", file.display())]).file_problems();
    assert!(problems()[0].contains("user.creds cannot be read"), "{:?}", problems());
    std::fs::write(&file, "a password").unwrap();
    assert!(
        problems()[0].ends_with("user.creds holds no JWT and seed of a user, as nsc writes them"),
        "{:?}",
        problems()
    );
    let credentials = "-----BEGIN NATS USER JWT-----\neyJ0eXAiOiJqd3QifQ\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\nSUADA3WIQ3KLHLCAXZDYWB5HZZNZOVWJB6LD27MKV57CQA7MGQVKVU7JRQ\n------END USER NKEY SEED------";
    for end in ["", "\n", "\n\n*****\n"] {
        std::fs::write(&file, format!("{credentials}{end}")).unwrap();
        assert_eq!(problems(), Vec::<String>::new(), "{end:?}");
    }
}
