//! Files that are none of rows, and files that are written in other ways.

use millstream_contract::error_text::one_line;

use super::{super::file_form::FILE_KEYS, *};

fn check(path: &Path, form: &FileForm) -> Result<RowsFile, InputError> {
    RowsFile::check(Source::at(path, form)?, form)
}

/// A file of Windows was sent up to its first umlaut; of a folder or of UTF-16, nobody was told which file it was.
#[test]
fn what_is_no_file_of_rows_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let utf16: Vec<u8> = "sku,name\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let files: [(&str, &[u8], &str); 11] = [
        ("cut16", &[b"\xff\xfe", &*utf16, b"\n"].concat(), "line 2 is not UTF-16LE; save the file as UTF-8"),
        ("utf16", &[&*utf16, b"\n\xd8\n\0"].concat(), "line 2 is not UTF-16LE; save the file as UTF-8"),
        ("zero", b"sku,name\n1,Gin\n2,G\0n\n", "line 3 holds a zero byte"),
        ("old", b"\xd0\xcf\x11\xe0old", "is a workbook of an old form; save it as XLSX or CSV"),
        ("zip", b"PK\x03\x04none", "is no workbook that can be read"),
        ("windows", b"sku,name\r\n\r\n1,Gin\r\n2\r\n", "line 4 has 1 fields where the header has 2"),
        ("short", b"sku,name\n1,Gin\n2\n", "line 3 has 1 fields where the header has 2"),
        ("open", b"sku,name\n1,\"Gin\n2,Gin\n", "a quote that is opened on line 2 is never closed"),
        (
            "within",
            b"sku,name\n1,\"Gin\n2,\"Gin\"\n",
            "line 3: a quote that is opened on line 2 closes within",
        ),
        ("empty", b"", "there is no line with the names of the columns"),
        ("", b"", "is a folder; name a file"),
    ];
    for (name, bytes, said) in files {
        let path = folder.path().join(name);
        if !name.is_empty() {
            std::fs::write(&path, bytes).unwrap();
        }
        let refused = one_line(&check(&path, &FileForm::default()).unwrap_err());
        assert!(refused.contains(said) && refused.contains(path.to_str().unwrap()), "{name}: {refused}");
    }
    // Opened, it would wait until somebody writes into it.
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let refused = one_line(&check(&pipe, &FileForm::default()).unwrap_err());
    assert!(refused.contains("pipe is no file but a pipe or device"), "{refused}");
    let whole = folder.path().join("whole");
    std::fs::write(&whole, "\u{feff}sku,name\n1,Gin\n").unwrap();
    let found = check(&whole, &FileForm::default()).unwrap();
    assert_eq!((found.count, found.header.get(0)), (1, Some("sku")));
}

#[test]
fn a_map_that_is_not_utf8_is_named_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("map.toml");
    std::fs::write(&path, b"name = \"a\"\ncontext = \"r\xe9\"\n").unwrap();
    let refused = one_line(&text(&path).unwrap_err());
    assert!(refused.contains("map.toml: line 2 is not UTF-8"), "{refused}");
}

/// A workbook of one sheet with these rows, of a letter for the kind of each cell and its value.
pub(in crate::import) fn workbook(rows: &[&[(&str, &str)]]) -> Vec<u8> {
    let mut sheet = String::new();
    for (number, cells) in (1..).zip(rows) {
        sheet.push_str(&format!("<row r=\"{number}\">"));
        for (column, (kind, value)) in ('A'..).zip(*cells) {
            let cell = match *kind {
                "text" => format!("t=\"inlineStr\"><is><t>{value}</t></is>"),
                "date" => format!("s=\"1\"><v>{value}</v>"),
                "duration" => format!("s=\"2\"><v>{value}</v>"),
                _ => format!("><v>{value}</v>"),
            };
            sheet.push_str(&format!("<c r=\"{column}{number}\" {cell}</c>"));
        }
        sheet.push_str("</row>");
    }
    workbook_of(&[("Sales", &sheet)])
}

