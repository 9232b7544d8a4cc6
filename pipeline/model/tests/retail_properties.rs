//! What holds of retail for any commands: deciders replay, repeats change nothing, views and reports are folds, figures
//! equal a plain sum made here, and the order in which different aggregates are handled does not matter to them.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use millstream::{
    decider::EventSet,
    projection::{Projection, Rows},
    report::{Figures, Revision},
    testing::{
        memory_rows::MemoryRows,
        project::{History, assert_repeatable, rows_of},
        sequential_handler::SequentialHandler,
    },
};
use millstream_model::retail::{
    delivery::DeliveryEvent,
    product::ProductEvent,
    till::{TillEvent, TillId, TillLine},
};
use proptest::prelude::*;
use serde_json::json;

/// A command as a person types it.
#[derive(Debug, Clone)]
struct Typed {
    address: String,
    body: String,
    time: Timestamp,
}

impl Typed {
    fn aggregate(&self) -> &str {
        self.address.rsplit_once('.').unwrap().0
    }
}

fn lines(price: &'static str) -> impl Strategy<Value = serde_json::Value> {
    let line = ("[abc]", 0_i64..4, 0_i64..3).prop_map(
        move |(sku, quantity, cents)| json!({ "sku": sku, "quantity": quantity, price: cents * 99 }),
    );
    prop::collection::vec(line, 1..4).prop_map(serde_json::Value::from)
}

fn currency() -> impl Strategy<Value = &'static str> {
    prop_oneof![9 => Just("USD"), 1 => Just("EUR")]
}

fn date() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("2012-01-31"), Just("2012-02-01")]
}

/// Address and body. Small numbers of ids, so that commands meet; some are refused.
fn command() -> impl Strategy<Value = (String, serde_json::Value)> {
    let till = || ("[12]", date()).prop_map(|(store, date)| format!("retail.till.{store}_{date}"));
    let register = ("[abc]", "[xyz]", prop::option::of("[XY]"), prop::option::of(date()));
    prop_oneof![
        8 => (till(), "[1-6]", currency(), lines("unit_price")).prop_map(|(till, sale, currency, lines)| {
            (format!("{till}.record-sale"), json!({ "sale": sale, "currency": currency, "lines": lines }))
        }),
        4 => (till(), "[1-4]", prop::option::of("[1-6]"), currency(), lines("unit_price")).prop_map(
            |(till, id, sale, currency, lines)| {
                let mut body = json!({ "return": id, "currency": currency, "lines": lines });
                if let Some(sale) = sale {
                    body["sale"] = json!(sale);
                }
                (format!("{till}.record-return"), body)
            }
        ),
        2 => till().prop_map(|till| (format!("{till}.close"), json!({}))),
        1 => date().prop_map(|date| (format!("retail.business-day.{date}.close"), json!({}))),
        2 => ("[1-4]", "[xyz]", currency(), lines("unit_cost"), prop::option::of(date())).prop_map(
            |(id, supplier, currency, lines, date)| {
                let mut body =
                    json!({ "supplier": supplier, "location": "1", "currency": currency, "lines": lines });
                if let Some(date) = date {
                    body["received_on"] = json!(date);
                }
                (format!("retail.delivery.{id}.receive"), body)
            }
        ),
        3 => register.prop_map(|(sku, supplier, name, from)| {
            let mut body = json!({ "name": "Gin", "supplier": supplier });
            if let Some(name) = name {
                body["supplier_name"] = json!(name);
            }
            if let Some(from) = from {
                body["effective_from"] = json!(from);
            }
            (format!("retail.product.{sku}.register"), body)
        }),
        1 => ("[abc]", 0_i64..3).prop_map(|(sku, price)| {
            (format!("retail.product.{sku}.reprice"), json!({ "unit_price": price, "currency": "USD" }))
        }),
        1 => "[abc]".prop_map(|sku| (format!("retail.product.{sku}.discontinue"), json!({}))),
    ]
}

/// Commands, each hours after the one before, so that they are decided on several dates.
fn commands() -> impl Strategy<Value = Vec<Typed>> {
    prop::collection::vec(command(), 1..60).prop_map(|commands| {
        let start: Timestamp = "2012-01-30T20:00:00Z".parse().unwrap();
        let typed = |(index, (address, body)): (i64, (String, serde_json::Value))| Typed {
            address,
            body: body.to_string(),
            time: start + SignedDuration::from_hours(index),
        };
        (0..).zip(commands).map(typed).collect()
    })
}

fn handled(commands: &[Typed]) -> SequentialHandler {
    let mut handler = SequentialHandler::new(millstream_model::aggregates(), "retail");
    for command in commands {
        // A refusal is as good an answer as any here.
        let _ = handler.decide(&command.address, &command.body, command.time);
    }
    handler
}

