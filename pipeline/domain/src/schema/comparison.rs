//! Compares the model with what is recorded of it. Pure.

use std::{collections::BTreeMap, fmt};

use serde_json::Value;

use super::{
    AggregateRecord, Field, GoldenFiles, Shape, VersionRecord, files::AggregateFiles, recorded::digest,
    shape::UNKNOWN,
};
use crate::decider::{AggregateRegistry, AggregateType};

/// Something in which the model differs from the records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `<context>/<aggregate>/<type>.v<version>`, or its beginning if the problem is about more than one version.
    pub event: String,
    /// The field, if the problem is about one.
    pub field: Option<String>,
    /// What is wrong, and what to do.
    pub text: String,
    /// Whether the only problem is that it is not recorded yet.
    pub unrecorded: bool,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.field {
            Some(field) => write!(formatter, "{}: field {field} {}", self.event, self.text),
            None => write!(formatter, "{}: {}", self.event, self.text),
        }
    }
}

/// Everything in which the model differs from the golden files and the records, in order; empty when nothing does.
pub fn check(registry: &AggregateRegistry, files: &GoldenFiles) -> Vec<Problem> {
    let mut problems = Vec::new();
    let none = AggregateFiles::default();
    for aggregate in registry.iter() {
        let key = format!("{}/{}", aggregate.context(), aggregate.aggregate());
        let files = files.aggregates.get(&key).unwrap_or(&none);
        Comparison { key, aggregate: aggregate.as_ref(), files, problems: &mut problems }.run();
    }
    for key in files.aggregates.keys() {
        let known = key.split_once('/').and_then(|(context, aggregate)| registry.get(context, aggregate));
        if known.is_none() {
            let text =
                "the model has no such aggregate any more; its events are stored for ever, put it back";
            problems.push(Problem {
                event: key.clone(),
                field: None,
                text: text.to_owned(),
                unrecorded: false,
            });
        }
    }
    problems
}

/// Adds what is new: a golden file, made up from its type, for each event that has none, and a record for each golden file that has none.
/// Returns what was added to the records.
///
/// # Errors
/// The problems of [`check`] that recording does not solve, if there are any. In this case nothing may be written.
pub fn record(registry: &AggregateRegistry, files: &mut GoldenFiles) -> Result<Vec<String>, Vec<Problem>> {
    add_bodies(registry, files);
    let problems: Vec<Problem> =
        check(registry, files).into_iter().filter(|problem| !problem.unrecorded).collect();
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut added = Vec::new();
    for aggregate in registry.iter() {
        let key = format!("{}/{}", aggregate.context(), aggregate.aggregate());
        let Some(files) = files.aggregates.get_mut(&key) else { continue };
        let AggregateFiles { bodies, record, .. } = files;
        for (event_type, current) in aggregate.event_types() {
            for version in 1..=*current {
                let name = format!("{event_type}.v{version}");
                let Some(body) = bodies.get(&name) else { continue };
                if add(aggregate.as_ref(), event_type, version, *current, body, record) {
                    added.push(format!("{key}/{name}"));
                }
            }
        }
    }
    Ok(added)
}

/// Makes a golden body for each current version that has neither a body nor a record. A body that is recorded and missing is not made up
/// again.
fn add_bodies(registry: &AggregateRegistry, files: &mut GoldenFiles) {
    for aggregate in registry.iter() {
        let key = format!("{}/{}", aggregate.context(), aggregate.aggregate());
        for (event_type, version) in aggregate.event_types() {
            let name = format!("{event_type}.v{version}");
            let files = files.aggregates.entry(key.clone()).or_default();
            if !files.bodies.contains_key(&name)
                && !files.record.contains_key(&name)
                && let Some(body) = aggregate.event_sample(event_type)
            {
                files.bodies.insert(name.clone(), body);
                files.made_up.insert(name);
            }
        }
    }
}

