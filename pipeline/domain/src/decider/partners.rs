//! What the engine demands of a command that changes several aggregates: valid names of partners, and events that fit them.

use millstream_contract::subject::StreamId;

use super::{Decider, DecisionContext, EventsWithPartners, Rejection};

/// The most partners that a command may have.
pub const PARTNERS_MAX: usize = 16;

/// No aggregate can have this id.
const MALFORMED: &str = "partner-malformed";
/// The command names its own aggregate as a partner.
const ITSELF: &str = "partner-itself";
/// The command names a partner twice.
const TWICE: &str = "partner-twice";
/// The command names more than [`PARTNERS_MAX`].
const TOO_MANY: &str = "partners-too-many";

/// The codes with which the engine refuses a command because of its partners, before any rule is asked. No decider declares them. Rules can
/// be more specific: they name no partner and refuse with a code of their own.
pub const PARTNER_REJECTIONS: [&str; 4] = [MALFORMED, ITSELF, TWICE, TOO_MANY];

/// [`Decider::partners`], after a check that all of them are allowed.
pub(crate) fn partners_of<D: Decider>(id: &str, command: &D::Command) -> Result<Vec<StreamId>, Rejection> {
    let ids = D::partners(id, command);
    if ids.len() > PARTNERS_MAX {
        let count = ids.len();
        let message = format!("it changes {count} others together with {id}; at most {PARTNERS_MAX} can be");
        return Err(Rejection::new(TOO_MANY, message));
    }
    let mut partners: Vec<StreamId> = Vec::with_capacity(ids.len());
    for partner in &ids {
        let stream_id = StreamId::new(D::CONTEXT, D::AGGREGATE, partner)
            .map_err(|error| Rejection::new(MALFORMED, error.to_string()))?;
        D::check_id(partner)?;
        if partner == id {
            return Err(Rejection::new(ITSELF, format!("{id} names itself as the other one")));
        }
        if partners.contains(&stream_id) {
            return Err(Rejection::new(TWICE, format!("{partner} is named twice")));
        }
        partners.push(stream_id);
    }
    Ok(partners)
}

/// [`Decider::decide_with_partners`], with a list of events for each partner.
///
/// # Panics
/// When the rules return events that are not allowed.
pub(crate) fn decide_with_partners<D: Decider>(
    own: &D::State,
    partners: &[&D::State],
    command: &D::Command,
    context: &DecisionContext<'_>,
) -> Result<EventsWithPartners<D::Event>, Rejection> {
    let mut together = D::decide_with_partners(own, partners, command, context)?;
    assert!(together.partners.len() <= partners.len(), "events for more partners than were named");
    let own_alone = together.partners.iter().all(Vec::is_empty);
    assert!(own_alone || !together.own.is_empty(), "events for a partner and none for the aggregate itself");
    together.partners.resize_with(partners.len(), Vec::new);
    Ok(together)
}

#[cfg(test)]
mod tests;
