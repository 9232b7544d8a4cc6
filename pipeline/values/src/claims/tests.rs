//! Claims one by one, and members of a gym who each want an e-mail address for themselves.

mod members;

use millstream_domain::testing::given_when_then::{Given, assert_every_rejection_is_provoked, given};
use proptest::prelude::*;

use super::*;

#[derive(Debug)]
struct Gym;

impl InContext for Gym {
    const CONTEXT: &'static str = "gym";
}

const NOON: &str = "2012-01-31T12:00:00Z";
const ONE: &str = "2012-01-31T13:00:00Z";

fn granted(holder: &str, request: Option<&str>, expires_at: Option<&str>) -> ClaimEvent {
    ClaimEvent::Granted(ClaimGranted {
        holder: holder.to_owned(),
        request: request.map(str::to_owned),
        expires_at: expires_at.map(|time| time.parse().unwrap()),
    })
}

fn confirmed(holder: &str) -> ClaimEvent {
    ClaimEvent::Confirmed(ClaimConfirmed { holder: holder.to_owned() })
}

fn released(holder: &str) -> ClaimEvent {
    ClaimEvent::Released(ClaimReleased { holder: holder.to_owned() })
}

fn expired(holder: &str) -> ClaimEvent {
    ClaimEvent::Expired(ClaimExpired { holder: holder.to_owned() })
}

fn refused(holder: &str, request: &str, held_by: &str) -> ClaimEvent {
    ClaimEvent::Refused(ClaimRefused {
        holder: holder.to_owned(),
        request: request.to_owned(),
        held_by: held_by.to_owned(),
    })
}

fn claim(events: impl IntoIterator<Item = ClaimEvent>) -> Given<Claim<Gym>> {
    given("email:anna", events).at(NOON)
}

