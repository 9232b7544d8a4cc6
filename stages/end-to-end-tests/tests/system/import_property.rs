//! For any table of rows, COMMANDS holds what the map says in the order of the file; and when some of them are refused, mended and
//! imported again, the figures are those of a table without mistakes.

use std::{
    collections::{BTreeMap, HashMap},
    process::Stdio,
};

use end_to_end_tests::{
    dumps::messages,
    system::{System, fresh_folder},
    waiting::until,
};
use millstream_contract::{header, stored_message::StoredMessage, stream_names::COMMANDS};
use millstream_jetstream::broker::Broker as _;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::Value;

use super::{figures::report, import_rows::SALES};

/// Tables on one system; each has stores and products of its own.
const TABLES: u32 = 12;
const ROWS_MAX: usize = 400;

/// What is wrong with a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mistake {
    /// The rules refuse the supplier; the sale stands.
    Supplier,
    /// No command is made of the row.
    Quantity,
}

#[derive(Debug, Clone)]
struct Row {
    store: String,
    sku: String,
    name: String,
    quantity: u64,
    mistake: Option<Mistake>,
}

impl Row {
    fn make_up(table: u32, random: &mut StdRng) -> Self {
        let pick = |random: &mut StdRng, of: u32| random.random_range(0..of);
        Self {
            store: format!("t{table}s{}", pick(random, 3)),
            sku: format!("t{table}p{}", pick(random, 4)),
            name: ["A", "B"].choose(random).unwrap().to_string(),
            quantity: random.random_range(1..5),
            mistake: match pick(random, 8) {
                0 => Some(Mistake::Supplier),
                1 => Some(Mistake::Quantity),
                _ => None,
            },
        }
    }

    fn fields(&self) -> String {
        let supplier = if self.mistake == Some(Mistake::Supplier) { "no such!" } else { "one" };
        let quantity = match self.mistake {
            Some(Mistake::Quantity) => format!("{}x", self.quantity),
            _ => self.quantity.to_string(),
        };
        format!("{},{},{},{supplier},{quantity}", self.store, self.sku, self.name)
    }
}

fn file(rows: &[Row]) -> String {
    let rows: String = rows.iter().map(|row| row.fields() + "\n").collect();
    format!("store,sku,name,supplier,quantity\n{rows}")
}

/// The map, read by hand: aggregate, command and what is in its body.
fn expected(rows: &[Row]) -> Vec<(String, String)> {
    let mut registered = HashMap::new();
    let mut commands = Vec::new();
    for row in rows.iter().filter(|row| row.mistake != Some(Mistake::Quantity)) {
        let content = (row.name.clone(), row.mistake);
        if registered.insert(&row.sku, content.clone()) != Some(content) {
            commands.push((format!("{}.register", row.sku), row.name.clone()));
        }
        commands.push((format!("{}_2012-01-31.record-sale", row.store), row.quantity.to_string()));
    }
    commands
}

/// The same of what was stored.
fn found(stored: &[StoredMessage], map: &str) -> Vec<(String, String)> {
    let of_map = |message: &&StoredMessage| {
        message.headers.get(header::COMMAND_ID).is_some_and(|id| id.starts_with(&format!("{map}:")))
    };
    let mut ids = std::collections::HashSet::new();
    let of_command = |message: &StoredMessage| {
        let body: Value = serde_json::from_slice(&message.payload).unwrap();
        let content =
            body["name"].as_str().map_or_else(|| body["lines"][0]["quantity"].to_string(), str::to_owned);
        let mut tokens = message.subject.rsplitn(3, '.');
        let (command, id) = (tokens.next().unwrap(), tokens.next().unwrap());
        (format!("{id}.{command}"), content)
    };
    // What the server was slow to acknowledge stands there twice.
    let first =
        |message: &&StoredMessage| ids.insert(message.headers.get(header::COMMAND_ID).map(str::to_owned));
    stored.iter().filter(of_map).filter(first).map(of_command).collect()
}

/// The map of this name, for the day of the reports.
fn map(name: &str) -> String {
    SALES.replace("\"sales\"", &format!("{name:?}")).replace("2026-01-31", "2012-01-31")
}

