//! Where rounds are cut, and what is told by a command's origin.

use jiff::Timestamp;
use millstream_contract::stored_message::Headers;
use millstream_proof::testing::account::Account;

use super::*;

fn prepared(message: StoredMessage, internal: InternalCommands) -> PreparedCommand {
    prepare(message, &AggregateRegistry::new().with::<Account>(), internal)
}

/// What becomes of a command before any rule is asked, by its code; none when it is decided.
fn refusal(subject: &str, id: &str, internal: InternalCommands) -> (Option<Arc<str>>, Option<String>) {
    let message = StoredMessage {
        subject: subject.to_owned(),
        sequence: 1,
        stored_at: Timestamp::UNIX_EPOCH,
        headers: [(header::NATS_MESSAGE_ID, id)].into_iter().collect(),
        payload: r#"{"amount":1}"#.into(),
    };
    let command = prepared(message, internal);
    assert!(command.address.starts_with("bank.account.ada."), "{}", command.address);
    let code = match command.work {
        Work::Decide(_) => None,
        Work::Refuse(rejection) => Some(rejection.code.to_owned()),
        Work::SetAside(letter) => Some(letter.code),
    };
    (command.id, code)
}

#[test]
fn what_only_processes_give_is_told_by_the_subject() {
    use InternalCommands::{Anyone, EffectsOnly};
    let (sent, effect) = ("cmdq.3.bank.account.ada.credit", "effect.bank.account.ada.credit");
    let of = |subject, internal| refusal(subject, "mine", internal).1;
    assert_eq!(of(sent, EffectsOnly).as_deref(), Some("internal-command"));
    assert_eq!(of(effect, EffectsOnly), None);
    assert_eq!(of(sent, Anyone), None);
    assert_eq!(of("cmdq.3.bank.account.ada.deposit", EffectsOnly), None);
}

#[test]
fn an_id_of_a_process_s_form_is_no_id_of_a_sender_s_command() {
    use InternalCommands::{Anyone, EffectsOnly};
    let (sent, effect) = ("cmdq.3.bank.account.ada.deposit", "effect.bank.account.ada.deposit");
    let id: Arc<str> = "teller:17.1.0".into();
    assert_eq!(refusal(sent, &id, EffectsOnly), (None, Some("command-id-reserved".to_owned())));
    assert_eq!(refusal(effect, &id, EffectsOnly), (Some(id.clone()), None));
    assert_eq!(refusal(sent, &id, Anyone), (Some(id.clone()), None));
}

/// A command to the account `ada`, with an id or without.
fn command(position: u64, id: Option<&str>, name: &str, body: &'static str) -> PreparedCommand {
    let mut headers = Headers::new();
    if let Some(id) = id {
        headers.push(header::COMMAND_ID, id);
    }
    let message = StoredMessage {
        subject: format!("cmdq.3.bank.account.ada.{name}"),
        sequence: position,
        stored_at: Timestamp::UNIX_EPOCH,
        headers,
        payload: body.into(),
    };
    prepared(message, InternalCommands::EffectsOnly)
}

fn deposit(position: u64, id: Option<&str>) -> PreparedCommand {
    command(position, id, "deposit", r#"{"amount":1}"#)
}

fn give(position: u64) -> PreparedCommand {
    command(position, None, "give", r#"{"amount":1,"to":["bob"]}"#)
}

/// The positions of each round into which these commands are cut.
fn rounds(commands: Vec<PreparedCommand>) -> Vec<Vec<u64>> {
    let positions = |round: Vec<PreparedCommand>| round.iter().map(|command| command.position).collect();
    cut_round(commands).into_iter().map(positions).collect()
}

#[test]
fn id_that_comes_again_begins_a_round() {
    let ids = [Some("a"), None, Some("b"), Some("a"), None, Some("b"), Some("b")];
    let commands = (1..).zip(ids).map(|(position, id)| deposit(position, id)).collect();
    assert_eq!(rounds(commands), [vec![1, 2, 3], vec![4, 5, 6], vec![7]]);
}

#[test]
fn command_that_changes_several_aggregates_is_a_round_of_its_own() {
    let commands = vec![deposit(1, None), give(2), deposit(3, None), deposit(4, None), give(5), give(6)];
    assert_eq!(rounds(commands), [vec![1], vec![2], vec![3, 4], vec![5], vec![6]]);
    assert_eq!(rounds(vec![give(1), deposit(2, None)]), [vec![1], vec![2]]);
}
