//! Every event type that was ever released is still read. The files are in `golden/<context>/<aggregate>/`.

use std::{collections::BTreeSet, path::PathBuf};

use millstream_engine::{decider::Decider, testing::golden};
use millstream_model::{
    comments::comment::Comment,
    orders::order::Order,
    retail::{business_day::BusinessDay, delivery::Delivery, product::Product, stock::Stock, till::Till},
};

fn check<D: Decider>(checked: &mut BTreeSet<(&'static str, &'static str)>) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(D::CONTEXT).join(D::AGGREGATE);
    golden::check::<D::Event>(&folder);
    checked.insert((D::CONTEXT, D::AGGREGATE));
}

#[test]
fn every_released_event_is_still_read() {
    let mut checked = BTreeSet::new();
    check::<Product>(&mut checked);
    check::<Delivery>(&mut checked);
    check::<Till>(&mut checked);
    check::<BusinessDay>(&mut checked);
    check::<Stock>(&mut checked);
    check::<Order>(&mut checked);
    check::<Comment>(&mut checked);

    let registered: BTreeSet<_> =
        millstream_model::aggregates().iter().map(|each| (each.context(), each.aggregate())).collect();
    assert_eq!(checked, registered, "add each aggregate's check to this test");
}
