//! Finds out whether a child process is ready. It is asked; readiness is never assumed after some time.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};

/// The pause between two questions.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// A stage answers at once or not at all.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(2);
/// The answer of a stage has a status line and a few reasons.
const ANSWER_SIZE_MAX: u64 = 16 * 1024;

/// What a stage reports about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// It is ready.
    Ready,
    /// It is not ready yet, and why.
    NotReady(String),
}

/// Waits until the stage at `address` reports that it is ready. The caller limits the wait; `tell` receives what the stage reports until then.
pub(crate) async fn until_ready(address: SocketAddr, tell: impl Fn(String)) {
    loop {
        match ask(address).await {
            Readiness::Ready => return,
            Readiness::NotReady(why) => tell(why),
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// Asks `/readyz` once.
pub(crate) async fn ask(address: SocketAddr) -> Readiness {
    match timeout(ANSWER_WAIT_MAX, get(address)).await {
        Ok(Ok(answer)) => judge(&answer),
        Ok(Err(error)) => Readiness::NotReady(format!("{address} does not answer: {error}")),
        Err(_) => Readiness::NotReady(format!("{address} does not answer in time")),
    }
}

async fn get(address: SocketAddr) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(address).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    connection.take(ANSWER_SIZE_MAX).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn judge(answer: &str) -> Readiness {
    if answer.split(' ').nth(1) == Some("200") {
        return Readiness::Ready;
    }
    let body = answer.split_once("\r\n\r\n").map_or(answer, |(_, body)| body);
    Readiness::NotReady(body.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_what_follows_the_head() {
        assert_eq!(judge("HTTP/1.1 200 OK\r\n\r\nready\n"), Readiness::Ready);
        assert_eq!(
            judge("HTTP/1.1 503 Service Unavailable\r\nx: y\r\n\r\nnats: not connected\nreader: starting\n"),
            Readiness::NotReady("nats: not connected reader: starting".to_owned())
        );
    }
}
