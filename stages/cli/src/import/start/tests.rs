//! What a map to begin with says of a file.

use millstream_domain::application::Model;
use millstream_model::Reference;

use super::*;

/// A map that was begun for prices such as 1.250 had all of them refused, or read as a thousand times less.
#[test]
fn what_the_point_is_is_written_down_where_other_numbers_show_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prices.csv");
    let begun = |prices: &str| {
        std::fs::write(&path, format!("sku;price\n{prices}")).unwrap();
        map(&path, None, &Model::of::<Reference>().unwrap().aggregates()).unwrap()
    };
    let doubt = "# Some numbers may be a thousand times as much";
    for (prices, is_said, is_doubted) in [
        ("a;1.250\nb;0.5\n", true, false),
        ("a;1.250\nb;12.000\n", false, true),
        ("a;1.25\nb;12.00\n", false, false),
    ] {
        let map = begun(prices);
        assert_eq!(
            (map.contains("\ndecimal = \".\"\n"), map.contains(doubt)),
            (is_said, is_doubted),
            "{map}"
        );
    }
    let american = begun("a;1,230\nb;12,000\nc;4,950\n");
    assert!(american.contains(doubt) && !american.contains("\ndecimal = "), "{american}");
    let german = begun("a;1.250\nb;0,5\n");
    assert!(german.contains("\ndecimal = \",\"\nthousands = \".\"\n") && !german.contains(doubt), "{german}");
}

/// Two formats were told where each reads what the other does.
#[test]
fn a_time_with_its_offset_is_told_by_one_format() {
    for (values, format) in [
        (["2026-07-01T10:00:00Z", "2026-07-01T12:00:00+02:00"], "%Y-%m-%dT%H:%M:%S%z"),
        (["2026-07-01T10:00:00+0000", "2026-07-01T12:00:00+0200"], "%Y-%m-%dT%H:%M:%S%z"),
        (["2026-07-01 10:00:00 +01:00", "2026-07-01 12:00:00 +0200"], "%Y-%m-%d %H:%M:%S %z"),
    ] {
        assert_eq!(
            Kind::of(&values, NumberForm::default()),
            Kind::Time(vec![format.to_owned()]),
            "{values:?}"
        );
    }
}
