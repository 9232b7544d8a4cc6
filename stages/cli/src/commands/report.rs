//! `millstream report`: shows a report of a day, as a table, CSV or JSON, as it is or as it was, and proves that it is right.

mod comparison;
mod verify;

use clap::ValueEnum;
use jiff::civil::Date;
use millstream_contract::exit_code::ExitCode;
use millstream_domain::{
    application::BuiltReport,
    projection::Projection,
    report::{Column, ColumnKind},
};
use millstream_values::report_table::{self, LineEnd};
use serde_json::Value;

use self::verify::VerifyArguments;
use crate::{
    failure::CommandFailure,
    output,
    past_views::{Moment, Past},
    query_client::{Freshness, QueryError, TOO_LARGE, ViewClient, ViewRow, ViewSource},
    session::Session,
};

/// Show a report, such as `store-daily`, `supplier-daily` or `stock-valuation`.
///
/// Amounts are decimals in a table and in CSV, and minor units in JSON. With --as-of, the ledger is folded again from the first event up to
/// that moment, and shows which revision was current then, open or sealed, and its figures. Ends with 13 if there is no row with the key.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct ReportArguments {
    /// As in `store-daily`
    #[arg(required = true)]
    name: Option<String>,
    /// The business date, as in 2012-01-31
    #[arg(long, required = true)]
    date: Option<Date>,
    /// Only this store or supplier
    #[arg(long)]
    key: Option<String>,
    /// An earlier revision, from 1 on; by default the current one
    #[arg(long, value_name = "N", value_parser = crate::whole(1..=u32::MAX))]
    revision: Option<u32>,
    /// As it was: at a time, at the end of a date (UTC), at a position as answers carry it, or at a sequence of EVENTS
    #[arg(long, value_name = "TIME|POSITION", conflicts_with_all = ["position", "wait", "as_it_is"])]
    as_of: Option<Moment>,
    /// The output format
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    #[command(flatten)]
    freshness: Freshness,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Fold every report again from EVENTS and compare it with the reporter's, byte by byte
    ///
    /// Current records, revisions and differences are compared at the positions of the reporter's answers. Ends with 65 if something
    /// differs, with a line for each record that does.
    Verify(VerifyArguments),
}

/// Runs it. The number is the exit code.
pub(crate) async fn run(arguments: ReportArguments, session: &Session) -> Result<u8, CommandFailure> {
    if let Some(Action::Verify(arguments)) = arguments.action {
        return verify::run(arguments, session).await;
    }
    let (Some(name), Some(date)) = (&arguments.name, arguments.date) else {
        return Err(CommandFailure::usage("name a report and its --date"));
    };
    let report = ReportView::find(&session.reports()?, name)?;
    let connected = session.connect().await?;
    let (date, key) = (date.to_string(), arguments.key.as_deref());
    let rows = match &arguments.as_of {
        None => {
            let freshness = arguments.freshness.settled(&connected, report.name).await;
            let source = ViewSource::Service(Box::new(connected.broker.clone()), freshness);
            report.rows(&source, &date, key, arguments.revision).await?
        }
        Some(moment) => {
            let ledger = ledgers(session, Some(report.name))?;
            let (past, position) = Past::fold(session, &connected, ledger, moment).await?;
            session.console.say(format_args!("{} as of {position}", report.name));
            let rows = report.rows(&past.source(), &date, key, arguments.revision).await;
            past.close().await;
            rows?
        }
    };
    for row in rows.iter().filter(|row| row.get(TOO_LARGE).is_some()) {
        session.console.say(format_args!("{row}: no answer can hold this row; --as-of folds it here"));
    }
    if rows.is_empty() {
        let key = key.map(|key| format!(" and {key}")).unwrap_or_default();
        let revision = arguments.revision.map(|number| format!(", revision {number}")).unwrap_or_default();
        session.console.say(format_args!("{name} has nothing for {date}{key}{revision}"));
    }
    if !rows.is_empty() || arguments.format != Format::Table {
        output::line(report.render(&rows, arguments.format))?;
    }
    Ok(if rows.is_empty() && key.is_some() { crate::NOTHING_FOUND } else { ExitCode::Ok.number() })
}

/// The reports with a name, or all of them.
fn ledgers(session: &Session, name: Option<&str>) -> Result<Vec<Box<dyn Projection>>, CommandFailure> {
    let mut reports = session.reports()?;
    if let Some(name) = name {
        let found = ReportView::find(&reports, name)?;
        reports.retain(|report| report.ledger.name() == found.name);
    }
    Ok(reports.into_iter().map(|report| report.ledger).collect())
}

/// The format of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    /// For programs: every text as it is
    Csv,
    /// CSV with an apostrophe before each text that a spreadsheet would take for a formula, such as =1+1
    Spreadsheet,
    Json,
}

/// A report and where it is queried.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReportView {
    context: &'static str,
    name: &'static str,
    columns: &'static [Column],
}

impl ReportView {
    /// The report of a name.
    ///
    /// # Errors
    /// When there is no such report.
    pub(crate) fn find(reports: &[BuiltReport], name: &str) -> Result<Self, CommandFailure> {
        let Some(BuiltReport { ledger, columns }) =
            reports.iter().find(|report| report.ledger.name() == name)
        else {
            let known: Vec<&str> = reports.iter().map(|report| report.ledger.name()).collect();
            let text = match known.is_empty() {
                true => format!("there is no report {name}; this application has none"),
                false => format!("there is no report {name}; there are {}", known.join(", ")),
            };
            return Err(CommandFailure::usage(text));
        };
        Ok(Self { context: ledger.context(), name: ledger.name(), columns })
    }

