//! The naive model: a week made up by dice, the commands that live through it, and plain sums of what must come of them.

use std::collections::{BTreeMap, BTreeSet};

use millstream_contract::{subject::Origin, testing::dice::Dice};
use serde_json::{Value, json};

/// The days of the week.
const DAYS: [&str; 7] =
    ["2012-01-30", "2012-01-31", "2012-02-01", "2012-02-02", "2012-02-03", "2012-02-04", "2012-02-05"];
/// Where orders are taken from.
const WEB: &str = "web";
/// Of every sku.
pub(super) const UNIT_COST: i64 = 70;
/// A sku that is never delivered there.
const ABSENT: &str = "absent";

/// A command to publish.
#[derive(Debug, Clone)]
pub(super) struct Command {
    pub(super) id: String,
    /// Who gives it.
    pub(super) origin: Origin,
    /// `<context>.<aggregate>.<id>.<command>`.
    pub(super) address: String,
    pub(super) body: Value,
    pub(super) actor: Option<String>,
}

/// Figures of a report's row, by column.
pub(super) type Figures = BTreeMap<&'static str, i64>;

/// What becomes of an order, in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Refused,
    Unpaid,
    CancelledUnpaid,
    CancelledPaid,
    Unshipped,
    RefundedAfterShipping,
    Delivered,
}

const FATES: [Fate; 10] = [
    Fate::Refused,
    Fate::Unpaid,
    Fate::CancelledUnpaid,
    Fate::CancelledPaid,
    Fate::Unshipped,
    Fate::RefundedAfterShipping,
    Fate::Delivered,
    Fate::Delivered,
    Fate::Delivered,
    Fate::Delivered,
];

impl Fate {
    fn state(self) -> &'static str {
        match self {
            Self::Refused | Self::Unpaid | Self::CancelledUnpaid => "cancelled",
            Self::CancelledPaid | Self::Unshipped | Self::RefundedAfterShipping => "refunded",
            Self::Delivered => "delivered",
        }
    }

    fn ships(self) -> bool {
        matches!(self, Self::RefundedAfterShipping | Self::Delivered)
    }

    fn pays(self) -> bool {
        self.ships() || matches!(self, Self::CancelledPaid | Self::Unshipped)
    }
}

struct Order {
    id: String,
    fate: Fate,
    amount: i64,
}

/// What must be found in the end.
#[derive(Debug, Default)]
pub(super) struct Expected {
    /// Units on hand, by `<location>:<sku>`.
    pub(super) stock: BTreeMap<String, i64>,
    /// By `<date>/<store>`.
    pub(super) store_daily: BTreeMap<String, Figures>,
    /// By `<date>/<supplier>:USD`.
    pub(super) supplier_daily: BTreeMap<String, Figures>,
    /// State and customer, by order.
    pub(super) orders: BTreeMap<String, (&'static str, String)>,
    /// Picture, author and text of those that are left, by comment.
    pub(super) comments: BTreeMap<String, (String, String, String)>,
    /// Price, by sku.
    pub(super) prices: BTreeMap<String, i64>,
    /// How many commands of people are refused, by code.
    pub(super) refusals: BTreeMap<&'static str, u64>,
}

/// A week.
pub(super) struct Plan {
    dice: Dice,
    scale: u64,
    orders: Vec<Order>,
    commands: Vec<Command>,
    said: u64,
    pub(super) expected: Expected,
}

fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap()
}

impl Plan {
    /// The week that `seed` makes.
    pub(super) fn new(seed: u64, scale: u64) -> Self {
        Self {
            dice: Dice::new(seed),
            scale,
            orders: Vec::new(),
            commands: Vec::new(),
            said: 0,
            expected: Expected::default(),
        }
    }

    /// The commands, in steps that wait for each other.
    pub(super) fn steps(&mut self) -> Vec<Vec<Command>> {
        self.register();
        self.deliver();
        let mut steps = vec![std::mem::take(&mut self.commands)];
        self.transfer();
        steps.push(std::mem::take(&mut self.commands));
        self.sell();
        self.restock();
        self.comment();
        self.place();
        steps.push(std::mem::take(&mut self.commands));
        self.pay();
        steps.push(std::mem::take(&mut self.commands));
        self.ship();
        self.close();
        steps.push(std::mem::take(&mut self.commands));
        self.finish();
        self.come_late();
        steps.push(std::mem::take(&mut self.commands));
        // The ledger is closed once more when all that came late is in.
        self.close();
        steps.push(std::mem::take(&mut self.commands));
        steps
    }

