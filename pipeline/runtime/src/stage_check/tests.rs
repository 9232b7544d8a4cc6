//! The check against real servers: nothing missing, everything missing, one permission missing.

use millstream_jetstream::{
    provision::provision,
    testing::{restricted_server::RestrictedServer, test_server::TestServer},
};

use super::*;
use crate::{
    config::{Origins, load_connection},
    stage_needs::stage_needs,
};

const STAGES: [&str; 6] = ["command-handler", "projector", "reporter", "process-manager", "sql", "gateway"];

fn settings(url: &str, user: Option<&str>, folder: &std::path::Path) -> ConnectionSettings {
    let mut values = vec![format!("nats.url={url}")];
    if let Some(user) = user {
        let password = folder.join(format!("{user}.password"));
        std::fs::write(&password, RestrictedServer::PASSWORD).unwrap();
        values.push(format!("nats.user={user}"));
        values.push(format!("nats.password_file={}", password.display()));
    }
    load_connection(&Origins { settings: values, ..Origins::default() }).unwrap()
}

fn troubles(checks: &[Check]) -> Vec<String> {
    checks.iter().filter(|check| check.result.is_err()).map(ToString::to_string).collect()
}

#[tokio::test]
async fn every_stage_finds_a_server_that_setup_has_prepared_in_order() {
    let server = TestServer::start_provisioned().await;
    for stage in STAGES {
        let needs = stage_needs(stage, "").unwrap();
        let identity = ClientIdentity::of_stage(stage, "");
        let settings = settings(&server.url(), None, std::path::Path::new(""));
        let checks = check_stage(&settings, &identity, &needs).await.unwrap();
        assert_eq!(troubles(&checks), Vec::<String>::new(), "{stage}");
        assert!(checks.len() > needs.streams.len() + needs.readers.len(), "{checks:?}");
    }
}

#[tokio::test]
async fn a_check_leaves_the_streams_and_consumers_as_they_are() {
    let server = TestServer::start_provisioned().await;
    let jetstream = jetstream::new(server.client().await);
    let settings = settings(&server.url(), None, std::path::Path::new(""));
    for stage in STAGES {
        let identity = ClientIdentity::of_stage(stage, "");
        check_stage(&settings, &identity, &stage_needs(stage, "").unwrap()).await.unwrap();
    }
    for finding in verify(&jetstream, &ProvisionOptions::default(), &[]).await.unwrap() {
        let mut stream = jetstream.get_stream(&finding.stream).await.unwrap();
        let state = &stream.info().await.unwrap().state;
        assert_eq!(
            (state.messages, state.consumer_count, state.last_sequence),
            (0, 0, 0),
            "{}",
            finding.stream
        );
    }
}

#[tokio::test]
async fn a_server_without_streams_is_told_to_be_set_up() {
    let server = TestServer::start().await;
    let settings = settings(&server.url(), None, std::path::Path::new(""));
    let identity = ClientIdentity::of_stage("projector", "");
    let checks = check_stage(&settings, &identity, &stage_needs("projector", "").unwrap()).await.unwrap();
    let expected = "trouble stream EVENTS: it does not exist; run `millstream setup`";
    assert!(troubles(&checks).contains(&expected.to_owned()), "{checks:#?}");
}

#[tokio::test]
async fn a_stream_that_differs_is_named_with_its_field() {
    let server = TestServer::start().await;
    let jetstream = jetstream::new(server.client().await);
    let foreign = jetstream::stream::Config {
        name: "EVENTS".into(),
        subjects: vec!["evt.>".into()],
        ..Default::default()
    };
    jetstream.create_stream(foreign).await.unwrap();
    provision(&jetstream, &ProvisionOptions::default()).await.unwrap();
    let settings = settings(&server.url(), None, std::path::Path::new(""));
    let identity = ClientIdentity::of_stage("projector", "");
    let checks = check_stage(&settings, &identity, &stage_needs("projector", "").unwrap()).await.unwrap();
    let troubles = troubles(&checks);
    assert_eq!(troubles.len(), 1, "{troubles:?}");
    assert!(
        troubles[0].starts_with("trouble stream EVENTS: ") && troubles[0].contains("subjects"),
        "{troubles:?}"
    );
}

/// The checks of several stages run side by side. The reporter's question for other replicas reached the projector's check, which
/// listens to queries and answers none; the reporter waited in vain and called that trouble.
#[tokio::test]
async fn question_that_others_hear_and_do_not_answer_is_allowed() {
    let server = TestServer::start_provisioned().await;
    let client = server.client().await;
    let _listens = client.subscribe("query.>").await.unwrap();
    // The server works through a connection in order: with an answer it knows the subscription.
    client.request("$JS.API.INFO", "".into()).await.unwrap();
    let folder = tempfile::TempDir::new().unwrap();
    let (settings, identity) =
        (settings(&server.url(), None, folder.path()), ClientIdentity::of_stage("reporter", ""));
    let checks = check_stage(&settings, &identity, &stage_needs("reporter", "").unwrap()).await.unwrap();
    assert_eq!(troubles(&checks), Vec::<String>::new());
}

/// Each user lacks one permission of the stage: the check must find that one and no other.
#[tokio::test]
async fn each_missing_permission_is_found_and_nothing_else() {
    let folder = tempfile::TempDir::new().unwrap();
    for stage in STAGES {
        let needs = stage_needs(stage, "").unwrap();
        let identity = ClientIdentity::of_stage(stage, "");
        let publish = needs.publish_subjects("$JS.API", &identity.inbox_prefix);
        let subscribe = needs.subscribe_subjects(&identity.inbox_prefix);
        let mut users = vec![("complete".to_owned(), publish.clone(), subscribe.clone())];
        for (number, left_out) in publish.iter().enumerate() {
            let rest = publish.iter().filter(|subject| *subject != left_out).cloned().collect();
            users.push((format!("publish-{number}"), rest, subscribe.clone()));
        }
        for (number, left_out) in subscribe.iter().enumerate().skip(1) {
            let rest = subscribe.iter().filter(|subject| *subject != left_out).cloned().collect();
            users.push((format!("subscribe-{number}"), publish.clone(), rest));
        }
        let server = RestrictedServer::start(&users).await;
        let complete = settings(&server.url(), Some("complete"), folder.path());
        let checks = check_stage(&complete, &identity, &needs).await.unwrap();
        assert_eq!(troubles(&checks), Vec::<String>::new(), "{stage}");
        for (number, subject) in publish.iter().enumerate() {
            let user = format!("publish-{number}");
            let checks = check_stage(&settings(&server.url(), Some(&user), folder.path()), &identity, &needs)
                .await
                .unwrap();
            let troubles = troubles(&checks);
            let probed = subject.replace(['*', '>'], "check");
            assert!(
                troubles.len() == 1 && troubles[0].ends_with(&format!("let this user publish to {probed}")),
                "{stage} without {subject}: {troubles:?}"
            );
        }
        for (number, subject) in subscribe.iter().enumerate().skip(1) {
            let user = format!("subscribe-{number}");
            let checks = check_stage(&settings(&server.url(), Some(&user), folder.path()), &identity, &needs)
                .await
                .unwrap();
            let expected = format!(
                "trouble listen to {subject}: the server forbids it; let this user subscribe to {subject}"
            );
            assert_eq!(troubles(&checks), [expected], "{stage} without {subject}");
        }
    }
}
