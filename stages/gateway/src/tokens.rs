//! Tokens (JWT) of the issuers in the file of keys: whose they are, what they grant, and until when.
//!
//! A token is accepted if a key of its issuer has signed it with an algorithm that the issuer's table names, and if its issuer, audience and
//! times are right. `signatures` has the algorithms, `key_set` the keys, and `source` fetches the keys. Deliberately absent: `none`, algorithms
//! with a shared secret, and keys that a token contains or points to.

pub(crate) mod key_set;
mod signatures;
pub(crate) mod source;

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use jsonwebtoken::{Algorithm, Validation, dangerous, decode, decode_header, errors::ErrorKind};
use lru::LruCache;
use millstream_contract::{
    api_key::Grants,
    token_issuer::{TokenAlgorithm, TokenIssuer},
};
use serde::Deserialize;
use serde_json::Value;

use self::{key_set::Chosen, source::KeySource};

/// The number of tokens whose signature is not checked again until they or the keys change. Each takes some hundred bytes.
const VERIFIED_MAX: NonZeroUsize = NonZeroUsize::new(4096).expect("it is not zero");

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is not a token, or its claims do not have the required form.
    Malformed,
    /// It is signed with an algorithm that its issuer may not use.
    Algorithm,
    /// Its issuer is not one whose tokens are accepted.
    Issuer,
    /// It is meant for a different audience.
    Audience,
    /// As far as is known, its issuer has no such key.
    Key,
    /// It was not signed with that key, or was altered.
    Signature,
    /// It has expired.
    Expired,
    /// It is not valid yet.
    Early,
    /// It does not name its owner, or grants more than a token may.
    Claims,
    /// The keys of its issuer could not be fetched yet.
    Unavailable,
}

/// The owner of a token.
#[derive(Debug, Clone)]
pub(crate) struct Verified {
    /// The actor.
    pub(crate) actor: Arc<str>,
    /// What it may do.
    pub(crate) grants: Arc<Grants>,
    /// From when on the token is refused.
    pub(crate) expires: Timestamp,
}

/// An issuer and its keys.
#[derive(Debug)]
pub(crate) struct Issuer {
    table: TokenIssuer,
    pub(crate) source: Arc<KeySource>,
}

/// All issuers, and the tokens that were checked.
#[derive(Debug)]
pub(crate) struct Issuers {
    all: Vec<Issuer>,
    /// How far clocks may differ.
    leeway: Duration,
    verified: Mutex<LruCache<blake3::Hash, Verified>>,
}

impl Default for Issuers {
    fn default() -> Self {
        Self::new(Vec::new(), Duration::ZERO)
    }
}

/// The part that is read before the token is trusted: the issuer that it claims.
#[derive(Deserialize)]
struct Claimed {
    iss: String,
}

/// The times in a token, after a check.
#[derive(Deserialize)]
struct Times {
    exp: f64,
}

impl Issuer {
    pub(crate) fn new(table: TokenIssuer, source: Arc<KeySource>) -> Self {
        Self { table, source }
    }
}

impl Issuers {
    pub(crate) fn new(all: Vec<Issuer>, leeway: Duration) -> Self {
        if !all.is_empty() {
            signatures::install();
        }
        Self { all, leeway, verified: Mutex::new(LruCache::new(VERIFIED_MAX)) }
    }

    /// The number of issuers.
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// The keys of `name`, if there is an issuer whose keys come from that place.
    pub(crate) fn source(&self, table: &TokenIssuer) -> Option<Arc<KeySource>> {
        let same = self.all.iter().find(|issuer| issuer.source.is_of(table));
        same.map(|issuer| Arc::clone(&issuer.source))
    }

    /// The keys with which a token may be signed, according to its header.
    pub(crate) fn source_of(&self, token: &str) -> Option<Arc<KeySource>> {
        self.claimed(token).ok().map(|issuer| Arc::clone(&issuer.source))
    }

