//! Runs child processes until told to stop: starts them, waits until they are ready, starts them again when they die, keeps a list of them, and
//! ends them in order within a time limit.
//!
//! Deliberately absent: what the processes are (see `deployment.rs`).

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File},
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use millstream_contract::exit_code::{ExitCode, Failure};
use millstream_jetstream::nats_server::wait_until_ready;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use self::process_list::{ProcessEntry, ProcessList};
use crate::console::Console;

pub(crate) mod process_list;
pub(crate) mod readiness;
pub(crate) mod tether;

/// The first pause before a process that died early is started again. It doubles each time.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A process that was ready and has run for this long is started again at once when it dies. One that dies earlier, ready or not, will most
/// likely meet the same problem again.
const STEADY_AFTER: Duration = Duration::from_secs(10);
/// If a process has run for this long since, earlier endings no longer count.
const CALM_AFTER: Duration = Duration::from_secs(600);
/// How often the same ending of a process is reported each time.
const TOLD_FIRST: u32 = 3;
/// The pause between two attempts to write the list.
const LIST_PAUSE: Duration = Duration::from_secs(1);
/// If the first start fails this often, it is a configuration error and no accident.
const FIRST_START_TRIES: u32 = 3;
/// A handler that rebuilds its state from a long stream may take this long to become ready.
const FIRST_START_WAIT_MAX: Duration = Duration::from_secs(120);

/// How to find out that a process is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadyCheck {
    /// A nats-server sends its greeting on this port.
    NatsServer(u16),
    /// A stage reports it at its health address.
    Stage(SocketAddr),
}

/// A process to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProcessSpec {
    /// Its name in the list and the name of its log file.
    pub(crate) name: String,
    /// The program.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<OsString>,
    /// Variables that it must not inherit.
    pub(crate) variables_removed: Vec<String>,
    /// How to find out that it is ready.
    pub(crate) ready: ReadyCheck,
    /// How long it may take to stop.
    pub(crate) stop_wait: Duration,
}

/// Why a process does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SupervisorError {
    /// It could not be started at all.
    #[error("cannot start {name} ({program}); build all programs with `cargo build --bins`")]
    Start { name: String, program: PathBuf, source: io::Error },
    /// It ends again and again before it is ready.
    #[error("{name} does not start; its log {log} ends with: {tail}")]
    Ends { name: String, log: PathBuf, tail: String },
    /// It runs but does not become ready.
    #[error("{name} is not ready after {} s: {reason}; its log is {log}", FIRST_START_WAIT_MAX.as_secs())]
    NotReady { name: String, log: PathBuf, reason: String },
    /// The supervisor's files cannot be used.
    #[error("cannot use {path}")]
    File { path: PathBuf, source: io::Error },
}

impl Failure for SupervisorError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Start { .. } | Self::Ends { .. } | Self::NotReady { .. } => ExitCode::Unavailable,
            Self::File { source, .. } => ExitCode::of_file_error(source),
        }
    }
}

/// The state of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Starting,
    Ready,
    /// It ended before it was ready, this many times in a row.
    Failed(u32),
    NotReady(String),
}

/// Starts processes with their logs in one folder and one list.
#[derive(Debug, Clone)]
pub(crate) struct Supervisor {
    list: Arc<ProcessList>,
    logs: PathBuf,
    /// This program, which becomes the child's program: see `tether.rs`.
    executable: PathBuf,
    console: Console,
}

/// A process under supervision.
#[derive(Debug)]
pub(crate) struct Supervised {
    name: String,
    log: PathBuf,
    state: watch::Receiver<State>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Supervisor {
    /// Keeps `processes.json` and the folder `logs` in `folder`.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub(crate) fn new(folder: &Path, console: Console) -> Result<Self, SupervisorError> {
        let logs = folder.join("logs");
        fs::create_dir_all(&logs).map_err(|source| SupervisorError::File { path: logs.clone(), source })?;
        let executable = std::env::current_exe()
            .map_err(|source| SupervisorError::File { path: PathBuf::from("millstream"), source })?;
        Ok(Self {
            list: Arc::new(ProcessList::new(&folder.join("processes.json"))),
            logs,
            executable,
            console,
        })
    }

