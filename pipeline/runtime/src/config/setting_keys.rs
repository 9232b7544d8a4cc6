//! The settings of an application's own parts. They are read like all other keys of a stage's section.

use std::ops::RangeInclusive;

use jiff::SignedDuration;
use millstream_domain::application::SettingKeys;

use super::SectionKeys;

impl SectionKeys<'_> {
    /// If two parts read the same key, each would change the declaration of the other.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Origins, load_part};

    /// What the process of an application may have.
    struct Dunning {
        patience: SignedDuration,
        clubs: Vec<String>,
        letters: u64,
        strict: bool,
    }

    impl Dunning {
        fn from_keys(keys: &mut dyn SettingKeys) -> Self {
            Self {
                patience: keys.duration("patience", SignedDuration::from_hours(24), "how long"),
                clubs: keys.list("clubs", &["north"], "which"),
                letters: keys.number("letters", 2, 1..=5, "how many"),
                strict: keys.flag("strict", false, "whether"),
            }
        }
    }

    fn dunning(settings: &[&str]) -> Result<Dunning, String> {
        let settings = settings.iter().map(|setting| format!("process_manager.{setting}")).collect();
        let origins = Origins { settings, ..Origins::default() };
        let read = load_part(&origins, "process_manager", |keys| Dunning::from_keys(keys));
        read.map_err(|error| error.to_string())
    }

    #[test]
    fn process_gets_the_settings_of_the_configuration() {
        let defaults = dunning(&[]).unwrap();
        assert_eq!(defaults.patience, SignedDuration::from_hours(24));
        assert_eq!((defaults.clubs, defaults.letters, defaults.strict), (vec!["north".to_owned()], 2, false));
        let given = dunning(&["patience=36h", "clubs=east,west", "letters=3", "strict=true"]).unwrap();
        assert_eq!(given.patience, SignedDuration::from_hours(36));
        assert_eq!((given.clubs.len(), given.letters, given.strict), (2, 3, true));
    }

    #[test]
    fn wrong_settings_are_reported_together() {
        let Err(said) = dunning(&["patience=0s", "letters=6"]) else { panic!("they are taken") };
        assert!(said.contains("`process_manager.patience` is 0"), "{said}");
        assert!(said.contains("`process_manager.letters` is 6; it takes 1 to 5"), "{said}");
    }

    #[test]
    fn setting_of_the_stage_itself_cannot_be_claimed() {
        let read = load_part(&Origins::default(), "process_manager", |keys| {
            let _own = keys.number("letters", 1, 1..=9, "the stage's own");
            Dunning::from_keys(keys)
        });
        let Err(said) = read else { panic!("both get the same key") };
        assert!(said.to_string().contains("`process_manager.letters` is read twice"), "{said}");
    }
}
