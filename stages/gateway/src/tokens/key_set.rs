//! The public keys of an issuer, from a JWK set (RFC 7517).

use jsonwebtoken::{
    DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use millstream_contract::token_issuer::TokenAlgorithm;
use serde::Deserialize;
use serde_json::Value;

/// The most keys of an issuer. Even some tens would be many.
const KEYS_MAX: usize = 256;

/// Why a text gives no keys.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeySetError {
    /// It is not a JWK set.
    #[error("it is no JWK set")]
    Form(#[source] serde_json::Error),
    /// None of its keys can be used here.
    #[error("it has no key for RS256, ES256 or EdDSA")]
    NoKeys,
    /// It has too many.
    #[error("it has more than {KEYS_MAX} keys")]
    ManyKeys,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

#[derive(Debug)]
struct Key {
    id: Option<String>,
    algorithm: TokenAlgorithm,
    key: DecodingKey,
}

/// Keys with which signatures can be checked.
#[derive(Debug)]
pub(crate) struct KeySet(Vec<Key>);

/// The result of looking for a token's key.
#[derive(Debug)]
pub(crate) enum Chosen<'a> {
    Key(&'a DecodingKey),
    /// There is such a key, but for a different algorithm.
    OfAnotherAlgorithm,
    /// There is no such key, or it is not clear which one is meant.
    Unknown,
}

impl KeySet {
    /// Reads a set. Keys that cannot be used here, such as those for encryption, are left out.
    pub(crate) fn read(text: &[u8]) -> Result<Self, KeySetError> {
        let Set { keys } = serde_json::from_slice(text).map_err(KeySetError::Form)?;
        if keys.len() > KEYS_MAX {
            return Err(KeySetError::ManyKeys);
        }
        let keys: Vec<Key> = keys.into_iter().filter_map(usable).collect();
        if keys.is_empty() { Err(KeySetError::NoKeys) } else { Ok(Self(keys)) }
    }

    /// The key with that id. Without an id, there must be exactly one candidate.
    pub(crate) fn choose(&self, id: Option<&str>, algorithm: TokenAlgorithm) -> Chosen<'_> {
        let named = |key: &&Key| id.is_none_or(|id| key.id.as_deref() == Some(id));
        let mut fitting = self.0.iter().filter(named).filter(|key| key.algorithm == algorithm);
        match (fitting.next(), fitting.next()) {
            (Some(Key { key, .. }), None) => Chosen::Key(key),
            (None, _) if id.is_some() && self.0.iter().any(|key| named(&key)) => Chosen::OfAnotherAlgorithm,
            _ => Chosen::Unknown,
        }
    }
}

fn usable(key: Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(key).ok()?;
    let (algorithm, name) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (TokenAlgorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(point) if point.curve == EllipticCurve::P256 => {
            (TokenAlgorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(point) if point.curve == EllipticCurve::Ed25519 => {
            (TokenAlgorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        _ => return None,
    };
    let common = &jwk.common;
    let for_this = common.key_algorithm.is_none_or(|found| found == name)
        && common.public_key_use.as_ref().is_none_or(|found| *found == PublicKeyUse::Signature)
        && common.key_operations.as_ref().is_none_or(|found| found.contains(&KeyOperations::Verify));
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    for_this.then(|| Key { id: common.key_id.clone(), algorithm, key })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn point(id: &str, members: &[(&str, &str)]) -> Value {
        let mut key = json!({ "kty": "EC", "crv": "P-256", "kid": id, "x": "AAAA", "y": "AAAA" });
        for (name, value) in members {
            key[name] = json!(value);
        }
        key
    }

    fn set(keys: &[Value]) -> Result<KeySet, KeySetError> {
        KeySet::read(json!({ "keys": keys }).to_string().as_bytes())
    }

    #[test]
    fn keys_that_are_of_no_use_here_are_left_out_and_a_set_without_others_is_refused() {
        let useless = [
            point("a", &[("use", "enc")]),
            point("b", &[("alg", "ES384")]),
            point("c", &[("crv", "P-384")]),
            point("d", &[("x", "!")]),
            json!({ "kty": "oct", "kid": "e", "k": "c2VjcmV0" }),
            json!({ "kty": "EC", "crv": "P-256", "kid": "f", "x": "AAAA", "y": "AAAA", "key_ops": ["sign"] }),
            json!({ "kty": "new", "kid": "g" }),
            json!("key"),
        ];
        for key in &useless {
            assert!(matches!(set(std::slice::from_ref(key)), Err(KeySetError::NoKeys)), "{key}");
        }
        let all =
            set(&[&useless[..], &[point("good", &[("use", "sig"), ("alg", "ES256")])]].concat()).unwrap();
        assert!(matches!(all.choose(Some("good"), TokenAlgorithm::ES256), Chosen::Key(_)));
        assert!(matches!(all.choose(Some("e"), TokenAlgorithm::ES256), Chosen::Unknown));
        for text in ["", "[]", "{}", "{\"keys\":{}}", "{\"keys\":[]}"] {
            assert!(KeySet::read(text.as_bytes()).is_err(), "{text}");
        }
        let many: Vec<Value> = (0..=KEYS_MAX).map(|number| point(&number.to_string(), &[])).collect();
        assert!(matches!(set(&many), Err(KeySetError::ManyKeys)));
    }

    #[test]
    fn a_token_without_the_id_of_its_key_is_taken_where_one_key_alone_can_be_meant() {
        let one = set(&[point("a", &[])]).unwrap();
        assert!(matches!(one.choose(None, TokenAlgorithm::ES256), Chosen::Key(_)));
        assert!(matches!(one.choose(None, TokenAlgorithm::RS256), Chosen::Unknown));
        assert!(matches!(one.choose(Some("a"), TokenAlgorithm::RS256), Chosen::OfAnotherAlgorithm));
        assert!(matches!(one.choose(Some("b"), TokenAlgorithm::ES256), Chosen::Unknown));
        let two = set(&[point("a", &[]), point("b", &[])]).unwrap();
        assert!(matches!(two.choose(None, TokenAlgorithm::ES256), Chosen::Unknown));
        assert!(matches!(two.choose(Some("b"), TokenAlgorithm::ES256), Chosen::Key(_)));
        let same_name = set(&[point("a", &[]), point("a", &[])]).unwrap();
        assert!(matches!(same_name.choose(Some("a"), TokenAlgorithm::ES256), Chosen::Unknown));
    }
}