    /// An entry of the list.
    pub(crate) fn process(&self, name: &str) -> Option<ProcessEntry> {
        self.list.get(name)
    }

    /// Changes an entry of the list. If the file cannot be written, that is reported once, and it is tried again until it can.
    fn note(&self, entry: ProcessEntry) {
        let Err(error) = self.list.put(entry) else { return };
        self.console.say(format_args!(
            "cannot write processes.json: {error}; the processes go on without it, and it is tried again"
        ));
        let (list, console) = (Arc::clone(&self.list), self.console.clone());
        tokio::spawn(async move {
            while list.catch_up().is_err() {
                sleep(LIST_PAUSE).await;
            }
            console.say("processes.json is written again");
        });
    }

    /// Starts a process and from now on keeps it running.
    ///
    /// # Errors
    /// When it cannot be started at all. If it dies later, it is started again, and that is reported.
    pub(crate) fn start(&self, spec: ProcessSpec) -> Result<Supervised, SupervisorError> {
        let log = self.logs.join(format!("{}.log", spec.name));
        let (state_sender, state) = watch::channel(State::Starting);
        let (stop, stop_receiver) = watch::channel(false);
        let mut runner = Runner {
            supervisor: self.clone(),
            log: log.clone(),
            name: spec.name.clone(),
            spec,
            state: state_sender,
            stop: stop_receiver,
            restarts: 0,
            endings: Endings::default(),
            log_before: None,
        };
        let child = runner.spawn()?;
        let name = runner.name.clone();
        let task = tokio::spawn(async move { runner.keep_running(child).await });
        Ok(Supervised { name, log, state, stop, task })
    }
}

impl Supervised {
    /// Waits until it is ready for the first time.
    ///
    /// # Errors
    /// When it ends instead several times, or takes too long.
    pub(crate) async fn ready(&self) -> Result<(), SupervisorError> {
        let mut state = self.state.clone();
        let enough = |state: &State| match state {
            State::Ready => true,
            State::Failed(times) => *times >= FIRST_START_TRIES,
            State::Starting | State::NotReady(_) => false,
        };
        let (name, log) = (self.name.clone(), self.log.clone());
        match timeout(FIRST_START_WAIT_MAX, state.wait_for(enough)).await {
            Ok(Ok(found)) if *found == State::Ready => Ok(()),
            Ok(_) => Err(SupervisorError::Ends { tail: last_line(&log), name, log }),
            Err(_) => {
                let reason = match &*self.state.borrow() {
                    State::NotReady(reason) => reason.clone(),
                    State::Starting | State::Ready => "it is starting".to_owned(),
                    State::Failed(times) => format!("it has ended {times} times before it was ready"),
                };
                Err(SupervisorError::NotReady { name, log, reason })
            }
        }
    }

    /// Asks it to stop, kills it if that takes too long, and returns when it has ended.
    pub(crate) async fn stop(self, console: &Console) {
        // The task also ends if it no longer listens.
        self.stop.send_replace(true);
        if let Err(error) = self.task.await {
            console.say(format_args!("the supervision of {} failed: {error}", self.name));
        }
    }
}

/// The task of one process.
struct Runner {
    supervisor: Supervisor,
    spec: ProcessSpec,
    name: String,
    log: PathBuf,
    state: watch::Sender<State>,
    stop: watch::Receiver<bool>,
    restarts: u64,
    endings: Endings,
    /// The log file as it was last opened.
    log_before: Option<File>,
}

