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

use millstream_engine::{
    decider::AggregateRegistry,
    process::Process,
    projection::Projection,
    report::{Column, Ledger},
};

use crate::{Context, ProcessSettings};

/// The context, as in subjects.
pub const CONTEXT: &str = "retail";

/// What the context has.
pub const PARTS: Context =
    Context { aggregates, projections, reports, report_columns: REPORT_COLUMNS, processes };

fn aggregates(registry: AggregateRegistry) -> AggregateRegistry {
    registry
        .with::<product::Product>()
        .with::<delivery::Delivery>()
        .with::<till::Till>()
        .with::<business_day::BusinessDay>()
        .with::<stock::Stock>()
}

fn projections() -> Vec<Box<dyn Projection>> {
    vec![
        Box::new(product_view::ProductView),
        Box::new(delivery_view::DeliveryView),
        Box::new(till_view::TillView),
        Box::new(sale_view::SaleView),
        Box::new(stock_view::StockView),
    ]
}

/// Days are closed at the hours that the deployment says.
fn processes(settings: &ProcessSettings) -> Vec<Box<dyn Process>> {
    vec![
        Box::new(stock_keeping::StockKeeping),
        Box::new(closing::Closing::new(settings.closing_hours.clone())),
    ]
}

fn reports() -> Vec<Box<dyn Projection>> {
    vec![
        Box::new(Ledger(store_daily::StoreDaily)),
        Box::new(Ledger(supplier_daily::SupplierDaily)),
        Box::new(Ledger(stock_valuation::StockValuation)),
    ]
}

const REPORT_COLUMNS: &[(&str, &[Column])] = &[
    ("store-daily", store_daily::COLUMNS),
    ("supplier-daily", supplier_daily::COLUMNS),
    ("stock-valuation", stock_valuation::COLUMNS),
];
