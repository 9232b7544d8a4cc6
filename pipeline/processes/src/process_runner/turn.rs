//! Decides which replica carries out effects: a replica stands by, carries out effects while it holds the lease, and stands by again.

use std::time::Duration;

use millstream_contract::{leases::PROCESS_MANAGER_LEASE, stream_names::TIMERS};
use millstream_jetstream::{
    broker::{Broker, BrokerError, ReadError},
    id_source::IdSource,
    lease,
};
use millstream_runtime::{
    health::{ProgressWatch, Readiness},
    metrics::{Level, Metrics},
};
use tokio_util::sync::CancellationToken;

use super::{
    ProcessRunnerError,
    due::{self, Relayed},
    sender::Sender,
};

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TurnEnd {
    /// The process was asked to stop.
    Stop,
    /// Another replica is active, or may be.
    Lost,
}

/// Stands by and takes turns.
pub(super) struct Turns<B> {
    broker: B,
    ids: IdSource,
    time_to_live: Duration,
    sender: Sender<B>,
    active: Level,
    due: Relayed,
    asking: ProgressWatch,
}

impl<B: Broker> Turns<B> {
    pub(super) fn new(
        broker: B,
        ids: IdSource,
        time_to_live: Duration,
        sender: Sender<B>,
        metrics: &Metrics,
        readiness: &Readiness,
    ) -> Self {
        let due = Relayed {
            count: metrics.timers_due(),
            dead_letters: metrics.dead_letters(TIMERS),
            progress: readiness.progress("what falls due"),
        };
        Self {
            broker,
            ids,
            time_to_live,
            sender,
            active: metrics.process_active(),
            due,
            asking: readiness.progress("asking for the lease"),
        }
    }

    /// Whether due commands are put onto COMMANDS.
    pub(super) fn due_progress(&self) -> ProgressWatch {
        self.due.progress.clone()
    }

    /// Reads how far the effects of every process have been carried out.
    pub(super) async fn learn(&mut self) -> Result<(), ProcessRunnerError> {
        self.sender.learn().await
    }

    /// Takes turns until `stop`.
    pub(super) async fn run(&mut self, stop: CancellationToken) -> Result<(), ProcessRunnerError> {
        loop {
            let waited = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                waited = self.wait_for_turn() => waited,
            };
            waited?;
            tracing::info!(run = self.ids.run(), "active");
            self.active.set(1);
            let end = self.turn(&stop).await;
            self.active.set(0);
            self.sender.stand_by();
            self.due.progress.rest();
            match end {
                Ok(TurnEnd::Lost) => tracing::warn!("lost the turn; standing by"),
                end => {
                    self.give_back().await;
                    return end.map(|_| ());
                }
            }
        }
    }

    async fn wait_for_turn(&mut self) -> Result<(), ProcessRunnerError> {
        loop {
            match self.broker.hold_lease(PROCESS_MANAGER_LEASE, self.ids.run(), self.time_to_live).await {
                Ok(true) => {
                    self.asking.nothing_waits();
                    return Ok(());
                }
                Ok(false) => self.asking.nothing_waits(),
                Err(BrokerError::Unavailable { operation, detail }) => {
                    tracing::warn!(operation, detail, "the lease cannot be asked for now");
                    self.asking.held(detail);
                }
                Err(error) => return Err(error.into()),
            }
            self.sender.learn().await?;
            self.sender.forget_done().await?;
            self.broker.lease_freed(PROCESS_MANAGER_LEASE, self.time_to_live / 3).await;
        }
    }

    async fn turn(&mut self, stop: &CancellationToken) -> Result<TurnEnd, ProcessRunnerError> {
        let kept = lease::keep(&self.broker, PROCESS_MANAGER_LEASE, self.ids.run(), self.time_to_live);
        let relayed = due::relay(&self.broker, &self.ids, &self.due);
        tokio::select! {
            biased;
            () = stop.cancelled() => Ok(TurnEnd::Stop),
            () = kept => Ok(TurnEnd::Lost),
            relayed = relayed => match relayed {
                Err(ProcessRunnerError::Read(ReadError::TakenOver { .. })) => Ok(TurnEnd::Lost),
                Err(error) => Err(error),
                Ok(never) => match never {},
            },
            sent = self.sender.run() => match sent {
                Err(error) => Err(error),
                Ok(never) => match never {},
            },
        }
    }

    async fn give_back(&mut self) {
        if let Err(error) = self.sender.record().await {
            tracing::warn!(%error, "progress was not recorded; what lies behind is repeated without effect");
        }
        if let Err(error) = self.broker.release_lease(PROCESS_MANAGER_LEASE, self.ids.run()).await {
            tracing::warn!(%error, "the lease could not be given back; it lapses by itself");
        }
    }
}
