//! How a browser identifies its user: by a cookie with the key, which this module turns into the header that the API expects. Nothing is stored
//! here, so any replica knows the user. A key that is revoked or expires also ends the session.
//!
//! Two things show that a form comes from one of these pages: what the browser says about the page that sent it, and a token made from a cookie
//! that no other page can read.

use std::sync::Arc;

use axum::{
    body::to_bytes,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Redirect, Response},
};
use ulid::Ulid;

use super::{PLACES, Pages, address, api::Refusal, layout};
use crate::{command_request, guard, key_ring::Principal, problem::Problem};

/// The cookie with the key.
const KEY_COOKIE: &str = "millstream-key";
/// The cookie from which the tokens of forms are made.
const FORM_COOKIE: &str = "millstream-form";
/// The field of a form that contains its token.
pub(super) const TOKEN_FIELD: &str = "form-token";
/// How long a browser keeps the key: a working day.
const SIGNED_IN_SECONDS: u32 = 12 * 60 * 60;
/// The longest key or token that browsers keep.
const KEY_BYTES_MAX: usize = 3_800;
/// The most fields of a form.
const FIELDS_MAX: usize = 2_000;
/// Separates the tokens of forms from everything else that is hashed.
const TOKEN_PURPOSE: &str = "millstream 2026 token of a form of the pages";
/// What a page may do: use its own style and its own script, which connects only to this gateway, and send forms to it.
const SECURITY_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; \
     frame-ancestors 'none'",
);
/// The most bytes of a problem that is shown as a page.
const PROBLEM_BYTES_MAX: usize = 64 * 1024;

/// What a form must contain to be accepted.
#[derive(Debug, Clone)]
pub(super) struct FormToken(pub(super) String);

impl FormToken {
    fn of(cookie: &str) -> Self {
        let hash = blake3::Hash::from_bytes(blake3::derive_key(TOKEN_PURPOSE, cookie.as_bytes()));
        Self(hash.to_hex().get(..32).unwrap_or_default().to_owned())
    }
}

/// Whether an address is that of a page.
pub(crate) fn is_page(path: &str) -> bool {
    let first = path.split('/').nth(1).unwrap_or_default();
    path == "/" || PLACES.contains(&first)
}

/// The middleware around all routes.
pub(crate) async fn around(State(pages): State<Arc<Pages>>, mut request: Request, next: Next) -> Response {
    if !is_page(request.uri().path()) {
        return next.run(request).await;
    }
    if comes_from_elsewhere(request.headers()) && request.method() == Method::GET {
        return with_policy(&pages, layout::go_on(&pages));
    }
    let form_cookie = cookie(request.headers(), FORM_COOKIE).map(str::to_owned);
    let is_new = form_cookie.is_none();
    let form_cookie = form_cookie.unwrap_or_else(|| format!("{}{}", Ulid::generate(), Ulid::generate()));
    let token = FormToken::of(&form_cookie);
    request.extensions_mut().insert(token.clone());
    if let Some(key) = cookie(request.headers(), KEY_COOKIE)
        && let Ok(value) = HeaderValue::try_from(format!("Bearer {key}"))
    {
        request.headers_mut().insert(header::AUTHORIZATION, value);
    }
    let asked = Asked {
        is_question: request.method().is_safe(),
        address: request.uri().path_and_query().map_or("/", |address| address.as_str()).to_owned(),
        is_secure: is_secure(&pages, request.headers()),
        token,
    };
    let response = next.run(request).await;
    let mut response = with_policy(&pages, dressed(&pages, &asked, response).await);
    if is_new {
        add_cookie(&mut response, &format!("{FORM_COOKIE}={form_cookie}"), asked.is_secure);
    }
    response
}

/// The parts of a request that are needed when its answer is ready.
struct Asked {
    is_question: bool,
    address: String,
    is_secure: bool,
    token: FormToken,
}

