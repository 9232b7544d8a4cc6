//! A second file: how its numbers are written, and what of it cannot be used.

use super::{super::super::input::tests::workbook, *};

/// The commands of the only row, which is of `tea`, with a second file that is joined like this.
fn joined(map: &str, join: &str, name: &str, bytes: &[u8]) -> Result<Vec<OutgoingCommand>, String> {
    let folder = tempfile::tempdir().unwrap();
    let (head, commands) = map.split_once("[[command]]").unwrap();
    let join = format!("[join.prices]\nfile = \"{name}\"\non = \"{{item}}\"\n{join}\n");
    let map = folder.path().join("map.toml");
    std::fs::write(&map, format!("{head}{join}[[command]]{commands}")).unwrap();
    std::fs::write(folder.path().join(name), bytes).unwrap();
    let rows = folder.path().join("rows.csv");
    std::fs::write(&rows, format!("{HEADER}tea,Tea,s1,\n")).unwrap();
    let load = || {
        let map = MapFile::read(&map)?;
        let file = RowsFile::check(Source::at(&rows, map.form())?, map.form())?;
        let known = Model::of::<Reference>().unwrap().aggregates();
        Mapping::load(map, &file, &known).map(|mapping| (mapping, file))
    };
    let (mut mapping, file) = load().map_err(|error| error.to_string())?;
    let unit = mapping.units(&file).unwrap().next().unwrap().unwrap();
    let commands = mapping.map(&unit).commands.map_err(|refusal| refusal.reason)?;
    Ok(commands.into_iter().map(|each| each.command).collect())
}

const KEY: &str = "key = \"{sku}\"\n";

fn german() -> String {
    let file = "[file]\ndecimal = \",\"\nthousands = \".\"\n";
    MAP.replacen("[[command]]", &format!("{file}[[command]]"), 1)
        .replace("{price}", "{prices.cost}")
        .replace("places = 2", "places = 3")
        .replace("\"USD\"", "\"KWD\"")
}

/// A price of 1.234 became 1234.000: the sheet was written in one form and read in the other.
#[test]
fn numbers_of_a_joined_sheet_are_those_of_the_rows() {
    let sheet = workbook(&[&[("text", "sku"), ("text", "cost")], &[("text", "tea"), ("number", "1.234")]]);
    let commands = joined(&german(), KEY, "prices.xlsx", &sheet).unwrap();
    let body = String::from_utf8_lossy(&commands[1].body).into_owned();
    assert!(body.contains("\"unit_price\":1234}"), "{body}");
}

/// They were taken and had no effect.
#[test]
fn a_join_has_no_form_of_numbers_of_its_own() {
    for form in ["decimal = \".\"", "thousands = \",\"", "zone = \"UTC\""] {
        let join = format!("{KEY}{form}\n");
        let refused = joined(&german(), &join, "prices.csv", b"sku,cost\ntea,1\n").unwrap_err();
        let name = form.split(' ').next().unwrap();
        let said = format!("there is no {name} here; there are file, key, on, delimiter, encoding, sheet");
        assert!(refused.contains(&said), "{refused}");
    }
}

/// Such a line was left out, and its price was not there.
#[test]
fn a_line_whose_key_cannot_be_read_is_told() {
    let map = MAP.replace("{price}", "{prices.cost}");
    let key = "key = \"{sku|table:skus}\"\n[table.skus]\nT1 = \"tea\"\n";
    assert!(joined(&map, key, "prices.csv", b"sku,cost\nT1,1\n,2\n").is_ok(), "no row asks for no key");
    let refused = joined(&map, key, "prices.csv", b"sku,cost\nT1,1\nT2,2\n").unwrap_err();
    let said = "prices.csv: line 3: column sku: \"T2\" is not in the table skus";
    assert!(refused.contains(said), "{refused}");
}

/// The first of them was taken.
#[test]
fn a_column_that_comes_twice_in_the_second_file_is_refused_where_it_is_used() {
    let map = MAP.replace("{price}", "{prices.cost}");
    let refused = joined(&map, KEY, "prices.csv", b"sku,cost,cost\ntea,1,2\n").unwrap_err();
    assert!(refused.contains("column \"prices.cost\" comes more than once in the file"), "{refused}");
    assert!(joined(&map, KEY, "prices.csv", b"sku,cost,,\ntea,1,,\n").is_ok());
}
