//! What a person meets in configuration: layers, problems, suggestions.

use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::connection::{Authentication, Secret};

/// A section as a stage has one.
#[derive(Debug, PartialEq, Eq)]
struct Example {
    batch: u64,
    wait: Duration,
    cache: u64,
    folder: PathBuf,
}

impl Section for Example {
    const NAME: &'static str = "projector";
    const ABOUT: &'static str = "An example.";

    fn read(keys: &mut SectionKeys<'_>) -> Self {
        keys.removed("batch_min", "nobody needs it");
        Self {
            batch: keys.number("batch_max", 2000, 1..=10_000, "events in a transaction"),
            wait: keys.positive_duration("wait", Duration::from_millis(5), "how long it gathers"),
            cache: keys.bytes("cache_size", 64 << 20, "memory for pages"),
            folder: keys.path("data_directory", "data", "where the file is"),
        }
    }
}

struct Setup {
    folder: TempDir,
    origins: Origins,
}

impl Setup {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let home = folder.path().to_str().unwrap().to_owned();
        let environment = BTreeMap::from([("HOME".to_owned(), home)]);
        Self { folder, origins: Origins { environment, ..Origins::default() } }
    }

    fn file(mut self, text: &str) -> Self {
        let path = self.folder.path().join("projector.toml");
        std::fs::write(&path, text).unwrap();
        self.origins.file = Some(path);
        self
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.origins.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    fn flag(mut self, setting: &str) -> Self {
        self.origins.settings.push(setting.to_owned());
        self
    }

    fn context(self, name: &str, json: &str) -> Self {
        let folder = self.folder.path().join(".config/nats/context");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{name}.json")), json).unwrap();
        self
    }

    fn selected(self, name: &str) -> Self {
        std::fs::write(self.folder.path().join(".config/nats/context.txt"), name).unwrap();
        self
    }

    fn load(&self) -> Result<Loaded<Example>, ConfigError> {
        load(&self.origins)
    }

    fn config(&self) -> Config<Example> {
        self.load().unwrap().config
    }

    /// What is wrong, with the temporary folder's path shortened.
    fn problems(&self) -> Vec<String> {
        let folder = format!("{}/", self.folder.path().display());
        let problems = self.load().unwrap_err().problems;
        problems.iter().map(|problem| problem.replace(&folder, "")).collect()
    }
}

#[test]
fn without_any_origin_the_defaults_hold() {
    let config = Setup::new().config();
    assert_eq!(config.stage.batch, 2000);
    assert_eq!(config.nats.urls, ["nats://127.0.0.1:4222"]);
    assert_eq!(config.nats.authentication, Authentication::None);
    assert_eq!(config.telemetry.address, None);
    assert_eq!(config.shutdown.limit, Duration::from_secs(20));
}

#[test]
fn flags_win_over_variables_over_the_file_over_defaults() {
    let file = Setup::new().file("[projector]\nbatch_max = 1\nwait = \"1s\"\ncache_size = \"1MiB\"\n");
    assert_eq!(file.config().stage.batch, 1);
    let variable =
        file.variable("MILLSTREAM_PROJECTOR__BATCH_MAX", "2").variable("MILLSTREAM_PROJECTOR__WAIT", "2s");
    assert_eq!(variable.config().stage.batch, 2);
    let stage = variable.flag("projector.batch_max=3").config().stage;
    let expected =
        Example { batch: 3, wait: Duration::from_secs(2), cache: 1 << 20, folder: PathBuf::from("data") };
    assert_eq!(stage, expected);
}

#[test]
fn all_problems_are_reported_together_each_with_its_place() {
    let setup = Setup::new()
        .file("[projector]\nbatch_max = 0\nwait = \"soon\"\n\n[nats]\nurll = [\"nats://a\"]\n")
        .variable("MILLSTREAM_SHUTDOWN__LIMIT", "0")
        .flag("telemetry.format=xml")
        .flag("nonsense");
    assert_eq!(
        setup.problems(),
        [
            "--set nonsense: write --set section.key=value",
            "flag --set telemetry.format: `telemetry.format` is `xml`; it takes automatic or human or json",
            "variable MILLSTREAM_SHUTDOWN__LIMIT: `shutdown.limit` is 0; it takes a duration above zero, such as \"3s\"",
            "projector.toml:2: `projector.batch_max` is 0; it takes 1 to 10000",
            "projector.toml:3: `projector.wait` is wrong: `soon` is not a duration; write a number and a unit (ms, s, m, h, d), \
             for example \"3s\"",
            "projector.toml:6: unknown key `nats.urll`; did you mean `nats.url`?",
        ]
    );
}