/// A workbook of sheets of these names and cells, each in a part of its own.
fn workbook_of(named: &[(&str, &str)]) -> Vec<u8> {
    use std::io::{Cursor, Write as _};
    let main = "xmlns=\"http://schemas.openxmlformats.org/spreadsheetml/2006/main\"";
    let relation = "http://schemas.openxmlformats.org/officeDocument/2006/relationships";
    let relations = "http://schemas.openxmlformats.org/package/2006/relationships";
    let numbered = || (1..).zip(named);
    let of_each = |text: &dyn Fn(u8, &str) -> String| -> String {
        numbered().map(|(number, (name, _))| text(number, name)).collect()
    };
    let sheets =
        of_each(&|number, name| format!("<sheet name=\"{name}\" sheetId=\"{number}\" r:id=\"s{number}\"/>"));
    let targets = of_each(&|number, _| {
        format!(
            "<Relationship Id=\"s{number}\" Type=\"{relation}/worksheet\" Target=\"worksheets/sheet{number}.xml\"/>"
        )
    });
    let mut files = vec![
        (
            "_rels/.rels".to_owned(),
            format!(
                "<Relationships xmlns=\"{relations}\"><Relationship Id=\"a\" Type=\"{relation}/officeDocument\" Target=\"xl/workbook.xml\"/></Relationships>"
            ),
        ),
        (
            "xl/workbook.xml".to_owned(),
            format!("<workbook {main} xmlns:r=\"{relation}\"><sheets>{sheets}</sheets></workbook>"),
        ),
        (
            "xl/_rels/workbook.xml.rels".to_owned(),
            format!(
                "<Relationships xmlns=\"{relations}\">{targets}<Relationship Id=\"t\" Type=\"{relation}/styles\" Target=\"styles.xml\"/></Relationships>"
            ),
        ),
        (
            "xl/styles.xml".to_owned(),
            format!(
                "<styleSheet {main}><cellXfs><xf numFmtId=\"0\"/><xf numFmtId=\"14\"/><xf numFmtId=\"46\"/></cellXfs></styleSheet>"
            ),
        ),
    ];
    files.extend(numbered().map(|(number, (_, cells))| {
        let sheet = format!("<worksheet {main}><sheetData>{cells}</sheetData></worksheet>");
        (format!("xl/worksheets/sheet{number}.xml"), sheet)
    }));
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, text) in files {
        writer.start_file(name, stored).unwrap();
        writer.write_all(text.as_bytes()).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

#[test]
fn a_sheet_of_a_workbook_is_rows_with_their_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sales.xlsx");
    let header: &[(&str, &str)] = &[("text", "day"), ("text", "item"), ("text", "price")];
    let rows: [&[(&str, &str)]; 4] = [
        header,
        &[("date", "40939"), ("text", "Tee\nund \"mehr\", grün"), ("number", "4.75")],
        &[("text", " "), ("text", ""), ("text", "")],
        &[("date", "40939.5"), ("number", "75087"), ("number", "1200")],
    ];
    std::fs::write(&path, workbook(&rows)).unwrap();
    let read = |form: &FileForm| -> Result<Vec<(u64, Vec<String>)>, InputError> {
        let file = check(&path, form)?;
        let rows = file.rows()?.map(|row| {
            let row = row.unwrap();
            (row.line, row.record.iter().map(str::to_owned).collect())
        });
        Ok(rows.collect())
    };
    let texts = |texts: [&str; 3]| texts.map(str::to_owned).to_vec();
    assert_eq!(
        read(&FileForm::default()).unwrap(),
        [
            (2, texts(["2012-01-31", "Tee\nund \"mehr\", grün", "4.75"])),
            (4, texts(["2012-01-31 12:00:00", "75087", "1200"])),
        ]
    );
    let german: toml::Spanned<_> = toml::from_str("decimal = \",\"\nsheet = \"Sales\"").unwrap();
    let german = FileForm::parse(&german, &FILE_KEYS).unwrap();
    assert_eq!(read(&german).unwrap()[0].1[2], "4,75");
    let other: toml::Spanned<_> = toml::from_str("sheet = \"Stock\"").unwrap();
    let refused = read(&FileForm::parse(&other, &FILE_KEYS).unwrap()).unwrap_err().to_string();
    assert!(refused.contains("has no sheet \"Stock\"; there are Sales"), "{refused}");
    let mut long = rows.to_vec();
    let row: &[(&str, &str)] = &[("number", "1"), ("number", "2"), ("number", "3"), ("number", "4")];
    long.push(row);
    std::fs::write(&path, workbook(&long)).unwrap();
    let refused = read(&FileForm::default()).unwrap_err().to_string();
    assert!(refused.contains("line 5 has 4 fields where the header has 3"), "{refused}");
}

