//! Starting, going on, stopping, and what is in the way of it.

use end_to_end_tests::{
    dumps::figure,
    program,
    stage_process::StageProcess,
    system::{System, fresh_folder, millstream},
    waiting::until,
};
use millstream_jetstream::{nats_server::free_port, testing::test_server::TestServer};
use nix::sys::signal::Signal;

const SALE: &str = r#"{"sale":"S1","currency":"USD","lines":[{"sku":"1","quantity":3,"unit_price":250}]}"#;
const TILL: [&str; 3] = ["retail", "till", "1_2026-01-31"];

async fn send(system: &System, command: &str, body: &str, id: &str) -> String {
    let arguments = [&["send"], &TILL[..], &[command, body, "--id", id]].concat();
    system.millstream(&arguments).await.expect_success("millstream send").stdout
}

async fn sales(system: &System) -> String {
    let report = system.report(&["store-daily", "--date", "2026-01-31", "--format", "csv"]).await;
    report.expect_success("millstream report").stdout.lines().last().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_system_that_was_stopped_goes_on_where_it_was() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    let port = system.port();
    send(&system, "record-sale", SALE, "first").await;
    assert_eq!(sales(&system).await, "1,2026-01-31,1,open,1,0,3,0,7.50,0.00,7.50,USD");
    let said = system.stop().await;
    assert!(said.contains("stopp"), "{said}");

    let system = System::start_on_port(folder.path(), port, &[]).await;
    assert_eq!(sales(&system).await, "1,2026-01-31,1,open,1,0,3,0,7.50,0.00,7.50,USD");
    // An id that was used before the stop is known after it.
    let again = send(&system, "record-sale", SALE, "first").await;
    assert!(again.contains("duplicate"), "{again}");
    send(&system, "record-sale", &SALE.replace("S1", "S2"), "second").await;
    send(&system, "close", "{}", "third").await;
    assert_eq!(sales(&system).await, "1,2026-01-31,1,sealed,2,0,6,0,15.00,0.00,15.00,USD");
    let history = system.millstream(&["history", "retail", "till", "1_2026-01-31", "--json"]).await;
    let versions: Vec<u64> =
        history.json_lines().iter().map(|event| event["version"].as_u64().unwrap()).collect();
    assert_eq!(versions, [1, 2, 3]);
    system.stop().await;
}

#[tokio::test]
async fn a_stage_that_dies_is_started_again_and_said_so() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    for name in system.processes().keys() {
        system.kill(name).await;
        system.expect_said(&format!("{name} ended (signal: 9 (SIGKILL)); starting it again")).await;
        system.expect_said(&format!("{name} is ready again")).await;
    }
    let processes = system.processes();
    assert!(
        processes.values().all(|process| process.restarts == 1 && process.pid.is_some()),
        "{processes:?}"
    );
    assert!(processes.values().all(|process| process.log.is_file()), "{processes:?}");
    send(&system, "record-sale", SALE, "after").await;
    assert_eq!(sales(&system).await, "1,2026-01-31,1,open,1,0,3,0,7.50,0.00,7.50,USD");
    system.stop().await;
}

#[tokio::test]
async fn processes_end_with_the_one_that_started_them_even_when_it_is_killed() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    let pids: Vec<i32> = system.processes().values().map(|process| process.pid.unwrap()).collect();
    assert!(pids.len() >= 4, "{pids:?}");
    // Dropping it kills it.
    drop(system);
    until("all children are gone", async || {
        let left = |pid: &&i32| std::path::Path::new(&format!("/proc/{pid}/exe")).exists();
        pids.iter().find(left).is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_folder_or_port_in_use_is_named() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    let up = async |folder: &std::path::Path, port: u16| {
        let mut command = millstream();
        command.args(["up", "--nats-port", &port.to_string(), "--dir"]).arg(folder);
        program::run(command, b"").await
    };
    let same_folder = up(folder.path(), free_port().unwrap()).await;
    assert_eq!(same_folder.code(), Some(75), "{same_folder:?}");
    assert!(same_folder.stderr.contains("is used by another `millstream up`"), "{}", same_folder.stderr);
    let other = fresh_folder();
    let same_port = up(other.path(), system.port()).await;
    assert_eq!(same_port.code(), Some(75), "{same_port:?}");
    assert!(same_port.stderr.contains(&format!("port {} is taken", system.port())), "{}", same_port.stderr);
    system.stop().await;
}

/// The variable is called like those of connections, which a server of one's own has nothing to do with.
#[tokio::test]
async fn the_nats_server_that_is_named_is_the_one_that_is_started() {
    let folder = fresh_folder();
    let mut command = millstream();
    command.env("NATS_SERVER", "/nowhere/nats-server").args(["up", "--nats-port"]);
    command.arg(free_port().unwrap().to_string()).arg("--dir").arg(folder.path());
    let refused = program::run(command, b"").await;
    assert_eq!(refused.code(), Some(78), "{refused:?}");
    assert!(refused.stderr.contains("NATS_SERVER names /nowhere/nats-server"), "{refused:?}");
}

#[tokio::test]
async fn doctor_says_who_decides_and_another_process_goes_on_when_that_one_is_gone() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &["--replicas", "command-handler=2"]).await;
    let maker = async || {
        let doctor = system.millstream(&["doctor"]).await;
        let line = doctor.stdout.lines().find(|line| line.starts_with("ok      decisions on COMMANDS: "))?;
        let (_, told) = line.split_once("made by ")?;
        Some(told.split_once(',')?.0.to_owned())
    };
    let first = until("a process decides", maker).await;
    for process in ["command-handler-1", "command-handler-2"] {
        system.kill(process).await;
        // One of the two kills is that of the one that decides; both are started again.
        send(&system, "record-sale", SALE, process).await;
    }
    until("another run decides", async || maker().await.filter(|run| *run != first)).await;
    let verified = system.millstream(&["verify", "outcomes"]).await.expect_success("millstream verify");
    assert!(verified.stdout.contains("every promise kept"), "{verified:?}");
    system.stop().await;
}

