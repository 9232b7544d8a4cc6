//! A map to begin with, for a file that has none: how the file is written, what its columns look like, and places for what only a person
//! can say.
//!
//! Deliberately absent: certainty. What is found out is of the first rows, and is said beside it.

use std::{collections::HashSet, fmt, path::Path};

use millstream_domain::{
    decider::{AggregateRegistry, AggregateType},
    schema::fields_of_record,
};
use serde_json::Value;

use super::{
    date_form::DateForm,
    file_form::FileForm,
    input::{InputError, RowsFile},
    number::{Around, FORMS, Number, NumberForm},
    source::Source,
};
use crate::failure::CommandFailure;

/// Rows that are looked at.
const ROWS: usize = 1000;
/// Examples of a column, and their length.
const EXAMPLES: usize = 3;
const EXAMPLE_LENGTH: usize = 24;
/// Columns that are told.
const COLUMNS_MAX: usize = 1000;
/// How many of the first columns are tried in pairs for what tells rows apart.
const TRIED: usize = 8;
/// What stands where a person has to choose.
const CHOOSE: &str = "?";

/// Days, as files write them; the more common first.
const DATES: [&str; 9] = [
    "%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%d-%m-%Y", "%Y/%m/%d", "%Y%m%d", "%d.%m.%y", "%m/%d/%y",
];
/// Times behind the day. `%z` reads every offset, however it is written.
const TIMES: [&str; 6] = ["", " %H:%M", " %H:%M:%S", "T%H:%M:%S", " %H:%M:%S %z", "T%H:%M:%S%z"];

/// What a column seems to hold.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Nothing,
    Whole,
    Amount,
    /// In these formats, all of which read each value.
    Date(Vec<String>),
    Time(Vec<String>),
    Text,
}

struct Column {
    name: String,
    kind: Kind,
    examples: Vec<String>,
    /// Rows in which it holds something.
    filled: usize,
}

/// Writes the map.
///
/// # Errors
/// When the file is none of rows, or there is no such command.
pub(crate) fn map(
    path: &Path,
    command: Option<&str>,
    known: &AggregateRegistry,
) -> Result<String, CommandFailure> {
    let command = command.map(|command| find(command, known)).transpose()?;
    let form = FileForm::default();
    let file = RowsFile::check(Source::at(path, &form)?, &form)?;
    let rows = first_rows(&file)?;
    let numbers = number_form(&file, &rows);
    let columns: Vec<Column> = (0..)
        .zip(&file.header)
        .map(|(index, name)| Column::look(name, &values(&rows, index), numbers))
        .collect();
    let mut map = String::new();
    write_head(&mut map, path, &file, numbers, rows.len());
    write_columns(&mut map, &columns);
    let identity = identity(&columns, &rows);
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let context = command.as_ref().map_or(CHOOSE, |(of_type, _)| of_type.context());
    say(&mut map, format_args!("name = {}\ncontext = {}", quoted(&name), quoted(context)));
    match &identity {
        Some(names) => {
            let names: Vec<String> = names.iter().map(|name| quoted(&format!("{{{name}}}"))).collect();
            say(&mut map, format_args!("# No two of the rows that were looked at have the same values here. Is that always so?"));
            say(&mut map, format_args!("identity = [{}]", names.join(", ")));
        }
        None => map.push_str(
            "# No few columns tell rows apart. \"content\": equal rows of different files are one; \"file-and-content\": they are two.\n\
             identity = \"content\"\n",
        ),
    }
    write_form(&mut map, &file, numbers, Point::look(&file, &rows, numbers));
    match command {
        Some((of_type, command)) => write_command(&mut map, of_type.as_ref(), &command, &columns),
        None => write_choice(&mut map, known),
    }
    Ok(map)
}

fn find(
    command: &str,
    known: &AggregateRegistry,
) -> Result<(std::sync::Arc<dyn AggregateType>, String), CommandFailure> {
    let parts: Vec<&str> = command.split('.').collect();
    let found = match parts.as_slice() {
        [context, aggregate, command] => known
            .get(context, aggregate)
            .filter(|of_type| of_type.command_names().contains(command))
            .map(|of_type| (std::sync::Arc::clone(of_type), (*command).to_owned())),
        _ => None,
    };
    found.ok_or_else(|| {
        CommandFailure::usage(format_args!(
            "there is no command {command}; there are {}",
            all(known).join(", ")
        ))
    })
}

