//! What is found after the week, next to what the plan expects.

use std::collections::BTreeMap;

use end_to_end_tests::{
    dumps::messages,
    system::System,
    waiting::{PATIENCE, until, until_within},
};
use millstream_contract::{
    outcome::{Outcome, OutcomeRecord},
    stream_names::{EVENTS, OUTCOMES, TIMERS},
};
use serde_json::{Value, json};

use super::plan::{Figures, Plan, UNIT_COST};

/// Every row of a view, by key.
pub(super) async fn rows(system: &System, view: &str) -> BTreeMap<String, Value> {
    let mut rows = BTreeMap::new();
    let mut cursor = Value::Null;
    loop {
        let mut body = json!({ "limit": 1_000 });
        if !cursor.is_null() {
            body["cursor"] = cursor;
        }
        let page = until(format!("a page of {view}"), async || {
            system.query(&format!("query.{view}.list"), &body).await.ok()
        })
        .await;
        for row in page["rows"].as_array().unwrap() {
            rows.insert(row["key"].as_str().unwrap().to_owned(), row["value"].clone());
        }
        cursor = page["cursor"].clone();
        if cursor.is_null() {
            return rows;
        }
    }
}

/// Waits until the projector and the reporter have applied every event.
pub(super) async fn views_are_current(system: &System) {
    let context = async_nats::jetstream::new(system.broker().await.client().clone());
    let stream = until("EVENTS", async || context.get_stream(EVENTS).await.ok()).await;
    let last = stream.cached_info().state.last_sequence;
    let generation = &stream.cached_info().config.metadata["io.millstream.generation"];
    let client = system.broker().await.client().clone();
    for view in [
        "retail.stock",
        "retail.product",
        "orders.order",
        "comments.comment",
        "retail.store-daily",
        "retail.supplier-daily",
        "retail.stock-valuation",
    ] {
        until_within(PATIENCE * 5, format!("{view} is current"), async || {
            let mut headers = async_nats::HeaderMap::new();
            headers.insert("Millstream-Position", format!("EVENTS:{generation}:{last}"));
            let subject = format!("query.{view}.list");
            let answer = client.request_with_headers(subject, headers, "{\"limit\":1}".into()).await.ok()?;
            answer.headers?.get("Nats-Service-Error-Code").is_none().then_some(())
        })
        .await;
    }
}

pub(super) async fn expect_everything(system: &System, plan: &Plan) {
    views_are_current(system).await;
    let expected = &plan.expected;
    let on_hand: BTreeMap<String, i64> = rows(system, "retail.stock")
        .await
        .into_iter()
        .filter(|(_, row)| row["version"].as_u64() != Some(0))
        .map(|(stock, row)| {
            assert_eq!(row["reserved"], 0, "{stock}: {row}");
            (stock, row["on_hand"].as_i64().unwrap())
        })
        .filter(|(stock, _)| stock != "web:absent")
        .collect();
    assert_eq!(on_hand, expected.stock);
    let negative: Vec<String> = rows(system, "retail.negative-stock").await.into_keys().collect();
    let expected_negative: Vec<String> =
        expected.stock.iter().filter(|(_, units)| **units < 0).map(|(stock, _)| stock.clone()).collect();
    assert_eq!(negative, expected_negative);
    let low: Vec<String> =
        rows(system, "retail.low-stock").await.into_keys().filter(|key| key != "web:absent").collect();
    let expected_low: Vec<String> =
        expected.stock.iter().filter(|(_, units)| **units < 10).map(|(stock, _)| stock.clone()).collect();
    assert_eq!(low, expected_low);
    assert_eq!(rows(system, "retail.reservation").await, BTreeMap::new(), "a reservation is left over");

    let prices: BTreeMap<String, i64> = rows(system, "retail.product")
        .await
        .into_iter()
        .map(|(sku, row)| (sku, row["unit_price"].as_i64().unwrap()))
        .collect();
    assert_eq!(prices, expected.prices);
    expect_figures(system, "retail.store-daily", &expected.store_daily).await;
    expect_figures(system, "retail.supplier-daily", &expected.supplier_daily).await;
    expect_valuation(system, plan).await;
    expect_orders(system, plan).await;
    expect_comments(system, plan).await;
    expect_refusals(system, plan).await;
    let timers = messages(&system.broker().await, TIMERS).await;
    assert!(timers.is_empty(), "{} timers are left over", timers.len());
}