impl Runner {
    async fn keep_running(&mut self, first: Child) {
        let mut child = Some(first);
        let (mut failures, mut soon) = (0, 0);
        loop {
            let Some(mut running) = child.take() else { return };
            let began = Instant::now();
            let mut stop = self.stop.clone();
            let ended = tokio::select! {
                ended = self.until_it_ends(&mut running) => Some(ended),
                _ = stop.wait_for(|wanted| *wanted) => None,
            };
            let Some(ended) = ended else { return self.end(running).await };
            let was_ready = *self.state.borrow() == State::Ready;
            failures = if was_ready { 0 } else { failures + 1 };
            soon = died_soon(soon, was_ready, began.elapsed());
            self.state.send_replace(if was_ready { State::Starting } else { State::Failed(failures) });
            self.note(None);
            let how = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
            match self.endings.ended(&how, began.elapsed()) {
                Some(1) => self.say(format_args!("{} ended ({how}); starting it again", self.name)),
                Some(times) => self.say(format_args!(
                    "{} ended ({how}), {times} times by now; starting it again. Its log {} ends with: {}",
                    self.name,
                    self.log.display(),
                    last_line(&self.log)
                )),
                None => {}
            }
            child = self.start_again(soon).await;
        }
    }

    /// Starts it again, after a pause if it has died early several times; `None` if the stop was requested in the meantime.
    async fn start_again(&mut self, mut soon: u32) -> Option<Child> {
        let mut stop = self.stop.clone();
        loop {
            tokio::select! {
                () = sleep(pause(soon)) => {}
                _ = stop.wait_for(|wanted| *wanted) => return None,
            }
            self.restarts += 1;
            match self.spawn() {
                Ok(child) => return Some(child),
                Err(error) => {
                    soon += 1;
                    let why = millstream_contract::error_text::one_line(&error);
                    if self.endings.ended(&why, Duration::ZERO).is_some() {
                        self.say(format_args!("{why}"));
                    }
                }
            }
        }
    }

    /// Opens the log again, because the file may have been moved away. If that fails after the first start, for example on a full disk, the
    /// process continues with the open one.
    fn open_log(&mut self) -> io::Result<(File, File)> {
        let opened = File::options().create(true).append(true).open(&self.log);
        let log = match (opened, self.log_before.take()) {
            (Ok(log), _) | (Err(_), Some(log)) => log,
            (Err(error), None) => return Err(error),
        };
        let handles = (log.try_clone()?, log.try_clone()?);
        self.log_before = Some(log);
        Ok(handles)
    }

    fn spawn(&mut self) -> Result<Child, SupervisorError> {
        let (log, also) =
            self.open_log().map_err(|source| SupervisorError::File { path: self.log.clone(), source })?;
        let start = |source| SupervisorError::Start {
            name: self.name.clone(),
            program: self.spec.program.clone(),
            source,
        };
        if !self.spec.program.is_file() {
            return Err(start(io::ErrorKind::NotFound.into()));
        }
        let mut command = Command::new(&self.supervisor.executable);
        command
            .args([tether::TETHERED, &std::process::id().to_string()])
            .arg(&self.spec.program)
            .args(&self.spec.arguments)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(also)
            // Ctrl-C at the terminal reaches only the supervisor, which ends its children in order.
            .process_group(0)
            .kill_on_drop(true);
        for name in &self.spec.variables_removed {
            command.env_remove(name);
        }
        let child = command.spawn().map_err(start)?;
        self.note(child.id());
        Ok(child)
    }

    async fn until_it_ends(&self, child: &mut Child) -> io::Result<ExitStatus> {
        tokio::select! {
            ended = child.wait() => return ended,
            () = self.until_ready() => {}
        }
        let before = self.state.send_replace(State::Ready);
        if self.restarts > 0 && before != State::Ready && self.endings.last_was_told {
            self.say(format_args!("{} is ready again", self.name));
        }
        child.wait().await
    }

    async fn until_ready(&self) {
        match self.spec.ready {
            ReadyCheck::NatsServer(port) => while wait_until_ready(port).await.is_err() {},
            ReadyCheck::Stage(address) => {
                let tell = |reason: String| {
                    self.state.send_replace(State::NotReady(reason));
                };
                readiness::until_ready(address, tell).await;
            }
        }
    }

