//! What values a map makes of rows.

use std::cell::RefCell;

use proptest::prelude::*;

use super::{
    super::text::tests::{row, source_row},
    *,
};

fn placed(map: &str) -> Placed {
    toml::from_str(map).unwrap()
}

fn rendered(mapping: &str, header: &[&str], fields: &[&str]) -> Result<Option<Value>, RowError> {
    let columns = Columns::new(&csv::StringRecord::from(header));
    let template = Template::parse(&placed(mapping), &columns).unwrap();
    let slugs = RefCell::default();
    template.render(&row(&[source_row(8, fields)], &slugs))
}

#[test]
fn row_becomes_typed_json() {
    let mapping = r#"
        sale = "{row}-{hash}"
        currency = "USD"
        shop = "{name|slug}"
        day = "{day|date:%m/%d/%Y}"
        note = { optional = "{note}" }
        lines = [{ sku = "{item}", quantity = { integer = "{count}" }, unit_price = { decimal = "{price}", places = 2 } }]
    "#;
    let value = rendered(
        mapping,
        &["name", "day", "note", "item", "count", "price"],
        &["A. B., Inc.", "01/31/2012", "", "75087", "60", "7.1"],
    );
    let expected = serde_json::json!({
        "sale": "7-ab12", "currency": "USD", "shop": "a-b-inc", "day": "2012-01-31",
        "lines": [{ "sku": "75087", "quantity": 60, "unit_price": 710 }],
    });
    assert_eq!(value, Ok(Some(expected)));
}

#[test]
fn empty_column_is_named() {
    let mapping = r#"price = { decimal = "{price}", places = 2 }"#;
    assert_eq!(rendered(mapping, &["price"], &[" "]), Err(RowError::Empty { of: "column price".to_owned() }));
}

#[test]
fn an_amount_has_the_places_of_its_currency() {
    let mapping = r#"price = { decimal = "{price}", currency = "{currency}" }"#;
    let price = |fields: [&str; 2]| rendered(mapping, &["price", "currency"], &fields);
    for (fields, units) in [(["1200", "JPY"], 1_200), (["1.5", "KWD"], 1_500), (["15", "USD"], 1_500)] {
        assert_eq!(price(fields), Ok(Some(serde_json::json!({ "price": units }))));
    }
    for (fields, said) in [
        (["1.5", "JPY"], "column price: \"1.5\" is not a whole number"),
        (
            ["1.0005", "KWD"],
            "column price: \"1.0005\" is not a decimal number with at most 3 places; round = \"half-up\" in the map rounds it",
        ),
        (["1", "yen"], "column currency: \"yen\" is not a currency of three upper-case letters"),
        (["1", ""], "column currency is empty"),
    ] {
        assert_eq!(price(fields).unwrap_err().to_string(), said);
    }
    let constant = r#"price = { decimal = "{price}", currency = "JPY" }"#;
    let value = rendered(constant, &["price"], &["7"]);
    assert_eq!(value, Ok(Some(serde_json::json!({ "price": 7 }))));
}

/// Each row was refused for it.
#[test]
fn what_no_row_changes_is_checked_with_the_map() {
    let columns = Columns::new(&csv::StringRecord::from(vec!["price"]));
    for (map, at, said) in [
        ("x = { integer = \"two\" }", 16, "\"two\" is not a whole number"),
        ("x = { decimal = \"0.005\", places = 2 }", 16, "is not a decimal number with at most 2 places"),
        ("x = { decimal = \"{price}\", currency = \"usd\" }", 38, "\"usd\" is not a currency of three"),
        ("x = { decimal = \"{price}\" }", 4, "write { decimal = \"{column}\", currency = "),
        ("x = { optional = 7 }", 4, "write { optional = … } with a text"),
        ("x = 1.5", 4, "found a number with a point"),
        ("x = [\"{cost}\"]", 5, "there is no column \"cost\""),
    ] {
        let refused = Template::parse(&placed(map), &columns).unwrap_err();
        assert!(refused.what.to_string().contains(said), "{map}: {refused:?}");
        assert_eq!(refused.span.start, at, "{map}");
    }
}