/// The current revision of each row is sealed and says what the sums say.
async fn expect_figures(system: &System, report: &str, expected: &BTreeMap<String, Figures>) {
    let found = rows(system, report).await;
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{report}");
    for (key, figures) in expected {
        let row = &found[key];
        assert_eq!(row["status"], "sealed", "{report} {key}: {row}");
        for (name, figure) in figures {
            assert_eq!(row[*name], *figure, "{name} of {report} {key}: {row}");
        }
    }
}

/// Each location's last day ends with what is there, at what every unit of this week costs.
async fn expect_valuation(system: &System, plan: &Plan) {
    let mut expected: BTreeMap<String, i64> = BTreeMap::new();
    for (stock, units) in &plan.expected.stock {
        *expected.entry(stock.split_once(':').unwrap().0.to_owned()).or_default() += units;
    }
    let mut found: BTreeMap<String, i64> = BTreeMap::new();
    // By date: the last one of a location stands.
    for (key, row) in rows(system, "retail.stock-valuation").await {
        let units = row["units_on_hand"].as_i64().unwrap();
        assert_eq!(
            (&row["stock_value"], &row["units_without_cost"]),
            (&json!(units * UNIT_COST), &json!(0)),
            "{key}"
        );
        found.insert(row["location"].as_str().unwrap().to_owned(), units);
    }
    assert_eq!(found, expected);
}

async fn expect_orders(system: &System, plan: &Plan) {
    let found: BTreeMap<String, (String, String)> = rows(system, "orders.order")
        .await
        .into_iter()
        .map(|(order, row)| {
            let text = |field: &str| row[field].as_str().unwrap().to_owned();
            (order, (text("state"), text("customer")))
        })
        .collect();
    let expected: BTreeMap<String, (String, String)> = plan
        .expected
        .orders
        .iter()
        .map(|(order, (state, customer))| (order.clone(), ((*state).to_owned(), customer.clone())))
        .collect();
    assert_eq!(found, expected);
    let by_state: Vec<String> = rows(system, "orders.orders-by-state").await.into_keys().collect();
    let mut wanted: Vec<String> =
        expected.iter().map(|(order, (state, _))| format!("{state}/{order}")).collect();
    wanted.sort();
    assert_eq!(by_state, wanted);
    let by_customer: Vec<String> = rows(system, "orders.orders-by-customer").await.into_keys().collect();
    let mut wanted: Vec<String> =
        expected.iter().map(|(order, (_, customer))| format!("{customer}/{order}")).collect();
    wanted.sort();
    assert_eq!(by_customer, wanted);
}

async fn expect_comments(system: &System, plan: &Plan) {
    let found: BTreeMap<String, (String, String, String)> = rows(system, "comments.comment")
        .await
        .into_iter()
        .map(|(comment, row)| {
            let text = |field: &str| row[field].as_str().unwrap().to_owned();
            (comment, (text("picture"), text("author"), text("text")))
        })
        .collect();
    assert_eq!(found, plan.expected.comments);
    for (view, place) in [("comments.comments-by-picture", 0), ("comments.comments-by-author", 1)] {
        let listed = rows(system, view).await;
        assert_eq!(listed.len(), found.len(), "{view}");
        let mut last: Option<(String, String)> = None;
        for (key, row) in &listed {
            let (picture, author, _) = &found[row["comment"].as_str().unwrap()];
            let group = [picture, author][place].clone();
            assert!(key.starts_with(&format!("{group}/")), "{view} {key}");
            let created = row["created_at"].as_str().unwrap().to_owned();
            let newest_first =
                last.as_ref().is_none_or(|(of, at)| *of != group || time(at) >= time(&created));
            assert!(newest_first, "{view}: {key} is newer than the one before");
            last = Some((group, created));
        }
    }
}

fn time(text: &str) -> jiff::Timestamp {
    text.parse().unwrap()
}

/// Every refusal of a person's command was foreseen. Those of processes are part of their ways.
async fn expect_refusals(system: &System, plan: &Plan) {
    let mut found: BTreeMap<String, u64> = BTreeMap::new();
    for message in messages(&system.broker().await, OUTCOMES).await {
        for outcome in OutcomeRecord::from_stored(&message).unwrap().outcomes {
            let by_person = outcome.id.as_deref().is_some_and(|id| id.starts_with("week-"));
            match outcome.outcome {
                Outcome::Rejected { code, .. } if by_person => {
                    *found.entry(code.to_string()).or_default() += 1
                }
                Outcome::DeadLettered { code, message } => panic!("{}: {code}: {message}", outcome.address),
                _ => {}
            }
        }
    }
    let expected: BTreeMap<String, u64> =
        plan.expected.refusals.iter().map(|(code, count)| ((*code).to_owned(), *count)).collect();
    assert_eq!(found, expected);
}