fn add(
    aggregate: &dyn AggregateType,
    event_type: &str,
    version: u16,
    current: u16,
    body: &Value,
    record: &mut AggregateRecord,
) -> bool {
    let name = format!("{event_type}.v{version}");
    let mut added = false;
    let entry = record.entry(name).or_insert_with(|| {
        added = true;
        // If a version was never recorded while it was current, no type is left from which its shape could be derived.
        let shape = (version == current).then(|| aggregate.event_shape(event_type, body)).flatten();
        let fields = shape.map(|shape| texts(&shape)).unwrap_or_default();
        VersionRecord { digest: digest(body), fields, becomes: BTreeMap::new() }
    });
    if version < current
        && !entry.becomes.contains_key(&current)
        && let Ok(now) = rewritten(aggregate, event_type, version, body)
    {
        entry.becomes.insert(current, now);
        added = true;
    }
    added
}

fn texts(shape: &Shape) -> BTreeMap<String, String> {
    shape.fields.iter().map(|(path, field)| (path.clone(), field.to_string())).collect()
}

/// The body in the current version.
fn rewritten(
    aggregate: &dyn AggregateType,
    event_type: &str,
    version: u16,
    body: &Value,
) -> Result<Value, String> {
    let bytes = rmp_serde::to_vec_named(body).expect("JSON is always expressible in MessagePack");
    let event = aggregate.rewrite_event(event_type, version, &bytes).map_err(|error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
        format!("{error}{}", cause.unwrap_or_default())
    })?;
    Ok(rmp_serde::from_slice(&event.data).expect("events are plain data with named fields"))
}

/// The problems of one aggregate.
struct Comparison<'a> {
    key: String,
    aggregate: &'a dyn AggregateType,
    files: &'a AggregateFiles,
    problems: &'a mut Vec<Problem>,
}

impl Comparison<'_> {
    fn run(mut self) {
        let types = self.aggregate.event_types();
        for (event_type, current) in types {
            for version in 1..=*current {
                self.version(event_type, version, *current);
            }
        }
        let known = |name: &str| {
            types.iter().any(|(event_type, current)| {
                let version = name
                    .strip_prefix(event_type)
                    .and_then(|rest| rest.strip_prefix(".v")?.parse::<u16>().ok());
                version.is_some_and(|version| (1..=*current).contains(&version))
            })
        };
        let names = self.files.bodies.keys().chain(self.files.record.keys());
        let gone: std::collections::BTreeSet<&String> = names.filter(|name| !known(name)).collect();
        for name in gone {
            self.problem(
                name,
                None,
                "the model does not know it; what was recorded is read for ever, put it back",
            );
        }
    }

    fn version(&mut self, event_type: &str, version: u16, current: u16) {
        let name = format!("{event_type}.v{version}");
        let record = self.files.record.get(&name);
        let Some(body) = self.files.bodies.get(&name) else {
            let text = match record {
                Some(_) => "its golden file is gone; restore it from version control",
                None => {
                    "it has no golden file; run millstream schema record, or write its fields as JSON, every optional one and every list filled"
                }
            };
            return self.problem(&name, None, text);
        };
        if record.is_some_and(|record| record.digest != digest(body)) {
            let text = "its golden file was edited; restore it from version control";
            return self.problem(&name, None, text);
        }
        if version == current {
            self.current(event_type, version, body);
        } else {
            self.earlier(event_type, version, current, body);
        }
        if record.is_none() {
            self.unrecorded(&name);
        }
    }

    /// The version that is written now.
    fn current(&mut self, event_type: &str, version: u16, body: &Value) {
        let name = format!("{event_type}.v{version}");
        let Some(shape) = self.aggregate.event_shape(event_type, body) else { return };
        let before = self.problems.len();
        if let Some(record) = self.files.record.get(&name) {
            for (field, text) in differences(&record.fields, &shape) {
                self.problem(&name, Some(&field), &format!("{text}; {}", remedy(event_type, version)));
            }
        } else {
            for (path, field) in &shape.fields {
                if let Some(text) = unfit(field) {
                    self.problem(&name, Some(path), text);
                }
            }
        }
        if self.problems.len() > before {
            return;
        }
        match rewritten(self.aggregate, event_type, version, body) {
            Ok(written) if written == *body => {}
            Ok(written) => {
                let text =
                    format!("its golden body is written as {written} now; {}", remedy(event_type, version));
                self.problem(&name, None, &text);
            }
            Err(error) => {
                let text = format!(
                    "its golden body is not read any more ({error}); {}",
                    remedy(event_type, version)
                );
                self.problem(&name, None, &text);
            }
        }
    }

    /// A version that is only read.
    fn earlier(&mut self, event_type: &str, version: u16, current: u16, body: &Value) {
        let name = format!("{event_type}.v{version}");
        match rewritten(self.aggregate, event_type, version, body) {
            Err(error) => {
                let text = format!(
                    "its golden body is not read any more ({error}); mend the upcaster from version {version}"
                );
                self.problem(&name, None, &text);
            }
            Ok(now) => match self.files.record.get(&name).map(|record| record.becomes.get(&current)) {
                Some(Some(recorded)) if *recorded != now => {
                    let text = format!(
                        "it is read as {now}, and was recorded to be read as {recorded}; mend the upcaster from version {version}"
                    );
                    self.problem(&name, None, &text);
                }
                Some(None) => self.unrecorded(&name),
                Some(Some(_)) | None => {}
            },
        }
    }

    fn unrecorded(&mut self, name: &str) {
        self.problem(name, None, "it is not recorded; run millstream schema record");
        if let Some(problem) = self.problems.last_mut() {
            problem.unrecorded = true;
        }
    }

    fn problem(&mut self, name: &str, field: Option<&str>, text: &str) {
        self.problems.push(Problem {
            event: format!("{}/{name}", self.key),
            field: field.map(str::to_owned),
            text: text.to_owned(),
            unrecorded: false,
        });
    }
}

