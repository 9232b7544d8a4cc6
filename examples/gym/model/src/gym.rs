//! Memberships of a chain of gyms.

pub mod club_daily;
pub mod dunning;
pub mod member;
pub mod member_email;
pub mod member_view;

use millstream::{
    prelude::*,
    values::{
        claims::{Claim, ClaimProcess},
        day_close::{BusinessDay, DayClosing},
    },
};

use crate::Gym;

/// The context, as in subjects.
pub const CONTEXT: &str = "gym";

impl InContext for Gym {
    const CONTEXT: &'static str = CONTEXT;
}

/// What the context has.
pub fn context() -> Context {
    Context::new(CONTEXT)
        .aggregate::<member::Member>()
        .aggregate::<Claim<Gym>>()
        .aggregate::<BusinessDay<Gym>>()
        .view(member_view::MemberView)
        .report(club_daily::ClubDaily)
        .process("member-email", |_| ClaimProcess::<member_email::MemberEmail>::default())
        .process("club-days", DayClosing::<club_daily::Visits>::from_keys)
        .process("dunning", dunning::Dunning::from_keys)
}
