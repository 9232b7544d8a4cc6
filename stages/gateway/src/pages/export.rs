//! `GET /export/{report}` and `GET /export/{report}/{date}/{key}`: the API's CSV answer, which a browser saves as a file.

use axum::{
    extract::{Path, rejection::PathRejection},
    http::{HeaderValue, header},
    response::Response,
};

use super::page_request::Visit;
use crate::problem::Problem;

const CSV: &str = "text/csv";

/// A list.
pub(super) async fn list(
    visit: Visit,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let Path(name) = name?;
    let answer = visit.reports(&name, &parameters(&visit), CSV).await?;
    Ok(as_file(answer, &format!("{name}-{}", visit.parameter("prefix"))))
}

/// A row, its revisions or its differences.
pub(super) async fn row(
    visit: Visit,
    parts: Result<Path<[String; 2]>, PathRejection>,
) -> Result<Response, Problem> {
    let Path([name, place]) = parts?;
    let answer = visit.report(&name, &place, &parameters(&visit), CSV).await?;
    Ok(as_file(answer, &format!("{name}-{place}")))
}

fn parameters(visit: &Visit) -> Vec<(&str, &str)> {
    let all = visit.parameters().iter().filter(|(name, _)| name != "position");
    all.map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

/// The same, as a file with a name.
pub(super) fn as_file(mut answer: Response, name: &str) -> Response {
    let plain: String = name
        .chars()
        .map(|character| if character.is_ascii_alphanumeric() { character } else { '-' })
        .collect();
    let disposition = format!("attachment; filename=\"{}.csv\"", plain.trim_end_matches('-'));
    if let Ok(disposition) = HeaderValue::try_from(disposition) {
        answer.headers_mut().insert(header::CONTENT_DISPOSITION, disposition);
    }
    answer
}
