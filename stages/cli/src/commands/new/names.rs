//! Names of new things, checked and in all the forms that files need.

use millstream_contract::subject::StreamId;

use crate::failure::CommandFailure;

/// Words that cannot be names of Rust modules, and names that the engine uses itself in rows and subjects.
const RESERVED: &[&str] = &[
    "abstract",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "command",
    "const",
    "continue",
    "crate",
    "do",
    "dyn",
    "else",
    "enum",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "let",
    "lib",
    "loop",
    "macro",
    "match",
    "millstream",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "pub",
    "ref",
    "return",
    "self",
    "static",
    "struct",
    "super",
    "test",
    "tests",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "unsafe",
    "unsized",
    "use",
    "virtual",
    "where",
    "while",
    "yield",
];
/// Long enough for every name that people type.
const NAME_LENGTH_MAX: usize = 40;

/// The names that templates use.
#[derive(Debug, Clone)]
pub(super) struct Names {
    /// The application; empty if there is none to name.
    pub(super) app: String,
    /// The context.
    pub(super) context: String,
    /// Its first aggregate.
    pub(super) aggregate: String,
}

impl Names {
    /// Checks the names of a context and an aggregate.
    ///
    /// # Errors
    /// A usage error that says which name cannot be used, and why.
    pub(super) fn new(app: &str, context: &str, aggregate: &str) -> Result<Self, CommandFailure> {
        check("context", context)?;
        check("aggregate", aggregate)?;
        if context == aggregate {
            return Err(CommandFailure::usage(
                "an aggregate is not called as its context; name it with --aggregate",
            ));
        }
        Ok(Self { app: app.to_owned(), context: context.to_owned(), aggregate: aggregate.to_owned() })
    }

    /// A template with the names filled in.
    pub(super) fn fill(&self, template: &str) -> String {
        template
            .replace("{{app}}", &self.app)
            .replace("{{app_module}}", &module(&self.app))
            .replace("{{App}}", &type_name(&self.app))
            .replace("{{context}}", &self.context)
            .replace("{{context_module}}", &module(&self.context))
            .replace("{{Context}}", &type_name(&self.context))
            .replace("{{aggregate}}", &self.aggregate)
            .replace("{{aggregate_module}}", &module(&self.aggregate))
            .replace("{{Aggregate}}", &type_name(&self.aggregate))
    }
}

/// Checks a name that becomes part of subjects and the name of a module.
///
/// # Errors
/// A usage error that says why it cannot be used.
pub(super) fn check(what: &str, name: &str) -> Result<(), CommandFailure> {
    let wrong =
        |why: &str| CommandFailure::usage(format_args!("the {what} cannot be called {name:?}: {why}"));
    StreamId::new(name, name, "A-1").map_err(|error| wrong(&error.to_string()))?;
    if name.len() > NAME_LENGTH_MAX {
        return Err(wrong(&format!("at most {NAME_LENGTH_MAX} characters are allowed")));
    }
    if RESERVED.contains(&name) {
        return Err(wrong("the name is taken; choose another one"));
    }
    Ok(())
}

/// The name of a module.
pub(super) fn module(name: &str) -> String {
    name.replace('-', "_")
}

fn type_name(name: &str) -> String {
    let capital = |part: &str| {
        let mut letters = part.chars();
        let first = letters.next().map(|first| first.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
    };
    name.split('-').map(capital).collect()
}
