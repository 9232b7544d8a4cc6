//! That the benchmarks run, and prove what they claim to have done. Their figures are looked at by people, never asserted.

use end_to_end_tests::{
    binaries::binary,
    program::{command, run},
};
use serde_json::Value;

#[tokio::test]
async fn pipeline_benchmark_prints_both_rates_their_ratio_and_latencies() {
    let mut bench = command(binary("millstream"));
    bench.args(["bench", "pipeline", "--commands", "600", "--aggregates", "40", "--rate", "200"]);
    bench.args(["--latency-commands", "40", "--json"]);
    let ended = run(bench, b"").await.expect_success("a small benchmark");
    let figures: Value = serde_json::from_str(&ended.stdout).unwrap();
    for rate in ["bare_loop", "pipeline"] {
        assert!(figures[rate]["commands_per_second"].as_f64().unwrap() > 0.0, "{figures}");
    }
    assert!(figures["ratio"].as_f64().unwrap() > 0.0, "{figures}");
    let latency = |name: &str| figures["latency_ms"][name].as_f64().unwrap();
    assert!(latency("p50") > 0.0 && latency("p50") <= latency("p99"), "{figures}");
    assert!(latency("p99") <= latency("p999"), "{figures}");
}

#[tokio::test]
async fn rebuild_benchmark_prints_the_rates_of_each_round_and_their_ratios() {
    let mut bench = command(binary("millstream"));
    bench.args(["bench", "rebuild", "--sales", "200", "--rounds", "2", "--json"]);
    let ended = run(bench, b"").await.expect_success("a small benchmark");
    let figures: Value = serde_json::from_str(&ended.stdout).unwrap();
    // 10 skus delivered to each of 50 stores in one delivery each; 200 sales of two lines.
    assert_eq!(figures["events"], 50 + 500 + 200 + 400, "{figures}");
    let rounds = figures["rounds"].as_array().unwrap();
    assert_eq!(rounds.len(), 2, "{figures}");
    for round in rounds {
        for rate in ["bare_loop", "views", "reports"] {
            assert!(round[rate].as_f64().unwrap() > 0.0, "{figures}");
        }
    }
    assert!(figures["views_ratio"].as_f64().unwrap() > 0.0, "{figures}");
}

#[tokio::test]
async fn benchmark_without_commands_is_refused() {
    let mut bench = command(binary("millstream"));
    bench.args(["bench", "pipeline", "--commands", "0"]);
    let ended = run(bench, b"").await;
    assert_eq!(ended.code(), Some(64), "{}", ended.stderr);
    assert!(ended.stderr.contains("--commands"), "{}", ended.stderr);
}
