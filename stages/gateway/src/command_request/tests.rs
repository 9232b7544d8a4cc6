//! Reading requests, without a server.

use axum::http::{HeaderName, HeaderValue};
use millstream_domain::application::Model;
use millstream_model::Reference;

use super::*;

fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
    let headers =
        list.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    headers.collect()
}

fn wishes(list: &[(&'static str, &'static str)]) -> Result<Wishes, Problem> {
    Wishes::read(&headers(list))
}

#[test]
fn preconditions_are_versions() {
    let version = |list: &[_]| wishes(list).map(|wishes| wishes.expected_version);
    assert_eq!(version(&[]).unwrap(), None);
    assert_eq!(version(&[("if-match", "\"v7\"")]).unwrap(), Some(7));
    assert_eq!(version(&[("if-none-match", "*")]).unwrap(), Some(0));
    for wrong in
        ["v7", "\"7\"", "\"v07\"", "\"v+7\"", "\"v\"", "*", "W/\"v7\"", "\"v7\", \"v8\"", "\"v-1\"", ""]
    {
        assert!(version(&[("if-match", wrong)]).is_err(), "{wrong}");
    }
    assert!(version(&[("if-none-match", "\"v7\"")]).is_err());
    assert!(version(&[("if-match", "\"v7\""), ("if-none-match", "*")]).is_err());
}

#[test]
fn waits_are_read_and_other_preferences_passed_over() {
    for (prefer, seconds) in [
        ("wait=5", Some(5)),
        ("respond-async, Wait = \"10\"; x=y", Some(10)),
        ("respond-async", None),
        ("wait=soon", None),
        ("wait", None),
    ] {
        assert_eq!(wishes(&[("prefer", prefer)]).unwrap().wait_seconds, seconds, "{prefer}");
    }
}

#[test]
fn nobody_claims_an_actor_or_misspells_a_guard() {
    for name in [
        "millstream-actor",
        "millstream-expected-version",
        "millstream-command-id",
        "millstream-reply",
        "milstream-correlation-id",
    ] {
        assert!(wishes(&[(name, "x")]).is_err(), "{name}");
    }
    let kept = wishes(&[("millstream-correlation-id", "day-7"), ("max-forwards", "3")]).unwrap().kept;
    assert_eq!(kept, [(header::CORRELATION_ID, "day-7".to_owned())]);
    let mut twice = headers(&[("idempotency-key", "a")]);
    twice.append("idempotency-key", HeaderValue::from_static("b"));
    assert!(Wishes::read(&twice).is_err());
}

#[test]
fn bodies_are_nested_as_deep_as_their_brackets() {
    for (body, expected) in [
        ("{}", 1),
        (r#"{"a":[1,[2]]}"#, 3),
        (r#"{"a":"[[[[\"]]{"}"#, 1),
        (r#"{"a":"\\"}"#, 1),
        ("[[],[],[]]", 2),
        ("]]]]", 0),
    ] {
        assert_eq!(depth(body.as_bytes()), expected, "{body}");
    }
}

#[test]
fn commands_are_checked_against_their_types() {
    let registry = Model::of::<Reference>().unwrap().aggregates();
    let check = |command: [&str; 4], body: &'static str| {
        let address = address(&command.map(str::to_owned)).unwrap();
        check(&address, &Headers::new(), &Bytes::from_static(body.as_bytes()), &registry)
    };
    let product = |command| ["retail", "product", "1001", command];
    assert!(check(product("register"), r#"{"name":"Tea","supplier":"acme"}"#).is_ok());
    for (command, body, status, code) in [
        (product("register"), r#"{"name":"Tea","supplier":"acme","colour":"red"}"#, 422, "body-malformed"),
        (product("register"), "{", 422, "body-malformed"),
        (product("explode"), "{}", 404, "command-unknown"),
        (["retail", "nothing", "1", "register"], "{}", 404, "aggregate-unknown"),
        (["retail", "till", "no-day", "close"], "{}", 422, "till-id-malformed"),
    ] {
        let problem = check(command, body).unwrap_err();
        assert!(problem.is(status, code), "{problem:?}");
    }
}
