//! `millstream schema` as a person and CI run it: on this checkout, and on a copy in which something does not fit.

#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../pipeline/model");

fn schema(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
    command.arg("schema").args(arguments).env_clear().current_dir(folder).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(path, to).unwrap();
        }
    }
}

#[test]
fn this_checkout_is_as_it_is_recorded_wherever_one_stands_in_it() {
    for folder in ["", "src/retail", "../..", "../../stages/cli"] {
        let checked = schema(&Path::new(MODEL).join(folder), &["check"]);
        assert_eq!(checked.status.code(), Some(0), "{}", text(&checked));
        assert!(text(&checked).contains("event types are as they are recorded"), "{}", text(&checked));
    }
}

#[test]
fn what_does_not_fit_is_told_by_event_and_field() {
    let folder = TempDir::new().unwrap();
    let golden = folder.path().join("golden");
    copy(&Path::new(MODEL).join("golden"), &golden);
    let recorded = schema(folder.path(), &["record"]);
    assert_eq!((recorded.status.code(), &*text(&recorded)), (Some(0), "nothing is new\n"));

    let record = golden.join("orders/order/recorded.json");
    let before = fs::read_to_string(&record).unwrap();
    let (older, current) = before.split_once("\"order-paid.v2\"").unwrap();
    let changed = current.replacen("\"payment\": \"text\"", "\"payment\": \"i64\"", 1);
    assert_ne!(current, changed);
    let after = format!("{older}\"order-paid.v2\"{changed}");
    fs::write(&record, &after).unwrap();
    fs::remove_file(golden.join("comments/comment/comment-updated.v1.json")).unwrap();
    let checked = schema(folder.path(), &["check"]);
    let said = text(&checked);
    assert_eq!(checked.status.code(), Some(65), "{said}");
    assert!(
        said.contains("orders/order/order-paid.v2: field payment was i64 and is text; take it back"),
        "{said}"
    );
    assert!(said.contains("comments/comment/comment-updated.v1: its golden file is gone"), "{said}");
    assert!(said.contains("2 problems with"), "{said}");
    let checked = schema(folder.path(), &["check", "--json"]);
    let lines: Vec<serde_json::Value> =
        text(&checked).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert!(
        lines.iter().any(|line| line["event"] == "orders/order/order-paid.v2" && line["field"] == "payment")
    );

    let refused = schema(folder.path(), &["record"]);
    assert_eq!(refused.status.code(), Some(65), "recording makes nothing right");
    assert_eq!(fs::read_to_string(&record).unwrap(), after);
}

#[test]
fn folder_that_is_not_there_is_told() {
    let folder = TempDir::new().unwrap();
    let checked = schema(folder.path(), &["check"]);
    assert_eq!(checked.status.code(), Some(64));
    assert!(text(&checked).contains("--golden"), "{}", text(&checked));
}
