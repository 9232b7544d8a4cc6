//! Values made of a row's columns: texts and typed leaves.
//!
//! Deliberately absent: floating point. Decimals become whole minor units digit by digit.

use millstream_values::money::Currency;
use serde_json::Value;

use super::{
    condition::{Condition, ConditionError},
    node::{At, Node, Placed},
    number::{Around, CERTAIN, Number, NumberForm, PLACES_MAX, Rounding, Unfit},
    text::{Columns, Row, RowError, Text, TextError, first_that_holds, shortened},
};

/// A value of a map that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TemplateError {
    #[error(transparent)]
    Text(#[from] TextError),
    /// A value of a kind that JSON does not have.
    #[error("a mapping holds text, whole numbers, true, false, lists and tables; found {found}")]
    Kind { found: String },
    /// A leaf with keys that it does not have.
    #[error("write {}", form_of(leaf))]
    Leaf { leaf: &'static str },
    #[error("there is no way to round called {found}; write round = {}", Rounding::NAMES)]
    Rounding { found: String },
    /// What no row changes is no such value.
    #[error("{text:?} is not {wanted}")]
    Constant { text: String, wanted: String },
    /// An amount in another currency than the one that its command names.
    #[error(
        "currency is {named:?} here, and an amount in it is read {read}; give the amount the same currency"
    )]
    Currencies { named: String, read: String },
    #[error(transparent)]
    Condition(Box<ConditionError>),
}

/// The field that says in which currency the amounts beside it are, and those within what stands beside it.
const CURRENCY: &str = "currency";

/// The keys of the values that are not taken as they stand.
pub(super) const LEAVES: [&str; 5] = ["integer", "decimal", "optional", "first", "each"];

fn form_of(leaf: &str) -> &'static str {
    match leaf {
        "integer" => "{ integer = \"{column}\" }",
        "decimal" => {
            "{ decimal = \"{column}\", currency = \"EUR\" }, or places = 2 instead of a currency, and if you want it round = \"half-up\", and \
             per = \"{column}\" where the amount is that of so many things together"
        }
        "optional" => "{ optional = … } with a text or another value in it",
        "first" => {
            "{ first = [ …, … ] } with texts or other values of which the first that is not empty counts"
        }
        _ => {
            "{ each = … } with a value for each row of a group, and when = { … } if some of them are left out"
        }
    }
}

/// How many decimal places an amount has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Places {
    Fixed(u32),
    /// Those of a currency, by ISO 4217.
    OfCurrency(Text),
}

/// `{ decimal = "{column}", … }`: whole minor units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Amount {
    text: Text,
    places: Places,
    /// How many things have the amount together.
    per: Option<Text>,
    rounding: Option<Rounding>,
    form: NumberForm,
}

/// A value of any shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Template {
    /// As it stands in the mapping.
    Constant(Value),
    /// `"{column}"`.
    Text(Text),
    /// `{ integer = "{column}" }`.
    Integer(Text, NumberForm),
    Amount(Box<Amount>),
    /// `{ optional = … }`: left out where a column is empty.
    Optional(Box<Template>),
    /// `{ first = [ … ] }`: the first that is not empty.
    First(Vec<Template>),
    /// `{ each = … }`: a list with a value for each row of a group.
    Each(Box<Template>, Option<Condition>),
    /// A list.
    List(Vec<Template>),
    /// A table.
    Table(Vec<(String, Template)>),
}

type Parsed<T> = Result<T, At<TemplateError>>;

/// Reads a text of the map.
pub(super) fn parse_text(value: &Placed, columns: &Columns) -> Parsed<Text> {
    let text = value.get_ref().text().ok_or_else(|| At::new(value, kind(value)))?;
    Text::parse(text, columns).map_err(|error| At::new(value, error))
}

/// Where a value has `{ each = … }` in it, if it does.
pub(super) fn each_in(value: &Placed) -> Option<&Placed> {
    match value.get_ref() {
        Node::List(items) => items.iter().find_map(each_in),
        node @ Node::Table(fields) => match node.get("each") {
            Some(_) => Some(value),
            None => fields.iter().find_map(|(_, field)| each_in(field)),
        },
        Node::Text(_) | Node::Integer(_) | Node::Boolean(_) | Node::Other(_) => None,
    }
}

fn kind(value: &Placed) -> TemplateError {
    TemplateError::Kind { found: value.get_ref().to_string() }
}

