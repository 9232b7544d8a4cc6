//! `millstream sql`: runs a statement, or a prompt, on the tables of the stage `sql`.

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use millstream_contract::exit_code::ExitCode;
use millstream_sql::{
    definition::SYSTEM,
    queries::{
        reader::{Answer, AskError, Limits, Reader},
        text::StatementText,
    },
    replica_runner::{SQLITE_FILE, Target},
    table::sql_name,
};
use millstream_values::report_table::{self, LineEnd};
use rustyline::{DefaultEditor, error::ReadlineError};

use crate::{failure::CommandFailure, output, session::Session};

/// How many rows are shown by default.
const ROWS_DEFAULT: usize = 1_000;
/// The largest answer: more than a person can look through.
const BYTES_MAX: usize = 64 * 1024 * 1024;
/// The prompt while a statement is incomplete.
const CONTINUED: &str = "  -> ";
/// The folder in which the stage keeps its tables by default.
const FOLDER_DEFAULT: &str = "data/sql";

/// The format of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A table for people
    Table,
    /// CSV (RFC 4180) with a header line
    Csv,
    /// A JSON object for each row
    Json,
}

/// Ask the tables of views and reports in SQL, read-only.
///
/// Tables are called `context.view`, as in `retail.till`, in SQLite and in PostgreSQL alike. Without --command there is a prompt: a
/// statement ends with a semicolon, `\d` lists the tables, `\d NAME` the columns of one, and `\q` ends. Statements may also come from a
/// pipe or file; then the command ends with the code of the first one that failed.
#[derive(Debug, clap::Args)]
pub(crate) struct SqlArguments {
    /// Run this statement and end
    #[arg(short, long, value_name = "SQL")]
    command: Option<String>,
    /// The file of SQLite, or postgres://user@host/database [default: data/sql/replica.sqlite]
    #[arg(long, value_name = "FILE|ADDRESS")]
    database: Option<String>,
    /// The file with the password for PostgreSQL
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// How rows are written
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// At most this many rows
    #[arg(long, default_value_t = ROWS_DEFAULT, value_name = "N", value_parser = crate::whole(1..=1_000_000_usize))]
    limit: usize,
    /// How long a statement may run
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = crate::duration)]
    timeout: Duration,
}

/// The database for statements.
struct Desk {
    reader: Arc<dyn Reader>,
    contexts: Vec<String>,
    is_postgres: bool,
    format: Format,
    limits: Limits,
}

/// Runs it.
pub(crate) fn run(arguments: &SqlArguments, session: &Session) -> Result<u8, CommandFailure> {
    let contexts = session.model()?.context_names().into_iter().map(sql_name).collect();
    let default = || PathBuf::from(FOLDER_DEFAULT).join(SQLITE_FILE).display().to_string();
    let database = arguments.database.clone().unwrap_or_else(default);
    let target = Target::named(database, arguments.password_file.clone(), None, None);
    if let Target::Sqlite(path) = &target
        && !path.is_file()
    {
        let message =
            format!("there is no file {}; name it with --database, or run the stage `sql`", path.display());
        return Err(CommandFailure::new(ExitCode::InputOutput, message));
    }
    // The position of the tables is not shown, so no projections are named.
    let reader = target.reader(Vec::new())?;
    let is_postgres = matches!(target, Target::Postgres { .. });
    let limits = Limits { time: arguments.timeout, rows: arguments.limit, bytes: BYTES_MAX };
    let desk = Desk { reader, contexts, is_postgres, format: arguments.format, limits };
    match &arguments.command {
        Some(statement) => desk.answer(statement).map(|()| 0),
        None => desk.prompt(session).map(|()| 0),
    }
}

impl Desk {
    fn ask(&self, statement: &str) -> Result<Answer, CommandFailure> {
        let statement = StatementText::read(statement, |word| {
            word == SYSTEM || self.contexts.iter().any(|context| context == word)
        });
        let statement = statement.map_err(CommandFailure::usage)?;
        if let Some(name) = statement.parameters().first() {
            return Err(CommandFailure::usage(format_args!(
                ":{name} is a parameter, which only configured queries have; write a value instead"
            )));
        }
        self.reader.ask(&statement, &[], self.limits).map_err(|error| match error {
            AskError::Refused(_) => CommandFailure::usage(error),
            error => CommandFailure::new(ExitCode::Unavailable, error),
        })
    }

    fn answer(&self, statement: &str) -> Result<(), CommandFailure> {
        let answer = self.ask(statement)?;
        self.show(&answer)?;
        match answer.is_cut {
            true => {
                let message =
                    format!("only the first {} rows are shown; --limit shows more", self.limits.rows);
                Err(CommandFailure::usage(message).with_code(crate::NOTHING_FOUND))
            }
            false => Ok(()),
        }
    }

