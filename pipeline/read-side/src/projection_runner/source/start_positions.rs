//! Determines where each projection of a source begins. Its checkpoint is compared with the stream, and projections that are far behind the
//! others get the second lane.

use millstream_jetstream::{
    broker::{Broker, StreamState},
    lost_tail::LossDoubt,
};
use millstream_store::read_store::ProjectionId;

use super::{
    super::{
        RunnerError,
        checkpoint_check::{Verdict, verify},
        projection_set::Member,
        reader_lane::{ByLane, Lane},
        writer::Start,
    },
    RETRY_PAUSE, Source,
};

impl<B: Broker> Source<B> {
    /// Checks the checkpoints again until a loss that the server reports has to be believed, because a rebuild is expensive.
    pub(super) async fn judge_beyond_doubt(&self) -> Result<(StreamState, Vec<Start>), RunnerError> {
        let mut doubt = LossDoubt::default();
        loop {
            let (state, starts) = self.judge().await?;
            if !starts.iter().any(|start| start.verdict.finds_loss()) || doubt.believes() {
                return Ok((state, starts));
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// Compares each checkpoint with the stream.
    async fn judge(&self) -> Result<(StreamState, Vec<Start>), RunnerError> {
        let stream = self.config.stream;
        let state = self.patiently(|| self.broker.state(stream)).await?;
        let mut starts = Vec::new();
        for (index, member) in self.each_member() {
            let found = self.store.snapshot()?.checkpoint(&member.id)?;
            let verdict = self
                .patiently(|| verify(&self.broker, stream, &state, member.version, found.clone()))
                .await?;
            let goes_on = self.may_go_on(index).await?;
            let follower_belongs = self.follower_belongs(member, &state).await?;
            starts.push(Start { member: index, verdict, goes_on, lane: Lane::Ahead, follower_belongs });
        }
        Ok((state, starts))
    }

    /// Whether the follower's checkpoint of a projection belongs to the current stream.
    async fn follower_belongs(&self, member: &Member, state: &StreamState) -> Result<bool, RunnerError> {
        let found = self.config.follower.as_ref().and_then(|follower| follower.checkpoint(&member.id));
        let Some(found) = found else { return Ok(false) };
        let verify = || verify(&self.broker, self.config.stream, state, member.version, Some(found.clone()));
        Ok(!self.patiently(verify).await?.is_rebuild())
    }

    /// Logs how each projection begins.
    pub(super) fn announce(&self, starts: &[Start]) {
        for start in starts {
            if let Some(member) = self.set.members.get(start.member) {
                announce(self.config.stream, &member.id, &start.verdict);
            }
        }
    }

    /// Puts the projections that are far behind the foremost one into the second lane. Projections that stay halted do not count.
    pub(super) fn assign_lanes(&self, starts: &mut [Start]) -> ByLane<Vec<usize>> {
        let distance = self.config.runner.distance();
        let goes_on = |start: &Start| {
            start.goes_on || start.verdict.is_rebuild() || !self.statuses.is_halted(start.member)
        };
        let going = starts.iter().filter(|start| goes_on(start));
        let furthest = going.map(|start| start.verdict.sequence()).max().unwrap_or(0);
        let mut lanes: ByLane<Vec<usize>> = ByLane::default();
        for start in starts {
            if goes_on(start) {
                start.lane = distance.lane(start.verdict.sequence(), furthest);
            }
            lanes.of_mut(start.lane).push(start.member);
        }
        if !lanes.behind.is_empty() {
            let projections = lanes.behind.iter().filter_map(|member| self.set.members.get(*member));
            let projections: Vec<_> = projections.map(|member| member.id.as_str()).collect();
            tracing::info!(
                stream = self.config.stream,
                ?projections,
                furthest,
                "catching up beside the others"
            );
        }
        lanes
    }

    fn each_member(&self) -> impl Iterator<Item = (usize, &Member)> {
        self.members.iter().filter_map(|index| Some((*index, self.set.members.get(*index)?)))
    }
}

fn announce(stream: &str, projection: &ProjectionId, verdict: &Verdict) {
    match verdict {
        Verdict::Resume { missed: Some(missed), checkpoint } => tracing::warn!(
            %projection, stream, sequence = checkpoint.sequence, missed,
            "messages were purged before this projection had read them; its rows lack them"
        ),
        Verdict::Resume { missed: None, checkpoint } => {
            tracing::info!(%projection, stream, sequence = checkpoint.sequence, "projection resumes");
        }
        Verdict::Rebuild { reason, checkpoint } if reason.names_loss() => tracing::error!(
            %projection, stream, %reason, through = checkpoint.complete_from,
            "the server does not hold what this projection had applied; its rows are discarded and built anew from what there is"
        ),
        Verdict::Rebuild { reason, checkpoint } if checkpoint.complete_from == 0 => {
            tracing::info!(%projection, stream, %reason, "building a projection");
        }
        Verdict::Rebuild { reason, checkpoint } => tracing::warn!(
            %projection, stream, %reason, through = checkpoint.complete_from,
            "building a projection anew from the first message"
        ),
    }
}
