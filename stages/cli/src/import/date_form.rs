//! Whether a date or time is written as its format says. What reads dates takes one digit for two, so that `10226` would be the 22nd of October of
//! 2006 by `%m%d%y`, and not the second of January of 2026 that it was before a spreadsheet took its first zero away.

/// What stands for several others.
const SHORT_FORMS: [(&str, &str); 5] =
    [("%T", "%H:%M:%S"), ("%R", "%H:%M"), ("%D", "%m/%d/%y"), ("%F", "%Y-%m-%d"), ("%z", "+")];

/// Whether numbers that stand side by side have all their digits, and a year of two digits both of them.
pub(super) fn has_its_digits(text: &str, format: &str) -> bool {
    let mut format = format.replace("%%", "");
    for (short, long) in SHORT_FORMS {
        format = format.replace(short, long);
    }
    let wanted = numbers_of(&format);
    let mut found = text.split(|sign: char| !sign.is_ascii_digit()).filter(|digits| !digits.is_empty());
    wanted.iter().all(|(widths, has_short_year)| {
        let length = found.next().map_or(0, str::len);
        let is_certain = widths.len() < 2 && !has_short_year;
        is_certain || length == widths.iter().sum::<usize>()
    })
}

/// The numbers of a format: how long each part is of those that nothing separates, and whether a year of two digits is among them.
fn numbers_of(format: &str) -> Vec<(Vec<usize>, bool)> {
    let (mut all, mut one) = (Vec::new(), (Vec::new(), false));
    let mut signs = format.chars();
    while let Some(sign) = signs.next() {
        let letter = match sign {
            '%' => signs.by_ref().find(char::is_ascii_alphabetic),
            _ => None,
        };
        match letter {
            Some('Y' | 'G') => one.0.push(4),
            Some('j') => one.0.push(3),
            Some('m' | 'd' | 'e' | 'H' | 'k' | 'I' | 'l' | 'M' | 'S' | 'C' | 'U' | 'W' | 'V') => {
                one.0.push(2)
            }
            Some('y' | 'g') => {
                one.0.push(2);
                one.1 = true;
            }
            _ if one.0.is_empty() => {}
            _ => all.push(std::mem::take(&mut one)),
        }
    }
    if !one.0.is_empty() {
        all.push(one);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_may_be_left_out_only_where_a_sign_tells_the_numbers_apart() {
        for (format, right, wrong) in [
            ("%m%d%y", "010226", "10226"),
            ("%Y%m%d", "20260131", "2026131"),
            ("%Y%m%d%H%M", "202601021300", "20260102130"),
            ("%d.%m.%y", "1.2.26", "1.2.6"),
            ("%D", "1/2/26", "1/2/6"),
            ("%Y%m%d %H:%M", "20260131 9:05", "2026131 9:05"),
            ("%H:%M %d%m%y", "9:05 310126", "9:05 31126"),
            ("%d%b%y", "1Jan26", "1Jan6"),
        ] {
            assert!(has_its_digits(right, format), "{right} {format}");
            assert!(!has_its_digits(wrong, format), "{wrong} {format}");
        }
        for (format, text) in [
            ("%m/%d/%Y", "1/2/2026"),
            ("%Y-%m-%dT%H:%M:%S%z", "2026-1-2T9:5:7+0100"),
            ("%F %T", "2026-1-2 9:05:07"),
            ("%Y-%m-%d %H:%M:%S%.f", "2026-01-02 10:00:00.5"),
            ("%d %B %Y", "1 January 2026"),
        ] {
            assert!(has_its_digits(text, format), "{text} {format}");
        }
    }
}
