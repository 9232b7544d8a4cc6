//! The commands of a benchmark, and putting them onto a stream as fast as the server takes them.

use std::collections::HashSet;

use bytes::Bytes;
use futures::future::try_join_all;
use millstream_contract::{header, stored_message::Headers, stream_names::COMMANDS};
use millstream_domain::application::Benchmark;
use millstream_jetstream::{
    broker::{AppendError, Broker as _, NewMessage},
    group_append::{AppendStrategy, GroupAppend},
    nats_broker::NatsBroker,
};

/// Groups under way together: while one waits for its acknowledgements, others are sent.
const LANES: usize = 4;
/// Commands in a group: as many as an atomic batch takes.
const GROUP: usize = 1000;

/// What is published: `commands` commands of the application's benchmark, spread over `aggregates` aggregates.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// What the application is measured with.
    pub(crate) benchmark: Benchmark,
    pub(crate) commands: usize,
    pub(crate) aggregates: usize,
    /// Single appends under way together at each hop of the bare loop: enough to keep the server busy, few enough that none
    /// waits too long for its answer.
    pub(crate) singles: usize,
}

impl Load {
    /// Which aggregate a command goes to: all equally often, in an order without short repeats (a multiplicative hash).
    fn aggregate(&self, number: usize) -> usize {
        let mixed = (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
        usize::try_from(mixed).unwrap_or(number) % self.aggregates
    }

    /// The command's address without the prefix.
    pub(crate) fn address(&self, number: usize) -> String {
        let Benchmark { context, aggregate, command, .. } = self.benchmark;
        format!("{context}.{aggregate}.{}.{command}", self.key(number))
    }

    /// How many different addresses the commands have.
    pub(crate) fn addresses(&self) -> u64 {
        let distinct: HashSet<_> = (0..self.commands).map(|number| self.aggregate(number)).collect();
        distinct.len() as u64
    }

    /// The aggregate's id, which is the key of its row.
    pub(crate) fn key(&self, number: usize) -> String {
        format!("bench-{}", self.aggregate(number))
    }

    /// Where the view is asked for a row.
    pub(crate) fn query(&self) -> String {
        let Benchmark { context, view, .. } = self.benchmark;
        format!("query.{context}.{view}.get")
    }

    /// The command's fields, which no other command and no other run gives, so that each command is one event.
    pub(crate) fn body(&self, run: &str, number: usize) -> Bytes {
        (self.benchmark.body)(run, number).into()
    }

    /// The id under which it is sent.
    pub(crate) fn id(run: &str, number: usize) -> String {
        format!("{run}-{number}")
    }

    pub(crate) fn message(&self, prefix: &str, run: &str, number: usize) -> NewMessage {
        let mut headers = Headers::new();
        headers.push(header::COMMAND_ID, Self::id(run, number));
        NewMessage {
            subject: format!("{prefix}.{}", self.address(number)),
            expected_last: None,
            headers,
            payload: self.body(run, number),
        }
    }

    /// Publishes all commands to COMMANDS, each group singly or as a batch, whichever is measured to be faster.
    pub(crate) async fn publish(&self, broker: &NatsBroker, run: &str) -> Result<(), AppendError> {
        let appends = &GroupAppend::new(broker.clone(), COMMANDS, AppendStrategy::Measured);
        let lanes = (0..LANES).map(|lane| async move {
            let groups = (0..self.commands).step_by(GROUP).skip(lane).step_by(LANES);
            for first in groups {
                let numbers = first..(first + GROUP).min(self.commands);
                let messages = numbers.map(|number| self.message("cmd", run, number)).collect();
                appends.append_all(messages).await.into_iter().collect::<Result<Vec<_>, _>>()?;
            }
            Ok::<_, AppendError>(())
        });
        try_join_all(lanes).await.map(|_| ())
    }

    /// Publishes the same messages to the bare loop's stream, each on its own, as many under way together.
    pub(crate) async fn publish_singly(
        &self,
        broker: &NatsBroker,
        stream: &str,
        prefix: &str,
        run: &str,
    ) -> Result<(), AppendError> {
        let group = self.singles.div_ceil(LANES);
        let lanes = (0..LANES).map(|lane| async move {
            let groups = (0..self.commands).step_by(group).skip(lane).step_by(LANES);
            for first in groups {
                let numbers = first..(first + group).min(self.commands);
                let appends = numbers.map(|number| broker.append(stream, self.message(prefix, run, number)));
                try_join_all(appends).await?;
            }
            Ok::<_, AppendError>(())
        });
        try_join_all(lanes).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use millstream_domain::application::Application as _;
    use millstream_model::Reference;

    use super::*;

    #[test]
    fn commands_spread_over_all_aggregates() {
        let benchmark = Reference::benchmark().unwrap();
        let load = Load { benchmark, commands: 1000, aggregates: 10, singles: 1 };
        let mut counts = [0; 10];
        for number in 0..load.commands {
            counts[load.aggregate(number)] += 1;
        }
        assert!(counts.iter().all(|count| (60..150).contains(count)), "{counts:?}");
    }
}
