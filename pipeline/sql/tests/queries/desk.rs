//! Databases with a few rows, and what asks them.

use std::{path::PathBuf, sync::Arc};

use millstream_domain::application::{DefaultSettings, Model, Views};
use millstream_model::Reference;
use millstream_sql::{
    database::{Database, Filling, StoredPosition},
    plan::Plan,
    postgres_database::PostgresDatabase,
    queries::reader::{PostgresReader, Reader, SqliteReader},
    sqlite::SqliteDatabase,
    table::TableRow,
    testing::postgres_server::PostgresServer,
};
use millstream_store::read_store::Checkpoint;
use serde_json::json;
use tempfile::TempDir;

pub(crate) const CONTEXTS: [&str; 3] = ["comments", "orders", "retail"];

pub(crate) fn plan() -> Plan {
    let model = || Model::of::<Reference>().unwrap();
    let Views { mut projections, outcome_projections } = model().views(&mut DefaultSettings::default());
    let reports = model().reports(&mut DefaultSettings::default());
    projections.extend(reports.into_iter().map(|report| report.ledger));
    let (of_events, of_outcomes) = (projections.iter(), outcome_projections.iter());
    Plan::new(of_events.map(AsRef::as_ref), of_outcomes.map(AsRef::as_ref), &CONTEXTS).unwrap()
}

/// Sales of two stores, and the products.
fn rows() -> Vec<(&'static str, &'static str, serde_json::Value)> {
    let sale = |store: &str, sale: &str, lines: serde_json::Value, units: i64| {
        json!({
            "store": store, "business_date": "2012-01-31", "sale": sale, "currency": "USD", "lines": lines,
            "units_sold": units, "gross_amount": units * 100, "returns": [], "units_returned": 0, "refund_amount": 0,
            "sold_at": null, "late": false, "version": 1, "recorded_at": "2012-01-31T12:00:00.5Z",
        })
    };
    let line = |sku: &str, quantity: i64| json!({ "sku": sku, "quantity": quantity, "unit_price": 100 });
    let product = json!({
        "sku": "a", "name": "Gin", "supplier": "luxco", "supplier_name": null, "effective_from": "0000-02-29", "unit_price": 100,
        "currency": "KWD", "discontinued": false, "version": 1, "recorded_at": "2012-01-31T12:00:00Z",
    });
    let reservation = json!({
        "location": "2506", "sku": "75087:a", "reservation": "sale 1/2", "quantity": 3, "recorded_at": "2012-01-31T12:00:00Z",
    });
    let stock = json!({
        "location": "2506", "sku": "75087:a", "on_hand": 5, "reserved": 3, "available": 2, "minimum": 10, "version": 1,
        "recorded_at": "2012-01-31T12:00:00Z",
    });
    vec![
        ("reservation", "2506:75087:a/sale 1/2", reservation),
        ("stock", "2506:75087:a", stock),
        ("sale", "2506_2012-01-31/S-1", sale("2506", "S-1", json!([line("a", 2), line("b", 1)]), 3)),
        ("sale", "2506_2012-01-31/S-2", sale("2506", "S-2", json!([line("b", 4)]), 4)),
        ("sale", "7_2012-01-31/S-3", sale("7", "S-3", json!([line("a", 1)]), 1)),
        ("product", "a", product),
    ]
}

/// Fills the tables of every projection.
pub(crate) fn fill(database: &mut dyn Database, plan: &Plan) {
    for projection in &plan.projections {
        let position = StoredPosition {
            projection: projection.id.clone(),
            checkpoint: Checkpoint {
                sequence: 7,
                message_id: "m".to_owned(),
                ..Checkpoint::start("g", 1, 0)
            },
            definition: projection.definition(database.dialect()),
        };
        let tables = projection.tables.iter().map(|each| Arc::clone(&each.table)).collect();
        let filling = Filling { position, before: None, tables };
        database
            .fill(&filling, &mut |take| {
                for (index, each) in projection.tables.iter().enumerate() {
                    let own = rows()
                        .into_iter()
                        .filter(|(name, ..)| each.table.context == "retail" && each.table.name == *name);
                    let own =
                        own.map(|(_, key, row)| each.table.row(key, row.to_string().as_bytes()).unwrap());
                    take(index, own.collect::<Vec<TableRow>>())?;
                }
                Ok(())
            })
            .unwrap();
    }
}

pub(crate) struct Desk {
    folder: TempDir,
    pub(crate) server: Option<PostgresServer>,
    pub(crate) readers: Vec<Arc<dyn Reader>>,
}

impl Desk {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (plan, path) = (plan(), folder.path().join("replica.sqlite"));
        fill(&mut SqliteDatabase::open(&path).unwrap(), &plan);
        let mut readers: Vec<Arc<dyn Reader>> = vec![Arc::new(SqliteReader::new(&path, plan.of_events()))];
        let server = PostgresServer::start();
        if let Some(server) = &server {
            server.make_database("queries");
            // As the guide says it: neither role may do more than it has to.
            let roles = "CREATE ROLE filling LOGIN; CREATE ROLE asking LOGIN; GRANT asking TO filling; \
                 ALTER DATABASE queries OWNER TO filling";
            server.run("queries", roles);
            let address = server.address("queries").replace("postgres@", "filling@");
            fill(&mut PostgresDatabase::connect(&address, Some("asking")).unwrap(), &plan);
            readers.push(Arc::new(PostgresReader::new(&address, Some("asking"), plan.of_events()).unwrap()));
        }
        Self { folder, server, readers }
    }

    pub(crate) fn sqlite(&self) -> PathBuf {
        self.folder.path().join("replica.sqlite")
    }
}
