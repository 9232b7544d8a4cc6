//! What a row of an import is, and what becomes of it: imported again, refused, mended, or brought by another file.

use std::path::Path;

use end_to_end_tests::{
    program::Ended,
    system::{System, fresh_folder},
};
use millstream_contract::stream_names::COMMANDS;
use millstream_jetstream::broker::Broker as _;
use serde_json::{Value, json};

/// A product for each row, and its sale.
pub(super) const SALES: &str = "\
name = \"sales\"
context = \"retail\"
identity = \"content\"
[[command]]
aggregate = \"product\"
id = \"{sku}\"
command = \"register\"
once = true
body = { name = \"{name}\", supplier = \"{supplier}\" }
[[command]]
aggregate = \"till\"
id = \"{store}_2026-01-31\"
command = \"record-sale\"
[command.body]
sale = \"{identity}\"
currency = \"USD\"
lines = [{ sku = \"{sku}\", quantity = { integer = \"{quantity}\" }, unit_price = 5 }]
";

pub(super) const HEADER: &str = "store,sku,name,supplier,quantity\n";

/// A folder with a map, and a system that runs in it.
pub(super) struct Shop<'a> {
    folder: &'a Path,
    pub(super) system: System,
}

impl<'a> Shop<'a> {
    pub(super) async fn open(folder: &'a Path) -> Self {
        Self { folder, system: System::start(folder, &[]).await }
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.join(name), text).unwrap();
    }

    pub(super) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub(super) async fn import(&self, map: &str, file: &str) -> Ended {
        self.write("map.toml", map);
        self.system.millstream(&["import", "--map", "map.toml", file]).await
    }

    /// New, known, without effect, refused; the exit code must fit.
    pub(super) async fn figures(&self, map: &str, file: &str) -> [u64; 4] {
        self.write("map.toml", map);
        let ended = self.system.millstream(&["import", "--json", "--map", "map.toml", file]).await;
        let summary: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{ended:?}"));
        let figures =
            ["new", "known", "without_effect", "refused"].map(|name| summary[name].as_u64().unwrap());
        assert_eq!(ended.code(), Some(if figures[3] > 0 { 10 } else { 0 }), "{ended:?}");
        figures
    }

    /// Sales and units of a store.
    pub(super) async fn sold(&self, store: &str) -> [u64; 2] {
        let ended = self.system.report(&["store-daily", "--date", "2026-01-31", "--format", "csv"]).await;
        let mut reader = csv::Reader::from_reader(ended.stdout.as_bytes());
        let header = reader.headers().unwrap().clone();
        let column = |row: &csv::StringRecord, name: &str| {
            row.get(header.iter().position(|column| column == name).unwrap()).unwrap().to_owned()
        };
        let row = reader.records().map(Result::unwrap).find(|row| column(row, "store") == store).unwrap();
        ["sales", "units_sold"].map(|name| column(&row, name).parse().unwrap())
    }

    /// The last event of a product.
    pub(super) async fn product(&self, sku: &str) -> Value {
        let history = self.system.millstream(&["history", "--json", "retail", "product", sku]).await;
        history.expect_success("millstream history").json_lines().pop().unwrap()
    }
}

/// The row was "refused", and its sale stood; mended and imported, it was booked a second time. Of rows with the same refused command, all
/// but the first were "accepted".
#[tokio::test]
async fn a_mended_row_brings_only_what_is_missing() {
    let folder = fresh_folder();
    let shop = Shop::open(folder.path()).await;
    // As a program of Windows writes it, with a blank line.
    let rows = "\n1,tea,Tea,one,1\n1,gin,Gin,no such!,2\n1,gin,Gin,no such!,3\n1,rum,Rum,one,four\n1,tea,Tea,one,5\n";
    shop.write("s.csv", &format!("{HEADER}{rows}").replace('\n', "\r\n"));
    assert_eq!(shop.figures(SALES, "s.csv").await, [2, 0, 0, 3]);
    let rejects = shop.read("s.rejects.csv");
    let refused: Vec<csv::StringRecord> =
        csv::Reader::from_reader(rejects.as_bytes()).records().map(Result::unwrap).collect();
    assert_eq!(refused.iter().map(|row| &row[1]).collect::<Vec<_>>(), ["4", "5", "6"], "{rejects}");
    assert_eq!(
        [&refused[0][2], &refused[1][2], &refused[2][2]],
        ["supplier-not-allowed"; 2].iter().chain(&["value-malformed"]).copied().collect::<Vec<_>>()[..]
    );
    for row in &refused[..2] {
        assert!(
            row[3].ends_with("; in effect all the same: retail.till.1_2026-01-31.record-sale"),
            "{rejects}"
        );
    }
    assert_eq!(&refused[2][3], "column quantity: \"four\" is not a whole number");
    assert_eq!(shop.sold("1").await, [4, 11]);

    // Imported as they are, they are refused as before, and nothing is booked twice.
    assert_eq!(shop.figures(SALES, "s.rejects.csv").await, [0, 0, 0, 3]);
    assert_eq!(shop.sold("1").await, [4, 11]);
    let mended =
        rejects.replace(",no such!,2", ",two,2").replace(",no such!,3", ",two,3").replace(",four", ",4");
    shop.write("mended.csv", &mended);
    let [new, known, without_effect, refused] = shop.figures(SALES, "mended.csv").await;
    assert_eq!([new + without_effect, known, refused], [3, 0, 0]);
    assert_eq!(shop.sold("1").await, [5, 15]);
    assert_eq!(shop.product("gin").await["data"]["supplier"], json!("two"));
    assert_eq!(shop.figures(SALES, "mended.csv").await, [0, 3, 0, 0]);
    assert_eq!(shop.sold("1").await, [5, 15]);
    shop.system.stop().await;
}

/// Two files whose first rows are equal counted once, and a row on top of a file made all others count twice.
#[tokio::test]
async fn the_map_says_which_rows_are_one() {
    let folder = fresh_folder();
    let shop = Shop::open(folder.path()).await;
    let by_file = SALES.replace("\"content\"", "\"file-and-content\"").replace("\"sales\"", "\"by file\"");
    let by_number =
        SALES.replace("\"content\"", "[\"{store}\", \"{name}\"]").replace("\"sales\"", "\"by number\"");
    for (file, rows) in [
        ("monday.csv", "1,tea,Tea,one,10\n1,tea,Tea,one,10\n"),
        ("tuesday.csv", "1,gin,Gin,one,1\n1,tea,Tea,one,10\n1,tea,Tea,one,10\n1,tea,Tea,one,10\n"),
    ] {
        shop.write(file, &format!("{HEADER}{rows}"));
    }
    assert_eq!(shop.figures(SALES, "monday.csv").await, [2, 0, 0, 0]);
    assert_eq!(shop.figures(SALES, "tuesday.csv").await, [2, 2, 0, 0]);
    assert_eq!(shop.sold("1").await, [4, 31]);

    assert_eq!(shop.figures(&by_file, "monday.csv").await[..2], [2, 0]);
    assert_eq!(shop.figures(&by_file, "tuesday.csv").await[..2], [4, 0]);
    assert_eq!(shop.figures(&by_file, "monday.csv").await, [0, 2, 0, 0]);
    assert_eq!(shop.sold("1").await, [10, 82]);

    let twice = shop.import(&by_number, "monday.csv").await;
    assert_eq!((twice.code(), &*twice.stdout), (Some(65), ""), "{twice:?}");
    let said = "the rows of lines 2 and 3 of monday.csv have the same identity; name columns under identity that tell all rows apart; \
                nothing was sent";
    assert!(twice.stderr.contains(said), "{twice:?}");
    // The number of a row is its own. What it says later under the same number is not taken for known, unless the map wants that.
    let kept = by_number.replace("identity =", "changed = \"keep\"\nidentity =");
    for (map, quantity, figures) in
        [(&by_number, 1, [1, 0, 0, 0]), (&by_number, 2, [0, 0, 0, 1]), (&kept, 2, [0, 1, 0, 0])]
    {
        shop.write("numbered.csv", &format!("{HEADER}2,tea,R-1,one,{quantity}\n"));
        assert_eq!(shop.figures(map, "numbered.csv").await, figures);
    }
    let refused = shop.read("numbered.rejects.csv");
    assert!(
        refused.contains("known-with-other-content")
            && refused.contains("retail.till.2_2026-01-31.record-sale: an earlier import gave this command of the row with other content"),
        "{refused}"
    );
    assert_eq!(shop.sold("2").await, [1, 1]);

    // Rows that are two to the import, and one to the till.
    let one_sale = SALES.replace("\"{identity}\"", "\"S-1\"").replace("\"sales\"", "\"one sale\"");
    shop.write("same.csv", &format!("{HEADER}3,tea,Tea,one,1\n3,tea,Tea,one,1\n"));
    let told = shop.import(&one_sale, "same.csv").await.expect_success("two rows");
    assert!(told.stdout.starts_with("2 rows: 1 new, 0 known, 1 without effect, 0 refused"), "{told:?}");
    assert!(told.stderr.contains("1 rows changed nothing"), "{told:?}");
    shop.system.stop().await;
}

/// A name that was changed and changed back kept the change, within a file and between files.
#[tokio::test]
async fn a_change_back_is_a_change() {
    let folder = fresh_folder();
    let shop = Shop::open(folder.path()).await;
    let map = SALES.split_inclusive("[[command]]\n").take(2).collect::<String>();
    let map = map.trim_end_matches("[[command]]\n").replace("\"content\"", "\"file-and-content\"");
    for (file, names) in [("a.csv", "AABBA"), ("b.csv", "B"), ("a-again.csv", "A")] {
        let rows: String = names.chars().map(|name| format!("1,tea,{name},one,1\n")).collect();
        shop.write(file, &format!("{HEADER}{rows}"));
        let [new, ..] = shop.figures(&map, file).await;
        assert_eq!(new, if names == "AABBA" { 3 } else { 1 });
        assert_eq!(shop.product("tea").await["data"]["name"], json!(&names[names.len() - 1..]));
    }
    shop.system.stop().await;
}

/// The first rows of an export that overlapped with the one before said again what was before, and the change in its last rows was known.
#[tokio::test]
async fn what_an_overlapping_file_says_last_holds() {
    let folder = fresh_folder();
    let shop = Shop::open(folder.path()).await;
    let map = SALES.replace("\"content\"", "[\"{quantity}\"]");
    let rows = |numbers: &str| {
        let row = |number: char| {
            let name = if number <= '2' { "100 g" } else { "125 g" };
            format!("1,tea,{name},one,{number}\n")
        };
        format!("{HEADER}{}", numbers.chars().map(row).collect::<String>())
    };
    for (file, numbers, figures) in [
        ("week-1.csv", "123", [3, 0, 0, 0]),
        ("week-2.csv", "234", [3, 0, 0, 0]),
        ("again.csv", "234", [0, 3, 0, 0]),
    ] {
        shop.write(file, &rows(numbers));
        let [new, known, without_effect, refused] = shop.figures(&map, file).await;
        assert_eq!((new + without_effect, refused), (figures[0] + figures[1] - known, 0), "{file}");
        assert_eq!(shop.product("tea").await["data"]["name"], json!("125 g"), "{file}");
    }
    let before = shop.system.broker().await.state(COMMANDS).await.unwrap().last_sequence;
    assert_eq!(shop.sold("1").await, [4, 10], "{before}");
    shop.system.stop().await;
}

/// What an import that was killed had changed stood: the last statement of the file was known, from the file before.
#[tokio::test]
async fn an_import_that_ended_between_two_statements_is_completed_by_the_next() {
    let folder = fresh_folder();
    let shop = Shop::open(folder.path()).await;
    let map = SALES.replace("\"content\"", "[\"{quantity}\"]");
    let (old, new) = ("1,tea,100 g,one,2\n", "1,tea,125 g,one,3\n");
    let name = async || shop.product("tea").await["data"]["name"].clone();
    shop.write("week-1.csv", &format!("{HEADER}1,tea,100 g,one,1\n{old}{new}"));
    assert_eq!(shop.figures(&map, "week-1.csv").await, [3, 0, 0, 0]);
    // As much of the next file as an import had sent when it was killed.
    shop.write("killed.csv", &format!("{HEADER}{old}"));
    assert_eq!(shop.figures(&map, "killed.csv").await, [1, 0, 0, 0]);
    assert_eq!(name().await, json!("100 g"));
    shop.write("week-2.csv", &format!("{HEADER}{old}{new}"));
    for figures in [[1, 1, 0, 0], [0, 2, 0, 0], [0, 2, 0, 0]] {
        assert_eq!(shop.figures(&map, "week-2.csv").await, figures);
        assert_eq!(name().await, json!("125 g"));
    }
    assert_eq!(shop.sold("1").await, [3, 6]);
    shop.system.stop().await;
}

/// A row that had been refused was decided behind those that follow it, and what the file says first stood.
#[tokio::test]
async fn mended_rows_are_decided_in_their_order() {
    let folder = fresh_folder();
    let shop = Shop::open(folder.path()).await;
    let map = "name = \"prices\"\ncontext = \"retail\"\nidentity = [\"{k}\"]\n[[command]]\naggregate = \"product\"\nid = \"{sku}\"\n\
               command = \"reprice\"\nbody = { unit_price = { integer = \"{p}\" }, currency = \"USD\" }\n";
    shop.write("s.csv", &format!("{HEADER}1,tea,Tea,one,1\n"));
    assert_eq!(shop.figures(SALES, "s.csv").await, [1, 0, 0, 0]);
    shop.write("p.csv", "k,sku,p\n1,tea,-5\n2,tea,x\n3,tea,-7\n");
    assert_eq!(shop.figures(map, "p.csv").await, [0, 0, 0, 3]);
    let mended = shop.read("p.rejects.csv").replace("tea,-5", "tea,5").replace("tea,x", "tea,6");
    shop.write("mended.csv", &mended.replace("tea,-7", "tea,7"));
    assert_eq!(shop.figures(map, "mended.csv").await, [3, 0, 0, 0]);
    let history = shop.system.millstream(&["history", "--json", "retail", "product", "tea"]).await;
    let events = history.expect_success("millstream history").json_lines();
    let prices: Vec<&Value> =
        events.iter().map(|event| &event["data"]["unit_price"]).filter(|price| !price.is_null()).collect();
    assert_eq!(prices, [5, 6, 7].map(Value::from).iter().collect::<Vec<_>>(), "{events:?}");
    shop.system.stop().await;
}

/// A row whose sale had the number of another one was new, since its article was.
#[tokio::test]
async fn a_command_without_effect_is_not_hidden_by_others_of_its_row() {
    let folder = fresh_folder();
    let shop = Shop::open(folder.path()).await;
    let one_sale = SALES.replace("\"{identity}\"", "\"S-1\"");
    shop.write("same.csv", &format!("{HEADER}1,tea,Tea,one,1\n"));
    assert_eq!(shop.figures(&one_sale, "same.csv").await, [1, 0, 0, 0]);
    // The sale is told by its lines and number; the name of the article is new.
    shop.write("other.csv", &format!("{HEADER}1,tea,Green Tea,one,1\n"));
    assert_eq!(shop.figures(&one_sale, "other.csv").await, [0, 0, 1, 0]);
    shop.system.stop().await;
}

/// What was refused stayed refused for ever, as the file had been imported.
#[tokio::test]
async fn what_was_refused_is_decided_anew_and_what_was_accepted_is_known() {
    let folder = fresh_folder();
    let shop = Shop::open(folder.path()).await;
    let reprice = "name = \"prices\"\ncontext = \"retail\"\nidentity = \"content\"\n[[command]]\naggregate = \"product\"\n\
                   id = \"{sku}\"\ncommand = \"reprice\"\nbody = { unit_price = { integer = \"{price}\" }, currency = \"USD\" }\n";
    shop.write("p.csv", "sku,price\ntea,7\ngin,8\n");
    for _ in 0..3 {
        assert_eq!(shop.figures(reprice, "p.csv").await, [0, 0, 0, 2]);
    }
    // The file of an import before is never written over.
    let rejects = shop.read("p.rejects.csv");
    for name in ["p.rejects-2.csv", "p.rejects-3.csv"] {
        assert_eq!(shop.read(name), rejects, "{name}");
    }
    shop.write("s.csv", &format!("{HEADER}1,tea,Tea,one,1\n"));
    assert_eq!(shop.figures(SALES, "s.csv").await, [1, 0, 0, 0]);
    assert_eq!(shop.figures(reprice, "p.csv").await, [1, 0, 0, 1]);
    assert_eq!(shop.product("tea").await["data"]["unit_price"], json!(7));
    assert_eq!(shop.figures(reprice, "p.csv").await, [0, 1, 0, 1]);
    shop.system.stop().await;
}

/// One row of an invoice could not be told, the others were sent as a whole sale, and the mended row was "known": it was never recorded.
#[tokio::test]
async fn a_group_with_a_refused_row_is_brought_whole_once_it_is_mended() {
    let folder = fresh_folder();
    let shop = Shop::open(folder.path()).await;
    let map = "name = \"invoices\"\ncontext = \"retail\"\ngroup = [\"{sale}\"]\nskip = [{ value = \"{price}\", below = 0 }]\n\
               [file]\ndelimiter = \";\"\n[[command]]\naggregate = \"till\"\nid = \"{store}_2026-01-31\"\ncommand = \"record-sale\"\n\
               body = { sale = \"{file|before:.}-{sale}\", currency = \"USD\", lines = { each = { sku = \"{sku}\", quantity = 1, unit_price = { integer = \"{price}\" } } } }\n";
    shop.write("i.csv", "sale;store;sku;price\n7;1;tea;5\n7;1;pot;x\n7;1;cup;-1\n8;1;tea;5\n");
    assert_eq!(shop.figures(map, "i.csv").await, [1, 0, 0, 2]);
    assert_eq!(shop.sold("1").await, [1, 1]);
    shop.write("mended.csv", &shop.read("i.rejects.csv").replace(",x", ",9"));
    assert_eq!(shop.figures(map, "mended.csv").await, [2, 0, 0, 0]);
    assert_eq!(shop.sold("1").await, [2, 3]);
    // What was sent under its name in the first file is known there, too.
    shop.write("i.csv", "sale;store;sku;price\n7;1;tea;5\n7;1;pot;9\n7;1;cup;-1\n8;1;tea;5\n");
    assert_eq!(shop.figures(map, "i.csv").await, [0, 3, 0, 0]);
    shop.system.stop().await;
}

/// Rows were "known", with exit code 0, and lost: those of an invoice that went on in the next file, a line that was put on top of one, and
/// all but the mended row of an invoice that was refused.
#[tokio::test]
async fn what_says_something_else_under_a_known_identity_is_refused() {
    let folder = fresh_folder();
    let shop = Shop::open(folder.path()).await;
    let header = "sale,store,sku,price\n";
    let map = "name = \"whole\"\ncontext = \"retail\"\ngroup = [\"{sale}\"]\n[[command]]\naggregate = \"till\"\nid = \"{store}_2026-01-31\"\n\
               command = \"record-sale\"\nbody = { sale = \"{sale}\", currency = \"USD\", lines = { each = { sku = \"{sku}\", quantity = 1, \
               unit_price = { integer = \"{price}\" } } } }\n";
    shop.write("a.csv", &format!("{header}7,1,tea,5\n7,1,pot,9\n"));
    assert_eq!(shop.figures(map, "a.csv").await, [2, 0, 0, 0]);
    for (file, rows, refused) in [
        ("next.csv", "7,1,cup,3\n8,1,tea,5\n", 1),
        ("on-top.csv", "7,1,cup,3\n7,1,tea,5\n7,1,pot,9\n8,1,tea,5\n", 3),
    ] {
        shop.write(file, &format!("{header}{rows}"));
        let [new, known, without_effect, count] = shop.figures(map, file).await;
        assert_eq!((new + known, without_effect, count), (1, 0, refused), "{file}");
        assert_eq!(shop.sold("1").await, [2, 3], "{file}");
    }
    shop.write("part.csv", &format!("{header}9,1,tea,5\n9,1,pot,x\n9,1,cup,3\n"));
    assert_eq!(shop.figures(map, "part.csv").await, [0, 0, 0, 3]);
    let mended = shop.read("part.rejects.csv").replace(",x", ",4");
    let only_mended: String = mended
        .split_inclusive('\n')
        .filter(|line| line.contains("import_row") || line.contains("pot"))
        .collect();
    shop.write("only-mended.csv", &only_mended);
    assert_eq!(shop.figures(map, "only-mended.csv").await, [0, 0, 0, 1]);
    // The rows that are refused once more can be given back to the others.
    assert!(shop.read("only-mended.rejects.csv").contains("/3,"));
    shop.write("mended.csv", &mended);
    assert_eq!(shop.figures(map, "mended.csv").await, [3, 0, 0, 0]);
    assert_eq!(shop.sold("1").await, [3, 6]);

    // Where each row of a group has a command of its own, what is new comes in, wherever it stands, and only what was corrected is refused.
    let by_row = map
        .replace("\"whole\"", "\"by row\"")
        .replace("{ each = { sku", "[{ sku")
        .replace("} } } }", "} }] }")
        .replace("sale = \"{sale}\"", "sale = \"{sale}-{sku}\"")
        .replace("\"{store}_", "\"2{store}_")
        .replace("command = \"record-sale\"\n", "command = \"record-sale\"\neach = [\"{sku}\"]\n");
    assert_eq!(shop.figures(&by_row, "a.csv").await, [2, 0, 0, 0]);
    assert_eq!(shop.figures(&by_row, "on-top.csv").await, [4, 0, 0, 0]);
    assert_eq!(shop.sold("21").await, [4, 4]);
    assert_eq!(shop.figures(&by_row, "next.csv").await, [0, 2, 0, 0]);
    shop.write("corrected.csv", &format!("{header}7,1,tea,6\n7,1,pot,9\n8,1,mug,5\n"));
    assert_eq!(shop.figures(&by_row, "corrected.csv").await, [1, 0, 0, 2]);
    assert_eq!(shop.sold("21").await, [5, 5]);
    let reason = shop.read("corrected.rejects.csv");
    assert!(reason.contains("; in effect all the same: retail.till.21_2026-01-31.record-sale"), "{reason}");
    shop.system.stop().await;
}

/// A mended article that was registered before under another number stayed unregistered, and the row was called accepted.
#[tokio::test]
async fn a_mended_row_says_anew_what_it_shares_with_others() {
    let folder = fresh_folder();
    let shop = Shop::open(folder.path()).await;
    shop.write("s.csv", &format!("{HEADER}1,tee,Tea,one,0\n"));
    assert_eq!(shop.figures(SALES, "s.csv").await, [0, 0, 0, 1]);
    shop.write("mended.csv", &shop.read("s.rejects.csv").replace("tee,Tea,one,0", "tea,Tea,one,2"));
    assert_eq!(shop.figures(SALES, "mended.csv").await, [1, 0, 0, 0]);
    assert_eq!(shop.product("tea").await["data"]["name"], json!("Tea"));
    assert_eq!(shop.figures(SALES, "mended.csv").await, [0, 1, 0, 0]);
    // What the row said before is not what stands.
    assert_eq!(shop.figures(SALES, "s.csv").await, [0, 0, 0, 1]);
    assert_eq!(shop.sold("1").await, [1, 2]);
    shop.system.stop().await;
}

/// A quote that was never closed swallowed the rest: "2 rows: 2 accepted", of four.
#[tokio::test]
async fn nothing_is_sent_of_a_file_or_map_with_a_mistake() {
    let folder = fresh_folder();
    let shop = Shop::open(folder.path()).await;
    let rows = format!("{HEADER}1,tea,Tea,one,1\n1,tea,Tea,one,\"2\n1,tea,Tea,one,3\n1,tea,Tea,one,4\n");
    let well = rows.replace('"', "");
    let field = SALES.replace("quantity =", "amount =");
    let named = SALES.replace("name = \"sales\"", "name = \"\"");
    let unidentified = SALES.replace("identity = \"content\"\n", "");
    for (map, rows, code, said) in [
        (
            SALES,
            &rows,
            65,
            "s.csv: a quote that is opened on line 3 is never closed, and would swallow the rest",
        ),
        (
            &field,
            &well,
            78,
            "map.toml: line 17, column 27: there is no field amount; there are quantity, sku, unit_price",
        ),
        (
            &named,
            &well,
            78,
            "map.toml: line 1, column 8: the ids of all commands begin with the name \"\", which is empty",
        ),
        (&unidentified, &well, 78, "map.toml does not say which rows are one; write identity = "),
    ] {
        shop.write("s.csv", rows);
        let refused = shop.import(map, "s.csv").await;
        assert_eq!((refused.code(), &*refused.stdout), (Some(code), ""), "{refused:?}");
        assert!(refused.stderr.contains(said) && refused.stderr.contains("nothing was sent"), "{refused:?}");
    }
    shop.write("map.toml", SALES);
    // A missing and a spare quote make one row of three, which is a row as any other.
    shop.write(
        "lines.csv",
        &format!("{HEADER}1,tea,Tea,one,1\n1,tea,\"Tea,one,1\n1,tea,Tea,one,1\n1,tea,Tea\",one,1\n"),
    );
    let told = shop.system.millstream(&["import", "--dry-run", "--map", "map.toml", "lines.csv"]).await;
    assert!(
        told.stderr
            .contains("1 rows hold line breaks within quotes, the first on line 3; if that is not meant"),
        "{told:?}"
    );
    shop.write("dry.csv", &well.replace("one,3", "one,three"));
    let dry = shop.system.millstream(&["import", "--dry-run=2", "--map", "map.toml", "dry.csv"]).await;
    let shown = [
        "line 2: retail.product.tea.register {\"name\":\"Tea\",\"supplier\":\"one\"}",
        "line 2: retail.till.1_2026-01-31.record-sale {\"currency\":\"USD\",\"lines\":[{\"quantity\":1,\"sku\":\"tea\",\"unit_price\":5}],\"sale\":",
        "line 3: retail.till.1_2026-01-31.record-sale {",
        "line 4: refused (value-malformed): column quantity: \"three\" is not a whole number",
        "4 rows: 4 commands, 1 refused; nothing was sent. Rules may refuse more",
    ];
    assert_eq!((dry.code(), dry.stdout.lines().count()), (Some(10), shown.len()), "{dry:?}");
    assert!(dry.stdout.lines().zip(shown).all(|(line, shown)| line.starts_with(shown)), "{dry:?}");
    assert_eq!(shop.system.broker().await.state(COMMANDS).await.unwrap().last_sequence, 0);
    assert!(!folder.path().join("s.rejects.csv").exists());
    assert_eq!(shop.figures(SALES, "s.csv").await, [4, 0, 0, 0]);
    shop.system.stop().await;
}
