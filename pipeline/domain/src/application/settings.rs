//! How a process, a view or a report reads its own configuration keys, without knowing where configuration comes from.

use std::ops::RangeInclusive;

use jiff::SignedDuration;

/// The configuration keys of a stage, as a process, a view or a report of the application asks for them.
///
/// Each call declares one key (its name in lower_snake_case, its default and one sentence that explains it) and returns its value. The
/// configuration file and its documentation are made from the same declarations, so a new setting changes no stage. A wrong value is noted
/// and reported together with all other problems; the call then returns the default.
///
/// Keys of processes are in the section `[process_manager]`, those of views in `[projector]`, those of reports in `[reporter]`.
pub trait SettingKeys {
    /// A text.
    fn text(&mut self, name: &'static str, default: &str, help: &'static str) -> String;

    /// A text that may be absent.
    fn optional_text(&mut self, name: &'static str, help: &'static str) -> Option<String>;

    /// A list of texts.
    fn list(&mut self, name: &'static str, default: &[&str], help: &'static str) -> Vec<String>;

    /// A duration above zero, as in `36h`.
    fn duration(&mut self, name: &'static str, default: SignedDuration, help: &'static str)
    -> SignedDuration;

    /// A whole number within a range.
    fn number(
        &mut self,
        name: &'static str,
        default: u64,
        range: RangeInclusive<u64>,
        help: &'static str,
    ) -> u64;

    /// True or false.
    fn flag(&mut self, name: &'static str, default: bool, help: &'static str) -> bool;

    /// Notes that the value of a key is wrong. `rule` completes a sentence that begins with the name of the key, as in `names time zone
    /// "Atlantis"; use a name such as Europe/Berlin`.
    fn problem(&mut self, name: &'static str, rule: &str);
}

/// Gives every key its default. For tests, and for checking an application when it is built.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct DefaultSettings {
    names: Vec<&'static str>,
    problems: Vec<(&'static str, String)>,
}

impl DefaultSettings {
    /// The names of the declared keys, in order. A key that was declared twice occurs twice.
    pub fn names(&self) -> &[&'static str] {
        &self.names
    }

    /// The noted problems: the name of a key and the rule that its default breaks.
    pub fn problems(&self) -> &[(&'static str, String)] {
        &self.problems
    }
}

impl SettingKeys for DefaultSettings {
    fn text(&mut self, name: &'static str, default: &str, _help: &'static str) -> String {
        self.names.push(name);
        default.to_owned()
    }

    fn optional_text(&mut self, name: &'static str, _help: &'static str) -> Option<String> {
        self.names.push(name);
        None
    }

    fn list(&mut self, name: &'static str, default: &[&str], _help: &'static str) -> Vec<String> {
        self.names.push(name);
        default.iter().map(|&item| item.to_owned()).collect()
    }

    fn duration(
        &mut self,
        name: &'static str,
        default: SignedDuration,
        _help: &'static str,
    ) -> SignedDuration {
        self.names.push(name);
        if default <= SignedDuration::ZERO {
            self.problem(name, "must have a default above zero");
        }
        default
    }

    fn number(
        &mut self,
        name: &'static str,
        default: u64,
        range: RangeInclusive<u64>,
        _help: &'static str,
    ) -> u64 {
        self.names.push(name);
        if !range.contains(&default) {
            self.problem(name, "must have a default within its range");
        }
        default
    }

    fn flag(&mut self, name: &'static str, default: bool, _help: &'static str) -> bool {
        self.names.push(name);
        default
    }

    fn problem(&mut self, name: &'static str, rule: &str) {
        self.problems.push((name, rule.to_owned()));
    }
}
