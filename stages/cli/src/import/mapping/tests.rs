//! What a map makes of rows, and what it is refused for.

mod groups;
mod joins;
mod mended;

use std::{collections::HashSet, path::Path};

use millstream_domain::application::Model;
use millstream_model::Reference;

use millstream_contract::exit_code::{ExitCode, Failure as _};

use super::{
    super::{input::SourceRow, source::Source},
    *,
};

const MAP: &str = r#"
name = "test"
context = "retail"
identity = "content"
[[command]]
aggregate = "product"
id = "{item}"
command = "register"
once = true
body = { name = "{name}", supplier = "one" }
[[command]]
aggregate = "till"
id = "{store}_2026-01-31"
command = "record-sale"
body = { sale = "{row}", currency = "USD", lines = [
    { sku = "{item}", quantity = 1, unit_price = { decimal = "{price}", places = 2 } },
] }
"#;

const HEADER: &str = "item,name,store,price\n";

fn load_with(map: &str, rows: &str) -> Result<(Mapping, RowsFile), MappingError> {
    let folder = tempfile::tempdir().unwrap();
    let (path, file) = (folder.path().join("map.toml"), folder.path().join("rows.csv"));
    std::fs::write(&path, map).unwrap();
    std::fs::write(&file, format!("{HEADER}{rows}")).unwrap();
    let map = MapFile::read(&path)?;
    let file = RowsFile::check(Source::at(&file, map.form())?, map.form())?;
    let known = Model::of::<Reference>().unwrap().aggregates();
    Mapping::load(map, &file, &known).map(|mapping| (mapping, file))
}

fn refused(map: &str) -> MappingError {
    let refused = load_with(map, "").map(|_| ()).unwrap_err();
    assert_eq!(refused.exit_code(), ExitCode::Configuration);
    refused
}

fn mapping() -> Mapping {
    load_with(MAP, "").unwrap().0
}

fn source_row(number: u64, fields: [&str; 4]) -> SourceRow {
    let record = csv::StringRecord::from(fields.to_vec());
    SourceRow {
        number,
        line: number + 1,
        identity: None,
        of_group: None,
        keys: Vec::new(),
        taken: Vec::new(),
        tried: Vec::new(),
        file: None,
        record,
    }
}

fn row(number: u64, fields: [&str; 4]) -> Unit {
    Unit::single(source_row(number, fields), Fate::Mapped)
}

fn commands(mapping: &mut Mapping, number: u64, fields: [&str; 4]) -> Vec<OutgoingCommand> {
    let mapped = mapping.map(&row(number, fields));
    mapped.commands.unwrap().into_iter().map(|each| each.command).collect()
}

/// Each row was refused or set aside, as if it were the row's fault.
#[test]
fn mistakes_of_a_map_are_told_with_their_place_when_it_is_read() {
    for (right, wrong, said) in [
        (
            "\"retail\"",
            "\"retial\"",
            "line 3, column 11: there is no aggregate retial.product; there are comments.comment, ",
        ),
        ("\"till\"", "\"tills\"", "line 12, column 13: there is no aggregate retail.tills; "),
        (
            "\"register\"",
            "\"registre\"",
            "line 8, column 11: retail.product has no command registre; it has ",
        ),
        (
            "quantity =",
            "quantitty =",
            "line 16, column 23: there is no field quantitty; there are quantity, sku, unit_price",
        ),
        (
            ", quantity = 1",
            "",
            "line 16, column 5: the field quantity of lines is missing, which the command needs",
        ),
        ("currency = \"USD\", ", "", "line 15, column 8: the field currency is missing"),
        (
            "quantity = 1",
            "quantity = \"{price}\"",
            "line 16, column 34: quantity is a whole number, and the map gives a text",
        ),
        (
            "supplier = \"one\"",
            "supplier = 1",
            "line 10, column 38: supplier is a text, and the map gives a whole number",
        ),
        (
            "supplier = \"one\"",
            "supplier = \"{vendor}\"",
            "line 10, column 38: \"{vendor}\": there is no column \"vendor\"",
        ),
        (
            "\"{store}_2026-01-31\"",
            "\"{store}_{name|date:%Q}\"",
            "line 13, column 6: \"{store}_{name|date:%Q}\": the format \"%Q\" reads",
        ),
        (
            "\"test\"",
            "\"\"",
            "line 2, column 8: the ids of all commands begin with the name \"\", which is empty",
        ),
        ("\"USD\"", "2026-01-31", "line 15, column 37: a date stands in quotes"),
        ("\"content\"", "\"row\"", "line 4, column 12: identity is \"row\"; write identity = ["),
        ("\"content\"", "[\"{item}\", \"{row}\"]", "line 4, column 23: \"{row}\" is not one column"),
    ] {
        let refused = refused(&MAP.replacen(right, wrong, 1)).to_string();
        assert!(refused.contains(&format!("map.toml: {said}")), "{wrong}: {refused}");
    }
    let missing = refused(&MAP.replace("identity = \"content\"", ""));
    assert!(missing.to_string().contains("does not say which rows are one; write identity = ["), "{missing}");
}

