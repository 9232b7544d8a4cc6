//! Rows that become commands together, and what keeps them together.

use super::*;

const ROWS: &str = "invoice,item,name,count,price,store\n";

/// What is refused before anything is sent.
fn refused_rows(map: &str, text: &str) -> String {
    let refused = load(map, text).map(|_| ()).unwrap_err();
    assert_eq!(refused.exit_code(), ExitCode::Data, "{refused}");
    refused.to_string()
}

/// The other rows were sent as a whole invoice, and the mended row was taken for known: it was never recorded.
#[test]
fn a_row_whose_condition_cannot_be_told_refuses_its_whole_group() {
    let map = INVOICES.replace("is = 0", "below = 0");
    let rows = |prices: [&str; 3]| {
        let [tea, pot, cup] = prices;
        format!("{ROWS}7,tea,,1,{tea},North\n7,pot,,1,{pot},North\n7,cup,,1,{cup},North\n8,tea,,1,1,North\n")
    };
    let identity = |text: &str| {
        let (mut mapping, file) = load(&map, text).unwrap();
        let first = mapping.units(&file).unwrap().next().unwrap().unwrap();
        mapping.map(&first).identity
    };
    let good = identity(&rows(["2.55", "3", "4"]));
    assert!(good.is_some());
    for wrong in 0..3 {
        let mut prices = ["2.55", "3", "4"];
        prices[wrong] = "x";
        let text = rows(prices);
        let all = made(&map, &text);
        let refusal = Err("value-malformed: column price: \"x\" is not a number".to_owned());
        assert_eq!(all.iter().map(|(rows, _)| *rows).collect::<Vec<_>>(), [3, 1], "{wrong}");
        assert_eq!((&all[0].1, all[1].1.is_ok()), (&refusal, true), "{wrong}");
        assert_eq!(identity(&text), good, "mended it is the same group");
    }
    // One row that is left out is no part of its group, whatever stands around it.
    let some = made(&map, &rows(["2.55", "-1", "x"]));
    assert_eq!(some.iter().map(|(rows, _)| *rows).collect::<Vec<_>>(), [1, 2, 1], "{some:?}");
}

/// Mended, it was imported as another row unless its identity was given by hand.
#[test]
fn a_single_row_whose_condition_cannot_be_told_keeps_its_identity() {
    let map = MAP.replace("\"content\"", "[\"{item}\"]\n[[skip]]\nvalue = \"{price}\"\nbelow = 0");
    let identity = |price: &str| {
        let (mut mapping, file) = load(&map, &format!("{HEADER}7,Gin,s1,{price}\n")).unwrap();
        let unit = mapping.units(&file).unwrap().next().unwrap().unwrap();
        let mapped = mapping.map(&unit);
        (mapped.identity.unwrap(), mapped.commands.is_ok())
    };
    let (refused, mended) = (identity("x"), identity("1"));
    assert_eq!((refused.1, mended.1), (false, true));
    assert_eq!(refused.0, mended.0);
    // Two of them are as little told apart as two good ones.
    let said = refused_rows(&map, &format!("{HEADER}7,Gin,s1,x\n7,Gin,s1,y\n"));
    assert!(said.contains("lines 2 and 3 of rows.csv have the same identity"), "{said}");
}

#[test]
fn a_row_of_no_group_is_told_before_anything_is_sent() {
    let rows = format!("{ROWS}7,tea,,1,1,North\n,pot,,1,1,North\n");
    let said = refused_rows(INVOICES, &rows);
    assert!(said.contains("line 3 is of no group: column invoice is empty"), "{said}");
    let skipped = made(INVOICES, &rows.replace(",pot,,1,1", ",total,,1,0"));
    assert_eq!(skipped[0], (1, Err("skipped".to_owned())), "a line of sums is left out all the same");
}

