//! Makes links between pages. Clients choose keys and ids, so each is written as one part of a path. Pure.

use std::fmt::Write as _;

/// A path made of parts, each of which is encoded.
pub(super) fn path(parts: &[&str]) -> String {
    parts.iter().fold(String::new(), |mut path, part| {
        path.push('/');
        encode(part, &mut path);
        path
    })
}

/// A path whose last part is the key of a row, in which a slash stays a slash.
pub(super) fn path_to_key(parts: &[&str], key: &str) -> String {
    let mut path = path(parts);
    for part in key.split('/') {
        path.push('/');
        encode(part, &mut path);
    }
    path
}

/// The same with parameters. Empty ones are left out.
pub(super) fn with(path: &str, parameters: &[(&str, &str)]) -> String {
    let given: Vec<_> = parameters.iter().filter(|(_, value)| !value.is_empty()).collect();
    match serde_urlencoded::to_string(&given) {
        Ok(query) if !query.is_empty() => format!("{path}?{query}"),
        _ => path.to_owned(),
    }
}

fn encode(part: &str, path: &mut String) {
    for byte in part.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~:@".contains(&byte) {
            path.push(char::from(byte));
        } else {
            write!(path, "%{byte:02X}").expect("a text can be written to");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_key_holds_stays_within_its_part() {
        assert_eq!(path(&["views", "retail", "a/b?c#d"]), "/views/retail/a%2Fb%3Fc%23d");
        assert_eq!(
            path_to_key(&["reports", "daily"], "2012-01-31/ä#1"),
            "/reports/daily/2012-01-31/%C3%A4%231"
        );
        assert_eq!(with("/x", &[("a", ""), ("b", "1&2")]), "/x?b=1%262");
        assert_eq!(with("/x", &[("a", "")]), "/x");
    }
}
