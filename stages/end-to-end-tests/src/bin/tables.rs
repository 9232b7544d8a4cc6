//! Measures how fast the stage `sql` keeps tables, beside projector and reporter over the same events, and how far its tables are behind while
//! commands come. docs/benchmarks.md says how to run it.
//!
//!     tables [SALES [ROUNDS [RATE [SECONDS]]]]
//!
//! Each round records SALES sales while the stages that keep rows stand still, and then lets one after the other catch up. After the rounds,
//! RATE commands and effects a second come for SECONDS, once beside SQLite and once beside PostgreSQL. PostgreSQL is measured where it is installed.

#![expect(clippy::print_stdout, reason = "a program for people")]

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result};
use async_nats::{Client, HeaderMap};
use end_to_end_tests::{
    command_load::stored,
    stage_process::StageProcess,
    waiting::{PATIENCE, until_within},
};
use millstream_contract::{
    header,
    position::StreamPosition,
    stored_message::Headers,
    stream_names::{COMMANDS, EVENTS},
};
use millstream_jetstream::{
    broker::{Broker as _, NewMessage},
    group_append::{AppendStrategy, GroupAppend},
    nats_broker::NatsBroker,
    testing::test_server::TestServer,
};
use millstream_sql::testing::postgres_server::PostgresServer;
use millstream_write_side::outcome_journal::decided_through;
use tokio::time::Instant;

/// Sales of a round.
const SALES: u64 = 100_000;
const ROUNDS: u64 = 3;
/// Commands and effects a second, while it is measured how far tables are behind.
const RATE: u64 = 2_000;
const SECONDS: u64 = 30;
/// Commits of a sale: its own, and one for the stock of each of its two lines. Processes send the latter.
const COMMITS_OF_A_SALE: u64 = 3;
/// How many sales are sent together.
const GROUP: u64 = 1_000;
const STORES: u64 = 50;
const SKUS: u64 = 5_000;
/// How often it is asked how far tables are behind.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// A name that PostgreSQL gives to the tables.
const DATABASE: &str = "tables";

/// Where the shop's events come from.
struct Shop {
    broker: NatsBroker,
    appends: GroupAppend<NatsBroker>,
    sent: u64,
    generation: String,
}

/// A stage that keeps rows: what it is called here, and questions that it answers when its rows show a position.
struct Keeper {
    name: &'static str,
    process: StageProcess,
    questions: &'static [&'static str],
}

impl Shop {
    async fn send(&mut self, count: u64) -> Result<()> {
        let messages: Vec<_> = (0..count).map(|_| self.next()).collect();
        for (message, appended) in messages.clone().into_iter().zip(self.appends.append_all(messages).await) {
            if appended.is_err() {
                // Because of its id, it is decided once, however often it is stored.
                stored(&self.broker, message).await;
            }
        }
        Ok(())
    }

