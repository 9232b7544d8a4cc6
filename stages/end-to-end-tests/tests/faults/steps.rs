//! The active handler is stopped at each step of a round, once with the message of that step delivered and once with it held
//! back until the handler has gone on; the other one takes over meanwhile. Then both believe that it is their turn.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use end_to_end_tests::{
    command_load::{CommandLoad, LoadSettings},
    dumps::decided,
    nats_proxy::{Kind, NatsProxy, Seen, Verdict},
    stage_process::StageProcess,
    system::fresh_folder,
    waiting::until,
};
use millstream_contract::{
    outcome::{OUTCOME_SUBJECT, OutcomeRecord},
    stream_names::{COMMANDS, EVENTS, LEASES_BUCKET, OUTCOMES},
};
use millstream_jetstream::{broker::Broker as _, nats_broker::NatsBroker, testing::test_server::TestServer};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::sync::mpsc;

use crate::verdict::{expect_kept, fences, seed};

/// What passes between a handler and the server in a round, in its order, and the renewal of the lease.
const STEPS: [Kind; 7] = [
    Kind::Delivery(COMMANDS),
    Kind::Append(EVENTS),
    Kind::Acknowledgement(EVENTS),
    Kind::Append(OUTCOMES),
    Kind::Acknowledgement(OUTCOMES),
    Kind::Append(LEASES_BUCKET),
    Kind::Acknowledgement(LEASES_BUCKET),
];
/// How long a message is held back: until after the takeover, shorter than the handler's own patience with the server.
const HELD: Duration = Duration::from_millis(4500);

/// Stops one process at its next message of a kind.
#[derive(Debug)]
struct Trap {
    armed: Mutex<Option<Armed>>,
    stopped: mpsc::UnboundedSender<()>,
}

/// What the trap waits for.
#[derive(Debug, Clone)]
struct Armed {
    client: String,
    process: i32,
    kind: Kind,
    held: bool,
}

impl Trap {
    fn verdict(&self, seen: &Seen<'_>) -> Verdict {
        let found = |armed: &mut Armed| armed.kind == seen.kind && armed.client == seen.client;
        let Some(Armed { process, held, .. }) = self.armed.lock().unwrap().take_if(found) else {
            return Verdict::Pass;
        };
        kill(Pid::from_raw(process), Signal::SIGSTOP).unwrap();
        self.stopped.send(()).unwrap();
        if held { Verdict::BlackHole(HELD) } else { Verdict::Pass }
    }
}

/// Stops whoever is active at this step of its. The turn may change before it gets there; then it is the next one's.
async fn stopped_at<'a>(
    step: Kind,
    held: bool,
    trap: &Trap,
    stopped: &mut mpsc::UnboundedReceiver<()>,
    handlers: &'a [StageProcess],
    broker: &NatsBroker,
) -> (&'a StageProcess, Arc<str>) {
    loop {
        let run = until("a record", async || last_handler(broker).await).await;
        // A handler names its run when it takes over; the other one names it too, as the one for which it waits.
        let took_over = |line: &str| line.contains("taking over") && line.contains(&*run);
        let active = handlers.iter().find(|handler| handler.log().lines().any(took_over)).unwrap();
        let client = active.name().to_owned();
        *trap.armed.lock().unwrap() = Some(Armed { client, process: active.process_id(), kind: step, held });
        let turn_changes =
            until("a stop, or another's turn", async || (last_handler(broker).await? != run).then_some(()));
        tokio::select! {
            biased;
            _ = stopped.recv() => return (active, run),
            () = turn_changes => {}
        }
        if trap.armed.lock().unwrap().take().is_none() {
            stopped.recv().await.unwrap();
            return (active, run);
        }
    }
}

/// The run that wrote the last record.
async fn last_handler(broker: &NatsBroker) -> Option<Arc<str>> {
    let record = broker.last(OUTCOMES, OUTCOME_SUBJECT).await.ok()??;
    Some(OutcomeRecord::from_stored(&record).ok()?.handler)
}

#[tokio::test]
async fn a_handler_that_is_stopped_at_any_step_and_goes_on_in_anothers_turn_does_no_harm() {
    let seed = seed("handler stopped at each step");
    let server = TestServer::start_provisioned().await;
    let (sender, mut stopped) = mpsc::unbounded_channel();
    let trap = Arc::new(Trap { armed: Mutex::default(), stopped: sender });
    let faults = Arc::clone(&trap);
    let proxy =
        NatsProxy::start(server.process().config().port, move |seen: &Seen<'_>| faults.verdict(seen)).await;
    let folder = fresh_folder();
    let mut handlers = ["1", "2"].map(|name| {
        let handler = StageProcess::new("command-handler", name, &proxy.url(), folder.path());
        handler.set("command_handler.lease_time_to_live=1s")
    });
    for handler in &mut handlers {
        handler.start_ready().await;
    }
    let broker = server.broker().await;
    let load = CommandLoad::start(&server.url(), &LoadSettings::new(seed));
    load.goes_on(20).await;
    for (step, held) in STEPS.into_iter().flat_map(|step| [(step, false), (step, true)]) {
        let (handler, run) = stopped_at(step, held, &trap, &mut stopped, &handlers, &broker).await;
        until(
            format!("another handler takes over from {}, stopped at {step:?}", handler.name()),
            async || (last_handler(&broker).await? != run).then_some(()),
        )
        .await;
        handler.signal(Signal::SIGCONT);
        load.goes_on(10).await;
    }
    let ledger = load.finish().await;
    proxy.heal().await;
    decided(&broker).await;
    let (dump, _) = expect_kept(&broker, &server.url(), &ledger).await;
    assert!(fences(&dump) > STEPS.len() * 2, "{} takeovers", fences(&dump));
    let mut turns_lost = 0;
    for handler in &mut handlers {
        handler.expect_running();
        turns_lost += handler.log().matches("lost the turn; standing by").count();
    }
    assert!(turns_lost >= STEPS.len(), "only {turns_lost} times did a handler go on in another's turn");
}
