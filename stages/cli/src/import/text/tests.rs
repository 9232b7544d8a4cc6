//! How texts find their columns.

use super::*;

fn columns(names: &[&str]) -> Columns {
    Columns::new(&csv::StringRecord::from(names))
}

/// A row as an import reads it.
pub(in crate::import) fn source_row(line: u64, fields: &[&str]) -> SourceRow {
    let (identity, file) = (None, Some(Arc::from("s.csv")));
    SourceRow {
        number: 7,
        line,
        identity,
        of_group: None,
        keys: Vec::new(),
        taken: Vec::new(),
        tried: Vec::new(),
        file,
        record: csv::StringRecord::from(fields),
    }
}

/// What some rows are to a map.
pub(in crate::import) fn row<'a>(rows: &'a [SourceRow], slugs: &'a RefCell<Slugs>) -> Row<'a> {
    Row { rows, hash: "ab12", identity: "c0de", slugs }
}

/// A text of the first column of each of these rows in turn, with what the rows before have left behind.
pub(in crate::import) fn rendered_with(
    columns: &Columns,
    text: &str,
    values: &[&str],
) -> Vec<Result<String, RowError>> {
    let text = Text::parse(text, columns).unwrap();
    let slugs = RefCell::default();
    let rows =
        (2..).zip(values).map(|(line, value)| text.render(&row(&[source_row(line, &[value])], &slugs)));
    rows.collect()
}

/// Of each value in turn, with what the values before have left behind.
fn rendered(text: &str, name: &str, values: &[&str]) -> Vec<Result<String, RowError>> {
    rendered_with(&columns(&[name]), text, values)
}

/// The last of them was taken: a sale was booked on the second date of its row.
#[test]
fn column_that_comes_twice_is_refused_where_it_is_used() {
    let columns = columns(&["date", "sku", "date "]);
    let error = Text::parse("{date}", &columns).unwrap_err();
    assert_eq!(
        error.to_string(),
        r#""{date}": column "date" comes more than once in the file; give each a name of its own there"#
    );
    assert!(Text::parse("{sku}", &columns).is_ok());
}

#[test]
fn mapping_that_names_no_column_of_the_file_is_refused() {
    let columns = columns(&["a"]);
    for text in [
        "{b}",
        "{a|shout}",
        "{a|slug:x}",
        "{a|date}",
        "{a|replace:x}",
        "{a|table:x}",
        "{a|day}",
        "{a|pad:x}",
        "{column:b}",
        "{import:a}",
        "{a",
    ] {
        assert!(Text::parse(text, &columns).is_err(), "{text}");
    }
}

#[test]
fn odd_names_of_columns_are_names_all_the_same() {
    for name in ["@type", "net|gross", "a b", "$", "column:row", "import:row"] {
        assert_eq!(rendered(&format!("{{{name}}}"), name, &["7"]), [Ok("7".to_owned())], "{name}");
    }
}

/// The column hid the number of the row, or the other way round: nobody could say which.
#[test]
fn a_column_that_is_called_like_what_the_import_knows_is_asked_for_by_its_kind() {
    for (name, own) in [("row", "7"), ("hash", "ab12"), ("identity", "c0de"), ("file", "s.csv")] {
        assert_eq!(rendered(&format!("{{{name}}}"), "sku", &["tea"]), [Ok(own.to_owned())]);
        let refused = Text::parse(&format!("{{{name}}}"), &columns(&[name])).unwrap_err().to_string();
        assert!(
            refused.contains(&format!("write {{column:{name}}} for it, or {{import:{name}}}")),
            "{refused}"
        );
        assert_eq!(rendered(&format!("{{column:{name}}}"), name, &["tea"]), [Ok("tea".to_owned())]);
        assert_eq!(rendered(&format!("{{import:{name}}}"), name, &["tea"]), [Ok(own.to_owned())]);
    }
}