/// A text of a mapping, almost right.
fn mapping_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "\\{(a|b|row|hash|c)(\\|(slug|lower|abs|pad:3|before:'?.|replace:.:.|default:|(date|time):(%[A-Za-z%]){0,4}|x))?\\}?",
        "\\PC{0,5}",
        "[{}|:%]{1,3}"
    ];
    proptest::collection::vec(piece, 0..4).prop_map(|pieces| pieces.concat())
}

/// A field of a row: a date, a number, or anything.
fn field() -> impl Strategy<Value = String> {
    prop_oneof![
        "-?[0-9]{0,25}(\\.[0-9]{0,25})?",
        "[0-9]{1,4}[-/][0-9]{1,2}[-/][0-9]{1,5}",
        "\\PC{0,10}",
        ".{0,10}"
    ]
}

/// Amounts read as euros were booked as yen.
#[test]
fn amounts_are_of_the_currency_that_stands_beside_them() {
    let line = |currency: &str| {
        format!("lines = {{ each = {{ unit_price = {{ decimal = \"{{p}}\", currency = {currency} }} }} }}")
    };
    let columns = Columns::new(&csv::StringRecord::from(vec!["p", "c"]));
    let parsed =
        |mapping: &str| Template::parse(&placed(mapping), &columns).map_err(|error| error.what.to_string());
    let told = parsed(&format!("currency = \"JPY\"\n{}", line("\"EUR\""))).unwrap_err();
    assert!(
        told.starts_with("currency is \"JPY\" here, and an amount in it is read as one in \"EUR\""),
        "{told}"
    );
    assert!(parsed(&format!("currency = \"EUR\"\n{}", line("\"EUR\""))).is_ok());
    let inner = format!("currency = \"JPY\"\nat_home = {{ currency = \"EUR\", {} }}", line("\"EUR\""));
    assert!(parsed(&inner).is_ok(), "what has a currency of its own is of that one");

    let of_row = |mapping: &str, fields: [&str; 2]| rendered(mapping, &["p", "c"], &fields);
    for mapping in [
        format!("currency = \"JPY\"\n{}", line("\"{c}\"")),
        format!("currency = \"{{c}}\"\n{}", line("\"JPY\"")),
    ] {
        assert!(of_row(&mapping, ["350", "JPY"]).is_ok());
        let told = of_row(&mapping, ["3.50", "EUR"]).unwrap_err().to_string();
        assert!(told.contains("the currency of its command"), "{told}");
    }

    // 1500 yen were 150,000 where the map said places = 2.
    let of_places = "lines = [{ unit_price = { decimal = \"{p}\", places = 2 } }]";
    let told = parsed(&format!("currency = \"JPY\"\n{of_places}")).unwrap_err();
    assert!(told.contains("an amount in it is read with places = 2, which are not its places"), "{told}");
    let mapping = format!("currency = \"{{c}}\"\n{of_places}");
    for text in ["3.50", "€ 3.50", "3.50 EUR"] {
        assert!(of_row(&mapping, [text, "EUR"]).is_ok(), "{text}");
    }
    for text in ["$3.50", "3.50 USD"] {
        let told = of_row(&mapping, [text, "EUR"]).unwrap_err().to_string();
        assert!(told.starts_with(&format!("column p: \"{text}\" is not a decimal number")), "{told}");
    }
    let told = of_row(&mapping, ["1500", "JPY"]).unwrap_err().to_string();
    assert_eq!(
        told,
        "column p: \"1500\" is not an amount with 2 places, as the map says: JPY has 0. Write currency = … instead of places"
    );
}

