//! Rejects, imported with the map that refused them.

use super::{
    super::super::rejects::{Reject, Rejects},
    *,
};

/// Refuses every row, and gives the commands that the rejects become as they are.
fn imported_again(map: &str, rows: &[u8]) -> Vec<OutgoingCommand> {
    let all = imported_after(map, rows, |rejects| rejects);
    all.into_iter().flat_map(Result::unwrap).map(|each| each.command).collect()
}

/// The same of rejects that somebody has changed.
fn imported_after(
    map: &str,
    rows: &[u8],
    change: impl Fn(String) -> String,
) -> Vec<Result<Vec<RowCommand>, RowRefusal>> {
    let folder = tempfile::tempdir().unwrap();
    let (path, rejects) = (folder.path().join("map.toml"), folder.path().join("mended.csv"));
    std::fs::write(&path, map).unwrap();
    let open = |name: &str, bytes: Option<&[u8]>| {
        let file = folder.path().join(name);
        if let Some(bytes) = bytes {
            std::fs::write(&file, bytes).unwrap();
        }
        let map = MapFile::read(&path)?;
        let file = RowsFile::check(Source::at(&file, map.form())?, map.form())?;
        let known = Model::of::<Reference>().unwrap().aggregates();
        Mapping::load(map, &file, &known).map(|mapping| (mapping, file))
    };
    let (mut mapping, file) = open("rows.csv", Some(rows)).unwrap();
    let mut written = Rejects::named(&rejects, file.header.clone()).unwrap();
    for unit in mapping.units(&file).unwrap() {
        let mut unit = unit.unwrap();
        let MappedRow { identity, commands } = mapping.map(&unit);
        mapping.note_keys(&mut unit.rows);
        let refusal = commands.err().unwrap_or_else(|| RowRefusal::new("code", "reason"));
        written.add(&Reject { rows: unit.rows, identity, refusal }).unwrap();
    }
    written.finish().unwrap();
    std::fs::write(&rejects, change(std::fs::read_to_string(&rejects).unwrap())).unwrap();
    let (mut mapping, file) = open("mended.csv", None).unwrap();
    let units: Vec<Unit> = mapping.units(&file).unwrap().map(Result::unwrap).collect();
    units.iter().map(|unit| mapping.map(unit).commands).collect()
}

/// Whoever imported the mended row alone had an invoice of one line, and the others were lost: the invoice was known.
#[test]
fn a_group_of_rejects_comes_whole() {
    let rows = b"invoice,item,name,count,price,store\n1,tea,Tea,1,1,North\n1,pot,Pot,1,1,North\n2,cup,Cup,1,1,North\n";
    let without_pot = |rejects: String| {
        rejects.split_inclusive('\n').filter(|line| !line.contains("pot")).collect::<String>()
    };
    let all = imported_after(INVOICES, rows, without_pot);
    let refused = all[0].as_ref().unwrap_err();
    assert_eq!(refused.code, "group-incomplete");
    assert!(
        refused.reason.starts_with("the group had 2 rows when it was refused, and 1 of them stand here"),
        "{refused:?}"
    );
    assert!(all[1].is_ok(), "a row that was no group of several is whole: {all:?}");

    // On purpose: the row is what the group is now.
    let on_purpose = |rejects: String| {
        let mut lines = without_pot(rejects).lines().map(str::to_owned).collect::<Vec<_>>();
        let mut fields: Vec<&str> = lines[1].split(',').collect();
        assert!(fields[4].contains("/2/"), "{lines:?}");
        fields[4] = "";
        lines[1] = fields.join(",");
        lines.join("\n")
    };
    assert!(imported_after(INVOICES, rows, on_purpose)[0].is_ok());
    // Where each row has commands of its own alone, none needs the others.
    let of_rows = INVOICES.split_inclusive("[[command]]\n").take(2).collect::<String>();
    let of_rows = of_rows.trim_end_matches("[[command]]\n").replace("once = true\n", "");
    assert!(imported_after(&of_rows, rows, without_pot).iter().all(Result::is_ok));
}

/// Nobody could import them with the map that refused them, as they are written with commas and in UTF-8.
#[test]
fn rejects_of_a_file_of_another_form_are_read_as_they_are_written() {
    let text = format!("{HEADER}7,Grüße,s1,\"1,50\"\n").replace(',', ";").replace("\"1;50\"", "1,50");
    let windows: Vec<u8> = text.chars().map(|letter| u8::try_from(u32::from(letter)).unwrap()).collect();
    let form = "[file]\ndelimiter = \";\"\nencoding = \"windows-1252\"\ndecimal = \",\"\n";
    let map = MAP.replacen("[[command]]", &format!("{form}[[command]]"), 1);
    let commands = imported_again(&map, &windows);
    let bodies: Vec<_> = commands.iter().map(|each| String::from_utf8_lossy(&each.body)).collect();
    assert!(bodies[0].contains("Grüße") && bodies[1].contains("\"unit_price\":150"), "{bodies:?}");
}

#[test]
fn rejects_of_a_named_sheet_need_no_workbook() {
    let header: Vec<(&str, &str)> = HEADER.trim().split(',').map(|name| ("text", name)).collect();
    let row = [("text", "7"), ("text", "Gin"), ("text", "s1"), ("number", "1.5")];
    let sheet = super::super::super::input::tests::workbook(&[&header, &row]);
    let map = MAP.replacen("[[command]]", "[file]\nsheet = \"Sales\"\n[[command]]", 1);
    let commands = imported_again(&map, &sheet);
    assert!(String::from_utf8_lossy(&commands[1].body).contains("\"unit_price\":150"), "{commands:?}");
}

