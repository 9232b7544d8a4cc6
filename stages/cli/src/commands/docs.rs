//! `docs`: prints the page of contexts as Markdown, made from the model: commands, events, rejections, and what can be queried. Needs no
//! server.

use std::{collections::BTreeMap, fmt::Write as _};

use clap::Args;
use millstream_contract::exit_code::ExitCode;
use millstream_domain::{
    application::DefaultSettings,
    decider::{ANY_COMMAND, AggregateType},
    projection::view_name,
    report::Column,
    schema::{Field, Shape},
};

use crate::{failure::CommandFailure, output, session::Session};

/// Print the page of contexts: commands, events, rejections, views and reports, as Markdown
#[derive(Debug, Args)]
pub(crate) struct DocsArguments {
    /// Only this context
    #[arg(value_name = "CONTEXT")]
    context: Option<String>,
}

/// Runs it.
pub(crate) fn run(arguments: &DocsArguments, session: &Session) -> Result<ExitCode, CommandFailure> {
    let names = session.model()?.context_names();
    let wanted = match &arguments.context {
        None => names,
        Some(wanted) => match names.iter().find(|name| *name == wanted) {
            Some(name) => vec![*name],
            None => {
                let message = format_args!("there is no context {wanted}; there are {}", names.join(", "));
                return Err(CommandFailure::usage(message));
            }
        },
    };
    let mut page = format!(
        "# The contexts of {}\n\nA command goes to `cmd.<context>.<aggregate>.<id>.<command>`, a query to \
         `query.<context>.<view>.get`. Fields with a `?` are optional.\n",
        session.program.name
    );
    for context in wanted {
        page += &format!("\n## {context}\n");
        for aggregate in session.model()?.aggregates().iter().filter(|it| it.context() == context) {
            page += &of_aggregate(aggregate.as_ref());
        }
        page += &views(context, session)?;
        page += &reports(context, session)?;
    }
    output::line(page.trim_end())?;
    Ok(ExitCode::Ok)
}

fn of_aggregate(aggregate: &dyn AggregateType) -> String {
    let name = aggregate.aggregate();
    let mut refused: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (command, code) in aggregate.rejections() {
        refused.entry(command).or_default().push(code);
    }
    let codes = |command: &str| {
        let codes = [ANY_COMMAND, command].map(|it| refused.get(it).cloned().unwrap_or_default()).concat();
        codes.iter().map(|code| format!("`{code}`")).collect::<Vec<_>>().join(", ")
    };
    let mut text = format!("\n### `{name}.<{name}>`\n\n| command | body | rejected with |\n|---|---|---|\n");
    for command in aggregate.command_names() {
        let internal = aggregate.internal_commands().contains(command);
        text += &row(&[
            &format!("`{command}`{}", if internal { " (only from processes)" } else { "" }),
            &body(aggregate.command_shape(command).as_ref()),
            &codes(command),
        ]);
    }
    text += "\n| event | version | body |\n|---|---|---|\n";
    for (event, version) in aggregate.event_types() {
        let shape = aggregate.event_sample(event).and_then(|body| aggregate.event_shape(event, &body));
        text += &row(&[&format!("`{event}`"), &version.to_string(), &body(shape.as_ref())]);
    }
    text
}

fn views(context: &str, session: &Session) -> Result<String, CommandFailure> {
    let views = session.model()?.views(&mut DefaultSettings::default());
    let projections = views.projections.iter().filter(|projection| projection.context() == context);
    let own = projections.flat_map(|projection| projection.views()).map(|view| view_name(view));
    let outcomes = views.outcome_projections.iter().map(|projection| projection.name().to_owned());
    let names: Vec<String> = own.chain(outcomes).map(|view| format!("`{view}`")).collect();
    Ok(format!("\nViews: {}.\n", names.join(", ")))
}

fn reports(context: &str, session: &Session) -> Result<String, CommandFailure> {
    let reports = session.model()?.reports(&mut DefaultSettings::default());
    let mut text = String::new();
    for report in reports.iter().filter(|report| report.ledger.context() == context) {
        let columns = |figures: bool| {
            let columns = report.columns.iter().filter(|column| Column::is_figure(column) == figures);
            columns.map(|column| format!("`{}`", column.name)).collect::<Vec<_>>().join(", ")
        };
        let name = report.ledger.name();
        let _infallible = write!(text, "\nReport `{name}`: {}; figures {}.\n", columns(false), columns(true));
    }
    Ok(text)
}

fn row(cells: &[&str]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    format!("| {} |\n", cells.join(" | "))
}

/// The fields of a body; a dash if they could not be determined.
fn body(shape: Option<&Shape>) -> String {
    shape.map_or_else(|| "-".to_owned(), |shape| format!("`{}`", record(shape, "")))
}

/// The fields below a path that is empty or ends with a dot.
fn record(shape: &Shape, path: &str) -> String {
    let own = |name: &str| !name.is_empty() && !name.contains(['.', '[']);
    let fields = shape.fields.iter().filter_map(|(field, is)| match (field.strip_prefix(path), is) {
        (Some(name), Field::Is { kind, optional }) if own(name) => {
            let mark = if *optional { "?" } else { "" };
            Some(format!("{name}{mark}: {}", value(shape, field, kind)))
        }
        _ => None,
    });
    format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
}

fn value(shape: &Shape, path: &str, kind: &str) -> String {
    let element = format!("{path}[]");
    match (kind, shape.fields.get(&element)) {
        ("list", Some(Field::Is { kind, .. })) => format!("[{}]", value(shape, &element, kind)),
        ("record", _) => record(shape, &format!("{path}.")),
        _ => kind.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use millstream_domain::schema::sampled_shape_of;

    use super::*;

    millstream_domain::data! {
        struct Line {
            sku: String,
            quantity: i64,
        }

        struct Sale {
            sale: String,
            note: Option<String>,
            lines: Vec<Line>,
            tags: Vec<String>,
        }
    }

    #[test]
    fn body_names_its_fields_within_lists_and_records_too() {
        let shape = sampled_shape_of::<Sale>();
        assert_eq!(
            body(shape.as_ref()),
            "`{lines: [{quantity: i64, sku: text}], note?: text, sale: text, tags: [text]}`"
        );
        assert_eq!(body(None), "-");
    }
}
