//! A closed loop: so many clients, each of which sends a command, waits for its answer, and sends the next.
//!
//! The loop runs on from its warm-up into what is measured and stops afterwards, so that neither a beginning nor an end is counted. The rate
//! counts answers that come while measuring. Waiting is counted of commands that are sent while measuring, however late their answers
//! come: otherwise a stall that lasts beyond the end would be left out.
//! Deliberately absent: what a client sends, and to whom.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::closed_loop_error::ClosedLoopError;

/// Of so many commands one is asked for in the view.
const ASKED_FOR_EVERY: usize = 50;
/// Of a short measurement, about so many at least.
const ASKED_FOR_MIN: usize = 20;
/// The warm-up is this part of the measurement.
const WARM_UP: u32 = 5;

/// How much is measured. A fifth as much goes before it and is not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// So many seconds.
    Seconds(u32),
    /// At least so many commands.
    Commands(u32),
}

impl Extent {
    fn warm_up(self) -> Span {
        match self {
            Self::Seconds(seconds) => Span::Time(Duration::from_secs(seconds.into()) / WARM_UP),
            Self::Commands(commands) => Span::Commands(commands.div_ceil(WARM_UP) as usize),
        }
    }

    fn measured(self) -> Span {
        match self {
            Self::Seconds(seconds) => Span::Time(Duration::from_secs(seconds.into())),
            Self::Commands(commands) => Span::Commands(commands as usize),
        }
    }

    /// One of how many commands is asked for in the view.
    fn asked_for_every(self) -> usize {
        match self {
            Self::Seconds(_) => ASKED_FOR_EVERY,
            Self::Commands(commands) => (commands as usize / ASKED_FOR_MIN).clamp(1, ASKED_FOR_EVERY),
        }
    }
}

/// A part of the loop.
#[derive(Debug, Clone, Copy)]
enum Span {
    Time(Duration),
    Commands(usize),
}

/// One client.
pub(crate) trait ClosedLoopClient: Send + 'static {
    /// Sends the command of this number and waits for its answer, which names the last event that it caused.
    fn send(&mut self, number: usize) -> impl Future<Output = Result<u64, ClosedLoopError>> + Send;

    /// Ends when a query shows what the command has changed, up to that event; none where nobody can be asked.
    fn queryable(&self, number: usize, event: u64)
    -> Option<BoxFuture<'static, Result<(), ClosedLoopError>>>;
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Found<O> {
    /// Commands that were sent, each of which was answered: also those that are not counted.
    pub(crate) sent: usize,
    /// How long was measured.
    pub(crate) elapsed: Duration,
    /// Commands that were answered meanwhile.
    pub(crate) commands: usize,
    /// From sending to the answer, of each command that was sent while measuring, in ascending order; never empty.
    pub(crate) answers: Vec<Duration>,
    /// From sending to the answer of a query that sees it, of some of them, in ascending order.
    pub(crate) queries: Vec<Duration>,
    /// What was observed when measuring began and when it ended.
    pub(crate) observed: [O; 2],
}

/// What all clients share.
#[derive(Debug, Default)]
struct Course {
    /// The number of the next command.
    next: AtomicUsize,
    answered: AtomicUsize,
    /// Those answered while measuring.
    measured: AtomicUsize,
    /// How many of either somebody waits for; without anybody, a number that is never reached.
    awaited: AtomicUsize,
    reached: Notify,
    measuring: AtomicBool,
    ended: AtomicBool,
    asked_for_every: usize,
}