/// Every time some commands were on their way, stored or decided, and others not sent.
#[tokio::test]
async fn an_import_that_is_killed_at_ten_moments_counts_each_row_once() {
    const ROWS: usize = 3000;
    const MOMENTS: u64 = 10;
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    let mut random = StdRng::seed_from_u64(7);
    let rows: Vec<Row> = (0..ROWS).map(|_| Row { mistake: None, ..Row::make_up(0, &mut random) }).collect();
    let mut units: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for row in &rows {
        let (sales, sold) = units.entry(row.store.clone()).or_default();
        (*sales, *sold) = (*sales + 1, *sold + row.quantity);
    }
    std::fs::write(folder.path().join("rows.csv"), file(&rows)).unwrap();
    std::fs::write(folder.path().join("map.toml"), map("killed")).unwrap();
    let import = ["import", "--json", "--map", "map.toml", "--rejects", "/dev/null", "rows.csv"];
    let broker = system.broker().await;
    let stored = async || Some(broker.state(COMMANDS).await.ok()?.last_sequence);
    let (mut killed, mut before) = (0, 0);
    for moment in 1..=MOMENTS {
        let mut child = system.command(&import).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let enough = before + moment * ROWS as u64 / MOMENTS;
        until("commands of the import", async || stored().await.filter(|stored| *stored >= enough)).await;
        child.start_kill().unwrap();
        killed += u32::from(!child.wait().await.unwrap().success());
        before = stored().await.unwrap();
    }
    assert!(killed > 0, "each import was through before it could be killed");
    let ended = system.millstream(&import).await.expect_success("millstream import");
    let summary: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!([&summary["rows"], &summary["refused"]], [&Value::from(ROWS), &Value::from(0)], "{summary}");
    assert_eq!(sold(&system).await, units);
    system.stop().await;
}

/// Sales and units of each store.
async fn sold(system: &System) -> BTreeMap<String, (u64, u64)> {
    let figures = report(system, "store-daily", "store").await.into_iter();
    figures.map(|(store, figures)| (store, (figures.sales as u64, figures.units_sold as u64))).collect()
}

#[tokio::test]
async fn any_table_arrives_in_its_order_and_mended_rejects_give_its_figures() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    let seed = rand::random();
    // Seen when the test fails.
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let import = async |table: u32, file: &str, text: &str| -> Value {
        std::fs::write(folder.path().join(file), text).unwrap();
        let map = map(&format!("table {table}"));
        std::fs::write(folder.path().join("map.toml"), map).unwrap();
        let ended = system.millstream(&["import", "--json", "--map", "map.toml", file]).await;
        serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{ended:?}"))
    };
    let mut units: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for table in 0..TABLES {
        let rows: Vec<Row> =
            (0..random.random_range(1..ROWS_MAX)).map(|_| Row::make_up(table, &mut random)).collect();
        for row in &rows {
            let (sales, sold) = units.entry(row.store.clone()).or_default();
            (*sales, *sold) = (*sales + 1, *sold + row.quantity);
        }
        let name = format!("table-{table}.csv");
        let refused = rows.iter().filter(|row| row.mistake.is_some()).count();
        let summary = import(table, &name, &file(&rows)).await;
        assert_eq!(summary["refused"], refused, "{summary}");
        let stored = messages(&system.broker().await, COMMANDS).await;
        assert_eq!(found(&stored, &format!("table {table}")), expected(&rows), "table {table}");
        if refused == 0 {
            continue;
        }
        let rejects =
            std::fs::read_to_string(folder.path().join(format!("table-{table}.rejects.csv"))).unwrap();
        let mut mended = String::new();
        for line in rejects.lines() {
            let (before, quantity) = line.rsplit_once(',').unwrap();
            let line = format!("{before},{}\n", quantity.trim_end_matches('x'));
            mended.push_str(&line.replace(",no such!,", ",one,"));
        }
        let summary = import(table, &format!("mended-{table}.csv"), &mended).await;
        assert_eq!(
            [&summary["rows"], &summary["refused"]],
            [&Value::from(refused), &Value::from(0)],
            "{summary}"
        );
        let summary = import(table, &name, &file(&rows)).await;
        assert_eq!(summary["new"], 0, "{summary}");
    }
    assert_eq!(sold(&system).await, units);
    system.stop().await;
}