/// A refusal becomes a page, or leads to the sign-in page; any other answer is left as it is.
async fn dressed(pages: &Pages, asked: &Asked, response: Response) -> Response {
    let is_problem =
        response.headers().get(header::CONTENT_TYPE).is_some_and(|found| found == "application/problem+json");
    if !is_problem {
        return response;
    }
    let (parts, body) = response.into_parts();
    let Ok(body) = to_bytes(body, PROBLEM_BYTES_MAX).await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let refusal = Refusal::of_body(parts.status, &body);
    if parts.status == StatusCode::UNAUTHORIZED && asked.is_question {
        let why = if refusal.code == "key-missing" { "" } else { refusal.code.as_str() };
        let to = address::with("/sign-in", &[("next", &asked.address), ("why", why)]);
        return Redirect::to(&to).into_response();
    }
    let principal = parts.extensions.get::<Principal>().cloned();
    let mut page = layout::refused(pages, principal.as_ref(), &asked.token, &refusal);
    if let Some(after) = parts.headers.get(header::RETRY_AFTER) {
        page.headers_mut().insert(header::RETRY_AFTER, after.clone());
    }
    page
}

/// Lets a refusal further inside say who was refused.
pub(super) async fn tell_who(request: Request, next: Next) -> Response {
    let principal = request.extensions().get::<Principal>().cloned();
    let mut response = next.run(request).await;
    if let Some(principal) = principal {
        response.extensions_mut().insert(principal);
    }
    response
}

fn with_policy(pages: &Pages, mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, SECURITY_POLICY);
    // Without any referrer, a browser does not reveal which page sends a form (Fetch, "append a request `Origin` header").
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    if pages.guard.with_tls() {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, guard::WITH_TLS_ALONE);
    }
    guard::with_headers(response)
}

/// Whether a link on another site led here. The browser has then withheld the cookies, and sends them once the page requests its own address
/// again.
fn comes_from_elsewhere(headers: &HeaderMap) -> bool {
    let is = |name: &str, wanted: &[&str]| {
        headers.get(name).and_then(|value| value.to_str().ok()).is_some_and(|value| wanted.contains(&value))
    };
    is("sec-fetch-site", &["cross-site", "same-site"]) && is("sec-fetch-mode", &["navigate"])
}

/// Whether what the browser says about the sending page allows that it is one of these pages.
pub(crate) fn is_of_ours(headers: &HeaderMap) -> bool {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = headers.get("sec-fetch-site") {
        return site == "same-origin" || site == "none";
    }
    match (text(header::ORIGIN), text(header::HOST)) {
        (None, _) => !headers.contains_key(header::ORIGIN),
        (Some(origin), Some(host)) => {
            origin.split_once("://").is_some_and(|(_, of)| of.eq_ignore_ascii_case(host))
        }
        (Some(_), None) => false,
    }
}

/// Whether the browser uses TLS, with the gateway or with a proxy in front. The origin that it sends shows it.
fn is_secure(pages: &Pages, headers: &HeaderMap) -> bool {
    pages.guard.with_tls()
        || headers.get(header::ORIGIN).is_some_and(|origin| origin.as_bytes().starts_with(b"https://"))
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut all = all.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    all.find(|(found, value)| *found == name && !value.is_empty()).map(|(_, value)| value)
}

/// Gives the key to the browser, for a working day.
pub(super) fn keep_key(pages: &Pages, response: &mut Response, key: &str, headers: &HeaderMap) {
    let pair = format!("{KEY_COOKIE}={key}; Max-Age={SIGNED_IN_SECONDS}");
    add_cookie(response, &pair, is_secure(pages, headers));
}

/// Removes the key from the browser.
pub(super) fn forget_key(pages: &Pages, response: &mut Response, headers: &HeaderMap) {
    add_cookie(response, &format!("{KEY_COOKIE}=; Max-Age=0"), is_secure(pages, headers));
}