proptest! {
    #[test]
    fn fuzz_maps_and_rows(text in mapping_text(), fields in (field(), field()), places in 0..40_u8) {
        let columns = Columns::new(&csv::StringRecord::from(vec!["a", "b"]));
        let slugs = RefCell::default();
        let rows = [source_row(8, &[fields.0.as_str(), fields.1.as_str()])];
        let row = row(&rows, &slugs);
        let quoted = toml::Value::String(text);
        for leaf in [
            format!("x = {quoted}"),
            format!("x = {{ integer = {quoted} }}"),
            format!("x = {{ optional = {quoted} }}"),
            format!("x = {{ decimal = {quoted}, places = {places} }}"),
            format!("x = {{ decimal = {quoted}, currency = {quoted} }}"),
            format!("x = [{{ y = {quoted} }}, {quoted}]"),
        ] {
            let Ok(table) = toml::from_str::<Placed>(&leaf) else { continue };
            if let Ok(template) = Template::parse(&table, &columns)
                && let Err(error) = template.render(&row)
            {
                prop_assert!(!error.to_string().is_empty());
            }
        }
    }
}

/// A thousand pieces of a file that groups its digits became one.
#[test]
fn a_count_that_could_be_a_thousand_times_as_many_is_refused() {
    let count = |text: &str| rendered("n = { integer = \"{n}\" }", &["n"], &[text]);
    for (text, whole) in
        [("12", 12), ("1.0", 1), ("1.00", 1), ("0.000", 0), ("1.0000", 1), ("1234.000", 1234)]
    {
        assert_eq!(count(text), Ok(Some(serde_json::json!({ "n": whole }))), "{text}");
    }
    for text in ["1.000", "-1.000", "12.000-", "(123.000)", "1.234"] {
        let refused = count(text).unwrap_err().to_string();
        let said =
            format!("column n: \"{text}\" is not certain: the point may stand before places or between");
        assert!(refused.starts_with(&said), "{refused}");
    }
    let mut columns = Columns::new(&csv::StringRecord::from(vec!["n"]));
    columns.numbers = super::NumberForm::said('.', Some(','));
    let template = Template::parse(&placed("n = { integer = \"{n}\" }"), &columns).unwrap();
    let slugs = RefCell::default();
    let made = template.render(&row(&[source_row(8, &["1.000"])], &slugs));
    assert_eq!(
        made,
        Ok(Some(serde_json::json!({ "n": 1 }))),
        "a map that says how digits are grouped is believed"
    );
}

/// A thousand euros were imported as one, where the map did not say what the point is.
#[test]
fn an_amount_that_could_be_a_thousand_times_as_much_is_refused_until_the_map_says_what_the_point_is() {
    let map = "price = { decimal = \"{price}\", currency = \"EUR\" }";
    for text in ["1.000", "-12.000", "€ 1.000", "1.234"] {
        let refused = rendered(map, &["price"], &[text]).unwrap_err();
        let said = format!(
            "column price: \"{text}\" is not certain: the point may stand before places or between groups of digits; under [file], write \
             decimal = \".\" for places, or decimal = \",\" and thousands = \".\" for groups"
        );
        assert_eq!((refused.code(), refused.to_string()), ("value-malformed", said));
    }
    let refused = rendered(map, &["price"], &["1,000"]).unwrap_err().to_string();
    assert!(refused.contains("decimal and thousands under [file] say otherwise"), "{refused}");
    for (form, units) in
        [(super::NumberForm::said('.', None), 100), (super::NumberForm::said(',', Some('.')), 100_000)]
    {
        let mut columns = Columns::new(&csv::StringRecord::from(vec!["price"]));
        columns.numbers = form;
        let template = Template::parse(&placed(map), &columns).unwrap();
        let slugs = RefCell::default();
        let made = template.render(&row(&[source_row(8, &["1.000"])], &slugs));
        assert_eq!(made, Ok(Some(serde_json::json!({ "price": units }))), "{form:?}");
    }
}

