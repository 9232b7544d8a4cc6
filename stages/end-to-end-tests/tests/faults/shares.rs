//! Processes that share the partitions: killed and stopped while each decides its own part, and told to share them in another
//! way while commands come in. Their leases are short, so that a stop of a second or two outlasts them.

use std::{collections::BTreeSet, time::Duration};

use end_to_end_tests::{
    command_load::{CommandLoad, LoadSettings},
    dumps::{decided, figure},
    stage_process::StageProcess,
    system::fresh_folder,
    waiting::until,
};
use millstream_contract::{outcome::OutcomeRecord, stream_names::COMMANDS, testing::dice::Dice};
use millstream_jetstream::{broker::Broker as _, nats_broker::NatsBroker, testing::test_server::TestServer};
use millstream_proof::verification::Dump;
use millstream_write_side::{command_handler::Share, share_layout::Layout};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::verdict::{expect_kept, fences, seed};

/// What is done to one that decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disturbance {
    /// `kill -9`, and it is started again at once.
    Kill,
    /// It stands still for a moment.
    Stop,
    /// It stands still until another one has its share, and then goes on.
    StopUntilReplaced,
    /// The same, and another one that decides is killed meanwhile.
    StopAndKillAnother,
}

/// What happens, in an order left to dice.
const DISTURBANCES: [Disturbance; 7] = [
    Disturbance::Kill,
    Disturbance::Kill,
    Disturbance::Stop,
    Disturbance::Stop,
    Disturbance::StopUntilReplaced,
    Disturbance::StopUntilReplaced,
    Disturbance::StopAndKillAnother,
];

/// A server, processes of the command handler on it, and commands that keep coming.
struct Company {
    server: TestServer,
    broker: NatsBroker,
    load: CommandLoad,
    processes: Vec<StageProcess>,
    _folder: TempDir,
}

impl Company {
    /// Each is to share the partitions over `active` handlers.
    async fn start(names: &[&str], active: u32, load: &LoadSettings) -> Self {
        let server = TestServer::start_provisioned().await;
        let folder = fresh_folder();
        let mut processes = Vec::new();
        for name in names {
            let process = StageProcess::new("command-handler", name, &server.url(), folder.path())
                .set("command_handler.lease_time_to_live=1s")
                .set(&active_handlers(active));
            processes.push(process);
        }
        for process in &mut processes {
            process.start_ready().await;
        }
        let broker = server.broker().await;
        let load = CommandLoad::start(&server.url(), load);
        Self { server, broker, load, processes, _folder: folder }
    }

    /// The shares of `of` that a process decides, as it says.
    async fn works_on(&self, place: usize, of: u32) -> BTreeSet<u32> {
        let mut shares = BTreeSet::new();
        for share in Share::each(of) {
            let name = format!("millstream_handler_active{{share=\"{}\"}}", share.name());
            if figure(&self.broker, self.processes.get(place).unwrap().name(), &name).await == Some(1) {
                shares.insert(share.index);
            }
        }
        shares
    }

    /// Waits until each share of `of` is decided by one of the processes at `places`, none by two of them, by as many processes as
    /// there can be, and what comes in is decided in every partition. Answers who decides.
    async fn shared_by(&self, places: &[usize], of: u32) -> Vec<usize> {
        let who = until(format!("{of} shares are decided by {places:?}"), async || {
            let (mut shares, mut who) = (Vec::new(), Vec::new());
            for place in places {
                let own = self.works_on(*place, of).await;
                who.extend((!own.is_empty()).then_some(*place));
                shares.extend(own);
            }
            shares.sort_unstable();
            let spread = who.len() == places.len().min(shares.len());
            (spread && shares == (0..of).collect::<Vec<_>>()).then_some(who)
        })
        .await;
        let newest = self.broker.state(COMMANDS).await.unwrap().last_sequence;
        until(format!("all {of} shares go on behind {newest}"), async || {
            let (layout, shares) = Layout::with_shares(&self.broker).await.ok()?;
            let beyond = shares.iter().all(|standing| standing.through > newest);
            (layout.shares == of && beyond).then_some(())
        })
        .await;
        who
    }

