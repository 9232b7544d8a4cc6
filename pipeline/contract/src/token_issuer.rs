//! Issuers of tokens (JWT), by which programs and people identify themselves over HTTP, and what the claims of a token grant.
//!
//! The claims of a token and the table of its issuer decide everything that the token may do. Deliberately absent: signatures, clocks, and
//! the source of an issuer's keys.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    api_key::{
        CommandPattern, Grants, HistoryPattern, KEY_NAME_LENGTH_MAX, LetterPattern, PatternError,
        QueryPattern,
    },
    configured_query::ConfiguredQueryPattern,
    subject::{SubjectError, check_name},
};

/// The claim that says who the token is about, unless the table of the issuer names another one.
const SUBJECT: &str = "sub";
/// Claims whose text is a list of words (RFC 8693, 4.2). Some issuers use `scp` for it.
const LISTS_OF_WORDS: [&str; 2] = ["scope", "scp"];
/// The longest actor. Ids of commands begin with the actor, so it must be short.
const ACTOR_LENGTH_MAX: usize = 200;
/// The most patterns that one token may have, because each request is compared with every pattern.
const PATTERNS_MAX: usize = 1000;

/// The algorithms with which a token may be signed. Those with a shared secret are not among them, and neither is `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TokenAlgorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RS256,
    /// ECDSA with P-256 and SHA-256.
    ES256,
    /// Ed25519.
    EdDSA,
}

/// An issuer whose tokens are accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenIssuer {
    /// Millstream's name for the issuer. The actor of a command is `<who>@<name>`, so two issuers, or an issuer and a key, never share an
    /// actor.
    pub name: String,
    /// What the claim `iss` must be.
    pub issuer: String,
    /// The claim `aud` must contain one of these.
    pub audiences: Vec<String>,
    /// The algorithms with which its tokens may be signed.
    pub algorithms: Vec<TokenAlgorithm>,
    /// The address of its public keys, a JWK set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys_url: Option<String>,
    /// A file with such a set, instead of the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys_file: Option<String>,
    /// The claim that identifies the token's owner.
    #[serde(default = "subject", skip_serializing_if = "is_subject")]
    pub actor_claim: String,
    /// What its tokens grant.
    #[serde(default, rename = "grant", skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<ClaimGrant>,
}

/// What tokens with certain claims grant: patterns as those of keys, in which `{claim}` stands for a value of a claim of the token.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimGrant {
    /// The commands.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
    /// The rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub queries: Vec<String>,
    /// The histories.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub histories: Vec<String>,
    /// The configured queries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sql: Vec<String>,
    /// The dead letters, and what may be done with them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub letters: Vec<String>,
    /// Whether statements may be asked that no file has. They read all tables.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ad_hoc_sql: bool,
    /// The claims that a token must have, each with a value that it must hold (a list must contain it). If empty, the grant is for all
    /// tokens.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub when: BTreeMap<String, String>,
}

fn subject() -> String {
    SUBJECT.to_owned()
}

fn is_subject(claim: &String) -> bool {
    claim == SUBJECT
}

/// Why the table of an issuer cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenIssuerError {
    /// Its name cannot be part of an id.
    #[error(transparent)]
    Name(#[from] SubjectError),
    /// Its name is too long.
    #[error("the name has more than {KEY_NAME_LENGTH_MAX} characters")]
    NameTooLong,
    /// Something that must be there is empty.
    #[error("{field} is empty")]
    Empty {
        /// What.
        field: &'static str,
    },
    /// The keys come from no place, or from two.
    #[error("either keys_url or keys_file says where its keys are, and exactly one of them")]
    Keys,
    /// The keys would come over a connection on which anybody could change them and so let anybody in.
    #[error(
        "keys_url {url:?} is no https address; http is taken only of this machine, such as http://127.0.0.1:8081/keys"
    )]
    Url {
        /// The address.
        url: String,
    },
    /// A pattern is invalid.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A brace has no counterpart, or there is nothing between two braces.
    #[error(
        "{text:?} has a brace without its other one, or nothing between two; {{claim}} stands for the value of a claim"
    )]
    Template {
        /// What was given.
        text: String,
    },
}