#[test]
fn a_command_that_only_processes_give_is_refused() {
    let map = "name = \"a\"\ncontext = \"orders\"\nidentity = \"content\"\n[[command]]\naggregate = \"order\"\n\
               id = \"{item}\"\ncommand = \"expire-payment\"\nbody = {}\n";
    let refused = refused(map).to_string();
    assert!(
        refused.contains("line 7, column 11: only processes and timers may give expire-payment"),
        "{refused}"
    );
}

/// The import waited a minute for outcomes, which were recorded for positions without an id.
#[test]
fn a_name_that_cannot_begin_an_id_is_refused() {
    let long = "x".repeat(NAME_LENGTH_MAX + 1);
    for (name, said) in [
        ("@sales", "the name \"@sales\", which begins with @, as ids do that stand for positions"),
        (" sales", "which begins with white space; choose another"),
        ("sa\\nles", "which holds a control character"),
        (&long, "which is too long for an id"),
    ] {
        let refused = refused(&MAP.replace("\"test\"", &format!("\"{name}\""))).to_string();
        assert!(refused.contains(said), "{refused}");
    }
    let longest = MAP.replace("\"test\"", &format!("\"{}\"", &long[1..]));
    let mut longest = load_with(&longest, "").unwrap().0;
    let mapped = longest.map(&row(u64::MAX - 1, ["7", "Gin", "s1", "1.00"])).commands.unwrap();
    assert!(mapped.iter().all(|each| each.again(u32::MAX).id.len() <= COMMAND_ID_LENGTH_MAX), "{mapped:?}");
}

#[test]
fn two_rows_with_one_identity_are_refused_before_anything_is_sent() {
    let map = MAP.replace("\"content\"", "[\"{item}\", \"{store}\"]");
    let rows = "1,Gin,s1,1\n1,Gin,s2,1\n1,Rum,s1,2\n,Gin,s1,2\n,Gin,s1,2\n1,Gin,s2,1\n";
    let refused = load_with(&map, rows).map(|_| ()).unwrap_err();
    assert_eq!(refused.exit_code(), ExitCode::Data);
    let said = "rows.csv have the same identity, and so have 1 more; name columns";
    assert!(refused.to_string().contains(said), "{refused}");
    assert!(refused.to_string().contains("the rows of lines 2 and 4 of "), "{refused}");
    assert!(load_with(MAP, rows).is_ok());
}

#[test]
fn ids_are_those_of_the_first_time_and_differ_between_equal_rows() {
    let ids = || {
        let equal = "7,Gin,s1,1.00\n".repeat(2);
        let mut mapping = load_with(MAP, &equal).unwrap().0;
        let of_row = |number| commands(&mut mapping, number, ["7", "Gin", "s1", "1.00"]);
        (1..=2).flat_map(of_row).map(|command| command.id).collect::<Vec<_>>()
    };
    let once = ids();
    assert_eq!(once, ids());
    assert_eq!(once.iter().collect::<HashSet<_>>().len(), 4);
    assert!(once[0].starts_with("test:") && once[0].ends_with(":product.register"), "{once:?}");
}

/// A command that was put in before others made all of them new.
#[test]
fn an_id_depends_on_no_other_command_of_the_map() {
    let mut before = mapping();
    let (head, sale) = MAP.split_at(MAP.rfind("[[command]]").unwrap());
    let head = &head[..head.find("[[command]]").unwrap()];
    let mut after = load_with(&format!("{head}{sale}{sale}"), "").unwrap().0;
    let fields = ["7", "Gin", "s1", "1.00"];
    let (before, after) = (commands(&mut before, 1, fields), commands(&mut after, 1, fields));
    assert_eq!(before[1].id, after[0].id);
    assert_eq!(after[1].id, format!("{}.2", after[0].id));
}

