//! A closed loop: so many clients, each of which sends a command, waits for its answer, and sends the next.
//!
//! The loop runs on from its warm-up into what is measured and stops afterwards, so that neither a beginning nor an end is counted.
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
/// Of a few commands at least about so many are asked for.
const ASKED_FOR_MIN: usize = 20;
/// What is not counted is this part of what is.
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
    /// From sending to the answer, of each command that is counted, in ascending order.
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
    /// How many answers somebody waits for; without anybody, a number that is never reached.
    awaited: AtomicUsize,
    reached: Notify,
    measuring: AtomicBool,
    ended: AtomicBool,
    asked_for_every: usize,
}

/// Runs the loop with these clients; `observe` is called when measuring begins and when it ends.
///
/// # Errors
/// The first of any client.
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
        course.pass(extent.warm_up()).await;
        let (before, begun) = (observe(), Instant::now());
        course.measuring.store(true, Ordering::SeqCst);
        course.pass(extent.measured()).await;
        course.measuring.store(false, Ordering::SeqCst);
        let (elapsed, after) = (begun.elapsed(), observe());
        course.ended.store(true, Ordering::SeqCst);
        (elapsed, [before, after])
    };
    tokio::pin!(conduct);
    let (mut answers, mut queries) = (Vec::new(), Vec::new());
    let (elapsed, observed) = loop {
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
    answers.sort_unstable();
    queries.sort_unstable();
    Ok(Found { sent: course.answered.load(Ordering::SeqCst), elapsed, answers, queries, observed })
}

impl Course {
    async fn pass(&self, span: Span) {
        match span {
            Span::Time(time) => sleep(time).await,
            Span::Commands(commands) => {
                let awaited = self.answered.load(Ordering::SeqCst) + commands;
                self.awaited.store(awaited, Ordering::SeqCst);
                while self.answered.load(Ordering::SeqCst) < awaited {
                    self.reached.notified().await;
                }
            }
        }
    }

    fn note_answer(&self) {
        let answered = self.answered.fetch_add(1, Ordering::SeqCst) + 1;
        if answered >= self.awaited.load(Ordering::SeqCst) {
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
        let sent = Instant::now();
        let event = client.send(number).await?;
        let took = sent.elapsed();
        let counts = course.measuring.load(Ordering::SeqCst);
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
    async fn what_is_answered_while_measuring_is_counted_and_all_that_was_sent_is_waited_for() {
        let clients = (0..4).map(|_| Echo(10)).collect();
        let found = run(clients, Extent::Seconds(5), Instant::now).await.unwrap();
        let [begun, ended] = found.observed;
        assert_eq!((found.elapsed, ended - begun), (Duration::from_secs(5), Duration::from_secs(5)));
        // 400 a second; whose answer comes at the moment of a change counts on one side of it.
        assert!((1990..=2010).contains(&found.answers.len()), "{}", found.answers.len());
        assert!(found.sent >= 2400 && found.sent <= 2420, "{}", found.sent);
        assert!(found.answers.iter().all(|took| *took == Duration::from_millis(10)));
        assert!((35..=45).contains(&found.queries.len()), "{}", found.queries.len());
        assert!(found.queries.iter().all(|took| *took == Duration::from_millis(11)));
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_commands_are_counted() {
        let found = run(vec![Echo(10), Echo(10)], Extent::Commands(100), || ()).await.unwrap();
        assert!((100..=102).contains(&found.answers.len()), "{}", found.answers.len());
        assert!(found.sent >= 120, "{}", found.sent);
        assert!(found.queries.len() >= ASKED_FOR_MIN, "{}", found.queries.len());
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
