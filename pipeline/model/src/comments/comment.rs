//! `comment.<comment>`: what someone says about a picture.
//!
//! The author is the actor of the command that created it, and the only one who may change or delete it; NATS permissions
//! decide who may name which actor. What is deleted stays deleted, and stays in the history.

use millstream::{
    decider::{ANY_COMMAND, Decider, DecisionContext, Rejection, rejections_of},
    values::{
        reference::check_reference,
        text::{check_printable, is_blank, is_harmful},
    },
};
use serde::{Deserialize, Serialize};

/// Longest text, in characters.
pub const TEXT_LENGTH_MAX: usize = 10_000;

/// Longest name of an actor, in characters.
pub const ACTOR_LENGTH_MAX: usize = 200;

/// Says something. The same content by the same author again changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateComment {
    /// Id of the picture.
    pub picture: String,
    /// What is said.
    pub text: String,
}

/// Says something else instead. The same text again changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateComment {
    /// What is said now.
    pub text: String,
}

/// Takes it back. Again changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeleteComment {}

millstream::commands! {
    /// What can be asked of a comment.
    pub enum CommentCommand {
        Create(CreateComment) = "create",
        Update(UpdateComment) = "update",
        Delete(DeleteComment) = "delete",
    }
}

/// It was said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommentCreated {
    /// Id of the picture.
    pub picture: String,
    /// Who said it.
    pub author: String,
    /// What was said.
    pub text: String,
}

/// Something else was said instead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommentUpdated {
    /// What is said now.
    pub text: String,
}

/// It was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommentDeleted {}

millstream::events! {
    /// What can happen to a comment.
    pub enum CommentEvent of "comment" {
        Created(CommentCreated) = "comment-created" v 1,
        Updated(CommentUpdated) = "comment-updated" v 1,
        Deleted(CommentDeleted) = "comment-deleted" v 1,
    }
}

const REJECTIONS: &[(&str, &[&str])] = &[
    (ANY_COMMAND, &["actor-missing", "actor-not-allowed"]),
    (
        "create",
        &[
            "picture-not-allowed",
            "text-blank",
            "text-too-long",
            "text-not-allowed",
            "comment-deleted",
            "comment-differs",
        ],
    ),
    (
        "update",
        &[
            "comment-not-created",
            "actor-not-author",
            "comment-deleted",
            "text-blank",
            "text-too-long",
            "text-not-allowed",
        ],
    ),
    ("delete", &["comment-not-created", "actor-not-author"]),
];

fn not_created(comment: &str) -> Rejection {
    Rejection::new("comment-not-created", format!("there is no comment {comment}; create it first"))
}

fn is_deleted(comment: &str) -> Rejection {
    let message = format!("comment {comment} is deleted; create another one");
    Rejection::new("comment-deleted", message)
}

/// What the rules need to know of a comment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommentState {
    created: Option<CommentCreated>,
    deleted: bool,
}

/// The rules of `comment.<comment>`.
#[derive(Debug)]
pub struct Comment;

impl Decider for Comment {
    type Command = CommentCommand;
    type Event = CommentEvent;
    type State = CommentState;

    const CONTEXT: &'static str = super::CONTEXT;
    const AGGREGATE: &'static str = "comment";

    fn rejections() -> Vec<(&'static str, &'static str)> {
        rejections_of(REJECTIONS).collect()
    }

    fn decide(
        state: &CommentState,
        command: &CommentCommand,
        context: &DecisionContext<'_>,
    ) -> Result<Vec<CommentEvent>, Rejection> {
        let actor = check_actor(context.actor)?;
        let comment = context.aggregate_id;
        match command {
            CommentCommand::Create(create) => decide_create(state, create, actor, comment),
            CommentCommand::Update(update) => decide_update(state, update, actor, comment),
            CommentCommand::Delete(_) => {
                check_author(state, actor, comment)?;
                Ok(if state.deleted { vec![] } else { vec![CommentEvent::Deleted(CommentDeleted {})] })
            }
        }
    }

    fn evolve(state: &mut CommentState, event: &CommentEvent) {
        match event {
            CommentEvent::Created(created) => state.created = Some(created.clone()),
            CommentEvent::Updated(updated) => {
                if let Some(created) = &mut state.created {
                    created.text.clone_from(&updated.text);
                }
            }
            CommentEvent::Deleted(_) => state.deleted = true,
        }
    }
}

fn decide_create(
    state: &CommentState,
    create: &CreateComment,
    actor: &str,
    comment: &str,
) -> Result<Vec<CommentEvent>, Rejection> {
    check_reference("picture-not-allowed", "picture", &create.picture)?;
    check_text(&create.text)?;
    let created = CommentCreated {
        picture: create.picture.clone(),
        author: actor.to_owned(),
        text: create.text.clone(),
    };
    match &state.created {
        None => Ok(vec![CommentEvent::Created(created)]),
        Some(_) if state.deleted => Err(is_deleted(comment)),
        Some(known) if *known == created => Ok(vec![]),
        Some(_) => {
            let message =
                format!("comment {comment} exists with other content; use another id, or update it");
            Err(Rejection::new("comment-differs", message))
        }
    }
}

fn decide_update(
    state: &CommentState,
    update: &UpdateComment,
    actor: &str,
    comment: &str,
) -> Result<Vec<CommentEvent>, Rejection> {
    let created = check_author(state, actor, comment)?;
    if state.deleted {
        return Err(is_deleted(comment));
    }
    check_text(&update.text)?;
    if created.text == update.text {
        return Ok(vec![]);
    }
    Ok(vec![CommentEvent::Updated(CommentUpdated { text: update.text.clone() })])
}

