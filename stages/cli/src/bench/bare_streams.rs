//! The streams of a bare loop: of the same configuration as Millstream's own, on other subjects, made before the loop and removed
//! behind it, so that what comes next finds the server as the loop did.

use async_nats::jetstream;
use millstream_contract::stream_names::{COMMANDS, EVENTS, GENERATION_METADATA, OUTCOMES};
use millstream_jetstream::{
    broker::ReaderConfig,
    provision::{ProvisionOptions, definition},
};

pub(crate) const BARE_COMMANDS: &str = "BARE_COMMANDS";
pub(crate) const BARE_EVENTS: &str = "BARE_EVENTS";
pub(crate) const BARE_OUTCOMES: &str = "BARE_OUTCOMES";
/// Nobody compares it: the streams end with the loop.
const BARE_GENERATION: &str = "01BARE00000000000000000000";

/// Each stream with the one that it is like, and the first token of its subjects in place of that one's.
const LIKE: [(&str, &str, &str, &str); 3] = [
    (BARE_COMMANDS, COMMANDS, "cmd", "bcmd"),
    (BARE_EVENTS, EVENTS, "evt", "bevt"),
    (BARE_OUTCOMES, OUTCOMES, "out", "bout"),
];

/// Why there are no streams for a bare loop, or why they stay.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BareStreamsError {
    #[error("the bare loop's streams cannot be made")]
    Create(#[from] jetstream::context::CreateStreamError),
    #[error("the bare loop's streams cannot be removed")]
    Remove(#[from] jetstream::context::DeleteStreamError),
}

/// Makes the streams of these names.
pub(crate) async fn create(
    jetstream: &jetstream::Context,
    names: &[&str],
    options: &ProvisionOptions,
) -> Result<(), BareStreamsError> {
    for (name, like, from, to) in LIKE.into_iter().filter(|(name, ..)| names.contains(name)) {
        let mut config = definition(like, options).expect("COMMANDS, EVENTS and OUTCOMES are defined");
        config.name = name.to_owned();
        config.subjects.retain(|subject| subject.starts_with(from));
        config.subjects = config.subjects.iter().map(|subject| subject.replacen(from, to, 1)).collect();
        if let Some(transform) = &mut config.subject_transform {
            transform.source = transform.source.replacen(from, to, 1);
        }
        config.metadata.insert(GENERATION_METADATA.to_owned(), BARE_GENERATION.to_owned());
        jetstream.create_stream(config).await?;
    }
    Ok(())
}

/// Removes the streams of these names.
pub(crate) async fn remove(jetstream: &jetstream::Context, names: &[&str]) -> Result<(), BareStreamsError> {
    for name in names {
        jetstream.delete_stream(name).await?;
    }
    Ok(())
}

/// `<context>.<aggregate>.<id>` of a command in `BARE_COMMANDS`, which stands there as in COMMANDS:
/// `cmdq.<partition>.<context>.<aggregate>.<id>.<command>`.
pub(crate) fn aggregate(subject: &str) -> String {
    subject.split('.').skip(2).take(3).collect::<Vec<_>>().join(".")
}

/// What reads such a stream from its beginning.
pub(crate) fn reader(stream: &str) -> ReaderConfig {
    ReaderConfig {
        stream: stream.to_owned(),
        name: "bare-loop".to_owned(),
        description: "bare loop of a benchmark".to_owned(),
        after: 0,
        filters: Vec::new(),
        replace_live: true,
    }
}