/// The server hands a stopped process what it had asked for before, so that nothing is left: it was said to be 0 behind.
#[tokio::test]
async fn doctor_tells_a_process_that_stands_still() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &["--replicas", "projector=2"]).await;
    let content = async || (system.millstream(&["doctor"]).await.code() == Some(0)).then_some(());
    until("doctor is content", content).await;
    assert!(system.signal("projector-2", Signal::SIGSTOP));
    let doctor = system.millstream(&["doctor"]).await;
    assert_eq!(doctor.code(), Some(69), "{doctor:?}");
    let said = "projector-1 is 0 behind";
    let line =
        doctor.stdout.lines().find(|line| line.starts_with("trouble reader projector of EVENTS: ")).unwrap();
    assert!(line.contains("the process of projector-2 does not answer") && line.contains(said), "{line}");
    assert!(system.signal("projector-2", Signal::SIGCONT));
    until("doctor is content again", content).await;
    system.stop().await;
}

/// Of a gateway and of a handler that stood by, nothing at all was said: the first need not be there, and the second had left no trace.
#[tokio::test]
async fn doctor_tells_a_gateway_and_a_standby_that_stand_still() {
    let folder = fresh_folder();
    let system =
        System::start(folder.path(), &["--replicas", "gateway=2", "--replicas", "command-handler=2"]).await;
    let content = async || (system.millstream(&["doctor"]).await.code() == Some(0)).then_some(());
    until("doctor is content", content).await;
    let broker = system.broker().await;
    let standby = until("a handler stands by", async || {
        match figure(&broker, "command-handler-1", "millstream_handler_active").await? {
            0 => Some("command-handler-1"),
            _ => Some("command-handler-2"),
        }
    })
    .await;
    for still in ["gateway-2", standby] {
        assert!(system.signal(still, Signal::SIGSTOP));
        let doctor = system.millstream(&["doctor"]).await;
        assert_eq!(doctor.code(), Some(69), "{doctor:?}");
        let said = format!("{still} is connected and does not answer: it stands still");
        let trouble: Vec<&str> = doctor.stdout.lines().filter(|line| !line.starts_with("ok ")).collect();
        assert!(trouble.len() == 1 && trouble[0].contains(&said), "{trouble:?}");
        assert!(trouble[0].contains("docs/runbooks/lag-grows.md"), "{trouble:?}");
        assert!(system.signal(still, Signal::SIGCONT));
        until("doctor is content again", content).await;
    }
    system.stop().await;
}

