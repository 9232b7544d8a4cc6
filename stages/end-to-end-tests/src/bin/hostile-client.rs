//! `hostile-client`: attacks one Millstream after the other, each on a server and in a folder of its own, for as long as you like.
//!
//!     hostile-client [MINUTES [SEED [MINUTES-A-SYSTEM]]]
//!
//! Prints a seed before each attack. The first attack that fails ends the program with exit code 1.
#![expect(clippy::print_stderr, reason = "a program for people")]

use std::{process::ExitCode, str::FromStr, time::Duration};

use end_to_end_tests::hostile::{HostileSettings, attack_once};

/// The minutes of all attacks together.
const MINUTES: u64 = 10;
/// The minutes on one system. Its streams and the proof afterwards must fit into a machine's memory.
const MINUTES_A_SYSTEM: u64 = 10;

fn argument<T: FromStr>(number: usize) -> Option<T> {
    let text = std::env::args().nth(number)?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{text:?} is no number; give [MINUTES [SEED [MINUTES-A-SYSTEM]]]")),
    )
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut left = argument(1).unwrap_or(MINUTES);
    let mut seed = argument(2).unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let system: u64 = argument(3).unwrap_or(MINUTES_A_SYSTEM).max(1);
    while left > 0 {
        let minutes = left.min(system);
        left -= minutes;
        eprintln!("hostile client: seed {seed}, {minutes} minutes");
        match attack_once(&HostileSettings::new(seed, Duration::from_secs(minutes * 60))).await {
            Ok(words) => eprintln!("{words}"),
            Err(failures) => {
                eprintln!("{failures}");
                return ExitCode::FAILURE;
            }
        }
        seed += 1;
    }
    ExitCode::SUCCESS
}