impl Template {
    /// Reads a value of the mapping.
    pub(super) fn parse(value: &Placed, columns: &Columns) -> Parsed<Self> {
        match value.get_ref() {
            Node::Text(_) => parse_text(value, columns).map(Self::Text),
            Node::Integer(number) => Ok(Self::Constant(Value::from(*number))),
            Node::Boolean(truth) => Ok(Self::Constant(Value::from(*truth))),
            Node::List(items) => Self::parse_all(items, columns).map(Self::List),
            Node::Table(fields) => {
                match LEAVES.into_iter().find(|leaf| value.get_ref().get(leaf).is_some()) {
                    Some(leaf) => Self::parse_leaf(value, leaf, columns),
                    None => fields
                        .iter()
                        .map(|(name, value)| Ok((name.get_ref().clone(), Self::parse(value, columns)?)))
                        .collect::<Result<_, _>>()
                        .and_then(|fields| Self::table(value, fields)),
                }
            }
            Node::Other(_) => Err(At::new(value, kind(value))),
        }
    }

    /// A table in which no amount is of another currency than the table says.
    fn table(place: &Placed, fields: Vec<(String, Self)>) -> Parsed<Self> {
        let named = fields.iter().find(|(name, _)| name == CURRENCY);
        if let Some((_, Self::Text(named))) = named
            && let Some(named) = named.constant()
            && let Some(read) = fields.iter().find_map(|(_, field)| field.other_currency(named))
        {
            let named = named.to_owned();
            return Err(At::new(place, TemplateError::Currencies { named, read }));
        }
        Ok(Self::Table(fields))
    }

    /// How an amount in it is read that is not of this currency, where no row changes it.
    fn other_currency(&self, named: &str) -> Option<String> {
        match self {
            Self::Constant(_) | Self::Text(_) | Self::Integer(..) => None,
            Self::Amount(amount) => match &amount.places {
                Places::OfCurrency(code) => {
                    let other = code.constant().filter(|code| *code != named);
                    other.map(|code| format!("as one in {code:?}"))
                }
                Places::Fixed(places) => {
                    let fits = places_of(named).is_ok_and(|own| own == *places);
                    Some(format!("with places = {places}, which are not its places")).filter(|_| !fits)
                }
            },
            Self::Optional(inner) | Self::Each(inner, _) => inner.other_currency(named),
            Self::First(items) | Self::List(items) => {
                items.iter().find_map(|item| item.other_currency(named))
            }
            Self::Table(fields) if fields.iter().any(|(name, _)| name == CURRENCY) => None,
            Self::Table(fields) => fields.iter().find_map(|(_, field)| field.other_currency(named)),
        }
    }

    fn parse_all(items: &[Placed], columns: &Columns) -> Parsed<Vec<Self>> {
        items.iter().map(|item| Self::parse(item, columns)).collect()
    }

    fn parse_leaf(value: &Placed, leaf: &'static str, columns: &Columns) -> Parsed<Self> {
        let wrong = || At::new(value, TemplateError::Leaf { leaf });
        let Node::Table(fields) = value.get_ref() else { return Err(wrong()) };
        let given = value.get_ref().get(leaf).ok_or_else(wrong)?;
        let has_only = |known: &[&str]| {
            fields.iter().all(|(name, _)| name.get_ref() == leaf || known.contains(&name.get_ref().as_str()))
        };
        match (leaf, given.get_ref()) {
            ("integer", Node::Text(_)) if has_only(&[]) => {
                let text = parse_text(given, columns)?;
                check_constant(given, &text, |text| whole(text, columns.numbers).map(|_| ()))?;
                Ok(Self::Integer(text, columns.numbers))
            }
            ("decimal", Node::Text(_)) if has_only(&["currency", "places", "per", "round"]) => {
                let amount = Amount::parse(value.get_ref(), given, columns)?.ok_or_else(wrong)?;
                Ok(Self::Amount(Box::new(amount)))
            }
            ("optional", Node::Text(_) | Node::Table(_)) if has_only(&[]) => {
                Self::parse(given, columns).map(|inner| Self::Optional(Box::new(inner)))
            }
            ("first", Node::List(items)) if has_only(&[]) && !items.is_empty() => {
                Self::parse_all(items, columns).map(Self::First)
            }
            ("each", _) if has_only(&["when"]) => {
                let when = value.get_ref().get("when");
                let when = when.map(|when| Condition::parse(when, columns)).transpose().map_err(|error| {
                    At { span: error.span, what: TemplateError::Condition(Box::new(error.what)) }
                })?;
                Self::parse(given, columns).map(|inner| Self::Each(Box::new(inner), when))
            }
            _ => Err(wrong()),
        }
    }

