//! `GET /sign-in`, `POST /sign-in` and `POST /sign-out`: exchanges a key for a cookie, and removes the cookie.

use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Redirect, Response},
};

use super::{
    Pages,
    layout::{Frame, page},
    session::{self, FormToken},
};
use crate::{
    guard::stranger,
    problem::{Code, Problem},
};

#[derive(Template)]
#[template(path = "pages/sign_in.html")]
struct SignIn<'a> {
    frame: Frame<'a>,
    next: &'a str,
    why: &'a str,
    is_wrong: bool,
}

/// The form.
pub(super) async fn get(State(pages): State<Arc<Pages>>, request: Request) -> Result<Response, Problem> {
    if pages.guard.is_open() {
        return Ok(Redirect::to("/").into_response());
    }
    let query: Vec<(String, String)> =
        serde_urlencoded::from_str(request.uri().query().unwrap_or_default()).unwrap_or_default();
    let why = match field(&query, "why") {
        "" => "",
        "key-expired" => "The time of your key is over. Ask for a new one.",
        _ => "Your key is not valid any more. Ask for a new one.",
    };
    form(&pages, request.extensions().get(), field(&query, "next"), why, StatusCode::OK)
}

/// Signs the user in.
pub(super) async fn post(State(pages): State<Arc<Pages>>, request: Request) -> Result<Response, Problem> {
    let (headers, token) = (request.headers().clone(), request.extensions().get::<FormToken>().cloned());
    let fields = session::posted(&pages, request).await?;
    let (key, next) = (field(&fields, "key").trim(), field(&fields, "next"));
    if !session::fits_a_cookie(key) {
        let why = "This is no key. Keys are what `millstream keys new` prints.";
        return form(&pages, token.as_ref(), next, why, StatusCode::UNPROCESSABLE_ENTITY);
    }
    if session::is_too_long(key) {
        let why = "This token is too long for a browser to keep. Ask for a key.";
        return form(&pages, token.as_ref(), next, why, StatusCode::UNPROCESSABLE_ENTITY);
    }
    match pages.guard.identify(key).await.map_err(stranger) {
        Ok(_) => {
            let mut response = Redirect::to(own_address(next)).into_response();
            session::keep_key(&pages, &mut response, key, &headers);
            Ok(response)
        }
        Err(problem) => {
            let (status, code) = problem.kind();
            let why = if status == StatusCode::SERVICE_UNAVAILABLE {
                "Whose token this is cannot be told now. Try again in a moment."
            } else {
                "This key is unknown, was revoked, or its time is over."
            };
            let mut page = form(&pages, token.as_ref(), next, why, status)?;
            // The audit log has it in the form of a refused request.
            page.extensions_mut().insert(Code(code.to_owned().into()));
            Ok(page)
        }
    }
}

/// Signs the user out.
pub(super) async fn leave(
    State(pages): State<Arc<Pages>>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Problem> {
    session::posted(&pages, request).await?;
    let mut response = Redirect::to("/sign-in").into_response();
    session::forget_key(&pages, &mut response, &headers);
    Ok(response)
}

fn form(
    pages: &Pages,
    token: Option<&FormToken>,
    next: &str,
    why: &str,
    status: StatusCode,
) -> Result<Response, Problem> {
    let frame = Frame::for_nobody(pages, token);
    page(status, &SignIn { frame, next: own_address(next), why, is_wrong: status != StatusCode::OK })
}

/// An address on this gateway. A link must not be able to lead to another site.
fn own_address(next: &str) -> &str {
    let is_own = next.starts_with('/') && !next.starts_with("//");
    // Browsers treat a backslash like a slash, and ignore line breaks and tabs.
    let is_own = is_own && !next.contains(|character: char| character == '\\' || character.is_control());
    if is_own { next } else { "/" }
}

fn field<'a>(fields: &'a [(String, String)], name: &str) -> &'a str {
    fields.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_led_to_another_site_after_signing_in() {
        assert_eq!(own_address("/reports/daily?limit=1"), "/reports/daily?limit=1");
        for other in
            ["", "//evil.example", "https://evil.example", "/\\evil.example", "/\t/evil.example", "reports"]
        {
            assert_eq!(own_address(other), "/", "{other}");
        }
    }
}