    fn say(&mut self, actor: Option<&str>, address: String, body: Value) {
        self.said += 1;
        let id = format!("week-{}", self.said);
        let actor = actor.map(str::to_owned);
        // The week does not wait for the timers of orders; it says what they say.
        let due = ["expire-payment", "expire-shipment"].iter().any(|command| address.ends_with(command));
        let origin = if due { Origin::Effect } else { Origin::Sender };
        self.commands.push(Command { id, origin, address, body, actor });
    }

    fn refuse(&mut self, code: &'static str) {
        *self.expected.refusals.entry(code).or_default() += 1;
    }

    fn stores(&self) -> u64 {
        (self.scale / 2).max(3)
    }

    fn skus(&self) -> u64 {
        self.scale * 50
    }

    fn suppliers(&self) -> u64 {
        (self.scale * 2 / 5).max(4)
    }

    fn supplier_of(&self, sku: u64) -> String {
        format!("supplier-{}", sku % self.suppliers())
    }

    fn register(&mut self) {
        for sku in 0..self.skus() {
            let supplier = self.supplier_of(sku);
            self.say(
                None,
                format!("retail.product.sku-{sku}.register"),
                json!({ "name": "Thing", "supplier": supplier }),
            );
            let price = count(self.dice.between(100, 2_000));
            for price in [price, price + 10].into_iter().take(if sku % 5 == 0 { 2 } else { 1 }) {
                let body = json!({ "unit_price": price, "currency": "USD" });
                self.say(None, format!("retail.product.sku-{sku}.reprice"), body);
                self.expected.prices.insert(format!("sku-{sku}"), price);
            }
        }
    }

    fn deliver(&mut self) {
        let locations: Vec<String> = (0..self.stores()).map(|store| format!("store-{store}")).collect();
        let (skus, step) = (self.skus(), usize::try_from(self.suppliers()).unwrap());
        for (place, location) in locations.iter().map(String::as_str).chain([WEB]).enumerate() {
            for supplier in 0..self.suppliers() {
                let name = format!("supplier-{supplier}");
                let date = DAYS[place % DAYS.len()];
                let mut lines = Vec::new();
                let figures = self.expected.supplier_daily.entry(format!("{date}/{name}:USD")).or_default();
                *figures.entry("deliveries").or_default() += 1;
                for sku in (supplier..skus).step_by(step) {
                    let quantity = if location == WEB { 1_000_000 } else { count(self.dice.between(1, 40)) };
                    lines.push(
                        json!({ "sku": format!("sku-{sku}"), "quantity": quantity, "unit_cost": UNIT_COST }),
                    );
                    *self.expected.stock.entry(format!("{location}:sku-{sku}")).or_default() += quantity;
                    *figures.entry("units_delivered").or_default() += quantity;
                    *figures.entry("delivery_cost").or_default() += quantity * UNIT_COST;
                }
                let body = json!({
                    "supplier": name, "location": location, "currency": "USD", "received_on": date, "lines": lines,
                });
                self.say(None, format!("retail.delivery.{location}-{supplier}.receive"), body);
            }
        }
    }

    /// Takes units to another place. Nobody takes more than was delivered, so that it does not matter which of them are first.
    fn transfer(&mut self) {
        let places: Vec<String> = self.expected.stock.keys().cloned().collect();
        let mut left = self.expected.stock.clone();
        for number in 0..self.scale * 100 {
            let (location, sku) = self.dice.pick(&places).split_once(':').unwrap();
            let units = left.get_mut(&format!("{location}:{sku}")).unwrap();
            let quantity = (*units).min(count(self.dice.between(1, 20)));
            *units -= quantity;
            if quantity > 0 {
                let to = self.other_place(location);
                self.take(&format!("T{number}"), (location, &to), sku, quantity);
            }
        }
        for code in ["stock-not-available", "transfer-to-itself"] {
            let to = if code == "transfer-to-itself" { WEB } else { "store-0" };
            let body = json!({ "to": to, "quantity": 100_000_000 });
            self.say(None, format!("retail.stock.{WEB}:sku-0.transfer"), body);
            self.refuse(code);
        }
    }

    /// Takes units to the stores while these sell, and while orders are placed: of these there are always enough.
    fn restock(&mut self) {
        for number in 0..self.scale * 30 {
            let (to, sku) = (self.other_place(WEB), format!("sku-{}", self.dice.below(self.skus())));
            let quantity = count(self.dice.between(1, 20));
            self.take(&format!("W{number}"), (WEB, &to), &sku, quantity);
        }
    }

