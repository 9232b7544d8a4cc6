//! `new context`: an aggregate with its rules, a view, tests of both, golden files with their records, and the line that registers the context.
//! In a checkout of Millstream itself, it becomes part of the reference application and gets its section in docs/contexts.md. Elsewhere it
//! becomes part of the application in whose folder the command is called.

mod claims;

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use millstream_contract::exit_code::ExitCode;

use super::{
    files::{Written, expect_free, read, write_all},
    names::{Names, module},
};
use crate::{failure::CommandFailure, output, session::Session};

/// The files in which contexts are registered: those of an application and of a checkout of Millstream.
const REGISTERS: [(&str, Home); 2] =
    [("pipeline/model/src/lib.rs", Home::Checkout), ("model/src/lib.rs", Home::Application)];
/// Where such a file lists contexts, and the line before which modules are declared.
const LIST: &str = "        vec![";
const MODULE: &str = "pub mod ";
const PAGE: &str = "docs/contexts.md";

/// Where the context goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Home {
    Checkout,
    Application,
}

/// What to write.
#[derive(Debug, Args)]
pub(super) struct ContextArguments {
    /// Its name, as in subjects: lower-kebab-case
    name: String,
    /// The name of its first aggregate
    #[arg(long, default_value = "item", value_name = "NAME")]
    aggregate: String,
    /// What it has beside the aggregate; others than a view only in an application made by `new app`
    #[arg(long, value_enum, default_value_t = Like::View)]
    like: Like,
}

/// What a context shows by example.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Like {
    /// An aggregate and a view
    View,
    /// An aggregate of a business date, and a daily report that its close seals
    Report,
    /// An aggregate with a deadline, and a process that keeps it with a timer and a setting
    Process,
    /// An aggregate that has a number of its own, and a process that claims it, so that no other one has the same
    Claims,
}

/// Runs it.
pub(super) fn run(arguments: &ContextArguments, session: &Session) -> Result<ExitCode, CommandFailure> {
    let names = Names::new(session.program.name, &arguments.name, &arguments.aggregate)?;
    let (root, register, home) = find()?;
    if home == Home::Checkout && arguments.like != Like::View {
        return Err(CommandFailure::usage(
            "--like is for applications that `new app` made; in a checkout of Millstream, retail and orders are the examples",
        ));
    }
    let files = plan(&names, &root, register, home, arguments.like)?;
    write_all(&files, &root)?;
    tell(&names, home, arguments.like)?;
    Ok(ExitCode::Ok)
}

fn find() -> Result<(PathBuf, &'static str, Home), CommandFailure> {
    let here = std::env::current_dir().map_err(|error| CommandFailure::file(Path::new("."), &error))?;
    let mut places = here
        .ancestors()
        .flat_map(|folder| REGISTERS.map(|(register, home)| (folder.to_owned(), register, home)));
    // The model of a checkout has the same path below `pipeline` as an application's model has below its root.
    let is_home = |(folder, register, home): &(PathBuf, &str, Home)| {
        folder.join(register).is_file() && (*home == Home::Checkout || !folder.ends_with("pipeline"))
    };
    places.find(is_home).ok_or_else(|| {
        let [(checkout, _), (application, _)] = REGISTERS;
        CommandFailure::usage(format_args!(
            "there is no {application} and no {checkout} here or further up; call it in the folder of an application, which \
             `new app` makes, or in a checkout of Millstream"
        ))
    })
}

/// Every file with its text, before anything is written.
fn plan(
    names: &Names,
    root: &Path,
    register: &str,
    home: Home,
    like: Like,
) -> Result<Vec<Written>, CommandFailure> {
    let path = root.join(register);
    let model = path.ancestors().nth(2).unwrap_or(root);
    let mut files = match home {
        Home::Checkout => checkout_files(names, model),
        Home::Application => application_files(names, model, like),
    };
    let sources = model.join("src");
    let own = module(&names.context);
    let golden = model.join("golden").join(&names.context).join(&names.aggregate);
    expect_free(&[&sources.join(&own), &sources.join(format!("{own}.rs")), &golden])?;
    let text = registered(&read(&path)?, &own).ok_or_else(|| {
        CommandFailure::new(
            ExitCode::Data,
            format_args!(
                "{register} has no line {MODULE:?} or no list {LIST:?} any more; add the context by hand"
            ),
        )
    })?;
    files.push(Written { path, text });
    if home == Home::Checkout {
        let page = root.join(PAGE);
        let text = read(&page)? + &names.fill(include_str!("../../../templates/context/page.md"));
        files.push(Written { path: page, text });
    }
    Ok(files)
}

