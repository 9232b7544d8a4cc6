//! Sorts the commands of a round into repeats of known ids, commands that need no state, and the others by aggregate.

use std::{collections::HashMap, sync::Arc};

use millstream_contract::{dead_letter::DeadLetter, outcome::Outcome, subject::StreamId};
use millstream_domain::decider::AggregateType;
use millstream_runtime::file_work::do_file_work;

use crate::{
    id_index::{IdEntry, IdIndex, IdIndexError},
    round::{CommandWithPartners, Decidable, DecodedCommand, PreparedCommand, Work, rejected},
};

/// An aggregate's commands in a round, in the order of their positions.
pub(super) struct Group<'a> {
    pub(super) stream_id: StreamId,
    pub(super) aggregate: &'a Arc<dyn AggregateType>,
    pub(super) commands: Vec<Decidable<'a>>,
}

/// A round, sorted.
pub(super) struct Sorted<'a> {
    pub(super) groups: Vec<Group<'a>>,
    pub(super) with_partners: Vec<CommandWithPartners<'a>>,
    pub(super) letters: Vec<(usize, DeadLetter)>,
    pub(super) outcomes: Outcomes,
}

/// The outcomes of a round, set one by one.
pub(super) struct Outcomes {
    outcomes: Vec<Option<Outcome>>,
}

impl Outcomes {
    pub(super) fn set(&mut self, index: usize, outcome: Outcome) {
        if let Some(place) = self.outcomes.get_mut(index) {
            *place = Some(outcome);
        }
    }

    /// All outcomes, in the order of the commands.
    pub(super) fn finish(self) -> Vec<Outcome> {
        self.outcomes
            .into_iter()
            .map(|outcome| outcome.expect("every command is answered, set aside or in exactly one group"))
            .collect()
    }
}

/// The first uses of the ids of a round, by their place in it. The file is read away from the async threads, once for all of them.
pub(super) async fn first_uses(
    commands: &[PreparedCommand],
    index: &Arc<IdIndex>,
) -> Result<HashMap<usize, IdEntry>, IdIndexError> {
    let given = commands.iter().enumerate().filter_map(|(place, command)| Some((place, command.id.clone()?)));
    let (places, ids): (Vec<_>, Vec<_>) = given.unzip();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let index = index.clone();
    let found = do_file_work(move || index.first_uses(&ids)).await?;
    Ok(places.into_iter().zip(found).filter_map(|(place, entry)| Some((place, entry?))).collect())
}

/// Sorts the commands of a round in which no id comes twice ([`crate::round::cut_round`] sees to that).
pub(super) fn sort(commands: &[PreparedCommand], mut first_uses: HashMap<usize, IdEntry>) -> Sorted<'_> {
    let mut outcomes = Outcomes { outcomes: vec![None; commands.len()] };
    let mut letters = Vec::new();
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut with_partners = Vec::new();
    let mut group_of: HashMap<&StreamId, usize> = HashMap::with_capacity(commands.len());
    for (place, command) in commands.iter().enumerate() {
        if let Some(entry) = first_uses.remove(&place) {
            // Decided again after OUTCOMES was lost, a command is no repeat of itself.
            let outcome = if entry.position == command.position {
                entry.outcome
            } else {
                {
                    let other_content = match (entry.content, command.content) {
                        (Some(first), Some(now)) => first != now,
                        _ => false,
                    };
                    Outcome::Duplicate { of: entry.position, first: Box::new(entry.outcome), other_content }
                }
            };
            outcomes.set(place, outcome);
            continue;
        }
        match &command.work {
            Work::SetAside(letter) => letters.push((place, DeadLetter::clone(letter))),
            Work::Refuse(rejection) => outcomes.set(place, rejected(rejection)),
            Work::Decide(decoded) => {
                let DecodedCommand { aggregate, envelope, command, partners, .. } = &**decoded;
                let command = Decidable { index: place, envelope, command };
                if !partners.is_empty() {
                    with_partners.push(CommandWithPartners { decidable: command, aggregate, partners });
                    continue;
                }
                let stream_id = &envelope.address.stream_id;
                let slot = *group_of.entry(stream_id).or_insert_with(|| {
                    groups.push(Group { stream_id: stream_id.clone(), aggregate, commands: Vec::new() });
                    groups.len() - 1
                });
                if let Some(group) = groups.get_mut(slot) {
                    group.commands.push(command);
                }
            }
        }
    }
    Sorted { groups, with_partners, letters, outcomes }
}
