//! From an HTTP request to a command: its address, headers and body are all checked before anything is stored.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header as http_header},
};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use jiff::Timestamp;
use millstream_contract::{
    header,
    header_check::check_headers,
    stored_message::{Headers, StoredMessage},
    subject::{COMMAND_PREFIX, COMMAND_QUEUE_PREFIX, CommandAddress},
};
use millstream_domain::decider::AggregateRegistry;
use millstream_write_side::round::{InternalCommands, Work, prepare};
use tokio_util::sync::CancellationToken;

use crate::{config::Limits, last_moment, problem::Problem, whole_number::whole_number};

/// The header that makes it safe for a client to repeat a request.
pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// The longest value of that header, and of the headers that a command keeps.
const VALUE_LENGTH_MAX: usize = 256;
/// The media type of commands on lines, and of their answers.
pub(crate) const JSON_LINES: &str = "application/jsonl";
/// The media type of browser forms.
const FORM: &str = "application/x-www-form-urlencoded";
/// The deepest nesting of a body. Commands are flat, or nearly so.
const DEPTH_MAX: usize = 32;
/// The `Millstream-…` headers that a client may send with a command.
const HEADERS: [&str; 2] = [header::CORRELATION_ID, header::CAUSATION_ID];
/// The headers that become headers of the command.
const HEADERS_KEPT: [&str; 3] = [header::CORRELATION_ID, header::CAUSATION_ID, header::TRACE_PARENT];

/// What a client asks for besides the command itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wishes {
    /// The headers of the command that come from the client.
    pub(crate) kept: Vec<(&'static str, String)>,
    /// The version that the aggregate must have; 0 if it must not have any events.
    pub(crate) expected_version: Option<u64>,
    /// The client's own name for this request, its idempotency key.
    pub(crate) idempotency_key: Option<String>,
    /// How many seconds the client waits for the outcome.
    pub(crate) wait_seconds: Option<u64>,
}

impl Wishes {
    /// Reads the headers of a request.
    ///
    /// # Errors
    /// A [`Problem`] that names the header.
    pub(crate) fn read(headers: &HeaderMap) -> Result<Self, Problem> {
        refuse_what_is_not_the_clients(headers, &HEADERS)?;
        let mut kept = Vec::new();
        for name in HEADERS_KEPT {
            if let Some(value) = one(headers, name)? {
                kept.push((name, value.to_owned()));
            }
        }
        let idempotency_key = one(headers, IDEMPOTENCY_KEY)?.map(str::to_owned);
        if idempotency_key.as_deref() == Some("") {
            return Err(Problem::malformed("header-malformed", "the header Idempotency-Key is empty"));
        }
        Ok(Self {
            kept,
            expected_version: expected_version(headers)?,
            idempotency_key,
            wait_seconds: wait_seconds(headers),
        })
    }
}

/// The address in a path.
///
/// # Errors
/// A [`Problem`] that names the part that is not allowed.
pub(crate) fn address(parts: &[String; 4]) -> Result<CommandAddress, Problem> {
    let [context, aggregate, id, command] = parts;
    CommandAddress::new(context, aggregate, id, command)
        .map_err(|error| Problem::malformed("address-malformed", error.to_string()))
}

/// Reads a JSON body.
///
/// # Errors
/// A [`Problem`] when the body is something else, too large, or too slow, or when `stop` came first, because there must be time to store the
/// command.
pub(crate) async fn body(
    headers: &HeaderMap,
    body: Body,
    limits: &Limits,
    stop: &CancellationToken,
) -> Result<Bytes, Problem> {
    if !is_of_type(headers, header::JSON) {
        let detail = "send the body as JSON, with the header Content-Type: application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media-type-unknown", detail));
    }
    check_encoding(headers)?;
    let body =
        collect(body, limits.body_max, limits, stop).await?.ok_or_else(|| too_large(limits.body_max))?;
    check_depth(&body)?;
    Ok(body)
}

/// Reads lines of JSON.
///
/// # Errors
/// As [`body`].
pub(crate) async fn lines(
    headers: &HeaderMap,
    body: Body,
    limits: &Limits,
    stop: &CancellationToken,
) -> Result<Bytes, Problem> {
    if !is_of_type(headers, JSON_LINES) {
        let detail =
            "send several commands as lines of JSON, with the header Content-Type: application/jsonl";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media-type-unknown", detail));
    }
    check_encoding(headers)?;
    let max = limits.lines_bytes_max;
    collect(body, max, limits, stop).await?.ok_or_else(|| {
        let detail = format!("the commands are larger than the {max} bytes that a request may have");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", detail)
    })
}

