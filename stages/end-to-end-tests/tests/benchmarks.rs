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

/// One after the other: each of them takes all cores.
#[tokio::test]
async fn closed_loop_prints_rates_waits_and_costs_beside_both_bare_loops() {
    for (way, rounds_expected, more) in
        [("submit", 2, &["--rounds", "2"][..]), ("publish", 1, &["--process-manager"])]
    {
        let mut bench = command(binary("millstream"));
        bench.args(["bench", "commands", "--in-flight", "8", "--commands", "100", "--aggregates", "10"]);
        bench.args(["--way", way, "--json"]).args(more);
        let ended = run(bench, b"").await.expect_success("a small benchmark");
        let figures: Value = serde_json::from_str(&ended.stdout).unwrap();
        let rounds = figures["rounds"].as_array().unwrap();
        assert_eq!(rounds.len(), rounds_expected, "{figures}");
        for round in rounds {
            for part in ["bare_singly", "bare_in_batches", "real"] {
                assert_looks_measured(&round[part]);
            }
            assert!(round["ratio"].as_f64().unwrap() > 0.0, "{round}");
            let real = &round["real"];
            assert!(real["queryable_ms"]["p50"].as_f64().unwrap() > 0.0, "{round}");
            assert!(real["queries"].as_u64().unwrap() > 0, "{round}");
            assert!(round["bare_singly"].get("queries").is_none(), "a bare loop asks nothing: {round}");
            assert!(real["commands_a_round"].as_f64().unwrap() >= 1.0, "{round}");
            for process in figures["stages"].as_array().unwrap() {
                assert!(real["costs"][process.as_str().unwrap()].is_object(), "{process} in {round}");
            }
            for kept in ["COMMANDS", "EVENTS", "OUTCOMES"] {
                assert!(real["kept_bytes"][kept].as_f64().unwrap() > 0.0, "{kept} in {round}");
            }
            // Files of stages stand here only where they have grown: a hundred commands may fit into what they had.
        }
        assert!(figures["ratio"].as_f64().unwrap() > 0.0, "{figures}");
    }
}

fn assert_looks_measured(part: &Value) {
    let figure = |pointer: &str| {
        let found = part.pointer(pointer).and_then(Value::as_f64);
        found.unwrap_or_else(|| panic!("{pointer} is no number in {part}"))
    };
    assert!(figure("/commands") >= 100.0, "{part}");
    assert!(figure("/commands_per_second") > 0.0, "{part}");
    let [p50, p99, p999] = ["/answer_ms/p50", "/answer_ms/p99", "/answer_ms/p999"].map(figure);
    assert!(p50 > 0.0 && p50 <= p99 && p99 <= p999, "{part}");
    // The kernel counts CPU time in hundredths of a second, so a hundred commands may seem to take none: that there is a number is all
    // that can be asked for.
    for process in ["nats-server", "the benchmark"] {
        figure(&format!("/costs/{process}/cpu_us"));
        figure(&format!("/costs/{process}/written_bytes"));
    }
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
async fn arguments_without_sense_are_refused() {
    for arguments in [
        &["pipeline", "--commands", "0"][..],
        &["commands", "--commands", "0"],
        &["commands", "--commands", "1000", "--seconds", "1"],
        &["commands", "--commands", "639", "--in-flight", "64"],
    ] {
        let mut bench = command(binary("millstream"));
        bench.arg("bench").args(arguments);
        let ended = run(bench, b"").await;
        assert_eq!(ended.code(), Some(64), "{}", ended.stderr);
        assert!(ended.stderr.contains("--commands"), "{}", ended.stderr);
    }
}