#[test]
fn a_row_of_rejects_keeps_identity_and_number() {
    let mut mapping = mapping();
    let first = commands(&mut mapping, 9, ["7", "Gin", "s1", "1.00"]);
    let identity = first[0].id.split(':').nth(1).unwrap().to_owned();
    let mended = SourceRow { identity: Some(identity), ..source_row(9, ["7", "Gin", "s1", "2.00"]) };
    let mended = Unit::single(mended, Fate::Mapped);
    let mended = mapping.map(&mended).commands.unwrap();
    assert_eq!(
        mended.iter().map(|each| &each.command.id).collect::<Vec<_>>(),
        first.iter().map(|each| &each.id).collect::<Vec<_>>()
    );
    assert!(mended[1].command.body.starts_with(b"{\"currency\":\"USD\",\"lines\":[{"), "{mended:?}");
    assert_eq!(mended[1].again(2).id, format!("{}~3", first[1].id));
}

/// The first command of a row was sent although the second one was none.
#[test]
fn refused_row_has_no_commands_and_spoils_no_later_row() {
    let mut mapping = mapping();
    for (fields, code, said) in [
        (["7", "Gin", "s1", ""], "column-empty", "column price is empty"),
        (
            ["7", "Gin", "s1", "7,1"],
            "value-malformed",
            "column price: \"7,1\" is not a decimal number with at most 2 places",
        ),
        (
            ["no such id!", "Gin", "s1", "1"],
            "subject-not-allowed",
            "column item: id \"no such id!\" is not allowed",
        ),
    ] {
        let refusal = mapping.map(&row(1, fields)).commands.unwrap_err();
        assert_eq!(refusal.code, code);
        assert!(refusal.reason.starts_with(said), "{refusal:?}");
    }
    assert_eq!(commands(&mut mapping, 2, ["7", "Gin", "s1", "1.00"]).len(), 2);

    let by_date = MAP.replace("{store}_2026-01-31", "{store}");
    let mut mapping = load_with(&by_date, "").unwrap().0;
    let refusal = mapping.map(&row(1, ["7", "Gin", "s1", "1.00"])).commands.unwrap_err();
    assert_eq!(refusal.code, "till-id-malformed");
    let by_name = MAP.replace("\"record-sale\"", "\"{name}\"");
    let mut mapping = load_with(&by_name, "").unwrap().0;
    let refusal = mapping.map(&row(1, ["7", "close", "s1", "1.00"])).commands.unwrap_err();
    assert_eq!(refusal.code, "body-malformed");
}

const INVOICES: &str = r#"
name = "invoices"
context = "retail"
group = ["{invoice}"]
[[skip]]
value = "{price}"
is = 0
[value]
till = "{store|slug}_2026-01-31"
[[command]]
aggregate = "product"
id = "{item}"
command = "register"
once = true
each = ["{item}"]
body = { name = "{name|default:?}", supplier = "one" }
[[command]]
aggregate = "till"
id = "{till}"
command = "record-sale"
when = { not = { value = "{invoice}", begins = "C" } }
body = { sale = "{invoice}", currency = "USD", lines = { each = { sku = "{item}", quantity = { integer = "{count}" }, unit_price = { decimal = "{price}", places = 2 } } } }
[[command]]
aggregate = "till"
id = "{till}"
command = "record-return"
when = { value = "{invoice}", begins = "C" }
body = { return = "{invoice}", currency = "USD", lines = { each = { sku = "{item}", quantity = { integer = "{count|abs}" }, unit_price = { decimal = "{price}", places = 2 } } } }
"#;

fn load(map: &str, text: &str) -> Result<(Mapping, RowsFile), MappingError> {
    let folder = tempfile::tempdir().unwrap();
    let (path, file) = (folder.path().join("map.toml"), folder.path().join("rows.csv"));
    std::fs::write(&path, map).unwrap();
    std::fs::write(&file, text).unwrap();
    let map = MapFile::read(&path)?;
    // Gone with the folder, so that it is kept as standard input is.
    let source = Source::keep(Path::new("rows.csv"), std::fs::File::open(&file).unwrap())?;
    let file = RowsFile::check(source, map.form())?;
    let known = Model::of::<Reference>().unwrap().aggregates();
    Mapping::load(map, &file, &known).map(|mapping| (mapping, file))
}