/// Runs the loop with these clients; `observe` is called when measuring begins and when it ends.
///
/// # Errors
/// The first of any client, and where no command was sent and none answered while measuring.
pub(crate) async fn run<C: ClosedLoopClient, O>(
    clients: Vec<C>,
    extent: Extent,
    observe: impl Fn() -> O + Send,
) -> Result<Found<O>, ClosedLoopError> {
    let course = Arc::new(Course {
        awaited: AtomicUsize::new(usize::MAX),
        asked_for_every: extent.asked_for_every(),
        ..Course::default()
    });
    let mut loops = JoinSet::new();
    for client in clients {
        loops.spawn(send_one_after_the_other(client, Arc::clone(&course)));
    }
    let conduct = async {
        course.pass(extent.warm_up(), &course.answered).await;
        let (before, begun) = (observe(), Instant::now());
        course.measuring.store(true, Ordering::SeqCst);
        course.pass(extent.measured(), &course.measured).await;
        course.measuring.store(false, Ordering::SeqCst);
        let (elapsed, commands) = (begun.elapsed(), course.measured.load(Ordering::SeqCst));
        let after = observe();
        course.ended.store(true, Ordering::SeqCst);
        (elapsed, commands, [before, after])
    };
    tokio::pin!(conduct);
    let (mut answers, mut queries) = (Vec::new(), Vec::new());
    let (elapsed, commands, observed) = loop {
        tokio::select! {
            conducted = &mut conduct => break conducted,
            // Before the end a client ends by an error alone.
            Some(ended) = loops.join_next() => ended??,
        };
    };
    while let Some(ended) = loops.join_next().await {
        let ended = ended??;
        answers.extend(ended.answers);
        queries.extend(ended.queries);
    }
    if commands == 0 || answers.is_empty() {
        return Err(ClosedLoopError::NothingMeasured);
    }
    answers.sort_unstable();
    queries.sort_unstable();
    Ok(Found { sent: course.answered.load(Ordering::SeqCst), elapsed, commands, answers, queries, observed })
}

impl Course {
    /// Waits for the end of a span, whose commands `count` counts from zero.
    async fn pass(&self, span: Span, count: &AtomicUsize) {
        match span {
            Span::Time(time) => sleep(time).await,
            Span::Commands(commands) => {
                self.awaited.store(commands, Ordering::SeqCst);
                while count.load(Ordering::SeqCst) < commands {
                    self.reached.notified().await;
                }
            }
        }
    }

    fn note_answer(&self) {
        let mut count = self.answered.fetch_add(1, Ordering::SeqCst) + 1;
        if self.measuring.load(Ordering::SeqCst) {
            count = self.measured.fetch_add(1, Ordering::SeqCst) + 1;
        }
        if count >= self.awaited.load(Ordering::SeqCst) {
            self.reached.notify_one();
        }
    }
}

/// What one client found.
#[derive(Debug, Default)]
struct Timed {
    answers: Vec<Duration>,
    queries: Vec<Duration>,
}