#[test]
fn a_list_has_a_value_for_each_row_of_a_group() {
    let columns = Columns::new(&csv::StringRecord::from(vec!["item", "count", "order"]));
    let map = r#"
        order = "{order}"
        lines = { each = { sku = "{item}", quantity = { integer = "{count}" } }, when = { value = "{count}", above = 0 } }
    "#;
    let template = Template::parse(&placed(map), &columns).unwrap();
    let slugs = RefCell::default();
    let rows = [
        source_row(2, &["tea", "1", "7"]),
        source_row(3, &["postage", "0", ""]),
        source_row(4, &["pot", "2", ""]),
    ];
    let made = template.render(&row(&rows, &slugs)).unwrap().unwrap();
    let lines = serde_json::json!([{ "sku": "tea", "quantity": 1 }, { "sku": "pot", "quantity": 2 }]);
    assert_eq!(made, serde_json::json!({ "order": "7", "lines": lines }));
}

#[test]
fn values_have_fallbacks_and_any_value_may_be_left_out() {
    let map = r#"
        name = { first = ["{a}", "{b}", "nobody"] }
        count = { optional = { integer = "{n}" } }
        price = { first = [{ decimal = "{n}", places = 2 }, 0] }
    "#;
    let made = |fields: [&str; 3]| rendered(map, &["a", "b", "n"], &fields).unwrap().unwrap();
    assert_eq!(made(["x", "y", "7"]), serde_json::json!({ "name": "x", "count": 7, "price": 700 }));
    assert_eq!(made(["", "y", ""]), serde_json::json!({ "name": "y", "price": 0 }));
    assert_eq!(made(["", "", ""]), serde_json::json!({ "name": "nobody", "price": 0 }));
    let none = rendered("x = { first = [\"{a}\", \"{b}\"] }", &["a", "b"], &["", ""]).unwrap_err();
    assert_eq!(none.to_string(), "each of the values under first is empty");
}

#[test]
fn an_amount_of_a_line_becomes_a_price_and_is_rounded_only_if_the_map_says_so() {
    let price = |more: &str, fields: [&str; 2]| {
        let map =
            format!("price = {{ decimal = \"{{amount}}\", currency = \"EUR\", per = \"{{count}}\"{more} }}");
        rendered(&map, &["amount", "count"], &fields).map(|made| made.unwrap()["price"].as_i64().unwrap())
    };
    assert_eq!(price("", ["€10.50", "3"]), Ok(350));
    assert_eq!(price("", ["-10.50", "-3"]), Ok(350));
    assert_eq!(price(", round = \"half-up\"", ["10", "3"]), Ok(333));
    for (fields, said) in [
        (
            ["10", "3"],
            "column amount: \"10\" is not a decimal number with at most 2 places when it is divided by 3; round = ",
        ),
        (["10", "0"], "column count: \"0\" is not a number other than 0"),
        (["10", "1.5"], "column count: \"1.5\" is not a whole number"),
        (["£10", "1"], "column amount: \"£10\" is not a decimal number with at most 2 places in EUR"),
        (
            ["1,5", "1"],
            "column amount: \"1,5\" is not a decimal number with at most 2 places in EUR (decimals behind '.', no sign",
        ),
    ] {
        let refused = price("", fields).unwrap_err().to_string();
        assert!(refused.starts_with(said), "{refused}");
    }
    let columns = Columns::new(&csv::StringRecord::from(vec!["a"]));
    for (map, said) in [
        (
            "x = { decimal = \"{a}\", places = 2, round = \"up\" }",
            "there is no way to round called \"up\"; write round = \"half-up\"",
        ),
        ("x = { decimal = \"{a}\", places = 2, currency = \"EUR\" }", "write { decimal = "),
        ("x = { decimal = \"{a}\", places = 2, wit = 1 }", "write { decimal = "),
        ("x = { each = \"{a}\", if = 1 }", "write { each = … }"),
        ("x = { first = [] }", "write { first = "),
    ] {
        let refused = Template::parse(&placed(map), &columns).unwrap_err();
        assert!(refused.what.to_string().starts_with(said), "{map}: {refused:?}");
    }
}
