//! Views and reports as tables beside everything else: what `millstream up` keeps, and what `millstream sql` answers.

use std::path::Path;

use end_to_end_tests::{
    binaries::repository,
    stage_process::StageProcess,
    system::{System, fresh_folder},
    waiting::until,
};
use millstream_sql::testing::damage::damage_table;

const SALE: &str = r#"{"sale":"S1","currency":"USD","lines":[{"sku":"1","quantity":3,"unit_price":250}]}"#;
const TILLS: &str = "SELECT store, business_date, units_sold, net_amount FROM retail.till";

/// The setting that names the queries of this repository.
fn configured_queries() -> String {
    format!("sql.queries={}", repository().join("config/queries").display())
}

/// A system with tables, in which one sale has arrived.
async fn with_a_sale(folder: &Path) -> (System, String) {
    let system = System::start_with_tables(folder, &["--set", &configured_queries()]).await;
    system.expect_said("tables of views and reports: millstream sql --database ").await;
    let sent = ["send", "retail", "till", "1_2026-01-31", "record-sale", SALE, "--id", "first"];
    let _said = system.millstream(&sent).await.expect_success("millstream send");
    let database = folder.join("data/sql/replica.sqlite").to_str().unwrap().to_owned();
    until("the sale is in its table", async || {
        let asked = ["sql", "--database", &database, "--format", "csv", "--command", TILLS];
        let answer = system.millstream(&asked).await.expect_success("millstream sql");
        answer.stdout.contains("1,2026-01-31,3,750").then_some(())
    })
    .await;
    (system, database)
}

#[tokio::test]
async fn a_command_is_a_row_of_a_table_and_of_a_configured_query() {
    let folder = fresh_folder();
    let (system, database) = with_a_sale(folder.path()).await;
    let sql = async |arguments: &[&str]| {
        system.millstream(&[&["sql", "--database", &database], arguments].concat()).await
    };
    let table = sql(&["--command", TILLS]).await.expect_success("a table").stdout;
    assert!(table.contains("business_date") && table.contains("750"), "{table}");
    let json = sql(&["--format", "json", "--command", TILLS]).await.json_lines();
    assert_eq!(
        json,
        [
            serde_json::json!({ "store": "1", "business_date": "2026-01-31", "units_sold": 3, "net_amount": 750 })
        ]
    );

    let blanks = sql(&["--format", "csv", "--command", "SELECT 'a  ' AS text"]).await;
    assert_eq!(blanks.stdout, "text\na  \n", "a value is written as it is");

    let refused = sql(&["--command", "DELETE FROM retail.till"]).await;
    assert_eq!(refused.code(), Some(64), "{refused:?}");
    let unknown = sql(&["--command", "SELECT stor FROM retail.till"]).await;
    assert_eq!(unknown.code(), Some(64), "{unknown:?}");
    assert!(unknown.stderr.contains("no such column: stor"), "{unknown:?}");
    let parameter = sql(&["--command", "SELECT :day AS day"]).await;
    assert!(parameter.stderr.contains(":day is a parameter"), "{parameter:?}");
    let cut = sql(&["--limit", "1", "--command", "SELECT 1 AS n UNION SELECT 2"]).await;
    assert_eq!(cut.code(), Some(13), "{cut:?}");
    assert!(cut.stderr.contains("only the first 1 rows are shown"), "{cut:?}");
    let nowhere = system.millstream(&["sql", "--database", "no.sqlite", "--command", "SELECT 1"]).await;
    assert_eq!(nowhere.code(), Some(74), "{nowhere:?}");
    assert!(nowhere.stderr.contains("there is no file no.sqlite"), "{nowhere:?}");

    let sellers = system.query("query.retail.top-sellers", &serde_json::json!({})).await.unwrap();
    assert_eq!(sellers["rows"][0]["units"], 3, "{sellers}");
    let statement = serde_json::json!({ "statement": "SELECT net_amount FROM retail.till" });
    let asked = system.query("sql.ask", &statement).await.unwrap();
    assert_eq!(asked["rows"][0]["net_amount"], 750, "{asked}");
    let doctor = system.millstream(&["doctor"]).await.expect_success("doctor").stdout;
    assert!(
        doctor.lines().any(|line| line.contains("stage sql") && line.contains("1 process(es), ready")),
        "{doctor}"
    );
    system.stop().await;
}

