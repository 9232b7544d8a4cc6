//! Numbers as files write them: with a sign before or behind, in parentheses, with groups of digits and the sign of a currency.
//!
//! Deliberately absent: floating point. A number is its digits and how many of them stand behind the decimal sign.

use std::cmp::Ordering;

use millstream_values::money::Currency;

/// Signs of currencies, each with the codes of those that write it.
const CURRENCY_SIGNS: [(char, &[&str]); 16] = [
    ('€', &["EUR"]),
    ('£', &["GBP", "GIP", "FKP", "SHP"]),
    ('₹', &["INR"]),
    ('₽', &["RUB"]),
    ('₺', &["TRY"]),
    ('₴', &["UAH"]),
    ('₪', &["ILS"]),
    ('₫', &["VND"]),
    ('₱', &["PHP"]),
    ('₦', &["NGN"]),
    ('₡', &["CRC"]),
    ('₲', &["PYG"]),
    ('₸', &["KZT"]),
    ('¥', &["JPY", "CNY"]),
    ('₩', &["KRW", "KPW"]),
    (
        '$',
        &[
            "USD", "CAD", "AUD", "NZD", "SGD", "HKD", "TWD", "MXN", "ARS", "CLP", "COP", "UYU", "DOP", "CUP",
            "BBD", "BMD", "BND", "BSD", "BZD", "FJD", "GYD", "JMD", "KYD", "LRD", "NAD", "SBD", "SRD", "TTD",
            "XCD",
        ],
    ),
];
/// How files write numbers: what stands before places, and between groups of digits. The more common first.
pub(super) const FORMS: [(char, Option<char>); 8] = [
    ('.', None),
    (',', None),
    ('.', Some(',')),
    (',', Some('.')),
    (',', Some(' ')),
    ('.', Some(' ')),
    ('.', Some('\'')),
    (',', Some('\'')),
];
/// Most digits: with nine places more, and divided by a quantity, they fit into 128 bits.
const DIGITS_MAX: usize = 24;
/// Of a currency's code.
const CODE_LENGTH: usize = 3;
/// Most places of an amount.
pub(super) const PLACES_MAX: u32 = 9;

/// What a message says that a number is not, if it may be two numbers.
pub(super) const CERTAIN: &str = "certain: the point may stand before places or between groups of digits; under [file], write decimal = \".\" for places, or \
     decimal = \",\" and thousands = \".\" for groups";

/// How a file writes its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NumberForm {
    /// Before the places.
    pub(super) decimal: char,
    /// Between groups of digits, if they are grouped. A blank stands for each kind of it.
    pub(super) thousands: Option<char>,
    /// Whether somebody said it. If not, `1.000` may be one or a thousand.
    pub(super) is_said: bool,
}

impl NumberForm {
    pub(super) const fn said(decimal: char, thousands: Option<char>) -> Self {
        Self { decimal, thousands, is_said: true }
    }
}

impl Default for NumberForm {
    fn default() -> Self {
        Self { decimal: '.', thousands: None, is_said: false }
    }
}

/// What a number may have around its digits besides a sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Around<'a> {
    /// Nothing: a count of something.
    Nothing,
    /// The sign of any currency.
    AnyCurrency,
    /// The sign or the code of any currency: what a condition asks is whether there is any, not what it is of.
    AnyCode,
    /// The sign of this currency, or its code.
    Currency(&'a str),
}

/// A number: its digits, of which so many stand behind the decimal sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Number {
    digits: i128,
    places: u32,
    /// Whether it can be no other number. If nobody said how the file groups its digits, what seems to stand behind the decimal sign may be a
    /// group of them.
    is_certain: bool,
}

/// How a number is made shorter, where a map asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rounding {
    /// To the nearer; halves away from zero, as shops do it.
    HalfUp,
    /// To the nearer; halves to the even digit, as banks do it.
    HalfEven,
    /// Towards zero.
    Down,
}