/// All commands that an import may give.
fn all(known: &AggregateRegistry) -> Vec<String> {
    let of = |of_type: &std::sync::Arc<dyn AggregateType>| {
        let (context, aggregate) = (of_type.context().to_owned(), of_type.aggregate().to_owned());
        let internal = of_type.internal_commands();
        let names = of_type.command_names().iter().filter(move |name| !internal.contains(name));
        names.map(move |name| format!("{context}.{aggregate}.{name}")).collect::<Vec<_>>()
    };
    known.iter().flat_map(of).collect()
}

fn first_rows(file: &RowsFile) -> Result<Vec<csv::StringRecord>, InputError> {
    file.rows()?.take(ROWS).map(|row| row.map(|row| row.record)).collect()
}

/// What a column holds, without what is empty.
fn values(rows: &[csv::StringRecord], index: usize) -> Vec<&str> {
    let all = rows.iter().map(|row| row.get(index).unwrap_or_default().trim());
    all.filter(|value| !value.is_empty()).collect()
}

/// That by which most columns hold numbers.
fn number_form(file: &RowsFile, rows: &[csv::StringRecord]) -> NumberForm {
    let reads = |form: NumberForm| {
        let is_read = |index: &usize| {
            let values = values(rows, *index);
            !values.is_empty()
                && values.iter().all(|value| Number::read(value, form, Around::AnyCurrency).is_some())
        };
        (0..file.header.len()).filter(is_read).count()
    };
    let forms = FORMS.into_iter().map(|(decimal, thousands)| NumberForm {
        decimal,
        thousands,
        ..NumberForm::default()
    });
    let mut best = (NumberForm::default(), reads(NumberForm::default()));
    for form in forms {
        let count = reads(form);
        if count > best.1 {
            best = (form, count);
        }
    }
    best.0
}

/// What the rows tell of numbers that may be a thousand times as much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Point {
    /// There is no such number.
    Clear,
    /// Other numbers show that places stand behind it.
    BeforePlaces,
    Unknown,
}

impl Point {
    fn look(file: &RowsFile, rows: &[csv::StringRecord], form: NumberForm) -> Self {
        let all = (0..file.header.len()).flat_map(|index| {
            let read = values(rows, index).into_iter().map(move |value| {
                Some((value.contains(form.decimal), Number::read(value, form, Around::AnyCurrency)?))
            });
            read.collect::<Option<Vec<_>>>().unwrap_or_default()
        });
        let (doubtful, certain): (Vec<_>, Vec<_>) = all
            .filter(|(has_point, _)| *has_point && form.thousands.is_none())
            .partition(|(_, number)| !number.is_certain());
        match (doubtful.is_empty(), certain.is_empty()) {
            (true, _) => Self::Clear,
            (false, false) => Self::BeforePlaces,
            (false, true) => Self::Unknown,
        }
    }
}

impl Column {
    fn look(name: &str, values: &[&str], numbers: NumberForm) -> Self {
        let mut examples: Vec<String> = Vec::new();
        for value in values {
            let short: String = value.chars().take(EXAMPLE_LENGTH).collect();
            if examples.len() < EXAMPLES && !examples.contains(&short) {
                examples.push(short);
            }
        }
        Self { name: name.trim().to_owned(), kind: Kind::of(values, numbers), examples, filled: values.len() }
    }

    /// How a map takes it.
    fn taken(&self) -> String {
        match &self.kind {
            Kind::Date(formats) => {
                format!("{{{}|date:{}}}", self.name, formats.first().map_or("", String::as_str))
            }
            Kind::Time(formats) => {
                format!("{{{}|time:{}}}", self.name, formats.first().map_or("", String::as_str))
            }
            Kind::Nothing | Kind::Whole | Kind::Amount | Kind::Text => format!("{{{}}}", self.name),
        }
    }
}

impl Kind {
    fn of(values: &[&str], numbers: NumberForm) -> Self {
        if values.is_empty() {
            return Self::Nothing;
        }
        let reads = |format: &String| {
            let form = DateForm::new(format);
            let is_read = |value: &str| {
                let date = form.parse(value).and_then(|parsed| parsed.to_date());
                date.is_ok() || form.parse_with_offset(value).is_some()
            };
            let read = |value: &&str| form.has_its_digits(value) && is_read(value);
            values.iter().all(read)
        };
        let formats = DATES.iter().flat_map(|date| TIMES.iter().map(move |time| format!("{date}{time}")));
        let formats: Vec<String> = formats.filter(reads).collect();
        if formats.iter().any(|format| DateForm::new(format).reads_times()) {
            return Self::Time(formats);
        }
        if formats.iter().any(|format| DateForm::new(format).reads_dates()) {
            return Self::Date(formats);
        }
        let of = |around| values.iter().all(|value| Number::read(value, numbers, around).is_some());
        let is_whole = |value: &&str| {
            Number::read(value, numbers, Around::Nothing)
                .is_some_and(|number| number.units(0, 1, None).is_ok())
        };
        match () {
            () if values.iter().all(is_whole) => Self::Whole,
            () if of(Around::AnyCurrency) => Self::Amount,
            () => Self::Text,
        }
    }

