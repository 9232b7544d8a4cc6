//! The real day: imported, imported again, and imported while everything is killed.

use std::{collections::BTreeMap, path::Path};

use end_to_end_tests::{
    binaries::repository,
    day::{Figures, IowaDay},
    dumps::{messages, verified},
    program::{self, Ended},
    system::{System, fresh_folder},
    waiting::until,
};
use millstream_contract::{
    header,
    outcome::OutcomeRecord,
    stored_message::StoredMessage,
    stream_names::{COMMANDS, OUTCOMES},
};
use millstream_jetstream::broker::Broker as _;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};

fn import_arguments<'a>(map: &'a str, file: &'a str, rejects: &'a str) -> Vec<&'a str> {
    vec!["import", "--json", "--timeout", "10m", "--map", map, "--rejects", rejects, file]
}

async fn import(system: &System, day: &IowaDay, rejects: &Path) -> (Ended, Value) {
    let map = repository().join("config/import/iowa-liquor.toml");
    let (map, file, rejects) = (map.to_string_lossy(), day.file.to_string_lossy(), rejects.to_string_lossy());
    let command = system.command(&import_arguments(&map, &file, &rejects));
    let ended = program::run(command, b"").await;
    let summary: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{ended:?}"));
    let code = if summary["refused"] == 0 { 0 } else { 10 };
    assert_eq!(ended.code(), Some(code), "{ended:?}");
    (ended, summary)
}

/// Row number and reason of every refused row.
fn rejected(rejects: &Path) -> Vec<(u64, String)> {
    let mut reader = csv::Reader::from_path(rejects).unwrap();
    reader
        .deserialize::<BTreeMap<String, String>>()
        .map(|row| {
            let row = row.unwrap();
            (row["import_row"].parse().unwrap(), row["import_reason"].clone())
        })
        .collect()
}

#[tokio::test]
async fn every_store_and_supplier_of_a_day_gets_its_figures_and_the_same_file_again_changes_none() {
    let folder = fresh_folder();
    let day = IowaDay::find_or_make_up(folder.path());
    let (accepted, refused) = day.accepted_and_refused();
    let system = System::start(folder.path(), &[]).await;
    let rejects = folder.path().join("rejects.csv");

    let (_, summary) = import(&system, &day, &rejects).await;
    assert_eq!(
        [&summary["rows"], &summary["new"], &summary["refused"]],
        [&json!(day.rows), &json!(accepted), &json!(refused)],
        "{summary}"
    );
    let refused_rows = rejected(&rejects);
    let numbers: Vec<u64> = refused_rows.iter().map(|(row, _)| *row).collect();
    assert_eq!(numbers, day.rows_without_price);
    assert!(
        refused_rows.iter().all(|(_, reason)| reason.contains("state_bottle_retail")),
        "{refused_rows:?}"
    );
    super::figures::expect_figures_of(&day, &system).await;
    let first = verified(&system.broker().await).await;

    let again = folder.path().join("rejects-again.csv");
    let (_, summary) = import(&system, &day, &again).await;
    assert_eq!(
        [&summary["new"], &summary["known"], &summary["refused"]],
        [&json!(0), &json!(accepted), &json!(refused)],
        "{summary}"
    );
    super::figures::expect_figures_of(&day, &system).await;
    let second = verified(&system.broker().await).await;
    assert_eq!(
        (second.events, second.commits),
        (first.events, first.commits),
        "the second import had effects"
    );
    system.stop().await;
}

/// Every process several times, in any order, each when so many commands have an outcome.
fn kills(seed: u64, commands: u64, names: impl Iterator<Item = String>) -> Vec<(u64, String)> {
    const TIMES: usize = 3;
    let mut random = StdRng::seed_from_u64(seed);
    let mut kills: Vec<(u64, String)> = names
        .flat_map(|name| std::iter::repeat_n(name, TIMES))
        .map(|name| (random.random_range(0..commands), name))
        .collect();
    kills.sort();
    kills
}

