//! The application as a whole: its names fit together, and its events are those that were recorded.

use std::path::Path;

use gym_model::Gym;
use millstream::{application::Model, testing::golden::assert_compatible};

fn model() -> Model {
    match Model::of::<Gym>() {
        Ok(model) => model,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn events_are_as_they_were_recorded() {
    assert_compatible(&model().aggregates(), &Path::new(env!("CARGO_MANIFEST_DIR")).join("golden"));
}