#[test]
fn values_of_the_wrong_type_are_named() {
    let setup = Setup::new().file(
        "[projector]\nbatch_max = \"many\"\nwait = 3\ndata_directory = true\n[nats]\nurl = 4222\ntls_first = \"yes\"\n",
    );
    let problems = setup.problems();
    assert_eq!(problems.len(), 5, "{problems:#?}");
    assert_eq!(problems[0], "projector.toml:6: `nats.url` is a number; it takes a list of texts");
    assert_eq!(problems[1], "projector.toml:7: `nats.tls_first` is a text; it takes true or false");
    assert_eq!(problems[2], "projector.toml:2: `projector.batch_max` is a text; it takes a whole number");
    assert_eq!(
        problems[3],
        "projector.toml:3: `projector.wait` is a number; it takes a duration such as \"3s\""
    );
    assert_eq!(
        problems[4],
        "projector.toml:4: `projector.data_directory` is true or false; it takes a text in quotes"
    );
}

#[test]
fn a_file_that_is_not_toml_is_reported_with_its_line() {
    let problems = Setup::new().file("[nats]\n\nurl = = 1\n").problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].starts_with("projector.toml:3: not TOML: "), "{problems:?}");
}

#[test]
fn a_missing_file_is_reported() {
    let mut setup = Setup::new();
    setup.origins.file = Some(PathBuf::from("absent.toml"));
    let problems = setup.problems();
    assert!(problems[0].starts_with("--config absent.toml: cannot be read: "), "{problems:?}");
}

#[test]
fn a_key_outside_of_sections_is_unknown() {
    let problems = Setup::new().file("url = \"nats://a\"\n").problems();
    assert!(problems[0].starts_with("projector.toml:1: unknown key `url`; "), "{problems:?}");
}

#[test]
fn variables_without_a_double_underscore_are_not_ours() {
    let setup = Setup::new().variable("MILLSTREAM_GATEWAY_SERVICE_HOST", "10.0.0.1");
    assert_eq!(setup.config().stage.batch, 2000);
}

#[test]
fn variables_of_another_stage_are_left_to_it_and_misspelt_ones_are_not() {
    let setup = Setup::new().variable("MILLSTREAM_COMMAND_HANDLER__ROUND_MAX", "5");
    assert_eq!(setup.config().stage.batch, 2000);
    let problems = setup.variable("MILLSTREAM_PROJECTOR__BATCH_MAXX", "5").problems();
    assert_eq!(
        problems,
        [
            "variable MILLSTREAM_PROJECTOR__BATCH_MAXX: unknown key `projector.batch_maxx`; did you mean `projector.batch_max`?"
        ]
    );
}

#[test]
fn a_key_that_was_removed_says_why_and_suggests_nothing() {
    let problems = Setup::new().variable("MILLSTREAM_PROJECTOR__BATCH_MIN", "5").problems();
    assert_eq!(
        problems,
        ["variable MILLSTREAM_PROJECTOR__BATCH_MIN: key `projector.batch_min` was removed: nobody needs it"]
    );
    let reference = Setup::new().load().unwrap();
    assert!(reference.entries.iter().all(|entry| entry.key != "projector.batch_min"));
}

#[test]
fn a_tool_that_only_connects_leaves_variables_of_stages_alone() {
    let setup = Setup::new()
        .variable("MILLSTREAM_TELEMETRY__FILTER", "debug")
        .variable("MILLSTREAM_PROJECTOR__BATCH_MAX", "5")
        .variable("MILLSTREAM_NATS__URL", "nats://a");
    assert_eq!(load_connection(&setup.origins).unwrap().urls, ["nats://a"]);
    let misspelt = setup.variable("MILLSTREAM_NATS__URRL", "nats://b");
    assert!(load_connection(&misspelt.origins).is_err());
}

#[test]
fn a_section_that_does_not_exist_is_unknown_even_in_a_variable() {
    let problems = Setup::new().variable("MILLSTREAM_PROJEKTOR__BATCH_MAX", "5").problems();
    assert!(problems[0].ends_with("did you mean `projector.batch_max`?"), "{problems:?}");
}

#[test]
fn the_reference_file_explains_every_key_and_changes_nothing() {
    let loaded = Setup::new().load().unwrap();
    let text = loaded.reference_file("projector");
    assert!(text.contains("[projector]\n"), "{text}");
    assert!(text.contains("# how long it gathers\n# wait = \"5ms\"\n"), "{text}");
    let again = Setup::new().file(&text).load().unwrap();
    assert_eq!(again.entries, loaded.entries);
    let uncommented: String = text
        .lines()
        .map(|line| if line.contains(" = ") { line.trim_start_matches("# ") } else { line })
        .map(|line| format!("{line}\n"))
        .collect();
    let values: toml::Table = toml::from_str(&uncommented).unwrap();
    assert_eq!(values["projector"]["batch_max"], toml::Value::Integer(2000));
}