    fn other_place(&mut self, location: &str) -> String {
        let stores = (0..self.stores()).map(|store| format!("store-{store}"));
        let others: Vec<String> = stores.chain([WEB.to_owned()]).filter(|place| place != location).collect();
        self.dice.pick(&others).clone()
    }

    fn take(&mut self, reference: &str, (from, to): (&str, &str), sku: &str, quantity: i64) {
        let date = *self.dice.pick(&DAYS);
        let body = json!({ "to": to, "quantity": quantity, "reference": reference, "business_date": date });
        self.say(None, format!("retail.stock.{from}:{sku}.transfer"), body);
        *self.expected.stock.entry(format!("{from}:{sku}")).or_default() -= quantity;
        *self.expected.stock.entry(format!("{to}:{sku}")).or_default() += quantity;
    }

    /// A sale, and sometimes a return of some of it.
    fn sale(&mut self, number: u64) {
        let store = format!("store-{}", self.dice.below(self.stores()));
        let date = DAYS[usize::try_from(self.dice.below(7)).unwrap()];
        let till = format!("retail.till.{store}_{date}");
        let mut skus = BTreeSet::new();
        for _ in 0..self.dice.between(1, 3) {
            skus.insert(self.dice.below(self.skus()));
        }
        let mut lines = Vec::new();
        for sku in &skus {
            let (quantity, price) = (count(self.dice.between(1, 9)), count(self.dice.between(100, 2_000)));
            lines.push((*sku, quantity, price));
        }
        let typed = |lines: &[(u64, i64, i64)]| {
            let line = |(sku, quantity, price): &(u64, i64, i64)| json!({ "sku": format!("sku-{sku}"), "quantity": quantity, "unit_price": price });
            lines.iter().map(line).collect::<Vec<_>>()
        };
        let sale = format!("S{number}");
        let body = json!({ "sale": sale, "currency": "USD", "lines": typed(&lines) });
        self.say(None, format!("{till}.record-sale"), body);
        self.book(&store, date, &lines, 1);
        if self.dice.chance(0.1) {
            let back = vec![(lines[0].0, 1, lines[0].2)];
            let body = json!({ "return": format!("R{number}"), "sale": sale, "currency": "USD", "lines": typed(&back) });
            self.say(None, format!("{till}.record-return"), body);
            self.book(&store, date, &back, -1);
        }
        if self.dice.chance(0.02) {
            let more = json!({ "return": format!("X{number}"), "sale": sale, "currency": "USD",
                "lines": [{ "sku": format!("sku-{}", lines[0].0), "quantity": 1_000, "unit_price": 1 }] });
            self.say(None, format!("{till}.record-return"), more);
            self.refuse("return-exceeds-sale");
        }
    }

    /// Sums up what was sold (`sign` 1) or brought back (-1).
    fn book(&mut self, store: &str, date: &str, lines: &[(u64, i64, i64)], sign: i64) {
        let (documents, units, amount) = match sign {
            1 => ("sales", "units_sold", "gross_amount"),
            _ => ("returns", "units_returned", "refund_amount"),
        };
        let day = self.expected.store_daily.entry(format!("{date}/{store}")).or_default();
        *day.entry(documents).or_default() += 1;
        for (sku, quantity, price) in lines {
            let value = quantity * price;
            *self.expected.stock.entry(format!("{store}:sku-{sku}")).or_default() -= sign * quantity;
            let supplier = format!("{date}/{}:USD", self.supplier_of(*sku));
            let store_day = self.expected.store_daily.get_mut(&format!("{date}/{store}")).unwrap();
            let supplier_day = self.expected.supplier_daily.entry(supplier).or_default();
            for figures in [store_day, supplier_day] {
                *figures.entry(units).or_default() += quantity;
                *figures.entry(amount).or_default() += value;
                *figures.entry("net_amount").or_default() += sign * value;
            }
        }
    }

    fn sell(&mut self) {
        for number in 0..self.scale * 1_000 {
            self.sale(number);
        }
    }

    fn come_late(&mut self) {
        for number in 0..self.scale * 10 {
            self.sale(1_000_000 + number);
        }
    }

    fn close(&mut self) {
        let tills: Vec<String> = self.expected.store_daily.keys().cloned().collect();
        for till in tills {
            let (date, store) = till.split_once('/').unwrap();
            self.say(None, format!("retail.till.{store}_{date}.close"), json!({}));
        }
        for date in DAYS {
            self.say(None, format!("retail.business-day.{date}.close"), json!({}));
        }
    }

