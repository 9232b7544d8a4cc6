//! The `[process_manager]` section.

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, civil::Time};
use millstream_engine::{
    config::{Section, SectionKeys},
    process_runner::{Begin, LEASE_DEFAULT},
    read_side::FileSettings,
};
use millstream_model::{ProcessSettings, orders::fulfilment::Deadlines, retail::closing::ClosingHours};

/// What only the process manager has.
#[derive(Debug, Clone)]
pub struct StageConfig {
    /// The file of rows.
    pub file: FileSettings,
    /// How long a process manager that fell silent keeps its turn.
    pub lease_time_to_live: Duration,
    /// Where processes begin that never ran.
    pub begins: BTreeMap<String, Begin>,
    /// What the deployment says about the model's processes.
    pub processes: ProcessSettings,
}

impl Section for StageConfig {
    const NAME: &'static str = "process_manager";
    const ABOUT: &'static str = "How processes are run, and what they wait for.";

    fn read(keys: &mut SectionKeys<'_>) -> Self {
        let file = FileSettings::read(keys, "data/process-manager");
        let lease_time_to_live = keys.positive_duration(
            "lease_time_to_live",
            LEASE_DEFAULT,
            "how long a process manager that fell silent keeps its turn; whole seconds",
        );
        if lease_time_to_live < Duration::from_secs(1) {
            keys.problem("lease_time_to_live", "must be at least 1s: the server counts whole seconds");
        }
        let begins = begins(keys);
        let processes = ProcessSettings { deadlines: deadlines(keys), closing_hours: closing_hours(keys) };
        Self { file, lease_time_to_live, begins, processes }
    }
}

fn begins(keys: &mut SectionKeys<'_>) -> BTreeMap<String, Begin> {
    let entries = keys.list(
        "begin",
        &[],
        "where a process that never ran carries out effects from, such as \"fulfilment=now\": start, now, or behind a sequence of EVENTS; start when not named",
    );
    let known: Vec<&str> = millstream_model::processes(ProcessSettings::default())
        .iter()
        .map(|process| process.name())
        .collect();
    let mut begins = BTreeMap::new();
    for entry in entries {
        let (name, text) = entry.split_once('=').unwrap_or((&*entry, ""));
        if !known.contains(&name.trim()) {
            keys.problem("begin", format!("names process {:?}; there are {}", name.trim(), known.join(", ")));
            continue;
        }
        match text.trim().parse::<Begin>() {
            Ok(begin) => drop(begins.insert(name.trim().to_owned(), begin)),
            Err(error) => keys.problem("begin", format!("has {entry:?}: {error}")),
        }
    }
    begins
}

fn deadlines(keys: &mut SectionKeys<'_>) -> Deadlines {
    let defaults = Deadlines::default();
    let mut deadline = |name, default: SignedDuration, help| {
        let duration = keys.positive_duration(name, default.unsigned_abs(), help);
        SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
    };
    Deadlines {
        payment: deadline(
            "payment_deadline",
            defaults.payment,
            "how long a customer has to pay an order before it is cancelled",
        ),
        shipment: deadline(
            "shipment_deadline",
            defaults.shipment,
            "how long the warehouse has to ship a paid order before it is cancelled and refunded",
        ),
    }
}

fn closing_hours(keys: &mut SectionKeys<'_>) -> ClosingHours {
    let tills = hour(
        keys,
        "close_tills_at",
        "hour of the store's time zone at which its tills are closed, such as \"03:00\"; never by a timer when not set",
    );
    let business_days = hour(
        keys,
        "close_business_days_at",
        "hour of the company's time zone at which business days are closed; never by a timer when not set",
    );
    let time_zone = keys.time_zone(
        "time_zone",
        "UTC",
        "the company's time zone, and that of stores without their own; the same as command_handler.time_zone",
    );
    let stores =
        keys.list("store_time_zones", &[], "time zones of stores, such as \"2506=America/New_York\"");
    let mut store_time_zones = BTreeMap::new();
    for entry in stores {
        match entry.split_once('=') {
            Some((store, name)) => {
                let zone = keys.time_zone_named("store_time_zones", name.trim());
                store_time_zones.insert(store.trim().to_owned(), zone);
            }
            None => keys.problem(
                "store_time_zones",
                format!("has {entry:?}; write each as <store>=<time zone>, as in 2506=America/New_York"),
            ),
        }
    }
    ClosingHours { tills, business_days, time_zone, store_time_zones }
}

fn hour(keys: &mut SectionKeys<'_>, name: &str, help: &'static str) -> Option<Time> {
    let text = keys.optional_text(name, help)?;
    let time = text.parse::<Time>();
    if time.is_err() {
        keys.problem(name, format!("is {text:?}; it takes an hour of the day, such as \"03:00\""));
    }
    time.ok()
}