#[test]
fn the_listing_names_every_key_with_its_value_and_source() {
    let setup = Setup::new()
        .file("[projector]\ncache_size = \"1MiB\"\n")
        .variable("NATS_URL", "nats://people:4222")
        .flag("projector.wait=7ms");
    let dump = setup.load().unwrap().dump();
    let line = |key: &str| {
        let line =
            dump.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("{key} in {dump}"));
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("nats.url"), "nats.url = [\"nats://people:4222\"] # variable NATS_URL");
    assert_eq!(line("projector.wait"), "projector.wait = \"7ms\" # flag --set projector.wait");
    assert!(line("projector.cache_size").ends_with("projector.toml:2"), "{dump}");
    assert_eq!(line("projector.batch_max"), "projector.batch_max = 2000 # default");
    assert_eq!(line("# nats.user"), "# nats.user is not set # default");
    toml::from_str::<toml::Table>(&dump).expect("the listing is TOML");
}

#[test]
fn secrets_are_refused_as_values_and_never_listed() {
    let problems = Setup::new().file("[nats]\nuser = \"a\"\npassword = \"hush\"\n").problems();
    assert!(
        problems[0].contains("`nats.password` would hold a secret; write it into a file"),
        "{problems:?}"
    );
    let problems = Setup::new().file("[nats]\nurl = \"nats://a:hush@host\"\n").problems();
    assert!(problems[0].contains("`nats.url` carries a user or password"), "{problems:?}");
    assert!(!problems.concat().contains("hush"), "{problems:?}");
    let people = Setup::new().variable("NATS_USER", "a").variable("NATS_PASSWORD", "hush").load().unwrap();
    assert!(!people.dump().contains("hush") && !format!("{people:?}").contains("hush"), "{people:?}");
    assert_eq!(
        people.config.nats.authentication,
        Authentication::Password { user: "a".to_owned(), password: Secret::Inline("hush".to_owned()) }
    );
}

#[test]
fn the_selected_context_is_the_base_and_variables_of_natscli_win_over_it() {
    let setup = Setup::new()
        .context(
            "production",
            r#"{"url":"nats://a:4222,nats://b:4222","creds":"~/prod.creds","description":"x"}"#,
        )
        .selected("production\n");
    let nats = setup.config().nats;
    assert_eq!(nats.urls, ["nats://a:4222", "nats://b:4222"]);
    let credentials = Authentication::CredentialsFile(setup.folder.path().join("prod.creds"));
    assert_eq!(nats.authentication, credentials);
    let nats = setup.variable("NATS_URL", "nats://c").config().nats;
    assert_eq!((nats.urls, nats.authentication), (vec!["nats://c".to_owned()], credentials));
}