    /// Ends the load, waits for the last outcomes, and holds everything against what was promised.
    async fn judged(mut self) -> Dump {
        let ledger = self.load.finish().await;
        decided(&self.broker).await;
        let (dump, _) = expect_kept(&self.broker, &self.server.url(), &ledger).await;
        for process in &mut self.processes {
            process.stop().await;
        }
        dump
    }

    /// Has a process share the partitions over `active` handlers from its next start on.
    fn configure(&mut self, place: usize, active: u32) {
        let process = self.processes.remove(place).set(&active_handlers(active));
        self.processes.insert(place, process);
    }
}

fn active_handlers(number: u32) -> String {
    format!("command_handler.active_handlers={number}")
}

#[tokio::test]
async fn handlers_that_share_the_partitions_keep_every_promise_while_they_are_killed_and_stopped() {
    let seed = seed("active handlers killed and stopped");
    let mut dice = Dice::new(seed);
    let load = LoadSettings { ids_move: false, submitted: 0.0, ..LoadSettings::new(seed) };
    let mut company = Company::start(&["1", "2", "3"], 2, &load).await;
    let all = [0, 1, 2];
    let mut left = DISTURBANCES.to_vec();
    while !left.is_empty() {
        let working = company.shared_by(&all, 2).await;
        let disturbance = left.swap_remove(usize::try_from(dice.below(left.len() as u64)).unwrap());
        let place = *dice.pick(&working);
        eprintln!("{disturbance:?} of {}", company.processes[place].name());
        let others: Vec<usize> = all.into_iter().filter(|other| *other != place).collect();
        match disturbance {
            Disturbance::Kill => {
                company.processes[place].kill().await;
                company.processes[place].start_ready().await;
            }
            Disturbance::Stop => {
                company.processes[place].signal(Signal::SIGSTOP);
                tokio::time::sleep(dice.time(Duration::from_millis(600))).await;
                company.processes[place].signal(Signal::SIGCONT);
            }
            Disturbance::StopUntilReplaced => {
                company.processes[place].signal(Signal::SIGSTOP);
                company.shared_by(&others, 2).await;
                company.processes[place].signal(Signal::SIGCONT);
            }
            Disturbance::StopAndKillAnother => {
                let other = *working.iter().find(|other| **other != place).unwrap();
                company.processes[place].signal(Signal::SIGSTOP);
                company.processes[other].kill().await;
                let last: Vec<usize> = others.iter().copied().filter(|one| *one != other).collect();
                company.shared_by(&last, 2).await;
                company.processes[place].signal(Signal::SIGCONT);
                company.processes[other].start_ready().await;
            }
        }
    }
    company.shared_by(&all, 2).await;
    let dump = company.judged().await;
    // Two at the beginning, one whenever a share was taken from one that was killed or stood still.
    assert!(fences(&dump) >= 2 + 2 + 2 + 2, "{} takeovers", fences(&dump));
}

#[tokio::test]
async fn another_number_of_active_handlers_under_load_loses_and_repeats_nothing() {
    let seed = seed("another number of active handlers");
    let load = LoadSettings { ids_move: false, ..LoadSettings::new(seed) };
    let mut company = Company::start(&["1", "2"], 1, &load).await;
    let all = [0, 1];
    company.shared_by(&all, 1).await;
    // As an upgrade does it: one after the other, each stopped in order.
    for place in all {
        company.configure(place, 2);
        company.processes[place].stop().await;
        company.processes[place].start_ready().await;
    }
    company.shared_by(&all, 2).await;
    // And back, without any order.
    for place in all {
        company.configure(place, 1);
        company.processes[place].kill().await;
        company.processes[place].start_ready().await;
    }
    company.shared_by(&all, 1).await;
    let dump = company.judged().await;
    let records = dump.outcomes.iter().map(|message| OutcomeRecord::from_stored(message).unwrap());
    let layouts: Vec<u32> = records.filter_map(|record| Some(record.layout?.shares)).collect();
    assert_eq!(layouts, [2, 1]);
}