    fn told(&self) -> String {
        let more = |formats: &[String]| match formats {
            [_] | [] => String::new(),
            [_, others @ ..] => format!(", or {}: it cannot be told from these rows", others.join(", ")),
        };
        match self {
            Self::Nothing => "always empty".to_owned(),
            Self::Whole => "a whole number".to_owned(),
            Self::Amount => "a number".to_owned(),
            Self::Date(formats) => {
                format!("a date, date:{}{}", formats.first().map_or("", String::as_str), more(formats))
            }
            Self::Time(formats) => {
                format!("a time, time:{}{}", formats.first().map_or("", String::as_str), more(formats))
            }
            Self::Text => "a text".to_owned(),
        }
    }
}

/// The fewest columns whose values no two rows share: one, or two of the first.
fn identity(columns: &[Column], rows: &[csv::StringRecord]) -> Option<Vec<String>> {
    if rows.len() < 2 {
        return None;
    }
    let is_key = |column: &Column| {
        column.filled == rows.len()
            && !column.name.is_empty()
            && !matches!(column.kind, Kind::Amount | Kind::Nothing)
    };
    let keys: Vec<usize> = columns
        .iter()
        .enumerate()
        .filter(|(_, column)| is_key(column))
        .map(|(index, _)| index)
        .take(TRIED)
        .collect();
    let tells = |chosen: &[usize]| {
        let mut seen = HashSet::new();
        rows.iter().all(|row| seen.insert(chosen.iter().map(|index| row.get(*index)).collect::<Vec<_>>()))
    };
    let alone = keys.iter().map(|key| vec![*key]);
    let pairs = keys
        .iter()
        .flat_map(|one| keys.iter().filter(move |other| *other > one).map(move |other| vec![*one, *other]));
    let chosen = alone.chain(pairs).find(|chosen| tells(chosen))?;
    Some(
        chosen.into_iter().filter_map(|index| columns.get(index)).map(|column| column.name.clone()).collect(),
    )
}

fn write_head(map: &mut String, path: &Path, file: &RowsFile, numbers: NumberForm, looked_at: usize) {
    let (delimiter, encoding) = file.form();
    let thousands = numbers.thousands.map_or("nothing".to_owned(), |mark| format!("{mark:?}"));
    say(
        map,
        format_args!(
            "# A map to begin with for {}: {} rows, of which {looked_at} were looked at; columns between {delimiter:?}, {encoding},\n\
         # decimals behind {:?}, {thousands} between groups of digits. Mend what is wrong, fill in what says {CHOOSE:?}, then:\n\
         #     millstream import --check MAP FILE\n\
         #     millstream import --map MAP --dry-run FILE\n#",
            one_line(&path.display().to_string()),
            file.count,
            numbers.decimal
        ),
    );
}

fn write_columns(map: &mut String, columns: &[Column]) {
    map.push_str("# Columns:\n");
    for column in columns.iter().take(COLUMNS_MAX) {
        let examples: Vec<String> =
            column.examples.iter().map(|example| one_line(&format!("{example:?}"))).collect();
        let filled =
            if column.examples.is_empty() { String::new() } else { format!(", as {}", examples.join(", ")) };
        say(map, format_args!("#   {}: {}{filled}", one_line(&column.name), column.kind.told()));
    }
    if columns.len() > COLUMNS_MAX {
        map.push_str(&format!("#   and {} more\n", columns.len() - COLUMNS_MAX));
    }
    map.push('\n');
}

fn write_form(map: &mut String, file: &RowsFile, numbers: NumberForm, point: Point) {
    let (delimiter, encoding) = file.form();
    let mut lines = Vec::new();
    if delimiter != ',' {
        lines.push(format!("delimiter = {}", quoted(&delimiter.to_string())));
    }
    if encoding != "utf-8" {
        lines.push(format!("encoding = {}", quoted(&encoding)));
    }
    if point == Point::Unknown {
        let (sign, other) = (numbers.decimal, if numbers.decimal == '.' { ',' } else { '.' });
        lines.push(format!(
            "# Some numbers may be a thousand times as much, as 1{sign}000 and 12{sign}500: say what the sign is. For places decimal = \"{sign}\", for \
             groups of\n# digits decimal = \"{other}\" and thousands = \"{sign}\". Until then their rows are refused."
        ));
    }
    if (numbers.decimal != '.' && point != Point::Unknown) || point == Point::BeforePlaces {
        lines.push(format!("decimal = {}", quoted(&numbers.decimal.to_string())));
    }
    if let Some(mark) = numbers.thousands {
        lines.push(format!("thousands = {}", quoted(&mark.to_string())));
    }
    lines.push("# Of times that do not tell theirs, and of days:\n# zone = \"Europe/Berlin\"".to_owned());
    say(map, format_args!("\n[file]\n{}", lines.join("\n")));
}

