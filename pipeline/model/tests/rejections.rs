//! Every rule of the contexts that come with Millstream is refused with its code. Complete by construction: each code that
//! an aggregate declares for a command (`Decider::rejections`) has to be provoked here, no other may come out (the kit sees
//! to that), and each code that stands in the sources has to be declared. Other contexts provoke theirs beside their rules
//! (`assert_every_rejection_is_provoked`).

#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]
#![expect(clippy::indexing_slicing, reason = "bodies are changed field by field")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use millstream::{
    contract::subject::AGGREGATE_ID_LENGTH_MAX,
    decider::{ANY_COMMAND, INTERNAL_COMMAND},
    testing::sequential_handler::SequentialHandler,
    values::{
        money::{AMOUNT_MAX, QUANTITY_MAX},
        reference::NAME_LENGTH_MAX,
    },
};
use millstream_model::{
    comments::comment::{ACTOR_LENGTH_MAX, TEXT_LENGTH_MAX},
    lines::LINES_MAX,
    orders::order::status::REFUSALS,
};
use serde_json::{Value, json};

/// Context, aggregate, command and code.
type Met = BTreeSet<(String, String, String, String)>;

/// An aggregate with a past, of which things are asked that it refuses.
struct Case<'a> {
    met: &'a mut Met,
    address: &'static str,
    actor: Option<&'a str>,
    past: Vec<(&'static str, Value)>,
}

