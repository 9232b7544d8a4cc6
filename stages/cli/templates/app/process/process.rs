//! The process `{{aggregate}}-deadline`: what is opened and not settled in time expires.
//!
//! It keeps no rows: the timer is named for the aggregate, which decides whether it still matters.

use millstream::prelude::*;

use super::{{aggregate_module}}::{Expire, {{Aggregate}}, {{Aggregate}}Event};

/// Long enough for a week with a holiday in it.
const PATIENCE_DEFAULT: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Lets {{aggregate}}s expire.
#[derive(Debug)]
pub struct {{Aggregate}}Deadline {
    patience: SignedDuration,
}

impl {{Aggregate}}Deadline {
    /// With the patience of the configuration.
    pub fn from_keys(keys: &mut dyn SettingKeys) -> Self {
        let help = "how long a {{aggregate}} waits to be settled before it expires";
        Self { patience: keys.duration("{{aggregate_module}}_patience", PATIENCE_DEFAULT, help) }
    }
}

impl AggregateProcess for {{Aggregate}}Deadline {
    type Aggregate = {{Aggregate}};
    const NAME: &'static str = "{{aggregate}}-deadline";

    fn answer(
        &self,
        event: {{Aggregate}}Event,
        envelope: &EventEnvelope<'_>,
        _rows: &mut (dyn Rows + '_),
    ) -> Result<Vec<Effect>, ProcessError> {
        let id = envelope.stream_id.id();
        let effect = match event {
            {{Aggregate}}Event::Opened(_) => Effect::SetTimer(Timer {
                name: id.to_owned(),
                at: envelope.recorded_at.saturating_add(self.patience).unwrap_or(Timestamp::MAX),
                command: ProcessCommand::to::<{{Aggregate}}>(id, "expire", &Expire {})?,
            }),
            {{Aggregate}}Event::Settled(_) | {{Aggregate}}Event::Expired(_) => Effect::CancelTimer(id.to_owned()),
        };
        Ok(vec![effect])
    }
}

#[cfg(test)]
mod tests {
    use millstream::{decider::AggregateRegistry, testing::in_memory_system::InMemorySystem};

    use super::*;

    fn system() -> InMemorySystem {
        let process = {{Aggregate}}Deadline::from_keys(&mut DefaultSettings::default());
        InMemorySystem::new(AggregateRegistry::new().with::<{{Aggregate}}>(), vec![Box::new(process)])
    }

    #[test]
    fn what_nobody_settles_expires_and_can_no_longer_be_settled() {
        let mut system = system();
        system.send("{{context}}.{{aggregate}}.A-1.open", "").unwrap();
        assert_eq!(system.timers().count(), 1);
        system.advance_to(system.now() + PATIENCE_DEFAULT + SignedDuration::from_secs(1));
        let refused = system.send("{{context}}.{{aggregate}}.A-1.settle", "").unwrap_err();
        assert_eq!(refused.code, "{{aggregate}}-expired");
        system.assert_processes_repeatable();
    }

    #[test]
    fn what_is_settled_has_no_timer_any_more() {
        let mut system = system();
        system.send("{{context}}.{{aggregate}}.A-1.open", "").unwrap();
        system.send("{{context}}.{{aggregate}}.A-1.settle", "").unwrap();
        assert_eq!(system.timers().count(), 0);
        system.repeat_all_effects();
        assert_eq!(system.history().commits().len(), 2);
    }
}