/// The files of a context in the reference application, whose model depends on the engine's crates.
fn checkout_files(names: &Names, model: &Path) -> Vec<Written> {
    let sources = [
        ("{{context_module}}.rs", include_str!("../../../templates/context/context.rs")),
        (
            "{{context_module}}/{{aggregate_module}}.rs",
            include_str!("../../../templates/context/aggregate.rs"),
        ),
        (
            "{{context_module}}/{{aggregate_module}}_view.rs",
            include_str!("../../../templates/context/view.rs"),
        ),
    ];
    files_of(names, model, &sources, &LIKE_VIEW_GOLDEN)
}

const LIKE_VIEW_GOLDEN: [(&str, &str); 4] = [
    ("{{aggregate}}-added.v1.json", include_str!("../../../templates/context/titled.json")),
    ("{{aggregate}}-renamed.v1.json", include_str!("../../../templates/context/titled.json")),
    ("{{aggregate}}-removed.v1.json", EMPTY_EVENT),
    ("recorded.json", include_str!("../../../templates/context/recorded.json")),
];
const EMPTY_EVENT: &str = include_str!("../../../templates/context/removed.json");

/// The files of a context in a model that depends only on the crate `millstream`.
pub(super) fn application_files(names: &Names, model: &Path, like: Like) -> Vec<Written> {
    const CONTEXT: &str = "{{context_module}}.rs";
    const AGGREGATE: &str = "{{context_module}}/{{aggregate_module}}.rs";
    match like {
        Like::View => {
            let sources = [
                (CONTEXT, include_str!("../../../templates/app/context.rs")),
                (AGGREGATE, include_str!("../../../templates/app/aggregate.rs")),
                (
                    "{{context_module}}/{{aggregate_module}}_view.rs",
                    include_str!("../../../templates/app/view.rs"),
                ),
            ];
            files_of(names, model, &sources, &LIKE_VIEW_GOLDEN)
        }
        Like::Report => {
            let sources = [
                (CONTEXT, include_str!("../../../templates/app/report/context.rs")),
                (AGGREGATE, include_str!("../../../templates/app/report/aggregate.rs")),
                (
                    "{{context_module}}/{{aggregate_module}}_daily.rs",
                    include_str!("../../../templates/app/report/report.rs"),
                ),
            ];
            let golden = [
                (
                    "{{aggregate}}-recorded.v1.json",
                    include_str!("../../../templates/app/report/recorded-event.json"),
                ),
                (
                    "{{aggregate}}-closed.v1.json",
                    include_str!("../../../templates/app/report/closed-event.json"),
                ),
                ("recorded.json", include_str!("../../../templates/app/report/recorded.json")),
            ];
            files_of(names, model, &sources, &golden)
        }
        Like::Process => {
            let sources = [
                (CONTEXT, include_str!("../../../templates/app/process/context.rs")),
                (AGGREGATE, include_str!("../../../templates/app/process/aggregate.rs")),
                (
                    "{{context_module}}/{{aggregate_module}}_deadline.rs",
                    include_str!("../../../templates/app/process/process.rs"),
                ),
            ];
            let golden = [
                ("{{aggregate}}-opened.v1.json", EMPTY_EVENT),
                ("{{aggregate}}-settled.v1.json", EMPTY_EVENT),
                ("{{aggregate}}-expired.v1.json", EMPTY_EVENT),
                ("recorded.json", include_str!("../../../templates/app/process/recorded.json")),
            ];
            files_of(names, model, &sources, &golden)
        }
        Like::Claims => claims::files(names, model),
    }
}

