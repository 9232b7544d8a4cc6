//! What filters make of texts.

use std::collections::BTreeSet;

use super::{
    super::text::{
        Columns, RowError, Text,
        tests::{rendered_with, row, source_row},
    },
    *,
};

fn columns(names: &[&str]) -> Columns {
    Columns::new(&csv::StringRecord::from(names))
}

fn rendered(text: &str, name: &str, values: &[&str]) -> Vec<Result<String, RowError>> {
    rendered_with(&columns(&[name]), text, values)
}

/// `12/1/10` was a day of the year 10.
#[test]
fn a_date_has_a_year_of_four_digits_and_its_format_reads_dates() {
    let read = rendered("{day|date:%m/%d/%Y}", "day", &["12/1/2010", "12/1/10", "1.12.2010"]);
    assert_eq!(read[0], Ok("2010-12-01".to_owned()));
    for (refused, said) in [
        (
            &read[1],
            "column day: \"12/1/10\" is not a date with a year of four digits, as in 01/31/2012 (%m/%d/%Y)",
        ),
        (&read[2], "column day: \"1.12.2010\" is not a date as in 01/31/2012 (%m/%d/%Y)"),
    ] {
        assert_eq!(refused.as_ref().unwrap_err().to_string(), said);
    }
    assert_eq!(rendered("{day|date:%d.%m.%y}", "day", &["31.1.12"]), [Ok("2012-01-31".to_owned())]);
    for format in ["", "%Q", "%Y-%m", "%d.%m", "%H:%M", "day"] {
        let refused = Text::parse(&format!("{{day|date:{format}}}"), &columns(&["day"])).unwrap_err();
        assert!(refused.to_string().contains("reads no date"), "{format}: {refused}");
    }
}

/// One supplier `1` was two, `Дом 1` and `Сад 1`; so were `caf` and `c`.
#[test]
fn a_key_joins_no_two_texts() {
    let keys = |texts: &[&str]| rendered("{name|slug}", "name", texts);
    let same = keys(&["A. B., Inc.", "a. b., INC. ", "Luxco-St Louis"]);
    assert_eq!(same, [Ok("a-b-inc".to_owned()), Ok("a-b-inc".to_owned()), Ok("luxco-st-louis".to_owned())]);
    let letters: Vec<String> = keys(&["Дом 1", "Сад 1", "Дом", "Café Ä", "Café Ö", "1", "caf"])
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert_eq!(letters.iter().collect::<BTreeSet<_>>().len(), letters.len(), "{letters:?}");
    assert!(letters[0].starts_with("1-") && letters[3].starts_with("caf-"), "{letters:?}");
    let signs: Vec<String> = keys(&["C++", "C#", "C"]).into_iter().map(Result::unwrap).collect();
    assert!(signs[0].starts_with("c-") && signs[1].starts_with("c-") && signs[2] == "c", "{signs:?}");
    assert_ne!(signs[0], signs[1]);
    let spelt = keys(&["A-B", "D", "A/B"]);
    assert!(spelt[0].is_ok() && spelt[1].is_ok(), "{spelt:?}");
    let refused = spelt[2].as_ref().unwrap_err();
    assert_eq!(refused.code(), "key-joins");
    let said =
        "column name: \"A/B\" would have the key \"a-b\", which another text of the column has on line 2";
    assert!(refused.to_string().starts_with(said), "{refused}");
}

#[test]
fn filters_are_applied_one_after_the_other() {
    let mut columns = columns(&["a", "b"]);
    let entries = [("Credit Card", "card"), ("0", "none")].map(|(from, to)| (from.to_owned(), to.to_owned()));
    columns.tables = vec![Arc::new(Table { name: "ways".to_owned(), entries: entries.into() })];
    for (text, value, made) in [
        ("{a|upper|replace:X:Y}", "axb", "AYB"),
        ("{a|replace:':':'-'}", "10:30", "10-30"),
        ("{a|replace:'|':'}'}!", "a|b", "a}b!"),
        ("{a|replace: :}", "a b c", "abc"),
        ("{a|before:/}", "tea-100 / blue", "tea-100"),
        ("{a|before:/}", "tea-100", "tea-100"),
        ("{a|after: / |lower}", "tea-100 / BLUE", "blue"),
        ("{a|after:/|default:none}", "tea-100", "none"),
        ("{a|pad:5}", "42", "00042"),
        ("{a|pad:5}", "123456", "123456"),
        ("{a|table:ways}", "Credit Card", "card"),
        ("{a|table:ways|default:other}", "Cheque", "other"),
        ("{a|default:guest|upper}", " ", "GUEST"),
        ("{a}{b|default:}", "x", "x"),
        ("{a|abs}", "(3.50)", "3.50"),
        ("{a|abs}", "-12", "12"),
        ("{a|abs}", "$3.50-", "$3.50"),
        ("{file|before:.|upper}-{a}", "7", "S-7"),
        ("{row|pad:3}", "x", "007"),
    ] {
        assert_eq!(rendered_with(&columns, text, &[value]), [Ok(made.to_owned())], "{text} of {value:?}");
    }
    for (text, value, said) in [
        ("{a|table:ways}", "Cheque", "column a: \"Cheque\" is not in the table ways; add it there"),
        ("{a|replace:x:}", "x", "column a is empty"),
        ("{a|after:/}", "x", "column a is empty"),
        ("{a|abs}", "x", "column a: \"x\" is not a number"),
        ("{a|day}", "x", "column a: \"x\" is not an instant; write time:<format> before day"),
    ] {
        columns.zone = Some(TimeZone::UTC);
        let refused = rendered_with(&columns, text, &[value]).remove(0).unwrap_err();
        assert_eq!(refused.to_string(), said);
    }
}

