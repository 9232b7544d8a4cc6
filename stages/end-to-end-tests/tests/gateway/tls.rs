//! TLS with a certificate that is replaced while the gateway runs.

use std::{fs, path::Path, sync::Arc};

use end_to_end_tests::{
    http_client::HttpClient, stage_process::StageProcess, system::fresh_folder, waiting::until,
};
use millstream_jetstream::{nats_server::free_port, testing::test_server::TestServer};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName},
};

use crate::gateway;

/// Who signs certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate for a name, and its key.
    fn certificate(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let parameters = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (parameters.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    /// A client that trusts nobody else.
    fn client(&self) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap();
        TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
    }
}

async fn connect(client: &TlsConnector, address: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let connection = TcpStream::connect(address).await?;
    client.connect(ServerName::try_from("localhost").unwrap(), connection).await
}

/// The head of the answer to a question that leaves the connection open.
async fn ask(connection: &mut TlsStream<TcpStream>) -> String {
    connection.write_all(b"GET /v1/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(connection.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    connection.read_exact(&mut body).await.unwrap();
    head
}

fn shown(connection: &TlsStream<TcpStream>) -> Vec<u8> {
    connection.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

fn write(folder: &Path, (certificate, key): &(String, String)) {
    fs::write(folder.join("tls.crt"), certificate).unwrap();
    fs::write(folder.join("tls.key"), key).unwrap();
}

fn with_tls(process: StageProcess, folder: &Path) -> StageProcess {
    process
        .set(&format!("gateway.tls_cert_file={}", folder.join("tls.crt").display()))
        .set(&format!("gateway.tls_key_file={}", folder.join("tls.key").display()))
}

#[tokio::test]
async fn a_certificate_is_replaced_without_a_connection_that_ends() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let (authority, stranger) = (Authority::new(), Authority::new());
    write(folder.path(), &authority.certificate("localhost"));
    let (process, client) = gateway(&server.url(), folder.path());
    let mut process = with_tls(process, folder.path()).set("gateway.header_timeout=2m");
    process.start_ready().await;
    let (address, trusting) = (client.address(), authority.client());
    let mut first = connect(&trusting, address).await.unwrap();
    let head = ask(&mut first).await;
    assert!(
        head.starts_with("HTTP/1.1 200 ") && head.contains("strict-transport-security: max-age="),
        "{head}"
    );
    let refused = connect(&stranger.client(), address).await.unwrap_err();
    assert!(refused.to_string().contains("invalid peer certificate"), "{refused}");
    assert!(
        client.raw(b"GET /v1/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n").await.is_err(),
        "without TLS"
    );

    let second = authority.certificate("localhost");
    // A certificate beside the key of another one is told, and changes nothing.
    fs::write(folder.path().join("tls.crt"), &second.0).unwrap();
    until("the mistake is told", async || {
        process.readiness().await.contains("is not that of the certificate").then_some(())
    })
    .await;
    let between = connect(&trusting, address).await.unwrap();
    assert_eq!(shown(&between), shown(&first));
    write(folder.path(), &second);
    until("the new certificate is shown", async || {
        let connection = connect(&trusting, address).await.unwrap();
        (shown(&connection) != shown(&first)).then_some(())
    })
    .await;
    assert!(ask(&mut first).await.starts_with("HTTP/1.1 200 "), "the connection goes on");
    process.ready().await;
    process.stop().await;
}

#[tokio::test]
async fn whoever_begins_no_handshake_is_left_and_holds_up_nobody() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let authority = Authority::new();
    write(folder.path(), &authority.certificate("localhost"));
    let (process, client) = gateway(&server.url(), folder.path());
    let mut process = with_tls(process, folder.path()).set("gateway.header_timeout=1s");
    process.start_ready().await;
    let mut silent = TcpStream::connect(client.address()).await.unwrap();
    let mut connection = connect(&authority.client(), client.address()).await.unwrap();
    assert!(ask(&mut connection).await.starts_with("HTTP/1.1 200 "));
    let mut nothing = Vec::new();
    assert_eq!(silent.read_to_end(&mut nothing).await.unwrap(), 0);
    process.stop().await;
}

#[tokio::test]
async fn what_cannot_be_a_certificate_is_refused_at_the_start() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let authority = Authority::new();
    let (first, second) = (authority.certificate("localhost"), authority.certificate("localhost"));
    for (certificate, key, said) in [
        (first.0.as_str(), second.1.as_str(), "is not that of the certificate"),
        ("", first.1.as_str(), "is no PEM file with a certificate"),
        (first.0.as_str(), "-----BEGIN", "is no PEM file with a private key"),
    ] {
        write(folder.path(), &(certificate.to_owned(), key.to_owned()));
        let (process, _) = gateway(&server.url(), folder.path());
        let mut process = with_tls(process, folder.path());
        process.start();
        assert_eq!(process.exit_code().await, 78, "{said}");
        assert!(process.log().contains(said), "{said}: {}", process.log());
    }
    // One of the two alone is a mistake, and no gateway without TLS.
    let address = format!("127.0.0.1:{}", free_port().unwrap());
    let mut half = StageProcess::new("gateway", "", &server.url(), folder.path())
        .set(&format!("gateway.listen={address}"))
        .set(&format!("gateway.tls_cert_file={}", folder.path().join("tls.crt").display()));
    half.start();
    assert_eq!(half.exit_code().await, 78);
    assert!(half.log().contains("TLS takes both"), "{}", half.log());
    let (mut plain, client) = gateway(&server.url(), folder.path());
    plain.start_ready().await;
    let answer = HttpClient::new(client.address()).get("/v1/openapi.json").await;
    assert_eq!((answer.status, answer.header("strict-transport-security")), (200, None));
    plain.stop().await;
}
