//! Compares the time zone of the business in the configurations of two stages. If the command handler begins days in one zone, the process
//! manager must not close them in another. Each stage publishes its zone with its lease, which the other one may read.
//!
//! Deliberately absent: ending the process. Neither stage knows which of the two is wrong, and while a zone is being changed, one of them is
//! always ahead of the other.

use std::{convert::Infallible, time::Duration};

use millstream_contract::{
    error_text::one_line,
    header,
    leases::{COMMAND_HANDLER_LEASE, PROCESS_MANAGER_LEASE, lease_subject, leases_stream},
};
use millstream_jetstream::{
    broker::{Broker, BrokerError},
    nats_broker::NatsBroker,
};

use crate::health::Condition;

/// The pause between two checks. A zone is configured once; an operator who corrects it looks at the readiness a moment later.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// The setting in which a stage has the time zone of the business.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZonedStage {
    key: &'static str,
    lease: &'static str,
}

/// The command handler: days begin in its zone.
pub const COMMAND_HANDLER: ZonedStage =
    ZonedStage { key: "command_handler.time_zone", lease: COMMAND_HANDLER_LEASE };
/// The process manager: days are closed in its zone.
pub const PROCESS_MANAGER: ZonedStage =
    ZonedStage { key: "process_manager.time_zone", lease: PROCESS_MANAGER_LEASE };

/// `broker`, which publishes the zone of this process with each lease that it holds.
#[must_use]
pub fn telling_zone(broker: NatsBroker, zone: &str) -> NatsBroker {
    broker.telling_with_leases(header::TIME_ZONE, zone)
}

/// Makes the process not ready as long as the active process of `other` has another zone than `zone`, which this process has as `own`. Without
/// an active process, or if it publishes no zone, there is nothing to compare.
pub async fn watch_time_zone<B: Broker>(
    broker: &B,
    condition: &Condition,
    own: ZonedStage,
    zone: &str,
    other: ZonedStage,
) -> Infallible {
    let mut said = None;
    let mut known = false;
    loop {
        let told = told_zone(broker, other).await;
        known |= told.is_ok();
        match told {
            Ok(Some(told)) if !told.eq_ignore_ascii_case(zone) => {
                let sentence = format!(
                    "{} is \"{zone}\" here, but {} of the active process is \"{told}\": days would end at another hour \
                     than they begin; give both the same",
                    own.key, other.key
                );
                if said.as_ref() != Some(&sentence) {
                    tracing::error!("{sentence}");
                }
                condition.fails(&*sentence);
                said = Some(sentence);
            }
            Ok(_) => {
                condition.holds();
                said = None;
            }
            Err(error) if !known => {
                let error = one_line(&error);
                condition.fails(format!("{} of the active process is not known: {error}", other.key));
            }
            // As far as anybody knows, the last result still holds.
            Err(error) => tracing::debug!(%error, "the time zone of the other stage is not known"),
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

async fn told_zone<B: Broker>(broker: &B, other: ZonedStage) -> Result<Option<String>, BrokerError> {
    let lease = broker.last(&leases_stream(), &lease_subject(other.lease)).await?;
    Ok(lease.and_then(|lease| lease.headers.find(header::TIME_ZONE).map(str::to_owned)))
}

#[cfg(test)]
mod tests {
    use millstream_jetstream::testing::{fault_plan::FaultPlan, memory_broker::MemoryBroker};

    use super::*;
    use crate::health::Readiness;

    /// It said "starting" for ever.
    #[tokio::test(start_paused = true)]
    async fn zone_that_cannot_be_asked_for_is_a_reason_that_says_why() {
        let broker = MemoryBroker::new(1, FaultPlan::none());
        let readiness = Readiness::new();
        let condition = readiness.condition("time zone");
        let watch = watch_time_zone(&broker, &condition, COMMAND_HANDLER, "Europe/Zurich", PROCESS_MANAGER);
        let _for_ever = tokio::time::timeout(LOOK_INTERVAL * 3, watch).await;
        let reasons = readiness.reasons();
        assert!(
            reasons.iter().any(|reason| reason.contains("is not known") && reason.contains("KV_")),
            "{reasons:?}"
        );
    }
}
