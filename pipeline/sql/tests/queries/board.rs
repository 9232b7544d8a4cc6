//! The statements of config/grafana/sales.json, as Grafana sends them, by the role that may only read.

use std::{fs, path::Path};

use postgres::{Client, NoTls};
use serde_json::Value;

use super::desk::Desk;

/// What Grafana puts in place of its macros and of the board's variable.
const FILLED_IN: [(&str, &str); 3] = [
    ("$__timeFrom()", "'2012-01-01T00:00:00Z'"),
    ("$__timeTo()", "'2012-02-29T23:59:59Z'"),
    ("${store:sqlstring}", "'2506','7'"),
];

fn statements() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/grafana/sales.json");
    let board: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let all = |list: &Value, name: &str| -> Vec<Value> {
        list.as_array().unwrap().iter().map(|each| each[name].clone()).collect()
    };
    let of_variables = all(&board["templating"]["list"], "query").into_iter();
    // The data source is a variable, too.
    let of_variables = of_variables.filter(|query| query.as_str().unwrap().contains(' '));
    let targets = all(&board["panels"], "targets");
    let of_panels = targets.iter().flat_map(|targets| all(targets, "rawSql"));
    let all = of_variables.chain(of_panels).map(|statement| statement.as_str().unwrap().to_owned());
    all.collect()
}

#[test]
fn every_statement_of_the_board_of_sales_has_rows() {
    let desk = Desk::new();
    let Some(server) = &desk.server else { return };
    let address = server.address("queries").replace("postgres@", "asking@");
    let mut client = Client::connect(&address, NoTls).unwrap();
    let statements = statements();
    assert!(statements.len() > 8, "{statements:?}");
    for statement in statements {
        let sent = FILLED_IN.iter().fold(statement, |text, (variable, value)| text.replace(variable, value));
        assert!(!sent.contains('$'), "Grafana has nothing for it: {sent}");
        let rows = client.query(&sent, &[]).unwrap_or_else(|error| panic!("{error:?}: {sent}"));
        assert!(!rows.is_empty(), "no rows: {sent}");
    }
}
