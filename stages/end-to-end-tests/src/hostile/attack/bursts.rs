//! Deeds of thousands of messages.

use millstream_contract::header;

use super::{super::message::Message, Attack, Deed};

/// Commands of a backlog.
const BACKLOG: u64 = 3_000;
/// What each of them brings that a commit has to keep: a backlog on one aggregate is several times what a message may hold.
const KEPT_BYTES: usize = 1_000;
/// Commands that cannot be read. One after the other, their dead letters take longer than others may wait.
const JUNK: u64 = 40_000;
/// Returns of a deed. Each row of a sale names its returns, and their ids are as long as ids may be.
const RETURNS: u64 = 1_000;
/// With so many returns, the row of a sale is larger than a message may be.
const RETURNS_OF_A_SALE: u64 = 9_000;

impl Attack {
    /// On one aggregate, hot, or on as many as there are commands, cold.
    pub(super) fn backlog(&mut self) -> Deed {
        let hot = self.dice.chance(0.6);
        let kept = "c".repeat(KEPT_BYTES);
        let messages = (0..BACKLOG).map(|number| {
            let stock = if hot { "hot".to_owned() } else { format!("{}-{number}", self.made) };
            let subject = format!("cmd.retail.stock.hostile:{stock}.receive");
            let message = Message::new(subject, r#"{"quantity":1}"#)
                .header(header::COMMAND_ID, format!("hostile-{}-{number}", self.made));
            if hot { message.header(header::CORRELATION_ID, &kept) } else { message }
        });
        Deed::Messages(messages.collect())
    }

    /// The shortest that are stored and cannot be read.
    pub(super) fn junk(&mut self) -> Deed {
        let messages = (0..JUNK).map(|number| Message::new(format!("cmd.x.y.{}.z", number % 100), "["));
        Deed::Messages(messages.collect())
    }

    /// More returns of the same sale, until its row is larger than a message may be; then another till's.
    pub(super) fn growing_row(&mut self) -> Deed {
        let (till, first) = (self.returns / RETURNS_OF_A_SALE, self.returns % RETURNS_OF_A_SALE);
        self.returns += RETURNS;
        let till = format!("cmd.retail.till.hostile-{till}_2026-01-31");
        let lines = |quantity: u64| format!(r#"[{{"sku":"tea","quantity":{quantity},"unit_price":1}}]"#);
        let sale = format!(r#"{{"sale":"S1","currency":"USD","lines":{}}}"#, lines(RETURNS_OF_A_SALE));
        let mut messages = vec![Message::new(format!("{till}.record-sale"), sale)];
        messages.extend((first..first + RETURNS).map(|number| {
            let body =
                format!(r#"{{"return":"{number:0128}","sale":"S1","currency":"USD","lines":{}}}"#, lines(1));
            Message::new(format!("{till}.record-return"), body)
        }));
        Deed::Messages(messages)
    }
}
