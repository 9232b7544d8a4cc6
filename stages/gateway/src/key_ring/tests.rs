//! Files that are just being written.

use millstream_contract::api_key::Token;
use millstream_runtime::health::Readiness;

use super::{follower::Follower, *};

fn entry(seed: u8) -> String {
    let hash = KeyHash::of(Token::new([seed; 32]).as_str());
    format!(
        "[[key]]\nname = \"shop\"\nhash = \"{hash}\"\nexpires = \"2099-01-01T00:00:00Z\"\ncommands = []\n\n"
    )
}

#[test]
fn a_file_that_is_just_being_written_revokes_nothing() {
    let (readiness, path) = (Readiness::new(), PathBuf::from("keys.toml"));
    let both = [entry(1), entry(2)].concat();
    let refresh = Refresh { every: Duration::MAX, pause: Duration::MAX };
    let tokens = TokenSettings { leeway: Duration::ZERO, refresh };
    let (condition, stop) = (readiness.condition("keys"), CancellationToken::new());
    let mut follower = Follower::new(path, both.clone(), tokens, condition, stop).unwrap();
    let keys = follower.subscribe();
    let known = |seed: u8| {
        let key = Credential::of(Token::new([seed; 32]).as_str());
        keys.borrow().principal(&key, Timestamp::UNIX_EPOCH).is_ok()
    };
    // Both are files of keys by themselves: one without any, and one that is cut behind its first.
    for half_written in [String::new(), entry(1)] {
        follower.look(Ok(half_written));
        assert!(known(1) && known(2), "one look is not enough");
        follower.look(Ok(both.clone()));
        assert!(known(1) && known(2));
    }
    follower.look(Ok(entry(1)));
    follower.look(Ok(String::new()));
    follower.look(Ok(entry(2)));
    assert!(known(1) && known(2), "two looks that differ are not enough");
    follower.look(Ok(entry(2)));
    assert!(!known(1) && known(2), "the first is revoked");
    for _ in 0..2 {
        follower.look(Ok("[[key]]\nname = \"half".to_owned()));
    }
    assert!(known(2) && !readiness.reasons().is_empty(), "what is no file of keys is told");
    for _ in 0..2 {
        follower.look(Ok(entry(2)));
    }
    assert!(known(2) && readiness.reasons().is_empty(), "{:?}", readiness.reasons());
    for _ in 0..2 {
        follower.look(Ok(String::new()));
    }
    assert!(!known(2), "a file that stays empty has no keys");
}