/// Interleaves the aggregates' commands anew; each aggregate's own stay in order.
fn interleaved(commands: &[Typed], choices: &[prop::sample::Index]) -> Vec<Typed> {
    let mut queues: BTreeMap<&str, Vec<&Typed>> = BTreeMap::new();
    for command in commands.iter().rev() {
        queues.entry(command.aggregate()).or_default().push(command);
    }
    let mut result = Vec::new();
    let mut choices = choices.iter().cycle();
    while !queues.is_empty() {
        let names: Vec<&str> = queues.keys().copied().collect();
        let name = *choices.next().unwrap().get(&names);
        let queue = queues.get_mut(name).unwrap();
        result.push(queue.pop().unwrap().clone());
        if queue.is_empty() {
            queues.remove(name);
        }
    }
    result
}

fn report(name: &str) -> Box<dyn Projection> {
    millstream_model::reports().into_iter().find(|report| report.name() == name).unwrap()
}

/// The revisions in a table of a report whose key starts with `prefix`.
fn revisions(rows: &MemoryRows, report: &str, table: &str, prefix: &str) -> Vec<(String, Revision)> {
    let columns = millstream_model::report_columns(report).unwrap();
    let rows = rows.scan(table, prefix).unwrap().into_iter();
    rows.map(|(key, row)| (key, Revision::from_json(columns, &row).unwrap())).collect()
}

/// The figures of the current revisions by `<date>/<key>`; rows in which everything is 0 say nothing.
fn figures(report_name: &str, history: &History) -> BTreeMap<String, Figures> {
    let rows = rows_of(report(report_name).as_ref(), history);
    let figures =
        revisions(&rows, report_name, report_name, "").into_iter().map(|(key, row)| (key, row.figures()));
    figures.filter(|(_, figures)| figures.values().any(|figure| *figure != 0)).collect()
}

fn add(sums: &mut BTreeMap<String, Figures>, key: &str, names: &[&str], figures: &[(&str, i64)]) {
    let sum = sums
        .entry(key.to_owned())
        .or_insert_with(|| names.iter().map(|name| ((*name).to_owned(), 0)).collect());
    for (name, figure) in figures {
        *sum.get_mut(*name).unwrap() += figure;
    }
}

const STORE_FIGURES: &[&str] =
    &["sales", "returns", "units_sold", "units_returned", "gross_amount", "refund_amount", "net_amount"];
const SUPPLIER_FIGURES: &[&str] = &[
    "deliveries",
    "units_delivered",
    "delivery_cost",
    "units_sold",
    "units_returned",
    "gross_amount",
    "refund_amount",
    "net_amount",
];

fn totals(lines: &[TillLine]) -> (i64, i64) {
    (
        lines.iter().map(|line| line.quantity).sum(),
        lines.iter().map(|line| line.quantity * line.unit_price).sum(),
    )
}

