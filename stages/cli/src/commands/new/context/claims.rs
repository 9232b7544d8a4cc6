//! The files of `new context --like claims`: those of its own aggregate, and the golden files of claims.

use std::path::Path;

use super::{Names, Written, files_of};

/// A body for each of the aggregate's events.
const NUMBER: &str = include_str!("../../../../templates/app/claims/number.json");

/// The golden files of the aggregate `claim`, which are the same in every context.
const CLAIM: [(&str, &str); 7] = [
    (
        "claim-confirmed.v1.json",
        include_str!("../../../../templates/app/claims/claim/claim-confirmed.v1.json"),
    ),
    ("claim-expired.v1.json", include_str!("../../../../templates/app/claims/claim/claim-expired.v1.json")),
    ("claim-granted.v1.json", include_str!("../../../../templates/app/claims/claim/claim-granted.v1.json")),
    ("claim-refused.v1.json", include_str!("../../../../templates/app/claims/claim/claim-refused.v1.json")),
    ("claim-released.v1.json", include_str!("../../../../templates/app/claims/claim/claim-released.v1.json")),
    (
        "confirmation-refused.v1.json",
        include_str!("../../../../templates/app/claims/claim/confirmation-refused.v1.json"),
    ),
    ("recorded.json", include_str!("../../../../templates/app/claims/claim/recorded.json")),
];

pub(super) fn files(names: &Names, model: &Path) -> Vec<Written> {
    let sources = [
        ("{{context_module}}.rs", include_str!("../../../../templates/app/claims/context.rs")),
        (
            "{{context_module}}/{{aggregate_module}}.rs",
            include_str!("../../../../templates/app/claims/aggregate.rs"),
        ),
        (
            "{{context_module}}/{{aggregate_module}}_number.rs",
            include_str!("../../../../templates/app/claims/process.rs"),
        ),
    ];
    let golden = [
        ("{{aggregate}}-asked.v1.json", NUMBER),
        ("{{aggregate}}-opened.v1.json", NUMBER),
        ("{{aggregate}}-refused.v1.json", NUMBER),
        ("{{aggregate}}-closed.v1.json", NUMBER),
        ("recorded.json", include_str!("../../../../templates/app/claims/recorded.json")),
    ];
    let claims = model.join("golden").join(&names.context).join("claim");
    let mut files = files_of(names, model, &sources, &golden);
    files.extend(CLAIM.map(|(name, text)| Written { path: claims.join(name), text: text.to_owned() }));
    files
}
