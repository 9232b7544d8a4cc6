//! Names as people type them: `retail till 7_2012-01-31` and `retail.till.7_2012-01-31` are the same.

use crate::failure::CommandFailure;

/// The parts of a name, of which only the last may contain dots. They are separate words, but the first ones may also be joined by dots.
///
/// # Errors
/// A usage error that says what is expected, if there are more or fewer parts than `expected` names.
pub(crate) fn parts<const COUNT: usize>(
    words: &[String],
    expected: [&str; COUNT],
) -> Result<[String; COUNT], CommandFailure> {
    let mut parts: Vec<String> = Vec::new();
    for (index, word) in words.iter().enumerate() {
        // A word in the place of the last part is that part as a whole, even with dots.
        let missing = COUNT.saturating_sub(parts.len());
        let is_last = index > 0 && index + 1 == words.len() && missing == 1;
        match is_last {
            true => parts.push(word.clone()),
            false => parts.extend(word.splitn(missing.max(1), '.').map(str::to_owned)),
        }
    }
    let found = parts.len();
    parts.try_into().map_err(|_| {
        CommandFailure::usage(format_args!(
            "expected {}, found {found} of them in {:?}",
            expected.join(" "),
            words.join(" ")
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &[&str]) -> Option<[String; 3]> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        parts(&words, ["CONTEXT", "VIEW", "KEY"]).ok()
    }

    #[test]
    fn parts_may_be_words_or_joined_by_dots() {
        let expected = Some(["retail", "stock", "a.b:tea.c"].map(str::to_owned));
        assert_eq!(of(&["retail", "stock", "a.b:tea.c"]), expected);
        assert_eq!(of(&["retail.stock", "a.b:tea.c"]), expected);
        assert_eq!(of(&["retail.stock.a.b:tea.c"]), expected);
    }

    #[test]
    fn too_few_and_too_many_are_refused() {
        for words in [&["retail"][..], &["retail.stock"], &["retail", "stock"], &["a", "b", "c", "d"], &[]] {
            assert_eq!(of(words), None, "{words:?}");
        }
    }
}