#[test]
fn how_a_file_is_written_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows");
    for (bytes, delimiter, encoding) in [
        (&b"sku;name\n1;a,b\n"[..], ';', "utf-8"),
        (b"sku\tname\n1\ta,b;c\n", '\t', "utf-8"),
        (b"sku|name|more\n1|a,b|c\n", '|', "utf-8"),
        (b"sku,name\n1,a;b\n2,c\n", ',', "utf-8"),
        (b"\"a;b\",c\n1,2\n", ',', "utf-8"),
        (b"sku\n1\n", ',', "utf-8"),
        (b"sku;name\n1;Caf\xe9 f\xfcr M\xfcller\n", ';', "windows-1252"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let file = check(&path, &FileForm::default()).unwrap();
        assert_eq!(file.form(), (delimiter, encoding.to_owned()), "{}", String::from_utf8_lossy(bytes));
    }
    let said: Vec<String> = check(&path, &FileForm::default()).unwrap().remarks().collect();
    assert!(said[0].contains("is read as windows-1252, which it looks like") && said.len() == 2, "{said:?}");
    let utf8 = FileForm { encoding: Some(UTF_8), ..FileForm::default() };
    assert!(check(&path, &utf8).unwrap_err().to_string().contains("line 2 is not UTF-8"));
    let comma = FileForm { delimiter: Some(b','), ..FileForm::default() };
    let refused = check(&path, &comma).unwrap_err().to_string();
    assert!(refused.contains("seem to be separated by ';'; write delimiter = ';' under [file]"), "{refused}");
}

/// All letters of the file became two others, because of one byte.
#[test]
fn one_broken_byte_does_not_make_another_encoding_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows");
    std::fs::write(&path, b"sku,name\n1,Gr\xc3\xbc\xc3\x9fe\n2,Caf\xe9\n").unwrap();
    let refused = check(&path, &FileForm::default()).unwrap_err().to_string();
    assert!(refused.contains("line 3 is not UTF-8"), "{refused}");
    let cyrillic = encoding_rs::WINDOWS_1251.encode("sku,name\n1,Чай зелёный\n2,Чашка большая\n").0;
    std::fs::write(&path, cyrillic).unwrap();
    assert_eq!(check(&path, &FileForm::default()).unwrap().form().1, "windows-1251");
}

/// A cell of a damaged workbook took all memory.
#[test]
fn a_cell_beyond_all_columns_of_a_sheet_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wide.xlsx");
    for (column, is_refused) in [("XFD", false), ("XFE", true), ("ZZZZZ", true)] {
        let sheet = format!("<row r=\"1\"><c r=\"{column}1\"><v>7</v></c></row>");
        std::fs::write(&path, workbook_of(&[("Sales", &sheet)])).unwrap();
        let refused = check(&path, &FileForm::default()).err();
        assert_eq!(refused.is_some(), is_refused, "{column}");
        if let Some(refused) = refused {
            assert!(refused.to_string().contains("line 1 has a cell behind the last column"), "{refused}");
        }
    }
}

/// The second reading would have sent rows that nobody had looked at.
#[test]
fn a_file_that_changes_while_it_is_read_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.csv");
    std::fs::write(&path, "sku\n1\n2\n").unwrap();
    let file = check(&path, &FileForm::default()).unwrap();
    let mut rows = file.rows().unwrap();
    assert!(rows.next().unwrap().is_ok());
    let mut appended = std::fs::File::options().append(true).open(&path).unwrap();
    std::io::Write::write_all(&mut appended, b"3\n").unwrap();
    let rest: Vec<_> =
        rows.map(|row| row.map(|row| row.line).map_err(|error| error.to_string())).take(3).collect();
    assert!(
        rest.last().unwrap().as_ref().is_err_and(|said| said.contains("has changed while it was read")),
        "{rest:?}"
    );
    assert!(file.rows().is_err_and(|error| error.to_string().contains("has changed")));
}

#[test]
fn rows_beyond_all_measure_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.csv");
    std::fs::write(&path, format!("sku\n1\n{}\n", "x".repeat(17 * 1024 * 1024))).unwrap();
    let refused = check(&path, &FileForm::default()).unwrap_err().to_string();
    assert!(refused.contains("the row of line 3 is longer than 16 MiB"), "{refused}");
    let columns: Vec<String> = (0..200_000).map(|column| format!("c{column}")).collect();
    std::fs::write(&path, format!("{}\n{}\n", columns.join(","), ",".repeat(columns.len() - 1))).unwrap();
    assert_eq!(check(&path, &FileForm::default()).unwrap().header.len(), columns.len());
}

