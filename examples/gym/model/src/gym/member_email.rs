//! The process `member-email`: one member for each e-mail address.

use millstream::{
    prelude::*,
    values::claims::{Claimant, Namespace, Need},
};

use super::member::{ConfirmEmail, EmailConfirmed, Joined, Left, Member, MemberEvent, RejectEmail};
use crate::Gym;

/// Upper and lower case make no difference.
pub const EMAIL: Namespace = Namespace::new("email").ignoring_case();

/// Who claims addresses.
pub struct MemberEmail;

impl Claimant for MemberEmail {
    type Context = Gym;
    type Aggregate = Member;

    const PROCESS: &'static str = "member-email";
    const NAMESPACE: Namespace = EMAIL;

    fn needs(event: &MemberEvent) -> Vec<Need> {
        match event {
            MemberEvent::Joined(Joined { email, .. }) => vec![Need::Claim(email.clone())],
            MemberEvent::EmailConfirmed(EmailConfirmed { email }) => vec![Need::Keep(email.clone())],
            MemberEvent::Left(Left { email }) => vec![Need::Release(email.clone())],
            _ => vec![],
        }
    }

    fn granted(id: &str, email: &str) -> Result<ProcessCommand, ProcessError> {
        ProcessCommand::to::<Member>(id, "confirm-email", &ConfirmEmail { email: email.to_owned() })
    }

    fn refused(id: &str, email: &str) -> Result<ProcessCommand, ProcessError> {
        ProcessCommand::to::<Member>(id, "reject-email", &RejectEmail { email: email.to_owned() })
    }
}
