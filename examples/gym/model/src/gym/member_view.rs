//! View `member`, key `<member>`: what each member is now. View `member-by-email`, key `<e-mail address>` in lower case: whose it is.

use millstream::prelude::*;

use super::{
    member::{EmailConfirmed, EmailRejected, Left, Member, MemberEvent, Membership},
    member_email::EMAIL,
};

const MEMBER: &str = "member";
const BY_EMAIL: &str = "member-by-email";

data! {
    /// A row of the view `member`. Beside these fields it tells the aggregate's version and when that was recorded.
    #[derive(Default)]
    pub struct MemberRow {
        pub member: String,
        pub name: String,
        pub email: String,
        pub club: String,
        pub membership: Membership,
        pub frozen: bool,
        pub suspended: bool,
        /// The unpaid fees, in minor units.
        pub owed: i64,
        pub currency: Option<Currency>,
        pub last_visit: Option<BusinessDate>,
    }

    /// A row of the view `member-by-email`.
    pub struct EmailRow {
        pub member: String,
    }
}

/// Fills both views.
pub struct MemberView;

impl AggregateView for MemberView {
    type Aggregate = Member;
    const VIEWS: &'static [&'static str] = &[MEMBER, BY_EMAIL];

    fn fold(
        &self,
        event: MemberEvent,
        envelope: &EventEnvelope<'_>,
        rows: &mut (dyn Rows + '_),
    ) -> Result<(), ProjectionError> {
        let id = envelope.stream_id.id();
        match &event {
            MemberEvent::EmailConfirmed(EmailConfirmed { email }) => {
                rows.write(BY_EMAIL, &EMAIL.normalised(email), &EmailRow { member: id.to_owned() });
            }
            MemberEvent::EmailRejected(EmailRejected { email }) | MemberEvent::Left(Left { email }) => {
                let key = EMAIL.normalised(email);
                // The address may be another member's.
                if rows.read::<EmailRow>(BY_EMAIL, &key)?.is_some_and(|row| row.member == id) {
                    rows.delete(BY_EMAIL, &key);
                }
            }
            _ => {}
        }
        rows.update_with_version(MEMBER, id, envelope, |row| change(row, id, event))
    }
}

fn change(row: &mut MemberRow, id: &str, event: MemberEvent) {
    match event {
        MemberEvent::Joined(joined) => {
            row.member = id.to_owned();
            (row.name, row.email, row.club) = (joined.name, joined.email, joined.club);
            (row.membership, row.frozen, row.currency) = (Membership::Asked, false, Some(joined.currency));
        }
        MemberEvent::EmailConfirmed(_) => row.membership = Membership::Active,
        MemberEvent::EmailRejected(_) | MemberEvent::Left(_) => row.membership = Membership::None,
        MemberEvent::Frozen(_) => row.frozen = true,
        MemberEvent::Unfrozen(_) => row.frozen = false,
        MemberEvent::Visited(visited) => row.last_visit = Some(visited.date),
        MemberEvent::FeeCharged(fee) => row.owed += fee.amount,
        MemberEvent::FeePaid(paid) => row.owed -= paid.amount,
        MemberEvent::Suspended(_) => row.suspended = true,
        MemberEvent::Reinstated(_) => row.suspended = false,
    }
}