fn by(holder: &str) -> String {
    format!(r#"{{"holder":"{holder}"}}"#)
}

fn request(holder: &str, request: &str) -> String {
    format!(r#"{{"holder":"{holder}","request":"{request}"}}"#)
}

#[test]
fn a_value_is_claimed_confirmed_and_released() {
    claim([])
        .when_typed("claim", &by("m1"))
        .then([granted("m1", None, Some(ONE))])
        .when_typed("claim", &by("m1"))
        .then_nothing()
        .when_typed("claim", &by("m2"))
        .then_rejected("claim-taken")
        .when_typed("confirm", &by("m2"))
        .then_rejected("claim-not-held")
        .when_typed("confirm", &by("m1"))
        .then([confirmed("m1")])
        .when_typed("confirm", &by("m1"))
        .then_nothing()
        .when_typed("release", &by("m2"))
        .then_nothing()
        .when_typed("release", &by("m1"))
        .then([released("m1")])
        .when_typed("claim", &by("m2"))
        .then([granted("m2", None, Some(ONE))]);
}

#[test]
fn a_hold_that_is_not_confirmed_expires() {
    let expire = format!(r#"{{"expires_at":"{ONE}"}}"#);
    claim([granted("m1", None, Some(ONE))])
        .when_typed("expire", r#"{"expires_at":"2012-01-31T12:30:00Z"}"#)
        .then_nothing()
        .when_typed("expire", &expire)
        .then([expired("m1")])
        .when_typed("expire", &expire)
        .then_nothing();
    claim([granted("m1", None, Some(ONE)), confirmed("m1")]).when_typed("expire", &expire).then_nothing();
}

#[test]
fn a_hold_whose_time_is_over_keeps_nobody_away_even_before_its_timer_comes() {
    let late = "2012-01-31T14:00:00Z";
    claim([granted("m1", None, Some(NOON))]).when_typed("claim", &by("m2")).then([granted(
        "m2",
        None,
        Some(ONE),
    )]);
    claim([granted("m1", None, Some(NOON))])
        .at(late)
        .when_typed("confirm", &by("m1"))
        .then([confirmed("m1")]);
    claim([granted("m1", None, Some(NOON)), confirmed("m1")])
        .at(late)
        .when_typed("claim", &by("m2"))
        .then_rejected("claim-taken");
}

#[test]
fn a_request_of_a_process_is_answered_by_an_event() {
    claim([])
        .when_typed("request-claim", &request("m1", "1"))
        .then([granted("m1", Some("1"), Some(ONE))])
        .when_typed("request-claim", &request("m1", "1"))
        .then_nothing()
        .when_typed("request-claim", &request("m2", "1"))
        .then([refused("m2", "1", "m1")])
        .when_typed("request-confirmation", &by("m1"))
        .then([confirmed("m1")])
        .when_typed("request-claim", &request("m1", "2"))
        .then([granted("m1", Some("2"), None)])
        .when_typed("request-confirmation", &by("m1"))
        .then_nothing();
}

#[test]
fn a_confirmation_that_comes_late_is_refused_only_where_another_has_the_value() {
    claim([]).when_typed("request-confirmation", &by("m1")).then([confirmed("m1")]);
    claim([granted("m2", None, Some(NOON))])
        .when_typed("request-confirmation", &by("m1"))
        .then([confirmed("m1")]);
    let refused = ClaimEvent::ConfirmationRefused(ConfirmationRefused {
        holder: "m1".to_owned(),
        held_by: "m2".to_owned(),
    });
    for past in [vec![granted("m2", None, Some(ONE))], vec![confirmed("m2")]] {
        claim(past).when_typed("request-confirmation", &by("m1")).then([refused.clone()]);
    }
}

#[test]
fn the_state_says_who_has_the_value() {
    assert_eq!(claim([]).state().holder(), None);
    let held = claim([granted("m1", None, Some(ONE))]);
    assert_eq!((held.state().holder(), held.state().is_confirmed()), (Some("m1"), false));
    let kept = claim([granted("m1", None, Some(ONE)), confirmed("m1")]);
    assert_eq!((kept.state().holder(), kept.state().is_confirmed()), (Some("m1"), true));
}

#[test]
fn every_refusal_has_its_code() {
    let bodies = [
        ("claim", by("m1")),
        ("confirm", by("m1")),
        ("release", by("m1")),
        ("request-claim", request("m1", "1")),
        ("request-confirmation", by("m1")),
        ("expire", format!(r#"{{"expires_at":"{ONE}"}}"#)),
    ];
    let blank = |body: &str| body.replace("m1", "\u{200b}");
    let mut cases = Vec::new();
    for (command, body) in &bodies {
        for id in ["email", "email:", ":anna", "E-Mail:anna"] {
            cases.push((given(id, []), *command, body.clone(), "claim-id-malformed"));
        }
        if body.contains("holder") {
            cases.push((claim([]), *command, blank(body), "holder-not-allowed"));
        }
    }
    for command in ["claim", "request-claim"] {
        for seconds in [0, HOLD_SECONDS_MAX + 1] {
            let request = if command == "claim" { "" } else { r#","request":"1""# };
            let body = format!(r#"{{"holder":"m1","hold_seconds":{seconds}{request}}}"#);
            cases.push((claim([]), command, body, "hold-not-allowed"));
        }
    }
    cases.push((claim([]), "request-claim", request("m1", " "), "request-not-allowed"));
    cases.push((claim([confirmed("m2")]), "claim", by("m1"), "claim-taken"));
    cases.push((claim([]), "confirm", by("m1"), "claim-not-held"));
    let typed: Vec<String> = cases.iter().map(|(_, _, body, _)| body.clone()).collect();
    assert_every_rejection_is_provoked(
        cases
            .into_iter()
            .zip(&typed)
            .map(|((given, command, _, code), body)| (given, command, body.as_str(), code)),
    );
}

#[test]
fn texts_of_the_same_value_have_one_form() {
    const EMAIL: Namespace = Namespace::new("email").ignoring_case();
    assert_eq!(EMAIL.normalised(" Anna@Example.com"), "anna@example.com");
    assert_eq!(Namespace::new("number").normalised("N-1 "), "N-1");
}

#[test]
fn any_value_has_an_id() {
    const EMAIL: Namespace = Namespace::new("email").ignoring_case();
    const NAME: Namespace = Namespace::new("name");
    let id = |value: &str| EMAIL.claim_id(value).unwrap();
    assert_eq!(id("anna"), "email:anna");
    assert_eq!(id("anna"), id(" AN\u{200b}NA\n"));
    assert!(id("anna@example.com").starts_with("email::"));
    assert_eq!(id("Anna@Example.com"), id("anna@example.COM"));
    assert_ne!(id("anna@example.com"), id("anna@example.org"));
    assert_eq!(id("STRASSE"), id("straße"));
    assert_eq!(id("Zoe\u{308}"), id("ZO\u{cb}"), "however an accent is put together");
    assert_ne!(NAME.claim_id("Anna").unwrap(), NAME.claim_id("anna").unwrap());
    let hashed = id("a b");
    assert_ne!(id(hashed.strip_prefix("email:").unwrap()), hashed, "no value passes for a hash");
    for value in ["x".repeat(128), "ü".repeat(VALUE_LENGTH_MAX)] {
        given::<Claim<Gym>>(&id(&value), []).when_typed("claim", &by("m1")).then_accepted();
    }
    assert_eq!(EMAIL.claim_id("\u{2800}"), Err(ValueError::Blank { namespace: "email" }));
    let long = "x".repeat(VALUE_LENGTH_MAX + 1);
    assert_eq!(EMAIL.claim_id(&long), Err(ValueError::TooLong { namespace: "email" }));
    assert!(EMAIL.has(&id("anna")) && !NAME.has(&id("anna")) && !Namespace::new("e").has(&id("anna")));
}

/// Any command of one of three holders.
fn command() -> impl Strategy<Value = (&'static str, String, i64)> {
    let body = prop_oneof![
        3 => "[abc]".prop_map(|holder| ("claim", by(&holder))),
        3 => "[abc]".prop_map(|holder| ("confirm", by(&holder))),
        2 => "[abc]".prop_map(|holder| ("release", by(&holder))),
        3 => ("[abc]", "[12]").prop_map(|(holder, number)| ("request-claim", request(&holder, &number))),
        3 => "[abc]".prop_map(|holder| ("request-confirmation", by(&holder))),
    ];
    (body, 0_i64..90).prop_map(|((command, body), minutes)| (command, body, minutes))
}

proptest! {
    #[test]
    fn a_value_has_one_owner_at_any_time(commands in prop::collection::vec(command(), 1..40)) {
        let mut now: Timestamp = NOON.parse().unwrap();
        let mut given = given::<Claim<Gym>>("email:anna", []);
        for (command, body, minutes) in commands {
            now += jiff::SignedDuration::from_mins(minutes);
            let before = given.state().clone();
            let then = given.at(&now.to_string()).when_typed(command, &body);
            let Ok(events) = then.result().clone() else { return Ok(()) };
            let owner = before.is_confirmed().then(|| before.holder().unwrap().to_owned());
            given = then.then_accepted();
            if let (Some(owner), false) = (owner, events.iter().any(|event| matches!(event, ClaimEvent::Released(_)))) {
                prop_assert_eq!(given.state().holder(), Some(owner.as_str()), "{} took it from its owner", command);
                prop_assert!(given.state().is_confirmed());
            }
            // The same command at once again changes nothing of who has the value.
            let after = given.state().clone();
            given = given.at(&now.to_string()).when_typed(command, &body).then_accepted();
            prop_assert_eq!(given.state(), &after);
        }
    }

    #[test]
    fn every_text_is_claimed_under_an_allowed_id_or_refused(value in any::<String>()) {
        const NAMES: Namespace = Namespace::new("name").ignoring_case();
        if let Ok(id) = NAMES.claim_id(&value) {
            prop_assert!(millstream_contract::subject::check_id(&id).is_ok(), "{}", id);
            prop_assert!(namespace::check_claim_id(&id).is_ok(), "{}", id);
            prop_assert_eq!(NAMES.claim_id(&format!(" {value}\u{ad}")), Ok(id));
        }
    }
}
