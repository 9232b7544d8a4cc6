//! Metrics as text, and that the documented table is what the stages register.

use super::*;

#[test]
fn counters_are_described_under_the_name_of_their_samples() {
    let metrics = Metrics::new();
    metrics.connection().reconnects.inc_by(3);
    let text = metrics.prometheus_text();
    assert!(
        text.contains(
            "# TYPE millstream_nats_reconnects_total counter\nmillstream_nats_reconnects_total 3\n"
        ),
        "{text}"
    );
    assert!(!text.contains("# EOF") && !text.contains("# UNIT"), "{text}");
}

#[test]
fn handles_of_one_name_count_together() {
    let metrics = Metrics::new();
    metrics.handler().accepted.inc();
    metrics.clone().handler().accepted.inc();
    let text = metrics.prometheus_text();
    assert!(text.contains("millstream_outcomes_total{outcome=\"accepted\"} 2\n"), "{text}");
    assert!(text.contains("millstream_handler_active 0\n"), "{text}");
}

#[test]
fn a_reader_that_has_caught_up_has_no_lag() {
    let metrics = Metrics::new();
    let reader = metrics.reader("EVENTS", "projector");
    reader.handled(7, 7, 3, Duration::from_millis(1500));
    assert_eq!((reader.lag_events.get(), reader.lag_seconds.get()), (3, 1.5));
    reader.handled(10, 3, 0, Duration::from_secs(9));
    assert_eq!((reader.lag_events.get(), reader.lag_seconds.get()), (0, 0.0));
    assert_eq!((reader.position.get(), reader.messages.get()), (10, 10));
}

#[test]
fn the_snapshot_has_each_sample_but_no_buckets() {
    let metrics = Metrics::new();
    metrics.reader("EVENTS", "projector").position.set(42);
    metrics.query("retail.stock.get").seconds.observe(0.5);
    let snapshot = metrics.snapshot();
    assert_eq!(snapshot["millstream_reader_position{stream=\"EVENTS\",reader=\"projector\"}"], 42);
    assert_eq!(snapshot["millstream_query_seconds_sum{endpoint=\"retail.stock.get\"}"], 0.5);
    assert!(!snapshot.to_string().contains("_bucket"), "{snapshot}");
}

/// One line a metric: name, type, labels and help, as docs/metrics.md has them.
fn contract() -> String {
    let metrics = Metrics::new();
    metrics.identify("projector", "2", "1.4.0", "0.1.0");
    let _reader = metrics.reader("EVENTS", "projector");
    let _restarts = metrics.reader_restarts("EVENTS", "projector");
    let _handler = metrics.handler();
    let _store = metrics.store("views");
    let (_live, _changes_told) = (metrics.live(), metrics.changes_told());
    let _damaged_files = metrics.damaged_files("views");
    metrics.query("retail.stock.get").answered(200);
    let _dead_letters = metrics.dead_letters("COMMANDS");
    let _projection = metrics.projection("retail.stock");
    let _report = metrics.report("store-daily");
    let _process = metrics.process("fulfilment");
    let _stream = metrics.stream("EVENTS");
    let _rejections = metrics.process_rejections("fulfilment", "refund-exceeds-payment");
    let _ = (metrics.process_active(), metrics.timers_due(), metrics.gateway_connections());
    metrics.gateway_answered("none", 404, Duration::ZERO);
    let text = metrics.prometheus_text();
    let mut lines = String::from("| metric | type | labels | what it says |\n|---|---|---|---|\n");
    let mut help = "";
    for line in text.lines() {
        if let Some((_, words)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            help = words.trim_end_matches('.');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let labels = labels_of(&text, name, kind);
            lines.push_str(&format!("| `{name}` | {kind} | {labels} | {help} |\n"));
        }
    }
    lines
}

fn labels_of(text: &str, name: &str, kind: &str) -> String {
    let sample = if kind == "histogram" { format!("{name}_sum") } else { name.to_owned() };
    let rest = text
        .lines()
        .find_map(|line| line.strip_prefix(&sample))
        .unwrap_or_else(|| panic!("{name} is registered but has no handle"));
    let Some((labels, _)) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) else {
        return String::new();
    };
    if labels.is_empty() {
        return String::new();
    }
    let names = labels.split("\",").map(|label| format!("`{}`", label.split('=').next().unwrap()));
    names.collect::<Vec<_>>().join(", ")
}

#[test]
fn the_docs_list_every_metric_and_no_other() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
    let docs = std::fs::read_to_string(path).unwrap();
    let contract = contract();
    assert!(docs.contains(&contract), "docs/metrics.md must have this table:\n\n{contract}");
    let listed = docs.lines().filter(|line| line.starts_with("| `millstream_")).count();
    assert_eq!(listed + 2, contract.lines().count());
}
