//! The allow-lists of config/nats-accounts.conf as data, compared with what the stages say that they need: neither narrower,
//! so that they can work, nor wider, so that they can do nothing else.

use std::{collections::BTreeMap, fs};

use end_to_end_tests::binaries::repository;
use millstream_runtime::{
    connection::stage_inbox,
    stage_needs::{StageNeeds, stage_needs},
};

const STAGES: [&str; 6] = ["command-handler", "projector", "reporter", "process-manager", "sql", "gateway"];
/// The instances that the lists provide for.
const INSTANCES: [&str; 4] = ["", "0", "1", "2"];
/// Where those who answer may answer.
const REPLIES: [&str; 3] = ["_INBOX.>", "_R_.>", "reply.>"];

/// What a list allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Publish,
    Subscribe,
}

/// The lists of one user.
#[derive(Debug, Default)]
pub(crate) struct AllowLists {
    publish: Vec<String>,
    subscribe: Vec<String>,
}

impl AllowLists {
    /// Both lists, entry by entry.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (Verb, String)> {
        let publish = self.publish.iter().map(|entry| (Verb::Publish, entry.clone()));
        publish.chain(self.subscribe.iter().map(|entry| (Verb::Subscribe, entry.clone())))
    }
}

/// By user. The file is read as it is laid out, not as the server reads it; the permission matrix shows what that makes of it.
pub(crate) fn allow_lists() -> BTreeMap<String, AllowLists> {
    let text = fs::read_to_string(repository().join("config/nats-accounts.conf")).unwrap();
    let mut all: BTreeMap<String, AllowLists> = BTreeMap::new();
    let (mut user, mut verb) = (String::new(), Verb::Publish);
    for line in text.lines().map(str::trim) {
        let of_no_list = ["#", "include", "{ service", "deny"];
        if of_no_list.iter().any(|start| line.starts_with(start)) {
            continue;
        }
        if line.starts_with("publish") {
            verb = Verb::Publish;
        } else if line.starts_with("subscribe") {
            verb = Verb::Subscribe;
        }
        for entry in line.split('"').skip(1).step_by(2) {
            if line.starts_with("user:") {
                user = entry.to_owned();
                continue;
            }
            let lists = all.entry(user.clone()).or_default();
            let list = if verb == Verb::Publish { &mut lists.publish } else { &mut lists.subscribe };
            list.push(entry.to_owned());
        }
    }
    all
}

/// Whether everything that `subject` stands for, which may hold wildcards itself, is allowed by `entry`.
pub(crate) fn covers(entry: &str, subject: &str) -> bool {
    let (mut entry, mut subject) = (entry.split('.'), subject.split('.'));
    loop {
        match (entry.next(), subject.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) => return true,
            (Some(left), Some(right)) if left == right || (left == "*" && right != ">") => {}
            _ => return false,
        }
    }
}

fn needed(needs: &StageNeeds, stage: &str) -> Vec<(Verb, String)> {
    let inbox = stage_inbox(stage);
    let publish =
        needs.publish_subjects("$JS.API", &inbox).into_iter().map(|subject| (Verb::Publish, subject));
    let subscribe = needs.subscribe_subjects(&inbox);
    publish.chain(subscribe.into_iter().map(|subject| (Verb::Subscribe, subject))).collect()
}

#[test]
fn stages_are_allowed_all_that_they_need_and_nothing_else() {
    let lists = allow_lists();
    let mut wrong = Vec::new();
    for stage in STAGES {
        let lists = lists.get(stage).unwrap();
        let needs: Vec<StageNeeds> =
            INSTANCES.iter().map(|instance| stage_needs(stage, instance).unwrap()).collect();
        let needed: Vec<(Verb, String)> = needs.iter().flat_map(|needs| needed(needs, stage)).collect();
        for (verb, subject) in &needed {
            if !lists.entries().any(|(of, entry)| of == *verb && covers(&entry, subject)) {
                wrong.push(format!("{stage} needs to {verb:?} {subject}"));
            }
        }
        for (verb, entry) in lists.entries() {
            let is_needed = needed.iter().any(|(of, subject)| *of == verb && covers(&entry, subject));
            let is_reply = verb == Verb::Publish && REPLIES.contains(&entry.as_str());
            if !is_needed && !is_reply {
                wrong.push(format!("{stage} is allowed to {verb:?} {entry} and does not need it"));
            }
        }
    }
    wrong.sort();
    wrong.dedup();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn wildcards_cover_what_they_should() {
    for (entry, subject, expected) in [
        ("a.*.c", "a.b.c", true),
        ("a.*.c", "a.*.c", true),
        ("a.b", "a.*", false),
        ("a.>", "a.b.*", true),
        ("a.*", "a.>", false),
        ("a.>", "a", false),
        ("a", "a.b", false),
    ] {
        assert_eq!(covers(entry, subject), expected, "{entry} {subject}");
    }
}