/// Rejects that somebody saved as a workbook kept the number of their line as a column of their own, by which equal rows were others than before.
#[test]
fn rejects_in_a_workbook_are_the_same_rows() {
    let rows = [["7", "Gin", "s1", "1"], ["8", "Rum", "s1", "2"], ["7", "Gin", "s1", "1"]];
    let text: String = rows.iter().map(|row| row.join(",") + "\n").collect();
    let (mut mapping, file) = load(MAP, &format!("{HEADER}{text}")).unwrap();
    let ids = |mapping: &mut Mapping, file: &RowsFile| {
        let units: Vec<Unit> = mapping.units(file).unwrap().map(Result::unwrap).collect();
        units.iter().map(|unit| mapping.map(unit).identity.unwrap()).collect::<Vec<_>>()
    };
    let before = ids(&mut mapping, &file);
    assert_eq!(before.iter().collect::<HashSet<_>>().len(), 3);
    let names = super::super::super::rejects::REJECT_COLUMNS.into_iter().chain(HEADER.trim().split(','));
    let header: Vec<(&str, &str)> = names.map(|name| ("text", name)).collect();
    for identity in [false, true] {
        let lines: Vec<Vec<String>> = (0..)
            .zip(&rows)
            .map(|(number, row)| {
                let identity = if identity { before[number].clone() } else { String::new() };
                let own = [
                    (number + 1).to_string(),
                    (number + 40).to_string(),
                    "c".into(),
                    "r".into(),
                    identity,
                    "s.csv".into(),
                ];
                own.into_iter().chain(row.iter().map(|field| (*field).to_owned())).collect()
            })
            .collect();
        let lines: Vec<Vec<(&str, &str)>> =
            lines.iter().map(|line| line.iter().map(|field| ("text", field.as_str())).collect()).collect();
        let sheet: Vec<&[(&str, &str)]> =
            std::iter::once(&*header).chain([&[][..]]).chain(lines.iter().map(|line| &**line)).collect();
        let folder = tempfile::tempdir().unwrap();
        let (map, path) = (folder.path().join("map.toml"), folder.path().join("mended.xlsx"));
        std::fs::write(&map, MAP).unwrap();
        std::fs::write(&path, super::super::super::input::tests::workbook(&sheet)).unwrap();
        let map = MapFile::read(&map).unwrap();
        let file = RowsFile::check(Source::at(&path, map.form()).unwrap(), map.form()).unwrap();
        let known = Model::of::<Reference>().unwrap().aggregates();
        let mut mapping = Mapping::load(map, &file, &known).unwrap();
        assert!(file.is_of_rejects());
        assert_eq!(ids(&mut mapping, &file), before, "{identity}");
    }
}

/// A sale that was called after its file was called after the rejects when it was mended: another sale.
#[test]
fn a_row_of_rejects_keeps_the_name_of_its_file() {
    let map = MAP.replace("sale = \"{row}\"", "sale = \"{file}-{row}\"");
    let commands = imported_again(&map, format!("{HEADER}7,Gin,s1,1\n").as_bytes());
    assert!(String::from_utf8_lossy(&commands[1].body).contains("\"sale\":\"rows.csv-1\""), "{commands:?}");
}

/// A row of a group whose article or amount was mended had another id for its own command, which had been accepted: it was booked twice.
#[test]
fn a_mended_row_of_a_group_keeps_what_told_it_from_the_others() {
    let rows = b"invoice,item,name,count,price,store\n1,tee,Tea,1,1,North\n1,pot,Pot,1,1,North\n";
    for each in ["[\"{item}\"]", "\"content\""] {
        let map = INVOICES.replace("each = [\"{item}\"]", &format!("each = {each}"));
        let ids = |change: &dyn Fn(String) -> String| {
            let all = imported_after(&map, rows, change).remove(0).unwrap();
            all.into_iter().map(|each| each.command.id).collect::<Vec<_>>()
        };
        let as_they_are = ids(&|rejects| rejects);
        assert_eq!(as_they_are.len(), 3);
        assert_eq!(
            ids(&|rejects| rejects.replace(",tee,Tea,1,1,", ",tea,Tea,2,1.00,")),
            as_they_are,
            "{each}"
        );
    }
}

/// The row of a name whose key another name had was refused, and passed from the rejects as it stood: the other name was not among them.
#[test]
fn a_name_whose_key_another_has_is_refused_until_it_is_mended() {
    const MAP: &str = r#"
name = "products"
context = "retail"
identity = ["{item}"]
[[command]]
aggregate = "product"
id = "{item}"
command = "register"
body = { name = "{name}", supplier = "{vendor|slug}" }
"#;
    let rows = b"item,name,vendor\n1,Tea,A-B\n2,Pot,A/B\n3,Cup,A.B\n";
    let without_first = |rejects: &str| {
        rejects.split_inclusive('\n').filter(|line| !line.contains("Tea")).collect::<String>()
    };
    let all = imported_after(MAP, rows, |rejects| without_first(&rejects));
    for refused in &all {
        let refused = refused.as_ref().unwrap_err();
        assert_eq!(refused.code, "key-joins", "{refused:?}");
        assert!(refused.reason.contains("which another text of the column has on line 2"), "{refused:?}");
    }
    assert_eq!(all.len(), 2);
    // Written as the other, and as one of its own.
    for name in ["A-B", "C"] {
        let all = imported_after(MAP, rows, |rejects| {
            without_first(&rejects).replace(",A/B\n", &format!(",{name}\n"))
        });
        assert!(all[0].is_ok(), "{name}: {:?}", all[0]);
        assert_eq!(all[1].as_ref().unwrap_err().code, "key-joins", "{name}");
    }
}
