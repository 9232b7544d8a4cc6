//! Messages to the person at the terminal: they go to standard error, above any progress bar, and are dropped if they cannot be written.
//! Results are never printed this way.

use std::{
    fmt::Display,
    io::{self, IsTerminal as _},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use millstream_runtime::standard_streams::write_error_line;
use millstream_values::text::escape_controls_in_lines;

/// A moving bar is a sign of life even if its number does not change.
const TICK_INTERVAL: Duration = Duration::from_millis(120);

/// Prints messages and draws bars. Clones share one terminal.
#[derive(Debug, Clone)]
pub(crate) struct Console {
    bars: MultiProgress,
}

impl Console {
    /// A console on standard error. It draws bars only if that is a terminal.
    pub(crate) fn new() -> Self {
        Self { bars: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()) }
    }

    /// Prints one message. Control characters are escaped, because the message may quote what a client sent.
    pub(crate) fn say(&self, text: impl Display) {
        let text = text.to_string();
        let write = || write_error_line(escape_controls_in_lines(&text));
        // Moving bars on a terminal that is gone would panic.
        if io::stderr().is_terminal() {
            self.bars.suspend(write);
        } else {
            write();
        }
    }

    /// A bar of `total` steps with the name `what`. It disappears when it is finished.
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
