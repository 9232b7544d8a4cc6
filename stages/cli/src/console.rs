//! What is said to the person at the terminal: on standard error, above any progress bar, and dropped when it cannot be
//! written. Results never come this way.

use std::{
    fmt::Display,
    io::{self, IsTerminal as _},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use millstream_runtime::standard_streams::write_error_line;
use millstream_values::text::escape_controls_in_lines;

/// A bar that moves is a sign of life also when its number does not.
const TICK_INTERVAL: Duration = Duration::from_millis(120);

/// Speaks and draws. Clones share one terminal.
#[derive(Debug, Clone)]
pub(crate) struct Console {
    bars: MultiProgress,
}

impl Console {
    /// On standard error; bars only when that is a terminal.
    pub(crate) fn new() -> Self {
        Self { bars: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()) }
    }

    /// Says one thing. Control characters are escaped, for it may quote what a client sent.
    pub(crate) fn say(&self, text: impl Display) {
        let text = text.to_string();
        let write = || write_error_line(escape_controls_in_lines(&text));
        // To move bars on a terminal that is gone would panic.
        if io::stderr().is_terminal() {
            self.bars.suspend(write);
        } else {
            write();
        }
    }

    /// A bar of `total` steps, named `what`. It goes away when it is finished.
    pub(crate) fn bar(&self, what: &str, total: u64) -> ProgressBar {
        let style = ProgressStyle::with_template(
            "{msg} {bar:32} {human_pos} of {human_len}  {per_sec}  {elapsed_precise}",
        )
        .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = self.bars.add(ProgressBar::new(total)).with_style(style).with_message(what.to_owned());
        bar.enable_steady_tick(TICK_INTERVAL);
        bar
    }
}
