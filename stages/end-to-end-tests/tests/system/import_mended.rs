//! Rows that were refused and are mended: in their rejects or in their file, more than once, and what the file says of them afterwards.

use end_to_end_tests::system::fresh_folder;
use serde_json::{Value, json};

use super::import_rows::{HEADER, SALES, Shop};

const PRICES: &str = "\
name = \"prices\"
context = \"retail\"
identity = [\"{k}\"]
[[command]]
aggregate = \"product\"
id = \"{sku}\"
command = \"reprice\"
body = { unit_price = { integer = \"{p}\" }, currency = \"USD\" }
";

/// The prices that a product has had.
async fn prices(shop: &Shop<'_>, sku: &str) -> Vec<Value> {
    let history = shop.system.millstream(&["history", "--json", "retail", "product", sku]).await;
    let events = history.expect_success("millstream history").json_lines();
    events
        .into_iter()
        .map(|event| event["data"]["unit_price"].clone())
        .filter(|price| !price.is_null())
        .collect()
}

/// With products `tea` and `pot`.
async fn shop_with_products(folder: &std::path::Path) -> Shop<'_> {
    let shop = Shop::open(folder).await;
    shop.write("products.csv", &format!("{HEADER}1,tea,Tea,one,1\n1,pot,Pot,one,1\n"));
    assert_eq!(shop.figures(SALES, "products.csv").await, [2, 0, 0, 0]);
    shop
}

/// The price of the first row was the last one, and nobody was told.
#[tokio::test]
async fn a_row_that_is_corrected_in_its_file_is_told_where_others_were_in_before() {
    let folder = fresh_folder();
    let shop = shop_with_products(folder.path()).await;
    let told = async |file: &str| {
        let ended = shop.import(PRICES, file).await;
        let line = ended.stderr.lines().find(|line| line.contains("were decided behind rows that follow"));
        (ended.stdout.trim_end().to_owned(), line.map(str::to_owned))
    };
    shop.write("p.csv", "k,sku,p\n1,pot,3\n2,tea,x\n3,tea,6\n4,tea,7\n");
    assert_eq!(told("p.csv").await, ("4 rows: 3 new, 0 known, 0 without effect, 1 refused".to_owned(), None));
    shop.write("p.csv", "k,sku,p\n1,pot,3\n2,tea,5\n3,tea,6\n4,tea,7\n5,pot,4\n");
    let said = "some rows of 1 aggregate(s) were decided behind rows that follow them in the file, such as that of line 3 for \
                retail.product.tea. What was decided last holds. Where the order counts, as of prices, give once more what has to hold";
    let (figures, line) = told("p.csv").await;
    assert_eq!(figures, "5 rows: 2 new, 3 known, 0 without effect, 0 refused");
    assert!(line.as_ref().is_some_and(|line| line.ends_with(said)), "{line:?}");
    assert_eq!(prices(&shop, "tea").await, [6, 7, 5].map(Value::from));
    assert_eq!(told("p.csv").await, ("5 rows: 0 new, 5 known, 0 without effect, 0 refused".to_owned(), None));

    // Of rows that the rules refused some may be sent once more behind others that were not sent before.
    shop.write("r.csv", "k,sku,p\n11,none,1\n12,none,x\n");
    assert_eq!(shop.figures(PRICES, "r.csv").await, [0, 0, 0, 2]);
    shop.write("products.csv", &format!("{HEADER}1,none,None,one,1\n"));
    assert_eq!(shop.figures(SALES, "products.csv").await, [1, 0, 0, 0]);
    shop.write("r.csv", "k,sku,p\n11,none,1\n12,none,2\n");
    let (figures, line) = told("r.csv").await;
    assert_eq!(figures, "2 rows: 2 new, 0 known, 0 without effect, 0 refused");
    let is_in_order = prices(&shop, "none").await == [1, 2].map(Value::from);
    assert_eq!(line.is_none(), is_in_order, "{line:?}");

    // What a row says holds although nothing had to change for it. The row before it takes it back.
    shop.write("e.csv", "k,sku,p\n21,new,5\n");
    assert_eq!(shop.figures(PRICES, "e.csv").await, [0, 0, 0, 1]);
    shop.write("products.csv", &format!("{HEADER}1,new,New,one,1\n"));
    assert_eq!(shop.figures(SALES, "products.csv").await, [1, 0, 0, 0]);
    shop.write("e-2.csv", "k,sku,p\n20,new,6\n");
    assert_eq!(shop.figures(PRICES, "e-2.csv").await, [1, 0, 0, 0]);
    shop.write("e.csv", "k,sku,p\n21,new,5\n22,new,6\n");
    let (figures, line) = told("e.csv").await;
    assert_eq!(figures, "2 rows: 1 new, 0 known, 1 without effect, 0 refused");
    assert_eq!(prices(&shop, "new").await, [6, 5].map(Value::from));
    assert!(
        line.as_ref().is_some_and(|line| line.contains("such as that of line 2 for retail.product.new")),
        "{line:?}"
    );
    shop.system.stop().await;
}

/// A sale that was in counted as one without effect, since its article was registered for another row than before.
#[tokio::test]
async fn a_known_row_is_known_whichever_row_brings_what_it_shares() {
    let folder = fresh_folder();
    let shop = Shop::open(folder.path()).await;
    shop.write("s.csv", &format!("{HEADER}1,tea,Tea,one,x\n1,tea,Tea,one,2\n"));
    assert_eq!(shop.figures(SALES, "s.csv").await, [1, 0, 0, 1]);
    shop.write("s.csv", &format!("{HEADER}1,tea,Tea,one,1\n1,tea,Tea,one,2\n"));
    assert_eq!(shop.figures(SALES, "s.csv").await, [1, 1, 0, 0]);
    assert_eq!(shop.sold("1").await, [2, 3]);
    shop.system.stop().await;
}

/// A row whose identity somebody had emptied let those before it go: it was decided before them.
#[tokio::test]
async fn all_rows_of_rejects_are_decided_in_their_order() {
    let folder = fresh_folder();
    let shop = Shop::open(folder.path()).await;
    // The rules refuse the price of a product that there is none of, and rows without a number are not sent at all.
    shop.write("p.csv", "k,sku,p\n1,tea,1\n2,tea,x2\n3,tea,3\n4,tea,x4\n5,tea,5\n6,tea,x6\n");
    assert_eq!(shop.figures(PRICES, "p.csv").await, [0, 0, 0, 6]);
    shop.write("products.csv", &format!("{HEADER}1,tea,Tea,one,1\n"));
    assert_eq!(shop.figures(SALES, "products.csv").await, [1, 0, 0, 0]);
    let rejects = shop.read("p.rejects.csv").replace("tea,x", "tea,");
    let mut reader = csv::Reader::from_reader(rejects.as_bytes());
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(reader.headers().unwrap()).unwrap();
    for (number, row) in (1..).zip(reader.records()) {
        let row = row.unwrap();
        let field = |(column, field): (usize, &str)| {
            let is_emptied = column == 4 && number % 2 == 0;
            if is_emptied { String::new() } else { field.to_owned() }
        };
        writer.write_record((0..).zip(&row).map(field)).unwrap();
    }
    shop.write("mended.csv", &String::from_utf8(writer.into_inner().unwrap()).unwrap());
    assert_eq!(shop.figures(PRICES, "mended.csv").await, [6, 0, 0, 0]);
    assert_eq!(prices(&shop, "tea").await, [1, 2, 3, 4, 5, 6].map(Value::from));
    shop.system.stop().await;
}

/// Each time that a refused row was mended in another way, what it shares with others took effect.
#[tokio::test]
async fn a_refused_row_takes_effect_once_however_often_it_is_mended() {
    let folder = fresh_folder();
    let shop = Shop::open(folder.path()).await;
    let name = async |sku: &str| shop.product(sku).await["data"]["name"].clone();
    // The rules refuse the supplier of gin, and no command is made of the row of rum.
    shop.write("s.csv", &format!("{HEADER}1,gin,Gin,no such!,2\n1,rum,Rum,one,x\n"));
    assert_eq!(shop.figures(SALES, "s.csv").await, [0, 0, 0, 2]);
    let mended = |names: [&str; 2]| {
        let rejects = shop.read("s.rejects.csv");
        let gin = rejects.replace("gin,Gin,no such!,2", &format!("gin,{},one,2", names[0]));
        gin.replace("rum,Rum,one,x", &format!("rum,{},one,3", names[1]))
    };
    shop.write("mended.csv", &mended(["Gin", "Rum"]));
    assert_eq!(shop.figures(SALES, "mended.csv").await, [2, 0, 0, 0]);
    for (names, figures) in [(["Dry Gin", "Dark Rum"], [0, 0, 0, 2]), (["Gin", "Dark Rum"], [0, 1, 0, 1])] {
        shop.write("again.csv", &mended(names));
        for file in ["again.csv", "again.rejects.csv"] {
            let [new, known, without_effect, refused] = shop.figures(SALES, file).await;
            assert_eq!(
                [new, without_effect, refused],
                [figures[0], figures[2], figures[3]],
                "{names:?} {file}"
            );
            assert_eq!(known, if file == "again.csv" { figures[1] } else { 0 }, "{names:?} {file}");
            assert_eq!(
                [name("gin").await, name("rum").await],
                [json!("Gin"), json!("Rum")],
                "{names:?} {file}"
            );
        }
        let refused = shop.read("again.rejects.csv");
        assert!(refused.contains("known-with-other-content"), "{refused}");
        std::fs::remove_file(folder.path().join("again.rejects.csv")).unwrap();
        std::fs::remove_file(folder.path().join("again.rejects.rejects.csv")).unwrap();
    }
    assert_eq!(shop.figures(SALES, "mended.csv").await, [0, 2, 0, 0]);
    assert_eq!(shop.sold("1").await, [2, 5]);
    shop.system.stop().await;
}

/// What is refused again after it was mended stands in other rejects, and can be mended there.
#[tokio::test]
async fn a_row_that_is_refused_after_it_was_mended_can_be_mended_once_more() {
    let folder = fresh_folder();
    let shop = Shop::open(folder.path()).await;
    // Nothing can be sold of which there are none.
    shop.write("s.csv", &format!("{HEADER}1,tee,Tea,one,0\n"));
    assert_eq!(shop.figures(SALES, "s.csv").await, [0, 0, 0, 1]);
    shop.write("first.csv", &shop.read("s.rejects.csv").replace("tee,Tea,one,0", "tea,Tee,one,0"));
    assert_eq!(shop.figures(SALES, "first.csv").await, [0, 0, 0, 1]);
    shop.write("second.csv", &shop.read("first.rejects.csv").replace("tea,Tee,one,0", "tea,Tea,one,2"));
    assert_eq!(shop.figures(SALES, "second.csv").await, [1, 0, 0, 0]);
    assert_eq!(shop.product("tea").await["data"]["name"], json!("Tea"));
    assert_eq!(shop.figures(SALES, "second.csv").await, [0, 1, 0, 0]);
    shop.write("third.csv", &shop.read("second.csv").replace("tea,Tea,one,2", "tea,Other,one,2"));
    assert_eq!(shop.figures(SALES, "third.csv").await, [0, 0, 0, 1]);
    assert_eq!(shop.product("tea").await["data"]["name"], json!("Tea"));
    assert_eq!(shop.sold("1").await, [1, 2]);

    // Also where the map keeps what was accepted first: that was of a row that was refused.
    let kept = SALES.replace("identity =", "changed = \"keep\"\nidentity =").replace("\"sales\"", "\"kept\"");
    shop.write("k.csv", &format!("{HEADER}1,cap,Cup,one,0\n"));
    assert_eq!(shop.figures(&kept, "k.csv").await, [0, 0, 0, 1]);
    shop.write("mended.csv", &shop.read("k.rejects.csv").replace("cap,Cup,one,0", "cup,Cup,one,1"));
    assert_eq!(shop.figures(&kept, "mended.csv").await, [1, 0, 0, 0]);
    assert_eq!(shop.product("cup").await["data"]["name"], json!("Cup"));
    shop.system.stop().await;
}

/// A scheduled import of a file that still said what had been refused ended with 0.
#[tokio::test]
async fn what_was_mended_and_is_not_corrected_in_its_file_is_refused_unless_the_map_keeps_it() {
    let folder = fresh_folder();
    let shop = Shop::open(folder.path()).await;
    let map = &*SALES.replace("\"content\"", "[\"{sku}\"]");
    shop.write("s.csv", &format!("{HEADER}1,tea,Tea,one,1\n1,gin,Gin,no such!,2\n"));
    assert_eq!(shop.figures(map, "s.csv").await, [1, 0, 0, 1]);
    shop.write("mended.csv", &shop.read("s.rejects.csv").replace("no such!", "two"));
    assert_eq!(shop.figures(map, "mended.csv").await, [1, 0, 0, 0]);
    let said =
        "1 rows were refused before as they stand here, and mended since: what the mended rows said stands";
    let kept = map.replace("identity =", "changed = \"keep\"\nidentity =");
    for (by, figures, code) in [
        (map, "1 known, 0 without effect, 1 refused", 10),
        (&kept, "2 known, 0 without effect, 0 refused", 0),
    ] {
        let again = shop.import(by, "s.csv").await;
        assert_eq!(again.code(), Some(code), "{again:?}");
        assert!(again.stdout.starts_with(&format!("2 rows: 0 new, {figures}")), "{again:?}");
        assert!(again.stderr.contains(said), "{again:?}");
    }
    let refused = shop.read("s.rejects-2.csv");
    assert!(refused.contains(",mended-since,"), "{refused}");
    // As it stands there it is refused again; mended as before it is known.
    assert_eq!(shop.figures(map, "s.rejects-2.csv").await, [0, 0, 0, 1]);
    shop.write("mended.csv", &refused.replace(",no such!,", ",two,"));
    assert_eq!(shop.figures(map, "mended.csv").await, [0, 1, 0, 0]);
    // Corrected in the file, too, it is what stands.
    let corrected = shop.read("s.csv").replace("no such!", "two");
    shop.write("s.csv", &corrected);
    assert_eq!(shop.figures(map, "s.csv").await, [0, 2, 0, 0]);
    assert_eq!(shop.sold("1").await, [2, 3]);
    shop.system.stop().await;
}

/// The row was to be corrected in its file, too, and then it was refused for ever: what it shares with others had been in effect before it was mended.
#[tokio::test]
async fn a_row_whose_shared_command_was_in_effect_before_it_was_mended_is_taken_out_of_its_file() {
    let folder = fresh_folder();
    let shop = Shop::open(folder.path()).await;
    let map = &*SALES.replace("\"content\"", "[\"{sku}\"]");
    let told = async |map: &str, row: &str| {
        shop.write("s.csv", &format!("{HEADER}{row}\n"));
        let ended = shop.import(map, "s.csv").await;
        let is_mended =
            ended.stderr.contains("1 rows were refused before as they stand here, and mended since");
        (ended.code().unwrap(), is_mended)
    };
    // Nothing can be sold of which there are none, but the name is in effect.
    assert_eq!(told(map, "1,tea,Tee,one,0").await, (10, false));
    shop.write("mended.csv", &shop.read("s.rejects.csv").replace("tea,Tee,one,0", "tea,Tea,one,2"));
    assert_eq!(shop.figures(map, "mended.csv").await, [1, 0, 0, 0]);
    assert_eq!(shop.product("tea").await["data"]["name"], json!("Tea"));

    assert_eq!(told(map, "1,tea,Tee,one,0").await, (10, true));
    let refused = shop.read("s.rejects-2.csv");
    assert!(
        refused.contains("Correct the row in its file or take it out there, or write changed"),
        "{refused}"
    );
    // Corrected to what stands, as a whole or in part, it is another name than the file brought first.
    assert_eq!(
        told(map, "1,tea,Tea,one,0").await,
        (10, true),
        "its sale was mended, whatever else refuses it"
    );
    assert_eq!(told(map, "1,tea,Tea,one,2").await, (10, false));
    for file in ["s.rejects-3.csv", "s.rejects-4.csv"] {
        let refused = shop.read(file);
        assert!(refused.contains(",known-with-other-content,"), "{file}: {refused}");
    }
    let kept = map.replace("identity =", "changed = \"keep\"\nidentity =");
    assert_eq!(told(&kept, "1,tea,Tea,one,2").await, (0, false));
    assert_eq!(told(map, "1,pot,Pot,one,1").await, (0, false), "what is taken out is not refused");
    assert_eq!(shop.product("tea").await["data"]["name"], json!("Tea"));
    assert_eq!(shop.sold("1").await, [2, 3]);
    shop.system.stop().await;
}
