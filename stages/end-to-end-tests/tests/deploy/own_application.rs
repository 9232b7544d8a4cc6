//! What `millstream new app` writes for a deployment: values with which the chart renders, and which name what its Dockerfile
//! builds. That the test's command and query are the application's own is shown where it is built (tests/contexts/own_app.rs).

use std::fs;

use end_to_end_tests::{binaries::binary, program};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    chart::{containers, pod_spec},
    helm_chart::{Chart, documents},
};

#[tokio::test]
async fn values_of_a_new_application_render_and_name_its_image_and_program() {
    let Some(chart) = Chart::find() else { return };
    let folder = TempDir::new().unwrap();
    let mut new = program::command(binary("millstream"));
    new.current_dir(folder.path()).args(["new", "app", "gym", "--first-context", "members"]);
    let _wrote = program::run(new, b"").await.expect_success("new app");
    let root = folder.path().join("gym");
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap();

    let values = root.join("values.yaml");
    let arguments = ["--values", values.to_str().unwrap(), "--set", "connection.url=nats://nats:4222"];
    chart.lint(&arguments).unwrap();
    let objects = documents(&chart.render("1.36", &arguments).unwrap());
    let described: Vec<&Value> = objects.iter().filter_map(pod_spec).flat_map(containers).collect();
    assert!(described.len() >= 7, "four stages, setup, and two steps of the test: {described:#?}");
    assert!(read("Cargo.toml").contains("version = \"0.1.0\""));
    assert!(read("Dockerfile").contains("-t /image/usr/local/bin target/release/gym"));
    for container in described {
        assert_eq!(container["image"], "gym:0.1.0");
        assert_eq!(container["command"][0], "/usr/local/bin/gym");
    }
}
