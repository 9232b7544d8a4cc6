//! Retail: products from suppliers, deliveries, tills, business days, and the daily reports about them.

pub mod business_day;
pub mod closing;
pub mod delivery;
pub mod delivery_view;
pub mod product;
pub mod product_view;
pub mod sale_view;
pub mod stock;
pub mod stock_keeping;
pub mod stock_valuation;
pub mod stock_view;
pub mod store_daily;
pub mod supplier_daily;
pub mod till;
mod till_figures;
pub mod till_view;

use millstream::application::{Benchmark, Context};

/// The context, as in subjects.
pub const CONTEXT: &str = "retail";

/// What the context has.
pub fn context() -> Context {
    Context::new(CONTEXT)
        .aggregate::<product::Product>()
        .aggregate::<delivery::Delivery>()
        .aggregate::<till::Till>()
        .aggregate::<business_day::BusinessDay>()
        .aggregate::<stock::Stock>()
        .view(product_view::ProductView)
        .view(delivery_view::DeliveryView)
        .view(till_view::TillView)
        .view(sale_view::SaleView)
        .view(stock_view::StockView)
        .report(store_daily::StoreDaily)
        .report(supplier_daily::SupplierDaily)
        .report(stock_valuation::StockValuation)
        .process("stock-keeping", |_| stock_keeping::StockKeeping)
        .process("closing", closing::Closing::from_keys)
}

/// Products are registered again and again, each time under another name.
pub const BENCHMARK: Benchmark = Benchmark {
    context: CONTEXT,
    aggregate: "product",
    command: "register",
    body: |run, number| format!(r#"{{"name":"Item {run} {number}","supplier":"bench-supplier"}}"#),
    view: "product",
};
