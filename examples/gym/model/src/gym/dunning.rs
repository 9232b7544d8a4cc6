//! The process `dunning`: who has not paid a fee in time is suspended.
//!
//! It keeps no rows: each fee has a timer of its own, and the member decides whether it still matters.

use millstream::prelude::*;

use super::member::{FeeCharged, FeePaid, Member, MemberEvent, Suspend};

const PATIENCE_DEFAULT: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Suspends.
pub struct Dunning {
    patience: SignedDuration,
}

impl Dunning {
    /// With the patience of the configuration.
    pub fn from_keys(keys: &mut dyn SettingKeys) -> Self {
        let help = "how long a fee may be unpaid before the member is suspended";
        Self { patience: keys.duration("dunning_patience", PATIENCE_DEFAULT, help) }
    }
}

impl AggregateProcess for Dunning {
    type Aggregate = Member;
    const NAME: &'static str = "dunning";

    fn answer(
        &self,
        event: MemberEvent,
        envelope: &EventEnvelope<'_>,
        _rows: &mut (dyn Rows + '_),
    ) -> Result<Vec<Effect>, ProcessError> {
        let id = envelope.stream_id.id();
        Ok(match event {
            MemberEvent::FeeCharged(FeeCharged { month, .. }) => vec![Effect::SetTimer(Timer {
                name: format!("{id}:{month}"),
                at: envelope.recorded_at.saturating_add(self.patience).unwrap_or(Timestamp::MAX),
                command: ProcessCommand::to::<Member>(id, "suspend", &Suspend { month })?,
            })],
            MemberEvent::FeePaid(FeePaid { month, .. }) => vec![Effect::CancelTimer(format!("{id}:{month}"))],
            _ => vec![],
        })
    }
}