/// Why the claims of a token are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClaimsError {
    /// No claim identifies the owner.
    #[error("the token does not say who it is about")]
    NoActor,
    /// The owner's name is longer than an actor may be.
    #[error("what the token says of who it is about is longer than {ACTOR_LENGTH_MAX} characters")]
    LongActor,
    /// The claims give more patterns than one token may have.
    #[error("the claims of the token grant more than {PATTERNS_MAX} patterns")]
    ManyPatterns,
}

impl TokenIssuer {
    /// Whether it can be used.
    ///
    /// # Errors
    /// [`TokenIssuerError`] for the first that is wrong.
    pub fn check(&self) -> Result<(), TokenIssuerError> {
        check_name("issuer", &self.name)?;
        if self.name.len() > KEY_NAME_LENGTH_MAX {
            return Err(TokenIssuerError::NameTooLong);
        }
        let nothing = |texts: &[String]| texts.is_empty() || texts.iter().any(String::is_empty);
        for (field, is_empty) in [
            ("issuer", self.issuer.is_empty()),
            ("audiences", nothing(&self.audiences)),
            ("algorithms", self.algorithms.is_empty()),
            ("actor_claim", self.actor_claim.is_empty()),
        ] {
            if is_empty {
                return Err(TokenIssuerError::Empty { field });
            }
        }
        match (&self.keys_url, &self.keys_file) {
            (Some(url), None) if !is_safe(url) => return Err(TokenIssuerError::Url { url: url.clone() }),
            (Some(_), None) | (None, Some(_)) => {}
            _ => return Err(TokenIssuerError::Keys),
        }
        self.grants.iter().try_for_each(ClaimGrant::check)
    }

    /// The owner of a token, as the actor of its commands. Characters that ids and addresses do not allow are written as `~` and two
    /// hexadecimal digits for each of their bytes.
    ///
    /// # Errors
    /// [`ClaimsError`] when the token does not name its owner, or the name is too long.
    pub fn actor(&self, claims: &Value) -> Result<String, ClaimsError> {
        let who = match claim(claims, &self.actor_claim) {
            Some(Value::String(text)) if !text.is_empty() => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => return Err(ClaimsError::NoActor),
        };
        let mut actor = String::new();
        for byte in who.bytes() {
            match byte {
                byte if byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte) => {
                    actor.push(char::from(byte))
                }
                byte => actor.push_str(&format!("~{byte:02X}")),
            }
        }
        actor.push('@');
        actor.push_str(&self.name);
        if actor.len() > ACTOR_LENGTH_MAX { Err(ClaimsError::LongActor) } else { Ok(actor) }
    }

    /// What a token grants.
    ///
    /// # Errors
    /// [`ClaimsError::ManyPatterns`].
    pub fn grants(&self, claims: &Value) -> Result<Grants, ClaimsError> {
        let mut grants = Grants::default();
        let mut count = 0;
        for grant in self.grants.iter().filter(|grant| grant.is_for(claims)) {
            let mut all = |templates: &[String]| -> Result<Vec<String>, ClaimsError> {
                let mut patterns = Vec::new();
                for template in templates {
                    patterns.extend(filled(template, claims)?);
                }
                count += patterns.len();
                if count > PATTERNS_MAX { Err(ClaimsError::ManyPatterns) } else { Ok(patterns) }
            };
            // If a value makes an invalid pattern, that pattern grants nothing.
            grants.add(
                all(&grant.commands)?.into_iter().filter_map(|text| CommandPattern::try_from(text).ok()),
                all(&grant.queries)?.into_iter().filter_map(|text| QueryPattern::try_from(text).ok()),
                all(&grant.histories)?.into_iter().filter_map(|text| HistoryPattern::try_from(text).ok()),
                all(&grant.sql)?.into_iter().filter_map(|text| ConfiguredQueryPattern::try_from(text).ok()),
                all(&grant.letters)?.into_iter().filter_map(|text| LetterPattern::try_from(text).ok()),
                grant.ad_hoc_sql,
            );
        }
        Ok(grants)
    }
}