/// Reads the form of a page.
///
/// # Errors
/// As [`body`].
pub(crate) async fn form(
    headers: &HeaderMap,
    body: Body,
    limits: &Limits,
    stop: &CancellationToken,
) -> Result<Bytes, Problem> {
    if !is_of_type(headers, FORM) {
        let detail = "a form of a page comes as application/x-www-form-urlencoded";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media-type-unknown", detail));
    }
    check_encoding(headers)?;
    collect(body, limits.body_max, limits, stop).await?.ok_or_else(|| too_large(limits.body_max))
}

/// Compressed content is refused, because unpacked it could have any size.
fn check_encoding(headers: &HeaderMap) -> Result<(), Problem> {
    let mut values = headers.get_all(http_header::CONTENT_ENCODING).iter();
    let plain = |value: &HeaderValue| {
        let mut codings = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        codings.all(|coding| coding.is_empty() || coding.eq_ignore_ascii_case(b"identity"))
    };
    if values.all(plain) {
        return Ok(());
    }
    let detail = "send the body as it is, without Content-Encoding: nothing is unpacked here";
    let problem = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content-encoding-unknown", detail);
    Err(problem.header(http_header::ACCEPT_ENCODING, HeaderValue::from_static("identity")))
}

/// The whole body; `None` if it is larger than `max`.
async fn collect(
    body: Body,
    max: usize,
    limits: &Limits,
    stop: &CancellationToken,
) -> Result<Option<Bytes>, Problem> {
    let collected = tokio::time::timeout(limits.body_timeout, Limited::new(body, max).collect());
    let collected = tokio::select! {
        biased;
        collected = collected => collected,
        () = last_moment(stop) => {
            let detail = "this gateway is stopping; the command is not stored, send it again";
            return Err(Problem::unavailable("stopping", detail));
        }
    };
    match collected {
        Ok(Ok(body)) => Ok(Some(body.to_bytes())),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Ok(None),
        Ok(Err(_)) => Err(Problem::malformed("body-incomplete", "the body did not come as a whole")),
        Err(_) => {
            let detail = "the body took too long to come";
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "body-too-slow", detail))
        }
    }
}

/// # Errors
/// A [`Problem`] when lists and objects in a body are nested too deeply.
pub(crate) fn check_depth(body: &[u8]) -> Result<(), Problem> {
    if depth(body) <= DEPTH_MAX {
        return Ok(());
    }
    let detail = format!("the body is nested more than {DEPTH_MAX} levels deep");
    Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "body-too-deep", detail))
}

/// # Errors
/// A [`Problem`] when a key in a line would not be valid in a header.
pub(crate) fn check_idempotency_key(key: &str) -> Result<(), Problem> {
    let visible = key.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if visible && !key.is_empty() && key.len() <= VALUE_LENGTH_MAX {
        return Ok(());
    }
    let detail = format!("idempotency_key takes 1 to {VALUE_LENGTH_MAX} characters of visible ASCII");
    Err(Problem::malformed("line-malformed", detail))
}

/// The body is larger than the server or the handler accepts.
pub(crate) fn too_large(max: usize) -> Problem {
    let detail = format!("the body is larger than the {max} bytes that are taken");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", detail)
}

/// Checks a command in the way in which the command handler will.
///
/// # Errors
/// A [`Problem`] if the handler would set it aside, or reject it without reading the aggregate.
pub(crate) fn check(
    address: &CommandAddress,
    headers: &Headers,
    body: &Bytes,
    registry: &AggregateRegistry,
) -> Result<(), Problem> {
    let message = StoredMessage {
        subject: address.subject().replacen(COMMAND_PREFIX, &format!("{COMMAND_QUEUE_PREFIX}.0"), 1),
        sequence: 1,
        stored_at: Timestamp::now(),
        headers: headers.clone(),
        payload: body.clone(),
    };
    let unprocessable = StatusCode::UNPROCESSABLE_ENTITY;
    match prepare(message, registry, InternalCommands::EffectsOnly).work {
        Work::Decide(_) => Ok(()),
        Work::Refuse(rejection) => Err(Problem::new(unprocessable, rejection.code, rejection.message)),
        Work::SetAside(letter) => {
            let status = match &*letter.code {
                "aggregate-unknown" | "command-unknown" => StatusCode::NOT_FOUND,
                "body-malformed" => unprocessable,
                "rules-panicked" => StatusCode::INTERNAL_SERVER_ERROR,
                _ => StatusCode::BAD_REQUEST,
            };
            Err(Problem::new(status, letter.code, letter.cause))
        }
    }
}

/// Checks the headers of a request that reads something; `known` are the `Millstream-…` headers that it may have.
///
/// # Errors
/// A [`Problem`] that names the header.
pub(crate) fn check_question(headers: &HeaderMap, known: &[&str]) -> Result<(), Problem> {
    refuse_what_is_not_the_clients(headers, known)?;
    let why = "it belongs to a command";
    refuse_without_meaning(headers, &[(IDEMPOTENCY_KEY, why), (http_header::IF_MATCH.as_str(), why)])
}

