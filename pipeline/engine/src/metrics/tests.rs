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
    metrics.handler("0").accepted.inc();
    metrics.clone().handler("0").accepted.inc();
    let text = metrics.prometheus_text();
    assert!(text.contains("millstream_outcomes_total{share=\"0\",outcome=\"accepted\"} 2\n"), "{text}");
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
