//! The week as tables, in SQLite and in PostgreSQL, kept by processes of the stage `sql` that are killed like the others, and by a server
//! that is killed too. In the end every table has the rows of its view, and the configured queries give what plain sums give.

use std::path::PathBuf;

use end_to_end_tests::{
    binaries::repository,
    stage_process::StageProcess,
    system::System,
    waiting::{PATIENCE, until_within},
};
use millstream_contract::stream_names::{EVENTS, OUTCOMES};
use millstream_domain::{
    application::{DefaultSettings, Model, Views},
    projection::view_name,
};
use millstream_model::Reference;
use millstream_sql::testing::{
    comparison::{compare, of_postgres, of_sqlite},
    postgres_server::PostgresServer,
};
use serde_json::json;

use super::checks::rows;

const DATABASE: &str = "week";

/// The processes that keep tables.
pub(super) struct Tables {
    folder: PathBuf,
    sqlite: StageProcess,
    postgres: Option<StageProcess>,
    server: Option<PostgresServer>,
}

impl Tables {
    /// Starts them beside a system.
    pub(super) async fn start(system: &System) -> Self {
        let folder = system.folder().join("tables");
        let key = format!("nats.nkey_file={}", system.key_file().display());
        let queries = format!("sql.queries={}", repository().join("config/queries").display());
        let stage = |instance: &str| {
            StageProcess::new("sql", instance, &system.url(), &folder).set(&key).set(&queries)
        };
        let mut sqlite = stage("");
        sqlite.start_ready().await;
        let started = || {
            let server = PostgresServer::start();
            server.iter().for_each(|server| server.make_database(DATABASE));
            server
        };
        let server = tokio::task::spawn_blocking(started).await.unwrap();
        let mut postgres = server
            .as_ref()
            .map(|server| stage("2").set(&format!("sql.database={}", server.address(DATABASE))));
        if let Some(stage) = &mut postgres {
            stage.start_ready().await;
        }
        Self { folder, sqlite, postgres, server }
    }

    /// Kills one of them and starts it again; which one, `kills` says.
    pub(super) async fn kill(&mut self, kills: usize) {
        let is_turn_of = |place| kills % 3 == place;
        if is_turn_of(0)
            && let Some(mut server) = self.server.take()
        {
            let again = move || {
                server.kill();
                server.start_again();
                server
            };
            self.server = Some(tokio::task::spawn_blocking(again).await.unwrap());
        } else if is_turn_of(1)
            && let Some(stage) = &mut self.postgres
        {
            stage.kill().await;
            stage.start();
        } else {
            self.sqlite.kill().await;
            self.sqlite.start();
        }
    }

    /// Waits until they have everything, and compares every table with its view.
    pub(super) async fn expect_rows(&mut self, system: &System) {
        let sqlite = self.folder.join("sql/replica.sqlite").display().to_string();
        let address = self.server.as_ref().map(|server| server.address(DATABASE));
        self.sqlite.ready_within(PATIENCE * 3).await;
        show_everything(system, &sqlite).await;
        if let (Some(stage), Some(address)) = (&mut self.postgres, &address) {
            stage.ready_within(PATIENCE * 3).await;
            show_everything(system, address).await;
        }
        let sqlite = PathBuf::from(sqlite);
        let mut compared = 0;
        for (context, view, has_shape) in views() {
            let rows: Vec<_> = rows(system, &format!("{context}.{view}")).await.into_iter().collect();
            let (sqlite, address) = (sqlite.clone(), address.clone());
            compared += tokio::task::spawn_blocking(move || {
                if let Some(address) = address {
                    compare(&context, &view, has_shape, &rows, |table| of_postgres(&address, table));
                }
                compare(&context, &view, has_shape, &rows, |table| of_sqlite(&sqlite, table))
            })
            .await
            .unwrap();
        }
        assert!(compared > 100, "only {compared} rows were compared");
    }

    pub(super) async fn stop(mut self) {
        self.sqlite.stop().await;
        if let Some(stage) = &mut self.postgres {
            stage.stop().await;
        }
    }
}

/// Waits until the tables of every projection show all of its stream, as the tables themselves say. A process that was started again has
/// no figures of what it read before.
async fn show_everything(system: &System, database: &str) {
    let context = async_nats::jetstream::new(system.broker().await.client().clone());
    for stream in [EVENTS, OUTCOMES] {
        let stream = context.get_stream(stream).await.unwrap();
        let info = stream.cached_info();
        let generation = &info.config.metadata["io.millstream.generation"];
        let statement = format!(
            "SELECT min(sequence) AS shown FROM millstream.position WHERE generation = '{generation}'"
        );
        let last = info.state.last_sequence;
        until_within(
            PATIENCE * 3,
            format!("{database} shows message {last} of {}", info.config.name),
            async || {
                let asked = ["sql", "--database", database, "--format", "json", "--command", &statement];
                let answer = system.millstream(&asked).await;
                (answer.code() == Some(0)).then_some(())?;
                (answer.json_lines().first()?["shown"].as_u64()? >= last).then_some(())
            },
        )
        .await;
    }
}

/// All views and tables of reports, and whether they tell the shape of their rows.
fn views() -> Vec<(String, String, bool)> {
    let model = || Model::of::<Reference>().unwrap();
    let Views { mut projections, outcome_projections } = model().views(&mut DefaultSettings::default());
    let reports = model().reports(&mut DefaultSettings::default());
    projections.extend(reports.into_iter().map(|report| report.ledger));
    let mut all = Vec::new();
    for projection in &projections {
        let shapes = projection.shapes();
        for view in projection.views() {
            let has_shape = shapes.iter().any(|shape| shape.view == *view);
            all.push((projection.context().to_owned(), view_name(view), has_shape));
        }
    }
    for context in model().context_names() {
        for projection in &outcome_projections {
            all.push((context.to_owned(), projection.name().to_owned(), projection.shape().is_some()));
        }
    }
    all
}

/// Configured queries against plain sums over the rows of views.
pub(super) async fn expect_sums(system: &System) {
    let sales = rows(system, "retail.sale").await;
    let mut units = std::collections::BTreeMap::<String, i64>::new();
    for sale in sales.values() {
        for line in sale["lines"].as_array().unwrap() {
            *units.entry(line["sku"].as_str().unwrap().to_owned()).or_default() +=
                line["quantity"].as_i64().unwrap();
        }
    }
    let answer = system.query("query.retail.top-sellers", &json!({})).await.unwrap();
    let sellers = answer["rows"].as_array().unwrap();
    assert!(!sellers.is_empty());
    for row in sellers {
        assert_eq!(row["units"].as_i64(), units.get(row["sku"].as_str().unwrap()).copied(), "{row}");
    }
    let shown: Vec<i64> = sellers.iter().map(|row| row["units"].as_i64().unwrap()).collect();
    assert!(shown.is_sorted_by(|one, next| one >= next), "{shown:?}");

    let tills = rows(system, "retail.till").await;
    let answer = system.query("query.retail.returns-rate", &json!({})).await.unwrap();
    for row in answer["rows"].as_array().unwrap() {
        let sum = |field: &str| -> i64 {
            let own = tills.values().filter(|till| till["store"] == row["store"]);
            own.map(|till| till[field].as_i64().unwrap()).sum()
        };
        assert_eq!(row["units_sold"].as_i64(), Some(sum("units_sold")), "{row}");
        assert_eq!(row["units_returned"].as_i64(), Some(sum("units_returned")), "{row}");
    }

    let refused = system.query("query.retail.top-sellers", &json!({ "from": "soon" })).await.unwrap_err();
    assert_eq!(refused.0, "400", "{refused:?}");
}