/// Who asks. A name is part of the keys of rows, so it has no slash.
fn check_actor(actor: Option<&str>) -> Result<&str, Rejection> {
    let Some(actor) = actor.filter(|actor| !is_blank(actor)) else {
        let message = "nobody is named as the author; send the header Millstream-Actor";
        return Err(Rejection::new("actor-missing", message));
    };
    if actor.chars().count() > ACTOR_LENGTH_MAX || actor.contains('/') || actor.chars().any(is_harmful) {
        let message = format!(
            "actor {actor:?} is not allowed: use 1 to {ACTOR_LENGTH_MAX} printable characters without a slash"
        );
        return Err(Rejection::new("actor-not-allowed", message));
    }
    Ok(actor)
}

fn check_author<'a>(
    state: &'a CommentState,
    actor: &str,
    comment: &str,
) -> Result<&'a CommentCreated, Rejection> {
    let created = state.created.as_ref().ok_or_else(|| not_created(comment))?;
    if created.author != actor {
        let message = format!(
            "comment {comment} is of {}, not of {actor}; only its author may do that",
            created.author
        );
        return Err(Rejection::new("actor-not-author", message));
    }
    Ok(created)
}

/// A text has lines; it holds nothing else that changes what is shown beside it.
fn check_text(text: &str) -> Result<(), Rejection> {
    if is_blank(text) {
        return Err(Rejection::new("text-blank", "the text is blank; say something"));
    }
    if text.chars().count() > TEXT_LENGTH_MAX {
        let message = format!("the text is longer than {TEXT_LENGTH_MAX} characters; shorten it");
        return Err(Rejection::new("text-too-long", message));
    }
    let of_lines = |character| matches!(character, '\n' | '\r' | '\t');
    check_printable("text-not-allowed", "the text", text, of_lines)
}

#[cfg(test)]
mod tests {
    use millstream::testing::given_when_then::{Given, given};

    use super::*;

    const CREATE: &str = r#"{"picture":"P-1","text":"Lovely!"}"#;

    fn created() -> CommentEvent {
        let (picture, author, text) = ("P-1".into(), "anna".into(), "Lovely!".into());
        CommentEvent::Created(CommentCreated { picture, author, text })
    }

    fn updated(text: &str) -> CommentEvent {
        CommentEvent::Updated(CommentUpdated { text: text.into() })
    }

    fn deleted() -> CommentEvent {
        CommentEvent::Deleted(CommentDeleted {})
    }

    fn comment(events: impl IntoIterator<Item = CommentEvent>) -> Given<Comment> {
        given::<Comment>("C-1", events).by("anna")
    }

    #[test]
    fn author_is_who_asks() {
        comment([])
            .when_typed("create", CREATE)
            .then([created()])
            .when_typed("create", CREATE)
            .then_nothing();
        given::<Comment>("C-1", []).when_typed("create", CREATE).then_rejected("actor-missing");
        for actor in ["a/b", "a\nb", &"x".repeat(ACTOR_LENGTH_MAX + 1)] {
            given::<Comment>("C-1", [])
                .by(actor)
                .when_typed("create", CREATE)
                .then_rejected("actor-not-allowed");
        }
        given::<Comment>("C-1", []).by(" ").when_typed("create", CREATE).then_rejected("actor-missing");
    }

    #[test]
    fn only_a_change_is_an_event() {
        comment([created()])
            .when_typed("update", r#"{"text":"Lovely!"}"#)
            .then_nothing()
            .when_typed("update", r#"{"text":"Nice."}"#)
            .then([updated("Nice.")])
            .when_typed("update", r#"{"text":"Nice."}"#)
            .then_nothing()
            .when_typed("update", r#"{"text":"Lovely!"}"#)
            .then([updated("Lovely!")]);
    }

    #[test]
    fn only_the_author_may_change_or_delete() {
        for (command, body) in [("update", r#"{"text":"Nice."}"#), ("delete", "")] {
            comment([created()]).by("berta").when_typed(command, body).then_rejected("actor-not-author");
            comment([]).when_typed(command, body).then_rejected("comment-not-created");
            given::<Comment>("C-1", [created()]).when_typed(command, body).then_rejected("actor-missing");
        }
        comment([created()]).by("berta").when_typed("create", CREATE).then_rejected("comment-differs");
    }

    #[test]
    fn what_is_deleted_stays_deleted() {
        comment([created()])
            .when_typed("delete", "")
            .then([deleted()])
            .when_typed("delete", "{}")
            .then_nothing()
            .when_typed("update", r#"{"text":"Nice."}"#)
            .then_rejected("comment-deleted")
            .when_typed("create", CREATE)
            .then_rejected("comment-deleted")
            .by("berta")
            .when_typed("delete", "")
            .then_rejected("actor-not-author");
    }

    #[test]
    fn bad_fields_are_refused_by_name() {
        let long = "x".repeat(TEXT_LENGTH_MAX + 1);
        for (text, code) in
            [(" \n", "text-blank"), (long.as_str(), "text-too-long"), ("a\u{1b}[2J", "text-not-allowed")]
        {
            let body = serde_json::json!({ "text": text }).to_string();
            comment([created()]).when_typed("update", &body).then_rejected(code);
        }
        comment([]).when_typed("create", &CREATE.replace("P-1", "P 1")).then_rejected("picture-not-allowed");
        comment([]).when_typed("create", &CREATE.replace("Lovely!", "")).then_rejected("text-blank");
    }
}