impl<'a> Case<'a> {
    fn of(met: &'a mut Met, address: &'static str, past: &[(&'static str, Value)]) -> Self {
        Self { met, address, actor: Some("anna"), past: past.to_vec() }
    }

    fn by(mut self, actor: Option<&'a str>) -> Self {
        self.actor = actor;
        self
    }

    /// Demands that the command is refused with `code`, and refused again with it: a refusal leaves nothing behind.
    #[track_caller]
    fn refuses(self, command: &str, body: &Value, code: &str) -> Self {
        let now: Timestamp = "2026-03-01T10:00:00Z".parse().unwrap();
        let mut handler = SequentialHandler::new(millstream_model::aggregates(), "any");
        for (command, body) in &self.past {
            let address = format!("{}.{command}", self.address);
            let events = handler.decide_as_allowed(Some("anna"), &address, &body.to_string(), now);
            assert!(events.is_ok_and(|events| !events.is_empty()), "the past: {address} {body}");
        }
        let address = format!("{}.{command}", self.address);
        let before = handler.history().commits().len();
        for _ in 0..2 {
            let rejection =
                handler.decide_as_allowed(self.actor, &address, &body.to_string(), now).unwrap_err();
            assert_eq!(rejection.code, code, "{address} {body}: {rejection}");
            assert!(rejection.message.len() > code.len(), "{code} says nothing to people");
        }
        assert_eq!(handler.history().commits().len(), before);
        let mut parts = self.address.split('.').map(str::to_owned);
        let (context, aggregate) = (parts.next().unwrap(), parts.next().unwrap());
        self.met.insert((context, aggregate, command.to_owned(), code.to_owned()));
        self
    }

    /// [`Self::refuses`] for several changes of one body: the field, its value, the code.
    #[track_caller]
    fn refuses_fields(mut self, command: &str, body: &Value, changes: &[(&str, Value, &str)]) -> Self {
        for (field, value, code) in changes {
            let mut changed = body.clone();
            let place = if let Some(field) = field.strip_prefix("lines.") {
                &mut changed["lines"][0][field]
            } else {
                &mut changed[*field]
            };
            *place = value.clone();
            self = self.refuses(command, &changed, code);
        }
        self
    }
}

fn long_name() -> String {
    "x".repeat(NAME_LENGTH_MAX + 1)
}

/// Changes of a first line that has `price`.
fn bad_lines(price: &'static str) -> Vec<(&'static str, Value, &'static str)> {
    let name = price.strip_prefix("lines.").unwrap();
    let too_many = vec![json!({ "sku": "a", "quantity": 1, name: 1 }); LINES_MAX + 1];
    vec![
        ("lines", json!([]), "lines-empty"),
        ("lines", Value::Array(too_many), "lines-too-many"),
        ("lines.sku", json!("a b"), "sku-not-allowed"),
        ("lines.sku", json!("a".repeat(AGGREGATE_ID_LENGTH_MAX)), "stock-id-malformed"),
        ("lines.quantity", json!(0), "quantity-not-positive"),
        ("lines.quantity", json!(QUANTITY_MAX + 1), "quantity-too-large"),
        (price, json!(-1), "price-negative"),
        (price, json!(AMOUNT_MAX), "amount-too-large"),
    ]
}

fn product(met: &mut Met) {
    let register = json!({ "name": "Gin", "supplier": "luxco" });
    let reprice = json!({ "unit_price": 1, "currency": "USD" });
    Case::of(met, "retail.product.gin", &[])
        .refuses_fields(
            "register",
            &register,
            &[
                ("name", json!(" "), "name-blank"),
                ("name", json!(long_name()), "name-too-long"),
                ("supplier", json!("Luxco & Co."), "supplier-not-allowed"),
                ("supplier_name", json!(""), "name-blank"),
                ("supplier_name", json!(long_name()), "name-too-long"),
                ("effective_from", json!("today"), "date-malformed"),
            ],
        )
        .refuses("reprice", &reprice, "product-not-registered")
        .refuses("discontinue", &json!({}), "product-not-registered");
    Case::of(met, "retail.product.gin", &[("register", register.clone())]).refuses_fields(
        "reprice",
        &reprice,
        &[
            ("currency", json!("dollar"), "currency-malformed"),
            ("unit_price", json!(-1), "price-negative"),
            ("unit_price", json!(AMOUNT_MAX + 1), "amount-too-large"),
        ],
    );
    let past = [("register", register), ("discontinue", json!({}))];
    Case::of(met, "retail.product.gin", &past).refuses("reprice", &reprice, "product-discontinued");
}

fn delivery(met: &mut Met) {
    let lines = json!([{ "sku": "a", "quantity": 6, "unit_cost": 475 }]);
    let body = json!({ "supplier": "luxco", "location": "w", "currency": "USD", "lines": lines });
    let fields = [
        ("supplier", json!("Luxco Inc."), "supplier-not-allowed"),
        ("location", json!(""), "location-not-allowed"),
        ("currency", json!("$"), "currency-malformed"),
        ("received_on", json!("2012-02-30"), "date-malformed"),
    ];
    Case::of(met, "retail.delivery.D1", &[]).refuses_fields("receive", &body, &fields).refuses_fields(
        "receive",
        &body,
        &bad_lines("lines.unit_cost"),
    );
    Case::of(met, "retail.delivery.D1", &[("receive", body.clone())])
        .refuses_fields("receive", &body, &fields)
        .refuses_fields(
            "receive",
            &body,
            &[
                ("supplier", json!("other"), "delivery-differs"),
                ("lines.quantity", json!(7), "delivery-differs"),
                ("received_on", json!("2026-02-28"), "delivery-differs"),
            ],
        );
}

fn till(met: &mut Met) {
    let lines = json!([{ "sku": "a", "quantity": 2, "unit_price": 713 }]);
    let sale = json!({ "sale": "S1", "currency": "USD", "lines": lines });
    let entry = json!({ "return": "R1", "currency": "USD", "lines": lines });
    Case::of(met, "retail.till.1_2012-02-30", &[])
        .refuses("record-sale", &sale, "till-id-malformed")
        .refuses("record-return", &entry, "till-id-malformed")
        .refuses("close", &json!({}), "till-id-malformed");
    Case::of(met, "retail.till.1_2012-01-31", &[])
        .refuses_fields(
            "record-sale",
            &sale,
            &[
                ("sale", json!("S 1"), "sale-not-allowed"),
                ("currency", json!("usd"), "currency-malformed"),
                ("sold_at", json!("noon"), "time-malformed"),
            ],
        )
        .refuses_fields("record-sale", &sale, &bad_lines("lines.unit_price"))
        .refuses_fields(
            "record-return",
            &entry,
            &[
                ("return", json!(""), "return-not-allowed"),
                ("sale", json!("S 1"), "sale-not-allowed"),
                ("currency", json!("usd"), "currency-malformed"),
            ],
        )
        .refuses_fields("record-return", &entry, &bad_lines("lines.unit_price"));
    let past = [("record-sale", sale.clone()), ("record-return", entry.clone())];
    let (mut other_sale, mut other_return) = (sale.clone(), entry.clone());
    other_sale["sale"] = json!("S2");
    other_return["return"] = json!("R2");
    let mut too_many = other_return.clone();
    too_many["sale"] = json!("S1");
    too_many["lines"][0]["quantity"] = json!(3);
    let mut too_dear = too_many.clone();
    too_dear["lines"][0]["quantity"] = json!(1);
    too_dear["lines"][0]["unit_price"] = json!(714);
    Case::of(met, "retail.till.1_2012-01-31", &past)
        .refuses_fields("record-sale", &sale, &[("sold_at", json!("2012-01-31T16:05:00Z"), "sale-differs")])
        .refuses_fields("record-sale", &other_sale, &[("currency", json!("EUR"), "currency-differs")])
        .refuses_fields("record-return", &entry, &[("lines.quantity", json!(1), "return-differs")])
        .refuses_fields("record-return", &other_return, &[("currency", json!("EUR"), "currency-differs")])
        .refuses("record-return", &too_many, "return-exceeds-sale")
        .refuses("record-return", &too_dear, "refund-exceeds-sale");
}

fn business_day(met: &mut Met) {
    Case::of(met, "retail.business-day.2012-02-30", &[]).refuses("close", &json!({}), "date-malformed");
}

fn stock(met: &mut Met) {
    let bodies = [
        ("receive", json!({ "quantity": 1 })),
        ("issue", json!({ "quantity": 1 })),
        ("transfer", json!({ "to": "v", "quantity": 1 })),
        ("reserve", json!({ "reservation": "R", "quantity": 1 })),
        ("request-reservation", json!({ "reservation": "R", "quantity": 1 })),
        ("release", json!({ "reservation": "R" })),
        ("adjust", json!({ "counted": 1 })),
        ("set-minimum", json!({ "minimum": 1 })),
    ];
    for (command, body) in &bodies {
        Case::of(met, "retail.stock.nowhere", &[]).refuses(command, body, "stock-id-malformed");
        let quantities = [
            ("quantity", json!(0), "quantity-not-positive"),
            ("quantity", json!(QUANTITY_MAX + 1), "quantity-too-large"),
        ];
        if body.get("quantity").is_some() {
            Case::of(met, "retail.stock.w:a", &[]).refuses_fields(command, body, &quantities);
        }
    }
    for command in ["receive", "issue"] {
        let known = json!({ "quantity": 1, "reference": "box 1" });
        let fields = [
            ("reference", json!(" "), "reference-not-allowed"),
            ("business_date", json!("yesterday"), "date-malformed"),
        ];
        Case::of(met, "retail.stock.w:a", &[])
            .refuses_fields(command, &known, &fields)
            .past(&[(command, known.clone())])
            .refuses_fields(
                command,
                &known,
                &[
                    ("quantity", json!(2), "reference-differs"),
                    ("business_date", json!("2012-01-31"), "reference-differs"),
                ],
            );
    }
    let of_order = json!({ "quantity": 1, "reference": "order:O1" });
    Case::of(met, "retail.stock.w:a", &[]).refuses("issue", &of_order, "reservation-unknown");
    let of_order = json!({ "quantity": 1, "reservation": "order:O1" });
    Case::of(met, "retail.stock.w:a", &[]).refuses("reserve", &of_order, "reservation-not-allowed");
    transfers(met);
    for command in ["reserve", "request-reservation"] {
        let body = json!({ "reservation": "R", "quantity": 1 });
        let past = [("receive", json!({ "quantity": 5 })), (command, body.clone())];
        Case::of(met, "retail.stock.w:a", &[])
            .refuses_fields(command, &body, &[("reservation", json!(""), "reservation-not-allowed")])
            .past(&past)
            .refuses_fields(command, &body, &[("quantity", json!(2), "reservation-differs")]);
    }
}

fn transfers(met: &mut Met) {
    let known = json!({ "to": "v", "quantity": 2, "reference": "van 1" });
    Case::of(met, "retail.stock.w:a", &[("receive", json!({ "quantity": 5 })), ("transfer", known.clone())])
        .refuses_fields(
            "transfer",
            &known,
            &[
                ("reference", json!(" "), "reference-not-allowed"),
                ("business_date", json!("yesterday"), "date-malformed"),
                ("quantity", json!(1), "reference-differs"),
                ("to", json!("u"), "reference-differs"),
                ("business_date", json!("2012-01-31"), "reference-differs"),
            ],
        )
        .refuses_fields(
            "transfer",
            &json!({ "to": "v", "quantity": 3 }),
            &[
                ("quantity", json!(4), "stock-not-available"),
                ("to", json!("w"), "transfer-to-itself"),
                ("to", json!("v:x"), "location-not-allowed"),
                ("to", json!("v".repeat(128)), "location-not-allowed"),
            ],
        );
}

fn ended_reservations(met: &mut Met) {
    let (release, past) = (
        json!({ "reservation": "R" }),
        [("receive", json!({ "quantity": 5 })), ("reserve", json!({ "reservation": "R", "quantity": 5 }))],
    );
    Case::of(met, "retail.stock.w:a", &[])
        .refuses("release", &release, "reservation-unknown")
        .past(&past)
        .refuses("reserve", &json!({ "reservation": "S", "quantity": 1 }), "stock-not-available")
        .refuses("issue", &json!({ "quantity": 6, "reference": "R" }), "issue-exceeds-reservation")
        .past(&[("release", release.clone())])
        .refuses("reserve", &json!({ "reservation": "R", "quantity": 5 }), "reservation-closed");
    let issued = [past.as_slice(), &[("issue", json!({ "quantity": 5, "reference": "R" }))]].concat();
    Case::of(met, "retail.stock.w:a", &issued).refuses("release", &release, "reservation-issued");
    Case::of(met, "retail.stock.w:a", &[])
        .refuses_fields(
            "adjust",
            &json!({ "counted": 1 }),
            &[
                ("counted", json!(-1), "count-negative"),
                ("counted", json!(QUANTITY_MAX + 1), "quantity-too-large"),
                ("reason", json!(""), "name-blank"),
                ("reason", json!(long_name()), "name-too-long"),
                ("business_date", json!("31.01.2012"), "date-malformed"),
            ],
        )
        .refuses("set-minimum", &json!({ "minimum": -1 }), "count-negative")
        .refuses("set-minimum", &json!({ "minimum": QUANTITY_MAX + 1 }), "quantity-too-large");
}

impl Case<'_> {
    /// The same with more of a past.
    fn past(mut self, more: &[(&'static str, Value)]) -> Self {
        self.past.extend_from_slice(more);
        self
    }
}

const ORDER: &str = "orders.order.O1";

fn place() -> Value {
    let lines = json!([{ "sku": "a", "quantity": 2, "unit_price": 500 }]);
    json!({ "customer": "anna", "location": "w", "currency": "USD", "lines": lines })
}

fn pay() -> Value {
    json!({ "payment": "P1", "amount": 1000, "currency": "USD" })
}

/// How an order gets to a state.
fn way_to(state: &str) -> Vec<(&'static str, Value)> {
    let way = [
        ("place", place()),
        ("confirm-reservation", json!({})),
        ("pay", pay()),
        ("ship", json!({ "shipment": "S1" })),
        ("deliver", json!({})),
    ];
    let steps = match state {
        "placed" | "cancelled" => 1,
        "reserved" => 2,
        "paid" => 3,
        "shipped" | "refunded" => 4,
        "delivered" => 5,
        _ => panic!("there is no way to {state}"),
    };
    let end = match state {
        "cancelled" => Some(("cancel", json!({}))),
        "refunded" => Some(("refund", json!({ "refund": "F1", "amount": 1000 }))),
        _ => None,
    };
    way.into_iter().take(steps).chain(end).collect()
}

/// A body of a command that repeats nothing.
fn order_body(command: &str) -> Value {
    match command {
        "pay" => json!({ "payment": "P9", "amount": 1000, "currency": "USD" }),
        "ship" => json!({ "shipment": "S9" }),
        "refund" => json!({ "refund": "F9", "amount": 1 }),
        "refund-remainder" => json!({ "refund": "F9" }),
        "reject-reservation" => json!({ "sku": "a", "quantity": 2, "available": 1 }),
        _ => json!({}),
    }
}

fn bad_moments() -> [(&'static str, Value, &'static str); 2] {
    [
        ("happened_at", json!("yesterday"), "moment-malformed"),
        ("happened_at", json!("9000-01-01T00:00:00Z"), "moment-in-the-future"),
    ]
}

/// Steps that are recorded afterwards say when they happened.
fn order_moments(met: &mut Met) {
    for command in ["pay", "ship", "deliver", "cancel", "refund"] {
        Case::of(met, ORDER, &way_to("shipped")).refuses_fields(
            command,
            &order_body(command),
            &bad_moments(),
        );
        let (mut placed, mut step) = (place(), order_body(command));
        (placed["happened_at"], step["happened_at"]) =
            (json!("1965-03-01T10:00:00Z"), json!("1965-03-01T09:59:59Z"));
        Case::of(met, ORDER, &[("place", placed)]).refuses(command, &step, "moment-before-order");
    }
}

fn order(met: &mut Met) {
    let fields = [
        ("customer", json!("Anna Smith"), "customer-not-allowed"),
        ("location", json!(""), "location-not-allowed"),
        ("location", json!("a:b"), "stock-id-malformed"),
        ("currency", json!("$"), "currency-malformed"),
    ];
    Case::of(met, ORDER, &[])
        .refuses_fields("place", &place(), &fields)
        .refuses_fields("place", &place(), &bad_lines("lines.unit_price"))
        .refuses_fields("place", &place(), &bad_moments())
        .past(&way_to("placed"))
        .refuses_fields("place", &place(), &[("customer", json!("berta"), "order-differs")]);
    let commands = millstream_model::aggregates().get("orders", "order").unwrap().command_names();
    for command in commands.iter().filter(|command| **command != "place") {
        Case::of(met, ORDER, &[]).refuses(command, &order_body(command), "order-not-placed");
    }
    // What is asked for again is asked again in every state, and that is no illegal step.
    for (command, state, code) in REFUSALS {
        Case::of(met, ORDER, &way_to(state)).refuses(command, &order_body(command), code);
    }
    Case::of(met, ORDER, &way_to("reserved")).refuses_fields(
        "pay",
        &pay(),
        &[
            ("payment", json!(" "), "payment-not-allowed"),
            ("currency", json!("usd"), "currency-malformed"),
            ("currency", json!("EUR"), "currency-differs"),
            ("amount", json!(999), "payment-amount-differs"),
        ],
    );
    let (ship, refund) = (json!({ "shipment": "S1" }), json!({ "refund": "F1", "amount": 400 }));
    Case::of(met, ORDER, &way_to("paid"))
        .refuses_fields("pay", &pay(), &[("amount", json!(999), "payment-differs")])
        .refuses_fields(
            "ship",
            &ship,
            &[
                ("shipment", json!(""), "shipment-not-allowed"),
                ("carrier", json!(" "), "name-blank"),
                ("carrier", json!(long_name()), "name-too-long"),
            ],
        )
        .refuses("cancel", &json!({ "reason": "" }), "name-blank")
        .refuses("cancel", &json!({ "reason": long_name() }), "name-too-long");
    Case::of(met, ORDER, &way_to("shipped"))
        .refuses_fields("ship", &ship, &[("carrier", json!("post"), "shipment-differs")])
        .refuses_fields(
            "refund",
            &refund,
            &[
                ("refund", json!("\n"), "refund-not-allowed"),
                ("reason", json!(""), "name-blank"),
                ("reason", json!(long_name()), "name-too-long"),
                ("amount", json!(0), "refund-not-positive"),
                ("amount", json!(1001), "refund-exceeds-payment"),
            ],
        )
        .past(&[("refund", refund.clone())])
        .refuses_fields("refund", &refund, &[("amount", json!(401), "refund-differs")])
        .refuses("refund", &json!({ "refund": "F2", "amount": 601 }), "refund-exceeds-payment")
        .refuses_fields(
            "refund-remainder",
            &order_body("refund-remainder"),
            &[
                ("refund", json!("\n"), "refund-not-allowed"),
                ("reason", json!(""), "name-blank"),
                ("reason", json!(long_name()), "name-too-long"),
            ],
        );
    Case::of(met, ORDER, &way_to("cancelled")).refuses("refund", &refund, "refund-without-payment");
}

fn comment(met: &mut Met) {
    const ADDRESS: &str = "comments.comment.C1";
    let create = json!({ "picture": "P1", "text": "Lovely!" });
    let update = json!({ "text": "Nice." });
    let (slash, long) = ("a/b", "x".repeat(ACTOR_LENGTH_MAX + 1));
    for (command, body) in [("create", &create), ("update", &update), ("delete", &json!({}))] {
        for actor in [None, Some(" ")] {
            Case::of(met, ADDRESS, &[]).by(actor).refuses(command, body, "actor-missing");
        }
        for actor in [slash, &long, "a\nb"] {
            Case::of(met, ADDRESS, &[]).by(Some(actor)).refuses(command, body, "actor-not-allowed");
        }
        if command != "create" {
            Case::of(met, ADDRESS, &[])
                .refuses(command, body, "comment-not-created")
                .past(&[("create", create.clone())])
                .by(Some("berta"))
                .refuses(command, body, "actor-not-author");
        }
    }
    let texts = [
        ("text", json!(" \n"), "text-blank"),
        ("text", json!("x".repeat(TEXT_LENGTH_MAX + 1)), "text-too-long"),
        ("text", json!("a\0b"), "text-not-allowed"),
    ];
    Case::of(met, ADDRESS, &[])
        .refuses_fields("create", &create, &[("picture", json!("P 1"), "picture-not-allowed")])
        .refuses_fields("create", &create, &texts)
        .past(&[("create", create.clone())])
        .refuses_fields("create", &create, &[("text", json!("Awful!"), "comment-differs")])
        .refuses_fields("update", &update, &texts)
        .past(&[("delete", json!({}))])
        .refuses("create", &create, "comment-deleted")
        .refuses("update", &update, "comment-deleted");
}

#[test]
fn commands_that_fulfilment_gives_are_refused_from_anybody_else() {
    let aggregates = millstream_model::aggregates();
    assert_eq!(aggregates.get("retail", "stock").unwrap().internal_commands(), ["request-reservation"]);
    let internal = aggregates.get("orders", "order").unwrap().internal_commands();
    assert_eq!(internal, ["confirm-reservation", "reject-reservation", "expire-payment", "expire-shipment"]);
    let mut handler = SequentialHandler::new(aggregates, "any");
    let now: Timestamp = "2026-03-01T10:00:00Z".parse().unwrap();
    handler.decide(&format!("{ORDER}.place"), &place().to_string(), now).unwrap();
    for command in internal {
        let address = format!("{ORDER}.{command}");
        let body = order_body(command).to_string();
        let rejection = handler.decide(&address, &body, now).unwrap_err();
        assert_eq!(rejection.code, INTERNAL_COMMAND);
        assert!(rejection.message.contains(command), "{rejection}");
    }
    let reserved = handler.decide_effect(&format!("{ORDER}.confirm-reservation"), "{}", now).unwrap();
    assert_eq!(reserved.len(), 1);
}

/// The contexts of which this file provokes every code.
const CONTEXTS: [&str; 3] = ["retail", "orders", "comments"];

fn declared() -> Met {
    let mut declared = Met::new();
    for aggregate in millstream_model::aggregates().iter() {
        for (command, code) in aggregate.rejections() {
            let known = aggregate.command_names();
            assert!(command == ANY_COMMAND || known.contains(&command), "there is no command {command}");
            let commands: Vec<&str> = if command == ANY_COMMAND { known.to_vec() } else { vec![command] };
            for command in commands {
                declared.insert((
                    aggregate.context().into(),
                    aggregate.aggregate().into(),
                    command.into(),
                    code.into(),
                ));
            }
        }
    }
    declared
}

#[test]
fn every_declared_rejection_is_provoked() {
    let mut met = Met::new();
    let aggregates =
        [product, delivery, till, business_day, stock, ended_reservations, order, order_moments, comment];
    for provoke in aggregates {
        provoke(&mut met);
    }
    let declared: Met =
        declared().into_iter().filter(|(context, ..)| CONTEXTS.contains(&&**context)).collect();
    assert!(declared.len() > 100, "only {} are declared", declared.len());
    let missing: Vec<_> = declared.difference(&met).collect();
    assert!(missing.is_empty(), "nothing here provokes {missing:?}");
    let unknown: Vec<_> = met.difference(&declared).collect();
    assert!(unknown.is_empty(), "these are not declared, and the kit let them pass: {unknown:?}");
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// The texts that stand first behind `opening` in a source.
fn first_texts(source: &str, opening: &str) -> Vec<String> {
    let behind = |(at, _)| source.get(at + opening.len()..)?.trim_start().strip_prefix('"')?.split_once('"');
    let texts = source.match_indices(opening).filter_map(behind);
    texts.map(|(text, _)| text.to_owned()).filter(|text| text.contains('-')).collect()
}

#[test]
fn every_code_of_the_sources_is_declared() {
    let declared: BTreeSet<String> = declared().into_iter().map(|(_, _, _, code)| code).collect();
    let mut files = Vec::new();
    sources(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut files);
    let mut found = BTreeSet::new();
    for path in files {
        let source = fs::read_to_string(&path).unwrap();
        let source = source.split("#[cfg(test)]").next().unwrap();
        for opening in ["Rejection::new(", "check_reference(", "check_label(", "differs("] {
            for code in first_texts(source, opening) {
                assert!(declared.contains(&code), "{} refuses with {code}, undeclared", path.display());
                found.insert(code);
            }
        }
    }
    assert!(found.len() > 40, "only {} codes were found: the sources look different now", found.len());
}
