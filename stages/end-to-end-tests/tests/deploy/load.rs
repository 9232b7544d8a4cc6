//! Sales that go on while a deployment is disturbed, and what the reports must say of them in the end.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::jetstream;
use end_to_end_tests::{dumps, program::Ended, waiting::until};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::production_server::ProductionServer;

const DATE: &str = "2026-01-02";
const STORES: [&str; 4] = ["1", "2", "3", "4"];
/// Two cores are shared with everything that is disturbed.
const PACE: Duration = Duration::from_millis(10);

/// What a store's report must say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Figures {
    sales: i64,
    units: i64,
    gross: i64,
}

/// Sales that are being sent, as the NATS user operator.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    sending: JoinHandle<BTreeMap<&'static str, Figures>>,
}

impl Load {
    /// Sends until [`Load::finish`].
    pub(crate) async fn start(server: &ProductionServer) -> Self {
        let jetstream = jetstream::new(server.client("operator").await);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let sending = tokio::spawn(async move {
            let mut sums: BTreeMap<&str, Figures> = BTreeMap::new();
            let mut ticks = tokio::time::interval(PACE);
            for number in 1.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                for store in STORES {
                    let (units, price) = (number % 5 + 1, 100 + number % 7);
                    let sale = json!({ "sale": number.to_string(), "currency": "USD",
                        "lines": [{ "sku": "tea", "quantity": units, "unit_price": price }] });
                    let subject = format!("cmd.retail.till.{store}_{DATE}.record-sale");
                    jetstream.publish(subject, sale.to_string().into()).await.unwrap().await.unwrap();
                    let sum = sums.entry(store).or_default();
                    *sum = Figures {
                        sales: sum.sales + 1,
                        units: sum.units + units,
                        gross: sum.gross + units * price,
                    };
                }
                ticks.tick().await;
            }
            for store in STORES {
                let subject = format!("cmd.retail.till.{store}_{DATE}.close");
                jetstream.publish(subject, "{}".into()).await.unwrap().await.unwrap();
            }
            sums
        });
        Self { stop, sending }
    }

    /// Ends the day, waits until the report of every store is sealed, and compares all of it with the sums; then proves from the
    /// streams that every command has one outcome and one effect. `report` runs `millstream report` with these arguments.
    pub(crate) async fn finish(self, server: &ProductionServer, report: impl AsyncFn(&[&str]) -> Ended) {
        self.stop.store(true, Ordering::Relaxed);
        let expected = self.sending.await.unwrap();
        assert!(expected["1"].sales > 0, "nothing was sent");
        let expected: BTreeMap<String, Figures> =
            expected.into_iter().map(|(store, figures)| (store.to_owned(), figures)).collect();
        let arguments = ["report", "store-daily", "--date", DATE, "--format", "json"];
        let sealed = until("every store's report is sealed", async || {
            let rows: Vec<Value> = serde_json::from_str(&report(&arguments).await.stdout).ok()?;
            let done = rows.len() == STORES.len() && rows.iter().all(|row| row["status"] == "sealed");
            done.then_some(rows)
        })
        .await;
        let number = |row: &Value, name: &str| row[name].as_i64().unwrap();
        let found: BTreeMap<String, Figures> = sealed
            .iter()
            .map(|row| {
                let figures = Figures {
                    sales: number(row, "sales"),
                    units: number(row, "units_sold"),
                    gross: number(row, "gross_amount"),
                };
                (row["store"].as_str().unwrap().to_owned(), figures)
            })
            .collect();
        assert_eq!(found, expected);
        dumps::verified(&server.broker("operator").await).await;
    }
}
