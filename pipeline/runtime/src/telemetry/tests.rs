//! Tests of what is told when the client library panics, over a real server.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use millstream_jetstream::testing::{raw_client::RawClient, test_server::TestServer};

use super::*;

/// Longest wait for the line.
const PATIENCE: Duration = Duration::from_secs(30);

/// Log lines that are kept.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn panic_of_the_client_is_told_with_its_place_and_its_text() {
    let server = TestServer::start().await;
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .event_format(JsonLine::new("projector", ""))
        .with_writer(move || writer.clone())
        .finish();
    // The client's tasks run on this thread.
    let _kept = tracing::subscriber::set_default(subscriber);
    tell_panics_of_the_client();
    let client = server.client().await;
    let _subscription = client.subscribe("strange").await.unwrap();
    client.flush().await.unwrap();
    let mut raw = RawClient::connect(&server.url()).await;
    // Again and again, because the server may take the first before it knows the subscription.
    let told = async {
        while !lines.text().contains("the client library met bytes") {
            raw.publish("strange", "NATS/1.0\r\nX: a\rb\r\n\r\n", "").await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("the client panics");
    let text = lines.text();
    let line = text.lines().find(|line| line.contains("the client library met bytes")).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert!(line["file"].as_str().unwrap().contains(CLIENT_SOURCE), "{line}");
    assert!(line["panic"].as_str().is_some_and(|text| text.contains("invalid header value")), "{line}");
}