/// A file of UTF-8 was read as the encoding that the map said, with other letters.
#[test]
fn what_is_utf8_is_not_read_as_another_encoding() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.csv");
    let said = |encoding: &str| {
        let form: toml::Spanned<_> = toml::from_str(&format!("encoding = {encoding:?}")).unwrap();
        FileForm::parse(&form, &FILE_KEYS).unwrap()
    };
    let long = format!("sku,name\n{}x,Gr\u{fc}n\n", "1,Gin\n".repeat(20_000));
    for (text, line) in
        [("sku,name\n1,Gin\n2,Gr\u{fc}n\n", 3), ("\u{feff}sku,name\n1,Gin\n", 1), (&*long, 20_002)]
    {
        std::fs::write(&path, text).unwrap();
        for encoding in ["windows-1252", "iso-8859-15", "gbk"] {
            let refused = check(&path, &said(encoding)).unwrap_err();
            let named = said(encoding).encoding.unwrap().name();
            let expected = format!(
                "{} is UTF-8, as the letters from line {line} on show, and the map says that it is {named}; ",
                path.display()
            );
            assert!(refused.to_string().starts_with(&expected), "{refused}");
        }
        assert_eq!(check(&path, &said("utf-8")).unwrap().form().1, "utf-8");
    }
    // One letter that is not of UTF-8, or none beyond ASCII.
    for bytes in [&b"sku,name\n1,Gr\xfcn \xc3\xbc\n"[..], b"sku,name\n1,Gin\n"] {
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(check(&path, &said("windows-1252")).unwrap().form().1, "windows-1252");
    }
}

/// Rejects that another program saved in its own encoding were guessed at, with other letters in the mended rows.
#[test]
fn rejects_are_utf8_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rejects.csv");
    let header = "import_row,import_line,import_code,import_reason,import_identity,import_file,name";
    let of = |row: &[u8]| [header.as_bytes(), b"\n1,2,c,r,,s.csv,", row, b"\n"].concat();
    std::fs::write(&path, of(b"Gr\xfcn")).unwrap();
    let refused = check(&path, &FileForm::default()).unwrap_err().to_string();
    assert!(
        refused.ends_with(
            "rejects.csv: line 2 is not UTF-8, in which rejects are written and read; save the file as CSV in UTF-8"
        ),
        "{refused}"
    );
    let utf16: Vec<u8> = format!("\u{feff}{header}\n1,2,c,r,,s.csv,Gr\u{fc}n\n")
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    for bytes in [of("Gr\u{fc}n".as_bytes()), [b"\xef\xbb\xbf", &*of("Gr\u{fc}n".as_bytes())].concat(), utf16]
    {
        std::fs::write(&path, bytes).unwrap();
        let file = check(&path, &FileForm::default()).unwrap();
        let rows: Vec<SourceRow> = file.rows().unwrap().map(Result::unwrap).collect();
        assert_eq!(&rows[0].record[0], "Gr\u{fc}n");
    }
}