#[tokio::test]
async fn killing_every_process_several_times_during_the_import_changes_no_figure() {
    let folder = fresh_folder();
    let day = IowaDay::find_or_make_up(folder.path());
    let (accepted, refused) = day.accepted_and_refused();
    let system = System::start(folder.path(), &[]).await;
    let rejects = folder.path().join("rejects.csv");
    let importing = import(&system, &day, &rejects);

    let seed = rand::random();
    // Seen when the test fails.
    println!("seed {seed}");
    let kills = kills(seed, day.rows, system.processes().into_keys());
    let killing = async {
        let broker = system.broker().await;
        for (commands, name) in &kills {
            until(format!("outcomes of {commands} commands"), async || {
                // No answer: the server was killed a moment ago.
                let last = broker.last(OUTCOMES, "out.0of1").await.ok()??;
                let through = OutcomeRecord::from_stored(&last).unwrap().through;
                (through >= *commands).then_some(())
            })
            .await;
            system.kill(name).await;
        }
    };
    let ((_, summary), ()) = tokio::join!(importing, killing);
    assert_eq!(
        [&summary["rows"], &summary["new"], &summary["refused"]],
        [&json!(day.rows), &json!(accepted), &json!(refused)],
        "{summary}"
    );
    let restarts = |name: &String| system.processes()[name].restarts;
    assert!(kills.iter().all(|(_, name)| restarts(name) >= 3), "{:?}", system.processes());
    super::figures::expect_figures_of(&day, &system).await;
    let verification = verified(&system.broker().await).await;
    assert_eq!(verification.undecided, 0);
    system.stop().await;
}

/// A few rows of the same form, made up: what every machine can import.
const MADE_UP: &str = "\
date,store_number,store_name,city,state,zip_code,item_number,category_name,vendor_name,item_description,pack,bottle_volume_ml,state_bottle_cost,state_bottle_retail,bottles_sold,sale_dollars
2012-01-31,1,\"One, #1\",A,IA,1,10,X,Maker & Sons,\"The \"\"Ten\"\"\",12,750,4.75,7.13,2,14.26
2012-01-31,1,\"One, #1\",A,IA,1,10,X,Maker & Sons,\"The \"\"Ten\"\"\",12,750,4.75,7.13,2,14.26
2012-01-31,1,\"One, #1\",A,IA,1,11,X,Other,Eleven,12,750,1,2.5,1,2.5
2012-01-31,2,Two,A,IA,1,11,X,Other,Eleven,12,750,,,1,
2012-01-31,2,Two,A,IA,1,11,X,Other,Eleven,12,750,1,2.5,0,0
2012-01-31,2,Two,A,IA,1,11,X,Other,Eleven,12,750,1,2.5,4,10
";

#[tokio::test]
async fn rows_that_stand_twice_count_twice_and_refused_rows_say_why() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    let file = folder.path().join("made-up.csv");
    std::fs::write(&file, MADE_UP).unwrap();
    let day = IowaDay {
        file,
        stores: BTreeMap::new(),
        suppliers: BTreeMap::new(),
        rows_without_price: vec![],
        rows: 6,
    };
    let figures = |sales, units_sold, gross_amount| Figures { sales, units_sold, gross_amount };
    let stores =
        BTreeMap::from([("1".to_owned(), figures(3, 5, 3_102)), ("2".to_owned(), figures(1, 4, 1_000))]);
    let suppliers = BTreeMap::from([
        ("Maker & Sons".to_owned(), figures(0, 4, 2_852)),
        ("Other".to_owned(), figures(0, 5, 1_250)),
    ]);
    for (new, known) in [(4, 0), (0, 4)] {
        let rejects = folder.path().join(format!("rejects-{new}.csv"));
        let (_, summary) = import(&system, &day, &rejects).await;
        assert_eq!(
            [&summary["rows"], &summary["new"], &summary["known"], &summary["refused"]],
            [&json!(6), &json!(new), &json!(known), &json!(2)],
            "{summary}"
        );
        let refused = rejected(&rejects);
        assert_eq!(refused.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [4, 5]);
        assert!(refused[0].1.contains("state_bottle_retail"), "{refused:?}");
        assert!(refused[1].1.contains("quantity"), "{refused:?}");
        assert_eq!(super::figures::report(&system, "store-daily", "store").await, stores);
        assert_eq!(super::figures::report(&system, "supplier-daily", "supplier_name").await, suppliers);
    }
    system.stop().await;
}

