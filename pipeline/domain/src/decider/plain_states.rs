//! States of aggregates of any type in memory, on which commands are decided one after the other. This is the simple model with which a
//! real handler is compared. It has no expected sequences, positions or snapshots.

use std::{collections::BTreeMap, sync::Arc};

use millstream_contract::subject::StreamId;

use super::{
    AggregateType, AnyCommand, AnyState, DecisionContext, DecisionError, EventsWithPartners, NewEvent,
};

/// All states.
#[derive(Default)]
pub struct PlainStates {
    states: BTreeMap<StreamId, (AnyState, u64)>,
}

impl PlainStates {
    /// Decides a command for the aggregate `own`, together with its partners if it has any, and evolves the states.
    pub fn decide(
        &mut self,
        aggregate: &Arc<dyn AggregateType>,
        own: &StreamId,
        partners: &[StreamId],
        command: &AnyCommand,
        context: &DecisionContext<'_>,
    ) -> Result<EventsWithPartners<NewEvent>, DecisionError> {
        let mut take =
            |stream_id: &StreamId| self.states.remove(stream_id).unwrap_or_else(|| (aggregate.initial(), 0));
        let (mut own_state, own_version) = take(own);
        let mut taken: Vec<(AnyState, u64)> = partners.iter().map(take).collect();
        let decision = if partners.is_empty() {
            let decision = aggregate.decide(&mut own_state, command, context);
            decision.map(|own| EventsWithPartners { own, partners: Vec::new() })
        } else {
            let mut states: Vec<&mut AnyState> = taken.iter_mut().map(|(state, _)| state).collect();
            aggregate.decide_with_partners(&mut own_state, &mut states, command, context)
        };
        let count = |events: Option<&Vec<NewEvent>>| events.map_or(0, Vec::len) as u64;
        let decided = decision.as_ref().ok();
        let of_own = count(decided.map(|together| &together.own));
        self.states.insert(own.clone(), (own_state, own_version + of_own));
        for (index, (stream_id, (state, version))) in partners.iter().zip(taken).enumerate() {
            let events = count(decided.and_then(|together| together.partners.get(index)));
            self.states.insert(stream_id.clone(), (state, version + events));
        }
        decision
    }

    /// How many events an aggregate has.
    pub fn version(&self, stream_id: &StreamId) -> u64 {
        self.states.get(stream_id).map_or(0, |(_, version)| *version)
    }

    /// Every state that was used.
    #[cfg(feature = "testing")]
    pub fn iter(&self) -> impl Iterator<Item = (&StreamId, &AnyState)> {
        self.states.iter().map(|(stream_id, (state, _))| (stream_id, state))
    }
}