/// Nobody who looked at the workbook had seen these rows.
#[test]
fn what_a_workbook_does_not_show_is_said_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sales.xlsx");
    let shown = "<row r=\"1\"><c r=\"A1\"><v>1</v></c></row><row r=\"2\"><c r=\"A2\"><v>2</v></c></row>\
                 <row r=\"3\"><c r=\"A3\"><v>3</v></c></row><row r=\"4\"><c r=\"A4\"><v>4</v></c></row>";
    let sheet = "<row r=\"1\"><c r=\"A1\"><v>1</v></c></row><row r=\"2\" hidden=\"1\"><c r=\"A2\"><v>2</v></c></row>\
                 <row r=\"3\"><c r=\"A3\"><v>3</v></c></row><row hidden=\"true\"><c r=\"A4\"><v>4</v></c></row><row r=\"5\" hidden=\"1\"/>";
    let named = |name: &str| {
        let form: toml::Spanned<_> = toml::from_str(&format!("sheet = {name:?}")).unwrap();
        FileForm::parse(&form, &FILE_KEYS).unwrap()
    };
    let remarks = |form: &FileForm| -> Vec<String> {
        let file = check(&path, form).unwrap();
        assert_eq!(file.count, 3);
        file.remarks().map(|said| said.replace(path.to_str().unwrap(), "sales.xlsx")).collect()
    };
    let hidden = "sales.xlsx: 2 rows of the sheet \"Sales\" are hidden, the first on line 2; they are rows as all others are";
    std::fs::write(&path, workbook_of(&[("Sales", sheet)])).unwrap();
    assert_eq!(remarks(&FileForm::default()), [hidden]);
    std::fs::write(&path, workbook_of(&[("Sales", sheet), ("Stock", shown)])).unwrap();
    let first = "sales.xlsx: its first sheet, \"Sales\", is read; its sheets are Sales, Stock, and sheet under [file] says which is meant";
    assert_eq!(remarks(&FileForm::default()), [first, hidden]);
    assert_eq!(remarks(&named("Sales")), [hidden]);
    assert_eq!(remarks(&named("Stock")), [""; 0]);
    let out_of_order = "<row r=\"1\"><c r=\"A1\"><v>1</v></c></row><row r=\"4\" hidden=\"1\"><c r=\"A4\"><v>4</v></c></row>\
                        <row r=\"2\" hidden=\"1\"><c r=\"A2\"><v>2</v></c></row><row r=\"3\"><c r=\"A3\"><v>3</v></c></row>";
    std::fs::write(&path, workbook_of(&[("Sales", out_of_order)])).unwrap();
    assert_eq!(remarks(&FileForm::default()), [hidden.replace("line 2", "line 4")]);
    std::fs::write(&path, workbook_of(&[("Notes\" state=\"hidden", shown), ("Sales", sheet)])).unwrap();
    let refused = check(&path, &FileForm::default()).unwrap_err().to_string();
    assert!(
        refused.ends_with(
            "its first sheet, \"Notes\", is hidden; write sheet = \"Notes\" under [file] if it is meant, or another of Notes, Sales"
        ),
        "{refused}"
    );
    assert_eq!(remarks(&named("Sales")), [hidden]);
}

/// A number that somebody had formatted as a date was the last day of 9999, and a price that the workbook had computed had 16 digits.
#[test]
fn cells_are_read_as_a_workbook_shows_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sales.xlsx");
    let rows: [&[(&str, &str)]; 6] = [
        &[("text", "day"), ("text", "price")],
        &[("date", "20260131"), ("number", "99.30000000000001")],
        &[("date", "-5"), ("number", "56.99999999999999")],
        &[("date", "0.5"), ("number", "123456789012345")],
        &[("duration", "1.5"), ("number", "4111111111111111")],
        &[("duration", "0.30000000000000004"), ("number", "4111111111111112")],
    ];
    std::fs::write(&path, workbook(&rows)).unwrap();
    let read = |form: &FileForm| -> Vec<Vec<String>> {
        let file = check(&path, form).unwrap();
        file.rows().unwrap().map(|row| row.unwrap().record.iter().map(str::to_owned).collect()).collect()
    };
    let expected = |duration| {
        [
            ["20260131", "99.3"],
            ["-5", "57"],
            ["12:00:00", "123456789012345"],
            [duration, "4111111111111111"],
            ["0.3", "4111111111111112"],
        ]
    };
    assert_eq!(read(&FileForm::default()), expected("1.5"));
    let form: toml::Spanned<_> = toml::from_str("decimal = \",\"").unwrap();
    let german = read(&FileForm::parse(&form, &FILE_KEYS).unwrap());
    let with_commas = expected("1,5").map(|row| row.map(|field| field.replace('.', ",")));
    assert_eq!(german, with_commas);
}