#[tokio::test]
async fn the_prompt_takes_statements_until_their_semicolon_and_goes_on_after_a_mistake() {
    let folder = fresh_folder();
    let (system, database) = with_a_sale(folder.path()).await;
    let typed =
        format!("\\d\n\\d retail.till\n\n{}\n;\nSELECT 'not ended' AS last", TILLS.replace(", ", ",\n"));
    let answer = system.millstream_with_input(&["sql", "--database", &database], typed.as_bytes()).await;
    let answer = answer.expect_success("the prompt");
    for shown in ["retail_till", "CREATE TABLE", "750", "not ended"] {
        assert!(answer.stdout.contains(shown), "{shown}: {answer:?}");
    }
    let typed = "\\d retail.nothing\nSELECT stor FROM retail.till;\nSELECT 'after all' AS last;\n\\q\nSELECT 'never';\n";
    let answer = system.millstream_with_input(&["sql", "--database", &database], typed.as_bytes()).await;
    assert_eq!(answer.code(), Some(64), "what failed is not lost at the end: {answer:?}");
    assert!(answer.stderr.contains("there is no table retail.nothing"), "{answer:?}");
    assert!(answer.stderr.contains("no such column: stor"), "{answer:?}");
    assert!(answer.stdout.contains("after all") && !answer.stdout.contains("never"), "{answer:?}");
    system.stop().await;
}

/// A key of a stage that does not run would have no effect and say nothing.
#[tokio::test]
async fn a_key_of_the_stage_without_the_stage_is_refused() {
    let folder = fresh_folder();
    let mut command = end_to_end_tests::system::millstream();
    command.args(["up", "--no-sql", "--set", "sql.batch_max=2", "--dir"]).arg(folder.path().join("up"));
    let refused = end_to_end_tests::program::run(command, b"").await;
    assert_eq!(refused.code(), Some(64), "{refused:?}");
    assert!(refused.stderr.contains("does not run with --no-sql"), "{refused:?}");
}

#[tokio::test]
async fn damage_to_the_tables_is_told_and_a_damaged_file_gives_way_to_a_new_one_where_that_is_wanted() {
    let folder = fresh_folder();
    let (system, database) = with_a_sale(folder.path()).await;
    system.stop().await;
    let database = Path::new(&database);
    damage_table(database, "retail_till");

    let system = System::start(folder.path(), &[]).await;
    let mut stage = StageProcess::new("sql", "", &system.url(), &folder.path().join("data"));
    stage = stage.set(&configured_queries());
    stage.start();
    until("the stage says that it is not ready, and why", async || {
        stage.readiness().await.contains("the file of the tables is damaged").then_some(())
    })
    .await;
    let sellers = system.query("query.retail.top-sellers", &serde_json::json!({})).await.unwrap();
    assert_eq!(sellers["rows"][0]["units"], 3, "what is whole is still answered: {sellers}");
    stage.stop().await;
    stage.start();
    assert_eq!(stage.exit_code().await, 74, "what was found is known");

    stage = stage.set("sql.damaged_file=rebuild");
    // Once a file that was known to be damaged, and once a damaged file that nobody knows of.
    for damage_is_known in [true, false] {
        if !damage_is_known {
            stage.stop().await;
            damage_table(database, "retail_till");
            stage.start();
            assert_eq!(stage.exit_code().await, 74, "it ends to begin with a new file");
        }
        stage.start_ready().await;
        let asked = ["sql", "--database", database.to_str().unwrap(), "--format", "csv", "--command", TILLS];
        let rows = system.millstream(&asked).await.expect_success("the tables").stdout;
        assert!(rows.contains("1,2026-01-31,3,750"), "{rows}");
    }
    let files = std::fs::read_dir(database.parent().unwrap()).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let aside: Vec<String> = names.filter(|name| name.contains(".set-aside-")).collect();
    assert!(aside.iter().all(|name| name.starts_with("replica.sqlite.set-aside-")), "{aside:?}");
    assert!(aside.len() >= 2 && !database.with_added_extension("damaged").exists(), "{aside:?}");
    stage.stop().await;
    system.stop().await;

    damage_table(database, "retail_till");
    let system = System::start_with_tables(folder.path(), &["--set", &configured_queries()]).await;
    let asked = ["sql", "--database", database.to_str().unwrap(), "--format", "csv", "--command", TILLS];
    until("`up` has a new file filled by itself", async || {
        let rows = system.millstream(&asked).await;
        rows.stdout.contains("1,2026-01-31,3,750").then_some(())
    })
    .await;
    system.stop().await;
}
