//! `soak`: a steady load while processes are killed one after the other. It shows how far the handlers fell behind, how long senders waited,
//! how much memory it took, and that every guarantee held. docs/benchmarks.md says how to run it, and what it showed.
//!
//!     soak [MINUTES [COMMANDS-A-SECOND [SECONDS-BETWEEN-KILLS [SEED]]]]
//!
//! With 0 seconds between kills, nothing is killed.

#![expect(clippy::print_stdout, reason = "a program for people")]

use std::time::Duration;

use anyhow::{Context as _, Result};
use end_to_end_tests::soak::{SoakSettings, soak};

fn argument(number: usize, default: u64) -> Result<u64> {
    let Some(text) = std::env::args().nth(number) else { return Ok(default) };
    text.parse().with_context(|| {
        format!("{text:?} is no number; give [MINUTES [COMMANDS-A-SECOND [SECONDS-BETWEEN-KILLS [SEED]]]]")
    })
}

#[tokio::main]
async fn main() -> Result<()> {
    let kill_pause = Some(Duration::from_secs(argument(3, 5)?)).filter(|pause| !pause.is_zero());
    let settings = SoakSettings {
        duration: Duration::from_secs(argument(1, 10)? * 60),
        rate: u32::try_from(argument(2, 500)?).context("so many commands a second are too many")?,
        kill_pause,
        seed: argument(4, u64::from(rand::random::<u32>()))?,
    };
    println!("{settings:?}");
    print!("{}", soak(&settings).await);
    Ok(())
}
