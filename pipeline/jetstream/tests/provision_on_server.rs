//! Provisioning against a real nats-server: what is made, what is found different, and that the server's partitions are
//! the ones the contract computes.

use async_nats::jetstream::{self, stream};
use millstream_contract::{
    stream_names,
    subject::{CommandAddress, Origin, StreamId, published_subject},
};
use millstream_jetstream::{
    broker::Broker as _,
    provision::{self, ProvisionOptions, StreamPresence, provision, verify},
    testing::test_server::TestServer,
};

const ALL: [&str; 8] =
    ["OUTCOMES", "REPORTS", "TIMERS", "DEADLETTERS", "AUDIT", "KV_LEASES", "COMMANDS", "EVENTS"];

#[tokio::test]
async fn missing_streams_are_made_and_found_the_second_time() {
    let server = TestServer::start().await;
    let context = jetstream::new(server.client().await);
    let options = ProvisionOptions::default();

    let missing = verify(&context, &options, &[]).await.unwrap();
    assert!(missing.iter().all(|each| each.presence == StreamPresence::Missing && !each.is_usable()));

    let made = provision(&context, &options).await.unwrap();
    assert_eq!(made.iter().map(|each| each.stream.as_str()).collect::<Vec<_>>(), ALL);
    for each in &made {
        assert_eq!((each.presence, each.differences.as_slice()), (StreamPresence::Created, &[][..]));
    }

    let again = provision(&context, &options).await.unwrap();
    for (first, second) in made.iter().zip(&again) {
        assert_eq!((second.presence, second.differences.as_slice()), (StreamPresence::Present, &[][..]));
        assert_eq!(first.generation, second.generation);
    }
    let state = server.broker().await.state(stream_names::EVENTS).await.unwrap();
    assert_eq!(Some(state.generation), made.last().unwrap().generation);
}

