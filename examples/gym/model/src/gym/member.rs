//! `member.<member>`: a membership, from the wish to join to its end.

use std::collections::{BTreeMap, BTreeSet};

use millstream::{
    prelude::*,
    values::{
        money::check_price,
        reference::{check_name, check_reference},
    },
};

commands! {
    /// What can be asked.
    pub enum MemberCommand {
        /// Asks for a membership, which begins when the e-mail address is found to be free.
        Join {
            /// What people call the member.
            name: String,
            /// Only one member can have it.
            email: String,
            /// The club where the member is at home.
            club: String,
            /// The currency of the fees.
            currency: Currency,
        } = "join",
        /// The address is the member's own; from the process `member-email`.
        ConfirmEmail { email: String } = "confirm-email",
        /// Another member has the address; from the process `member-email`.
        RejectEmail { email: String } = "reject-email",
        /// Stops the membership for a while.
        Freeze {} = "freeze",
        /// Lets it go on.
        Unfreeze {} = "unfreeze",
        /// The member comes to a club. Again on the same day changes nothing.
        Visit {
            /// The home club when absent.
            #[serde(default)]
            club: Option<String>,
        } = "visit",
        /// Charges the fee of a month, once.
        Fee {
            /// As in `2012-02`.
            month: String,
            /// In minor units.
            amount: i64,
        } = "fee",
        /// The member pays the fee of a month. Again changes nothing.
        Pay { month: String, amount: i64 } = "pay",
        /// The fee of a month has been unpaid for too long; from the process `dunning`.
        Suspend { month: String } = "suspend",
        /// Ends the membership. What is owed is still owed.
        Leave {} = "leave",
    }
}

events! {
    /// What can happen.
    pub enum MemberEvent of "member" {
        Joined { name: String, email: String, club: String, currency: Currency } = "member-joined" v 1,
        EmailConfirmed { email: String } = "email-confirmed" v 1,
        EmailRejected { email: String } = "email-rejected" v 1,
        Frozen {} = "membership-frozen" v 1,
        Unfrozen {} = "membership-unfrozen" v 1,
        Visited { club: String, date: BusinessDate } = "club-visited" v 1,
        FeeCharged { month: String, amount: i64, currency: Currency } = "fee-charged" v 1,
        FeePaid { month: String, amount: i64, currency: Currency } = "fee-paid" v 1,
        Suspended { month: String } = "membership-suspended" v 1,
        Reinstated {} = "membership-reinstated" v 1,
        Left { email: String } = "member-left" v 1,
    }
}

rejections! {
    /// Why a command is refused.
    pub enum MemberRejection {
        NotAMember { id: String } = "not-a-member" on ["freeze", "unfreeze", "visit", "fee", "leave"]:
            "{id} is no member; join first, and wait until the e-mail address is confirmed",
        Differs { id: String } = "member-differs" on ["join"]: "{id} is a member with other data; use another id",
        EmailMalformed { email: String } = "email-malformed" on ["join"]: "{email:?} is no e-mail address",
        IsFrozen { id: String } = "membership-frozen" on ["visit", "fee"]: "{id}'s membership is frozen; unfreeze it first",
        IsSuspended { month: String } = "membership-suspended" on ["visit"]: "the fee of {month} is unpaid; pay it first",
        MonthMalformed { month: String } = "month-malformed" on ["fee"]: "{month:?} is no month; write it as in 2012-02",
        FeeDiffers { month: String, amount: i64 } = "fee-differs" on ["fee", "pay"]: "the fee of {month} is {amount}",
        FeeUnknown { month: String } = "fee-unknown" on ["pay"]: "no fee was charged for {month}",
    }
    also {
        ["name-blank", "name-too-long"] on ["join"],
        ["club-not-allowed"] on ["join", "visit"],
        ["price-negative", "amount-too-large"] on ["fee"],
    }
}

use MemberRejection::*;

data! {
    /// How far a membership has come.
    #[derive(Default, Copy)]
    #[serde(rename_all = "kebab-case")]
    pub enum Membership {
        /// There is none, or there is none any more.
        #[default]
        None,
        /// The e-mail address is being looked at.
        Asked,
        Active,
    }

    /// What the rules need to know.
    #[derive(Default)]
    pub struct MemberState {
        membership: Membership,
        joined: Option<Joined>,
        frozen: bool,
        last_visit: Option<Visited>,
        fees: BTreeMap<String, i64>,
        paid: BTreeSet<String>,
        /// Months for which the member is suspended.
        overdue: BTreeSet<String>,
    }
}

type Decision = Result<Vec<MemberEvent>, Rejection>;

/// The rules of `member.<member>`.
pub struct Member;

impl Decider for Member {
    type Command = MemberCommand;
    type Event = MemberEvent;
    type State = MemberState;

    const CONTEXT: &'static str = super::CONTEXT;
    const AGGREGATE: &'static str = "member";

    fn rejections() -> Vec<(&'static str, &'static str)> {
        MemberRejection::declared()
    }

