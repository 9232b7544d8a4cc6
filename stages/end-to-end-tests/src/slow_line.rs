//! A line to a server on which everything takes some time, as between two places: bytes go in their order, as many at a time as there are.
//! Whoever asks one question after the other is slow on it; whoever asks many together is not.

use std::{net::Ipv4Addr, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    task::JoinHandle,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// Pieces on the way at a time, in one direction of a connection. Then whoever sends has to wait.
const PIECES_MAX: usize = 1024;
/// The largest piece.
const PIECE_BYTES: usize = 64 * 1024;

/// The line; it ends with the value.
#[derive(Debug)]
pub struct SlowLine {
    port: u16,
    accepting: JoinHandle<()>,
    ending: CancellationToken,
}

impl SlowLine {
    /// Listens on a port of its own, and passes everything on to the server on `server_port` and back, each way after `delay`.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn start(server_port: u16, delay: Duration) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("the loopback interface has a free port");
        let port = listener.local_addr().expect("a listener knows where it listens").port();
        let ending = CancellationToken::new();
        let accepting = tokio::spawn(accept(listener, server_port, delay, ending.clone()));
        Self { port, accepting, ending }
    }

    /// Where clients connect.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://{}:{}", Ipv4Addr::LOCALHOST, self.port)
    }
}

impl Drop for SlowLine {
    fn drop(&mut self) {
        self.accepting.abort();
        self.ending.cancel();
    }
}

async fn accept(listener: TcpListener, server_port: u16, delay: Duration, ending: CancellationToken) {
    while let Ok((client, _)) = listener.accept().await {
        // While the server is down the client's connection just ends, as it would without this line.
        let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server_port)).await else { continue };
        // Only speed is lost where that fails.
        let _slower = (client.set_nodelay(true), server.set_nodelay(true));
        let (client_reads, client_writes) = client.into_split();
        let (server_reads, server_writes) = server.into_split();
        let cut = ending.child_token();
        for (from, to) in [(client_reads, server_writes), (server_reads, client_writes)] {
            let cut = cut.clone();
            tokio::spawn(async move {
                let (sent, coming) = mpsc::channel(PIECES_MAX);
                let way = async { tokio::join!(take(from, delay, sent), bring(coming, to)) };
                // Where one direction ends, the connection does.
                if cut.run_until_cancelled(way).await.is_some() {
                    cut.cancel();
                }
            });
        }
    }
}

/// Takes what is sent, and notes when it arrives.
async fn take(mut from: OwnedReadHalf, delay: Duration, sent: mpsc::Sender<(Instant, Bytes)>) {
    loop {
        let mut piece = BytesMut::with_capacity(PIECE_BYTES);
        if !matches!(from.read_buf(&mut piece).await, Ok(1..)) {
            return;
        }
        if sent.send((Instant::now() + delay, piece.freeze())).await.is_err() {
            return;
        }
    }
}

/// Brings it, each piece in its time.
async fn bring(mut coming: mpsc::Receiver<(Instant, Bytes)>, mut to: OwnedWriteHalf) {
    while let Some((due, piece)) = coming.recv().await {
        tokio::time::sleep_until(due).await;
        if to.write_all(&piece).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn what_is_sent_arrives_in_its_order_after_the_delay_both_ways() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let line = SlowLine::start(listener.local_addr().unwrap().port(), DELAY).await;
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (mut reads, mut writes) = client.split();
                tokio::io::copy(&mut reads, &mut writes).await.unwrap();
            }
        });
        let address = line.url().trim_start_matches("nats://").to_owned();
        let (mut reads, mut writes) = TcpStream::connect(address).await.unwrap().into_split();
        let sent: Vec<u8> = (0..1_000_000_u32).map(|number| number as u8).collect();
        let began = Instant::now();
        let sending = sent.clone();
        tokio::spawn(async move {
            writes.write_all(&sending).await.unwrap();
            // The other direction ends with this one.
            std::future::pending::<()>().await;
        });
        let mut first = [0];
        reads.read_exact(&mut first).await.unwrap();
        assert!(began.elapsed() >= 2 * DELAY);
        let mut rest = vec![0; sent.len() - 1];
        reads.read_exact(&mut rest).await.unwrap();
        assert!([&first[..], &rest].concat() == sent);
    }
}
