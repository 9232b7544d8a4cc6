//! Comments on pictures: written, changed and deleted by their authors.

pub mod comment;
pub mod comment_view;

use millstream::application::Context;

/// The context, as in subjects.
pub const CONTEXT: &str = "comments";

/// What the context has.
pub fn context() -> Context {
    Context::new(CONTEXT).aggregate::<comment::Comment>().view(comment_view::CommentView)
}