fn remedy(event_type: &str, version: u16) -> String {
    let next = version.saturating_add(1);
    format!(
        "take it back, or make it version {next} in `events!` with an upcaster from version {version} and a golden file {event_type}.v{next}.json"
    )
}

/// Why a field of a body cannot be recorded.
fn unfit(field: &Field) -> Option<&'static str> {
    match field {
        Field::Is { kind, .. } if kind == UNKNOWN => Some("is empty in the golden file; fill it"),
        Field::Is { .. } | Field::Unseen => None,
        Field::Absent => Some("is missing in the golden file; add it"),
        Field::Dropped => {
            Some("is in the golden file and not in the event; take it out, or add it to the event")
        }
    }
}

/// The fields in which a shape differs from the recorded one, with what is different.
fn differences(recorded: &BTreeMap<String, String>, shape: &Shape) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (path, was) in recorded {
        let text = match shape.fields.get(path) {
            Some(Field::Unseen) => None,
            Some(field @ Field::Is { kind, .. }) if shape.error.is_some() => {
                // If reading the body did not end, nobody knows whether the field may be absent.
                let same = was.trim_end_matches('?') == kind;
                (!same).then(|| format!("was {was} and is {}", field.to_string().trim_end_matches('?')))
            }
            Some(field @ Field::Is { .. }) => {
                (field.to_string() != *was).then(|| format!("was {was} and is {field}"))
            }
            Some(Field::Absent | Field::Dropped) => Some("is gone: it was removed or renamed".to_owned()),
            // It stands below a field that was not reached before reading ended, so nothing is known about it.
            None if shape.error.is_some() => None,
            None => Some("is gone: it was removed or renamed".to_owned()),
        };
        found.extend(text.map(|text| (path.clone(), text)));
    }
    for (path, field) in shape.fields.iter().filter(|(path, _)| !recorded.contains_key(*path)) {
        let required = if shape.error.is_some() { ", and old events do not have it" } else { "" };
        match field {
            Field::Absent => found.push((path.clone(), format!("is new{required}"))),
            Field::Is { kind, .. } => found.push((path.clone(), format!("is new ({kind})"))),
            Field::Unseen | Field::Dropped => {}
        }
    }
    found
}
