//! Measures what sifted lines cost services: the same requests, with the same number in flight, go to an echo service on a plain line and to
//! one on a sifted line, in turn on one server. docs/benchmarks.md says how to run it, and what it showed.
//!
//!     sifting [REQUESTS [IN-FLIGHT [BODY-BYTES]]]

#![expect(clippy::print_stdout, reason = "a program for people")]

use std::str::FromStr;

use anyhow::{Context as _, Result, ensure};
use async_nats::Client;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use millstream_jetstream::{line::Line, testing::test_server::TestServer};
use tokio::time::Instant;

/// How often each line is measured.
const ROUNDS: usize = 9;
/// The default number of requests in a round.
const REQUESTS: usize = 50_000;
/// How many requests wait for their answer at a time.
const IN_FLIGHT: usize = 64;
/// The bytes of a request and of its answer.
const BODY_BYTES: usize = 500;

async fn echo(line: &Line, subject: &'static str) -> Result<()> {
    let client = line.client().clone();
    let mut requests = client.subscribe(subject).await?;
    client.flush().await?;
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let Some(reply) = request.reply else { continue };
            let mut headers = async_nats::HeaderMap::new();
            headers.insert("Millstream-Position", "EVENTS:1");
            // Without an answer, the requests below fail.
            drop(client.publish_with_headers(reply, headers, request.payload).await);
        }
    });
    Ok(())
}

/// Requests a second.
async fn rate(
    client: &Client,
    subject: &'static str,
    requests: usize,
    in_flight: usize,
    body: &Bytes,
) -> Result<f64> {
    let began = Instant::now();
    let answers =
        stream::iter(0..requests).map(|_| client.request(subject, body.clone())).buffer_unordered(in_flight);
    let answered =
        answers.try_fold(0, async |count, answer| Ok(count + usize::from(answer.payload == *body))).await?;
    ensure!(answered == requests, "{answered} of {requests} answers are those that were to come");
    Ok(requests as f64 / began.elapsed().as_secs_f64())
}

fn middle(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

fn argument<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    index: usize,
    otherwise: T,
) -> Result<T> {
    let Some(text) = std::env::args().nth(index) else { return Ok(otherwise) };
    text.parse().with_context(|| format!("{text} is not a number"))
}

#[tokio::main]
async fn main() -> Result<()> {
    let (requests, in_flight) = (argument(1, REQUESTS)?, argument(2, IN_FLIGHT)?);
    let body: Bytes = vec![b'x'; argument(3, BODY_BYTES)?].into();
    let server = TestServer::start().await;
    let broker = server.broker().await;
    let (plain, sifted) = (broker.line().await?, broker.sifted_line().await?);
    echo(&plain, "plain").await?;
    echo(&sifted, "sifted").await?;
    let client = server.client().await;
    for subject in ["plain", "sifted"] {
        rate(&client, subject, requests / 10, in_flight, &body).await?;
    }
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        let mut rates = [0.0; 2];
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for which in order {
            let subject = if which == 0 { "plain" } else { "sifted" };
            let measured = rate(&client, subject, requests, in_flight, &body).await?;
            if let Some(rate) = rates.get_mut(which) {
                *rate = measured;
            }
        }
        let [plain, sifted] = rates;
        println!("plain {plain:>8.0}/s   sifted {sifted:>8.0}/s   {:.2}", sifted / plain);
        ratios.push(sifted / plain);
    }
    println!(
        "{in_flight} in flight, {} bytes: the middle of the ratios is {:.2}",
        body.len(),
        middle(ratios)
    );
    Ok(())
}
