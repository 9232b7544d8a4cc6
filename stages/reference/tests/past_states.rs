//! Past states with the real `millstream` program on a real nats-server, a real command handler, and the engine's read side
//! over the model's views and reports: what the stages run, in this process.

#![expect(clippy::unwrap_used, reason = "a test stops where something is wrong")]

use std::{
    collections::BTreeSet,
    num::NonZeroUsize,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use millstream_contract::{
    outcome::OutcomeRecord,
    stored_message::Headers,
    stream_names::{COMMANDS, EVENTS, OUTCOMES},
};
use millstream_domain::projection::{Projection, Rows as _};
use millstream_jetstream::{
    broker::{Broker as _, NewMessage},
    group_append::AppendStrategy,
    nats_broker::NatsBroker,
    testing::test_server::TestServer,
};
use millstream_read_side::{
    projection_runner::{ProjectionRunner, ProjectionSet, RunnerConfig},
    query_service::{QueryService, QueryServiceConfig},
};
use millstream_runtime::{health::Readiness, metrics::Metrics, shutdown::Shutdown};
use millstream_store::read_store::{Changes, Durability, ProjectionId, ProjectionRows, ReadStore, TableName};
use millstream_write_side::{
    command_handler::{CommandHandler, HandlerSettings, Observed},
    id_index::IdIndex,
    round::InternalCommands,
    state_cache::CacheLimits,
    state_snapshots::StateSnapshots,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const CACHE: usize = 4 * 1024 * 1024;

/// A store's day: sold, closed, sold late, closed again; and a receipt of stock. One commit each, in this order.
const DAY: [(&str, &str, &str); 7] = [
    ("ann", "product.tea.register", r#"{"name":"Tea","supplier":"acme"}"#),
    (
        "till-1",
        "till.7_2012-01-31.record-sale",
        r#"{"sale":"S1","currency":"USD","lines":[{"sku":"tea","quantity":2,"unit_price":500}]}"#,
    ),
    ("ann", "till.7_2012-01-31.close", "{}"),
    (
        "till-1",
        "till.7_2012-01-31.record-sale",
        r#"{"sale":"S2","currency":"USD","lines":[{"sku":"tea","quantity":1,"unit_price":300}]}"#,
    ),
    ("ann", "till.7_2012-01-31.close", "{}"),
    ("bert", "stock.7:tea.receive", r#"{"quantity":5,"reference":"box 1"}"#),
    ("bert", "stock.7:tea.adjust", r#"{"counted":4,"reason":"one is broken"}"#),
];
const SALE: u64 = 2;
const CLOSE: u64 = 3;
const LATE_SALE: u64 = 4;
const SECOND_CLOSE: u64 = 5;

/// A server and a command handler.
struct Deciding {
    server: TestServer,
    broker: NatsBroker,
    shutdown: Shutdown,
    handler: JoinHandle<()>,
}

impl Deciding {
    async fn start() -> Self {
        let server = TestServer::start_provisioned().await;
        let settings = HandlerSettings {
            name: "command-handler".to_owned(),
            round_max: NonZeroUsize::new(1000).unwrap(),
            cache: CacheLimits {
                states: NonZeroUsize::new(1000).unwrap(),
                bytes: u64::MAX,
                unsaved_commits: NonZeroUsize::MAX,
            },
            append_strategy: AppendStrategy::default(),
            internal_commands: InternalCommands::EffectsOnly,
            lease_time_to_live: Duration::from_secs(3),
            purge: None,
        };
        let observed = Observed::new(&Metrics::new(), &Readiness::new());
        let (index, snapshots) = (IdIndex::in_memory().unwrap(), StateSnapshots::in_memory().unwrap());
        let aggregates = millstream_model::aggregates();
        let mut handler =
            CommandHandler::new(server.broker().await, aggregates, settings, "a", index, snapshots, observed);
        let shutdown = Shutdown::new();
        let stop = shutdown.clone();
        let handler = tokio::spawn(async move { handler.run(stop).await.unwrap() });
        Self { broker: server.broker().await, server, shutdown, handler }
    }

    /// Publishes a command and waits until it is decided: commands that follow each other are commits of their own.
    async fn decide(&self, (actor, subject, body): (&str, &str, &str)) {
        let message = NewMessage {
            subject: format!("cmd.retail.{subject}"),
            expected_last: None,
            headers: [("Millstream-Actor", actor)].into_iter().collect::<Headers>(),
            payload: body.to_owned().into(),
        };
        let position = self.broker.append(COMMANDS, message).await.unwrap().sequence;
        let covered = async {
            loop {
                let last = self.broker.last(OUTCOMES, "out.0of1").await.unwrap();
                if last.is_some_and(|last| OutcomeRecord::from_stored(&last).unwrap().through >= position) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), covered).await.expect("the handler decides");
    }

    async fn whole_day(&self) {
        for command in DAY {
            self.decide(command).await;
        }
        assert_eq!(self.broker.state(EVENTS).await.unwrap().last_sequence, DAY.len() as u64);
    }

    async fn millstream(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command.args(["--server", &self.server.url()]).args(arguments).stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    /// As `millstream`, which must succeed.
    async fn answer(&self, arguments: &[&str]) -> String {
        let (code, answer, said) = self.millstream(arguments).await;
        assert_eq!(code, 0, "{arguments:?}: {answer}{said}");
        answer
    }

    /// As `millstream`, which must end with 64 and say `words`.
    async fn refused(&self, arguments: &[&str], words: &str) {
        let (code, answer, said) = self.millstream(arguments).await;
        assert_eq!((code, answer.as_str()), (64, ""), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }

    async fn stop(self) {
        self.shutdown.request();
        self.handler.await.unwrap();
    }
}

/// Views in a folder that are kept and answered.
struct Serving {
    stop: CancellationToken,
    runner: JoinHandle<()>,
    service: QueryService,
}

impl Serving {
    async fn start(broker: &NatsBroker, folder: &Path, name: &str, views: Vec<Box<dyn Projection>>) -> Self {
        let store = ReadStore::open(&folder.join("rows.redb"), CACHE).unwrap();
        let set = ProjectionSet::new(views, Vec::new(), &[]).unwrap();
        let runner = ProjectionRunner::new(broker.clone(), store.clone(), set, RunnerConfig::new(name));
        let config = QueryServiceConfig::new(name, "0.1.0");
        let service =
            QueryService::start(broker, store, &runner.views(), &Metrics::new(), config).await.unwrap();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let runner = tokio::spawn(async move { runner.run(stopped).await.unwrap() });
        Self { stop, runner, service }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.service.stop().await;
        self.runner.await.unwrap();
    }
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Changes a row of a report that nobody has open; without a value it removes the row.
fn tamper(folder: &TempDir, table: &str, key: &str, change: impl FnOnce(String) -> Option<String>) {
    let store = ReadStore::open(&folder.path().join("rows.redb"), CACHE).unwrap();
    let projection = ProjectionId::of_context("retail", "store-daily");
    let snapshot = store.snapshot().unwrap();
    let row = snapshot.get(&TableName::new(&projection, table), key).unwrap().unwrap();
    let mut rows = ProjectionRows::new(&snapshot, &projection, [table]);
    match change(String::from_utf8(row).unwrap()) {
        Some(changed) => rows.put(table, key, changed.into()),
        None => rows.delete(table, key),
    }
    store.commit(vec![Changes { projection, rows, checkpoint: None }], Durability::Durable).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn report_verify_names_what_was_tampered_with() {
    let deciding = Deciding::start().await;
    let folder = tempfile::tempdir().unwrap();
    let reporter =
        || Serving::start(&deciding.broker, folder.path(), "reporter", millstream_model::reports());
    deciding.whole_day().await;
    let serving = reporter().await;
    let equal = deciding.answer(&["report", "verify"]).await;
    assert_eq!(equal.lines().filter(|line| line.contains("equals its recomputation")).count(), 3, "{equal}");
    assert!(
        equal.contains("1 in store-daily, 2 in store-daily.revisions, 1 in store-daily.differences"),
        "{equal}"
    );
    serving.stop().await;

    let raise = |row: String| {
        assert!(row.contains(r#""gross_amount":1000"#), "{row}");
        Some(row.replace(r#""gross_amount":1000"#, r#""gross_amount":1001"#))
    };
    tamper(&folder, "store-daily.revisions", "2012-01-31/7#000001", raise);
    let serving = reporter().await;
    let (code, found, _) = deciding.millstream(&["report", "verify"]).await;
    assert_eq!(code, 65, "{found}");
    let named = "store-daily 7 of 2012-01-31, revision 1, gross_amount: is 1001, the events say 1000";
    assert_eq!(found.lines().next(), Some(named), "{found}");
    let (code, found, _) = deciding.millstream(&["report", "verify", "store-daily", "--json"]).await;
    assert_eq!(code, 65);
    let found = json_lines(&found);
    let place =
        ["report", "date", "key", "revision", "field", "live", "recomputed"].map(|name| &found[0][name]);
    let expected = json!(["store-daily", "2012-01-31", "7", 1, "gross_amount", 1001, 1000]);
    assert_eq!(json!(place), expected);
    assert_eq!((&found[1]["differing"], found.len()), (&json!(1), 2));
    deciding.answer(&["report", "verify", "supplier-daily"]).await;
    serving.stop().await;

    // A row that is gone, and one of which only the digest is another.
    tamper(&folder, "store-daily.differences", "2012-01-31/7#000002/000001", |_| None);
    let digest = |row: String| {
        let (before, after) = row.split_once(r#""digest":""#).unwrap();
        Some(format!(
            "{before}\"digest\":\"{}{}",
            if after.starts_with('0') { '1' } else { '0' },
            &after[1..]
        ))
    };
    tamper(&folder, "store-daily", "2012-01-31/7", digest);
    let serving = reporter().await;
    let (code, found, _) = deciding.millstream(&["report", "verify", "store-daily"]).await;
    assert_eq!(code, 65, "{found}");
    assert!(found.contains("store-daily 7 of 2012-01-31, revision 2, digest: is "), "{found}");
    assert!(found.contains("store-daily 7 of 2012-01-31, revision 2, line 1: missing from"), "{found}");
    assert!(found.contains("differs from its recomputation in 3 rows"), "{found}");
    serving.stop().await;
    deciding.refused(&["report", "verify", "shop-daily"], "there is no report shop-daily").await;
    deciding.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn report_verify_compares_like_with_like_while_sales_go_on() {
    let deciding = Deciding::start().await;
    let folder = tempfile::tempdir().unwrap();
    let serving =
        Serving::start(&deciding.broker, folder.path(), "reporter", millstream_model::reports()).await;
    let selling = async {
        for sale in 1_u64.. {
            let till = format!("till.{}_2012-01-31", sale % 3);
            let (command, body) = match sale % 7 {
                0 => ("close", "{}".to_owned()),
                _ => {
                    let lines = json!([{ "sku": "tea", "quantity": 1, "unit_price": sale }]);
                    (
                        "record-sale",
                        json!({ "sale": sale.to_string(), "currency": "USD", "lines": lines }).to_string(),
                    )
                }
            };
            deciding.decide(("till-1", &format!("{till}.{command}"), &body)).await;
        }
    };
    let verifying = async {
        let mut answers = String::new();
        for _ in 0..5 {
            answers.push_str(&deciding.answer(&["report", "verify", "--json"]).await);
        }
        answers
    };
    let answers = tokio::select! {
        answers = verifying => answers,
        () = selling => unreachable!("it never ends"),
    };
    let positions: BTreeSet<String> =
        json_lines(&answers).iter().map(|report| report["position"].to_string()).collect();
    assert!(positions.len() > 1, "nothing was sold meanwhile: {answers}");
    serving.stop().await;
    deciding.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn report_as_of_is_the_record_as_it_stood() {
    let deciding = Deciding::start().await;
    let folder = tempfile::tempdir().unwrap();
    deciding.whole_day().await;
    let report = ["report", "store-daily", "--date", "2012-01-31", "--key", "7", "--format", "json"];
    let as_of = async |moment: &str, more: &[&str]| {
        let arguments = [&report[..], &["--as-of", moment], more].concat();
        serde_json::from_str::<Value>(&deciding.answer(&arguments).await).unwrap()[0].clone()
    };
    let stood = |row: &Value| json!([row["revision"], row["status"], row["gross_amount"]]);
    // Nobody answers queries yet: the past is folded from EVENTS alone.
    let mut rows = Vec::new();
    for (sequence, expected) in [
        (SALE, json!([1, "open", 1000])),
        (CLOSE, json!([1, "sealed", 1000])),
        (LATE_SALE, json!([2, "open", 1300])),
        (SECOND_CLOSE, json!([2, "sealed", 1300])),
    ] {
        let row = as_of(&sequence.to_string(), &[]).await;
        assert_eq!(stood(&row), expected, "as of {sequence}");
        rows.push(row);
    }
    // The times and positions that a row tells are moments too, each with everything that it has seen.
    let generation = deciding.broker.state(EVENTS).await.unwrap().generation;
    let sealed = &rows[1];
    let position = format!("EVENTS:{generation}:{}", sealed["sealed_position"]);
    assert_eq!(as_of(&position, &[]).await, *sealed);
    assert_eq!(as_of(sealed["sealed_at"].as_str().unwrap(), &[]).await, *sealed);
    assert_eq!(as_of("2999-12-31", &[]).await, rows[3]);
    assert_eq!(as_of("5", &["--revision", "1"]).await, *sealed);

    let serving =
        Serving::start(&deciding.broker, folder.path(), "reporter", millstream_model::reports()).await;
    let live: Value = serde_json::from_str(&deciding.answer(&report).await).unwrap();
    assert_eq!(live[0], rows[3]);
    serving.stop().await;

    for moment in ["1", "2012-01-31"] {
        let (code, ..) = deciding.millstream(&[&report[..], &["--as-of", moment]].concat()).await;
        assert_eq!(code, 13, "{moment}");
    }
    let as_of = |moment: &'static str| [&report[..], &["--as-of", moment]].concat();
    deciding.refused(&as_of("8"), "EVENTS ends at 7").await;
    deciding.refused(&as_of("EVENTS:01JD:2"), "of another generation").await;
    deciding.refused(&as_of("OUTCOMES:01JD:2"), "past states are of EVENTS").await;
    deciding.refused(&as_of("yesterday"), "is no moment").await;
    deciding.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn history_as_of_shows_the_state_of_then() {
    let deciding = Deciding::start().await;
    deciding.whole_day().await;
    let till = async |moment: &str| {
        let arguments = ["history", "retail.till.7_2012-01-31", "--as-of", moment, "--json"];
        serde_json::from_str::<Value>(&deciding.answer(&arguments).await).unwrap()
    };
    let late = till("4").await;
    assert_eq!(
        json!([late["aggregate"], late["version"], late["sequence"]]),
        json!(["retail.till.7_2012-01-31", 3, 4])
    );
    assert_eq!(late["events"].as_array().unwrap().len(), 3);
    let state = &late["state"];
    assert_eq!(
        json!([state["closings"], state["changed_since_close"], state["currency"]]),
        json!([1, true, "USD"])
    );
    let left = json!({ "tea": { "units": 1, "amount": 300, "price_max": 300 } });
    assert_eq!(state["sales"]["S2"]["left"], left);
    // The time of an event is the moment at which it has happened.
    let closed = till("3").await;
    let at = closed["recorded_at"].as_str().unwrap();
    assert_eq!(till(at).await["state"], closed["state"]);
    assert_eq!(closed["state"]["sales"].as_object().unwrap().keys().collect::<Vec<_>>(), ["S1"]);
    let before = till("1").await;
    assert_eq!(json!([before["version"], before["state"]["closings"], before["events"]]), json!([0, 0, []]));

    let text = deciding.answer(&["history", "retail", "stock", "7:tea", "--as-of", "6"]).await;
    assert!(text.contains("stock-received") && text.contains(r#""on_hand": 5"#), "{text}");
    assert!(!text.contains("stock-adjusted"), "{text}");

    let tea = ["history", "retail", "product", "tea", "--as-of"];
    deciding.refused(&[&tea[..], &["8"]].concat(), "EVENTS ends at 7").await;
    deciding.refused(&[&tea[..], &["EVENTS:01JD:2"]].concat(), "of another generation").await;
    deciding
        .refused(&["history", "retail", "shop", "1", "--as-of", "1"], "there are no rules of retail.shop")
        .await;
    deciding.refused(&["history", "retail", "shop"], "expected CONTEXT AGGREGATE ID").await;
    deciding.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn views_as_of_answer_what_the_projector_answered_then() {
    let deciding = Deciding::start().await;
    let folder = tempfile::tempdir().unwrap();
    let serving =
        Serving::start(&deciding.broker, folder.path(), "projector", millstream_model::projections()).await;
    let questions: [&[&str]; 5] = [
        &["query", "retail", "till", "--all", "--json"],
        &["query", "retail.till", "7_2012-01-31"],
        &["query", "retail", "sale", "--prefix", "7_", "--json"],
        &["query", "retail", "stock", "--limit", "1"],
        &["query", "retail", "product", "tea", "--json"],
    ];
    let mut answers = Vec::new();
    for command in DAY {
        deciding.decide(command).await;
        for question in questions {
            let (code, answer, _) = deciding.millstream(question).await;
            answers.push((code, answer));
        }
    }
    serving.stop().await;
    let mut answers = answers.into_iter();
    for sequence in 1..=DAY.len() {
        for question in questions {
            let as_of = sequence.to_string();
            let (code, answer, said) = deciding.millstream(&[question, &["--as-of", &as_of]].concat()).await;
            assert_eq!((code, answer), answers.next().unwrap(), "{question:?} as of {sequence}: {said}");
        }
    }
    deciding.refused(&["query", "retail", "tills", "--as-of", "1"], "there is no view retail.tills").await;
    deciding.refused(&["query", "retail", "command", "--as-of", "1"], "follows OUTCOMES").await;
    deciding.refused(&["query", "retail", "till", "--as-of", "99"], "EVENTS ends at 7").await;
    deciding.refused(&["query", "retail", "till", "--as-of", "1", "--as-it-is"], "cannot be used").await;
    deciding.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_names_events_commands_and_people() {
    let deciding = Deciding::start().await;
    deciding.whole_day().await;
    let explain = async |arguments: &[&str]| {
        let arguments = [&["explain"], arguments, &["--json"]].concat();
        json_lines(&deciding.answer(&arguments).await)
    };
    let brief = |changes: &[Value]| -> Vec<Value> {
        let fields = ["sequence", "type", "command_id", "command_position", "actor", "change"];
        changes.iter().map(|change| json!(fields.map(|field| &change[field]))).collect()
    };
    let record = explain(&["retail.store-daily", "2012-01-31/7"]).await;
    assert_eq!(
        brief(&record),
        [
            json!([2, "sale-recorded", "@2", 2, "till-1", "created"]),
            json!([3, "till-closed", "@3", 3, "ann", "changed"]),
            json!([4, "sale-recorded", "@4", 4, "till-1", "changed"]),
            json!([5, "till-closed", "@5", 5, "ann", "changed"]),
        ]
    );
    assert_eq!(record[2]["fields"]["gross_amount"], json!([1000, 1300]));
    assert_eq!(record[2]["aggregate"], "retail.till.7_2012-01-31");
    // Of several views of one projection only the row that was asked for counts, up to the moment that was.
    let sealed = explain(&["retail", "store-daily-revisions", "2012-01-31/7#000001"]).await;
    assert_eq!(sealed.len(), 2);
    assert_eq!(explain(&["stock", "7:tea", "--as-of", "6"]).await.len(), 1);

    let (code, table, said) = deciding.millstream(&["explain", "retail", "stock", "7:tea"]).await;
    assert_eq!((code, table.lines().count()), (0, 3), "{table}{said}");
    assert!(table.contains("on_hand 5 -> 4") && table.contains("bert"), "{table}");
    assert!(said.contains("2 event(s) of 1 aggregate(s), 2 command(s), by bert"), "{said}");

    let (code, answer, said) = deciding.millstream(&["explain", "retail", "stock", "8:tea"]).await;
    assert_eq!((code, answer.as_str()), (13, ""), "{said}");
    deciding.refused(&["explain", "shop", "x"], "there is no view shop").await;
    deciding.refused(&["explain", "stock", "7:tea", "--as-of", "8"], "EVENTS ends at 7").await;
    deciding.stop().await;
}

/// Whether `line` is what `pattern` shows, `…` standing for anything.
fn matches(pattern: &str, line: &str) -> bool {
    let (before, after) = match pattern.split_once('…') {
        None => return line == pattern,
        Some(parts) => parts,
    };
    let Some(rest) = line.strip_prefix(before) else { return false };
    after.is_empty() || rest.char_indices().any(|(at, _)| matches(after, &rest[at..]))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guide_shows_what_is_printed() {
    let guide = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/guides/past-states.md");
    let guide = std::fs::read_to_string(guide).unwrap();
    let deciding = Deciding::start().await;
    let folder = tempfile::tempdir().unwrap();
    let serving =
        Serving::start(&deciding.broker, folder.path(), "reporter", millstream_model::reports()).await;
    deciding.whole_day().await;
    let (mut typed, mut wrong) = (0, Vec::new());
    for block in guide.split("```console\n").skip(1) {
        let block = block.split("```").next().unwrap();
        for step in block.split("$ millstream ").skip(1) {
            let (command, shown) = step.split_once('\n').unwrap();
            let arguments: Vec<&str> = command.split_whitespace().collect();
            let (_, answer, said) = deciding.millstream(&arguments).await;
            let printed = format!("{answer}{said}");
            let mut lines = printed.lines();
            let missing = shown.lines().find(|pattern| !lines.any(|line| matches(pattern, line)));
            wrong.extend(missing.map(|missing| format!("{command}: {missing:?} is not in\n{printed}")));
            typed += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(typed >= 9, "the guide shows only {typed} commands");
    serving.stop().await;
    deciding.stop().await;
}