    fn decide(state: &MemberState, command: &MemberCommand, context: &DecisionContext<'_>) -> Decision {
        let id = context.aggregate_id.to_owned();
        Ok(match command {
            MemberCommand::Join(join) => return decide_join(state, join, id),
            MemberCommand::ConfirmEmail(ConfirmEmail { email }) => {
                let asked = state.membership == Membership::Asked && state.has_email(email);
                event_if(asked, EmailConfirmed { email: email.clone() })
            }
            MemberCommand::RejectEmail(RejectEmail { email }) => {
                event_if(state.has_email(email), EmailRejected { email: email.clone() })
            }
            MemberCommand::Pay(pay) => return decide_pay(state, pay),
            MemberCommand::Suspend(Suspend { month }) => {
                let unpaid = state.fees.contains_key(month) && !state.paid.contains(month);
                let goes_on = state.membership == Membership::Active && !state.overdue.contains(month);
                event_if(unpaid && goes_on, Suspended { month: month.clone() })
            }
            // Everything else is for members alone.
            _ if state.membership != Membership::Active => return Err(NotAMember { id }.into()),
            MemberCommand::Freeze(_) => event_if(!state.frozen, Frozen {}),
            MemberCommand::Unfreeze(_) => event_if(state.frozen, Unfrozen {}),
            MemberCommand::Visit(_) | MemberCommand::Fee(_) if state.frozen => {
                return Err(IsFrozen { id }.into());
            }
            MemberCommand::Visit(visit) => return decide_visit(state, visit, BusinessDate::today(context)),
            MemberCommand::Fee(fee) => return decide_fee(state, fee),
            MemberCommand::Leave(_) => {
                state.joined.iter().map(|it| Left { email: it.email.clone() }.into()).collect()
            }
        })
    }

    fn evolve(state: &mut MemberState, event: &MemberEvent) {
        match event {
            MemberEvent::Joined(joined) => {
                (state.membership, state.frozen) = (Membership::Asked, false);
                state.joined = Some(joined.clone());
            }
            MemberEvent::EmailConfirmed(_) => state.membership = Membership::Active,
            MemberEvent::EmailRejected(_) | MemberEvent::Left(_) => state.membership = Membership::None,
            MemberEvent::Frozen(_) => state.frozen = true,
            MemberEvent::Unfrozen(_) => state.frozen = false,
            MemberEvent::Visited(visited) => state.last_visit = Some(visited.clone()),
            MemberEvent::FeeCharged(fee) => {
                state.fees.insert(fee.month.clone(), fee.amount);
            }
            MemberEvent::FeePaid(FeePaid { month, .. }) => {
                state.paid.insert(month.clone());
                state.overdue.remove(month);
            }
            MemberEvent::Suspended(Suspended { month }) => {
                state.overdue.insert(month.clone());
            }
            MemberEvent::Reinstated(_) => {}
        }
    }
}

impl MemberState {
    /// Whether it is the address of the membership, as it was asked for.
    fn has_email(&self, email: &str) -> bool {
        self.membership != Membership::None
            && self.joined.as_ref().is_some_and(|joined| joined.email == email)
    }
}

fn event_if(happens: bool, event: impl Into<MemberEvent>) -> Vec<MemberEvent> {
    if happens { vec![event.into()] } else { vec![] }
}

fn decide_join(state: &MemberState, join: &Join, id: String) -> Decision {
    let Join { name, email, club, currency } = join.clone();
    check_name("name", &name)?;
    check_reference("club-not-allowed", "club", &club)?;
    if !email.contains('@') {
        return Err(EmailMalformed { email }.into());
    }
    let joined = Joined { name, email, club, currency };
    if state.membership != Membership::None && state.joined.as_ref() != Some(&joined) {
        return Err(Differs { id }.into());
    }
    Ok(event_if(state.membership == Membership::None, joined))
}

fn decide_visit(state: &MemberState, visit: &Visit, date: BusinessDate) -> Decision {
    let home = state.joined.as_ref().map(|joined| &joined.club);
    let club = visit.club.as_ref().or(home).cloned().unwrap_or_default();
    check_reference("club-not-allowed", "club", &club)?;
    if let Some(month) = state.overdue.first() {
        return Err(IsSuspended { month: month.clone() }.into());
    }
    let visited = Visited { club, date };
    Ok(event_if(state.last_visit.as_ref() != Some(&visited), visited))
}

fn decide_fee(state: &MemberState, fee: &Fee) -> Decision {
    let Fee { month, amount } = fee.clone();
    if BusinessDate::parse(&format!("{month}-01")).is_err() {
        return Err(MonthMalformed { month }.into());
    }
    check_price(&month, amount)?;
    match (state.fees.get(&month), &state.joined) {
        (Some(charged), _) if *charged != amount => Err(FeeDiffers { month, amount: *charged }.into()),
        (None, Some(joined)) => Ok(vec![FeeCharged { month, amount, currency: joined.currency }.into()]),
        _ => Ok(vec![]),
    }
}

fn decide_pay(state: &MemberState, pay: &Pay) -> Decision {
    let Pay { month, amount } = pay.clone();
    match (state.fees.get(&month), &state.joined) {
        (Some(charged), _) if *charged != amount => Err(FeeDiffers { month, amount: *charged }.into()),
        (Some(_), Some(joined)) if !state.paid.contains(&month) => {
            let last = state.overdue.len() == 1 && state.overdue.contains(&month);
            let paid = FeePaid { month, amount, currency: joined.currency };
            Ok([vec![paid.into()], event_if(last, Reinstated {})].concat())
        }
        (Some(_), _) => Ok(vec![]),
        (None, _) => Err(FeeUnknown { month }.into()),
    }
}
