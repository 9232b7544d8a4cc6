//! A membership by given, when, then; and the whole model in memory, with its processes and timers.

use gym_model::{
    Gym,
    gym::member::{
        EmailConfirmed, FeeCharged, FeePaid, Frozen, Joined, Member, MemberEvent, Reinstated, Suspended,
        Visited,
    },
    gym::{club_daily::ClubDaily, member_view::MemberView},
};
use millstream::{
    prelude::*,
    report::Ledger,
    testing::{
        given_when_then::{Given, assert_every_rejection_is_provoked, given},
        in_memory_system::InMemorySystem,
        project::assert_repeatable,
    },
};

const JOIN: &str = r#"{"name":"Anna","email":"Anna@example.com","club":"north","currency":"EUR"}"#;
const FEE: &str = r#"{"month":"2012-02","amount":2990}"#;

fn joined() -> MemberEvent {
    let (name, email) = ("Anna".to_owned(), "Anna@example.com".to_owned());
    let currency = "EUR".to_owned().try_into().expect("it is a currency");
    Joined { name, email, club: "north".to_owned(), currency }.into()
}

fn charged() -> MemberEvent {
    let currency = "EUR".to_owned().try_into().expect("it is a currency");
    FeeCharged { month: "2012-02".to_owned(), amount: 2990, currency }.into()
}

fn suspended() -> MemberEvent {
    Suspended { month: "2012-02".to_owned() }.into()
}

fn member(more: impl IntoIterator<Item = MemberEvent>) -> Given<Member> {
    let confirmed = EmailConfirmed { email: "Anna@example.com".to_owned() }.into();
    given::<Member>("anna", [joined(), confirmed].into_iter().chain(more)).at("2012-01-31T12:00:00Z")
}

#[test]
fn visits_count_once_a_day() {
    let visited = Visited { club: "north".into(), date: "2012-01-31".parse().expect("it is a date") };
    member([])
        .when_typed("visit", "")
        .then([visited.into()])
        .when_typed("visit", r#"{"club":"north"}"#)
        .then_nothing()
        .when_typed("freeze", "")
        .then([Frozen {}.into()]);
}

#[test]
fn payment_of_the_last_overdue_fee_reinstates() {
    let currency = "EUR".to_owned().try_into().expect("it is a currency");
    let paid = FeePaid { month: "2012-02".to_owned(), amount: 2990, currency };
    member([])
        .when_typed("fee", FEE)
        .then([charged()])
        .when_typed("suspend", r#"{"month":"2012-02"}"#)
        .then([suspended()])
        .when_typed("pay", FEE)
        .then([paid.into(), Reinstated {}.into()])
        .when_typed("pay", FEE)
        .then_nothing()
        .when_typed("suspend", r#"{"month":"2012-02"}"#)
        .then_nothing();
}

#[test]
fn every_rejection_is_provoked() {
    let nobody = || given::<Member>("anna", []);
    let frozen = || member([Frozen {}.into()]);
    let join = |name: &str, email: &str, club: &str| {
        format!(r#"{{"name":"{name}","email":"{email}","club":"{club}","currency":"EUR"}}"#)
    };
    let (blank, long) = (join(" ", "a@b", "north"), join(&"a".repeat(501), "a@b", "north"));
    let (email, club) = (join("Anna", "anna", "north"), join("Anna", "a@b", "far away"));
    assert_every_rejection_is_provoked([
        (nobody(), "join", &*blank, "name-blank"),
        (nobody(), "join", &*long, "name-too-long"),
        (nobody(), "join", &*email, "email-malformed"),
        (nobody(), "join", &*club, "club-not-allowed"),
        (
            member([]),
            "join",
            r#"{"name":"Bea","email":"a@b","club":"north","currency":"EUR"}"#,
            "member-differs",
        ),
        (nobody(), "freeze", "", "not-a-member"),
        (nobody(), "unfreeze", "", "not-a-member"),
        (nobody(), "visit", "", "not-a-member"),
        (nobody(), "fee", FEE, "not-a-member"),
        (nobody(), "leave", "", "not-a-member"),
        (frozen(), "visit", "", "membership-frozen"),
        (frozen(), "fee", FEE, "membership-frozen"),
        (member([]), "visit", r#"{"club":"far away"}"#, "club-not-allowed"),
        (member([charged(), suspended()]), "visit", "", "membership-suspended"),
        (member([]), "fee", r#"{"month":"February","amount":1}"#, "month-malformed"),
        (member([]), "fee", r#"{"month":"2012-02","amount":-1}"#, "price-negative"),
        (member([]), "fee", r#"{"month":"2012-02","amount":9000000000000000000}"#, "amount-too-large"),
        (member([charged()]), "fee", r#"{"month":"2012-02","amount":1}"#, "fee-differs"),
        (member([charged()]), "pay", r#"{"month":"2012-02","amount":1}"#, "fee-differs"),
        (member([]), "pay", FEE, "fee-unknown"),
    ]);
}

/// The whole model, as it is without configuration.
fn system() -> InMemorySystem {
    let model = || Model::of::<Gym>().expect("the names of the model fit together");
    InMemorySystem::new(model().aggregates(), model().processes(&mut DefaultSettings::default()))
}

#[test]
fn one_address_is_one_members() {
    let mut system = system();
    system.send("gym.member.anna.join", JOIN).expect("nobody has the address");
    let other = JOIN.replace("Anna@", "anna@");
    system.send("gym.member.bea.join", &other).expect("whether it is free is found out later");
    let rows = assert_repeatable(&MemberView, system.history());
    assert_eq!(rows.json("member", "anna")["membership"], "active");
    assert_eq!(rows.json("member", "bea")["membership"], "none");
    assert_eq!(rows.json("member-by-email", "anna@example.com")["member"], "anna");
    system.send("gym.member.anna.leave", "").expect("she is a member");
    system.send("gym.member.bea.join", &other).expect("the address is free again");
    let rows = assert_repeatable(&MemberView, system.history());
    assert_eq!(rows.json("member-by-email", "anna@example.com")["member"], "bea");
    system.assert_processes_repeatable();
}

#[test]
fn who_does_not_pay_within_seven_days_is_suspended() {
    let mut system = system();
    system.send("gym.member.anna.join", JOIN).expect("nobody has the address");
    system.send("gym.member.anna.fee", FEE).expect("she is a member");
    system.advance_to(system.now() + SignedDuration::from_hours(7 * 24));
    let refused = system.send("gym.member.anna.visit", "").expect_err("she has not paid");
    assert_eq!(refused.code, "membership-suspended");
    assert_eq!(assert_repeatable(&MemberView, system.history()).json("member", "anna")["owed"], 2990);
    system.send("gym.member.anna.pay", FEE).expect("it can be paid late");
    system.send("gym.member.anna.visit", "").expect("she has paid");
    assert_eq!(system.timers().count(), 0);
}

#[test]
fn visit_after_the_close_of_the_day_restates_it() {
    let mut system = system();
    system.send("gym.member.anna.join", JOIN).expect("nobody has the address");
    for sent in ["member.anna.visit", "business-day.2012-01-31.close"] {
        system.send(&format!("gym.{sent}"), "").expect("it is allowed");
    }
    system.send("gym.member.anna.visit", r#"{"club":"south"}"#).expect("she is a member");
    let rows = assert_repeatable(&Ledger(ClubDaily), system.history());
    assert_eq!(rows.json("club-daily", "2012-01-31/north")["status"], "sealed");
    assert_eq!(rows.json("club-daily", "2012-01-31/south")["status"], "open");
}
