//! The order of a file is the order in which its commands are decided.

use std::collections::HashSet;

use end_to_end_tests::{
    dumps::messages,
    system::{System, fresh_folder},
};
use millstream_contract::stream_names::COMMANDS;
use serde_json::Value;

const REPRICE: &str = "\
name = \"reprice\"
context = \"retail\"
identity = \"content\"
[[command]]
aggregate = \"product\"
id = \"{sku}\"
command = \"register\"
once = true
body = { name = \"{sku}\", supplier = \"one\" }
[[command]]
aggregate = \"product\"
id = \"{sku}\"
command = \"reprice\"
body = { unit_price = { integer = \"{price}\" }, currency = \"USD\" }
";

/// From the 129th command on, a part of what was sent together was stored backwards: the price of a product was one from the middle of
/// its list.
#[tokio::test]
async fn commands_are_stored_in_the_order_of_the_file() {
    const ROWS: u64 = 3000;
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    let rows: String = (1..=ROWS).map(|price| format!("tea,{price}\n")).collect();
    std::fs::write(folder.path().join("prices.csv"), format!("sku,price\n{rows}")).unwrap();
    std::fs::write(folder.path().join("prices.toml"), REPRICE).unwrap();
    let imported = system.millstream(&["import", "--map", "prices.toml", "prices.csv"]).await;
    let imported = imported.expect_success("millstream import");

    let stored = messages(&system.broker().await, COMMANDS).await;
    let bodies = stored.iter().filter(|message| message.subject.ends_with(".tea.reprice"));
    let mut seen = HashSet::new();
    // What the server was slow to acknowledge stands there twice.
    let prices: Vec<u64> = bodies
        .map(|message| {
            serde_json::from_slice::<Value>(&message.payload).unwrap()["unit_price"].as_u64().unwrap()
        })
        .filter(|price| seen.insert(*price))
        .collect();
    assert_eq!(prices, (1..=ROWS).collect::<Vec<_>>(), "{imported:?}");
    system.stop().await;
}