/// Both reports' figures, summed up plainly from what was recorded.
fn plain_sums(history: &History) -> (BTreeMap<String, Figures>, BTreeMap<String, Figures>) {
    let envelopes = || history.commits().iter().flat_map(|commit| commit.envelopes());
    let mut registrations = Vec::new();
    for envelope in envelopes().filter(|envelope| envelope.stream_id.aggregate() == "product") {
        if let ProductEvent::Registered(registered) = ProductEvent::from_envelope(&envelope).unwrap() {
            registrations.push((envelope.stream_id.id().to_owned(), registered));
        }
    }
    let supplier = |sku: &str, till: &TillId| {
        let of_sku = registrations.iter().filter(|(registered, _)| registered == sku);
        of_sku
            .map(|(_, registered)| registered)
            .filter(|registered| registered.effective_from.is_none_or(|from| from <= till.business_date))
            .max_by_key(|registered| registered.effective_from)
            .map_or("unassigned", |registered| registered.supplier.as_str())
            .to_owned()
    };
    let (mut stores, mut suppliers) = (BTreeMap::new(), BTreeMap::new());
    for envelope in envelopes() {
        match envelope.stream_id.aggregate() {
            "till" => {
                let till = TillId::parse(envelope.stream_id.id()).unwrap();
                let (lines, currency, names) = match TillEvent::from_envelope(&envelope).unwrap() {
                    TillEvent::SaleRecorded(sale) => {
                        (sale.lines, sale.currency, ["sales", "units_sold", "gross_amount"])
                    }
                    TillEvent::ReturnRecorded(entry) => {
                        (entry.lines, entry.currency, ["returns", "units_returned", "refund_amount"])
                    }
                    TillEvent::Closed(_) => continue,
                };
                let sign = if names[0] == "sales" { 1 } else { -1 };
                let figures =
                    |units, amount| [(names[1], units), (names[2], amount), ("net_amount", sign * amount)];
                let (units, amount) = totals(&lines);
                let key = format!("{}/{}", till.business_date, till.store);
                add(&mut stores, &key, STORE_FIGURES, &[(names[0], 1)]);
                add(&mut stores, &key, STORE_FIGURES, &figures(units, amount));
                for line in &lines {
                    let key = format!("{}/{}:{currency}", till.business_date, supplier(&line.sku, &till));
                    let (units, amount) = totals(std::slice::from_ref(line));
                    add(&mut suppliers, &key, SUPPLIER_FIGURES, &figures(units, amount));
                }
            }
            "delivery" => {
                let DeliveryEvent::Received(received) = DeliveryEvent::from_envelope(&envelope).unwrap();
                let key = format!("{}/{}:{}", received.business_date, received.supplier, received.currency);
                let units = received.lines.iter().map(|line| line.quantity).sum();
                let cost = received.lines.iter().map(|line| line.quantity * line.unit_cost).sum();
                let figures = [("deliveries", 1), ("units_delivered", units), ("delivery_cost", cost)];
                add(&mut suppliers, &key, SUPPLIER_FIGURES, &figures);
            }
            _ => {}
        }
    }
    (stores, suppliers)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn accepted_events_replay_to_the_state_they_were_decided_on(commands in commands()) {
        handled(&commands).assert_replay_equals_incremental();
    }

    #[test]
    fn repeated_command_changes_nothing(commands in commands()) {
        let mut handler = SequentialHandler::new(millstream_model::aggregates(), "retail");
        for Typed { address, body, time } in &commands {
            let accepted = handler.decide(address, body, *time).is_ok();
            if accepted && !address.starts_with("retail.business-day.") {
                prop_assert_eq!(handler.decide(address, body, *time), Ok(vec![]), "{} {}", address, body);
            }
        }
    }

    #[test]
    fn figures_equal_plain_sums(commands in commands()) {
        let handler = handled(&commands);
        let (stores, suppliers) = plain_sums(handler.history());
        prop_assert_eq!(figures("store-daily", handler.history()), stores);
        prop_assert_eq!(figures("supplier-daily", handler.history()), suppliers);
    }

    #[test]
    fn order_of_different_aggregates_does_not_matter_to_figures(
        commands in commands(),
        choices in prop::collection::vec(any::<prop::sample::Index>(), 1..60),
    ) {
        let (one, other) = (handled(&commands), handled(&interleaved(&commands, &choices)));
        for report in ["store-daily", "supplier-daily"] {
            prop_assert_eq!(figures(report, one.history()), figures(report, other.history()));
        }
    }

    #[test]
    fn current_revision_follows_from_the_sealed_ones(commands in commands()) {
        let handler = handled(&commands);
        for report in millstream_model::reports() {
            let mut rows = rows_of(report.as_ref(), handler.history());
            let table = report.name();
            for (key, current) in revisions(&rows, table, table, "") {
                let revisions = revisions(&rows, table, &format!("{table}.revisions"), &format!("{key}#"));
                prop_assert_eq!(&revisions.last().unwrap().1, &current);
                let numbers: Vec<u32> = revisions.iter().map(|(_, revision)| revision.revision).collect();
                prop_assert_eq!(numbers, (1..=current.revision).collect::<Vec<_>>());
                for pair in revisions.windows(2) {
                    let (before, after) = (&pair[0].1, &pair[1].1);
                    let reader: &mut dyn Rows = &mut rows;
                    let lines = reader
                        .read_all::<millstream::report::DifferenceLine>(
                            &format!("{table}.differences"),
                            &format!("{}/", pair[1].0),
                        )
                        .unwrap();
                    prop_assert_eq!(lines.len() as u64, after.difference_lines);
                    let figures = before.figures();
                    for (name, figure) in &after.figures() {
                        let sum: i64 = lines.iter().filter_map(|(_, line)| line.figures.get(name)).sum();
                        prop_assert_eq!(figures[name] + sum, *figure, "{} of {}", name, key);
                        prop_assert_eq!(after.difference().unwrap()[name], sum);
                    }
                }
            }
        }
    }
}

proptest! {
    // Each case folds each history from every cut.
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn views_and_reports_are_folds(commands in commands()) {
        let handler = handled(&commands);
        for projection in millstream_model::projections().iter().chain(&millstream_model::reports()) {
            if projection.context() == "retail" {
                assert_repeatable(projection.as_ref(), handler.history());
            }
        }
    }
}