#[tokio::test]
async fn two_that_provision_at_once_agree_on_the_generation() {
    let server = TestServer::start().await;
    let options = ProvisionOptions::default();
    let (one, two) = (jetstream::new(server.client().await), jetstream::new(server.client().await));
    let (first, second) = tokio::join!(provision(&one, &options), provision(&two, &options));
    let generations = |findings: Vec<provision::StreamFinding>| {
        findings.into_iter().map(|each| (each.stream, each.generation.unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(generations(first.unwrap()), generations(second.unwrap()));
}

#[tokio::test]
async fn foreign_stream_is_reported_field_by_field_and_left_alone() {
    let server = TestServer::start().await;
    let context = jetstream::new(server.client().await);
    let foreign = stream::Config {
        name: "EVENTS".to_owned(),
        subjects: vec!["evt.>".to_owned()],
        max_age: std::time::Duration::from_secs(3600),
        max_bytes: 1_000_000,
        ..stream::Config::default()
    };
    let before = context.create_stream(foreign).await.unwrap().cached_info().config.clone();

    let findings = provision(&context, &ProvisionOptions::default()).await.unwrap();

    let finding = findings.iter().find(|each| each.stream == "EVENTS").unwrap();
    assert!(!finding.is_usable());
    let fields: Vec<&str> = finding.differences.iter().map(|each| each.field.as_str()).collect();
    let expected = [
        "subjects",
        "discard",
        "max_age",
        "deny_delete",
        "deny_purge",
        "allow_direct",
        "allow_atomic",
        "metadata io.millstream.generation",
    ];
    assert_eq!(fields, expected);
    assert_eq!(context.get_stream("EVENTS").await.unwrap().cached_info().config, before);
    let text = finding.differences.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(text.contains("nats stream edit EVENTS --subjects 'evt.*.*.*'"), "{text}");
    assert!(text.contains("nats stream edit EVENTS --max-age 0s"), "{text}");
}

#[tokio::test]
async fn chosen_sizes_are_used_and_other_sizes_than_chosen_are_reported() {
    let server = TestServer::start().await;
    let context = jetstream::new(server.client().await);
    let chosen = |bytes| ProvisionOptions {
        max_bytes: [("COMMANDS".to_owned(), bytes)].into(),
        ..ProvisionOptions::default()
    };
    provision(&context, &chosen(1_000_000)).await.unwrap();
    let made = context.get_stream("COMMANDS").await.unwrap();
    assert_eq!(made.cached_info().config.max_bytes, 1_000_000);
    assert!(
        verify(&context, &ProvisionOptions::default(), &[])
            .await
            .unwrap()
            .iter()
            .all(|each| each.differences.is_empty())
    );
    let findings = verify(&context, &chosen(2_000_000), &["COMMANDS"]).await.unwrap();
    let [finding] = findings.as_slice() else { panic!("one stream was asked for: {findings:?}") };
    assert_eq!(finding.differences.first().unwrap().field, "max_bytes");
    assert!(finding.is_usable());
}

#[tokio::test]
async fn what_is_asked_for_is_given_to_streams_that_are_there_and_to_no_others() {
    let server = TestServer::start_provisioned().await;
    let context = jetstream::new(server.client().await);
    let ask = |bytes| ProvisionOptions {
        max_bytes: [("EVENTS".to_owned(), bytes)].into(),
        apply: true,
        ..ProvisionOptions::default()
    };
    let size = async |stream| context.get_stream(stream).await.unwrap().cached_info().config.clone();
    let (before, commands) = (size("EVENTS").await, size("COMMANDS").await);
    let findings = provision(&context, &ask(20_000_000_000)).await.unwrap();
    for finding in findings {
        let fields: Vec<&str> = finding.changed.iter().map(|each| each.field.as_str()).collect();
        let expected: &[&str] = if finding.stream == "EVENTS" { &["max_bytes"] } else { &[] };
        assert_eq!((fields.as_slice(), finding.differences.len()), (expected, 0), "{}", finding.stream);
    }
    let after = size("EVENTS").await;
    assert_eq!(after.max_bytes, 20_000_000_000);
    assert_eq!(stream::Config { max_bytes: before.max_bytes, ..after }, before, "nothing else is changed");
    assert_eq!(size("COMMANDS").await, commands);

    context.publish("evt.retail.till.1", "x".repeat(1000).into()).await.unwrap().await.unwrap();
    let mut too_small = ask(100);
    too_small.max_bytes.insert("COMMANDS".to_owned(), 20_000_000_000);
    let refused = provision(&context, &too_small).await.unwrap_err().to_string();
    assert!(refused.contains("EVENTS holds") && refused.contains("100 it would be full"), "{refused}");
    assert_eq!(size("EVENTS").await.max_bytes, 20_000_000_000);
    assert_eq!(size("COMMANDS").await, commands, "streams that come before are not changed either");
}

/// Whoever keeps records of the gateways for a year says so with an age, and the gateways go on.
#[tokio::test]
async fn audit_log_may_have_an_age_and_no_other_stream_may() {
    let server = TestServer::start_provisioned().await;
    let context = jetstream::new(server.client().await);
    for (stream, is_usable) in [("AUDIT", true), ("EVENTS", false)] {
        let mut config = context.get_stream(stream).await.unwrap().cached_info().config.clone();
        config.max_age = std::time::Duration::from_hours(8760);
        context.update_stream(&config).await.unwrap();
        let found = verify(&context, &ProvisionOptions::default(), &[stream]).await.unwrap();
        let [finding] = found.as_slice() else { panic!("one stream was asked for: {found:?}") };
        assert_eq!(
            (finding.is_usable(), finding.differences.is_empty()),
            (is_usable, is_usable),
            "{finding:?}"
        );
    }
}

/// Whoever raised the copies by hand does not lose them to the next setup that says nothing of them.
#[tokio::test]
async fn copies_that_nobody_asks_for_are_no_difference() {
    let options = ProvisionOptions::default();
    let asked = ProvisionOptions { replicas: Some(3.try_into().unwrap()), ..ProvisionOptions::default() };
    let server = TestServer::start_provisioned().await;
    let context = jetstream::new(server.client().await);
    let found = verify(&context, &asked, &["EVENTS"]).await.unwrap();
    assert!(found.iter().all(provision::StreamFinding::lacks_what_was_asked_for));
    let found = verify(&context, &options, &["EVENTS"]).await.unwrap();
    assert!(found.iter().all(|finding| finding.differences.is_empty()), "{found:?}");
}

#[tokio::test]
async fn partitions_are_the_ones_the_server_computes() {
    let server = TestServer::start_provisioned().await;
    let client = server.client().await;
    let context = jetstream::new(client.clone());
    let mut addresses = Vec::new();
    for number in 0..300 {
        let id = match number % 3 {
            0 => format!("{number}_2012-01-31"),
            1 => format!("main:SKU_{}@x-{number}", number * 7919),
            _ => format!("a{}", "Z".repeat(number % 120)),
        };
        let aggregate = ["till", "product", "business-day"][number % 3];
        addresses.push(CommandAddress::new("retail", aggregate, &id, "do-it").unwrap());
    }
    for address in &addresses {
        context.publish(address.subject(), "{}".into()).await.unwrap().await.unwrap();
    }
    let broker = server.broker().await;
    for (sequence, address) in (1..).zip(&addresses) {
        let stored = broker.get(stream_names::COMMANDS, sequence).await.unwrap().unwrap();
        let stream_id: &StreamId = &address.stream_id;
        assert_eq!(stored.subject, format!("cmdq.{}.{address}", stream_id.partition()));
    }
}

#[tokio::test]
async fn commands_of_processes_keep_their_subject() {
    let server = TestServer::start_provisioned().await;
    let context = jetstream::new(server.client().await);
    let address = CommandAddress::new("orders", "order", "O1", "expire-payment").unwrap();
    for origin in [Origin::Sender, Origin::Effect] {
        context.publish(address.subject_from(origin), "{}".into()).await.unwrap().await.unwrap();
    }
    let broker = server.broker().await;
    for (sequence, origin) in [(1, Origin::Sender), (2, Origin::Effect)] {
        let stored = broker.get(stream_names::COMMANDS, sequence).await.unwrap().unwrap();
        assert_eq!(Origin::of_stored_subject(&stored.subject), origin, "{}", stored.subject);
        assert_eq!(CommandAddress::from_stored_subject(&stored.subject).as_ref(), Ok(&address));
        assert_eq!(published_subject(&stored.subject), address.subject_from(origin));
    }
}

/// What an earlier release made knows no commands of processes.
#[tokio::test]
async fn a_stream_that_lacks_a_subject_is_given_it_and_keeps_everything_else() {
    let server = TestServer::start().await;
    let context = jetstream::new(server.client().await);
    let options = ProvisionOptions::default();
    let mut before = provision::definition("COMMANDS", &options).unwrap();
    before.subjects.retain(|subject| subject.starts_with("cmd."));
    before.max_bytes = 12_345_678;
    context.create_stream(before).await.unwrap();
    context.publish("cmd.retail.till.1.close", "{}".into()).await.unwrap().await.unwrap();

    let found = verify(&context, &options, &["COMMANDS"]).await.unwrap();
    assert!(!found[0].is_usable(), "looking changes nothing: {found:?}");
    provision(&context, &options).await.unwrap();

    let mut stream = context.get_stream("COMMANDS").await.unwrap();
    let info = stream.info().await.unwrap();
    assert_eq!(info.config.subjects, ["cmd.*.*.*.*", "effect.*.*.*.*"]);
    assert_eq!((info.config.max_bytes, info.state.messages), (12_345_678, 1));
    context.publish("effect.retail.till.1.close", "{}".into()).await.unwrap().await.unwrap();
}

#[tokio::test]
async fn subject_of_another_depth_is_not_stored() {
    let server = TestServer::start_provisioned().await;
    let context = jetstream::new(server.client().await);
    assert!(context.publish("cmd.retail.till.1", "{}".into()).await.unwrap().await.is_err());
    assert!(context.publish("cmd.retail.till.1.close.now", "{}".into()).await.unwrap().await.is_err());
}

#[tokio::test]
async fn server_killed_and_started_again_has_its_streams_on_its_port() {
    let mut server = TestServer::start_provisioned().await;
    let url = server.url();
    server.kill().await;
    assert_eq!(server.process().pid(), None);
    server.restart().await;
    assert_eq!(server.url(), url);
    let context = jetstream::new(server.client().await);
    let found = verify(&context, &ProvisionOptions::default(), &[]).await.unwrap();
    assert!(found.iter().all(provision::StreamFinding::is_usable));
    server.stop().await;
    server.restart().await;
    let again = verify(&context, &ProvisionOptions::default(), &[]).await.unwrap();
    assert_eq!(found, again);
}

#[tokio::test]
async fn cluster_of_three_keeps_three_replicas() {
    let servers = TestServer::start_cluster().await;
    let context = jetstream::new(servers[1].client().await);
    let options = ProvisionOptions { replicas: Some(3.try_into().unwrap()), ..ProvisionOptions::default() };
    let made = provision(&context, &options).await.unwrap();
    assert!(made.iter().all(|each| each.presence == StreamPresence::Created && each.differences.is_empty()));
    let one = ProvisionOptions { replicas: Some(1.try_into().unwrap()), ..ProvisionOptions::default() };
    let single = verify(&context, &one, &["EVENTS"]).await.unwrap();
    assert_eq!(single[0].differences[0].field, "num_replicas");
}