impl Rounding {
    pub(super) const NAMES: &'static str = "\"half-up\", \"half-even\" or \"down\"";

    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "half-up" => Some(Self::HalfUp),
            "half-even" => Some(Self::HalfEven),
            "down" => Some(Self::Down),
            _ => None,
        }
    }
}

/// Why a number does not become an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfit {
    /// It has more places than the amount, or does not divide.
    Places,
    Size,
}

impl Number {
    /// Reads a text; none if it is no number of this form.
    pub(super) fn read(text: &str, form: NumberForm, around: Around<'_>) -> Option<Self> {
        let mut rest = text.trim();
        let mut negative = None;
        if let Some(inner) = rest.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) {
            (rest, negative) = (inner.trim(), Some(true));
        }
        let mut has_currency = around == Around::Nothing;
        loop {
            let before = rest;
            if let Some((sign, other)) = outer(rest, |sign| matches!(sign, '+' | '-' | '−')) {
                // Swiss prices write `3.-` for 3.00: not a sign, and not a form that is read.
                let is_dash = rest.ends_with(sign) && other.trim_end().ends_with(['.', ',']);
                if is_dash || negative.replace(sign != '+').is_some() {
                    return None;
                }
                rest = other.trim();
            }
            if !has_currency && let Some(other) = without_currency(rest, around) {
                has_currency = true;
                rest = other.trim();
            }
            if rest == before {
                break;
            }
        }
        let (whole, fraction) = rest.split_once(form.decimal).unwrap_or((rest, ""));
        let whole = ungrouped(whole, form.thousands)?;
        let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_digits(&whole) || !is_digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
            return None;
        }
        let is_like_grouped =
            (1..=3).contains(&whole.len()) && fraction.len() == 3 && !whole.starts_with('0');
        let is_certain = form.is_said || form.thousands.is_some() || !is_like_grouped;
        let fraction = fraction.trim_end_matches('0');
        let digits = format!("{}{fraction}", whole.trim_start_matches('0'));
        if digits.len() > DIGITS_MAX {
            return None;
        }
        let digits: i128 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
        let digits = if negative == Some(true) { -digits } else { digits };
        Some(Self { digits, places: u32::try_from(fraction.len()).ok()?, is_certain })
    }

    /// Whether it can be no other number, as the map says how the file writes them, or as it is written.
    pub(super) fn is_certain(self) -> bool {
        self.is_certain
    }

    /// A whole number.
    pub(super) fn whole(number: i64) -> Self {
        Self { digits: number.into(), places: 0, is_certain: true }
    }

    /// The number in units of its `places`-th decimal place: 12.3 with two places is 1230. If it is the amount of `of` things together, it is
    /// divided by that.
    ///
    /// # Errors
    /// [`Unfit`] when something would be lost and no rounding was asked for, or the result is too large.
    pub(super) fn units(self, places: u32, of: i64, rounding: Option<Rounding>) -> Result<i64, Unfit> {
        let power = |exponent: u32| 10_i128.checked_pow(exponent).ok_or(Unfit::Size);
        let numerator = self.digits.checked_mul(power(places)?).ok_or(Unfit::Size)?;
        let denominator = power(self.places)?.checked_mul(of.into()).ok_or(Unfit::Size)?;
        let (numerator, denominator) =
            if denominator < 0 { (-numerator, -denominator) } else { (numerator, denominator) };
        let whole = numerator.checked_div(denominator).ok_or(Unfit::Size)?;
        let left = numerator.checked_rem(denominator).ok_or(Unfit::Size)?.abs();
        let away = match rounding {
            _ if left == 0 => false,
            None => return Err(Unfit::Places),
            Some(Rounding::Down) => false,
            Some(rounding) => match left.cmp(&(denominator - left)) {
                Ordering::Less => false,
                Ordering::Greater => true,
                Ordering::Equal => rounding == Rounding::HalfUp || whole % 2 != 0,
            },
        };
        let step = if numerator < 0 { -1 } else { 1 };
        i64::try_from(if away { whole + step } else { whole }).map_err(|_| Unfit::Size)
    }

    /// Which of two numbers is larger.
    pub(super) fn compare(self, other: Self) -> Ordering {
        let places = self.places.max(other.places);
        let scaled =
            |number: Self| number.digits.saturating_mul(10_i128.saturating_pow(places - number.places));
        scaled(self).cmp(&scaled(other))
    }
}

