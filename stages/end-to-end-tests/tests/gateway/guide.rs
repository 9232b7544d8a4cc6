//! docs/guides/http.md, typed as a person types it: its lines for the shell, in their order.

use std::{fs, path::Path};

use end_to_end_tests::{
    binaries::{binary, repository},
    program,
    system::{System, fresh_folder},
    waiting::until,
};
use millstream_contract::stream_names::COMMANDS;

use crate::{
    commands::clients,
    dead_letters::{keep, letter},
    gateway,
};

/// The lines to type. A line that ends in a backslash goes on with the next.
fn lines_to_type() -> Vec<String> {
    let guide = fs::read_to_string(repository().join("docs/guides/http.md")).unwrap();
    let mut typed: Vec<String> = Vec::new();
    let mut goes_on = false;
    for line in guide.lines().filter_map(|line| line.strip_prefix("    ")) {
        match typed.last_mut().filter(|_| goes_on) {
            Some(begun) => begun.push_str(line),
            None if ["curl ", "printf ", "millstream "].iter().any(|program| line.starts_with(program)) => {
                typed.push(line.to_owned())
            }
            None => continue,
        }
        let begun = typed.last_mut().unwrap();
        goes_on = begun.ends_with('\\');
        if goes_on {
            begun.pop();
        }
    }
    typed
}

/// Types a line in a folder; `key` is what `$KEY` stands for.
async fn typed(line: &str, folder: &Path, key: &str) -> String {
    let programs = binary("millstream").parent().unwrap().to_owned();
    let others = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(programs).chain(std::env::split_paths(&others))).unwrap();
    let mut shell = program::command("sh");
    shell.args(["-c", line]).current_dir(folder).env("PATH", path).env("KEY", key);
    program::run(shell, b"").await.expect_success(line).stdout
}

#[tokio::test]
async fn every_line_of_the_guide_does_what_it_says() {
    let folder = fresh_folder();
    let queries = format!("sql.queries={}", repository().join("config/queries").display());
    let system = System::start_with_tables(folder.path(), &["--set", &queries]).await;
    let client = until("the gateway is told", async || clients(&system).into_iter().next()).await;
    let register = br#"{"name":"Rum","supplier":"acme"}"#;
    let letters = [17, 18]
        .map(|sequence| letter(COMMANDS, sequence, "cmdq.1.retail.product.rum.register", &[], register));
    keep(&system.broker().await, &letters).await;
    let own = fresh_folder();
    let (process, with_keys) = gateway(&system.url(), own.path());
    let mut process = process.set(&format!("gateway.keys_file={}", own.path().join("keys.toml").display()));
    let (mut key, mut curls) = (String::new(), 0);
    for line in lines_to_type() {
        if line.starts_with("millstream ") {
            let made = typed(&line, own.path(), "").await;
            if key.is_empty() {
                made.trim().clone_into(&mut key);
            }
            continue;
        }
        let address = if line.contains("$KEY") { with_keys.address() } else { client.address() };
        if line.contains("$KEY") {
            process.start_ready().await;
        }
        // A stream goes on until whoever has typed it ends it.
        let ended = if line.contains("/v1/live") { " --max-time 2 || test $? = 28" } else { "" };
        let line = line.replace("127.0.0.1:8080", address);
        let asked = format!("{line} --silent --show-error --include{ended}");
        let expected = match (line.contains("--json"), line.contains("Prefer")) {
            // A loaded machine may not decide it in time, and it cannot be retried again.
            _ if line.contains("/retry") => "HTTP/1.1 20",
            _ if line.ends_with("/v1/sql") => "HTTP/1.1 200",
            (true, false) => "HTTP/1.1 202",
            _ => "HTTP/1.1 200",
        };
        // A row is there when the command is decided, which nobody waited for.
        until(format!("{line} is answered with {expected}"), async || {
            let answer = typed(&asked, own.path(), &key).await;
            answer.starts_with(expected).then_some(())
        })
        .await;
        curls += 1;
    }
    assert_eq!(curls, 24, "the guide has other lines now: does this test still type them all?");
    process.stop().await;
    let _said = system.stop().await;
}
