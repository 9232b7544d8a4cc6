//! `millstream new context`: the starting point of a context of one's own, written into a checkout: an aggregate with its
//! rules, a view, tests of both, golden files with their records, the lines that register it, and its section of
//! docs/contexts.md. What it writes compiles and passes the tests as it is (end-to-end-tests/tests/own_context).

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use millstream_engine::{contract::subject::StreamId, exit_code::ExitCode};

use crate::{failure::CommandFailure, output};

/// The file in which contexts are registered; where it is, is a checkout.
const REGISTER: &str = "pipeline/model/src/lib.rs";
/// The line before which modules of contexts stand, and the one behind which they are listed.
const MODULES_BEFORE: &str = "pub mod orders;";
const LIST: &str = "pub const CONTEXTS: &[Context] = &[";
const PAGE: &str = "docs/contexts.md";

/// Names that are no names of Rust modules, and those of the engine's own parts in rows and subjects.
const RESERVED: &[&str] = &[
    "abstract", "as", "async", "await", "become", "box", "break", "command", "const", "continue", "crate",
    "do", "dyn", "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let",
    "lib", "loop", "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref", "return",
    "self", "static", "struct", "super", "test", "tests", "trait", "true", "try", "type", "typeof", "unsafe",
    "unsized", "use", "virtual", "where", "while", "yield",
];
/// Long enough for every name that people type.
const NAME_LENGTH_MAX: usize = 40;

/// Write the starting point of something new into a checkout.
#[derive(Debug, Args)]
pub(crate) struct NewArguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// A context: an aggregate with rules, a view, tests, golden files
    ///
    /// Writes into the checkout in which it is called, and changes nothing that is there but the list of contexts and the
    /// page docs/contexts.md.
    Context(ContextArguments),
}

#[derive(Debug, Args)]
struct ContextArguments {
    /// Its name, as in subjects: lower-kebab-case
    name: String,
    /// The name of its first aggregate
    #[arg(long, default_value = "item", value_name = "NAME")]
    aggregate: String,
}

/// The names in all the forms in which they are written.
struct Names {
    context: String,
    aggregate: String,
}

/// A file to write.
struct Written {
    path: PathBuf,
    text: String,
}

/// Runs it.
pub(crate) fn run(arguments: &NewArguments) -> Result<ExitCode, CommandFailure> {
    let What::Context(ContextArguments { name, aggregate }) = &arguments.what;
    check_name("context", name)?;
    check_name("aggregate", aggregate)?;
    let names = Names { context: name.clone(), aggregate: aggregate.clone() };
    if names.module(&names.context) == names.module(&names.aggregate) {
        return Err(CommandFailure::usage(
            "an aggregate is not called as its context; name it with --aggregate",
        ));
    }
    let root = checkout()?;
    let files = plan(&names, &root)?;
    for Written { path, text } in &files {
        write(path, text)?;
    }
    tell(&names, &root, &files)?;
    Ok(ExitCode::Ok)
}

fn check_name(what: &str, name: &str) -> Result<(), CommandFailure> {
    let wrong =
        |why: &str| CommandFailure::usage(format_args!("the {what} cannot be called {name:?}: {why}"));
    let fits = |stream: Result<StreamId, _>| stream.map(|_| ()).map_err(|error| wrong(&format!("{error}")));
    fits(StreamId::new(name, name, "A-1"))?;
    if name.len() > NAME_LENGTH_MAX {
        return Err(wrong(&format!("at most {NAME_LENGTH_MAX} characters are allowed")));
    }
    if RESERVED.contains(&name) {
        return Err(wrong("the name is taken; choose another one"));
    }
    Ok(())
}

fn checkout() -> Result<PathBuf, CommandFailure> {
    let here = std::env::current_dir().map_err(|error| CommandFailure::file(Path::new("."), &error))?;
    let found = here.ancestors().find(|folder| folder.join(REGISTER).is_file());
    found.map(Path::to_owned).ok_or_else(|| {
        CommandFailure::usage(format_args!(
            "there is no {REGISTER} here or further up; call it in a checkout of Millstream"
        ))
    })
}