/// Each unit: how many rows it has, and its commands or why it has none.
fn made(map: &str, text: &str) -> Vec<(usize, Result<Vec<String>, String>)> {
    let (mut mapping, file) = load(map, text).unwrap();
    let units: Vec<Unit> = mapping.units(&file).unwrap().map(Result::unwrap).collect();
    let all = units.iter().map(|unit| {
        if unit.is_skipped() {
            return (unit.rows.len(), Err("skipped".to_owned()));
        }
        let shown = |each: RowCommand| {
            let body = String::from_utf8_lossy(&each.command.body).into_owned();
            format!("{} {body}", each.command.address)
        };
        let commands = mapping.map(unit).commands;
        let commands = commands.map(|all| all.into_iter().map(shown).collect());
        (unit.rows.len(), commands.map_err(|refusal| format!("{}: {}", refusal.code, refusal.reason)))
    });
    all.collect()
}

/// Rows of such files had to be cut apart and put together by another program.
#[test]
fn lines_of_an_invoice_are_one_sale_and_its_cancellation_one_return() {
    let text = "invoice,item,name,count,price,store\n1,tea,Tea,2,1.50,North\n1,pot,,1,20,North\n2,pot,,-1,0,North\nC3,tea,Tea,-2,1.50,North\n";
    let register = |item: &str, name: &str| {
        format!("retail.product.{item}.register {{\"name\":\"{name}\",\"supplier\":\"one\"}}")
    };
    let line = |sku: &str, count: i64, price: i64| {
        format!("{{\"quantity\":{count},\"sku\":\"{sku}\",\"unit_price\":{price}}}")
    };
    let sale = format!(
        "retail.till.north_2026-01-31.record-sale {{\"currency\":\"USD\",\"lines\":[{},{}],\"sale\":\"1\"}}",
        line("tea", 2, 150),
        line("pot", 1, 2000)
    );
    let returned = format!(
        "retail.till.north_2026-01-31.record-return {{\"currency\":\"USD\",\"lines\":[{}],\"return\":\"C3\"}}",
        line("tea", 2, 150)
    );
    let all = made(INVOICES, text);
    assert_eq!(
        all,
        [
            (1, Err("skipped".to_owned())),
            (2, Ok(vec![register("tea", "Tea"), register("pot", "?"), sale])),
            (1, Ok(vec![register("tea", "Tea"), returned])),
        ]
    );
    let (mut mapping, file) = load(INVOICES, text).unwrap();
    let first = mapping.units(&file).unwrap().map(Result::unwrap).find(|unit| !unit.is_skipped()).unwrap();
    let ids: Vec<String> =
        mapping.map(&first).commands.unwrap().into_iter().map(|each| each.command.id).collect();
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 3, "{ids:?}");
    assert!(ids[1].contains(":product.register/") && !ids[2].contains('/'), "{ids:?}");
}

#[test]
fn a_group_is_refused_as_a_whole_and_one_that_comes_again_before_anything_is_sent() {
    let text = "invoice,item,name,count,price,store\n1,tea,Tea,2,1.50,North\n1,pot,,x,20,North\n2,tea,Tea,1,1,North\n2,tea,Tea,1,1,South\n";
    let all = made(INVOICES, text);
    assert_eq!(all[0].1, Err("value-malformed: column count: \"x\" is not a whole number".to_owned()));
    let differs = all[1].1.as_ref().unwrap_err();
    let said = "group-differs: value till: line 4 says \"north_2026-01-31\" and line 5 of the same group \"south_2026-01-31\"";
    assert!(differs.starts_with(said), "{differs}");
    let apart = format!("{text}1,cup,Cup,1,1,North\n");
    let refused = load(INVOICES, &apart).map(|_| ()).unwrap_err().to_string();
    assert!(
        refused.contains("the rows of lines 2 and 6 of rows.csv are of one group, but do not follow each other; sort the file"),
        "{refused}"
    );
}

