//! The pages of the gateway, in a browser and without one.
//!
//! `MILLSTREAM_PICTURES=$PWD/docs/pictures cargo test -p end-to-end-tests --test pages people` takes the pictures of the README.
#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

mod dead_letters;
mod doors;
mod overview;

use std::{
    fs,
    path::{Path, PathBuf},
};

use end_to_end_tests::{
    binaries::{binary, repository},
    browser::Browser,
    http_client::HttpClient,
    program,
    system::{System, fresh_folder},
};
use serde_json::json;

/// The keys of the guide, made by its own lines in a folder: that of the office, which may do everything, and that of a store, which may do
/// what is its own.
async fn keys_of_the_guide(folder: &Path) -> [String; 2] {
    let guide = fs::read_to_string(repository().join("docs/guides/pages.md")).unwrap();
    let lines = guide
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| line.starts_with("millstream "));
    let mut keys = Vec::new();
    for line in lines {
        let programs = binary("millstream").parent().unwrap().to_owned();
        let others = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(std::iter::once(programs).chain(std::env::split_paths(&others)));
        let mut shell = program::command("sh");
        shell.args(["-c", line]).current_dir(folder).env("PATH", path.unwrap());
        keys.push(program::run(shell, b"").await.expect_success(line).stdout.trim().to_owned());
    }
    keys.try_into().expect("the guide makes two keys")
}

/// Where the gateway of a system shows its pages.
fn address(system: &System) -> String {
    let said = system.said();
    let line = said.lines().find_map(|line| line.split_once("pages for a browser: "));
    line.expect("the address of the pages is told").1.trim_end_matches('/').to_owned()
}

/// A folder with the queries of this repository, and one over days.
fn queries(folder: &Path) -> PathBuf {
    const BY_DAY: &str = "-- title: Sales by day\n-- parameter: store text\n-- money: amount in currency\n\
         SELECT d.business_date, SUM(d.sales) AS sales, SUM(d.net_amount) AS amount, d.currency FROM retail.store_daily AS d\n\
         WHERE d.store = :store GROUP BY d.business_date, d.currency ORDER BY d.business_date";
    let (shipped, own) = (repository().join("config/queries"), folder.join("queries"));
    for context in fs::read_dir(&shipped).unwrap().map(Result::unwrap) {
        let of_context = own.join(context.file_name());
        fs::create_dir_all(&of_context).unwrap();
        for query in fs::read_dir(context.path()).unwrap().map(Result::unwrap) {
            fs::copy(query.path(), of_context.join(query.file_name())).unwrap();
        }
    }
    fs::write(own.join("retail/by-day.sql"), BY_DAY).unwrap();
    own
}

/// A system whose gateway asks for keys, with those of the office and of a store.
async fn with_keys(folder: &Path) -> (System, String, String) {
    let [office, store] = keys_of_the_guide(folder).await;
    let keys = folder.join("keys.toml");
    let set = format!("gateway.keys_file={}", keys.display());
    let queries = format!("sql.queries={}", queries(folder).display());
    let arguments = ["--set", set.as_str(), "--set", "gateway.rate=0", "--set", queries.as_str()];
    let system = System::start_with_tables(&folder.join("system"), &arguments).await;
    system.expect_said("pages for a browser").await;
    (system, office, store)
}

fn client(address: &str) -> HttpClient {
    HttpClient::new(address.strip_prefix("http://").unwrap())
}

#[tokio::test]
async fn people_do_everything_in_a_browser() {
    let Some(browser) = Browser::find() else { return };
    let folder = fresh_folder();
    let (system, office, store) = with_keys(folder.path()).await;
    dead_letters::keep(&system).await;
    let given = json!({
        "address": address(&system),
        "nats": system.url(),
        "office": office,
        "store": store,
        "chromium": browser.chromium,
        "millstream": binary("millstream"),
        "pictures": std::env::var_os("MILLSTREAM_PICTURES").map(PathBuf::from),
    });
    let mut script = browser.script("pages.mjs");
    script.env("PAGES_TEST", given.to_string());
    let ended = program::run(script, b"").await.expect_success("pages.mjs");
    assert!(ended.stdout.contains("ok: all of it works without script"), "{}", ended.stdout);
}
