//! The format in which a client wants an answer that exists as JSON and as CSV: `Accept` (RFC 9110, 12.5.1).

use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};

use crate::problem::Problem;

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Json,
    Csv,
}

/// For caches in between: the same address has answers in several formats.
const VARY: HeaderValue = HeaderValue::from_static("accept");
/// RFC 4180, with a header line.
const CSV: HeaderValue = HeaderValue::from_static("text/csv; charset=utf-8; header=present");

/// The format that the client prefers; JSON if it does not say, or likes both equally.
///
/// # Errors
/// A [`Problem`] when the client accepts neither.
pub(crate) fn preferred(headers: &HeaderMap) -> Result<Form, Problem> {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let ranges: Vec<Range<'_>> = values.flat_map(|value| value.split(',')).filter_map(Range::read).collect();
    if ranges.is_empty() {
        return Ok(Form::Json);
    }
    let quality = |kind, subtype| {
        let fitting = ranges.iter().filter_map(|range| Some((range.fit(kind, subtype)?, range.quality)));
        fitting.max_by_key(|(fit, _)| *fit).map_or(0, |(_, quality)| quality)
    };
    match (quality("application", "json"), quality("text", "csv")) {
        (0, 0) => {
            let detail = "what is here is application/json, and also text/csv; Accept takes neither";
            let problem = Problem::new(StatusCode::NOT_ACCEPTABLE, "not-acceptable", detail);
            Err(problem.header(header::VARY, VARY))
        }
        (json, csv) if csv > json => Ok(Form::Csv),
        _ => Ok(Form::Json),
    }
}

/// The answer, in a format.
pub(crate) fn of_form(mut response: Response, form: Form) -> Response {
    let headers = response.headers_mut();
    if let (Form::Csv, Some(media_type)) = (form, headers.get_mut(header::CONTENT_TYPE)) {
        *media_type = CSV;
    }
    headers.insert(header::VARY, VARY);
    response
}

/// One of the media ranges that a client accepts.
struct Range<'a> {
    kind: &'a str,
    subtype: &'a str,
    /// The quality, in thousandths.
    quality: u16,
}

impl<'a> Range<'a> {
    /// `None` if it is not a media range.
    fn read(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let (kind, subtype) = parts.next()?.split_once('/')?;
        let quality = parts.find_map(|part| {
            let (name, value) = part.split_once('=')?;
            name.trim().eq_ignore_ascii_case("q").then(|| value.trim().parse::<f32>().ok())
        });
        let quality = match quality {
            None => 1.0,
            Some(value) => value.filter(|value| (0.0..=1.0).contains(value))?,
        };
        Some(Self { kind, subtype, quality: (quality * 1000.0) as u16 })
    }

    /// How specifically it names a type; `None` if it does not match.
    fn fit(&self, kind: &str, subtype: &str) -> Option<u8> {
        let same_kind = self.kind.eq_ignore_ascii_case(kind);
        if same_kind && self.subtype.eq_ignore_ascii_case(subtype) {
            Some(2)
        } else if same_kind && self.subtype == "*" {
            Some(1)
        } else {
            (self.kind == "*" && self.subtype == "*").then_some(0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(accept: &[&'static str]) -> Option<Form> {
        let mut headers = HeaderMap::new();
        for value in accept {
            headers.append(header::ACCEPT, HeaderValue::from_static(value));
        }
        preferred(&headers).ok()
    }

    #[test]
    fn the_form_is_the_one_that_the_client_likes_best() {
        for accept in [
            &[][..],
            &[""],
            &["*/*"],
            &["text/csv, application/json"],
            &["text/html,application/xhtml+xml,*/*;q=0.8"],
            &["text/csv;q=0.5", "application/json"],
            &["application/*, text/csv;q=nonsense"],
            &["text/csv;q=0, */*;q=0.1"],
        ] {
            assert_eq!(form(accept), Some(Form::Json), "{accept:?}");
        }
        for accept in [
            &["text/csv"][..],
            &["Text/CSV; charset=utf-8"],
            &["text/*"],
            &["*/*;q=0.1", "text/csv;q=0.2"],
            &["application/json;q=0, */*"],
            &["text/csv, application/json; q=0.9"],
        ] {
            assert_eq!(form(accept), Some(Form::Csv), "{accept:?}");
        }
        for accept in [&["text/html"][..], &["text/csv;q=0"], &["*/*;q=0"], &["image/*"]] {
            assert_eq!(form(accept), None, "{accept:?}");
        }
    }
}