/// Rows for which no command was meant vanished.
#[test]
fn a_row_without_any_command_is_refused() {
    let map = INVOICES.replace("begins = \"C\" } }", "begins = [\"C\", \"A\"] } }").replace(
        "each = [\"{item}\"]\n",
        "each = [\"{item}\"]\nwhen = { value = \"{name}\", empty = false }\n",
    );
    let text = "invoice,item,name,count,price,store\nA1,tea,,2,1.50,North\n";
    let refused = made(&map, text)[0].1.clone().unwrap_err();
    assert!(refused.starts_with("no-command: the condition of no command holds for it"), "{refused}");
}

#[test]
fn numbers_are_those_of_the_form_that_the_map_tells() {
    let map =
        format!("{}\n[file]\ndecimal = \",\"\nthousands = \".\"\n", MAP.split_once("[[command]]").unwrap().0);
    let map = format!("{map}[[command]]{}", MAP.split_once("[[command]]").unwrap().1);
    let text = "item;name;store;price\n7;Gin;s1;1.234,50 $\n7;Gin;s1;(0,50)\n7;Gin;s1;1,234.50\n";
    let all = made(&map, text);
    assert!(all[0].1.as_ref().unwrap()[1].contains("\"unit_price\":123450"), "{all:?}");
    assert!(all[1].1.as_ref().unwrap()[1].contains("\"unit_price\":-50"), "{all:?}");
    let refused = all[2].1.as_ref().unwrap_err();
    assert!(
        refused.contains("(decimals behind ',', '.' between groups; decimal and thousands under [file]"),
        "{refused}"
    );
}

#[test]
fn a_second_file_tells_more_of_a_row() {
    let folder = tempfile::tempdir().unwrap();
    let (path, file, prices) =
        (folder.path().join("map.toml"), folder.path().join("rows.csv"), folder.path().join("prices.csv"));
    let map = MAP.replace("{price}", "{prices.cost}");
    let (head, commands) = map.split_once("[[command]]").unwrap();
    let join = "[join.prices]\nfile = \"prices.csv\"\nkey = \"{SKU|lower}\"\non = \"{item|lower}\"\n";
    std::fs::write(&path, format!("{head}{join}[[command]]{commands}")).unwrap();
    std::fs::write(&file, format!("{HEADER}TEA,Tea,s1,\nrum,Rum,s1,\ngin,Gin,s1,\n")).unwrap();
    std::fs::write(&prices, "SKU;cost\ntea;1.25\nGIN;\n").unwrap();
    let known = Model::of::<Reference>().unwrap().aggregates();
    let load = || {
        let map = MapFile::read(&path)?;
        let file = RowsFile::check(Source::at(&file, map.form())?, map.form())?;
        Mapping::load(map, &file, &known).map(|mapping| (mapping, file))
    };
    let (mut mapping, rows) = load().unwrap();
    let units: Vec<Unit> = mapping.units(&rows).unwrap().map(Result::unwrap).collect();
    let mut reason = |index: usize| {
        mapping
            .map(&units[index])
            .commands
            .map(|all| all[1].command.body.clone())
            .map_err(|refusal| refusal.reason)
    };
    assert!(String::from_utf8_lossy(&reason(0).unwrap()).contains("\"unit_price\":125"));
    assert!(reason(1).unwrap_err().contains("prices.csv has no line for \"rum\", is empty"));
    assert!(reason(2).unwrap_err().contains("prices.csv, line 3, is empty"));
    for (text, said) in [
        ("SKU,cost\ntea,1\nTEA,2\n", "line 6, column 8: "),
        (
            "SKU,cost\ntea,1\nTEA,2\n",
            "prices.csv: lines 2 and 3 have the same key \"tea\"; leave one of them out",
        ),
        (
            "sku,cost\ntea,1\n",
            "line 7, column 7: \"{SKU|lower}\": there is no column \"SKU\"; there are cost, sku",
        ),
        ("SKU,price\ntea,1\n", "\"{prices.cost}\": there is no column \"prices.cost\""),
        ("SKU,cost\ntea\n", "prices.csv: line 2 has 1 fields where the header has 2"),
    ] {
        std::fs::write(&prices, text).unwrap();
        let refused = load().map(|_| ()).unwrap_err().to_string();
        assert!(refused.contains(said), "{refused}");
    }
    std::fs::remove_file(&prices).unwrap();
    let refused = load().map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("cannot read") && refused.contains("No such file"), "{refused}");
}

