//! The rules by which handlers decide: those of the account, or the same with a bug.

use std::cell::RefCell;

use jiff::SignedDuration;
use millstream_contract::{commit::StoredCommit, stream_names::EVENTS};
use millstream_domain::decider::{
    AggregateRegistry, Decider, DecisionContext, EventSet, EventsWithPartners, Rejection,
};
use millstream_jetstream::testing::memory_broker::{EPOCH, MemoryBroker};
use tokio::time::Instant;

use super::bugs::Bug;
use crate::testing::account::{Account, AccountCommand, AccountEvent, AccountState};

thread_local! {
    /// Data that rules must not use, and that rules with a bug do use. It is global because rules are functions without state.
    static OUTSIDE: RefCell<Option<Outside>> = const { RefCell::new(None) };
}

/// The data of the run on this thread.
struct Outside {
    bug: Bug,
    broker: MemoryBroker,
    /// When the run began, because virtual time does not start at a fixed value.
    started: Instant,
}

/// The rules for a run that begins now.
pub(super) fn rules(bug: Option<Bug>, broker: &MemoryBroker) -> AggregateRegistry {
    let bug = bug.filter(|bug| matches!(bug, Bug::DecidedByWallClock | Bug::PastDecidedOnPresent));
    let outside = bug.map(|bug| Outside { bug, broker: broker.connect(), started: Instant::now() });
    let wrong = outside.is_some();
    // This is also done without a bug, because data of an earlier run would keep its broker alive.
    OUTSIDE.set(outside);
    if wrong {
        AggregateRegistry::new().with::<WrongAccount>()
    } else {
        AggregateRegistry::new().with::<Account>()
    }
}

impl Outside {
    /// The time on the handler's own clock.
    fn now(&self) -> jiff::Timestamp {
        let elapsed = SignedDuration::try_from(self.started.elapsed()).unwrap_or(SignedDuration::ZERO);
        EPOCH + elapsed
    }

    /// The state of an account in EVENTS, if it already has an effect of a command later than `position`.
    fn present(&self, account: &str, position: u64) -> Option<AccountState> {
        let subject = format!("evt.{}.{}.{account}", Account::CONTEXT, Account::AGGREGATE);
        let messages = self.broker.dump(EVENTS);
        let commits = messages.iter().filter(|message| message.subject == subject);
        let commits: Vec<_> = commits.filter_map(|message| StoredCommit::from_stored(message).ok()).collect();
        let overtaken = commits.iter().any(|stored| stored.commit.last_position() > position);
        let mut state = AccountState::default();
        for envelope in commits.iter().flat_map(StoredCommit::envelopes) {
            Account::evolve(&mut state, &AccountEvent::from_envelope(&envelope).ok()?);
        }
        overtaken.then_some(state)
    }
}

/// The rules with the bug of this thread.
#[derive(Debug, Clone, Copy)]
struct WrongAccount;

impl Decider for WrongAccount {
    type Command = AccountCommand;
    type Event = AccountEvent;
    type State = AccountState;

    const CONTEXT: &'static str = Account::CONTEXT;
    const AGGREGATE: &'static str = Account::AGGREGATE;

    fn internal_commands() -> &'static [&'static str] {
        Account::internal_commands()
    }

    fn check_id(id: &str) -> Result<(), Rejection> {
        Account::check_id(id)
    }

    fn decide(
        state: &AccountState,
        command: &AccountCommand,
        context: &DecisionContext<'_>,
    ) -> Result<Vec<AccountEvent>, Rejection> {
        OUTSIDE.with_borrow(|outside| match outside {
            Some(outside) if outside.bug == Bug::PastDecidedOnPresent => {
                let present = outside.present(context.aggregate_id, context.command_position);
                Account::decide(present.as_ref().unwrap_or(state), command, context)
            }
            Some(outside) => {
                Account::decide(state, command, &DecisionContext { now: outside.now(), ..*context })
            }
            None => Account::decide(state, command, context),
        })
    }

    fn partners(account: &str, command: &AccountCommand) -> Vec<String> {
        Account::partners(account, command)
    }

    fn decide_with_partners(
        state: &AccountState,
        partners: &[&AccountState],
        command: &AccountCommand,
        context: &DecisionContext<'_>,
    ) -> Result<EventsWithPartners<AccountEvent>, Rejection> {
        Account::decide_with_partners(state, partners, command, context)
    }

    fn evolve(state: &mut AccountState, event: &AccountEvent) {
        Account::evolve(state, event);
    }
}