async fn send_one_after_the_other<C: ClosedLoopClient>(
    mut client: C,
    course: Arc<Course>,
) -> Result<Timed, ClosedLoopError> {
    let mut timed = Timed::default();
    // A query goes beside the next command: whoever asks is somebody else.
    let mut queries: JoinSet<Result<Duration, ClosedLoopError>> = JoinSet::new();
    while !course.ended.load(Ordering::SeqCst) {
        let number = course.next.fetch_add(1, Ordering::SeqCst);
        let (sent, counts) = (Instant::now(), course.measuring.load(Ordering::SeqCst));
        let event = client.send(number).await?;
        let took = sent.elapsed();
        course.note_answer();
        if !counts {
            continue;
        }
        timed.answers.push(took);
        if number.is_multiple_of(course.asked_for_every)
            && let Some(query) = client.queryable(number, event)
        {
            queries.spawn(async move {
                query.await?;
                Ok(sent.elapsed())
            });
        }
        while let Some(Some(asked)) = queries.join_next().now_or_never() {
            timed.queries.push(asked??);
        }
    }
    while let Some(asked) = queries.join_next().await {
        timed.queries.push(asked??);
    }
    Ok(timed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers after so many milliseconds; a query takes another one.
    struct Echo(u64);

    impl ClosedLoopClient for Echo {
        async fn send(&mut self, number: usize) -> Result<u64, ClosedLoopError> {
            sleep(Duration::from_millis(self.0)).await;
            Ok(number as u64)
        }

        fn queryable(
            &self,
            number: usize,
            event: u64,
        ) -> Option<BoxFuture<'static, Result<(), ClosedLoopError>>> {
            assert_eq!(number as u64, event);
            Some(
                async {
                    sleep(Duration::from_millis(1)).await;
                    Ok(())
                }
                .boxed(),
            )
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_while_measuring_is_counted_and_all_that_was_sent_is_waited_for() {
        let clients = (0..4).map(|_| Echo(10)).collect();
        let found = run(clients, Extent::Seconds(5), Instant::now).await.unwrap();
        let [begun, ended] = found.observed;
        assert_eq!((found.elapsed, ended - begun), (Duration::from_secs(5), Duration::from_secs(5)));
        // 400 a second; whose answer comes at the moment of a change counts on one side of it.
        assert!((1990..=2010).contains(&found.commands), "{}", found.commands);
        assert!((1990..=2010).contains(&found.answers.len()), "{}", found.answers.len());
        assert!(found.sent >= 2400 && found.sent <= 2420, "{}", found.sent);
        assert!(found.answers.iter().all(|took| *took == Duration::from_millis(10)));
        assert!((35..=45).contains(&found.queries.len()), "{}", found.queries.len());
        assert!(found.queries.iter().all(|took| *took == Duration::from_millis(11)));
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_commands_are_counted() {
        let found = run(vec![Echo(10), Echo(10)], Extent::Commands(100), || ()).await.unwrap();
        assert!((100..=102).contains(&found.commands), "{}", found.commands);
        assert!((100..=102).contains(&found.answers.len()), "{}", found.answers.len());
        assert!(found.sent >= 120, "{}", found.sent);
        assert!(found.queries.len() >= ASKED_FOR_MIN, "{}", found.queries.len());
    }

    /// Answers within 10 milliseconds; what is sent later than `from` after the beginning takes as long as `lasts`.
    struct Stalling {
        begun: Instant,
        from: Duration,
        lasts: Duration,
    }

    impl ClosedLoopClient for Stalling {
        async fn send(&mut self, _: usize) -> Result<u64, ClosedLoopError> {
            let stalls = self.begun.elapsed() >= self.from;
            sleep(if stalls { self.lasts } else { Duration::from_millis(10) }).await;
            Ok(1)
        }

        fn queryable(&self, _: usize, _: u64) -> Option<BoxFuture<'static, Result<(), ClosedLoopError>>> {
            None
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stall_that_lasts_beyond_the_end_is_counted_as_waiting_and_not_in_the_rate() {
        let from = Duration::from_millis(5_500);
        let client = Stalling { begun: Instant::now(), from, lasts: Duration::from_secs(1) };
        let found = run(vec![client], Extent::Seconds(5), || ()).await.unwrap();
        assert_eq!(found.answers.last(), Some(&Duration::from_secs(1)));
        assert!((440..=460).contains(&found.commands), "{}", found.commands);
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_answer_while_measuring_there_are_no_figures() {
        let (from, lasts) = (Duration::from_millis(900), Duration::from_secs(10));
        let client = Stalling { begun: Instant::now(), from, lasts };
        let failed = run(vec![client], Extent::Seconds(5), || ()).await;
        assert!(matches!(failed, Err(ClosedLoopError::NothingMeasured)), "{failed:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_fails_ends_the_loop() {
        struct Failing;
        impl ClosedLoopClient for Failing {
            async fn send(&mut self, number: usize) -> Result<u64, ClosedLoopError> {
                if number < 3 { Ok(1) } else { Err(ClosedLoopError::NoAnswer) }
            }

            fn queryable(&self, _: usize, _: u64) -> Option<BoxFuture<'static, Result<(), ClosedLoopError>>> {
                None
            }
        }
        let failed = run(vec![Failing], Extent::Seconds(5), || ()).await;
        assert!(matches!(failed, Err(ClosedLoopError::NoAnswer)), "{failed:?}");
    }
}