/// The server and the stages were started three times each before a slip of the pen was said, with where to read about it.
#[tokio::test]
async fn what_up_cannot_be_run_with_is_refused_before_anything_starts() {
    let folder = fresh_folder();
    let file = folder.path().join("a-file");
    std::fs::write(&file, "").unwrap();
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let taken = taken.local_addr().unwrap().port().to_string();
    let port = free_port().unwrap().to_string();
    let deployment = folder.path().join("up");
    for (flags, folder, code, said) in [
        (
            ["--set", "command_handlers.round_max=2"],
            &deployment,
            64,
            "no stage has a section command_handlers",
        ),
        (["--set", "nats.url=nats://elsewhere"], &deployment, 64, "says itself"),
        (
            ["--set", "projector.batch=2"],
            &deployment,
            78,
            "projector refuses its configuration: flag --set projector.batch",
        ),
        (
            ["--set", "command_handler.active_handlers=2"],
            &deployment,
            78,
            "key `command_handler.active_handlers` was removed: one command handler is active",
        ),
        (
            ["--set", "gateway.keys_file=nofile"],
            &deployment,
            78,
            "gateway refuses its configuration: gateway.keys_file nofile cannot be read: No such file",
        ),
        (
            ["--set", "nats.ca_file=nofile"],
            &deployment,
            78,
            "command-handler refuses its configuration: nats.ca_file nofile cannot be read; check the path",
        ),
        (["--sync", "never"], &deployment, 64, "write `always`, or a duration above zero"),
        (["--http-port", &taken], &deployment, 75, "choose another with --http-port"),
        (["--http-port", &port], &deployment, 64, "cannot both listen on port"),
        (["--set", "projector.batch_max=2"], &file, 64, "is a file; name a folder"),
    ] {
        let mut command = millstream();
        command.args(["up", "--nats-port", &port]).args(flags).arg("--dir").arg(folder);
        // A connection that somebody uses elsewhere is not that of the stages, and nothing is wrong with them because of it.
        command.env("MILLSTREAM_NATS__CREDENTIALS_FILE", "/nowhere/user.creds");
        let refused = program::run(command, b"").await;
        assert_eq!(refused.code(), Some(code), "{refused:?}");
        assert!(refused.stderr.contains(said), "{refused:?}");
        assert!(!refused.stderr.contains("stopp"), "nothing was started: {refused:?}");
        assert!(!folder.join("processes.json").exists(), "something was started: {refused:?}");
    }
}

/// All streams were made anew, and everything went on as if nothing had ever been there.
#[tokio::test]
async fn a_server_whose_folder_is_gone_is_not_begun_anew_in_silence() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    send(&system, "record-sale", SALE, "first").await;
    let port = system.port();
    system.stop().await;
    let data = folder.path().join("data");
    let (server, aside) = (data.join("nats-server"), folder.path().join("aside"));
    std::fs::rename(&server, &aside).unwrap();
    let mut command = millstream();
    command.args(["up", "--nats-port", &port.to_string(), "--dir"]).arg(folder.path());
    let refused = program::run(command, b"").await;
    assert_eq!(refused.code(), Some(65), "{refused:?}");
    for said in [
        "holds no streams, but the stages kept files",
        "command-handler, process-manager, projector, reporter",
    ] {
        assert!(refused.stderr.contains(said), "no {said:?}: {refused:?}");
    }
    std::fs::rename(&aside, &server).unwrap();
    let system = System::start_on_port(folder.path(), port, &[]).await;
    assert_eq!(sales(&system).await, "1,2026-01-31,1,open,1,0,3,0,7.50,0.00,7.50,USD");
    system.stop().await;
}

/// On a server of one's own, nobody is there to refuse the start: a line of level info told that the rows of all events were thrown away.
#[tokio::test]
async fn rows_of_another_server_are_not_discarded_in_silence() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    send(&system, "record-sale", SALE, "first").await;
    assert_eq!(sales(&system).await, "1,2026-01-31,1,open,1,0,3,0,7.50,0.00,7.50,USD");
    system.stop().await;
    let empty = TestServer::start_provisioned().await;
    let data = format!("projector.data_directory={}", folder.path().join("data/projector").display());
    let mut projector = StageProcess::new("projector", "", &empty.url(), folder.path()).set(&data);
    projector.start_ready().await;
    let log = projector.log();
    let told =
        log.lines().find(|line| line.contains("its rows are discarded and built anew from what there is"));
    let told = told.unwrap_or_else(|| panic!("nothing is told: {log}"));
    assert!(told.to_lowercase().contains("error") && told.contains("which was made anew"), "{told}");
    projector.stop().await;
}

#[tokio::test]
async fn demo_kills_its_handler_and_ends_well_only_if_every_figure_is_right() {
    let mut command = millstream();
    command.args(["demo", "--exit", "--sales", "1000"]);
    let demo = program::run(command, b"").await.expect_success("millstream demo");
    for shown in ["store", "supplier", "sealed", "unassigned"] {
        assert!(demo.stdout.contains(shown), "{demo:?}");
    }
    for said in [
        "kill -9 of the command-handler",
        "command-handler is ready again",
        "refused, as it should be",
        "sent again, changed nothing",
        "every figure of both reports equals the demo's own sums",
        "nats pub -J cmd.retail.till.",
    ] {
        assert!(demo.stderr.contains(said), "no {said:?}: {demo:?}");
    }
}
