//! Charts as SVG. They contain no text, so that they stay readable at any width; the text stands beside them. Pure.

use std::fmt::Write as _;

use super::value_text::escape;

/// The height of a column chart in its own units. Each value is ten units wide.
const HEIGHT: u64 = 60;
const WIDTH: usize = 10;

/// A bar in a table's cell, whose width shows the share of `value` in `most`.
pub(super) fn bar(value: i64, most: u64) -> String {
    let width = scaled(value.unsigned_abs(), most, 100);
    let class = if value < 0 { "other" } else { "mark" };
    format!(
        "<svg class=\"chart\" viewBox=\"0 0 100 4\" preserveAspectRatio=\"none\" height=\"4\" aria-hidden=\"true\" focusable=\"false\">\
         <rect class=\"{class}\" width=\"{width}\" height=\"4\"/></svg>"
    )
}

/// One column for each value; a missing value leaves a gap. If one of them is what the page is about, it stands out.
pub(super) fn columns(values: &[Option<i64>], about: Option<usize>, says: &str) -> String {
    let known = || values.iter().flatten();
    let above = known().copied().max().unwrap_or_default().max(0).unsigned_abs();
    let below = known().copied().min().unwrap_or_default().min(0).unsigned_abs();
    let whole = above.saturating_add(below);
    let zero = scaled(above, whole, HEIGHT);
    let width = WIDTH * values.len().max(1);
    let mut svg = format!(
        "<svg class=\"chart\" viewBox=\"0 0 {width} {HEIGHT}\" preserveAspectRatio=\"none\" height=\"120\" role=\"img\" aria-label=\"{}\">",
        escape(says)
    );
    for ((index, left), value) in (0..).zip((1..).step_by(WIDTH)).zip(values) {
        let Some(value) = value else { continue };
        let height = scaled(value.unsigned_abs(), whole, HEIGHT).max(u64::from(*value != 0));
        let top = if *value < 0 { zero } else { zero.saturating_sub(height) };
        let class = if about.is_none_or(|about| about == index) { "mark" } else { "other" };
        write!(
            svg,
            "<rect class=\"{class}\" x=\"{left}\" y=\"{top}\" width=\"{}\" height=\"{height}\"/>",
            WIDTH - 2
        )
        .expect("a text can be written to");
    }
    let line = zero.min(HEIGHT);
    write!(svg, "<path class=\"axis\" d=\"M0 {line}H{width}\" vector-effect=\"non-scaling-stroke\"/></svg>")
        .expect("a text can be written to");
    svg
}

/// How full something is, in thousandths.
pub(super) fn meter(thousandths: u64) -> String {
    let width = thousandths.min(1_000);
    format!(
        "<svg class=\"meter\" viewBox=\"0 0 1000 4\" preserveAspectRatio=\"none\" aria-hidden=\"true\" focusable=\"false\">\
         <rect class=\"track\" width=\"1000\" height=\"4\"/><rect class=\"fill\" width=\"{width}\" height=\"4\"/></svg>"
    )
}

/// `value` scaled so that `most` has `units`.
fn scaled(value: u64, most: u64, units: u64) -> u64 {
    if most == 0 {
        return 0;
    }
    let scaled = u128::from(value) * u128::from(units) / u128::from(most);
    u64::try_from(scaled).unwrap_or(units).min(units)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_high_as_their_values_and_none_leaves_the_chart() {
        let svg = columns(&[Some(50), None, Some(-50), Some(i64::MAX)], Some(3), "a & b");
        assert!(svg.contains("aria-label=\"a &amp; b\"") && svg.matches("<rect").count() == 3, "{svg}");
        assert!(
            svg.matches("class=\"other\"").count() == 2 && svg.contains("class=\"mark\" x=\"31\""),
            "{svg}"
        );
        let svg = columns(&[Some(100), Some(-50)], None, "");
        assert!(
            !svg.contains("class=\"other\"")
                && svg.contains("x=\"1\" y=\"0\" width=\"8\" height=\"40\"")
                && svg.contains("y=\"40\" width=\"8\" height=\"20\""),
            "{svg}"
        );
        assert!(columns(&[Some(0)], None, "").contains("height=\"0\""));
        assert!(columns(&[], None, "").contains("viewBox=\"0 0 10 60\""));
        assert!(bar(i64::MIN, i64::MIN.unsigned_abs()).contains("class=\"other\" width=\"100\""));
    }
}