#[test]
fn mistakes_in_the_new_parts_of_a_map_have_their_place_too() {
    for (right, wrong, said) in [
        (
            "[\"{invoice}\"]",
            "[\"{invoce}\"]",
            "line 4, column 10: \"{invoce}\": there is no column \"invoce\"",
        ),
        ("is = 0", "was = 0", "line 7, column 1: there is no test \"was\""),
        ("[value]\ntill", "[value]\nprice", "line 9, column 1: price is called as something else"),
        ("\"{store|slug}_2026-01-31\"", "7", "line 9, column 8: 7 is no value; write a text"),
        (
            "{name|default:?}",
            "{name|table:x}",
            "line 16, column 17: \"{name|table:x}\": there is no table \"x\"",
        ),
        ("[value]", "[file]\ndecimal = 7\n[value]", "line 9, column 11: decimal is \".\" or \",\"; found 7"),
        ("[value]", "[table.x]\na = 7\n[value]", "line 9, column 5: 7 is no table of texts"),
        (
            "[value]",
            "[join.x]\nfile = \"x\"\nkee = 1\n[value]",
            "line 10, column 1: there is no kee here; there are file, key, on",
        ),
        (
            "begins = \"C\" } }",
            "begins = 7 } }",
            "line 21, column 48: begins takes a text or a list of texts",
        ),
        ("each = { sku", "each = { sky", "there is no field sky; there are quantity, sku, unit_price"),
    ] {
        let map = INVOICES.replacen(right, wrong, 1);
        assert_ne!(map, INVOICES, "{right}");
        let refused = load(&map, "invoice,item,name,count,price,store\n").map(|_| ()).unwrap_err();
        assert_eq!(refused.exit_code(), ExitCode::Configuration, "{refused}");
        assert!(refused.to_string().contains(said), "{wrong}: {refused}");
    }
}

/// Files of a system that writes a mark behind its letter came in twice, and their products were two.
#[test]
fn a_row_is_the_same_row_however_its_letters_are_written() {
    let (composed, apart) = ("K\u{e4}nnchen", "Ka\u{308}nnchen");
    let of = |map: &str, name: &str| {
        let (mut mapping, file) = load(map, &format!("{HEADER}7,{name},s1,1\n")).unwrap();
        let unit = mapping.units(&file).unwrap().next().unwrap().unwrap();
        let commands = mapping.map(&unit).commands.unwrap();
        commands
            .into_iter()
            .map(|each| (each.command.id, each.command.address, each.command.body))
            .collect::<Vec<_>>()
    };
    for identity in ["\"content\"", "[\"{name}\"]"] {
        let map =
            MAP.replace("\"content\"", identity).replace("id = \"{item}\"", "id = \"{name|slug}\"").replace(
                "supplier = \"one\"",
                &format!("supplier = {{ first = [\"{{name|replace:{composed}:pot}}\"] }}"),
            );
        let expected = of(&map, composed);
        assert!(String::from_utf8_lossy(&expected[0].2).contains("\"supplier\":\"pot\""), "{expected:?}");
        assert_eq!(of(&map, apart), expected, "{identity}");
        assert_eq!(of(&map.replace(composed, apart), composed), expected, "{identity}");
    }
}

/// Without a group it did nothing but change ids, and whoever had forgotten the group had two rows of one identity, or sales of one line.
#[test]
fn each_needs_a_group() {
    let of_command = MAP.replace("command = \"register\"", "command = \"register\"\neach = [\"{name}\"]");
    let of_body = MAP
        .replace("lines = [\n    {", "lines = { each = {")
        .replace("places = 2 } },\n]", "places = 2 } } }");
    for (map, place) in [(of_command, "line 9, column 8"), (of_body, "line 15, column ")] {
        let said = refused(&map).to_string();
        assert!(said.contains(place), "{said}");
        assert!(
            said.contains("each is for the rows of a group, and the map has no group; write group = "),
            "{said}"
        );
        let grouped = map.replace("identity = \"content\"", "group = [\"{item}\"]");
        assert!(load_with(&grouped, "").is_ok(), "{:?}", load_with(&grouped, "").err());
    }
}