    async fn end(&self, mut child: Child) {
        let pid = child.id().and_then(|id| i32::try_from(id).ok());
        let asked = pid.is_some_and(|pid| kill(Pid::from_raw(pid), Signal::SIGTERM).is_ok());
        if !asked || timeout(self.spec.stop_wait, child.wait()).await.is_err() {
            self.say(format_args!("{} did not stop in time; killing it", self.name));
            if let Err(error) = child.kill().await {
                self.say(format_args!("{} could not be killed: {error}", self.name));
            }
        }
        self.note(None);
    }

    fn note(&self, pid: Option<u32>) {
        let entry =
            ProcessEntry { name: self.name.clone(), pid, restarts: self.restarts, log: self.log.clone() };
        self.supervisor.note(entry);
    }

    fn say(&self, text: std::fmt::Arguments<'_>) {
        self.supervisor.console.say(text);
    }
}

/// How many times in a row a process has died early, after it died once more.
fn died_soon(before: u32, was_ready: bool, ran: Duration) -> u32 {
    if was_ready && ran >= STEADY_AFTER { 0 } else { before.saturating_add(1) }
}

/// How often a process has ended in each way, so that one that ends again and again does not fill the terminal.
#[derive(Debug, Default)]
struct Endings {
    times: BTreeMap<String, u32>,
    last_was_told: bool,
}

impl Endings {
    /// It ended after it `ran` for this long. Returns how often it has ended in this way, if that is to be reported: the first few times, and
    /// each time the number has doubled.
    fn ended(&mut self, how: &str, ran: Duration) -> Option<u32> {
        if ran >= CALM_AFTER {
            self.times.clear();
        }
        let times = self.times.entry(how.to_owned()).or_default();
        *times = times.saturating_add(1);
        self.last_was_told = *times <= TOLD_FIRST || times.is_power_of_two();
        self.last_was_told.then_some(*times)
    }
}

/// No pause after a process that ran for long; otherwise a pause that doubles with each early death.
fn pause(soon: u32) -> Duration {
    match soon {
        0 => Duration::ZERO,
        more => PAUSE_FIRST.saturating_mul(2_u32.saturating_pow(more.min(10) - 1)).min(PAUSE_MAX),
    }
}

fn last_line(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("(it is empty)").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stage that flapped wrote two lines every five seconds, for ever.
    #[test]
    fn the_same_ending_is_told_ever_more_rarely_and_another_one_at_once() {
        let mut endings = Endings::default();
        let told = |endings: &mut Endings, how: &str, ran: u64| endings.ended(how, Duration::from_secs(ran));
        let times: Vec<u32> = (0..1000).filter_map(|_| told(&mut endings, "exit status: 1", 11)).collect();
        assert_eq!(times, [1, 2, 3, 4, 8, 16, 32, 64, 128, 256, 512]);
        assert!(!endings.last_was_told, "nor that it is ready again");
        assert_eq!(told(&mut endings, "signal: 9 (SIGKILL)", 1), Some(1));
        assert_eq!(told(&mut endings, "exit status: 1", 1), None, "that is nothing new");
        assert_eq!(told(&mut endings, "exit status: 1", 600), Some(1), "it had run for long");
    }

    /// A handler that was ready for an instant before each death was started 179 times in six seconds.
    #[test]
    fn a_process_that_dies_soon_after_it_was_ready_is_started_again_ever_later() {
        let (mut soon, mut elapsed, mut starts) = (0, Duration::ZERO, 0);
        while elapsed < Duration::from_secs(6) {
            soon = died_soon(soon, true, Duration::from_millis(10));
            elapsed += Duration::from_millis(10) + pause(soon);
            starts += 1;
        }
        assert!(starts <= 6, "{starts}");
        assert_eq!(pause(died_soon(soon, true, STEADY_AFTER)), Duration::ZERO, "it had run for long");
        assert_eq!(died_soon(0, false, STEADY_AFTER), 1, "it was not ready");
        assert_eq!(pause(u32::MAX), PAUSE_MAX);
    }
}
