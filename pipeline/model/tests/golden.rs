//! Every event that was ever released is still read, and written as it is recorded. The files are in
//! `golden/<context>/<aggregate>/`.

use std::path::Path;

use millstream::testing::golden::assert_compatible;

#[test]
fn every_released_event_is_still_read_and_written_in_its_shape() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    assert_compatible(&millstream_model::aggregates(), &folder);
}