    fn next(&mut self) -> NewMessage {
        let number = self.sent;
        self.sent += 1;
        let mut headers = Headers::new();
        headers.push(header::COMMAND_ID, format!("tables-{number}"));
        let line = |sku: u64| format!(r#"{{"sku":"{}","quantity":1,"unit_price":250}}"#, sku % SKUS);
        let lines = [line(number), line(number + SKUS / 2)].join(",");
        NewMessage {
            subject: format!(
                "cmd.retail.till.{}_2026-01-{:02}.record-sale",
                number % STORES,
                1 + number / STORES % 28
            ),
            expected_last: None,
            headers,
            payload: format!(r#"{{"sale":"{number}","currency":"USD","lines":[{lines}]}}"#).into(),
        }
    }

    async fn events(&self) -> Result<u64> {
        Ok(self.broker.state(EVENTS).await?.last_sequence)
    }

    fn position(&self, sequence: u64) -> String {
        StreamPosition::new(EVENTS, self.generation.as_str(), sequence).to_string()
    }

    /// Records sales with everything that follows from them, and returns how many commits those are.
    async fn record(&mut self, sales: u64) -> Result<u64> {
        let (before, mut left) = (self.events().await?, sales);
        while left > 0 {
            let size = left.min(GROUP);
            self.send(size).await?;
            left -= size;
        }
        let through = before + sales * COMMITS_OF_A_SALE;
        let mut reached = before;
        while reached < through {
            let moved = until_within(PATIENCE, "sales are recorded", async || {
                self.events().await.ok().filter(|now| *now > reached)
            });
            reached = moved.await;
        }
        let commands = self.broker.state(COMMANDS).await?.last_sequence;
        until_within(PATIENCE, "all is decided", async || {
            decided_through(&self.broker).await.ok().filter(|now| *now >= commands)
        })
        .await;
        Ok(self.events().await? - before)
    }
}

/// Whether rows show a position. They are waited for.
async fn shows(client: &Client, question: &str, position: &str) -> bool {
    let mut headers = HeaderMap::new();
    headers.insert(header::POSITION, position);
    headers.insert(header::WAIT_MS, "30000");
    let request = async_nats::Request::new().payload("{\"key\":\"none\"}".into()).headers(headers);
    let request = if question.ends_with("_queries") { request.payload("{}".into()) } else { request };
    let Ok(answer) = client.send_request(question.to_owned(), request.timeout(Some(PATIENCE))).await else {
        return false;
    };
    let code = answer.headers.as_ref().and_then(|headers| headers.get("Nats-Service-Error-Code"));
    // There is no row of that key: that is an answer, too.
    code.is_none_or(|code| code.as_str() == "404")
}

impl Keeper {
    /// Starts it, and returns how long it takes until its rows show a position.
    async fn caught_up(&mut self, client: &Client, position: &str) -> Duration {
        let begun = Instant::now();
        self.process.start();
        for question in self.questions {
            let mut pace = tokio::time::interval(Duration::from_millis(5));
            while !shows(client, question, position).await {
                self.process.expect_running();
                pace.tick().await;
            }
        }
        begun.elapsed()
    }
}

fn keepers(url: &str, folder: &Path, postgres: Option<&PostgresServer>) -> Vec<Keeper> {
    let keeper = |name, stage, instance, questions| Keeper {
        name,
        process: StageProcess::new(stage, instance, url, folder),
        questions,
    };
    let mut all = vec![
        keeper(
            "projector",
            "projector",
            "",
            &["query.retail.till.get", "query.retail.sale.get", "query.retail.stock.get"],
        ),
        keeper(
            "reporter",
            "reporter",
            "",
            &["query.retail.store-daily.get", "query.retail.supplier-daily.get"],
        ),
        keeper("SQLite", "sql", "", &["query.retail._queries"]),
    ];
    if let Some(postgres) = postgres {
        let mut on_server = keeper("PostgreSQL", "sql", "1", &["query.retail._queries"]);
        on_server.process = on_server.process.set(&format!("sql.database={}", postgres.address(DATABASE)));
        all.push(on_server);
    }
    all
}

/// How long tables need to show what EVENTS holds, asked again and again while sales come.
async fn behind(
    shop: &mut Shop,
    client: &Client,
    keeper: &Keeper,
    rate: u64,
    seconds: u64,
) -> Result<Vec<Duration>> {
    let question = keeper.questions.first().context("a stage that keeps rows answers something")?;
    let mut times = Vec::new();
    let (mut sales, mut looks) =
        (tokio::time::interval(Duration::from_millis(100)), tokio::time::interval(LOOK_INTERVAL));
    let end = Instant::now() + Duration::from_secs(seconds);
    let asking = shop.broker.clone();
    let generation = shop.generation.clone();
    let looking = async {
        while Instant::now() < end {
            looks.tick().await;
            let sequence = asking.state(EVENTS).await?.last_sequence;
            let position = StreamPosition::new(EVENTS, generation.as_str(), sequence).to_string();
            let begun = Instant::now();
            if !shows(client, question, &position).await {
                anyhow::bail!("{} does not answer", keeper.name);
            }
            times.push(begun.elapsed());
        }
        Ok::<_, anyhow::Error>(())
    };
    let selling = async {
        let each = (rate / COMMITS_OF_A_SALE / 10).max(1);
        while Instant::now() < end {
            sales.tick().await;
            shop.send(each).await?;
        }
        Ok(())
    };
    tokio::try_join!(looking, selling)?;
    times.sort_unstable();
    Ok(times)
}

/// Records sales while nobody keeps rows, and lets one after the other catch up.
async fn catch_up(
    shop: &mut Shop,
    client: &Client,
    keepers: &mut [Keeper],
    sales: u64,
    rounds: u64,
) -> Result<()> {
    println!("commits a second; in each round {sales} sales with what follows from them");
    println!(
        "{:>6} {}",
        "round",
        keepers.iter().map(|keeper| format!("{:>11}", keeper.name)).collect::<String>()
    );
    let mut rates = vec![Vec::new(); keepers.len()];
    for round in 1..=rounds {
        let commits = shop.record(sales).await?;
        let position = shop.position(shop.events().await?);
        let mut line = format!("{round:>6} ");
        for (keeper, rates) in keepers.iter_mut().zip(&mut rates) {
            let rate = commits as f64 / keeper.caught_up(client, &position).await.as_secs_f64();
            keeper.process.stop().await;
            rates.push(rate);
            line.push_str(&format!("{rate:>11.0}"));
        }
        println!("{line}");
    }
    let projector = rates.first().cloned().unwrap_or_default();
    for (keeper, rates) in keepers.iter().zip(&rates).skip(1) {
        let ratios = rates.iter().zip(&projector).map(|(own, of_projector)| own / of_projector).collect();
        println!("{} of the projector's rate: {:.2}", keeper.name, median(ratios));
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[tokio::main]
async fn main() -> Result<()> {
    let numbers: Result<Vec<u64>, _> = std::env::args().skip(1).map(|number| number.parse()).collect();
    let numbers = numbers.context("SALES, ROUNDS, RATE and SECONDS are whole numbers")?;
    let number = |place: usize, default: u64| numbers.get(place).copied().unwrap_or(default);
    let (sales, rounds, rate, seconds) =
        (number(0, SALES), number(1, ROUNDS), number(2, RATE), number(3, SECONDS));
    let postgres = tokio::task::spawn_blocking(|| {
        PostgresServer::start().inspect(|postgres| postgres.make_database(DATABASE))
    });
    let postgres = postgres.await?;
    let (server, folder) = (TestServer::start_provisioned().await, tempfile::tempdir()?);
    let (url, broker, client) = (server.url(), server.broker().await, server.client().await);
    let generation = broker.state(EVENTS).await?.generation;
    let mut shop = Shop {
        appends: GroupAppend::new(broker.clone(), COMMANDS, AppendStrategy::Measured),
        broker,
        sent: 0,
        generation,
    };
    let mut deciding =
        ["command-handler", "process-manager"].map(|stage| StageProcess::new(stage, "", &url, folder.path()));
    let mut keepers = keepers(&url, folder.path(), postgres.as_ref());
    for stage in &mut deciding {
        stage.start_ready().await;
    }
    // The tables are there before anything is measured: from then on they follow.
    shop.record(GROUP).await?;
    let position = shop.position(shop.events().await?);
    for keeper in &mut keepers {
        keeper.caught_up(&client, &position).await;
        keeper.process.stop().await;
    }

    catch_up(&mut shop, &client, &mut keepers, sales, rounds).await?;
    for keeper in keepers.iter_mut().skip(2) {
        let position = shop.position(shop.events().await?);
        keeper.caught_up(&client, &position).await;
        let times = behind(&mut shop, &client, keeper, rate, seconds).await?;
        let at = |percent: usize| times.get((times.len() * percent / 100).min(times.len().saturating_sub(1)));
        let [half, most, worst] =
            [50, 99, 100].map(|percent| at(percent).map_or(0.0, |time| time.as_secs_f64() * 1e3));
        println!(
            "{}: behind by {half:.0} ms (p50), {most:.0} ms (p99), {worst:.0} ms at most, of {} looks at {rate} commands a second",
            keeper.name,
            times.len()
        );
        keeper.process.stop().await;
    }
    for stage in deciding.iter_mut().rev() {
        stage.stop().await;
    }
    tokio::task::spawn_blocking(move || drop(postgres)).await?;
    Ok(())
}