/// # Errors
/// A [`Problem`] that names the first of some headers that is present, and says why it has no meaning here.
pub(crate) fn refuse_without_meaning(headers: &HeaderMap, names: &[(&str, &str)]) -> Result<(), Problem> {
    match names.iter().find(|(name, _)| headers.contains_key(*name)) {
        None => Ok(()),
        Some((name, why)) => {
            let detail = format!("the header {name} has no meaning here; {why}");
            Err(Problem::malformed("header-unknown", detail))
        }
    }
}

/// # Errors
/// A [`Problem`] when an address without parameters is given some, because the client expects an effect from them.
pub(crate) fn refuse_parameters(uri: &Uri) -> Result<(), Problem> {
    let Some(query) = uri.query().filter(|query| !query.is_empty()) else { return Ok(()) };
    let name = query.split(['&', '=']).next().unwrap_or_default();
    Err(Problem::malformed("query-malformed", format!("this address takes no parameters, such as {name:?}")))
}

/// Header names in HTTP may be written in any case, and so may Millstream's. A header with Millstream's prefix that a client may not send is
/// either a typing error, or a claim that only a key can prove.
///
/// # Errors
/// A [`Problem`] that names the first one that is not in `known`.
fn refuse_what_is_not_the_clients(headers: &HeaderMap, known: &[&str]) -> Result<(), Problem> {
    if headers.contains_key(header::ACTOR) {
        let detail = "the key says who sends; the header Millstream-Actor is not taken over HTTP";
        return Err(Problem::malformed("actor-not-taken", detail));
    }
    let mut ours = Headers::new();
    for (name, value) in headers {
        if name.as_str().starts_with('m') {
            ours.push(name.as_str(), String::from_utf8_lossy(value.as_bytes()));
        }
    }
    check_headers(&ours, known).map_err(|error| Problem::malformed(error.code(), error.to_string()))
}

/// The value of a header that may occur once, in visible ASCII.
pub(crate) fn one<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Problem> {
    let wrong = |what: &str| Problem::malformed("header-malformed", format!("the header {name} {what}"));
    let mut all = headers.get_all(name).iter();
    let Some(value) = all.next() else { return Ok(None) };
    if all.next().is_some() {
        return Err(wrong("is there more than once"));
    }
    let text = value.to_str().map_err(|_| wrong("has characters that are not visible ASCII"))?;
    if text.len() > VALUE_LENGTH_MAX {
        return Err(wrong(&format!("is longer than {VALUE_LENGTH_MAX} characters")));
    }
    Ok(Some(text))
}

/// `If-Match: "v7"`, or `If-None-Match: *` for an aggregate without events.
fn expected_version(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let (matching, none) = (one(headers, "if-match")?, one(headers, "if-none-match")?);
    let malformed = |detail: &str| Err(Problem::malformed("precondition-malformed", detail));
    match (matching, none) {
        (None, None) => Ok(None),
        (None, Some("*")) => Ok(Some(0)),
        (None, Some(_)) => malformed("If-None-Match takes * alone: an aggregate that has no events yet"),
        (Some(tag), None) => match version_of_tag(tag) {
            Some(version) => Ok(Some(version)),
            None => malformed("If-Match takes one version of the aggregate, such as \"v7\", with its quotes"),
        },
        (Some(_), Some(_)) => malformed("If-Match and If-None-Match cannot hold together"),
    }
}

fn version_of_tag(tag: &str) -> Option<u64> {
    whole_number(tag.strip_prefix("\"v")?.strip_suffix('"')?)
}

/// The seconds in `Prefer: wait=5`. An invalid preference is ignored (RFC 7240, 2).
pub(crate) fn wait_seconds(headers: &HeaderMap) -> Option<u64> {
    let values = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let preferences = values.flat_map(|value| value.split(','));
    let mut named = preferences.filter_map(|preference| {
        let (name, seconds) = preference.split(';').next()?.split_once('=')?;
        let wait = name.trim().eq_ignore_ascii_case("wait");
        wait.then(|| seconds.trim().trim_matches('"').parse().ok()).flatten()
    });
    named.next()
}

fn is_of_type(headers: &HeaderMap, wanted: &str) -> bool {
    let mut all = headers.get_all(http_header::CONTENT_TYPE).iter();
    let (Some(value), None) = (all.next(), all.next()) else { return false };
    let media_type = value.to_str().ok().and_then(|text| text.split(';').next());
    media_type.is_some_and(|media_type| media_type.trim().eq_ignore_ascii_case(wanted))
}

/// How deeply lists and objects in a JSON text are nested. For a text that is not JSON, the number has no meaning.
fn depth(body: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_text, mut escaped) = (0_usize, 0, false, false);
    for byte in body {
        match (in_text, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_text = !in_text,
            (false, b'[' | b'{') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests;
