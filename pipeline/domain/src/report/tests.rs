//! The ledger, over a report of one figure: what was counted, by counter and day.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::*;
use crate::{
    decider::EventSet,
    testing::{
        memory_rows::MemoryRows,
        project::{History, assert_resumable},
    },
};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Counted {
    counter: String,
    units: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Ended {
    counter: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Called {
    counter: String,
    called: String,
}

crate::events! {
    enum CountEvent of "day" {
        Counted(Counted) = "counted" v 1,
        Ended(Ended) = "ended" v 1,
        Called(Called) = "called" v 1,
    }
}

static TABLES: ReportTables = crate::report_tables!("count-daily");
const COLUMNS: &[Column] = &[
    Column::new("counter", ColumnKind::Text),
    Column::new("revision", ColumnKind::Number),
    Column::new("status", ColumnKind::Text),
    Column::new("units", ColumnKind::Count),
];

struct CountDaily;

impl Report for CountDaily {
    fn context(&self) -> &'static str {
        "counting"
    }

    fn tables(&self) -> &'static ReportTables {
        &TABLES
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn handles(&self, aggregate: &str) -> bool {
        aggregate == "day"
    }

    fn entries(
        &self,
        envelope: &EventEnvelope<'_>,
        _rows: &mut (dyn Rows + '_),
    ) -> Result<Vec<Entry>, ProjectionError> {
        let date = SmolStr::from(envelope.stream_id.id());
        Ok(vec![match CountEvent::from_envelope(envelope)? {
            CountEvent::Counted(counted) => Entry::Post(Posting {
                date,
                texts: vec![("counter", Some(counted.counter.as_str().into()))],
                figures: vec![("units", counted.units)],
                reference: format!("count of {}", counted.units).into(),
                key: counted.counter.into(),
            }),
            CountEvent::Ended(Ended { counter: Some(key) }) => Entry::Seal { date, key: key.into() },
            CountEvent::Ended(Ended { counter: None }) => Entry::SealDate { date },
            CountEvent::Called(called) => Entry::Describe {
                date,
                key: called.counter.into(),
                texts: vec![("counter", Some(called.called.into()))],
            },
        }])
    }
}

const DAY: &str = "2012-01-31";

fn counted(counter: &str, units: i64) -> CountEvent {
    CountEvent::Counted(Counted { counter: counter.into(), units })
}

fn ended(counter: Option<&str>) -> CountEvent {
    CountEvent::Ended(Ended { counter: counter.map(str::to_owned) })
}

/// Each event is a commit of its own, a second after the one before.
fn ledger(events: impl IntoIterator<Item = CountEvent>) -> MemoryRows {
    let mut history = History::new("counting");
    for event in events {
        history.add("day", DAY, [event]);
    }
    assert_resumable(&Ledger(CountDaily), &history)
}

fn digest(rows: &MemoryRows, key: &str) -> String {
    rows.json("count-daily", key)["digest"].as_str().unwrap().to_owned()
}

#[test]
fn postings_add_up_in_an_open_revision() {
    let rows = ledger([counted("a", 2), counted("b", 5), counted("a", 3)]);
    let row = json!({
        "counter": "a", "units": 5, "revision": 1, "status": "open", "inputs": 2,
        "first_position": 1, "last_position": 3, "digest": digest(&rows, "2012-01-31/a"),
        "opened_position": 1, "opened_at": "2012-01-31T12:00:00Z", "changed_at": "2012-01-31T12:00:02Z",
    });
    assert_eq!(rows.json("count-daily", "2012-01-31/a"), row);
    assert_eq!(rows.json("count-daily.revisions", "2012-01-31/a#000001"), row);
    assert_eq!(rows.json(OUTBOX, "counting/count-daily/2012-01-31/a#000001"), row);
    assert!(rows.keys("count-daily.differences").is_empty());
}

#[test]
fn seal_closes_the_open_revision_and_nothing_else() {
    let rows =
        ledger([counted("a", 2), counted("b", 5), ended(Some("a")), ended(Some("a")), ended(Some("c"))]);
    let sealed = rows.json("count-daily", "2012-01-31/a");
    assert_eq!((&sealed["status"], &sealed["sealed_position"]), (&json!("sealed"), &json!(3)));
    assert_eq!(sealed["sealed_at"], json!("2012-01-31T12:00:02Z"));
    assert_eq!(rows.json("count-daily", "2012-01-31/b")["status"], json!("open"));
    assert_eq!(rows.keys("count-daily.revisions"), ["2012-01-31/a#000001", "2012-01-31/b#000001"]);
}

#[test]
fn posting_after_a_seal_opens_the_next_revision_with_the_differences() {
    let rows = ledger([
        counted("a", 2),
        ended(None),
        counted("a", 3),
        counted("a", -1),
        ended(None),
        ended(None),
        counted("a", 7),
    ]);
    let sealed = rows.json("count-daily.revisions", "2012-01-31/a#000001");
    assert_eq!((&sealed["units"], &sealed["status"]), (&json!(2), &json!("sealed")));
    let second = rows.json("count-daily.revisions", "2012-01-31/a#000002");
    let line = |units: i64, sequence: u64, time: &str| {
        json!({
            "reference": format!("count of {units}"), "event_type": "counted", "broker_sequence": sequence,
            "recorded_at": time, "figures": { "units": units },
        })
    };
    let lines = [line(3, 3, "2012-01-31T12:00:02Z"), line(-1, 4, "2012-01-31T12:00:03Z")];
    assert_eq!(
        (&second["units"], &second["status"], &second["inputs"]),
        (&json!(4), &json!("sealed"), &json!(3))
    );
    assert_eq!((&second["first_position"], &second["opened_position"]), (&json!(1), &json!(3)));
    assert_eq!((&second["difference"], &second["difference_lines"]), (&json!({ "units": 2 }), &json!(2)));
    assert_eq!(second["differences"], json!(lines));
    let third = rows.json("count-daily", "2012-01-31/a");
    assert_eq!((&third["revision"], &third["status"]), (&json!(3), &json!("open")));
    assert_eq!((&third["units"], &third["difference"]), (&json!(11), &json!({ "units": 7 })));
    assert_eq!(
        rows.keys("count-daily.differences"),
        ["2012-01-31/a#000002/000001", "2012-01-31/a#000002/000002", "2012-01-31/a#000003/000001"]
    );
    assert_eq!(rows.json("count-daily.differences", "2012-01-31/a#000002/000002"), lines[1]);
}

#[test]
fn sealing_a_date_leaves_other_dates_open() {
    let mut history = History::new("counting");
    history.add("day", "2012-01-3", [counted("a", 1)]).add("day", DAY, [counted("a", 1)]).add(
        "day",
        "2012-01-3",
        [ended(None)],
    );
    let rows = assert_resumable(&Ledger(CountDaily), &history);
    assert_eq!(rows.json("count-daily", "2012-01-3/a")["status"], json!("sealed"));
    assert_eq!(rows.json("count-daily", "2012-01-31/a")["status"], json!("open"));
}

#[test]
fn row_stays_small_however_much_comes_in_late() {
    let late = DIFFERENCES_IN_ROW_MAX + 10;
    let events = [counted("a", 1), ended(None)].into_iter().chain((0..late).map(|_| counted("a", 1)));
    let rows = ledger(events);
    let row = rows.json("count-daily", "2012-01-31/a");
    assert_eq!(row["differences"].as_array().unwrap().len(), DIFFERENCES_IN_ROW_MAX);
    assert_eq!(row["difference_lines"], json!(late));
    assert_eq!(rows.keys("count-daily.differences").len(), late);
}

#[test]
fn what_was_taken_back_before_any_seal_leaves_no_row() {
    let rows = ledger([counted("a", 2), counted("a", -2)]);
    assert!(rows.keys("count-daily").is_empty());
    assert!(rows.keys("count-daily.revisions").is_empty());
    let published = rows.json(OUTBOX, "counting/count-daily/2012-01-31/a#000001");
    assert_eq!((&published["status"], &published["units"]), (&json!("withdrawn"), &json!(0)));

    let again = ledger([counted("a", 2), counted("a", -2), counted("a", 1)]);
    assert_eq!(again.json("count-daily", "2012-01-31/a")["first_position"], json!(3));
}

#[test]
fn what_is_taken_back_after_a_seal_stays_visible() {
    let rows = ledger([counted("a", 2), ended(None), counted("a", -2)]);
    let row = rows.json("count-daily", "2012-01-31/a");
    assert_eq!((&row["revision"], &row["units"], &row["status"]), (&json!(2), &json!(0), &json!("open")));
}

#[test]
fn description_changes_open_revisions_only() {
    let called = |name: &str| CountEvent::Called(Called { counter: "a".into(), called: name.into() });
    let rows = ledger([counted("a", 2), called("Anna"), ended(None), called("Berta")]);
    let row = rows.json("count-daily", "2012-01-31/a");
    assert_eq!((&row["counter"], &row["units"], &row["inputs"]), (&json!("Anna"), &json!(2), &json!(1)));
}

#[test]
fn digests_are_equal_only_for_equal_inputs_in_equal_order() {
    let of = |events: [CountEvent; 2]| digest(&ledger(events), "2012-01-31/a");
    let one = of([counted("a", 1), counted("a", 2)]);
    assert_eq!(one, of([counted("a", 1), counted("a", 2)]));
    assert_ne!(one, of([counted("a", 2), counted("a", 1)]));
    assert_eq!(one.len(), 32);
}

#[test]
fn sums_stop_at_the_bounds_instead_of_wrapping() {
    let rows = ledger([counted("a", i64::MAX), counted("a", i64::MAX)]);
    assert_eq!(rows.json("count-daily", "2012-01-31/a")["units"], json!(i64::MAX));
}

#[test]
fn revision_round_trips_as_flat_json() {
    let rows = ledger([counted("a", 2), ended(None), counted("a", 3)]);
    for key in rows.keys("count-daily.revisions") {
        let row = rows.json("count-daily.revisions", key);
        let revision = Revision::from_json(COLUMNS, row.to_string().as_bytes()).unwrap();
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&revision.to_json()).unwrap(), row);
        assert_eq!(revision.text("counter"), Some("a"));
        assert_eq!(revision.figures()["units"], row["units"].as_i64().unwrap());
    }
    assert!(Revision::from_json(COLUMNS, br#"{"units":1}"#).is_err());
}

#[test]
fn outbox_key_round_trips_and_names_the_subject() {
    let key = "counting/count-daily/2012-01-31/a:USD#000002";
    let parsed: OutboxKey = key.parse().unwrap();
    assert_eq!(parsed.to_string(), key);
    assert_eq!(parsed.subject(), "report.counting.count-daily.a:USD.2012-01-31");
    for bad in ["", "a/b/c#1", "a/b/c/d", "a/b/c/d#x", "a/b/c/d/e#1", "a//c/d#1"] {
        assert!(bad.parse::<OutboxKey>().is_err(), "{bad}");
    }
}
