//! Tokens (JWT) of issuers whom the file of keys names: whose they are, what they grant, and until when.
//!
//! A token is believed for its signature by a key of its issuer, with an algorithm that the table of the issuer names, and for its issuer,
//! audience and times. `signatures` has the algorithms, `key_set` the keys, `source` where they come from and how often. Deliberately
//! absent: `none`, algorithms with a shared secret, and keys that a token brings along or points to.

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

/// Tokens whose signature is not looked at again before they or the keys change. Each takes some hundred bytes.
const VERIFIED_MAX: NonZeroUsize = NonZeroUsize::new(4096).expect("it is not zero");

/// Why a token lets nobody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is no token, or its claims have not the form that they must have.
    Malformed,
    /// It is signed with something else than its issuer may sign with.
    Algorithm,
    /// Nobody whose tokens are taken has issued it.
    Issuer,
    /// It is meant for somebody else.
    Audience,
    /// Its issuer has no such key, as far as is known.
    Key,
    /// It was not signed with that key, or was changed.
    Signature,
    /// Its time is over.
    Expired,
    /// Its time has not come.
    Early,
    /// It does not say who it is about, or grants more than a token may.
    Claims,
    /// The keys of its issuer could not be fetched yet.
    Unavailable,
}

/// Somebody with a token.
#[derive(Debug, Clone)]
pub(crate) struct Verified {
    /// The actor.
    pub(crate) actor: Arc<str>,
    /// What it may do.
    pub(crate) grants: Arc<Grants>,
    /// From when on it is refused.
    pub(crate) expires: Timestamp,
}

/// An issuer and its keys.
#[derive(Debug)]
pub(crate) struct Issuer {
    table: TokenIssuer,
    pub(crate) source: Arc<KeySource>,
}

/// All issuers, and the tokens that were looked at.
#[derive(Debug)]
pub(crate) struct Issuers {
    all: Vec<Issuer>,
    /// How far clocks may be apart.
    leeway: Duration,
    verified: Mutex<LruCache<blake3::Hash, Verified>>,
}

impl Default for Issuers {
    fn default() -> Self {
        Self::new(Vec::new(), Duration::ZERO)
    }
}

/// What is read before it is believed: by whom the token says that it is.
#[derive(Deserialize)]
struct Claimed {
    iss: String,
}

/// Times that were looked at.
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

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// The keys of `name`, where there is an issuer that has its keys there.
    pub(crate) fn source(&self, table: &TokenIssuer) -> Option<Arc<KeySource>> {
        let same = self.all.iter().find(|issuer| issuer.source.is_of(table));
        same.map(|issuer| Arc::clone(&issuer.source))
    }

    /// The keys with which a token says that it is signed.
    pub(crate) fn source_of(&self, token: &str) -> Option<Arc<KeySource>> {
        self.claimed(token).ok().map(|issuer| Arc::clone(&issuer.source))
    }

    /// Looks at the signatures of all tokens again.
    pub(crate) fn forget(&self) {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Who has a token, at the time `now`.
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

/// Whether a text has the form of a token: three parts. A key has one.
pub(crate) fn is_token(text: &str) -> bool {
    text.bytes().filter(|byte| *byte == b'.').count() == 2
}

/// An algorithm that the library does not know is one that nobody may sign with.
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

/// A time that no calendar has is as good as none.
fn expires(seconds: f64, leeway: Duration) -> Timestamp {
    let seconds =
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX).saturating_add(leeway).as_secs();
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .unwrap_or(Timestamp::MAX)
}
