//! The names that a message tells, of which there may be more than anybody reads.

/// As many as a message tells.
const NAMES_MAX: usize = 40;

/// The first names, and how many more there are.
pub(crate) fn listed(names: &[String]) -> String {
    let shown = names.get(..NAMES_MAX).unwrap_or(names).join(", ");
    match names.len().saturating_sub(NAMES_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of pictures was told with the names of all of them.
    #[test]
    fn a_message_tells_no_more_names_than_anybody_reads() {
        let names = |count: usize| (0..count).map(|number| format!("{number}.jpg")).collect::<Vec<_>>();
        assert_eq!(listed(&names(2)), "0.jpg, 1.jpg");
        assert!(listed(&names(NAMES_MAX)).ends_with(", 39.jpg"));
        assert!(listed(&names(20_000)).ends_with(", 39.jpg and 19960 more"));
    }
}