    /// The value for a row; none for an optional one that is empty.
    pub(crate) fn render(&self, row: &Row<'_>) -> Result<Option<Value>, RowError> {
        self.render_in(row, None)
    }

    /// The same within what has a currency.
    fn render_in(&self, row: &Row<'_>, currency: Option<&str>) -> Result<Option<Value>, RowError> {
        Ok(Some(match self {
            Self::Constant(value) => value.clone(),
            Self::Text(text) => Value::from(text.render(row)?),
            Self::Integer(text, form) => {
                let rendered = text.render(row)?;
                let read = whole(&rendered, *form);
                Value::from(read.map_err(|wanted| RowError::Form {
                    of: text.origin(),
                    text: shortened(&rendered),
                    wanted,
                })?)
            }
            Self::Amount(amount) => Value::from(amount.of(row, currency)?),
            Self::Optional(inner) => match inner.render_in(row, currency) {
                Err(RowError::Empty { .. }) => return Ok(None),
                other => return other,
            },
            Self::First(choices) => {
                return first_that_holds(choices, "each of the values under first", |choice| {
                    choice.render_in(row, currency)
                });
            }
            Self::Each(inner, when) => {
                let mut values = Vec::new();
                for row in row.each() {
                    let is_left_out = when.as_ref().map(|when| when.holds(&row)).transpose()? == Some(false);
                    if !is_left_out {
                        values.extend(inner.render_in(&row, currency)?);
                    }
                }
                Value::from(values)
            }
            Self::List(items) => {
                let items: Result<Vec<_>, _> =
                    items.iter().map(|item| item.render_in(row, currency)).collect();
                Value::from(items?.into_iter().flatten().collect::<Vec<_>>())
            }
            Self::Table(fields) => {
                let named = match fields.iter().find(|(name, _)| name == CURRENCY) {
                    Some((_, field)) => field.render(row)?,
                    None => None,
                };
                let currency = named.as_ref().and_then(Value::as_str).or(currency);
                let mut object = serde_json::Map::new();
                for (name, field) in fields {
                    if let Some(value) = field.render_in(row, currency)? {
                        object.insert(name.clone(), value);
                    }
                }
                Value::Object(object)
            }
        }))
    }
}

impl Amount {
    /// Reads it; none if it is not one.
    fn parse(table: &Node, given: &Placed, columns: &Columns) -> Parsed<Option<Self>> {
        let Some(places) = Places::parse(table, columns)? else { return Ok(None) };
        let form = columns.numbers;
        let rounding = match table.get("round") {
            None => None,
            Some(round) => {
                let found = round.get_ref().to_string();
                let named = round.get_ref().text().and_then(Rounding::named);
                Some(named.ok_or_else(|| At::new(round, TemplateError::Rounding { found }))?)
            }
        };
        let per = table.get("per").map(|per| parse_text(per, columns)).transpose()?;
        let text = parse_text(given, columns)?;
        if let Places::Fixed(places) = places {
            let check = |text: &str| units(text, form, places, Around::AnyCurrency, 1, rounding).map(|_| ());
            check_constant(given, &text, check)?;
        }
        Ok(Some(Self { text, places, per, rounding, form }))
    }

    /// The amount, in the currency of what it stands in.
    fn of(&self, row: &Row<'_>, within: Option<&str>) -> Result<i64, RowError> {
        let Self { text, places, per, rounding, form } = self;
        let currency = match places {
            Places::Fixed(_) => None,
            Places::OfCurrency(code) => Some((code, code.render(row)?)),
        };
        if let (Some((of, code)), Some(within)) = (&currency, within)
            && code != within
        {
            let wanted = format!("{}, the currency of its command", shortened(within));
            return Err(RowError::Form { of: of.origin(), text: shortened(code), wanted });
        }
        if let (Places::Fixed(places), Some(within)) = (places, within)
            && let Ok(own) = places_of(within)
            && own != *places
        {
            let wanted = format!(
                "an amount with {places} places, as the map says: {} has {own}. Write currency = … instead of places",
                shortened(within)
            );
            let rendered = shortened(&text.render(row)?);
            return Err(RowError::Form { of: text.origin(), text: rendered, wanted });
        }
        let (places, around) = match (places, &currency) {
            (Places::Fixed(places), _) => {
                let within = within.filter(|code| places_of(code).is_ok());
                (*places, within.map_or(Around::AnyCurrency, Around::Currency))
            }
            (Places::OfCurrency(_), None) => (0, Around::Nothing),
            (Places::OfCurrency(_), Some((of, code))) => {
                let wrong = |wanted| RowError::Form { of: of.origin(), text: shortened(code), wanted };
                (places_of(code).map_err(wrong)?, Around::Currency(code))
            }
        };
        let of = match per {
            None => 1,
            Some(per) => {
                let text = per.render(row)?;
                let wrong = |wanted| RowError::Form { of: per.origin(), text: shortened(&text), wanted };
                match whole(&text, *form).map_err(wrong)? {
                    0 => {
                        return Err(wrong(
                            "a number other than 0, which an amount can be divided by".to_owned(),
                        ));
                    }
                    of => of,
                }
            }
        };
        let rendered = text.render(row)?;
        units(&rendered, *form, places, around, of, *rounding).map_err(|wanted| RowError::Form {
            of: text.origin(),
            text: shortened(&rendered),
            wanted,
        })
    }
}