#[test]
fn a_server_of_our_own_keys_gets_no_credentials_of_a_selected_context() {
    let setup = Setup::new()
        .context("production", r#"{"url":"nats://a","user":"ann","password":"hush"}"#)
        .selected("production")
        .flag("nats.url=nats://127.0.0.1:4555");
    let nats = setup.config().nats;
    assert_eq!(
        (nats.urls, nats.authentication),
        (vec!["nats://127.0.0.1:4555".to_owned()], Authentication::None)
    );
}

#[test]
fn a_context_of_a_flag_wins_over_the_file_and_its_credentials() {
    let setup = Setup::new()
        .file("[nats]\nurl = \"nats://file\"\ncredentials_file = \"file.creds\"\n")
        .context("other", r#"{"url":"nats://context","nkey":"seed.nk"}"#)
        .flag("nats.context=other");
    let nats = setup.config().nats;
    assert_eq!(nats.urls, ["nats://context"]);
    assert_eq!(nats.authentication, Authentication::NkeyFile(PathBuf::from("seed.nk")));
    let nats = setup.flag("nats.url=nats://flag").config().nats;
    assert_eq!(nats.urls, ["nats://flag"]);
    assert_eq!(nats.authentication, Authentication::NkeyFile(PathBuf::from("seed.nk")));
}

#[test]
fn our_own_credentials_put_another_kind_of_natscli_aside() {
    let setup = Setup::new()
        .variable("NATS_CREDS", "people.creds")
        .file("[nats]\nuser = \"projector\"\npassword_file = \"/run/secrets/password\"\n");
    let password = Secret::File(PathBuf::from("/run/secrets/password"));
    let expected = Authentication::Password { user: "projector".to_owned(), password };
    assert_eq!(setup.config().nats.authentication, expected);
}

#[test]
fn two_kinds_of_credentials_in_one_place_are_refused() {
    let setup = Setup::new().file("[nats]\ncredentials_file = \"a\"\nnkey_file = \"b\"\n");
    assert_eq!(
        setup.problems(),
        ["nats.credentials_file and nats.nkey_file are set in one place; keep one of them"]
    );
}

#[test]
fn credentials_in_an_url_of_natscli_count_when_there_are_no_others() {
    let setup = Setup::new().context("plain", r#"{"url":"nats://ann:hush@a:1,nats://b:2"}"#);
    let password = Secret::Inline("hush".to_owned());
    let nats = setup.flag("nats.context=plain").config().nats;
    assert_eq!(nats.urls, ["nats://a:1", "nats://b:2"]);
    assert_eq!(nats.authentication, Authentication::Password { user: "ann".to_owned(), password });
    let setup = Setup::new()
        .context("both", r#"{"url":"nats://ann:hush@a:1","creds":"people.creds"}"#)
        .flag("nats.context=both");
    let credentials = Authentication::CredentialsFile(PathBuf::from("people.creds"));
    assert_eq!(setup.config().nats.authentication, credentials);
}

#[test]
fn of_several_credentials_in_natscli_variables_one_is_used() {
    let setup = Setup::new().variable("NATS_CREDS", "people.creds").variable("NATS_NKEY", "seed.nk");
    let credentials = Authentication::CredentialsFile(PathBuf::from("people.creds"));
    assert_eq!(setup.config().nats.authentication, credentials);
}

/// People read "is float" and "expected a borrowed string".
#[test]
fn values_of_another_form_are_named_in_plain_words() {
    for (value, said) in [
        ("1.5", "is a number with a point; it takes a whole number"),
        ("2026-01-31", "is a date or time; it takes a whole number"),
        ("[{}]", "is a list of something else than texts; it takes a whole number"),
    ] {
        let problems = Setup::new().file(&format!("[projector]\nbatch_max = {value}\n")).problems();
        assert_eq!(problems, [format!("projector.toml:2: `projector.batch_max` {said}")]);
    }
    let problems = Setup::new().context("odd", r#"{"url": 4}"#).flag("nats.context=odd").problems();
    let [problem] = problems.as_slice() else { panic!("{problems:?}") };
    assert!(problem.ends_with("a text is expected, not the number 4 at line 1 column 9"), "{problem}");
}

#[test]
fn an_unknown_key_is_answered_with_a_known_one_only_where_that_is_near() {
    let said = |key: &str| Setup::new().flag(&format!("projector.{key}=1")).problems().concat();
    assert!(said("bacth_max").ends_with("did you mean `projector.batch_max`?"), "{}", said("bacth_max"));
    assert!(said("nonsense").ends_with("see --dump-config for the keys there are"), "{}", said("nonsense"));
}

#[test]
fn an_empty_context_means_none_and_an_unknown_one_is_reported() {
    let setup = Setup::new()
        .context("production", r#"{"url":"nats://a"}"#)
        .selected("production")
        .flag("nats.context=");
    assert_eq!(setup.config().nats.urls, ["nats://127.0.0.1:4222"]);
    let problems = setup.flag("nats.context=productoin").problems();
    assert!(problems[0].starts_with("nats context `productoin`: "), "{problems:?}");
    assert!(problems[0].ends_with("see `nats context ls`"), "{problems:?}");
}

#[test]
fn a_context_that_needs_another_program_is_refused_with_a_way_out() {
    let setup = Setup::new().context("vault", r#"{"creds":"op://vault/nats"}"#).flag("nats.context=vault");
    let problems = setup.problems();
    assert!(problems[0].contains("`op://` are not supported; write them into a file"), "{problems:?}");
}

#[test]
fn home_stands_for_the_home_directory_in_paths() {
    let setup = Setup::new().flag("projector.data_directory=~/data");
    assert_eq!(setup.config().stage.folder, setup.folder.path().join("data"));
    assert_ne!(setup.config().stage.folder, Path::new("~/data"));
}

fn docs() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md")).unwrap()
}

#[test]
fn the_docs_list_every_key_of_the_sections_that_all_stages_have() {
    let loaded = Setup::new().load().unwrap();
    let tables = loaded.reference_tables();
    let (shared, _) = tables.split_once("### [projector]").unwrap();
    assert!(docs().contains(shared.trim_end()), "docs/configuration.md must have these tables:\n\n{shared}");
}

#[test]
fn the_docs_list_every_exit_code() {
    let docs = docs();
    for code in millstream_contract::exit_code::ExitCode::ALL {
        assert_eq!(docs.matches(&format!("\n| {code} | ")).count(), 1, "exit code {code}");
    }
}
