//! Style, script and icon of the pages. Their addresses contain a hash of the content, so a browser keeps them for ever and a new release has
//! new addresses.

use std::sync::Arc;

use axum::{
    extract::{Path, State, rejection::PathRejection},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};

use super::Pages;
use crate::problem::Problem;

const STYLE: &str = include_str!("../../templates/pages/pages.css");
const SCRIPT: &str = include_str!("../../templates/pages/pages.js");
const ICON: &str = include_str!("../../templates/pages/icon.svg");
/// A year, which is the longest time that browsers respect.
const FOR_EVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");

/// One of them.
struct Asset {
    address: String,
    media_type: &'static str,
    text: &'static str,
}

/// All of them.
pub(super) struct Assets([Asset; 3]);

impl Assets {
    pub(super) fn new() -> Self {
        let asset = |stem: &str, ending: &str, media_type, text: &'static str| {
            let hash = blake3::hash(text.as_bytes()).to_hex();
            let hash = hash.get(..16).unwrap_or(&hash);
            Asset { address: format!("/assets/{stem}-{hash}.{ending}"), media_type, text }
        };
        Self([
            asset("pages", "css", "text/css; charset=utf-8", STYLE),
            asset("pages", "js", "text/javascript; charset=utf-8", SCRIPT),
            asset("icon", "svg", "image/svg+xml", ICON),
        ])
    }

    pub(super) fn style(&self) -> &str {
        &self.0[0].address
    }

    pub(super) fn script(&self) -> &str {
        &self.0[1].address
    }

    pub(super) fn icon(&self) -> &str {
        &self.0[2].address
    }
}

/// `GET /assets/{name}`. The files contain no data, so no key is required.
pub(super) async fn get(
    State(pages): State<Arc<Pages>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let Path(name) = name?;
    let address = format!("/assets/{name}");
    let Some(asset) = pages.assets.0.iter().find(|asset| asset.address == address) else {
        return Err(Problem::new(
            StatusCode::NOT_FOUND,
            "address-unknown",
            "there is nothing at this address",
        ));
    };
    let media_type = HeaderValue::from_static(asset.media_type);
    Ok(([(header::CONTENT_TYPE, media_type), (header::CACHE_CONTROL, FOR_EVER)], asset.text).into_response())
}
