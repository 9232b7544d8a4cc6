//! Views of comments. `comment`, key `<comment>`: what it says now. `comments-by-picture`, key
//! `<picture>/<age>/<comment>`, and `comments-by-author`, key `<author>/<age>/<comment>`: the newest first, for listing
//! page by page by prefix. `<age>` counts down as time goes on ([`age`]), from the moment when the comment was created, so
//! that a comment keeps its place when it is changed.
//!
//! A deleted comment vanishes from all of them.

use jiff::Timestamp;
use millstream::{
    contract::commit::{EventEnvelope, timestamp_to_nanoseconds},
    decider::{Decider, EventSet},
    projection::{Projection, ProjectionError, RowShape, Rows},
    schemars::JsonSchema,
};
use serde::{Deserialize, Serialize};

use super::comment::{Comment, CommentEvent};

const COMMENTS: &str = "comment";
const BY_PICTURE: &str = "comments-by-picture";
const BY_AUTHOR: &str = "comments-by-author";

/// A row of any of the views.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(crate = "millstream::schemars")]
pub struct CommentRow {
    /// Its id.
    pub comment: String,
    /// Id of the picture.
    pub picture: String,
    /// Who said it.
    pub author: String,
    /// What it says.
    pub text: String,
    /// Whether it says something else than at first.
    pub edited: bool,
    /// When it was created.
    pub created_at: Timestamp,
    /// Version of the aggregate that the row shows.
    pub version: u64,
    /// When that was recorded.
    pub recorded_at: Timestamp,
}

/// Fills the views of comments.
#[derive(Debug)]
pub struct CommentView;

impl Projection for CommentView {
    fn context(&self) -> &'static str {
        super::CONTEXT
    }

    fn name(&self) -> &'static str {
        COMMENTS
    }

    fn views(&self) -> &'static [&'static str] {
        &[COMMENTS, BY_PICTURE, BY_AUTHOR]
    }

    fn shapes(&self) -> Vec<RowShape> {
        let shape = |view, key| RowShape::of::<CommentRow>(view, key);
        vec![
            shape(COMMENTS, "<comment>"),
            shape(BY_PICTURE, "<picture>/<age>/<comment>"),
            shape(BY_AUTHOR, "<author>/<age>/<comment>"),
        ]
    }

    fn handles(&self, aggregate: &str) -> bool {
        aggregate == Comment::AGGREGATE
    }

    fn apply(&self, envelope: &EventEnvelope<'_>, rows: &mut (dyn Rows + '_)) -> Result<(), ProjectionError> {
        let comment = envelope.stream_id.id();
        let before: Option<CommentRow> = rows.read(COMMENTS, comment)?;
        let mut row = match (CommentEvent::from_envelope(envelope)?, before) {
            (CommentEvent::Created(created), _) => CommentRow {
                comment: comment.to_owned(),
                picture: created.picture,
                author: created.author,
                text: created.text,
                edited: false,
                created_at: envelope.recorded_at,
                version: envelope.aggregate_version,
                recorded_at: envelope.recorded_at,
            },
            (CommentEvent::Updated(updated), Some(row)) => {
                CommentRow { text: updated.text, edited: true, ..row }
            }
            (CommentEvent::Deleted(_), Some(row)) => {
                for (view, key) in keys(&row) {
                    rows.delete(view, &key);
                }
                return Ok(());
            }
            (CommentEvent::Updated(_) | CommentEvent::Deleted(_), None) => {
                let message = format!("{} was changed before it was created", envelope.stream_id);
                return Err(ProjectionError::Inconsistent(message));
            }
        };
        row.version = envelope.aggregate_version;
        row.recorded_at = envelope.recorded_at;
        for (view, key) in keys(&row) {
            rows.write(view, &key, &row);
        }
        Ok(())
    }
}

fn keys(row: &CommentRow) -> [(&'static str, String); 3] {
    let place = format!("{}/{}", age(row.created_at), row.comment);
    [
        (COMMENTS, row.comment.clone()),
        (BY_PICTURE, format!("{}/{place}", row.picture)),
        (BY_AUTHOR, format!("{}/{place}", row.author)),
    ]
}

/// A text of 19 digits that is the smaller the later `time` is: nanoseconds until the last moment that an event can have.
pub fn age(time: Timestamp) -> String {
    // Events are recorded by a server's clock, after 1970.
    format!("{:019}", i64::MAX.saturating_sub(timestamp_to_nanoseconds(time).max(0)))
}

#[cfg(test)]
mod tests {
    use millstream::testing::project::{History, assert_repeatable};
    use serde_json::json;

    use super::*;
    use crate::comments::comment::{CommentCreated, CommentDeleted, CommentUpdated};

    fn created(picture: &str, author: &str) -> CommentEvent {
        let (picture, author, text) = (picture.into(), author.into(), "Lovely!".into());
        CommentEvent::Created(CommentCreated { picture, author, text })
    }

    fn updated(text: &str) -> CommentEvent {
        CommentEvent::Updated(CommentUpdated { text: text.into() })
    }

    #[test]
    fn comments_are_listed_newest_first_and_keep_their_place_when_changed() {
        let mut history = History::new("comments");
        history
            .add("comment", "C-1", [created("P-1", "anna")])
            .add("comment", "C-2", [created("P-1", "berta")])
            .add("comment", "C-3", [created("P-2", "anna")])
            .add("comment", "C-1", [updated("Nice.")]);
        let rows = assert_repeatable(&CommentView, &history);
        let comments = |view: &str, prefix: &str| -> Vec<String> {
            let keys = rows.keys(view).into_iter().filter(|key| key.starts_with(prefix));
            keys.map(|key| rows.json(view, key)["comment"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(comments("comments-by-picture", "P-1/"), ["C-2", "C-1"]);
        assert_eq!(comments("comments-by-author", "anna/"), ["C-3", "C-1"]);
        let row = json!({
            "comment": "C-1", "picture": "P-1", "author": "anna", "text": "Nice.", "edited": true,
            "created_at": "2012-01-31T12:00:00Z", "version": 2, "recorded_at": "2012-01-31T12:00:03Z",
        });
        assert_eq!(rows.json("comment", "C-1"), row);
        let key = format!("P-1/{}/C-1", age("2012-01-31T12:00:00Z".parse().unwrap()));
        assert_eq!(rows.json("comments-by-picture", &key), row);
    }

    #[test]
    fn deleted_comment_vanishes_from_every_view() {
        let mut history = History::new("comments");
        history.add("comment", "C-1", [created("P-1", "anna"), updated("Nice.")]).add(
            "comment",
            "C-1",
            [CommentEvent::Deleted(CommentDeleted {})],
        );
        let rows = assert_repeatable(&CommentView, &history);
        assert_eq!(rows.dump(), "");
    }

    #[test]
    fn later_times_sort_before_earlier_ones() {
        let times = [
            "1970-01-01T00:00:00Z",
            "2012-01-31T12:00:00Z",
            "2012-01-31T12:00:00.000000001Z",
            "2262-01-01T00:00:00Z",
        ];
        let ages = times.map(|time| age(time.parse().unwrap()));
        assert!(ages.is_sorted_by(|before, after| before > after), "{ages:?}");
        assert!(ages.iter().all(|age| age.len() == 19));
    }
}