const SALES: &str = "\
name = \"sales\"
context = \"retail\"
identity = \"content\"
[[command]]
aggregate = \"till\"
id = \"{store}_2026-01-31\"
command = \"record-sale\"
[command.body]
sale = \"{row}\"
currency = \"USD\"
[[command.body.lines]]
sku = \"{sku}\"
quantity = { integer = \"{quantity}\" }
unit_price = 5
";

/// What an import kept to itself: that a changed map of the same name has no effect, which is refused now. And it sent what stands before a line that is no
/// row, as it did under a map of a context that the application does not have, which ended with 0.
#[tokio::test]
async fn an_import_sends_nothing_of_a_broken_file_or_map_and_says_what_was_sent_before() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    let (map, file) = (folder.path().join("sales.toml"), folder.path().join("sales.csv"));
    let import = async |rows: &str, map_text: &str| {
        std::fs::write(&file, rows).unwrap();
        std::fs::write(&map, map_text).unwrap();
        system.millstream(&["import", "--map", "sales.toml", "sales.csv"]).await
    };
    let rows = "store,sku,quantity\n1,tea,1\n1,tea,2\n1,tea\n1,tea,4\n";
    let mended = rows.replace("1,tea\n", "1,tea,3\n");
    let elsewhere = SALES.replace("\"retail\"", "\"retial\"");
    for (rows, map_text, code, said) in [
        (rows, SALES, 65, "sales.csv: line 4 has 2 fields where the header has 3"),
        (
            &mended,
            &elsewhere,
            78,
            "sales.toml: line 2, column 11: there is no aggregate retial.till; there are comments.comment, ",
        ),
    ] {
        let refused = import(rows, map_text).await;
        assert_eq!((refused.code(), &*refused.stdout), (Some(code), ""), "{refused:?}");
        assert!(refused.stderr.contains(said), "{refused:?}");
        assert!(refused.stderr.contains("nothing was sent"), "{refused:?}");
    }
    let begun = import("store,sku,quantity\n1,tea,1\n1,tea,2\n", SALES).await.expect_success("two rows");
    assert!(begun.stdout.starts_with("2 rows: 2 new, 0 known, 0 without effect, 0 refused"), "{begun:?}");

    let said_before =
        "rows were imported before by a map with the name \"sales\", and keep what became of them then";
    let done = import(&mended, SALES).await.expect_success("the mended file");
    assert!(done.stdout.starts_with("4 rows: 2 new, 2 known, 0 without effect, 0 refused"), "{done:?}");
    assert!(done.stderr.contains(&format!("2 {said_before}")), "{done:?}");

    let dearer =
        SALES.replace("unit_price = 5", "unit_price = 6").replace("\"{row}\"", "\"{row}-{identity}\"");
    let changed = import(&mended, &dearer).await;
    assert_eq!(changed.code(), Some(10), "{changed:?}");
    assert!(changed.stdout.starts_with("4 rows: 0 new, 0 known, 0 without effect, 4 refused"), "{changed:?}");
    let kept = format!("changed = \"keep\"\n{dearer}");
    let unheard = import(&mended, &kept).await.expect_success("a changed map that keeps what was said");
    assert!(unheard.stderr.contains(&format!("4 {said_before}")), "{unheard:?}");
    let sold = system.report(&["store-daily", "--date", "2026-01-31", "--format", "csv"]).await.stdout;
    assert!(sold.contains("1,2026-01-31,1,open,4,0,10,0,0.50,"), "{sold}");
    let renamed = dearer.replace("name = \"sales\"", "name = \"sales at 6\"");
    let heard = import(&mended, &renamed).await.expect_success("a map of another name");
    assert!(heard.stdout.starts_with("4 rows: 4 new, 0 known"), "{heard:?}");
    system.stop().await;
}

/// Both told that no row was known before, although each command was decided for one of them alone.
#[tokio::test]
async fn of_two_imports_at_once_each_row_is_known_before_to_one() {
    const ROWS: u64 = 3000;
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    let mut rows = "store,sku,quantity\n".to_owned();
    for row in 0..ROWS {
        rows.push_str(&format!("{},tea,1\n", row % 50));
    }
    std::fs::write(folder.path().join("sales.csv"), rows).unwrap();
    std::fs::write(folder.path().join("sales.toml"), SALES).unwrap();
    let import = async |rejects: &str| {
        let arguments = ["import", "--json", "--map", "sales.toml", "--rejects", rejects, "sales.csv"];
        let ended = system.millstream(&arguments).await.expect_success("millstream import");
        serde_json::from_str::<Value>(&ended.stdout).unwrap()
    };
    let (one, other) = tokio::join!(import("one.csv"), import("other.csv"));
    assert_eq!([&one["refused"], &other["refused"]], [&json!(0); 2], "{one} {other}");
    let known = one["known"].as_u64().unwrap() + other["known"].as_u64().unwrap();
    // What had to be sent once more, since the server was too slow, may be a repeat of itself.
    let stored = messages(&system.broker().await, COMMANDS).await;
    let of_import = |message: &&StoredMessage| {
        message.headers.get(header::COMMAND_ID).is_some_and(|id| id.starts_with("sales:"))
    };
    let repeated = stored.iter().filter(of_import).count() as u64 - 2 * ROWS;
    assert!(
        (ROWS - repeated..=ROWS).contains(&known),
        "{known} of {ROWS}, {repeated} repeated: {one} {other}"
    );
    system.stop().await;
}
