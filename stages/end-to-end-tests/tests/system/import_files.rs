//! Where rows come from and how they are written: each way gives the figures that the same rows give as plain CSV. And what an import takes
//! of memory.

use std::{io::Write as _, path::Path, process::Stdio, time::Duration};

use end_to_end_tests::{
    binaries::binary,
    program::{self, Ended},
    small_disk::SmallDisk,
    system::{System, fresh_folder},
    waiting::{until, until_within},
};
use flate2::{Compression, write::GzEncoder};
use serde_json::Value;

use super::import_rows::SALES;

const ROWS: &str = "store,sku,name,supplier,quantity\n1,tea,Grüner Tee,one,2\n1,pot,Kännchen,one,1\n2,tea,Grüner Tee,one,4\n";

/// Unoptimised programs take a while for many rows.
const LONG: Duration = Duration::from_secs(600);

/// A system in a folder, with a map of each name.
struct Shop<'a> {
    folder: &'a Path,
    system: System,
}

impl Shop<'_> {
    async fn import(&self, map: &str, file: &str, input: &[u8]) -> (Ended, Value) {
        std::fs::write(self.folder.join("map.toml"), map).unwrap();
        let command = self.system.command(&["import", "--json", "--map", "map.toml", file]);
        let ended = program::run(command, input).await;
        let summary = ended.stdout.lines().last().map(|line| serde_json::from_str(line).unwrap_or_default());
        let summary = summary.unwrap_or_default();
        (ended, summary)
    }

    /// New, known and skipped rows.
    async fn figures(&self, map: &str, file: &str, input: &[u8]) -> [u64; 3] {
        let (ended, summary) = self.import(map, file, input).await;
        assert_eq!(ended.code(), Some(0), "{file}: {ended:?}");
        ["new", "known", "skipped"].map(|name| summary[name].as_u64().unwrap())
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Each was refused, or had to be made into another file before.
#[tokio::test]
async fn rows_are_the_same_rows_however_they_are_written() {
    let folder = fresh_folder();
    let shop = Shop { folder: folder.path(), system: System::start(folder.path(), &[]).await };
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    write("plain.csv", ROWS.as_bytes());
    assert_eq!(shop.figures(SALES, "plain.csv", b"").await, [3, 0, 0]);

    let latin: Vec<u8> = ROWS.chars().map(|letter| u8::try_from(u32::from(letter)).unwrap()).collect();
    let utf16: Vec<u8> =
        "\u{feff}".encode_utf16().chain(ROWS.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    write("latin.csv", &latin);
    write("utf16.csv", &utf16);
    write("marked.csv", format!("\u{feff}{ROWS}").as_bytes());
    write("semicolons.csv", ROWS.replace(',', ";").as_bytes());
    write("tabs.tsv", ROWS.replace(',', "\t").as_bytes());
    write("packed.csv.gz", &gzip(ROWS.as_bytes()));
    for file in ["utf16.csv", "marked.csv", "semicolons.csv", "tabs.tsv", "packed.csv.gz"] {
        assert_eq!(shop.figures(SALES, file, b"").await, [0, 3, 0], "{file}");
    }
    for input in [ROWS.as_bytes(), &gzip(ROWS.as_bytes())] {
        assert_eq!(shop.figures(SALES, "-", input).await, [0, 3, 0]);
    }
    // What is only likely does not tell whether two rows are one.
    let (guessed, _) = shop.import(SALES, "latin.csv", b"").await;
    assert_eq!(guessed.code(), Some(78), "{guessed:?}");
    assert!(guessed.stderr.contains("write encoding = \"windows-1252\" under [file]"), "{guessed:?}");
    let said = SALES.replacen("[[command]]", "[file]\nencoding = \"windows-1252\"\n[[command]]", 1);
    for (file, input) in [("latin.csv", &b""[..]), ("-", &latin)] {
        assert_eq!(shop.figures(&said, file, input).await, [0, 3, 0], "{file}");
    }
    let by_number =
        SALES.replace("\"content\"", "[\"{store}\", \"{sku}\"]").replace("\"sales\"", "\"by number\"");
    let (guessed, _) = shop.import(&by_number, "latin.csv", b"").await;
    assert!(guessed.stderr.contains("latin.csv is not UTF-8 and is read as windows-1252"), "{guessed:?}");
    let (separated, _) = shop.import(SALES, "semicolons.csv", b"").await;
    assert!(separated.stderr.contains("its columns are separated by ';'"), "{separated:?}");

    // A file for each day, in the order of their names; what an import left there is none of them.
    let days = folder.path().join("days");
    std::fs::create_dir(&days).unwrap();
    for (name, quantity) in [("b.csv", 2), ("a.csv", 1), ("a.rejects.csv", 9), ("notes.md", 9)] {
        std::fs::write(
            days.join(name),
            format!("store,sku,name,supplier,quantity\n9,tea,Tee,one,{quantity}\n"),
        )
        .unwrap();
    }
    let by_name = SALES.replace("\"sales\"", "\"by name\"").replace("{identity}", "{file|before:.}");
    std::fs::write(folder.path().join("map.toml"), by_name).unwrap();
    let imported = shop.system.millstream(&["import", "--map", "map.toml", "days"]).await;
    let imported = imported.expect_success("a folder");
    let left_out = "days: left out are a.rejects.csv, notes.md; name a file to import it";
    assert!(imported.stderr.contains(left_out), "{imported:?}");
    let summaries: Vec<&str> = imported.stdout.lines().collect();
    assert_eq!(
        summaries,
        [
            "days/a.csv: 1 rows: 1 new, 0 known, 0 without effect, 0 refused",
            "days/b.csv: 1 rows: 1 new, 0 known, 0 without effect, 0 refused"
        ]
    );
    shop.system.stop().await;
}

/// One mistake in one file of several: nothing of any was to be sent.
#[tokio::test]
async fn nothing_is_sent_of_several_files_of_which_one_is_wrong() {
    let folder = fresh_folder();
    let shop = Shop { folder: folder.path(), system: System::start(folder.path(), &[]).await };
    std::fs::write(folder.path().join("a.csv"), ROWS).unwrap();
    std::fs::write(folder.path().join("b.csv"), ROWS.replace(",4\n", "\n")).unwrap();
    std::fs::write(folder.path().join("map.toml"), SALES).unwrap();
    let refused = shop.system.millstream(&["import", "--map", "map.toml", "a.csv", "b.csv"]).await;
    assert_eq!((refused.code(), &*refused.stdout), (Some(65), ""), "{refused:?}");
    assert!(refused.stderr.contains("b.csv: line 4 has 4 fields where the header has 5"), "{refused:?}");
    assert!(refused.stderr.contains("nothing was sent"), "{refused:?}");
    assert_eq!(shop.figures(SALES, "a.csv", b"").await, [3, 0, 0]);
    shop.system.stop().await;
}

/// The most memory that a program took, in KiB, as far as it was seen before it ended.
async fn memory_of(system: &System, arguments: &[&str]) -> u64 {
    let mut child = system.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id().unwrap());
    let mut most = 0;
    let ended = until_within(LONG, "the end of the program", async || {
        let told = std::fs::read_to_string(&status).unwrap_or_default();
        let high = told.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        most = high.map_or(most, |text| text.trim().trim_end_matches(" kB").parse().unwrap());
        child.try_wait().unwrap()
    });
    let ended = ended.await;
    assert!(ended.success(), "{arguments:?}: {ended}");
    most
}

/// A hash and a line of each row were held.
#[tokio::test]
async fn memory_does_not_grow_with_the_rows() {
    const FEW: u64 = 20_000;
    const MANY: u64 = 15 * FEW;
    /// What is sorted in memory takes 6 MiB; all rows take 13 MiB, and half of it again while a table of them grows.
    const GROWTH_KIB: u64 = 12 * 1024;
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    std::fs::write(folder.path().join("map.toml"), SALES.replace("\"content\"", "[\"{name}\"]")).unwrap();
    let mut taken = Vec::new();
    for rows in [FEW, MANY] {
        let mut text = "store,sku,name,supplier,quantity\n".to_owned();
        (0..rows).for_each(|row| text.push_str(&format!("1,tea,{row:060},one,2\n")));
        std::fs::write(folder.path().join("rows.csv"), text).unwrap();
        taken.push(memory_of(&system, &["import", "--dry-run=0", "--map", "map.toml", "rows.csv"]).await);
    }
    assert!(taken[0] > 0 && taken[1] < taken[0] + GROWTH_KIB, "KiB: {taken:?}");
    system.stop().await;
}

/// The row in which the disk was full stood in the rejects in part, and was imported as what was left of it.
#[tokio::test]
async fn rejects_on_a_full_disk_are_whole_rows() {
    let Some(disk) = SmallDisk::mount(200).await else { return };
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    let name = "x".repeat(300);
    let rows: String = (0..2_000).map(|row| format!("1,tea,{name},one,none {row}\n")).collect();
    std::fs::write(folder.path().join("s.csv"), format!("store,sku,name,supplier,quantity\n{rows}")).unwrap();
    std::fs::write(folder.path().join("map.toml"), SALES).unwrap();
    let rejects = disk.path().join("rejects.csv");
    let mut command = program::command(disk.script_for(&binary("millstream"), folder.path()));
    // Whoever is let in begins in another folder.
    let [map, file] = ["map.toml", "s.csv"].map(|name| folder.path().join(name));
    command.args(["import", "--map"]).args([&map, &file]).arg("--rejects").arg(&rejects);
    command.env("NATS_URL", system.url());
    let ended = program::run(command, b"").await;
    assert_eq!(ended.code(), Some(74), "{ended:?}");
    assert!(ended.stderr.contains("rejects.csv"), "{ended:?}");
    let text = std::fs::read_to_string(disk.from_outside("rejects.csv")).unwrap();
    let kept: Vec<csv::StringRecord> =
        csv::Reader::from_reader(text.as_bytes()).records().map(Result::unwrap).collect();
    assert!((1..2_000).contains(&kept.len()) && text.ends_with('\n'), "{} rows", kept.len());
    for (row, record) in kept.iter().enumerate() {
        assert_eq!(record.iter().next_back(), Some(format!("none {row}").as_str()));
    }
    system.stop().await;
}

/// An import was ended without a word by whoever ended it before it had read its file.
#[tokio::test]
async fn an_import_that_is_ended_while_it_reads_says_so() {
    const TERMINATE: u64 = 1 << (15 - 1);
    let folder = fresh_folder();
    std::fs::write(folder.path().join("map.toml"), SALES).unwrap();
    let mut command = program::command(binary("millstream"));
    command.args(["import", "--map", "map.toml", "-"]).current_dir(folder.path());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It waits for rows as long as somebody may write some.
    let input = child.stdin.take();
    let id = child.id().unwrap();
    let status = format!("/proc/{id}/status");
    until("a program that takes SIGTERM", async || {
        let told = std::fs::read_to_string(&status).unwrap();
        let caught = told.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        let caught = u64::from_str_radix(caught.trim(), 16).unwrap();
        Some(()).filter(|()| caught & TERMINATE != 0)
    })
    .await;
    assert!(std::process::Command::new("kill").arg(id.to_string()).status().unwrap().success());
    let ended = child.wait_with_output().await.unwrap();
    drop(input);
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!((ended.status.code(), said.trim_end()), (Some(12), "error: interrupted; nothing was sent"));
}

/// The import ended with 0 in the midst of several files, once nobody read what it said.
#[tokio::test]
async fn an_import_whose_words_nobody_reads_goes_on_and_tells_by_its_exit_code() {
    let folder = fresh_folder();
    let shop = Shop { folder: folder.path(), system: System::start(folder.path(), &[]).await };
    let refused = ROWS.replace(",4\n", ",x\n");
    for (name, rows) in [("a.csv", ROWS), ("b.csv", &*refused), ("c.csv", &*ROWS.replace("tea", "gin"))] {
        std::fs::write(folder.path().join(name), rows).unwrap();
    }
    std::fs::write(folder.path().join("map.toml"), SALES).unwrap();
    std::fs::write(folder.path().join("other.csv"), "other\n1\n").unwrap();
    let unread = async |arguments: &[&str]| {
        let mut command = shop.system.command(arguments);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        command.stdout(writer).stderr(Stdio::piped());
        command.spawn().unwrap().wait_with_output().await.unwrap()
    };
    let checked = unread(&["import", "--check", "map.toml", "a.csv", "other.csv"]).await;
    let said = String::from_utf8_lossy(&checked.stderr);
    assert_eq!(checked.status.code(), Some(78), "{said}");
    assert!(said.contains("other.csv"), "{said}");
    let ended = unread(&["import", "--map", "map.toml", "a.csv", "b.csv", "c.csv"]).await;
    assert_eq!(ended.status.code(), Some(10), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("refused rows are in b.rejects.csv"));
    assert_eq!(shop.figures(SALES, "c.csv", b"").await, [0, 3, 0]);
    shop.system.stop().await;
}
