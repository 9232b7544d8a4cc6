//! The acts that set messages of EVENTS aside: their rules, and that every released one is still read.

use std::path::Path;

use millstream_contract::set_aside::MessageSetAside;
use millstream_domain::{
    decider::AggregateRegistry,
    set_aside::{SetAside, SetAsideCommand, SetAsideEvent, SetAsides},
    testing::{given_when_then::given, golden::assert_compatible},
};

fn act(subject: &str, reason: &str) -> SetAsideEvent {
    let (subject, reason) = (subject.to_owned(), reason.to_owned());
    SetAsideEvent::MessageSetAside(MessageSetAside { subject, digest: "blake3:00".to_owned(), reason })
}

fn set_aside(subject: &str, reason: &str) -> SetAsideCommand {
    let (subject, reason) = (subject.to_owned(), reason.to_owned());
    SetAside { subject, digest: "blake3:00".to_owned(), reason }.into()
}

#[test]
fn a_message_is_set_aside_once_and_another_one_of_its_sequence_again() {
    let given_act = || given::<SetAsides>("17", [act("evt.a.b.c", "a slip")]);
    given::<SetAsides>("17", []).when(&set_aside("evt.a.b.c", " a slip ")).then([act("evt.a.b.c", "a slip")]);
    given_act().when(&set_aside("evt.a.b.c", "again")).then_nothing();
    given_act().when(&set_aside("evt.a.b.d", "restored")).then([act("evt.a.b.d", "restored")]);
}

#[test]
fn an_act_needs_a_sequence_and_a_reason() {
    for id in ["0", "017", "x", "18446744073709551616"] {
        given::<SetAsides>(id, [])
            .when(&set_aside("evt.a.b.c", "a slip"))
            .then_rejected("sequence-malformed");
    }
    for reason in [" ", &"x".repeat(1001)] {
        given::<SetAsides>("17", []).when(&set_aside("evt.a.b.c", reason)).then_rejected("reason-missing");
    }
}

#[test]
fn every_released_act_is_still_read_and_written_in_its_shape() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    assert_compatible(&AggregateRegistry::new().with::<SetAsides>(), &folder);
}
