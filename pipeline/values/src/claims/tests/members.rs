//! The process: members ask for an e-mail address, are told whether it is theirs, change it and give it up.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;
use millstream_contract::{commit::EventEnvelope, testing::dice::Dice};
use millstream_domain::{
    decider::{AggregateRegistry, EventSet as _},
    process::{ProcessCommand, ProcessError},
    testing::in_memory_system::InMemorySystem,
};

use super::*;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EmailBody {
    email: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Leave {}

millstream_domain::commands! {
    enum MemberCommand {
        RequestEmail(EmailBody) = "request-email",
        ConfirmEmail(EmailBody) = "confirm-email",
        RejectEmail(EmailBody) = "reject-email",
        Leave(Leave) = "leave",
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct EmailRequested {
    email: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct EmailChanged {
    email: String,
    previous: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct EmailRejected {
    email: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Left {
    emails: Vec<String>,
}

millstream_domain::events! {
    enum MemberEvent of "member" {
        EmailRequested(EmailRequested) = "email-requested" v 1,
        EmailChanged(EmailChanged) = "email-changed" v 1,
        EmailRejected(EmailRejected) = "email-rejected" v 1,
        Left(Left) = "left" v 1,
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct MemberState {
    email: Option<String>,
    wanted: Option<String>,
}

#[derive(Debug)]
struct Member;

impl Decider for Member {
    type Command = MemberCommand;
    type Event = MemberEvent;
    type State = MemberState;

    const CONTEXT: &'static str = "gym";
    const AGGREGATE: &'static str = "member";

    fn decide(
        state: &MemberState,
        command: &MemberCommand,
        _context: &DecisionContext<'_>,
    ) -> Result<Vec<MemberEvent>, Rejection> {
        Ok(match command {
            MemberCommand::RequestEmail(EmailBody { email }) if state.email.as_ref() != Some(email) => {
                vec![MemberEvent::EmailRequested(EmailRequested { email: email.clone() })]
            }
            MemberCommand::ConfirmEmail(EmailBody { email }) if state.wanted.as_ref() == Some(email) => {
                let previous = state.email.clone();
                vec![MemberEvent::EmailChanged(EmailChanged { email: email.clone(), previous })]
            }
            MemberCommand::RejectEmail(EmailBody { email })
                if [&state.wanted, &state.email].contains(&&Some(email.clone())) =>
            {
                vec![MemberEvent::EmailRejected(EmailRejected { email: email.clone() })]
            }
            MemberCommand::Leave(_) => {
                let emails: Vec<_> = [&state.email, &state.wanted].into_iter().flatten().cloned().collect();
                if emails.is_empty() { vec![] } else { vec![MemberEvent::Left(Left { emails })] }
            }
            _ => vec![],
        })
    }

    fn evolve(state: &mut MemberState, event: &MemberEvent) {
        match event {
            MemberEvent::EmailRequested(requested) => state.wanted = Some(requested.email.clone()),
            MemberEvent::EmailChanged(changed) => {
                *state = MemberState { email: Some(changed.email.clone()), wanted: None };
            }
            MemberEvent::EmailRejected(rejected) => {
                for field in [&mut state.wanted, &mut state.email] {
                    if field.as_ref() == Some(&rejected.email) {
                        *field = None;
                    }
                }
            }
            MemberEvent::Left(_) => *state = MemberState::default(),
        }
    }
}

/// What an application writes.
#[derive(Debug)]
struct MemberEmail;

impl Claimant for MemberEmail {
    type Context = Gym;
    type Aggregate = Member;

    const PROCESS: &'static str = "member-email";
    const NAMESPACE: Namespace = Namespace::new("email").ignoring_case();

    fn needs(event: &MemberEvent) -> Vec<Need> {
        match event {
            MemberEvent::EmailRequested(requested) => vec![Need::Claim(requested.email.clone())],
            MemberEvent::EmailChanged(changed) => {
                let released = changed.previous.clone().map(Need::Release);
                [Need::Keep(changed.email.clone())].into_iter().chain(released).collect()
            }
            MemberEvent::EmailRejected(_) => vec![],
            MemberEvent::Left(left) => left.emails.iter().cloned().map(Need::Release).collect(),
        }
    }

    fn granted(id: &str, value: &str) -> Result<ProcessCommand, ProcessError> {
        ProcessCommand::to::<Member>(id, "confirm-email", &EmailBody { email: value.to_owned() })
    }

    fn refused(id: &str, value: &str) -> Result<ProcessCommand, ProcessError> {
        ProcessCommand::to::<Member>(id, "reject-email", &EmailBody { email: value.to_owned() })
    }
}

fn system() -> InMemorySystem {
    let registry = AggregateRegistry::new().with::<Member>().with::<Claim<Gym>>();
    InMemorySystem::new(registry, vec![Box::new(ClaimProcess::<MemberEmail>::default())])
}

fn wants(system: &mut InMemorySystem, member: &str, email: &str) {
    let body = serde_json::json!({ "email": email }).to_string();
    system.send(&format!("gym.member.{member}.request-email"), &body).unwrap();
}

fn envelopes(system: &InMemorySystem) -> impl Iterator<Item = EventEnvelope<'_>> {
    system.history().commits().iter().flat_map(|commit| commit.envelopes())
}

/// Which e-mail address each member has.
fn emails(system: &InMemorySystem) -> BTreeMap<String, String> {
    let mut states: BTreeMap<String, MemberState> = BTreeMap::new();
    for envelope in envelopes(system).filter(|it| it.stream_id.aggregate() == "member") {
        let event = MemberEvent::from_envelope(&envelope).unwrap();
        Member::evolve(states.entry(envelope.stream_id.id().to_owned()).or_default(), &event);
    }
    states.into_iter().filter_map(|(member, state)| Some((member, state.email?))).collect()
}

fn email_of(system: &InMemorySystem, member: &str) -> Option<String> {
    emails(system).remove(member)
}

#[test]
fn the_first_who_asks_gets_it_and_the_next_is_told() {
    let mut system = system();
    wants(&mut system, "m1", "Anna@Example.com");
    wants(&mut system, "m2", "anna@example.com");
    assert_eq!(email_of(&system, "m1").as_deref(), Some("Anna@Example.com"));
    assert_eq!(email_of(&system, "m2"), None);
    let rejected = envelopes(&system).filter(|envelope| envelope.event_type == "email-rejected").count();
    assert_eq!(rejected, 1, "the second member is told");
    assert_eq!(system.timers().count(), 0, "what is confirmed does not expire");
    assert!(system.refused().is_empty(), "{:?}", system.refused());
    system.assert_processes_repeatable();
}

#[test]
fn a_changed_address_is_free_for_others() {
    let mut system = system();
    wants(&mut system, "m1", "anna@example.com");
    wants(&mut system, "m1", "berta@example.com");
    wants(&mut system, "m2", "anna@example.com");
    assert_eq!(email_of(&system, "m1").as_deref(), Some("berta@example.com"));
    assert_eq!(email_of(&system, "m2").as_deref(), Some("anna@example.com"));
    system.send("gym.member.m2.leave", "{}").unwrap();
    wants(&mut system, "m1", "anna@example.com");
    assert_eq!(email_of(&system, "m1").as_deref(), Some("anna@example.com"));
}

#[test]
fn a_member_may_write_its_own_address_in_another_way() {
    let mut system = system();
    wants(&mut system, "m1", "anna@example.com");
    wants(&mut system, "m1", "Anna@Example.com");
    assert_eq!(email_of(&system, "m1").as_deref(), Some("Anna@Example.com"));
    wants(&mut system, "m2", "anna@example.com");
    assert_eq!(email_of(&system, "m2"), None);
}

#[test]
fn what_no_claim_can_be_made_of_is_refused_at_once() {
    let mut system = system();
    wants(&mut system, "m1", "\u{200b}");
    wants(&mut system, "m2", &"x".repeat(VALUE_LENGTH_MAX + 1));
    assert!(emails(&system).is_empty());
    assert_eq!(envelopes(&system).filter(|envelope| envelope.event_type == "email-rejected").count(), 2);
}

#[test]
fn a_hold_that_nobody_confirms_expires_by_its_timer() {
    let mut system = system();
    system.send("gym.claim.email:anna.claim", r#"{"holder":"the front desk"}"#).unwrap();
    assert_eq!(system.timers().count(), 1);
    wants(&mut system, "m1", "anna");
    assert_eq!(email_of(&system, "m1"), None);
    system.advance_to(system.now() + SignedDuration::from_hours(1));
    assert_eq!(envelopes(&system).filter(|envelope| envelope.event_type == "claim-expired").count(), 1);
    wants(&mut system, "m1", "anna");
    assert_eq!(email_of(&system, "m1").as_deref(), Some("anna"));
}

#[test]
fn a_member_that_keeps_what_another_has_is_told() {
    let mut kept_wrongly = 0;
    for seed in 0..40 {
        let mut system = system().hesitant(Dice::new(seed));
        system.send("gym.claim.email:anna.claim", r#"{"holder":"the front desk"}"#).unwrap();
        system.send("gym.claim.email:anna.confirm", r#"{"holder":"the front desk"}"#).unwrap();
        wants(&mut system, "m1", "anna");
        // The member believes what nobody has granted, as after a hold that expired before it was confirmed.
        system.send("gym.member.m1.confirm-email", r#"{"email":"anna"}"#).unwrap();
        system.settle();
        assert_eq!(email_of(&system, "m1"), None, "seed {seed}");
        kept_wrongly += envelopes(&system).filter(|it| it.event_type == "email-changed").count();
        assert!(system.process_rows("member-email").dump().is_empty(), "seed {seed}: a note is left behind");
    }
    assert!(kept_wrongly > 0, "no seed lets the member believe it");
}

/// Members ask, change and leave at random while the process lags behind, and time passes.
fn random_system(seed: u64) -> InMemorySystem {
    let mut dice = Dice::new(seed);
    let mut system = system().hesitant(Dice::new(seed ^ 0x5eed));
    for _ in 0..40 {
        let member = format!("m{}", dice.below(3));
        match dice.below(12) {
            0 => drop(system.send(&format!("gym.member.{member}.leave"), "{}")),
            1 => system.advance_to(system.now() + SignedDuration::from_mins(40)),
            _ => {
                let email = ["anna@example.com", "Anna@example.com", "berta@example.com"];
                let choice = usize::try_from(dice.below(3)).unwrap();
                wants(&mut system, &member, email[choice]);
            }
        }
    }
    system.settle();
    system
}

#[test]
fn no_address_has_two_members_however_the_process_lags_behind() {
    for seed in 0..300 {
        let mut system = random_system(seed);
        system.advance_to(system.now() + SignedDuration::from_hours(3));
        let emails = emails(&system);
        let different: BTreeSet<String> = emails.values().map(|email| email.to_lowercase()).collect();
        assert_eq!(different.len(), emails.len(), "seed {seed}: {emails:?}");
        assert_eq!(system.timers().count(), 0, "seed {seed}: a hold is never ended");
        system.assert_processes_repeatable();
        let commits = system.history().commits().len();
        system.repeat_all_effects();
        assert_eq!(system.history().commits().len(), commits, "seed {seed}: a repeat changes something");
    }
}

#[test]
fn what_nobody_has_can_be_had_however_the_process_lagged_behind() {
    for seed in 0..100 {
        let mut system = random_system(seed);
        system.advance_to(system.now() + SignedDuration::from_hours(3));
        let taken: BTreeSet<String> = emails(&system).values().map(|email| email.to_lowercase()).collect();
        for email in ["anna@example.com", "berta@example.com"] {
            if !taken.contains(email) {
                wants(&mut system, "new", email);
                system.settle();
                assert_eq!(email_of(&system, "new").as_deref(), Some(email), "seed {seed}");
            }
        }
    }
}
