//! The settings of an application's own parts, read like all other keys of a stage's section.

use std::ops::RangeInclusive;

use jiff::SignedDuration;

use super::SectionKeys;
use crate::application::SettingKeys;

impl SectionKeys<'_> {
    /// Two parts that read one key would each change what the other one was told.
    fn claim(&mut self, name: &str) {
        if self.has_read(name) {
            self.problem(
                name,
                "is read twice, by two parts of the application or by one and the stage itself; rename one",
            );
        }
    }
}

impl SettingKeys for SectionKeys<'_> {
    fn text(&mut self, name: &'static str, default: &str, help: &'static str) -> String {
        self.claim(name);
        SectionKeys::text(self, name, default, help)
    }

    fn optional_text(&mut self, name: &'static str, help: &'static str) -> Option<String> {
        self.claim(name);
        SectionKeys::optional_text(self, name, help)
    }

    fn list(&mut self, name: &'static str, default: &[&str], help: &'static str) -> Vec<String> {
        self.claim(name);
        SectionKeys::list(self, name, default, help)
    }

    fn duration(
        &mut self,
        name: &'static str,
        default: SignedDuration,
        help: &'static str,
    ) -> SignedDuration {
        self.claim(name);
        let duration = self.positive_duration(name, default.unsigned_abs(), help);
        SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
    }

    fn number(
        &mut self,
        name: &'static str,
        default: u64,
        range: RangeInclusive<u64>,
        help: &'static str,
    ) -> u64 {
        self.claim(name);
        SectionKeys::number(self, name, default, range, help)
    }

    fn flag(&mut self, name: &'static str, default: bool, help: &'static str) -> bool {
        self.claim(name);
        SectionKeys::flag(self, name, default, help)
    }

    fn problem(&mut self, name: &'static str, rule: &str) {
        SectionKeys::problem(self, name, rule);
    }
}