/// The paths and templates below the model's sources, and below the folder of the aggregate's golden files.
fn files_of(names: &Names, model: &Path, sources: &[(&str, &str)], golden: &[(&str, &str)]) -> Vec<Written> {
    let folder = model.join("golden").join(&names.context).join(&names.aggregate);
    let below = |folder: PathBuf| {
        move |(path, template): &(&str, &str)| Written::filled(folder.join(names.fill(path)), names, template)
    };
    sources.iter().map(below(model.join("src"))).chain(golden.iter().map(below(folder))).collect()
}

/// The register including the context: its module in alphabetical order, and its line at the end of the list.
fn registered(text: &str, context: &str) -> Option<String> {
    let declared = |line: &&str| line.starts_with(MODULE) && line.ends_with(';');
    let own = format!("{MODULE}{context};");
    let next = text.lines().filter(declared).find(|line| **line > *own);
    let text = match next {
        Some(next) => text.replacen(&format!("{next}\n"), &format!("{own}\n{next}\n"), 1),
        None => {
            let last = text.lines().rfind(declared)?;
            text.replacen(&format!("{last}\n"), &format!("{last}\n{own}\n"), 1)
        }
    };
    let (before, list) = text.split_once(LIST)?;
    let (listed, after) = list.split_once(']')?;
    let listed = listed.trim().trim_end_matches(',');
    Some(format!("{before}{LIST}{listed}, {context}::context()]{after}"))
}

fn tell(names: &Names, home: Home, like: Like) -> Result<(), CommandFailure> {
    let Names { app, context, aggregate } = names;
    let module = module(context);
    let (test, run) = match home {
        Home::Checkout => (
            format!("cargo test -p millstream-model {module}\n  cargo run --bin millstream -- schema check"),
            "cargo build --release --workspace --bins, then millstream up".to_owned(),
        ),
        Home::Application => (
            "cargo test\n  cargo run -- schema check".to_owned(),
            format!("cargo build --release, then target/release/{app} up --dir data"),
        ),
    };
    let typed = match like {
        Like::View => [
            format!("nats pub -J cmd.{context}.{aggregate}.A-1.add '{{\"title\":\"First\"}}'"),
            format!("nats req query.{context}.{aggregate}.get '{{\"key\":\"A-1\"}}'"),
        ],
        Like::Report => [
            format!(
                "nats pub -J cmd.{context}.{aggregate}.north_2012-01-31.record '{{\"entry\":\"E-1\",\"amount\":500}}'"
            ),
            format!("{app} report {aggregate}-daily --date 2012-01-31"),
        ],
        Like::Process => [
            format!("nats pub -J cmd.{context}.{aggregate}.A-1.open '{{}}'"),
            format!("{app} history {context} {aggregate} A-1"),
        ],
        Like::Claims => [
            format!("nats pub -J cmd.{context}.{aggregate}.A-1.open '{{\"number\":\"N-1\"}}'"),
            format!("{app} history {context} {aggregate} A-1"),
        ],
    };
    output::line(format_args!("\nNext:\n  cargo fmt\n  {test}\n  {run}\n  {}", typed.join("\n  ")))?;
    if home == Home::Checkout {
        output::line("docs/guides/your-own-context.md goes on from here.")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGISTER: &str =
        "//! Rules.\n\npub mod club;\npub mod visit;\n\nfn contexts() {\n        vec![club::context()]\n}\n";

    #[test]
    fn context_is_declared_in_order_and_listed_last() {
        let first = registered(REGISTER, "member").unwrap();
        assert!(first.contains("pub mod club;\npub mod member;\npub mod visit;\n"), "{first}");
        let second = registered(&first, "zone").unwrap();
        assert!(second.contains("pub mod visit;\npub mod zone;\n"), "{second}");
        assert!(second.contains("vec![club::context(), member::context(), zone::context()]"), "{second}");
    }

    #[test]
    fn register_of_another_form_is_not_guessed_at() {
        assert_eq!(registered("pub mod club;\n", "member"), None);
    }
}