impl ClaimGrant {
    fn check(&self) -> Result<(), TokenIssuerError> {
        // A sample value that is valid in every part of a pattern.
        let example = |template: &String| -> Result<String, TokenIssuerError> {
            let parts =
                parts(template).ok_or_else(|| TokenIssuerError::Template { text: template.clone() })?;
            let text = parts.iter().map(|part| match part {
                Part::Text(text) => *text,
                Part::Claim(_) => "x",
            });
            Ok(text.collect())
        };
        let commands =
            self.commands.iter().map(|text| Ok(CommandPattern::try_from(example(text)?).map(drop)?));
        let queries = self.queries.iter().map(|text| Ok(QueryPattern::try_from(example(text)?).map(drop)?));
        let histories =
            self.histories.iter().map(|text| Ok(HistoryPattern::try_from(example(text)?).map(drop)?));
        let sql = self.sql.iter().map(|text| Ok(ConfiguredQueryPattern::try_from(example(text)?).map(drop)?));
        let letters = self.letters.iter().map(|text| Ok(LetterPattern::try_from(example(text)?).map(drop)?));
        commands.chain(queries).chain(histories).chain(sql).chain(letters).collect()
    }

    fn is_for(&self, claims: &Value) -> bool {
        self.when.iter().all(|(name, wanted)| values(claims, name).iter().any(|value| value == wanted))
    }
}

/// A piece of a pattern whose claims are still to be filled in.
enum Part<'a> {
    Text(&'a str),
    Claim(&'a str),
}

fn parts(template: &str) -> Option<Vec<Part<'_>>> {
    let mut parts = Vec::new();
    let mut rest = template;
    while let Some((before, behind)) = rest.split_once('{') {
        let (claim, behind) = behind.split_once('}')?;
        if claim.is_empty() || claim.contains('{') || before.contains('}') {
            return None;
        }
        parts.extend([Part::Text(before), Part::Claim(claim)]);
        rest = behind;
    }
    if rest.contains('}') {
        return None;
    }
    parts.push(Part::Text(rest));
    Some(parts)
}

/// The patterns of a template, one for each combination of values; none if a claim is missing.
fn filled(template: &str, claims: &Value) -> Result<Vec<String>, ClaimsError> {
    let mut all = vec![String::new()];
    for part in parts(template).unwrap_or_default() {
        all = match part {
            Part::Text(text) => all.into_iter().map(|begun| begun + text).collect(),
            Part::Claim(name) => {
                let values: BTreeSet<String> =
                    values(claims, name).into_iter().filter(|value| is_plain(value)).collect();
                if all.len().saturating_mul(values.len()) > PATTERNS_MAX {
                    return Err(ClaimsError::ManyPatterns);
                }
                all.iter()
                    .flat_map(|begun| values.iter().map(move |value| format!("{begun}{value}")))
                    .collect()
            }
        };
    }
    Ok(all)
}

/// Whether a value stands for itself wherever it is filled in. `*` would grant everything, and `.` and `/` would begin another part.
fn is_plain(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-:@".contains(&byte))
}

/// The claim with exactly this name or, failing that, a claim inside others, as in `realm_access.roles`.
fn claim<'a>(claims: &'a Value, name: &str) -> Option<&'a Value> {
    claims.get(name).or_else(|| name.split('.').try_fold(claims, |within, part| within.get(part)))
}

/// The values of a claim as texts.
fn values(claims: &Value, name: &str) -> Vec<String> {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(is_so) => Some(is_so.to_string()),
        _ => None,
    };
    match claim(claims, name) {
        Some(Value::Array(values)) => values.iter().filter_map(text).collect(),
        Some(Value::String(words)) if LISTS_OF_WORDS.contains(&name) => {
            words.split_ascii_whitespace().map(str::to_owned).collect()
        }
        Some(value) => text(value).into_iter().collect(),
        None => Vec::new(),
    }
}

