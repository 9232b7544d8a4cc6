//! Converts the OpenMetrics text that the library writes into Prometheus' text format 0.0.4, which every collector reads, and into JSON.

use serde_json::{Map, Number, Value};

/// Rewrites descriptors: a counter is described under the name of its samples, and units, the end mark and empty braces are left out.
pub(super) fn from_open_metrics(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut help = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((_, words)) = help.take() {
                result.push_str(&format!("# HELP {name}{suffix} {words}\n"));
            }
            result.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with("# ") {
            // The library writes empty braces where a family has no labels.
            result.push_str(&line.replacen("{} ", " ", 1));
            result.push('\n');
        }
    }
    result
}

/// All samples but histogram buckets.
pub(super) fn samples(text: &str) -> Value {
    let sample = |line: &str| {
        let (name, number) = line.rsplit_once(' ')?;
        if name.split('{').next()?.ends_with("_bucket") {
            return None;
        }
        let value = match number.parse::<i64>() {
            Ok(whole) => Number::from(whole),
            Err(_) => Number::from_f64(number.parse().ok()?)?,
        };
        Some((name.to_owned(), Value::Number(value)))
    };
    let samples: Map<String, Value> =
        text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect();
    Value::Object(samples)
}