/// Every file with its text, before anything is written.
fn plan(names: &Names, root: &Path) -> Result<Vec<Written>, CommandFailure> {
    let (context, aggregate) = (names.module(&names.context), names.module(&names.aggregate));
    let model = root.join("pipeline/model");
    let golden = model.join("golden").join(&names.context).join(&names.aggregate);
    let (folder, module) =
        (model.join("src").join(&context), model.join("src").join(format!("{context}.rs")));
    if let Some(there) = [&folder, &module, &golden].into_iter().find(|path| path.exists()) {
        return Err(CommandFailure::usage(format_args!(
            "{} is there already; nothing was written, choose another name",
            there.display()
        )));
    }
    let new = |path: PathBuf, template: &str| Written { path, text: names.fill(template) };
    let event = |event: &str| golden.join(format!("{}-{event}.v1.json", names.aggregate));
    let mut files = vec![
        new(module, include_str!("../../templates/context/context.rs")),
        new(folder.join(format!("{aggregate}.rs")), include_str!("../../templates/context/aggregate.rs")),
        new(folder.join(format!("{aggregate}_view.rs")), include_str!("../../templates/context/view.rs")),
        new(event("added"), include_str!("../../templates/context/titled.json")),
        new(event("renamed"), include_str!("../../templates/context/titled.json")),
        new(event("removed"), include_str!("../../templates/context/removed.json")),
        new(golden.join("recorded.json"), include_str!("../../templates/context/recorded.json")),
    ];
    let register = root.join(REGISTER);
    let text = read(&register)?;
    let text = registered(&text, &context).ok_or_else(|| {
        CommandFailure::new(
            ExitCode::Data,
            format_args!("{REGISTER} has no line {MODULES_BEFORE:?} or no list {LIST:?} any more; add the context by hand"),
        )
    })?;
    files.push(Written { path: register, text });
    let page = root.join(PAGE);
    let text = read(&page)? + &names.fill(include_str!("../../templates/context/page.md"));
    files.push(Written { path: page, text });
    Ok(files)
}

/// The register with the context in it.
fn registered(text: &str, context: &str) -> Option<String> {
    let (before, after) = text.split_once(MODULES_BEFORE)?;
    let text = format!("{before}pub mod {context};\n{MODULES_BEFORE}{after}");
    let (before, list) = text.split_once(LIST)?;
    let (listed, after) = list.split_once("];")?;
    let listed = listed.trim().trim_end_matches(',');
    Some(format!("{before}{LIST}{listed}, {context}::PARTS];{after}"))
}

impl Names {
    fn module(&self, name: &str) -> String {
        name.replace('-', "_")
    }

    fn type_name(&self, name: &str) -> String {
        let capital = |part: &str| {
            let mut letters = part.chars();
            letters
                .next()
                .map(|first| first.to_ascii_uppercase())
                .into_iter()
                .chain(letters)
                .collect::<String>()
        };
        name.split('-').map(capital).collect()
    }

    fn fill(&self, template: &str) -> String {
        template
            .replace("{{context}}", &self.context)
            .replace("{{context_module}}", &self.module(&self.context))
            .replace("{{Context}}", &self.type_name(&self.context))
            .replace("{{aggregate}}", &self.aggregate)
            .replace("{{aggregate_module}}", &self.module(&self.aggregate))
            .replace("{{Aggregate}}", &self.type_name(&self.aggregate))
    }
}

fn read(path: &Path) -> Result<String, CommandFailure> {
    fs::read_to_string(path).map_err(|error| CommandFailure::file(path, &error))
}

fn write(path: &Path, text: &str) -> Result<(), CommandFailure> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(path, text))
        .map_err(|error| CommandFailure::file(path, &error))
}

fn tell(names: &Names, root: &Path, files: &[Written]) -> Result<(), CommandFailure> {
    for Written { path, .. } in files {
        let path = path.strip_prefix(root).unwrap_or(path);
        output::line(format_args!("wrote {}", path.display()))?;
    }
    let Names { context, aggregate } = names;
    let module = names.module(context);
    output::line(format_args!(
        "\nNext:\n  \
         cargo fmt\n  \
         cargo test -p millstream-model {module}\n  \
         cargo run --bin millstream -- schema check\n  \
         cargo build --release --workspace --bins, then millstream up\n  \
         nats pub -J cmd.{context}.{aggregate}.A-1.add '{{\"title\":\"First\"}}'\n  \
         nats req query.{context}.{aggregate}.get '{{\"key\":\"A-1\"}}'\n\
         docs/guides/your-own-context.md goes on from here."
    ))?;
    Ok(())
}