impl Places {
    /// Reads `places` or `currency` beside a decimal; none when there is neither, or both.
    fn parse(table: &Node, columns: &Columns) -> Parsed<Option<Self>> {
        match (table.get("currency"), table.get("places").map(|places| places.get_ref())) {
            (Some(currency), None) if currency.get_ref().text().is_some() => {
                let text = parse_text(currency, columns)?;
                check_constant(currency, &text, |text| places_of(text).map(|_| ()))?;
                Ok(Some(Self::OfCurrency(text)))
            }
            (None, Some(Node::Integer(places))) => {
                Ok(u32::try_from(*places).ok().filter(|places| *places <= PLACES_MAX).map(Self::Fixed))
            }
            _ => Ok(None),
        }
    }
}

/// What no row changes is right or wrong for all of them.
fn check_constant(place: &Placed, text: &Text, check: impl FnOnce(&str) -> Result<(), String>) -> Parsed<()> {
    let Some(text) = text.constant() else { return Ok(()) };
    check(text).map_err(|wanted| At::new(place, TemplateError::Constant { text: text.to_owned(), wanted }))
}

/// The decimal places of a currency, or what its code should be.
fn places_of(code: &str) -> Result<u32, String> {
    let wanted = |_| "a currency of three upper-case letters".to_owned();
    Currency::try_from(code.to_owned()).map(|currency| currency.places()).map_err(wanted)
}

fn whole(text: &str, form: NumberForm) -> Result<i64, String> {
    units(text, form, 0, Around::Nothing, 1, None)
}

/// A decimal number in units of its `places`-th decimal place, divided by `of`, if it is the amount of so many together. Else what it should be.
fn units(
    text: &str,
    form: NumberForm,
    places: u32,
    around: Around<'_>,
    of: i64,
    rounding: Option<Rounding>,
) -> Result<i64, String> {
    let number = match places {
        0 => "a whole number".to_owned(),
        more => format!("a decimal number with at most {more} places"),
    };
    let Some(read) = Number::read(text, form, around) else {
        let currency = match around {
            Around::Currency(code) => format!(" in {code}"),
            Around::Nothing | Around::AnyCurrency | Around::AnyCode => String::new(),
        };
        return Err(format!("{number}{currency}{}", advice(text, form)));
    };
    if !read.is_certain() {
        return Err(CERTAIN.to_owned());
    }
    read.units(places, of, rounding).map_err(|unfit| match unfit {
        Unfit::Places if of != 1 => {
            format!("{number} when it is divided by {of}; round = \"half-up\" in the map rounds it")
        }
        Unfit::Places if places > 0 => format!("{number}; round = \"half-up\" in the map rounds it"),
        Unfit::Places => number,
        Unfit::Size => format!("{number} that is small enough: it may have 18 digits"),
    })
}

/// What a map may have to say of a number that is written otherwise.
fn advice(text: &str, form: NumberForm) -> String {
    let marks = [',', '.', ' ', '\u{a0}', '\u{202f}', '\'', '’'];
    let is_number = text.contains(|sign: char| sign.is_ascii_digit()) && !text.contains(char::is_alphabetic);
    if !is_number || !text.contains(marks) {
        return String::new();
    }
    let thousands =
        form.thousands.map_or("no sign between groups".to_owned(), |mark| format!("{mark:?} between groups"));
    format!(
        " (decimals behind {:?}, {thousands}; decimal and thousands under [file] say otherwise)",
        form.decimal
    )
}

#[cfg(test)]
mod tests;
