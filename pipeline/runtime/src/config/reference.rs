//! The commented configuration file and the tables of the documentation. Both are made from what the sections declare about their keys.

use super::entry::Entry;

/// Width of comments.
const WIDTH: usize = 110;

/// A file with every key commented out.
pub(super) fn file(stage: &str, entries: &[Entry]) -> String {
    let mut text = format!(
        "# Configuration of the {stage}. Every key is here with its default; take away the # to change it.\n\
         # Made by `{stage} --reference-config`. docs/configuration.md says what else sets keys and which of them win.\n"
    );
    for (section, keys) in sections(entries) {
        text.push('\n');
        if let Some(first) = keys.first() {
            comment(&mut text, first.about);
        }
        text.push_str(&format!("[{section}]\n"));
        for entry in keys {
            text.push('\n');
            comment(&mut text, entry.help);
            let value = entry.default.as_deref().unwrap_or("\"\"");
            text.push_str(&format!("# {} = {value}\n", name(entry)));
        }
    }
    text
}

/// A heading and a table for each section.
pub(super) fn tables(entries: &[Entry]) -> String {
    let mut text = String::new();
    for (section, keys) in sections(entries) {
        text.push_str(&format!("### [{section}]\n\n"));
        if let Some(first) = keys.first() {
            text.push_str(&format!("{}\n\n", first.about));
        }
        text.push_str("| key | default | what it does |\n|---|---|---|\n");
        for entry in keys {
            let default = entry.default.as_ref().map_or("not set".to_owned(), |value| format!("`{value}`"));
            text.push_str(&format!(
                "| `{}` | {default} | {} |\n",
                name(entry),
                entry.help.replace('|', "\\|")
            ));
        }
        text.push('\n');
    }
    text
}

/// Entries by section, in their order.
fn sections(entries: &[Entry]) -> Vec<(&str, Vec<&Entry>)> {
    let mut sections: Vec<(&str, Vec<&Entry>)> = Vec::new();
    for entry in entries {
        let section = entry.key.split_once('.').map_or("", |(section, _)| section);
        match sections.last_mut() {
            Some((last, keys)) if *last == section => keys.push(entry),
            _ => sections.push((section, vec![entry])),
        }
    }
    sections
}

fn name(entry: &Entry) -> &str {
    entry.key.split_once('.').map_or(entry.key.as_str(), |(_, name)| name)
}

/// Writes a text as comment lines of limited width.
fn comment(text: &mut String, words: &str) {
    let mut line = String::from("#");
    for word in words.split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH {
            text.push_str(&line);
            text.push('\n');
            "#".clone_into(&mut line);
        }
        line.push(' ');
        line.push_str(word);
    }
    text.push_str(&line);
    text.push('\n');
}