    fn show(&self, answer: &Answer) -> Result<(), CommandFailure> {
        let cell = |row: &serde_json::Map<String, serde_json::Value>, name: &String| {
            row.get(name).map_or_else(String::new, report_table::cell)
        };
        let rows: Vec<Vec<String>> = answer
            .rows
            .iter()
            .map(|row| answer.columns.iter().map(|name| cell(row, name)).collect())
            .collect();
        let text = match self.format {
            Format::Json => {
                let lines = answer.rows.iter().map(|row| serde_json::Value::Object(row.clone()).to_string());
                lines.collect::<Vec<_>>().join("\n")
            }
            Format::Csv => {
                let names: Vec<&str> = answer.columns.iter().map(String::as_str).collect();
                let csv = report_table::csv(&names, &rows, LineEnd::LineFeed);
                let csv = String::from_utf8_lossy(&csv).into_owned();
                csv.strip_suffix('\n').map(str::to_owned).unwrap_or(csv)
            }
            Format::Table => {
                let is_number = |name: &&String| {
                    answer.rows.iter().any(|row| row.get(*name).is_some_and(serde_json::Value::is_number))
                };
                let numbers =
                    (0..).zip(&answer.columns).filter(|(_, name)| is_number(name)).map(|(place, _)| place);
                output::table_under(&answer.columns, &rows, &numbers.collect::<Vec<_>>())
            }
        };
        if text.is_empty() {
            return Ok(());
        }
        Ok(output::line(text)?)
    }

    /// Runs statements that are typed or come from elsewhere. In the latter case, the first failure decides the exit code.
    fn prompt(&self, session: &Session) -> Result<(), CommandFailure> {
        let unusable = |error: ReadlineError| CommandFailure::new(ExitCode::InputOutput, error);
        let is_typed = io::stdin().is_terminal();
        let mut editor = DefaultEditor::new().map_err(unusable)?;
        let mut statement = String::new();
        let mut first_failure = Ok(());
        loop {
            let prompt = if statement.is_empty() { "sql> " } else { CONTINUED };
            let (line, is_last) = match editor.readline(prompt) {
                Ok(line) => (line, false),
                Err(ReadlineError::Interrupted) => {
                    statement.clear();
                    continue;
                }
                // A statement without an end counts as well, unless a person left the prompt, who can see that it was not run.
                Err(ReadlineError::Eof) if is_typed || statement.is_empty() => return first_failure,
                Err(ReadlineError::Eof) => (String::new(), true),
                Err(error) => return Err(unusable(error)),
            };
            let line = line.trim_end();
            // It is no reason to end if the history cannot be kept.
            let _kept = editor.add_history_entry(line);
            let words: Vec<&str> = line.split_whitespace().collect();
            let answered = match (statement.is_empty(), words.as_slice()) {
                (true, ["\\q" | "exit" | "quit"]) => return first_failure,
                (true, ["\\d"]) => self.answer(self.tables()),
                (true, ["\\d", name]) => self.columns(name),
                (true, []) => continue,
                _ => {
                    statement.push_str(line);
                    statement.push('\n');
                    if !line.ends_with(';') && !is_last {
                        continue;
                    }
                    self.answer(&std::mem::take(&mut statement))
                }
            };
            if let Err(failure) = answered {
                session.console.say(format_args!("{}", failure.message));
                if !is_typed && first_failure.is_ok() {
                    first_failure = Err(failure);
                }
            }
        }
    }

    /// The statement that lists the tables.
    fn tables(&self) -> &'static str {
        match self.is_postgres {
            true => {
                "SELECT table_schema || '.' || table_name AS name FROM information_schema.tables \
                 WHERE table_schema NOT IN ('pg_catalog', 'information_schema') ORDER BY 1"
            }
            false => "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') ORDER BY name",
        }
    }

    /// The columns of a table, with their descriptions.
    fn columns(&self, name: &str) -> Result<(), CommandFailure> {
        let text = |text: &str| text.replace('\'', "''");
        let (context, table) = name.split_once('.').unwrap_or(("", name));
        if self.is_postgres {
            let (context, table) = (text(context), text(table));
            return self.answer(&format!(
                "SELECT column_name AS name, data_type AS type, \
                 coalesce(col_description(to_regclass('{context}.' || quote_ident('{table}')), ordinal_position), '') AS meaning \
                 FROM information_schema.columns WHERE table_schema = '{context}' AND table_name = '{table}' ORDER BY ordinal_position"
            ));
        }
        let full = if context.is_empty() { table.to_owned() } else { format!("{context}_{table}") };
        let answer = self.ask(&format!("SELECT sql FROM sqlite_schema WHERE name = '{}'", text(&full)))?;
        let defined = answer.rows.first().and_then(|row| row.get("sql")?.as_str().map(str::to_owned));
        match defined {
            Some(defined) => Ok(output::line(defined)?),
            None => Err(CommandFailure::usage(format_args!("there is no table {name}"))),
        }
    }
}