/// The tariff number of an article was left out of its rows, as a column of rejects is called so.
#[test]
fn a_column_that_is_called_as_one_of_rejects_is_the_files_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.csv");
    for (bytes, sheet) in [
        (b"import_row,sku\n7,tea\n".to_vec(), false),
        (workbook(&[&[("text", "import_line"), ("text", "sku")], &[("text", "7"), ("text", "tea")]]), true),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let file = check(&path, &FileForm::default()).unwrap();
        let rows: Vec<SourceRow> = file.rows().unwrap().map(Result::unwrap).collect();
        assert_eq!((file.header.len(), rows.len(), file.is_of_rejects()), (2, 1, false), "{sheet}");
        assert_eq!(
            (&rows[0].record, rows[0].number, rows[0].line),
            (&csv::StringRecord::from(vec!["7", "tea"]), 1, 2)
        );
    }
    let all = REJECT_COLUMNS.join(",");
    for header in [format!("sku,{all}"), all.replace("import_code,", "")] {
        let row = header.split(',').map(|_| "1").collect::<Vec<_>>().join(",");
        std::fs::write(&path, format!("{header}\n{row}\n")).unwrap();
        let refused = check(&path, &FileForm::default()).unwrap_err();
        let said = refused.to_string();
        assert!(said.contains("but does not begin with import_row, import_line, import_code"), "{said}");
        assert_eq!(refused.exit_code(), ExitCode::Data);
    }
}

/// Rejects of a file with a column of its own that is called as one of theirs lost that column.
#[test]
fn rejects_are_known_by_all_of_their_columns_whatever_separates_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rejects.csv");
    let rejects = format!("{},import_code,sku\n7,3,c,r,,s.csv,0902,tea\n", REJECT_COLUMNS.join(","));
    let quoted: String =
        rejects.lines().map(|line| format!("\"{}\"\n", line.replace(',', "\",\""))).collect();
    let form = FileForm { delimiter: Some(b'#'), ..FileForm::default() };
    for text in [
        rejects.clone(),
        quoted.replace(',', ";"),
        rejects.replace(',', "\t").replace('\n', "\r\n"),
        format!("\u{feff}sep=;\r\n{}", rejects.replace(',', ";").replace('\n', "\r\n")),
        rejects.replace(',', "#"),
    ] {
        std::fs::write(&path, &text).unwrap();
        let file = check(&path, &form).unwrap();
        let rows: Vec<SourceRow> = file.rows().unwrap().map(Result::unwrap).collect();
        assert!(file.is_of_rejects(), "{text}");
        assert_eq!(
            (rows[0].number, &rows[0].record),
            (7, &csv::StringRecord::from(vec!["0902", "tea"])),
            "{text}"
        );
    }
}

/// The names of the columns were taken for a row, and the first line for their names.
#[test]
fn a_first_line_that_tells_the_separator_is_no_row() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.csv");
    let utf16 = |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
    let semicolons = "sep=;\r\nsku;name\r\n\r\n1;a,b\r\n2;c\r\n";
    for (bytes, delimiter) in [
        (semicolons.as_bytes().to_vec(), ';'),
        (format!("\u{feff}{semicolons}").into_bytes(), ';'),
        (utf16(&format!("\u{feff}{semicolons}")), ';'),
        (semicolons.replace("\r\n", "\r").into_bytes(), ';'),
        (b"sep=|\nsku|name\n\n1|a,b\n2|c\n".to_vec(), '|'),
        // Of a program in another language, which Excel reads all the same.
        (b"\"sep=^\"\nsku^name\n\n1^a,b\n2^c\n".to_vec(), '^'),
        ("sep=;\nsku;name\n\n1;a,b\n2;K\u{e4}nnchen\n".chars().map(|letter| letter as u8).collect(), ';'),
    ] {
        std::fs::write(&path, &bytes).unwrap();
        let file = check(&path, &FileForm::default()).unwrap();
        assert_eq!((file.form().0, file.header.get(0)), (delimiter, Some("sku")), "{bytes:?}");
        let rows: Vec<(u64, u64, String)> = file
            .rows()
            .unwrap()
            .map(Result::unwrap)
            .map(|row| (row.number, row.line, row.record[1].to_owned()))
            .collect();
        assert_eq!(rows[0], (1, 4, "a,b".to_owned()), "{bytes:?}");
        assert_eq!((rows.len(), rows[1].1), (2, 5), "{bytes:?}");
    }
    std::fs::write(&path, "sep=;\nsku;name\n1;a\n2\n").unwrap();
    let refused = check(&path, &FileForm::default()).unwrap_err().to_string();
    assert!(refused.contains("line 4 has 1 fields where the header has 2"), "{refused}");
    for nothing in ["sep=;", "sep=;\n"] {
        std::fs::write(&path, nothing).unwrap();
        let refused = check(&path, &FileForm::default()).unwrap_err().to_string();
        assert!(refused.contains("there is no line with the names of the columns"), "{refused}");
    }
}
