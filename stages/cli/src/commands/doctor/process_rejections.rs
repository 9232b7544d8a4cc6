//! Commands of processes that were rejected. They are not a fault of the system, but somebody has to look at each.

use std::collections::BTreeMap;

use millstream_domain::process_rejections::PROCESS_REJECTIONS;
use millstream_runtime::stage_check::Check;

use super::processes::ProcessStatus;

/// The prefix of the metric of rejected commands of processes.
const METRIC: &str = "millstream_process_rejections_total{";

/// The numbers that the command handlers have counted since they were started.
pub(super) fn refusals(processes: &[ProcessStatus], program: &str) -> Check {
    Check { what: "rejected commands of processes".to_owned(), result: Ok(told(processes, program)) }
}

fn told(processes: &[ProcessStatus], program: &str) -> String {
    let mut counts: BTreeMap<String, f64> = BTreeMap::new();
    for (name, count) in processes.iter().flat_map(|process| &process.figures) {
        if let Some(labels) = name.strip_prefix(METRIC).filter(|_| *count > 0.0) {
            let words: Vec<&str> = labels.split('"').skip(1).step_by(2).collect();
            *counts.entry(words.join(" ")).or_default() += count;
        }
    }
    if counts.is_empty() {
        return "none since the command handlers were started".to_owned();
    }
    let counts: Vec<String> = counts.iter().map(|(words, count)| format!("{words}: {count}")).collect();
    let counts = counts.join(", ");
    format!(
        "{counts}; `{program} query <context> {PROCESS_REJECTIONS}` shows each, the same in every context"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejections_are_added_up_by_process_and_code() {
        let status = |figures: &[(&str, f64)]| ProcessStatus {
            stage: "command-handler".to_owned(),
            instance: String::new(),
            ready: true,
            reasons: Default::default(),
            figures: figures.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
        };
        let name =
            r#"millstream_process_rejections_total{process="fulfilment",code="refund-exceeds-payment"}"#;
        let statuses = [status(&[(name, 2.0)]), status(&[(name, 1.0), ("millstream_nats_connected", 1.0)])];
        assert!(told(&statuses, "gym").starts_with("fulfilment refund-exceeds-payment: 3; `gym query"));
        assert!(told(&[], "gym").starts_with("none"));
    }
}