/// Whether what is fetched from the address really comes from the host in it.
fn is_safe(url: &str) -> bool {
    // What stands before an `@` looks like a host but is not one.
    if url.contains('@') {
        return false;
    }
    if let Some(rest) = url.strip_prefix("https://") {
        return !rest.is_empty() && !rest.starts_with('/');
    }
    let of_this_machine = |host: &str| {
        url.strip_prefix("http://")
            .and_then(|rest| rest.strip_prefix(host))
            .is_some_and(|rest| rest.starts_with([':', '/']))
    };
    ["127.0.0.1", "localhost", "[::1]"].into_iter().any(of_this_machine)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api_key::LetterAction;
    use crate::subject::{CommandAddress, StreamId};

    fn issuer(grants: Vec<ClaimGrant>) -> TokenIssuer {
        TokenIssuer {
            name: "shop".to_owned(),
            issuer: "https://login.example".to_owned(),
            audiences: vec!["millstream".to_owned()],
            algorithms: vec![TokenAlgorithm::ES256],
            keys_url: Some("https://login.example/keys".to_owned()),
            keys_file: None,
            actor_claim: subject(),
            grants,
        }
    }

    fn grant(when: &[(&str, &str)], commands: &[&str], queries: &[&str], histories: &[&str]) -> ClaimGrant {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        ClaimGrant {
            commands: texts(commands),
            queries: texts(queries),
            histories: texts(histories),
            sql: Vec::new(),
            letters: Vec::new(),
            ad_hoc_sql: false,
            when: when.iter().map(|(claim, value)| ((*claim).to_owned(), (*value).to_owned())).collect(),
        }
    }

    #[test]
    fn claims_grant_what_their_values_are_filled_into() {
        let till = ClaimGrant {
            letters: vec!["retail.till.{store}_*.read".to_owned()],
            ..grant(
                &[("role", "till")],
                &["retail.till.{store}_*.record-sale"],
                &["retail.store-daily.*/{store}"],
                &["retail.till.{store}_*"],
            )
        };
        let office = grant(&[("realm_access.roles", "office"), ("scope", "read")], &[], &["*.*.*"], &[]);
        let issuer = issuer(vec![till, office]);
        assert_eq!(issuer.check(), Ok(()));
        let may_sell = |claims: Value, store: &str| {
            let sale =
                CommandAddress::from_subject(&format!("cmd.retail.till.{store}_2026-01-02.record-sale"));
            issuer.grants(&claims).unwrap().command(&sale.unwrap())
        };
        assert!(may_sell(json!({ "role": "till", "store": "2506" }), "2506"));
        assert!(may_sell(json!({ "role": ["x", "till"], "store": [2506, "2507"] }), "2506"));
        for (claims, store) in [
            (json!({ "role": "till", "store": "2506" }), "2507"),
            (json!({ "role": "till", "store": "250" }), "2506"),
            (json!({ "role": "tills", "store": "2506" }), "2506"),
            (json!({ "store": "2506" }), "2506"),
            (json!({ "role": "till" }), "2506"),
            (json!({ "role": "till", "store": "*" }), "2506"),
            (json!({ "role": "till", "store": "2506_2026-01-02.record-sale" }), "2506"),
            (json!({ "role": "till", "store": ["", null, {}] }), "2506"),
            (json!([]), "2506"),
        ] {
            assert!(!may_sell(claims.clone(), store), "{claims}");
        }
        let own = issuer.grants(&json!({ "role": "till", "store": "2506" })).unwrap();
        assert!(own.row("retail", "store-daily", "2026-01-02/2506"));
        assert!(!own.row("retail", "store-daily", "2026-01-02/2507"));
        assert!(own.history(&StreamId::new("retail", "till", "2506_2026-01-02").unwrap()));
        let letter =
            |store: &str, action| own.letter(["retail", "till", &format!("{store}_2026-01-02")], action);
        assert!(letter("2506", LetterAction::Read) && !letter("2507", LetterAction::Read));
        assert!(!letter("2506", LetterAction::Retry));
        let reads = |claims: Value| issuer.grants(&claims).unwrap().list("orders", "order", "");
        assert!(reads(json!({ "realm_access": { "roles": ["office"] }, "scope": "write read" })));
        assert!(reads(json!({ "realm_access.roles": "office", "scope": ["read"] })));
        assert!(!reads(json!({ "realm_access": { "roles": "office at home" }, "scope": "read" })));
        assert!(!reads(json!({ "realm_access": { "roles": ["office"] }, "scope": "reader" })));
    }

    #[test]
    fn claims_that_come_to_more_than_a_thousand_patterns_let_nobody_in() {
        let pairs = issuer(vec![grant(&[], &["retail.till.{store}_{day}.*"], &[], &[])]);
        let claims = |count: usize| {
            let many: Vec<usize> = (0..count).collect();
            json!({ "store": many, "day": many })
        };
        assert!(pairs.grants(&claims(31)).is_ok());
        assert_eq!(pairs.grants(&claims(32)), Err(ClaimsError::ManyPatterns));
        let several = issuer(vec![grant(&[], &["retail.{store}.*.*", "orders.{store}.*.*"], &[], &[])]);
        assert!(several.grants(&claims(500)).is_ok());
        assert_eq!(several.grants(&claims(501)), Err(ClaimsError::ManyPatterns));
    }

    #[test]
    fn an_actor_is_of_its_issuer_and_has_no_character_that_ids_do_not_take() {
        let issuer = issuer(Vec::new());
        for (subject, actor) in [
            (json!("alice"), "alice@shop"),
            (json!("auth0|65a"), "auth0~7C65a@shop"),
            (json!("system:x/é"), "system~3Ax~2F~C3~A9@shop"),
            (json!("a@b.example"), "a@b.example@shop"),
            (json!(17), "17@shop"),
        ] {
            assert_eq!(issuer.actor(&json!({ "sub": subject })).as_deref(), Ok(actor));
        }
        for claims in [json!({}), json!({ "sub": "" }), json!({ "sub": ["alice"] }), json!("sub")] {
            assert_eq!(issuer.actor(&claims), Err(ClaimsError::NoActor), "{claims}");
        }
        assert_eq!(issuer.actor(&json!({ "sub": "a".repeat(196) })), Err(ClaimsError::LongActor));
    }

    #[test]
    fn a_table_that_would_let_strangers_in_is_refused() {
        let good = issuer(Vec::new());
        for (wrong, field) in [
            (TokenIssuer { audiences: Vec::new(), ..good.clone() }, "audiences"),
            (TokenIssuer { audiences: vec![String::new()], ..good.clone() }, "audiences"),
            (TokenIssuer { algorithms: Vec::new(), ..good.clone() }, "algorithms"),
            (TokenIssuer { issuer: String::new(), ..good.clone() }, "issuer"),
        ] {
            assert_eq!(wrong.check(), Err(TokenIssuerError::Empty { field }));
        }
        let at = |url: &str| TokenIssuer { keys_url: Some(url.to_owned()), ..good.clone() };
        for url in [
            "https://login.example/keys",
            "http://127.0.0.1:1/keys",
            "http://localhost/keys",
            "http://[::1]:8/k",
        ] {
            assert_eq!(at(url).check(), Ok(()), "{url}");
        }
        for url in [
            "http://login.example/keys",
            "http://127.0.0.1.evil.example/",
            "http://localhost@evil.example/",
            "http://localhost:1@evil.example/",
            "http://127.0.0.1:1@evil.example/",
            "https://",
            "keys",
            "file:///keys",
        ] {
            assert!(matches!(at(url).check(), Err(TokenIssuerError::Url { .. })), "{url}");
        }
        let twice = TokenIssuer { keys_file: Some("keys.json".to_owned()), ..good.clone() };
        assert_eq!(twice.check(), Err(TokenIssuerError::Keys));
        assert_eq!(TokenIssuer { keys_url: None, ..good.clone() }.check(), Err(TokenIssuerError::Keys));
        let with = |template: &str| issuer(vec![grant(&[], &[template], &[], &[])]).check();
        assert_eq!(with("retail.till.{store}_*.close"), Ok(()));
        for template in [
            "retail.till.{store_*.close",
            "retail.till.store}.close",
            "retail.till.{}.close",
            "retail.{{a}}.b.c",
        ] {
            assert!(matches!(with(template), Err(TokenIssuerError::Template { .. })), "{template}");
        }
        assert!(matches!(with("retail.till.{store}"), Err(TokenIssuerError::Pattern(_))));
        let algorithm = |text: &str| serde_json::from_value::<TokenAlgorithm>(json!(text));
        assert_eq!(algorithm("EdDSA").unwrap(), TokenAlgorithm::EdDSA);
        for text in ["none", "HS256", "RS1", "PS256"] {
            assert!(algorithm(text).is_err(), "{text}");
        }
    }
}
