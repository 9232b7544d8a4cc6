//! Many who watch one row, and some who do not read.

use end_to_end_tests::{live_stream::LiveStream, stage_process::StageProcess, system::fresh_folder};
use futures::future::join_all;
use millstream_jetstream::testing::test_server::TestServer;
use serde_json::json;

use crate::{
    gateway,
    live::{FakeView, price, register, reprice, told},
};

const WATCH_TEA: &str = "watch=retail/product/tea";
const QUERIES: &str = "millstream_queries_total{endpoint=\"retail.product.get\",code=\"200\"}";

#[tokio::test]
async fn a_thousand_who_watch_one_row_are_one_query_a_change() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let url = server.url();
    let [mut handler, mut projector] =
        ["command-handler", "projector"].map(|stage| StageProcess::new(stage, "", &url, folder.path()));
    let (process, client) = gateway(&url, folder.path());
    let mut process =
        process.set("gateway.live_recheck=1h").set("gateway.rate=0").set("gateway.rate_address=0");
    handler.start_ready().await;
    projector.start_ready().await;
    process.start_ready().await;
    register(&client).await;
    let mut streams = join_all((0..1000).map(|_| LiveStream::open(&client, WATCH_TEA))).await;
    assert_eq!(process.metric("millstream_gateway_live_streams ").await, Some(1000.0));
    assert_eq!(process.metric("millstream_gateway_live_rows ").await, Some(1.0));
    // By the first change that everybody has seen, whatever a new watch costs has been asked.
    let mut before = (0.0, 0.0);
    for number in 1..=11 {
        reprice(&client, number).await;
        let all = streams
            .iter_mut()
            .map(|stream| stream.until(move |event| price(&event.data) == Some(number.into())));
        join_all(all).await;
        let asked = process.metric("millstream_gateway_live_questions_total").await.unwrap();
        let answered = projector.metric(QUERIES).await.unwrap();
        if number > 1 {
            assert_eq!((asked, answered), (before.0 + 1.0, before.1 + 1.0), "change {number}");
        }
        before = (asked, answered);
    }
    drop(streams);
    told(&process, "millstream_gateway_live_rows ", |rows| rows == 0.0).await;
    for stage in [&mut process, &mut projector, &mut handler] {
        stage.stop().await;
    }
}

/// 40 times 200 states of 100 KB are 800 MB. Each of those who do not read may keep one, beside what the system's buffers hold.
#[tokio::test]
async fn who_does_not_read_takes_no_memory_and_delays_nobody() {
    const STATES: u64 = 200;
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let mut view = FakeView::start(&server).await;
    let (process, client) = gateway(&server.url(), folder.path());
    let mut process = process.set("gateway.live_recheck=1h").set("gateway.body_timeout=1h");
    process.start_ready().await;
    let value = |number: u64| json!({ "number": number, "filling": "x".repeat(100_000) });
    let mut live = LiveStream::open(&client, WATCH_TEA).await;
    let idle = join_all((0..40).map(|_| LiveStream::open(&client, WATCH_TEA))).await;
    let question = view.question().await;
    view.answer(question, "EVENTS:01JD:1", &value(1)).await;
    live.until(|event| event.data["value"]["number"] == 1).await;
    let before = process.memory_max().unwrap();
    for number in 2..=STATES {
        let position = format!("EVENTS:01JD:{number}");
        view.hint(&position).await;
        let question = view.question().await;
        view.answer(question, &position, &value(number)).await;
        live.until(|event| event.data["value"]["number"] == number).await;
    }
    let more = process.memory_max().unwrap().saturating_sub(before);
    assert!(more < 64 * 1024 * 1024, "{more} bytes more");
    // Who begins to read sees the last state soon, and not all of them.
    let mut late = idle.into_iter().next().unwrap();
    let mut seen = 1;
    while late.next().await.unwrap().data["value"]["number"] != STATES {
        seen += 1;
    }
    assert!(seen < STATES / 2, "{seen} states");
    process.stop().await;
}

#[tokio::test]
async fn who_takes_nothing_for_too_long_is_left() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let mut view = FakeView::start(&server).await;
    let (process, client) = gateway(&server.url(), folder.path());
    let mut process = process
        .set("gateway.live_recheck=1h")
        .set("gateway.body_timeout=1s")
        .set("gateway.header_timeout=1s");
    process.start_ready().await;
    let mut live = LiveStream::open(&client, WATCH_TEA).await;
    let _idle = LiveStream::open(&client, WATCH_TEA).await;
    let mut number = 0;
    while number < 10 || process.metric("millstream_gateway_live_streams ").await != Some(1.0) {
        number += 1;
        let position = format!("EVENTS:01JD:{number}");
        view.hint(&position).await;
        let question = view.question().await;
        let value = json!({ "number": number, "filling": "x".repeat(100_000) });
        view.answer(question, &position, &value).await;
        live.until(|event| event.data["value"]["number"] == number).await;
    }
    process.stop().await;
}