fn write_choice(map: &mut String, known: &AggregateRegistry) {
    map.push_str("\n# One of these for each command, or --command with --start:\n");
    for command in all(known) {
        say(map, format_args!("#   {command}"));
    }
    say(
        map,
        format_args!(
            "[[command]]\naggregate = {CHOOSE:?}\nid = \"{{{CHOOSE}}}\"\ncommand = {CHOOSE:?}\nbody = {{}}"
        ),
    );
}

fn write_command(map: &mut String, of_type: &dyn AggregateType, command: &str, columns: &[Column]) {
    say(
        map,
        format_args!(
            "\n[[command]]\naggregate = {}\nid = \"{{{CHOOSE}}}\"\ncommand = {}\n\n[command.body]",
            quoted(of_type.aggregate()),
            quoted(command)
        ),
    );
    let Some(schema) = of_type.command_json_schema(command) else {
        map.push_str("# The fields are in the description of the contexts.\n");
        return;
    };
    for (name, schema, is_required) in fields(&schema) {
        let comment = if is_required { "" } else { "# " };
        say(map, format_args!("{comment}{} = {}", key(name), value(name, schema, columns)));
    }
}

/// The fields of a record: those that it needs first.
fn fields(schema: &Value) -> Vec<(&str, &Value, bool)> {
    let mut all = fields_of_record(schema);
    all.sort_by_key(|(_, _, is_required)| !is_required);
    all
}

fn value(name: &str, schema: &Value, columns: &[Column]) -> String {
    let is = |kind: &str| match schema.get("type") {
        Some(Value::String(found)) => found == kind,
        Some(Value::Array(all)) => all.iter().any(|found| found == kind),
        _ => false,
    };
    let guess = columns.iter().find(|column| is_like(name, &column.name));
    let text = quoted(&guess.map_or(format!("{{{CHOOSE}}}"), Column::taken));
    if is("array") {
        let items = schema.get("items").map(|items| value(name, items, columns));
        return format!("[{}]", items.unwrap_or_default());
    }
    if is("object") {
        let all = fields(schema).into_iter().filter(|(_, _, is_required)| *is_required);
        let all: Vec<String> = all
            .map(|(name, schema, _)| format!("{} = {}", key(name), value(name, schema, columns)))
            .collect();
        return format!("{{ {} }}", all.join(", "));
    }
    let is_money = ["price", "amount", "cost"].iter().any(|word| name.contains(word));
    match () {
        () if is("integer") && is_money => format!("{{ decimal = {text}, currency = \"{{{CHOOSE}}}\" }}"),
        () if is("integer") => format!("{{ integer = {text} }}"),
        () if is("boolean") => "false".to_owned(),
        () => text,
    }
}

/// Whether a field and a column seem to be called alike.
fn is_like(field: &str, column: &str) -> bool {
    const ALIKE: [&[&str]; 6] = [
        &["sku", "stockcode", "article", "item", "itemnumber", "productid", "lineitemsku"],
        &["quantity", "count", "qty", "units", "lineitemquantity"],
        &["unitprice", "price", "lineitemprice"],
        &["sale", "receipt", "invoice", "invoiceno", "order", "ordernumber", "orderid"],
        &["customer", "customerid", "email"],
        &["location", "store", "shop"],
    ];
    let plain =
        |name: &str| name.chars().filter(|sign| sign.is_alphanumeric()).collect::<String>().to_lowercase();
    let (field, column) = (plain(field), plain(column));
    field == column || ALIKE.iter().any(|words| words.contains(&&*field) && words.contains(&&*column))
}

/// Adds a line.
fn say(map: &mut String, line: fmt::Arguments<'_>) {
    map.push_str(&format!("{line}\n"));
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn key(name: &str) -> String {
    let is_bare = name.chars().all(|sign| sign.is_ascii_alphanumeric() || matches!(sign, '_' | '-'));
    if is_bare && !name.is_empty() { name.to_owned() } else { quoted(name) }
}

/// A text of a file in a comment, which ends with the line.
fn one_line(text: &str) -> String {
    text.chars().map(|sign| if sign.is_control() { ' ' } else { sign }).collect()
}

#[cfg(test)]
mod tests;
