//! The boards for Grafana, and the alerts: each expression is PromQL, about metrics that are counted. No Grafana runs here.
//! `pipeline/sql/tests/queries/board.rs` runs the statements of the board of sales.

use std::{collections::BTreeSet, fs};

use end_to_end_tests::{binaries::repository, node::Node, program};
use serde_json::Value;

/// The board that the chart brings.
pub(crate) const PIPELINE: &str = "deploy/grafana/pipeline.json";
const BOARDS: [&str; 2] = [PIPELINE, "config/grafana/sales.json"];
/// What Grafana puts in place of a variable.
const FILLED_IN: [(&str, &str); 2] = [("$__rate_interval", "1m"), ("$namespace", ".*")];

pub(crate) fn board(name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(repository().join(name)).unwrap()).unwrap()
}

fn panels(board: &Value) -> &[Value] {
    board["panels"].as_array().unwrap()
}

/// The expressions of the board of the pipeline, as Grafana sends them, and those of the alerts.
fn expressions() -> Vec<String> {
    let board = board(PIPELINE);
    let targets = panels(&board).iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let of_board = targets.map(|target| {
        let expression = target["expr"].as_str().unwrap().to_owned();
        FILLED_IN.iter().fold(expression, |text, (variable, value)| text.replace(variable, value))
    });
    let alerts = fs::read_to_string(repository().join("deploy/alerts.yaml")).unwrap();
    let alerts: Value = serde_yaml_ng::from_str(&alerts).unwrap();
    let groups = alerts["groups"].as_array().unwrap().iter();
    let rules = groups.flat_map(|group| group["rules"].as_array().unwrap());
    of_board.chain(rules.map(|rule| rule["expr"].as_str().unwrap().to_owned())).collect()
}

#[tokio::test]
async fn every_expression_is_promql_about_metrics_that_are_counted() {
    let expressions = expressions();
    assert!(expressions.len() > 40, "{}", expressions.len());
    let contract = fs::read_to_string(repository().join("docs/metrics.md")).unwrap();
    for expression in &expressions {
        assert!(!expression.contains('$'), "Grafana has no variable for it: {expression}");
        let words = expression.split(|c: char| !(c.is_ascii_lowercase() || c == '_'));
        for word in words.filter(|word| word.starts_with("millstream_")) {
            let metric = word.strip_suffix("_bucket").unwrap_or(word);
            assert!(contract.contains(&format!("| `{metric}` |")), "{metric} in {expression}");
        }
    }
    let Some(node) = Node::find() else { return };
    let read = async |expressions: &[String]| {
        let list = serde_json::to_vec(expressions).unwrap();
        program::run(node.script("promql.mjs"), &list).await.expect_success("promql.mjs").stdout
    };
    assert_eq!(read(&expressions).await, "");
    assert_eq!(read(&["sum(rate(a_total[5m])".to_owned()]).await, "sum(rate(a_total[5m]) (at 21)\n");
}

/// Grafana draws a panel over another one, or takes one for another, and says nothing.
#[test]
fn panels_have_places_and_numbers_of_their_own_and_name_runbooks_that_are_there() {
    for name in BOARDS {
        let board = board(name);
        let (mut taken, mut numbers) = (BTreeSet::new(), BTreeSet::new());
        for panel in panels(&board) {
            assert!(numbers.insert(panel["id"].as_u64().unwrap()), "{name}: {panel}");
            let place = |side: &str| panel["gridPos"][side].as_u64().unwrap();
            assert!(place("x") + place("w") <= 24, "{name}: {panel}");
            for x in place("x")..place("x") + place("w") {
                for y in place("y")..place("y") + place("h") {
                    assert!(taken.insert((x, y)), "{name}: something else is there: {panel}");
                }
            }
            let told = panel["description"].as_str().unwrap_or_default();
            if let Some((_, runbook)) = told.split_once("Runbook: ") {
                let page = format!("docs/runbooks/{}.md", runbook.trim_end_matches('.'));
                assert!(repository().join(&page).is_file(), "{name}: {page}");
            }
        }
        assert!(numbers.len() > 5, "{name}");
    }
}
