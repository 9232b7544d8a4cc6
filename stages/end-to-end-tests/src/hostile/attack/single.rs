//! Deeds of one or of some messages.

use millstream_contract::{header, testing::dice::Dice};
use serde_json::json;

use super::{
    super::{message::Message, strange},
    Attack, Deed,
};

/// Messages of a volley.
const VOLLEY_MAX: u64 = 20;
/// Commands as they ought to be, for aggregates that get more than one.
const FINE: [(&str, &str); 16] = [
    ("retail.stock.hostile:tea.receive", r#"{"quantity":3}"#),
    ("retail.stock.hostile:tea.issue", r#"{"quantity":1,"reference":"r1"}"#),
    ("retail.stock.hostile:tea.reserve", r#"{"reservation":"r2","quantity":1}"#),
    ("retail.stock.hostile:tea.transfer", r#"{"to":"other","quantity":1}"#),
    ("retail.stock.hostile:tea.adjust", r#"{"counted":100}"#),
    ("retail.product.tea.register", r#"{"name":"Tea","supplier":"luxco"}"#),
    ("retail.product.tea.reprice", r#"{"unit_price":450,"currency":"EUR"}"#),
    (
        "retail.delivery.D1.receive",
        r#"{"supplier":"luxco","location":"hostile","currency":"USD","lines":[{"sku":"tea","quantity":2,"unit_cost":7}]}"#,
    ),
    (
        "retail.till.hostile_2026-01-31.record-sale",
        r#"{"sale":"S1","currency":"USD","lines":[{"sku":"tea","quantity":2,"unit_price":7}]}"#,
    ),
    (
        "retail.till.hostile_2026-01-31.record-return",
        r#"{"return":"R1","sale":"S1","currency":"USD","lines":[{"sku":"tea","quantity":1,"unit_price":7}]}"#,
    ),
    ("retail.till.hostile_2026-01-31.close", "{}"),
    ("retail.business-day.2026-01-31.close", "{}"),
    (
        "orders.order.O1.place",
        r#"{"customer":"eve","location":"hostile","currency":"USD","lines":[{"sku":"tea","quantity":1,"unit_price":9}]}"#,
    ),
    ("orders.order.O1.pay", r#"{"payment":"P1","amount":9,"currency":"USD"}"#),
    ("orders.order.O1.cancel", r#"{"reason":"no"}"#),
    ("comments.comment.C1.create", r#"{"picture":"P1","text":"Lovely!"}"#),
];
/// Headers that mean something to the server or to Millstream.
const KNOWN_HEADERS: [&str; 18] = [
    header::COMMAND_ID,
    header::NATS_MESSAGE_ID,
    header::EXPECTED_VERSION,
    header::ACTOR,
    header::CORRELATION_ID,
    header::CAUSATION_ID,
    header::TRACE_PARENT,
    header::CONTENT_TYPE,
    header::WAIT_MS,
    header::POSITION,
    "Millstream-Expected-Versoin",
    "millstream-actor",
    "Nats-Expected-Stream",
    "Nats-Expected-Last-Sequence",
    "Nats-TTL",
    "Nats-Schedule",
    "Nats-Batch-Sequence",
    "Nats-Service-Error-Code",
];
/// Endings of subjects with white space that only Unicode knows, with bytes that are no text, or with none at all.
const FOREIGN_IDS: [&[u8]; 9] = [
    "a\u{a0}b".as_bytes(),
    "a\u{2003}b".as_bytes(),
    "a\u{3000}b".as_bytes(),
    "a\u{85}b".as_bytes(),
    b"a\x0bb",
    b"a\x0cb",
    b"jos\xe9",
    b"\0",
    b"\x1b[2J",
];
/// Headers that come in two cases, with values of which only one can count.
const TWICE: [(&str, &str, &str); 3] = [
    (header::CONTENT_TYPE, "application/msgpack", "application/json"),
    (header::COMMAND_ID, "hostile-six", "hostile-seven"),
    (header::NATS_MESSAGE_ID, "hostile-eight", "hostile-nine"),
];
/// Blocks of headers that are none.
const FOREIGN_BLOCKS: [&[u8]; 12] = [
    b"NATS/1.0\r\nMillstream-Actor: Jos\xe9\r\n\r\n",
    b"NATS/1.0\r\nMy Header: x\r\n\r\n",
    b"NATS/1.0\r\nZ\xc3\xa4hler: 1\r\n\r\n",
    b"NATS/1.0\r\nX: a\rb\r\n\r\n",
    b"NATS/1.0\r\nno colon\r\n\r\n",
    b"HTTP/1.1\r\nX: y\r\n\r\n",
    b"NATS/1.0\r\nX: a\r\n: b\r\n\xff\r\n\r\n",
    b"NATS/1.0 503\r\n\r\n",
    b"NATS/1.0 100 Idle\r\n\r\n",
    b"NATS/1.0\r\n\r\n",
    b"NATS/9.9\r\n\r\n",
    b"\xff\xfe\r\n\r\n",
];
/// The services' subjects.
const SERVICES: [&str; 17] = [
    "submit.retail.stock.hostile:tea.receive",
    "submit.a.b.c.d",
    "submit.a",
    "query.retail.stock.get",
    "query.retail.stock.list",
    "query.retail.sale.list",
    "query.retail.command.get",
    "query.retail.command.list",
    "query.a.b.get",
    "query.retail.top-sellers",
    "query.retail._queries",
    "query.a._queries",
    "stage.projector.status",
    "stage.command-handler-1.status",
    "$SRV.PING",
    "$SRV.INFO.submit",
    "$SRV.STATS.millstream",
];

impl Attack {
    /// A fine command, to an aggregate that others of this client go to as well.
    pub(super) fn fine(&mut self) -> Message {
        let (address, body) = *self.dice.pick(&FINE);
        // Some aggregates of each kind, or some have thousands of events and others none.
        let address = match self.dice.below(4) {
            0 => address.replacen("tea", &format!("tea-{}", self.dice.below(50)), 1),
            1 => address.replacen('1', &self.dice.below(1000).to_string(), 1),
            _ => address.to_owned(),
        };
        Message::new(format!("cmd.{address}"), body)
    }

    pub(super) fn commands(&mut self) -> Deed {
        let volley = (0..self.dice.between(1, VOLLEY_MAX)).map(|_| {
            let mut message = self.fine();
            let dice = &mut self.dice;
            match dice.below(6) {
                0 => message.body = strange::bytes(dice, 300),
                1 => message.body = strange::json(dice).into_bytes(),
                2 | 3 => message.body = strange::object(dice).into_bytes(),
                4 => message.body = strange::nested(dice, 5_000).into_bytes(),
                _ => {}
            }
            if dice.chance(0.2) {
                let kind =
                    strange::one_of(dice, &["application/msgpack", "APPLICATION/JSON; x=y", "text/plain"]);
                message = message.header(header::CONTENT_TYPE, kind);
            }
            for _ in 0..dice.below(3) {
                message = message.header(*dice.pick(&KNOWN_HEADERS), value(dice));
            }
            if dice.chance(0.1) {
                let (name, one, other) = *dice.pick(&TWICE);
                message = message.header(name, one).header(name.to_lowercase(), other);
            }
            if dice.chance(0.1) {
                message.subject = [b"cmd.", &*strange::word(dice, 60)].concat();
            }
            message
        });
        Deed::Messages(volley.collect())
    }

    /// Bytes that cannot be read, with fine commands between them.
    pub(super) fn foreign_bytes(&mut self) -> Deed {
        let mut volley = Vec::new();
        for _ in 0..self.dice.between(1, VOLLEY_MAX) {
            let mut message = self.fine();
            let dice = &mut self.dice;
            match dice.below(4) {
                0 => {
                    let id = dice.pick(&FOREIGN_IDS);
                    message.subject = [&b"cmd.retail.stock."[..], id, b".receive"].concat();
                    // With and without headers, the library reads two kinds of lines.
                    if dice.chance(0.5) {
                        message = message.header("X", "y");
                    }
                }
                1 => message.headers = dice.pick(&FOREIGN_BLOCKS).to_vec(),
                2 => {
                    message = message.header(strange::header_bytes(dice, 20), strange::header_bytes(dice, 40))
                }
                _ => message = message.header(*dice.pick(&KNOWN_HEADERS), strange::header_bytes(dice, 40)),
            }
            volley.push(message);
            volley.push(self.fine());
        }
        Deed::Messages(volley)
    }

    pub(super) fn long_values(&mut self) -> Deed {
        let mut volley = vec![self.swelling()];
        for _ in 0..self.dice.between(1, 4) {
            let dice = &mut self.dice;
            let piece = *dice.pick(&["\u{7f}", "x", "é", "\u{1f469}", "\u{200b}", "\\"]);
            let long =
                serde_json::Value::from(piece.repeat(strange::count(dice, 20_000, 200_000))).to_string();
            let till = "cmd.retail.till.hostile_2026-01-31.record-sale";
            let message = match dice.below(6) {
                0 => Message::new(till, format!(r#"{{"sale":"S1","currency":{long},"lines":[]}}"#)),
                1 => Message::new(till, format!(r#"{{"sale":{long},"currency":"USD","lines":[]}}"#)),
                2 => Message::new(till, format!(r#"{{{long}:1}}"#)),
                3 => Message::new(
                    "cmd.comments.comment.C1.create",
                    format!(r#"{{"picture":"P1","text":{long}}}"#),
                ),
                4 => Message::new(till, format!("{{\"sale\":{long}")),
                // The server takes a subject as long as its line may be, and ends connections that say more.
                _ => Message::new(
                    format!("cmd.retail.stock.{}.receive", "x".repeat(strange::count(dice, 100, 5_000))),
                    "{}",
                ),
            };
            volley.push(message);
            if dice.chance(0.3) {
                let name = *dice.pick(&KNOWN_HEADERS);
                let long = "7".repeat(strange::count(dice, 1_000, 60_000));
                volley.push(self.fine().header(name, long));
            }
        }
        Deed::Messages(volley)
    }

    /// A value about which a rule complains, in a message that fits: shown with what cannot be printed as escapes, it no longer would.
    pub(super) fn swelling(&mut self) -> Message {
        const SHOWN_AS: usize = r"\u{7f}".len();
        let dice = &mut self.dice;
        let piece = *dice.pick(&["\u{7f}", "\u{200b}"]);
        let (fewest, most) = (self.payload_max / SHOWN_AS + 1, (self.payload_max - 1_000) / piece.len());
        let value = piece.repeat(strange::count(dice, fewest as u64, most as u64));
        let (command, body) = match dice.below(3) {
            0 => ("record-sale", json!({ "sale": "S1", "currency": value, "lines": [] })),
            1 => ("record-sale", json!({ "sale": "S1", "currency": "USD", "lines": [], "sold_at": value })),
            _ => ("record-return", json!({ "return": "R1", "sale": "S1", "currency": value, "lines": [] })),
        };
        Message::new(format!("cmd.retail.till.hostile_2026-01-31.{command}"), body.to_string())
    }

    /// Around what the server takes: headers and body together are `payload_max` bytes, some more, some fewer.
    pub(super) fn largest(&mut self) -> Deed {
        let message = self.fine();
        let message = match self.dice.below(5) {
            // Whoever tells which field there is not, tells all that was sent.
            4 => return Deed::Messages(vec![self.one_field(message), self.fine()]),
            0 => message.header(header::CORRELATION_ID, vec![b'c'; self.payload_max / 2]),
            1 => message.header(header::COMMAND_ID, format!("largest-{}", self.made)),
            2 => message.header("X", vec![b'x'; self.payload_max / 2]),
            _ => message,
        };
        Deed::Messages(vec![self.filled(message), self.fine()])
    }

    /// Its body is one field that no command has, with a name that takes all that there is.
    fn one_field(&mut self, mut message: Message) -> Message {
        const FRAME: &[u8] = br#"{"":1}"#;
        let size = self.payload_max - usize::try_from(self.dice.below(100)).unwrap_or_default();
        let name = vec![b'x'; size - FRAME.len()];
        let (before, behind) = FRAME.split_at(2);
        message.body = [before, &name, behind].concat();
        message
    }

    /// Its body filled up with blanks, which JSON takes, or with what it does not.
    fn filled(&mut self, mut message: Message) -> Message {
        let size = self.payload_max - usize::try_from(self.dice.below(300)).unwrap_or_default();
        let missing = size.saturating_sub(message.size());
        let filling = *self.dice.pick(b" x\0[");
        message.body.extend(std::iter::repeat_n(filling, missing));
        message
    }

    pub(super) fn timers(&mut self) -> Deed {
        let volley = (0..self.dice.between(1, VOLLEY_MAX)).map(|_| {
            let mut message = self.fine();
            let address = message.subject.get(4..).unwrap_or_default().to_vec();
            let dice = &mut self.dice;
            let name = match dice.below(3) {
                0 => strange::word(dice, 30),
                _ => format!("cmd.hostile-{}", dice.below(1000)).into_bytes(),
            };
            message.subject = [b"timer.", &*name].concat();
            let at = match dice.below(8) {
                0 => strange::header_bytes(dice, 30),
                1 => b"@every 1s".to_vec(),
                2 => b"@at 2263-01-01T00:00:00Z".to_vec(),
                3 => b"* * * * * *".to_vec(),
                _ => b"@at 2026-01-01T00:00:00Z".to_vec(),
            };
            let target: Vec<u8> = match dice.below(5) {
                0 => b"due.x".to_vec(),
                1 => [b"due.", &*strange::word(dice, 30)].concat(),
                2 => b"due.cmd.retail.stock.a\xc2\xa0b.receive".to_vec(),
                _ => [b"due.cmd.", &*address].concat(),
            };
            if dice.chance(0.3) {
                message = message.header(*dice.pick(&KNOWN_HEADERS), value(dice));
            }
            message.header("Nats-Schedule", at).header("Nats-Schedule-Target", target)
        });
        Deed::Messages(volley.collect())
    }

    pub(super) fn largest_timers(&mut self) -> Deed {
        let volley = (0..2).map(|number| {
            let message = Message::new(format!("timer.cmd.hostile-large-{number}-{}", self.made), "{}");
            let message = message
                .header("Nats-Schedule", "@at 2026-01-01T00:00:00Z")
                .header("Nats-Schedule-Target", "due.cmd.retail.till.hostile_2026-01-31.close");
            self.filled(message)
        });
        Deed::Messages(volley.collect())
    }

    pub(super) fn requests(&mut self) -> Deed {
        let volley = (0..self.dice.between(1, VOLLEY_MAX)).map(|_| {
            let dice = &mut self.dice;
            let subject = *dice.pick(&SERVICES);
            let body = match dice.below(8) {
                0 => strange::bytes(dice, 300),
                1 => strange::json(dice).into_bytes(),
                2 => json!({ "name": strange::text(dice, 2_000) }).to_string().into_bytes(),
                3 => json!({ "from": strange::text(dice, 50), "store": strange::text(dice, 2_000) })
                    .to_string()
                    .into_bytes(),
                4 => format!(r#"{{"key":{}}}"#, serde_json::Value::from(strange::text(dice, 2_000)))
                    .into_bytes(),
                5 => format!(
                    r#"{{"prefix":"\u0000","limit":{},"cursor":"1{}"}}"#,
                    dice.below(20_000),
                    "61".repeat(strange::count(dice, 0, 200))
                )
                .into_bytes(),
                6 => br#"{"limit":10000}"#.to_vec(),
                _ => Vec::new(),
            };
            let mut message = Message::new(subject, body);
            for _ in 0..dice.below(3) {
                message = message.header(*dice.pick(&KNOWN_HEADERS), value(dice));
            }
            match dice.below(8) {
                0 => message.headers = dice.pick(&FOREIGN_BLOCKS).to_vec(),
                1 => message.subject = [subject.as_bytes(), b".", &*strange::word(dice, 20)].concat(),
                2 => message = message.header(header::POSITION, "EVENTS:x:99999999999"),
                _ => {}
            }
            message
        });
        Deed::Messages(volley.collect())
    }

    pub(super) fn open_batch(&mut self) -> Deed {
        let batch = format!("hostile-{}", self.made);
        let volley = (1..=self.dice.between(1, 5)).map(|number| {
            self.fine().header("Nats-Batch-Id", &batch).header("Nats-Batch-Sequence", number.to_string())
        });
        Deed::Messages(volley.collect())
    }

    pub(super) fn garbage(&mut self) -> Vec<u8> {
        let mut bytes = match self.dice.below(4) {
            0 => b"HPUB cmd.a.b.c.d 99999999999 99999999999\r\n".to_vec(),
            1 => b"CONNECT {\"verbose\":true,\"headers\":true}\r\nSUB > 1\r\nPUB cmd.retail.stock.a:b.receive 10\r\n".to_vec(),
            2 => b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            _ => Vec::new(),
        };
        bytes.extend(strange::bytes(&mut self.dice, 2_000));
        bytes
    }
}

/// What may stand in a header that means something.
fn value(dice: &mut Dice) -> Vec<u8> {
    match dice.below(6) {
        0 => strange::header_bytes(dice, 50),
        1 => strange::text(dice, 400).replace(['\r', '\n'], "").into_bytes(),
        2 => dice.pick(&["", " ", "-1", "0", "18446744073709551616", "@7", "EVENTS:x:1"]).as_bytes().to_vec(),
        3 => format!("hostile-{}", dice.below(50)).into_bytes(),
        _ => dice.below(5).to_string().into_bytes(),
    }
}
