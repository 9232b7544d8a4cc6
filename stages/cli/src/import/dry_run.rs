//! What an import would send, without a server: the commands of the first rows, and the rows that would be refused before they are sent.
//!
//! Deliberately absent: what the rules say, which depends on what has happened.

use serde_json::{Value, json};

use super::{
    input::{InputError, RowsFile},
    mapping::{Mapping, RowCommand},
    shared::{Shared, Sharing},
};

/// Rows that are refused are shown up to so many; the rest is counted.
const REFUSALS_MAX: u64 = 20;

/// What an import would do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Prospect {
    /// All rows of the file.
    pub(crate) rows: u64,
    /// Commands that would be sent.
    pub(crate) commands: u64,
    /// Rows that would be refused before anything of them is sent.
    pub(crate) refused: u64,
    /// Rows that the map skips.
    pub(crate) skipped: u64,
}

/// A line to show: of a command, or of a refused row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    line: u64,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Command {
        address: String,
        id: String,
        body: String,
    },
    Refused {
        code: String,
        reason: String,
    },
    /// `count` more refused rows or groups are not shown; the first of them begins on the line.
    MoreRefused {
        count: u64,
    },
}

impl Shown {
    /// For people.
    pub(crate) fn text(&self) -> String {
        match &self.what {
            What::Command { address, body, .. } => format!("line {}: {address} {body}", self.line),
            What::Refused { code, reason } => format!("line {}: refused ({code}): {reason}", self.line),
            What::MoreRefused { count } => {
                format!(
                    "{count} more refused rows or groups are not shown, the first of them on line {}",
                    self.line
                )
            }
        }
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        match &self.what {
            What::Command { address, id, body } => {
                let body: Value = serde_json::from_str(body).unwrap_or_default();
                json!({ "line": self.line, "address": address, "id": id, "body": body })
            }
            What::Refused { code, reason } => json!({ "line": self.line, "code": code, "reason": reason }),
            What::MoreRefused { count } => json!({ "line": self.line, "more_refused": count }),
        }
    }
}

/// Goes through a file and shows the commands of its first rows.
///
/// # Errors
/// When the file has changed since it was checked, or nothing can be shown.
pub(crate) fn run<E: From<InputError>>(
    file: &RowsFile,
    mapping: &mut Mapping,
    first_rows: u64,
    mut show: impl FnMut(Shown) -> Result<(), E>,
) -> Result<Prospect, E> {
    let (mut prospect, mut shared) = (Prospect::default(), Shared::default());
    let (mut units, mut refusals, mut first_hidden) = (0, 0, None);
    for unit in mapping.units(file)? {
        let unit = unit?;
        let (line, count) = (unit.rows.first().map_or(0, |row| row.line), unit.rows.len() as u64);
        prospect.rows += count;
        if unit.is_skipped() {
            prospect.skipped += count;
            continue;
        }
        units += 1;
        match mapping.map(&unit).commands {
            Ok(commands) => {
                let mut is_sent = |(index, each): &(usize, RowCommand)| {
                    !each.once || shared.share(&each.command, (units, *index)) == Sharing::No
                };
                let sent: Vec<_> = (0..).zip(commands).filter(|each| is_sent(each)).collect();
                prospect.commands += sent.len() as u64;
                for (_, RowCommand { command, .. }) in sent.into_iter().filter(|_| units <= first_rows) {
                    let (address, body) =
                        (command.address.to_string(), String::from_utf8_lossy(&command.body));
                    let what = What::Command { address, id: command.id.clone(), body: body.into_owned() };
                    show(Shown { line, what })?;
                }
            }
            Err(refusal) => {
                prospect.refused += count;
                refusals += 1;
                if refusals <= REFUSALS_MAX {
                    let what = What::Refused { code: refusal.code, reason: refusal.reason };
                    show(Shown { line, what })?;
                } else {
                    first_hidden.get_or_insert(line);
                }
            }
        }
    }
    if let Some(line) = first_hidden {
        show(Shown { line, what: What::MoreRefused { count: refusals - REFUSALS_MAX } })?;
    }
    Ok(prospect)
}
