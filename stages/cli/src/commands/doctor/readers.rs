//! Checks who reads the streams, and how far behind they are. The server knows only what it has delivered: for a process that stands still, it
//! says that nothing is left. So each reader is reported together with whether its process answers.

use std::collections::BTreeSet;

use async_nats::jetstream::{self, consumer};
use futures::TryStreamExt as _;
use millstream_contract::{error_text::one_line, exit_code::ExitCode};
use millstream_runtime::{stage_check::Check, stage_needs::stage_needs};

use super::{
    is_of,
    processes::ProcessStatus,
    time_limits::{READER_LOOK_PAUSE, READER_LOOKS_MAX},
    trouble,
};

/// The consumers of the processes that answer, as stream and name.
pub(super) struct Readers(BTreeSet<(String, String)>);

/// A consumer at the server.
struct Found {
    name: String,
    /// What it has not delivered yet.
    pending: u64,
    /// Whether a reader waits for more.
    awaited: bool,
    /// The last message that was handed out.
    delivered: u64,
}

impl Readers {
    pub(super) fn of(processes: &[ProcessStatus]) -> Self {
        let needs = processes.iter().filter_map(|process| stage_needs(&process.stage, &process.instance));
        let readers = needs.flat_map(|needs| needs.readers);
        Self(readers.map(|reader| (reader.stream, reader.consumer)).collect())
    }

    /// A living reader nearly always has a request waiting at the server, or takes messages, so it is checked several times before it is
    /// judged.
    pub(super) async fn check(&self, jetstream: &jetstream::Context, stage: &str, stream: &str) -> Check {
        let mut looks = 1;
        let mut handed_out = None;
        let result = loop {
            let result = match found(jetstream, stage, stream).await {
                Err(sentence) => Err(sentence),
                Ok(found) => {
                    let now: Vec<u64> = found.iter().map(|each| each.delivered).collect();
                    let takes = handed_out.get_or_insert_with(|| now.clone()) != &now;
                    self.told(stage, stream, &found, takes)
                }
            };
            if result.is_ok() || looks == READER_LOOKS_MAX {
                break result;
            }
            looks += 1;
            tokio::time::sleep(READER_LOOK_PAUSE).await;
        };
        let result = result.map_err(|sentence| trouble(ExitCode::Unavailable, sentence));
        Check { what: format!("reader {stage} of {stream}"), result }
    }

    /// `takes` is whether a reader took messages between two looks.
    fn told(&self, stage: &str, stream: &str, found: &[Found], takes: bool) -> Result<String, String> {
        if found.is_empty() {
            return Err(format!("there is no consumer; does the {stage} run?"));
        }
        // If no process of any stage answers, that is reported once and says nothing about this one.
        let answers =
            |name: &str| self.0.is_empty() || self.0.contains(&(stream.to_owned(), name.to_owned()));
        let line = |Found { name, pending, .. }: &Found| match answers(name) {
            true => format!("{name} is {pending} behind"),
            false => format!(
                "the process of {name} does not answer: it stands still or is gone; {pending} messages are not handed to it yet, and how \
                 many of the others it has read is not known"
            ),
        };
        let lines = found.iter().map(line).collect::<Vec<_>>().join(", ");
        let is_read = takes || found.iter().any(|each| each.awaited);
        match (found.iter().all(|each| answers(&each.name)), is_read) {
            (false, _) => Err(lines),
            (true, true) => Ok(lines),
            (true, false) => Err(format!("nobody reads ({lines}); does the {stage} run?")),
        }
    }
}

async fn found(jetstream: &jetstream::Context, stage: &str, stream: &str) -> Result<Vec<Found>, String> {
    let found = jetstream.get_stream(stream).await.map_err(|error| one_line(&error))?;
    let all: Vec<consumer::Info> = found.consumers().try_collect().await.map_err(|error| one_line(&error))?;
    let own = all.into_iter().filter(|info| is_of(stage, &info.name));
    let of = |info: consumer::Info| Found {
        pending: info.num_pending,
        awaited: info.num_waiting > 0,
        delivered: info.delivered.stream_sequence,
        name: info.name,
    };
    Ok(own.map(of).collect())
}

#[cfg(test)]
mod tests {
    use millstream_contract::stream_names::EVENTS;

    use super::*;

    fn status(stage: &str, instance: &str) -> ProcessStatus {
        ProcessStatus {
            stage: stage.to_owned(),
            instance: instance.to_owned(),
            ready: true,
            reasons: BTreeSet::new(),
            figures: Default::default(),
        }
    }

    fn consumer(name: &str, awaited: bool) -> Found {
        Found { name: name.to_owned(), pending: 0, awaited, delivered: 0 }
    }

    /// The server had handed everything to a projector that stood still, and it was told to be 0 behind.
    #[test]
    fn a_process_that_does_not_answer_is_no_reader_that_is_0_behind() {
        let found = [consumer("projector-1", true), consumer("projector-2", true)];
        let told =
            |processes: &[ProcessStatus]| Readers::of(processes).told("projector", EVENTS, &found, false);
        let both = told(&[status("projector", "1"), status("projector", "2")]).unwrap();
        assert_eq!(both, "projector-1 is 0 behind, projector-2 is 0 behind");
        let one = told(&[status("projector", "1"), status("reporter", "2")]).unwrap_err();
        assert!(
            one.starts_with("projector-1 is 0 behind, the process of projector-2 does not answer"),
            "{one}"
        );
        assert!(told(&[]).is_ok(), "that nobody answers is told of the stages");
    }

    /// A handler with a backlog was told to be absent, because it had no request waiting while it decided.
    #[test]
    fn a_reader_that_neither_waits_nor_takes_anything_is_absent() {
        let readers = Readers::of(&[status("projector", "")]);
        let told = |found: &[Found], takes| readers.told("projector", EVENTS, found, takes);
        let busy = [consumer("projector", false)];
        assert_eq!(
            told(&busy, false).unwrap_err(),
            "nobody reads (projector is 0 behind); does the projector run?"
        );
        assert_eq!(told(&busy, true).unwrap(), "projector is 0 behind");
        assert!(told(&[], false).is_err());
    }
}
