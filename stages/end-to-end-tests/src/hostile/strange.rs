//! Texts, numbers, JSON and bytes that nobody sends by mistake.

use millstream_contract::testing::dice::Dice;

/// Pieces of which strange texts are put together.
const PIECES: [&str; 24] = [
    "\0",
    "\u{1b}[2J",
    "\u{7f}",
    "\r",
    "\n",
    "\t",
    "\u{a0}",
    "\u{200b}",
    "\u{202e}",
    "\u{feff}",
    "\u{2028}",
    "\u{10ffff}",
    "é",
    "ﷺ",
    "👩‍👩‍👧",
    "=cmd|' /C calc'!A0",
    "\"",
    "\\",
    "{}",
    "%00",
    "../",
    "*",
    ">",
    "x",
];

/// Numbers as they may stand in JSON.
const NUMBERS: [&str; 16] = [
    "0",
    "-0",
    "1",
    "-1",
    "1.0",
    "1e2",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "18446744073709551616",
    "1e308",
    "1e400",
    "0.1",
    "00",
    "1000000000",
    "123456789012345678901234567890",
];

/// Names that stand in bodies of the reference domains, and some that do not.
const FIELDS: [&str; 20] = [
    "quantity",
    "reference",
    "business_date",
    "reservation",
    "sale",
    "return",
    "currency",
    "lines",
    "sku",
    "unit_price",
    "sold_at",
    "name",
    "supplier",
    "text",
    "picture",
    "customer",
    "payment",
    "amount",
    "colour",
    "",
];

/// One of some texts.
pub(super) fn one_of<'a>(dice: &mut Dice, texts: &[&'a str]) -> &'a str {
    dice.pick::<&str>(texts)
}

/// How many of something.
pub(super) fn count(dice: &mut Dice, low: u64, high: u64) -> usize {
    usize::try_from(dice.between(low, high)).unwrap_or_default()
}

/// A text of strange pieces, about `length` bytes at most.
pub(super) fn text(dice: &mut Dice, length: u64) -> String {
    let wanted = usize::try_from(dice.between(0, length)).unwrap_or_default();
    let mut text = String::new();
    while text.len() < wanted {
        text.push_str(one_of(dice, &PIECES));
    }
    text
}

/// Any bytes.
pub(super) fn bytes(dice: &mut Dice, length: u64) -> Vec<u8> {
    (0..dice.between(0, length)).map(|_| any_byte(dice)).collect()
}

/// Any bytes that leave a line of the protocol whole: what ends a line or a word would only make it another message.
pub(super) fn word(dice: &mut Dice, length: u64) -> Vec<u8> {
    let mut word = bytes(dice, length);
    word.retain(|byte| !b" \t\r\n".contains(byte));
    word
}

/// Any bytes that leave the block of headers a block.
pub(super) fn header_bytes(dice: &mut Dice, length: u64) -> Vec<u8> {
    let mut bytes = bytes(dice, length);
    bytes.retain(|byte| *byte != b'\n');
    bytes
}

fn any_byte(dice: &mut Dice) -> u8 {
    u8::try_from(dice.below(256)).unwrap_or_default()
}

/// A JSON value, most of the time: nested, with numbers beyond any type, doubled fields, and now and then cut off.
pub(super) fn json(dice: &mut Dice) -> String {
    let mut json = String::new();
    value(dice, 4, &mut json);
    if dice.chance(0.1) {
        let end = usize::try_from(dice.below(json.len() as u64 + 1)).unwrap_or_default();
        let end = (0..=end).rev().find(|end| json.is_char_boundary(*end)).unwrap_or_default();
        json.truncate(end);
    }
    json
}

/// An object with the fields of commands, each with a value that it may or may not have.
pub(super) fn object(dice: &mut Dice) -> String {
    let mut json = String::new();
    fields(dice, 3, &mut json);
    json
}

/// Brackets in brackets, `depth` of them.
pub(super) fn nested(dice: &mut Dice, depth: usize) -> String {
    let (open, close) = *dice.pick(&[("[", "]"), ("{\"lines\":", "}"), ("{\"a\":[", "]}")]);
    [open.repeat(depth), "0".to_owned(), close.repeat(depth)].concat()
}

fn value(dice: &mut Dice, depth: u64, json: &mut String) {
    match dice.below(if depth == 0 { 4 } else { 6 }) {
        0 => json.push_str(one_of(dice, &["true", "false", "null", "NaN"])),
        1 => json.push_str(one_of(dice, &NUMBERS)),
        2 => {
            let text = text(dice, 40);
            json.push_str(&serde_json::Value::from(text).to_string());
        }
        // Control characters and lone surrogates as JSON does not allow them.
        3 => json.push_str(one_of(
            dice,
            &["\"\\ud800\"", "\"\u{1}\"", "\"\\u0000\"", "'a'", "\"EUR\"", "\"2012-01-31\""],
        )),
        4 => {
            json.push('[');
            for number in 0..dice.below(4) {
                if number > 0 {
                    json.push(',');
                }
                value(dice, depth - 1, json);
            }
            json.push(']');
        }
        _ => fields(dice, depth - 1, json),
    }
}

fn fields(dice: &mut Dice, depth: u64, json: &mut String) {
    json.push('{');
    for number in 0..dice.below(6) {
        if number > 0 {
            json.push(',');
        }
        json.push_str(&format!("\"{}\":", dice.pick(&FIELDS)));
        value(dice, depth, json);
    }
    json.push('}');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_and_many_can_be_read() {
        let all = |seed| {
            let mut dice = Dice::new(seed);
            (0..300).map(|_| object(&mut dice)).collect::<Vec<_>>()
        };
        assert_eq!(all(3), all(3));
        let read =
            all(3).iter().filter(|json| serde_json::from_str::<serde_json::Value>(json).is_ok()).count();
        assert!((30..300).contains(&read), "{read} of 300");
    }

    #[test]
    fn words_and_headers_keep_their_line() {
        let mut dice = Dice::new(1);
        assert!(!word(&mut dice, 10_000).iter().any(|byte| b" \t\r\n".contains(byte)));
        assert!(!header_bytes(&mut dice, 10_000).contains(&b'\n'));
    }
}