/// A spreadsheet had taken the zero off 010226, the second of January, and the 22nd of October of 2006 came of it.
#[test]
fn a_date_without_some_of_its_digits_is_refused() {
    let columns = columns(&["d"]);
    for (format, text) in
        [("date:%m%d%y", "10226"), ("date:%d.%m.%y", "1.2.6"), ("time:%Y%m%d%H%M%z", "20260102130+0000")]
    {
        let refused = rendered_with(&columns, &format!("{{d|{format}}}"), &[text]).remove(0).unwrap_err();
        assert!(refused.to_string().ends_with(", with all its digits"), "{format}: {refused}");
    }
    assert_eq!(rendered_with(&columns, "{d|date:%m%d%y}", &["010226"]), [Ok("2026-01-02".to_owned())]);
}

#[test]
fn a_time_is_an_instant_of_its_zone() {
    let mut columns = columns(&["at"]);
    let naive = "{at|time:%d.%m.%Y %H:%M}";
    let refused = Text::parse(naive, &columns).unwrap_err().to_string();
    assert!(refused.contains("needs a zone; write zone = \"Europe/Berlin\""), "{refused}");
    for format in ["%d.%m.%Y", "%H:%M", "x"] {
        let refused = Text::parse(&format!("{{at|time:{format}}}"), &columns).unwrap_err();
        assert!(refused.to_string().contains("reads no time"), "{format}: {refused}");
    }
    for format in ["%Y-%m-%d %H:%M %Q", "%Y-%m-%d %H:%M %:Q"] {
        let refused = Text::parse(&format!("{{at|time:{format}}}"), &columns).unwrap_err();
        assert!(refused.to_string().contains("reads no time"), "{format}: {refused}");
    }
    let told = "{at|time:%Y-%m-%d %H:%M:%S %z}";
    let first_century = rendered_with(&columns, told, &["18-07-01 00:30:00 +0200"]).remove(0).unwrap_err();
    assert!(first_century.to_string().contains("a time with a year of four digits"), "{first_century}");
    assert_eq!(
        rendered_with(&columns, told, &["2018-07-01 00:30:00 +0200"]),
        [Ok("2018-06-30T22:30:00Z".to_owned())]
    );
    columns.zone = Some(TimeZone::get("Europe/Berlin").unwrap());
    let made = rendered_with(
        &columns,
        naive,
        &["31.01.2018 00:30", "01.07.2018 00:30", "28.10.2018 02:30", "25.03.2018 02:30", "1.7.18 00:30"],
    );
    assert_eq!(made[0], Ok("2018-01-30T23:30:00Z".to_owned()));
    assert_eq!(made[1], Ok("2018-06-30T22:30:00Z".to_owned()));
    assert_eq!(made[2], Ok("2018-10-28T00:30:00Z".to_owned()), "the first of two");
    let gap = made[3].as_ref().unwrap_err().to_string();
    assert!(gap.contains("is not a time that there was in Europe/Berlin"), "{gap}");
    assert!(made[4].is_err());
    let day = rendered_with(&columns, "{at|time:%Y-%m-%d %H:%M:%S %z|day}", &["2018-06-30 22:30:00 +0000"]);
    assert_eq!(day, [Ok("2018-07-01".to_owned())]);
    assert_eq!(
        rendered_with(&columns, "{at|date:%m/%d/%Y %H:%M}", &["12/1/2010 8:26"]),
        [Ok("2010-12-01".to_owned())]
    );
}