/// Whether a text that is no number of a file's form is one of another form, such as `0,00`.
pub(super) fn is_of_another_form(text: &str) -> bool {
    let reads = |(decimal, thousands)| {
        Number::read(text, NumberForm::said(decimal, thousands), Around::AnyCode).is_some()
    };
    FORMS.into_iter().any(reads)
}

/// A number's text without its sign, in whatever way it is written.
pub(super) fn without_sign(text: &str) -> String {
    text.chars()
        .filter(|sign| !matches!(sign, '+' | '-' | '−' | '(' | ')'))
        .collect::<String>()
        .trim()
        .to_owned()
}

/// The first or last character, if it is such a one, and what is left.
fn outer(text: &str, is_it: impl Fn(char) -> bool) -> Option<(char, &str)> {
    let first = text.chars().next().filter(|sign| is_it(*sign));
    if let Some(sign) = first {
        return Some((sign, text.get(sign.len_utf8()..)?));
    }
    let last = text.chars().next_back().filter(|sign| is_it(*sign))?;
    Some((last, text.get(..text.len() - last.len_utf8())?))
}

fn without_currency<'t>(text: &'t str, around: Around<'_>) -> Option<&'t str> {
    let fits = |sign: char| {
        CURRENCY_SIGNS.iter().find(|(known, _)| *known == sign).is_some_and(|(_, codes)| match around {
            Around::Nothing => false,
            Around::AnyCurrency | Around::AnyCode => true,
            Around::Currency(wanted) => codes.contains(&wanted),
        })
    };
    if let Some((_, rest)) = outer(text, fits) {
        return Some(rest);
    }
    // Three capitals alone may begin the code of an article.
    let is_code = |code: &str| Currency::try_from(code.to_owned()).is_ok_and(|currency| currency.is_listed());
    match around {
        Around::Nothing | Around::AnyCurrency => None,
        Around::Currency(code) => text.strip_prefix(code).or_else(|| text.strip_suffix(code)),
        Around::AnyCode => {
            let before = text.split_at_checked(CODE_LENGTH).filter(|(code, _)| is_code(code));
            let behind = || {
                text.split_at_checked(text.len().checked_sub(CODE_LENGTH)?).filter(|(_, code)| is_code(code))
            };
            before.map(|(_, rest)| rest).or_else(|| behind().map(|(rest, _)| rest))
        }
    }
}

