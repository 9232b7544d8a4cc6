//! Every released event of the aggregates that applications take over is still read, and written as it is recorded. The
//! files are in `golden/example/<aggregate>/`; `example` stands for the context of an application.

use std::path::Path;

use millstream_domain::{decider::AggregateRegistry, testing::golden::assert_compatible};
use millstream_values::{claims::Claim, context::InContext, day_close::BusinessDay};

#[derive(Debug)]
struct Example;

impl InContext for Example {
    const CONTEXT: &'static str = "example";
}

#[test]
fn every_released_event_is_still_read_and_written_in_its_shape() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let registry = AggregateRegistry::new().with::<Claim<Example>>().with::<BusinessDay<Example>>();
    assert_compatible(&registry, &folder);
}
