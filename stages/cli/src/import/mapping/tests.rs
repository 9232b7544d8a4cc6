//! What a map makes of rows, and what it is refused for.

use std::collections::HashSet;

use millstream_domain::application::Model;
use millstream_model::Reference;

use super::*;

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
    let file = RowsFile::check(&file)?;
    let known = Model::of::<Reference>().unwrap().aggregates();
    Mapping::load(&path, &file, &known).map(|mapping| (mapping, file))
}

fn refused(map: &str) -> MappingError {
    let refused = load_with(map, "").map(|_| ()).unwrap_err();
    assert_eq!(refused.exit_code(), ExitCode::Configuration);
    refused
}

fn mapping() -> Mapping {
    load_with(MAP, "").unwrap().0
}

fn row(number: u64, fields: [&str; 4]) -> SourceRow {
    SourceRow { number, line: number + 1, identity: None, record: csv::StringRecord::from(fields.to_vec()) }
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
        (
            "\"USD\"",
            "2026-01-31",
            "line 15, column 37: a mapping holds text, whole numbers, true, false, lists and tables; found a date",
        ),
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
    let said =
        "the rows of lines 2 and 4 of the file have the same identity, and so have 1 more; name columns";
    assert!(refused.to_string().contains(said), "{refused}");
    assert!(load_with(MAP, rows).is_ok());
}

#[test]
fn ids_are_those_of_the_first_time_and_differ_between_equal_rows() {
    let ids = || {
        let mut mapping = mapping();
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
    let mended = SourceRow { identity: Some(identity), ..row(9, ["7", "Gin", "s1", "2.00"]) };
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