/// `Z` was no offset to `%z`, and where the map wrote it as a letter the time was one of the zone, an hour or two before or after.
#[test]
fn the_offset_that_a_time_tells_is_heeded_or_asked_for() {
    let mut columns = columns(&["at"]);
    columns.zone = Some(TimeZone::get("Europe/Berlin").unwrap());
    let read = |format: &str, text: &str| {
        rendered_with(&columns, &format!("{{at|time:{format}}}"), &[text])
            .remove(0)
            .map_err(|refused| refused.to_string())
    };
    let ten = Ok("2026-07-01T10:00:00Z".to_owned());
    for format in ["%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M:%S%:z"] {
        for text in ["2026-07-01T10:00:00Z", "2026-07-01T12:00:00+02:00", "2026-07-01T05:00:00-0500"] {
            assert_eq!(read(format, text), ten, "{format} {text}");
        }
    }
    assert_eq!(read("%Y-%m-%d %H:%M:%S %z", "2026-07-01 12:00:00+0200"), ten);
    assert_eq!(read("%Y-%m-%dT%H:%M:%SZ", "2026-07-01T10:00:00Z"), ten);
    assert_eq!(read("%Y-%m-%d %H:%M:%S UTC", "2026-07-01 10:00:00 UTC"), ten);
    // It may be the end of a span as well.
    for text in ["2026-07-01 10:00Z", "2026-07-01 10:00+02:00", "2026-07-01 10:00-1130"] {
        let refused = read("%Y-%m-%d %H:%M", text).unwrap_err();
        assert!(
            refused.ends_with("; %z at the end of the format reads the offset that it tells"),
            "{refused}"
        );
    }
    for text in ["2026-07-01 10:00 soon", "2026-07-01Z", "Z"] {
        let refused = read("%Y-%m-%d %H:%M", text).unwrap_err();
        assert!(refused.ends_with("is not a time as in 2012-01-31 18:30 (%Y-%m-%d %H:%M)"), "{refused}");
    }
    let short = read("%Y-%m-%d %H:%M%z", "26-07-01 10:00Z").unwrap_err();
    assert!(short.contains("a year of four digits"), "{short}");
}

/// Each is one command: what it holds once, its rows must agree about.
#[test]
fn rows_of_a_group_agree_where_a_command_holds_one_value() {
    let columns = columns(&["day", "n"]);
    let slugs = std::cell::RefCell::default();
    let text = |text: &str| Text::parse(text, &columns).unwrap();
    let rows =
        [source_row(2, &["", "1"]), source_row(3, &["1.7.2018", "2"]), source_row(4, &["01.07.2018", "3"])];
    let group = row(&rows, &slugs);
    assert_eq!(text("{day|date:%d.%m.%Y}").render(&group), Ok("2018-07-01".to_owned()));
    let refused = text("{day}").render(&group).unwrap_err();
    assert_eq!(refused.code(), "group-differs");
    let said = "column day: line 3 says \"1.7.2018\" and line 4 of the same group \"01.07.2018\"";
    assert!(refused.to_string().starts_with(said), "{refused}");
    assert_eq!(text("{row}").render(&group), Ok("7".to_owned()));
    let said_once = [source_row(2, &["card", "1"]), source_row(3, &["", "2"])];
    assert_eq!(text("{day|default:other}").render(&row(&said_once, &slugs)), Ok("card".to_owned()));
    let never_said = [source_row(2, &["", "1"]), source_row(3, &["", "2"])];
    assert_eq!(text("{day|default:other}").render(&row(&never_said, &slugs)), Ok("other".to_owned()));
    let each: Vec<_> = group.each().map(|row| text("{n}").render(&row).unwrap()).collect();
    assert_eq!(each, ["1", "2", "3"]);
}

/// A map and a short file took all memory.
#[test]
fn no_text_grows_beyond_measure() {
    let mut columns = columns(&["a"]);
    let ten = format!("{{a{}}}", "|replace:a:aaaaaaaaaa".repeat(12));
    for half in 0..40 {
        let before = if half == 0 { "{a}{a}".to_owned() } else { format!("{{v{0}}}{{v{0}}}", half - 1) };
        let text = Text::parse(&before, &columns).unwrap();
        columns.values.insert(format!("v{half}"), Arc::new(vec![text]));
    }
    for text in [ten.as_str(), "{v39}"] {
        let refused = rendered_with(&columns, text, &[&"a".repeat(4000)]).remove(0).unwrap_err();
        assert!(refused.to_string().contains("becomes a text of more than 1 MiB"), "{refused}");
    }
    let long = rendered_with(&columns, "{a|abs}", &[&"x".repeat(100_000)]).remove(0).unwrap_err();
    assert!(long.to_string().len() < 1000, "{long}");
}