    fn comment(&mut self) {
        for number in 0..self.scale * 200 {
            let (id, author) = (format!("C{number}"), format!("person-{}", self.dice.below(9)));
            let picture = format!("picture-{}", self.dice.below(20));
            let say = |command: &str| format!("comments.comment.{id}.{command}");
            let mut text = format!("I like {number}");
            self.say(Some(&author), say("create"), json!({ "picture": picture, "text": text }));
            if self.dice.chance(0.3) {
                text.push('!');
                self.say(Some(&author), say("update"), json!({ "text": text }));
            }
            if self.dice.chance(0.1) {
                self.say(Some(&author), say("update"), json!({ "text": text }));
            }
            if self.dice.chance(0.1) {
                self.say(Some("somebody else"), say("update"), json!({ "text": "Buy cheap tea" }));
                self.refuse("actor-not-author");
            }
            if self.dice.chance(0.2) {
                self.say(Some(&author), say("delete"), json!({}));
                if self.dice.chance(0.2) {
                    self.say(Some(&author), say("update"), json!({ "text": "back again" }));
                    self.refuse("comment-deleted");
                }
            } else {
                self.expected.comments.insert(id, (picture, author, text));
            }
        }
    }

    fn place(&mut self) {
        for number in 0..(self.scale * 50).max(60) {
            let fate = FATES[usize::try_from(number % 10).unwrap()];
            let (id, customer) = (format!("O{number}"), format!("customer-{}", self.dice.below(12)));
            let sku = format!("sku-{}", self.dice.below(self.skus()));
            let quantity = count(self.dice.between(1, 5));
            let mut lines = vec![json!({ "sku": sku, "quantity": quantity, "unit_price": 100 })];
            if fate == Fate::Refused {
                lines.push(json!({ "sku": ABSENT, "quantity": 1, "unit_price": 1 }));
            }
            let body = json!({ "customer": customer, "location": WEB, "currency": "USD", "lines": lines });
            self.say(Some(&customer), format!("orders.order.{id}.place"), body);
            self.expected.orders.insert(id.clone(), (fate.state(), customer));
            if fate.ships() {
                *self.expected.stock.entry(format!("{WEB}:{sku}")).or_default() -= quantity;
            }
            self.orders.push(Order { id, fate, amount: quantity * 100 });
        }
    }

    fn each_order(&mut self, mut step: impl FnMut(&Order) -> Option<(&'static str, Value)>) {
        let orders = std::mem::take(&mut self.orders);
        for order in &orders {
            if let Some((command, body)) = step(order) {
                self.say(None, format!("orders.order.{}.{command}", order.id), body);
            }
        }
        self.orders = orders;
    }

    fn pay(&mut self) {
        self.each_order(|order| match order.fate {
            fate if fate.pays() => {
                let payment = format!("P-{}", order.id);
                Some(("pay", json!({ "payment": payment, "amount": order.amount, "currency": "USD" })))
            }
            // What the timer says when the time to pay is over.
            Fate::Unpaid => Some(("expire-payment", json!({}))),
            Fate::CancelledUnpaid => Some(("cancel", json!({ "reason": "changed my mind" }))),
            _ => None,
        });
        let refused = self.orders.iter().filter(|order| order.fate == Fate::Refused).count();
        self.each_order(|order| (order.fate == Fate::Refused).then(|| ("ship", json!({ "shipment": "S" }))));
        (0..refused).for_each(|_| self.refuse("ship-while-cancelled"));
    }

    fn ship(&mut self) {
        self.each_order(|order| match order.fate {
            fate if fate.ships() => {
                Some(("ship", json!({ "shipment": format!("S-{}", order.id), "carrier": "post" })))
            }
            Fate::Unshipped => Some(("expire-shipment", json!({}))),
            Fate::CancelledPaid => Some(("cancel", json!({}))),
            _ => None,
        });
    }

    fn finish(&mut self) {
        self.each_order(|order| match order.fate {
            Fate::Delivered => Some(("deliver", json!({}))),
            Fate::RefundedAfterShipping => Some(("refund", json!({ "refund": "R", "amount": order.amount }))),
            _ => None,
        });
        let cancelled = self.orders.iter().filter(|order| order.fate.ships()).count();
        self.each_order(|order| order.fate.ships().then(|| ("cancel", json!({}))));
        let refunded = self.orders.iter().filter(|order| order.fate == Fate::RefundedAfterShipping).count();
        (0..cancelled - refunded).for_each(|_| self.refuse("cancel-while-delivered"));
        (0..refunded).for_each(|_| self.refuse("cancel-while-refunded"));
    }
}