    /// The rows of a date, in the order of their keys.
    ///
    /// # Errors
    /// [`QueryError`].
    pub(crate) async fn rows(
        &self,
        source: &ViewSource,
        date: &str,
        key: Option<&str>,
        revision: Option<u32>,
    ) -> Result<Vec<Value>, QueryError> {
        let view = match revision {
            None => self.name.to_owned(),
            Some(_) => format!("{}-revisions", self.name),
        };
        let suffix = revision.map(|number| format!("#{number:06}")).unwrap_or_default();
        let view = ViewClient::new(source.clone(), self.context, &view);
        let rows = view.list(&format!("{date}/{}", key.unwrap_or_default())).collect().await?;
        let wanted = rows.into_iter().filter(|row| match row.key.strip_suffix(&suffix) {
            Some(within) => {
                key.is_none_or(|key| within == format!("{date}/{key}") || self.is_about(row, key))
            }
            None => false,
        });
        let first = self.columns.first().map_or("key", |column| column.name);
        Ok(wanted.map(|row| row.into_fields(first)).collect())
    }

    /// A key may contain more than the subject of the row, such as a currency; the first column is the subject.
    fn is_about(&self, row: &ViewRow, key: &str) -> bool {
        let first = self.columns.first().and_then(|column| row.value.get(column.name));
        first.and_then(Value::as_str) == Some(key)
    }

    /// The rows as text.
    pub(crate) fn render(&self, rows: &[Value], format: Format) -> String {
        let names: Vec<&str> = self.columns.iter().map(|column| column.name).collect();
        let cells: Vec<Vec<String>> = rows.iter().map(|row| report_table::cells(row, self.columns)).collect();
        match format {
            Format::Csv => csv(&names, &cells),
            Format::Spreadsheet => {
                let quoted = |(text, column): (String, &Column)| match column.kind {
                    ColumnKind::Text if begins_as_formula(&text) => format!("'{text}"),
                    _ => text,
                };
                let cells =
                    cells.into_iter().map(|row| row.into_iter().zip(self.columns).map(quoted).collect());
                csv(&names, &cells.collect::<Vec<_>>())
            }
            Format::Table => {
                let numbers: Vec<usize> = (0..)
                    .zip(self.columns)
                    .filter(|(_, column)| column.kind != ColumnKind::Text)
                    .map(|(index, _)| index)
                    .collect();
                let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
                output::table(&names, &cells, &numbers)
            }
            Format::Json => {
                let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
                format!("[{}]", lines.join(",\n"))
            }
        }
    }
}

/// Whether a spreadsheet would take a text for a formula (OWASP, "CSV injection").
fn begins_as_formula(text: &str) -> bool {
    text.starts_with(['=', '+', '-', '@', '\t', '\r'])
}

/// Without the end of its last line, which the caller prints.
fn csv(names: &[&str], cells: &[Vec<String>]) -> String {
    let bytes = report_table::csv(names, cells, LineEnd::LineFeed);
    let text = String::from_utf8(bytes).expect("cells and names are texts");
    text.strip_suffix('\n').unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use millstream_domain::application::{DefaultSettings, Model};
    use millstream_model::Reference;
    use serde_json::json;

    use super::*;

    fn report(name: &str) -> ReportView {
        let reports = Model::of::<Reference>().unwrap().reports(&mut DefaultSettings::default());
        ReportView::find(&reports, name).unwrap()
    }

    #[test]
    fn amounts_have_two_places_in_csv_and_are_minor_units_in_json() {
        let report = report("store-daily");
        let row = json!({
            "store": "2506", "business_date": "2012-01-31", "revision": 1, "status": "open", "sales": 2, "returns": 1,
            "units_sold": 4, "units_returned": 1, "gross_amount": 1599, "refund_amount": 500, "net_amount": -5,
            "currency": "USD",
        });
        let rows = [row];
        assert_eq!(
            report.render(&rows, Format::Csv),
            "store,business_date,revision,status,sales,returns,units_sold,units_returned,gross_amount,refund_amount,\
             net_amount,currency\n2506,2012-01-31,1,open,2,1,4,1,15.99,5.00,-0.05,USD"
        );
        let json: Value = serde_json::from_str(&report.render(&rows, Format::Json)).unwrap();
        assert_eq!(json, json!(rows));
    }

    #[test]
    fn amounts_have_the_places_of_their_currency() {
        let report = report("store-daily");
        for (currency, units, shown) in
            [("JPY", 1_200, "1200"), ("KWD", 1_500, "1.500"), ("USD", 1_500, "15.00")]
        {
            let rows = [json!({ "gross_amount": units, "currency": currency })];
            for format in [Format::Csv, Format::Table] {
                let text = report.render(&rows, format);
                assert!(text.split([',', ' ', '\n']).any(|cell| cell == shown), "{currency}: {text}");
            }
        }
    }

    #[test]
    fn texts_that_look_like_formulas_are_quoted_for_spreadsheets_only() {
        let report = report("supplier-daily");
        let rows = [
            json!({ "supplier": "luxco", "supplier_name": "=cmd|' /C calc'!A0", "net_amount": -5, "currency": "USD" }),
        ];
        let (plain, quoted) = (report.render(&rows, Format::Csv), report.render(&rows, Format::Spreadsheet));
        assert!(plain.contains(",=cmd|' /C calc'!A0,"), "{plain}");
        assert!(quoted.contains(",'=cmd|' /C calc'!A0,") && quoted.contains(",-0.05,"), "{quoted}");
    }

    #[test]
    fn empty_report_is_a_header_in_csv_and_an_empty_list_in_json() {
        let report = report("supplier-daily");
        assert!(report.render(&[], Format::Csv).starts_with("supplier,supplier_name,"));
        assert_eq!(report.render(&[], Format::Json), "[]");
    }
}