fn add_cookie(response: &mut Response, pair: &str, is_secure: bool) {
    let secure = if is_secure { "; Secure" } else { "" };
    let cookie = format!("{pair}; Path=/; HttpOnly; SameSite=Strict{secure}");
    if let Ok(value) = HeaderValue::try_from(cookie) {
        response.headers_mut().append(header::SET_COOKIE, value);
    }
}

/// Whether a token is too long for a cookie: 4,096 bytes with the cookie's name and attributes (RFC 6265, 6.1).
pub(super) fn is_too_long(key: &str) -> bool {
    key.len() > KEY_BYTES_MAX
}

/// Whether a key may be the value of a cookie.
pub(super) fn fits_a_cookie(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~+/=:".contains(&byte))
}

/// The fields of a form that was sent from one of these pages.
///
/// # Errors
/// A [`Problem`] when it is too large, too slow, or from another page.
pub(super) async fn posted(pages: &Pages, request: Request) -> Result<Vec<(String, String)>, Problem> {
    let commands = &pages.commands;
    let (parts, body) = request.into_parts();
    let not_ours = || {
        let detail = "this form was not sent from a page of this gateway, or its page was open for too long; open the page again";
        Problem::new(StatusCode::FORBIDDEN, "browser-refused", detail)
    };
    let token = parts.extensions.get::<FormToken>().ok_or_else(not_ours)?;
    if !is_of_ours(&parts.headers) {
        return Err(not_ours());
    }
    let fields = command_request::form(&parts.headers, body, &commands.limits, &commands.stop).await?;
    let fields: Vec<(String, String)> = serde_urlencoded::from_bytes(&fields)
        .map_err(|error| Problem::malformed("body-malformed", error.to_string()))?;
    if fields.len() > FIELDS_MAX {
        return Err(Problem::malformed("body-malformed", format!("a form has at most {FIELDS_MAX} fields")));
    }
    let given = fields.iter().find(|(name, _)| name == TOKEN_FIELD).map(|(_, value)| value.as_str());
    // Hashes are compared, which takes the same time whatever they are.
    let same = |given: &str| blake3::hash(given.as_bytes()) == blake3::hash(token.0.as_bytes());
    if given.is_some_and(same) { Ok(fields) } else { Err(not_ours()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let each = |(name, value): &(&'static str, &'static str)| {
            (header::HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        list.iter().map(each).collect()
    }

    #[test]
    fn a_form_of_another_page_is_told_by_its_browser() {
        for own in [
            &[("sec-fetch-site", "same-origin"), ("origin", "https://shop.example"), ("host", "inner:80")][..],
            &[("origin", "http://localhost:8080"), ("host", "localhost:8080")],
            &[("host", "localhost:8080")],
        ] {
            assert!(is_of_ours(&headers(own)), "{own:?}");
        }
        for other in [
            &[("sec-fetch-site", "cross-site"), ("host", "localhost:8080")][..],
            &[
                ("sec-fetch-site", "same-site"),
                ("origin", "http://localhost:8080"),
                ("host", "localhost:8080"),
            ],
            &[("origin", "https://evil.example"), ("host", "localhost:8080")],
            &[("origin", "null"), ("host", "localhost:8080")],
            &[("origin", "http://localhost:8080")],
        ] {
            assert!(!is_of_ours(&headers(other)), "{other:?}");
        }
    }

    #[test]
    fn cookies_are_found_among_others() {
        let found = headers(&[("cookie", "a=1; millstream-key=millstream_0ab; b=")]);
        assert_eq!(cookie(&found, KEY_COOKIE), Some("millstream_0ab"));
        assert_eq!((cookie(&found, "b"), cookie(&found, "c")), (None, None));
        assert_ne!(FormToken::of("a").0, FormToken::of("b").0);
    }

    #[test]
    fn pages_are_told_from_the_api() {
        for page in ["/", "/reports", "/reports/daily/2012-01-31/1", "/sign-in"] {
            assert!(is_page(page), "{page}");
        }
        for other in ["/v1/reports/daily", "/v1", "/x", "/reportsx", "//reports"] {
            assert!(!is_page(other), "{other}");
        }
    }
}
