//! The checks that every request passes first: limits, the identity of its sender, and the headers of every answer.
//!
//! The order is by cost: first the rate, then a place, then the key, then the body.

use std::{collections::BTreeSet, net::IpAddr, num::NonZeroU32, sync::Arc, time::Duration};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use millstream_runtime::metrics::Metrics;
use percent_encoding::percent_decode_str;
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use crate::{
    api_documents,
    audit::{Asker, Audit, called},
    client_address::TrustedProxies,
    concurrency_limit::{Place, Places},
    config::Limits,
    key_ring::{Admission, Ended, KeyRing, Principal, Stranger},
    listener::ClientAddress,
    pages,
    problem::{Code, Problem, SOON},
    rate_limit::Rates,
    tokens::Refusal,
};

/// The route in metrics for requests that no route handles, because clients can choose any path.
const NO_ROUTE: &str = "none";
/// Headers of every answer that does not set them itself: answers are data and not pages, and concern one client. `queries` sets others for
/// rows, which a client may keep and revalidate.
const ANSWER_HEADERS: [(header::HeaderName, &str); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CACHE_CONTROL, "no-store"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'; sandbox"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// For a year, a browser only uses TLS. This does not include subdomains, which may be gateways of others.
pub(crate) const WITH_TLS_ALONE: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// Lets requests in.
pub(crate) struct Guard {
    keys: KeyRing,
    places: Arc<Places>,
    rates: Rates<Arc<str>>,
    rates_of_addresses: Rates<IpAddr>,
    proxies: TrustedProxies,
    with_tls: bool,
    audit: Audit,
    metrics: Metrics,
}

impl Guard {
    pub(crate) fn new(
        keys: KeyRing,
        limits: &Limits,
        proxies: TrustedProxies,
        with_tls: bool,
        audit: Audit,
        metrics: Metrics,
    ) -> Self {
        Self {
            keys,
            places: Places::for_requests(limits),
            rates: Rates::new(limits.rate),
            rates_of_addresses: Rates::new(limits.rate_address),
            proxies,
            with_tls,
            audit,
            metrics,
        }
    }

    /// Counts `more` commands of a request, in addition to the request itself.
    ///
    /// # Errors
    /// A [`Problem`] when there are more than are allowed now, or ever at once.
    pub(crate) fn count_more(&self, principal: &Principal, more: usize) -> Result<(), Problem> {
        let Some(more) = u32::try_from(more).ok().and_then(NonZeroU32::new) else { return Ok(()) };
        if let Some(address) = principal.asker().address {
            let counted = self.rates_of_addresses.count_all(&address, more);
            counted.map_err(|wait| too_many(wait, "address"))?;
        }
        let counted = self.rates.count_all(&Arc::from(principal.name()), more);
        counted.map_err(|wait| too_many(wait, "key"))
    }

    /// The names of all users of NATS.
    pub(crate) fn users(&self) -> BTreeSet<Arc<str>> {
        self.keys.users()
    }

    /// The user of NATS with this name.
    pub(crate) fn user(&self, name: &str) -> Option<Principal> {
        self.keys.user(name)
    }

    /// Lets in a request of such a user, as long as the place is kept.
    ///
    /// # Errors
    /// A [`Problem`] when too many requests come from this user or from all users.
    pub(crate) fn let_user_in(&self, user: &Principal) -> Result<Place, Problem> {
        self.rates.count(&Arc::from(user.name())).map_err(|pause| too_fast("user", pause))?;
        self.places.take(user.name())
    }

    /// Whether the gateway itself serves TLS.
    pub(crate) fn with_tls(&self) -> bool {
        self.with_tls
    }

    /// Whether no key is required.
    pub(crate) fn is_open(&self) -> bool {
        self.keys.is_open()
    }

    /// The owner of a key or token.
    pub(crate) async fn identify(&self, token: &str) -> Result<Principal, Stranger> {
        self.keys.identify(Some(token), Timestamp::now()).await.map(|(principal, _)| principal)
    }

    async fn let_in(
        &self,
        headers: &HeaderMap,
        is_for_people: bool,
        asker: &mut Asker,
    ) -> Result<(Principal, Admission), Problem> {
        if self.keys.is_open() {
            only_programs_of_this_machine(headers, is_for_people)?;
        }
        let key = bearer(headers)?;
        let (principal, admission) = self.keys.identify(key, Timestamp::now()).await.map_err(stranger)?;
        let principal = principal.from(asker.address);
        *asker = principal.asker();
        self.rates.count(&Arc::from(principal.name())).map_err(|pause| too_fast("key", pause))?;
        Ok((principal, admission))
    }
}

/// The middleware around all routes.
pub(crate) async fn pass(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let what = called(request.method(), request.uri().path());
    let mut asker = Asker::default();
    let response = match admitted(&guard, &mut request, &mut asker).await {
        Ok((_place, admission)) => answer(request, next, admission).await,
        Err(problem) => problem.into_response(),
    };
    finished(&guard, response, (route.as_deref(), began), (&asker, &what))
}

/// The middleware around routes without anybody's data. It only limits how many requests come, and does not ask for a key.
pub(crate) async fn pass_anybody(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let what = called(request.method(), request.uri().path());
    let mut asker = Asker::default();
    let response = match counted(&guard, &request, &mut asker) {
        Ok(_place) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    finished(&guard, response, (route.as_deref(), began), (&asker, &what))
}

fn counted(guard: &Guard, request: &Request, asker: &mut Asker) -> Result<OwnedSemaphorePermit, Problem> {
    count_address(guard, request, asker)?;
    check_host(request)?;
    check_parameters(request.uri())?;
    if guard.is_open() {
        only_programs_of_this_machine(request.headers(), is_for_people(request))?;
    }
    guard.places.of_anybody()
}

/// Notes the address from which a request comes, and whether more requests may come from it.
fn count_address(guard: &Guard, request: &Request, asker: &mut Asker) -> Result<(), Problem> {
    let Some(ClientAddress(address)) = request.extensions().get() else { return Ok(()) };
    let address = guard.proxies.client(address.ip(), request.headers());
    asker.address = Some(address);
    guard.rates_of_addresses.count(&address).map_err(|pause| too_fast("address", pause))
}

fn finished(
    guard: &Guard,
    response: Response,
    (route, began): (Option<&str>, Instant),
    (asker, what): (&Asker, &str),
) -> Response {
    if let Some(Code(code)) = response.extensions().get() {
        guard.audit.refused(asker, route.unwrap_or(NO_ROUTE), what, (response.status(), &**code));
    }
    let mut response = with_headers(response);
    if guard.with_tls {
        response.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, WITH_TLS_ALONE);
    }
    let route = route.unwrap_or(NO_ROUTE);
    guard.metrics.gateway_answered(route, response.status().as_u16(), began.elapsed());
    response
}

/// The headers of every answer that does not set them itself.
pub(crate) fn with_headers(mut response: Response) -> Response {
    for (name, value) in ANSWER_HEADERS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// A request that only reads may wait long for its answer, but no longer than its key is valid. A request that changes something continues,
/// because its answer says what was stored.
async fn answer(request: Request, next: Next, mut admission: Admission) -> Response {
    let only_asks = request.method().is_safe();
    let answer = next.run(request);
    if !only_asks {
        return answer.await;
    }
    tokio::select! {
        biased;
        answer = answer => answer,
        ended = admission.ended(|_| true) => why(ended).into_response(),
    }
}

/// The place is held until the answer is there.
async fn admitted(
    guard: &Guard,
    request: &mut Request,
    asker: &mut Asker,
) -> Result<(Place, Admission), Problem> {
    count_address(guard, request, asker)?;
    let place = guard.places.of_anybody()?;
    check_host(request)?;
    check_parameters(request.uri())?;
    let is_for_people = is_for_people(request);
    let (principal, admission) = guard.let_in(request.headers(), is_for_people, asker).await?;
    let place = guard.places.given_to(principal.name(), place)?;
    request.extensions_mut().insert(principal);
    request.extensions_mut().insert(admission.clone());
    Ok((place, admission))
}

fn too_many(wait: Option<Duration>, who: &str) -> Problem {
    wait.map_or_else(
        || {
            let detail = format!("these are more commands than this {who} may send in a second");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-many-commands", detail)
        },
        |pause| too_fast(who, pause),
    )
}

fn too_fast(who: &str, pause: Duration) -> Problem {
    let detail = format!("this {who} sends more requests a second than it may; slow down");
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate-exceeded", detail).retry_after(pause.max(SOON))
}

/// A proxy in front of the gateway and the gateway itself could each use a different one of two such headers (RFC 9112, 3.2).
fn check_host(request: &Request) -> Result<(), Problem> {
    let count = request.headers().get_all(header::HOST).iter().count();
    if count == 1 || (count == 0 && request.version() < Version::HTTP_11) {
        return Ok(());
    }
    Err(Problem::malformed("header-malformed", "the header Host must be there, and once"))
}

/// Bytes that are no text would be read as another text: an answer to a question that nobody asked.
fn check_parameters(uri: &Uri) -> Result<(), Problem> {
    let query = uri.query().unwrap_or_default();
    percent_decode_str(query).decode_utf8().map(drop).map_err(|error| {
        Problem::malformed("query-malformed", format!("the parameters of the address are not UTF-8: {error}"))
    })
}

/// If no key is required, a browser must not be led here by a page of somebody else. Such a request contains the page's origin, or uses a name
/// that the page's owner has pointed at this machine.
///
/// A document without data, or a page, may be opened in a browser by typing its address or by following one of its links; and a page may send
/// its forms.
fn only_programs_of_this_machine(headers: &HeaderMap, is_for_people: bool) -> Result<(), Problem> {
    let refused = |detail: &str| Err(Problem::new(StatusCode::FORBIDDEN, "browser-refused", detail));
    let site = headers.get("sec-fetch-site");
    let opened = is_for_people && pages::is_of_ours(headers);
    if (headers.contains_key(header::ORIGIN) || site.is_some()) && !opened {
        return refused("without keys this gateway takes no requests of browsers");
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name =
        host.rsplit_once(':').map_or(host, |(name, port)| if port.ends_with(']') { host } else { name });
    if ["localhost", "127.0.0.1", "[::1]"].contains(&name) || is_loopback(name) {
        Ok(())
    } else {
        refused("without keys this gateway is called localhost or by its loopback address")
    }
}

/// Whether a request only reads the gateway's own documents, or belongs to a page.
fn is_for_people(request: &Request) -> bool {
    let path = request.uri().path();
    pages::is_page(path) || (request.method() == Method::GET && api_documents::ADDRESSES.contains(&path))
}

fn is_loopback(name: &str) -> bool {
    name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The key in `Authorization: Bearer …`, if there is one.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let malformed = || {
        let detail = "the header Authorization must be there once and read `Bearer <key>`";
        challenge(Problem::new(StatusCode::UNAUTHORIZED, "authorization-malformed", detail), "Bearer")
    };
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = all.next() else { return Ok(None) };
    let (scheme, token) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(malformed)?;
    if all.next().is_some() || !scheme.eq_ignore_ascii_case("bearer") {
        return Err(malformed());
    }
    Ok(Some(token.trim()))
}

/// Why a client that was let in has to leave.
pub(crate) fn why(ended: Ended) -> Problem {
    match ended {
        Ended::Stranger(who) => stranger(who),
        Ended::NotGranted => {
            let detail = "the key no longer grants all that is asked for";
            Problem::new(StatusCode::FORBIDDEN, "query-not-granted", detail)
        }
    }
}

pub(crate) fn stranger(stranger: Stranger) -> Problem {
    let (code, detail) = match stranger {
        Stranger::NoKey => ("key-missing", "send a key as `Authorization: Bearer <key>`"),
        Stranger::UnknownKey => ("key-unknown", "this key is unknown, or was revoked"),
        Stranger::Expired => ("key-expired", "this key's time is over; ask for a new one"),
        Stranger::Token(refusal) => return refused_token(refusal),
    };
    challenge(Problem::new(StatusCode::UNAUTHORIZED, code, detail), "Bearer")
}

fn refused_token(refusal: Refusal) -> Problem {
    let (code, detail) = match refusal {
        Refusal::Unavailable => {
            let detail = "the keys of the token's issuer could not be fetched yet; send it again";
            return Problem::unavailable("issuer-unavailable", detail);
        }
        Refusal::Expired => ("token-expired", "the token's time is over; ask its issuer for a new one"),
        Refusal::Early => ("token-early", "the token's time has not come yet"),
        Refusal::Malformed => {
            ("token-malformed", "this is no token (JWT), or exp, iss or aud are not there as they must be")
        }
        Refusal::Algorithm => {
            ("token-refused", "the token is not signed with an algorithm that its issuer may use")
        }
        Refusal::Issuer => ("token-refused", "tokens of this issuer (iss) are not taken"),
        Refusal::Audience => ("token-refused", "the token is meant for somebody else (aud)"),
        Refusal::Key => ("token-refused", "the issuer has no key that the token was signed with (kid)"),
        Refusal::Signature => ("token-refused", "the token's signature is not its issuer's"),
        Refusal::Claims => {
            ("token-refused", "the token does not say who it is about, or grants too much for one token")
        }
    };
    challenge(Problem::new(StatusCode::UNAUTHORIZED, code, detail), "Bearer error=\"invalid_token\"")
}

fn challenge(problem: Problem, challenge: &'static str) -> Problem {
    problem.header(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let headers = list
            .iter()
            .map(|(name, value)| (header::HeaderName::from_static(name), HeaderValue::from_static(value)));
        headers.collect()
    }

    #[test]
    fn without_keys_no_page_of_somebody_else_can_send() {
        for host in ["localhost", "localhost:8080", "127.0.0.1:8080", "127.0.0.9", "[::1]:8080", "[::1]"] {
            assert!(only_programs_of_this_machine(&headers(&[("host", host)]), false).is_ok(), "{host}");
        }
        for host in
            ["", "evil.example", "evil.example:8080", "10.0.0.7:8080", "localhost.evil.example", "[::2]:1"]
        {
            assert!(only_programs_of_this_machine(&headers(&[("host", host)]), false).is_err(), "{host}");
        }
        let page = [("host", "localhost"), ("origin", "https://evil.example")];
        assert!(only_programs_of_this_machine(&headers(&page), true).is_err());
        for (site, is_document, is_let_in) in [
            ("none", true, true),
            ("same-origin", true, true),
            ("cross-site", true, false),
            ("none", false, false),
        ] {
            let opened = [("host", "localhost"), ("sec-fetch-site", site)];
            let let_in = only_programs_of_this_machine(&headers(&opened), is_document).is_ok();
            assert_eq!(let_in, is_let_in, "{site} {is_document}");
        }
    }

    #[test]
    fn a_key_comes_as_bearer_and_once() {
        assert_eq!(bearer(&headers(&[])).unwrap(), None);
        assert_eq!(bearer(&headers(&[("authorization", "bearer abc")])).unwrap(), Some("abc"));
        for wrong in ["abc", "Basic abc", ""] {
            assert!(bearer(&headers(&[("authorization", wrong)])).is_err(), "{wrong}");
        }
        let mut twice = headers(&[("authorization", "Bearer a")]);
        twice.append(header::AUTHORIZATION, HeaderValue::from_static("Bearer b"));
        assert!(bearer(&twice).is_err());
    }
}
