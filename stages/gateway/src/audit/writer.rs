//! Appends records to the chain of this run. Everything that waits becomes one message once the previous message is stored.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use millstream_contract::{
    audit::{AuditChain, AuditDecision, AuditRecord, audit_subject},
    error_text::one_line,
    stored_message::Headers,
    stream_names::AUDIT,
};
use millstream_jetstream::{
    backoff::Backoff,
    broker::{AppendError, Broker, NewMessage},
};
use millstream_runtime::health::Condition;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, interval_at},
};

use super::{Counted, refusals::WINDOW};

/// The most records in a message. With the longest texts, they take a tenth of what a server accepts by default.
const TOGETHER_MAX: usize = 128;
/// How often it is written that records are lost.
const LOST_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Writer<B> {
    broker: B,
    subject: String,
    chain: AuditChain,
    /// The sequence of the last message on the subject.
    last: u64,
    condition: Condition,
    /// The last logged problem.
    trouble: String,
    backoff: Backoff,
}

impl<B: Broker> Writer<B> {
    pub(super) fn new(broker: B, run: &str, condition: Condition, backoff: Backoff) -> Self {
        condition.holds();
        let chain = AuditChain::new(run);
        Self {
            broker,
            subject: audit_subject(run),
            chain,
            last: 0,
            condition,
            trouble: String::new(),
            backoff,
        }
    }

    /// Writes until nobody can record anything any more.
    pub(super) async fn write(mut self, mut records: mpsc::Receiver<AuditRecord>, counted: Arc<Counted>) {
        let (mut windows, mut looks) =
            (interval_at(Instant::now() + WINDOW, WINDOW), interval(LOST_INTERVAL));
        for ticks in [&mut windows, &mut looks] {
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        let mut batch = vec![AuditRecord::new(Timestamp::now(), AuditDecision::Began)];
        let mut goes_on = true;
        while goes_on {
            tokio::select! {
                count = records.recv_many(&mut batch, TOGETHER_MAX) => goes_on = count > 0,
                _ = looks.tick() => batch.extend(counted.lost()),
                _ = windows.tick() => batch.extend(counted.refusals.ended()),
            }
            if !goes_on {
                batch.extend(counted.refusals.ended());
                batch.extend(counted.lost());
                batch.push(AuditRecord::new(Timestamp::now(), AuditDecision::Ended));
            }
            // A window may have ended with many kinds of refusals.
            while !batch.is_empty() {
                let rest = batch.split_off(batch.len().min(TOGETHER_MAX));
                self.append(std::mem::replace(&mut batch, rest)).await;
            }
        }
    }

    async fn append(&mut self, batch: Vec<AuditRecord>) {
        let lines: Vec<String> = batch.into_iter().map(|record| self.chain.add(record)).collect();
        let payload = bytes::Bytes::from(lines.join("\n"));
        let mut pause = self.backoff.clone();
        loop {
            let message = NewMessage {
                subject: self.subject.clone(),
                expected_last: Some(self.last),
                headers: Headers::new(),
                payload: payload.clone(),
            };
            match self.broker.append(AUDIT, message).await {
                Ok(appended) => return self.appended(appended.sequence),
                Err(AppendError::Conflict { .. }) => {
                    // An earlier append without a clear answer was stored, or somebody else writes to this subject.
                    match self.broker.last(AUDIT, &self.subject).await {
                        Ok(Some(found)) if found.payload == payload => return self.appended(found.sequence),
                        Ok(found) => {
                            let sequence = found.map_or(0, |found| found.sequence);
                            self.trouble(&format!(
                                "{AUDIT} {sequence} stands in this gateway's chain and is not its own"
                            ));
                            self.last = sequence;
                        }
                        Err(error) => self.trouble(&one_line(&error)),
                    }
                }
                Err(error) => self.trouble(&one_line(&error)),
            }
            pause.pause().await;
        }
    }

    fn appended(&mut self, sequence: u64) {
        self.last = sequence;
        self.condition.holds();
        if !std::mem::take(&mut self.trouble).is_empty() {
            tracing::info!("the audit log is written again");
        }
    }

    /// Logs a problem once.
    fn trouble(&mut self, sentence: &str) {
        if self.trouble == sentence {
            return;
        }
        sentence.clone_into(&mut self.trouble);
        tracing::error!(
            error = sentence,
            "the audit log cannot be written; commands are refused when no more records can be gathered"
        );
        self.condition.fails(format!("{sentence}; the audit log cannot be written"));
    }
}
