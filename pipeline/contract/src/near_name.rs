//! Finds the name that somebody probably meant who wrote a name that does not exist.

use strsim::damerau_levenshtein;

/// How many letters may differ.
const DISTANCE_MAX: usize = 3;

/// The nearest of `known`, ignoring case, if it is only a typing error away and not merely another name of the same family. Parts between
/// dots are compared one by one, so a correct section does not make a wrong key look near.
#[must_use]
pub fn near_name<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = known.into_iter().filter_map(|candidate| Some((distance(name, candidate)?, candidate)));
    near.min_by_key(|(distance, _)| *distance).map(|(_, candidate)| candidate)
}

/// How many letters differ; `None` if a part is a different word.
fn distance(name: &str, candidate: &str) -> Option<usize> {
    let (name, candidate) = (name.to_lowercase(), candidate.to_lowercase());
    if name.split('.').count() != candidate.split('.').count() {
        return None;
    }
    name.split('.').zip(candidate.split('.')).try_fold(0, |sum, (part, meant)| {
        let differing = damerau_levenshtein(part, meant);
        let letters = part.chars().count().max(meant.chars().count());
        (differing <= (letters / 3).clamp(1, DISTANCE_MAX)).then_some(sum + differing)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `command_handler.nonsense` was answered with `command_handler.time_zone`.
    #[test]
    fn only_a_slip_of_the_pen_is_near() {
        let known = ["command_handler.time_zone", "command_handler.round_max", "nats.url", "nats.user"];
        for (name, meant) in [
            ("command_handler.time_zne", "command_handler.time_zone"),
            ("comand_handler.round_mxa", "command_handler.round_max"),
            ("NATS.URLL", "nats.url"),
            ("nats.usr", "nats.user"),
        ] {
            assert_eq!(near_name(name, known), Some(meant), "{name}");
        }
        for name in ["command_handler.nonsense", "command_handler.x", "nats.foo", "url", "", "nats"] {
            assert_eq!(near_name(name, known), None, "{name}");
        }
    }
}
