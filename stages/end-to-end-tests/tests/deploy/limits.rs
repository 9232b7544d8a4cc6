//! What all applications together may have of the server, and what one user may.

use crate::{
    production_server::{ProductionServer, password},
    raw_client::RawClient,
};

/// What `limits` of the account APPLICATIONS says.
const APPLICATIONS_CONNECTIONS_MAX: usize = 512;
const APPLICATIONS_PAYLOAD_MAX: usize = 320 * 1024;
/// What `limits` of the account of a user says.
const STORE_CONNECTIONS_MAX: usize = 16;

#[tokio::test]
async fn applications_leave_connections_to_the_stages_and_to_users() {
    let server = ProductionServer::start().await;
    let mut held = Vec::new();
    for _ in 0..APPLICATIONS_CONNECTIONS_MAX {
        held.push(RawClient::connect(server.port, "publisher", &password("publisher")).await.unwrap());
    }
    for _ in 0..STORE_CONNECTIONS_MAX {
        held.push(RawClient::connect(server.port, "store-2506", &password("store-2506")).await.unwrap());
    }
    for user in ["publisher", "store-2506"] {
        let refused = RawClient::connect(server.port, user, &password(user)).await.err().unwrap();
        assert!(refused.to_lowercase().contains("maximum account active connections"), "{user}: {refused}");
    }
    for user in ["command-handler", "gateway", "operator"] {
        let _let_in = RawClient::connect(server.port, user, &password(user)).await.unwrap();
    }
}

#[tokio::test]
async fn applications_send_no_larger_messages_than_they_need() {
    let server = ProductionServer::start().await;
    for (user, bytes, is_taken) in [
        ("publisher", APPLICATIONS_PAYLOAD_MAX, true),
        ("publisher", APPLICATIONS_PAYLOAD_MAX + 1, false),
        ("command-handler", APPLICATIONS_PAYLOAD_MAX + 1, true),
    ] {
        let mut client = RawClient::connect(server.port, user, &password(user)).await.unwrap();
        let body = "x".repeat(bytes);
        let refused = client.ask(&format!("PUB cmd.retail.till.1.close {bytes}\r\n{body}\r\n")).await;
        assert_eq!(refused.is_empty(), is_taken, "{user}, {bytes} bytes: {refused}");
        assert!(is_taken || refused.contains("Maximum Payload"), "{refused}");
    }
}