/// The digits of a whole number; none if they are grouped otherwise than a file groups them.
fn ungrouped(whole: &str, thousands: Option<char>) -> Option<String> {
    let Some(mark) = thousands else { return Some(whole.to_owned()) };
    let is_mark = |sign: char| {
        sign == mark
            || (mark == ' ' && matches!(sign, '\u{a0}' | '\u{202f}' | '\u{2009}'))
            || (mark == '\'' && sign == '’')
    };
    if !whole.contains(is_mark) {
        return Some(whole.to_owned());
    }
    let groups: Vec<&str> = whole.split(is_mark).collect();
    let (last, before) = groups.split_last()?;
    let (first, middle) = before.split_first()?;
    // In India all groups but the last have two digits.
    // A number that is grouped begins with no zero: what does is written in another form.
    let fits = last.len() == 3
        && !first.starts_with('0')
        && (1..=3).contains(&first.len())
        && (middle.iter().all(|group| group.len() == 3)
            || (first.len() < 3 && middle.iter().all(|group| group.len() == 2)));
    fits.then(|| groups.concat())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GERMAN: NumberForm = NumberForm::said(',', Some('.'));

    fn cents(text: &str, form: NumberForm, around: Around<'_>) -> Option<i64> {
        Number::read(text, form, around)?.units(2, 1, None).ok()
    }

    #[test]
    fn each_way_to_write_a_number_is_read() {
        let point = NumberForm::default();
        let english = NumberForm::said('.', Some(','));
        let french = NumberForm::said(',', Some(' '));
        let swiss = NumberForm::said('.', Some('\''));
        for (text, form, units) in [
            ("3.5", point, 350),
            ("+5", point, 500),
            (".99", point, 99),
            ("5.", point, 500),
            ("(3.50)", point, -350),
            ("3.50-", point, -350),
            ("-3.50", point, -350),
            ("−3.50", point, -350),
            ("$3.50", point, 350),
            ("-$3.50", point, -350),
            ("$-3.50", point, -350),
            ("($ 3.50)", point, -350),
            ("3.500", point, 350),
            ("0003.50", point, 350),
            ("1,234.50", english, 123_450),
            ("12,34,567", english, 123_456_700),
            ("1.234,50 €", GERMAN, 123_450),
            ("1 234,50", french, 123_450),
            ("1\u{202f}234\u{a0}567,50", french, 123_456_750),
            ("1’234.50", swiss, 123_450),
        ] {
            assert_eq!(cents(text, form, Around::AnyCurrency), Some(units), "{text}");
        }
        assert_eq!(cents("$3.50", point, Around::Currency("CAD")), Some(350));
        assert_eq!(cents("EUR 3.50", point, Around::Currency("EUR")), Some(350));
        assert_eq!(cents("3.50 EUR", point, Around::Currency("EUR")), Some(350));
        for (text, code) in [("¥3.50", "CNY"), ("₩3.50", "KRW"), ("3.50$", "AUD")] {
            assert_eq!(cents(text, point, Around::Currency(code)), Some(350), "{text}");
        }
        for text in ["EUR 3.50", "3.50USD", "€3.50", "3.50"] {
            assert_eq!(cents(text, point, Around::AnyCode), Some(350), "{text}");
        }
    }

    /// An amount that is read wrongly is worse than one that is refused.
    #[test]
    fn what_could_be_another_number_is_refused() {
        let point = NumberForm::default();
        for (text, form) in [
            ("", point),
            (".", point),
            ("-", point),
            ("()", point),
            ("--1", point),
            ("(-1)", point),
            ("-1-", point),
            ("1,5", point),
            ("3.-", point),
            ("CHF 3.-", point),
            ("3,-", GERMAN),
            ("0.500", GERMAN),
            ("1 000", point),
            ("1e3", point),
            ("1.2.3", point),
            ("$1$", point),
            ("1_000", point),
            ("٣", point),
            ("1,5", NumberForm::said('.', Some(','))),
            ("1,2345", NumberForm::said('.', Some(','))),
            (",123", NumberForm::said('.', Some(','))),
            ("1.5", GERMAN),
            ("1.50,5", GERMAN),
            ("1,234.50", GERMAN),
            ("9999999999999999999999999", point),
        ] {
            assert_eq!(Number::read(text, form, Around::AnyCurrency), None, "{text}");
        }
        for text in ["1.000", "-1.000", "(12.500)", "123.456-", "€ 1.000", "1.000 €", "$1.000"] {
            let read = |form| Number::read(text, form, Around::AnyCurrency).unwrap().is_certain();
            assert!(!read(point), "{text} may be a thousand times as much");
            for said in [NumberForm::said('.', None), NumberForm::said('.', Some(','))] {
                assert!(read(said), "{text} is what the map says");
            }
        }
        for text in ["0.001", "0.000", ".500", "1.00", "1.0000", "1234.000", "1000"] {
            assert!(Number::read(text, point, Around::AnyCurrency).unwrap().is_certain(), "{text}");
        }
        for (text, around) in [
            ("£3.50", Around::Currency("EUR")),
            ("$3.50", Around::Currency("EUR")),
            ("¥3", Around::Currency("GBP")),
            ("50¢", Around::AnyCurrency),
            ("50¢", Around::Currency("USD")),
            ("¥500", Around::Currency("CHF")),
            ("$500", Around::Currency("CHF")),
            ("$5", Around::Currency("JPY")),
            ("₩500", Around::Currency("USD")),
            ("EUR 3", Around::Nothing),
            ("Stk 3", Around::AnyCode),
            ("PCS 5", Around::AnyCode),
            ("BOX12", Around::AnyCode),
            ("ABC0", Around::AnyCode),
            ("3.50 USD", Around::Currency("EUR")),
            ("$3", Around::Nothing),
            ("EUR 3", Around::AnyCurrency),
        ] {
            assert_eq!(Number::read(text, point, around), None, "{text}");
        }
    }

    #[test]
    fn nothing_is_rounded_unless_asked_and_then_as_asked() {
        let units = |text: &str, of, rounding| {
            Number::read(text, NumberForm::default(), Around::Nothing).unwrap().units(2, of, rounding)
        };
        assert_eq!(units("1.005", 1, None), Err(Unfit::Places));
        assert_eq!(units("10", 3, None), Err(Unfit::Places));
        assert_eq!(units("10.50", 3, None), Ok(350));
        assert_eq!(units("-10.50", -3, None), Ok(350));
        assert_eq!(units("1", 0, None), Err(Unfit::Size));
        assert_eq!(units("99999999999999999999", 1, None), Err(Unfit::Size));
        for (text, half_up, half_even, down) in [
            ("1.005", 101, 100, 100),
            ("1.015", 102, 102, 101),
            ("-1.005", -101, -100, -100),
            ("-1.0051", -101, -101, -100),
            ("1.0049", 100, 100, 100),
        ] {
            assert_eq!(units(text, 1, Some(Rounding::HalfUp)), Ok(half_up), "{text}");
            assert_eq!(units(text, 1, Some(Rounding::HalfEven)), Ok(half_even), "{text}");
            assert_eq!(units(text, 1, Some(Rounding::Down)), Ok(down), "{text}");
        }
        assert_eq!(units("10", 3, Some(Rounding::HalfUp)), Ok(333));
    }

    #[test]
    fn numbers_are_compared_by_what_they_are() {
        let read = |text| Number::read(text, NumberForm::default(), Around::Nothing).unwrap();
        assert_eq!(read("1.50").compare(read("1.5")), Ordering::Equal);
        assert_eq!(read("-0.1").compare(Number::whole(0)), Ordering::Less);
        assert_eq!(read("10").compare(read("9.99")), Ordering::Greater);
    }

    proptest! {
        #[test]
        fn units_come_back_from_their_text(units in any::<i32>(), is_german in any::<bool>(), behind in any::<bool>()) {
            let (form, mark) = if is_german { (GERMAN, ',') } else { (NumberForm::default(), '.') };
            let absolute = i64::from(units).abs();
            let digits = format!("{}{mark}{:02}", absolute / 100, absolute % 100);
            let text = match (units < 0, behind) {
                (true, true) => format!("{digits}-"),
                (true, false) => format!("({digits})"),
                (false, _) => digits,
            };
            prop_assert_eq!(cents(&text, form, Around::Nothing), Some(i64::from(units)));
            prop_assert_eq!(cents(&without_sign(&text), form, Around::Nothing), Some(absolute));
        }

        #[test]
        fn any_text_is_a_number_or_none(text in "\\PC{0,40}", places in 0..=PLACES_MAX, of in any::<i64>()) {
            if let Some(number) = Number::read(&text, GERMAN, Around::AnyCurrency) {
                let _ = number.units(places, of, Some(Rounding::HalfUp));
            }
        }
    }
}