    /// Makes the signatures of all tokens be checked again.
    pub(crate) fn forget(&self) {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The owner of a token at the time `now`.
    pub(crate) fn verify(&self, token: &str, now: Timestamp) -> Result<Verified, Refusal> {
        let hash = blake3::hash(token.as_bytes());
        let known = self.verified.lock().unwrap_or_else(PoisonError::into_inner).get(&hash).cloned();
        let verified = match known {
            Some(verified) => verified,
            None => {
                let verified = self.look(token)?;
                let mut all = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
                all.put(hash, verified.clone());
                verified
            }
        };
        if now < verified.expires { Ok(verified) } else { Err(Refusal::Expired) }
    }

    fn claimed(&self, token: &str) -> Result<&Issuer, Refusal> {
        let Claimed { iss } = dangerous::insecure_decode_claims(token).map_err(|_| Refusal::Malformed)?;
        self.all.iter().find(|issuer| issuer.table.issuer == iss).ok_or(Refusal::Issuer)
    }

    fn look(&self, token: &str) -> Result<Verified, Refusal> {
        let header = decode_header(token).map_err(|_| refused_header(token))?;
        let issuer = self.claimed(token)?;
        let algorithm = of_header(header.alg).filter(|algorithm| issuer.table.algorithms.contains(algorithm));
        let algorithm = algorithm.ok_or(Refusal::Algorithm)?;
        let keys = issuer.source.keys().ok_or(Refusal::Unavailable)?;
        let key = match keys.choose(header.kid.as_deref(), algorithm) {
            Chosen::Key(key) => key,
            Chosen::OfAnotherAlgorithm => return Err(Refusal::Algorithm),
            Chosen::Unknown => return Err(Refusal::Key),
        };
        let mut validation = Validation::new(header.alg);
        validation.leeway = self.leeway.as_secs();
        validation.validate_nbf = true;
        validation.set_issuer(&[&issuer.table.issuer]);
        validation.set_audience(&issuer.table.audiences);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        let claims = decode::<Value>(token, key, &validation).map_err(|error| refusal(error.kind()))?.claims;
        let times = Times::deserialize(&claims).map_err(|_| Refusal::Malformed)?;
        let actor = issuer.table.actor(&claims).map_err(|_| Refusal::Claims)?;
        let grants = issuer.table.grants(&claims).map_err(|_| Refusal::Claims)?;
        Ok(Verified {
            actor: actor.into(),
            grants: Arc::new(grants),
            expires: expires(times.exp, self.leeway),
        })
    }
}

/// Whether a text has the form of a token, three parts. A key has one part.
pub(crate) fn is_token(text: &str) -> bool {
    text.bytes().filter(|byte| *byte == b'.').count() == 2
}

/// Nobody may sign with an algorithm that the library does not know.
fn refused_header(token: &str) -> Refusal {
    use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
    let header = token.split('.').next().and_then(|header| BASE64_URL_SAFE_NO_PAD.decode(header).ok());
    let header: Option<Value> = header.and_then(|header| serde_json::from_slice(&header).ok());
    let algorithm = header.as_ref().and_then(|header| header.get("alg")).and_then(Value::as_str);
    if algorithm.is_some() { Refusal::Algorithm } else { Refusal::Malformed }
}

fn of_header(algorithm: Algorithm) -> Option<TokenAlgorithm> {
    match algorithm {
        Algorithm::RS256 => Some(TokenAlgorithm::RS256),
        Algorithm::ES256 => Some(TokenAlgorithm::ES256),
        Algorithm::EdDSA => Some(TokenAlgorithm::EdDSA),
        _ => None,
    }
}

fn refusal(error: &ErrorKind) -> Refusal {
    match error {
        ErrorKind::InvalidSignature => Refusal::Signature,
        ErrorKind::ExpiredSignature => Refusal::Expired,
        ErrorKind::ImmatureSignature => Refusal::Early,
        ErrorKind::InvalidIssuer => Refusal::Issuer,
        ErrorKind::InvalidAudience => Refusal::Audience,
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidKeyFormat => Refusal::Algorithm,
        _ => Refusal::Malformed,
    }
}

/// A time outside the calendar counts as absent.
fn expires(seconds: f64, leeway: Duration) -> Timestamp {
    let seconds =
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX).saturating_add(leeway).as_secs();
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .unwrap_or(Timestamp::MAX)
}