/// Each part was an invoice of its own, if the map said besides which rows are one.
#[test]
fn a_group_that_comes_apart_is_refused_whatever_the_identity_is() {
    let text = format!("{ROWS}1,tea,,1,1,North\n2,tea,,1,1,North\n1,pot,,1,1,North\n");
    for identity in ["", "identity = \"content\"\n", "identity = [\"{item}\", \"{invoice}\"]\n"] {
        let map = INVOICES.replace("group =", &format!("{identity}group ="));
        let said = refused_rows(&map, &text);
        assert!(said.contains("lines 2 and 4 of rows.csv are of one group"), "{identity}: {said}");
    }
}

/// The rest was another command of the same invoice.
#[test]
fn a_group_beyond_measure_is_refused() {
    let rows = "1,tea,,1,1,North\n".repeat(10_001);
    let said = refused_rows(INVOICES, &format!("{ROWS}0,tea,,1,1,North\n{rows}"));
    assert!(said.contains("the group that begins on line 3 has more than 10000 rows"), "{said}");
    assert_eq!(made(INVOICES, &format!("{ROWS}{}", "1,tea,,1,1,North\n".repeat(10_000)))[0].0, 10_000);
}

/// A command was taken for known, as another one of the same row had its id.
#[test]
fn commands_whose_names_the_file_tells_have_ids_of_their_own() {
    let (head, sale) = MAP.split_at(MAP.rfind("[[command]]").unwrap());
    let named = sale.replace("\"record-sale\"", "\"{name}\"");
    for parts in [[sale, &named, sale], [&named, sale, &named], [&named, &named, sale]] {
        let mut mapping = load_with(&format!("{head}{}", parts.concat()), "").unwrap().0;
        let commands = commands(&mut mapping, 1, ["7", "record-sale", "s1", "1.00"]);
        let ids: HashSet<String> = commands.into_iter().map(|command| command.id).collect();
        assert_eq!(ids.len(), 4, "{ids:?}");
    }
}

/// A line that was put into an invoice gave those below it the ids of their neighbours: one was lost, and one was booked twice.
#[test]
fn the_rows_of_a_group_keep_their_ids_when_others_come_between() {
    for (each, corrected) in [("[\"{item}\"]", true), ("\"content\"", false)] {
        let map = INVOICES.replace("once = true\neach = [\"{item}\"]", &format!("each = {each}"));
        let ids = |rows: &str| {
            let (mut mapping, file) = load(&map, &format!("{ROWS}{rows}")).unwrap();
            let unit = mapping.units(&file).unwrap().next().unwrap().unwrap();
            let all = mapping.map(&unit).commands.unwrap().into_iter().map(|each| each.command);
            let of_rows = all.filter(|command| &*command.address.command == "register");
            of_rows.map(|command| (command.address.stream_id.id().to_owned(), command.id)).collect::<Vec<_>>()
        };
        let before = ids("1,tea,Tea,1,1,North\n1,pot,Pot,1,1,North\n");
        let after =
            ids("1,cup,Cup,1,1,North\n1,tea,Tea,1,1,North\n1,rum,Rum,1,1,North\n1,pot,Pot,1,1,North\n");
        assert!(before.iter().all(|id| after.contains(id)), "{each}: {before:?} {after:?}");
        assert_eq!(after.iter().map(|(_, id)| id).collect::<HashSet<_>>().len(), 4, "{after:?}");
        // What is corrected has its id, and is told from what was said before by its content; where only content tells rows apart, it is another.
        let mended = ids("1,tea,Green Tea,1,1,North\n1,pot,Pot,1,1,North\n");
        assert_eq!((mended[0] == before[0], mended[1] == before[1]), (corrected, true), "{each}");
    }
    let alike = "1,tea,Tea,1,1,North\n1,pot,Pot,1,1,North\n1,tea,Tea,2,1,North\n";
    let map = INVOICES.replace("once = true\n", "");
    let said = made(&map, &format!("{ROWS}{alike}"))[0].1.clone().unwrap_err();
    assert!(said.starts_with("rows-alike: lines 2 and 4 of the group have the same values"), "{said}");
    let shared = made(INVOICES, &format!("{ROWS}{alike}"));
    assert!(shared[0].1.is_ok(), "what rows share, they may share within a group: {shared:?}");
}

