//! The page of the reference application: its places, its links, what it may load.

use std::collections::BTreeSet;

use millstream_model::Reference;

use super::*;
use crate::openapi::tests::described;

fn page_of_the_reference_application(with_keys: bool) -> Page {
    described::<Reference, _>(with_keys, page)
}

/// What stands between two marks, each time.
fn between<'a>(text: &'a str, begin: &'a str, end: &'a str) -> Vec<&'a str> {
    text.split(begin).skip(1).filter_map(|rest| rest.split(end).next()).collect()
}

#[test]
fn every_code_has_a_place_and_every_link_leads_to_one() {
    let Page { html, .. } = page_of_the_reference_application(true);
    let ids = between(&html, " id=\"", "\"");
    let places: BTreeSet<&str> = ids.iter().copied().collect();
    assert_eq!(places.len(), ids.len(), "no place has the name of another");
    for problem in PROBLEMS {
        assert!(places.contains(problem.code), "{} has no place", problem.code);
    }
    for code in ["till-id-malformed", "retail.till.record-sale", "sale-differs"] {
        assert!(places.contains(code), "{code} has no place");
    }
    for link in between(&html, "href=\"", "\"") {
        let known =
            link == "/v1/openapi.json" || link.strip_prefix('#').is_some_and(|id| places.contains(id));
        assert!(known, "{link} leads nowhere");
    }
    assert!(html.contains("urn:millstream:problem:"));
}

#[test]
fn commands_are_listed_with_their_fields_and_a_line_to_type() {
    let Page { html, .. } = page_of_the_reference_application(false);
    assert!(html.contains("<code>lines[].sku</code> text, required"), "fields of fields are listed");
    assert!(html.contains("<code>amount</code> integer, required"), "any number of 64 bits has no limits");
    assert!(html.contains("curl --json"));
    assert!(!html.contains("Bearer $KEY"), "there are no keys");
    assert!(page_of_the_reference_application(true).html.contains("Bearer $KEY"));
}

#[test]
fn nothing_runs_and_the_style_is_the_one_that_the_policy_names() {
    let Page { html, security_policy } = page_of_the_reference_application(false);
    for begun in ["<script", "<img", "<link", "<form", " style=", " onclick="] {
        assert!(!html.contains(begun), "{begun}");
    }
    let style = between(&html, "<style>", "</style>");
    let hash = STANDARD.encode(Sha256::digest(style[0]));
    assert_eq!(style.len(), 1);
    assert!(security_policy.to_str().unwrap().contains(&format!("style-src 'sha256-{hash}'")));
}
