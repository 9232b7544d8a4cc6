//! Everything built again from the first event: the rows of every stage are the same, byte by byte, and nothing that the
//! events once caused is caused a second time.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, BufWriter, Write as _},
    path::{Path, PathBuf},
};

use end_to_end_tests::{
    dumps::{reader_position, settled},
    system::System,
    waiting::{PATIENCE, until_within},
};
use millstream_contract::stream_names::{AUDIT, EVENTS, OUTCOMES, STREAMS};
use millstream_jetstream::broker::Broker as _;
use millstream_store::read_store::ReadStore;

use super::{SETTINGS, checks::views_are_current};

/// The stages that keep rows.
const STAGES: [&str; 3] = ["projector", "reporter", "process-manager"];
/// The handler that starts again writes a fence to OUTCOMES: only there is the stream longer than before.
const CHECKPOINT_OF_OUTCOMES: &str = r#"{"checkpoint":"*."#;
const CACHE_SIZE: usize = 64 * 1024 * 1024;

fn rows_file(folder: &Path, stage: &str) -> PathBuf {
    folder.join("data").join(stage).join("rows.redb")
}

/// Writes what the file of a stopped stage holds, and says where.
fn dump(folder: &Path, stage: &str, name: &str) -> PathBuf {
    let path = folder.join(format!("{stage}.{name}.dump"));
    let mut output = BufWriter::new(File::create(&path).unwrap());
    let store = ReadStore::open(&rows_file(folder, stage), CACHE_SIZE).unwrap();
    store.snapshot().unwrap().dump(&mut output).unwrap();
    output.flush().unwrap();
    path
}

fn expect_same(one: &Path, other: &Path) {
    let lines = |path: &Path| {
        let lines = BufReader::new(File::open(path).unwrap()).lines().map(Result::unwrap);
        lines.filter(|line| !line.starts_with(CHECKPOINT_OF_OUTCOMES))
    };
    let (mut before, mut after) = (lines(one), lines(other));
    let mut count = 0;
    loop {
        let (line, again) = (before.next(), after.next());
        assert_eq!(line, again, "line {} of {}", count + 1, one.display());
        if line.is_none() {
            break;
        }
        count += 1;
    }
    assert!(count > 0, "{} is empty", one.display());
}

/// Where the streams end into which stages write.
async fn stream_ends(system: &System) -> Vec<(&'static str, u64)> {
    let broker = system.broker().await;
    let mut ends = Vec::new();
    for stream in STREAMS {
        ends.push((stream, broker.state(stream).await.unwrap().last_sequence));
    }
    ends
}

/// Stops the system, throws away the rows of every stage, starts it again and waits until they are whole again.
pub(super) async fn expect_the_same_from_nothing(system: System, folder: &Path) -> System {
    let (port, ends) = (system.port(), stream_ends(&system).await);
    system.stop().await;
    let before: Vec<_> = STAGES.iter().map(|stage| dump(folder, stage, "lived")).collect();
    for stage in STAGES {
        std::fs::remove_file(rows_file(folder, stage)).unwrap();
    }

    let system = System::start_with_settings(folder, port, &[], &SETTINGS).await;
    let broker = system.broker().await;
    views_are_current(&system).await;
    let last = broker.state(EVENTS).await.unwrap().last_sequence;
    until_within(PATIENCE * 5, "the process manager has read every event again", async || {
        (reader_position(&broker, EVENTS, "process-manager").await? >= last).then_some(())
    })
    .await;
    settled(&broker).await;
    // A handler that takes over writes a fence, and a gateway records when it stops and starts; nothing else has come in.
    let ends_now = stream_ends(&system).await;
    for (before, after) in
        ends.iter().zip(&ends_now).filter(|((stream, _), _)| ![OUTCOMES, AUDIT].contains(stream))
    {
        assert_eq!(before, after, "something was sent again");
    }
    system.stop().await;
    for (stage, lived) in STAGES.iter().zip(&before) {
        expect_same(lived, &dump(folder, stage, "rebuilt"));
    }
    System::start_with_settings(folder, port, &[], &SETTINGS).await
}