#[test]
fn a_map_says_what_tells_the_rows_of_a_group_apart() {
    for wrong in ["true", "[]", "\"file-and-content\"", "[\"{item|slug}\"]", "[\"{item}{name}\"]"] {
        let map = INVOICES.replace("each = [\"{item}\"]", &format!("each = {wrong}"));
        let refused = load(&map, ROWS).map(|_| ()).unwrap_err();
        assert_eq!(refused.exit_code(), ExitCode::Configuration, "{refused}");
        assert!(refused.to_string().contains("map.toml: line 15, column "), "{refused}");
    }
}

/// Equal rows of two files were others to the import, as one was read as windows-1252 and the other as something else.
#[test]
fn rows_that_are_told_apart_by_content_are_not_read_by_a_guess() {
    let latin = |map: &str| {
        let folder = tempfile::tempdir().unwrap();
        let (path, file) = (folder.path().join("map.toml"), folder.path().join("rows.csv"));
        std::fs::write(&path, map).unwrap();
        std::fs::write(&file, b"item,name,store,price\n7,K\xe4nnchen,s1,1\n").unwrap();
        let map = MapFile::read(&path)?;
        let file = RowsFile::check(Source::at(&file, map.form())?, map.form())?;
        let known = Model::of::<Reference>().unwrap().aggregates();
        Mapping::load(map, &file, &known).map(|_| ())
    };
    let refused = latin(MAP).unwrap_err();
    let said = "line 2 of ";
    assert!(refused.to_string().contains(said), "{refused}");
    let said = "rows.csv is told from other rows by letters that are no ASCII, and how they are written was guessed as windows-1252";
    assert!(refused.to_string().contains(said), "{refused}");
    latin(&MAP.replace("\"content\"", "[\"{item}\"]")).unwrap();
    // Letters of columns depend on it, too; other columns may hold what they like.
    let refused = latin(&MAP.replace("\"content\"", "[\"{name}\"]")).unwrap_err();
    assert!(refused.to_string().contains(said), "{refused}");
    for by in [
        "group = [\"{name}\"]\n[[command]]",
        "[[command]]\neach = [\"{name}\"]",
        "[[command]]\neach = \"content\"",
    ] {
        let group = if by.starts_with("group") { "" } else { "\ngroup = [\"{item}\"]" };
        let map =
            MAP.replace("\"content\"", &format!("[\"{{item}}\"]{group}")).replacen("[[command]]", by, 1);
        assert!(latin(&map).unwrap_err().to_string().contains(said), "{by}");
    }
    latin(&MAP.replacen("[[command]]", "[file]\nencoding = \"windows-1252\"\n[[command]]", 1)).unwrap();
}

/// Two equal lines of an order were one sale: both had the identity of their group as its number.
#[test]
fn a_row_of_a_group_has_an_identity_and_a_hash_of_its_own() {
    let map = INVOICES
        .split_inclusive("[[command]]\n")
        .take(2)
        .collect::<String>()
        .trim_end_matches("[[command]]\n")
        .replace("once = true\neach = [\"{item}\"]", "each = \"content\"")
        .replace("name = \"{name|default:?}\"", "name = \"{identity} {hash}\"");
    let all = made(&map, &format!("{ROWS}1,tea,Tea,1,1,North\n1,tea,Tea,1,1,North\n1,pot,Pot,1,1,North\n"));
    let names: Vec<String> = all[0].1.clone().unwrap();
    let texts: Vec<Vec<&str>> =
        names.iter().map(|name| name.split('"').nth(3).unwrap().split(' ').collect()).collect();
    assert_eq!(texts.iter().map(|text| text[0]).collect::<HashSet<_>>().len(), 3, "{names:?}");
    assert!(texts[0][1] == texts[1][1] && texts[0][1] != texts[2][1], "{names:?}");
}
