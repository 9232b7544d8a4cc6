//! The domain of the simulation: an account. It is small, but has every kind of decision: always accepted (deposit), accepted or rejected
//! depending on all earlier commands (withdraw), accepted with nothing to change (rename), several events at once (transfer out with a fee),
//! several accounts at once (give), dependent on the time of the command (visit), a process's alone (credit), and a panic of the rules.

use millstream_domain::decider::{Decider, DecisionContext, EventsWithPartners, Rejection};
use serde::{Deserialize, Serialize};

/// Puts money in.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deposit {
    /// How much.
    pub amount: u64,
}

/// Takes money out, if there is enough.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Withdraw {
    /// How much.
    pub amount: u64,
}

/// Takes money out, and one unit more as a fee.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transfer {
    /// How much.
    pub amount: u64,
}

/// Gives money to other accounts, the same amount to each. All of them get it, or none; giving to none changes nothing.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Give {
    /// How much each gets.
    pub amount: u64,
    /// Which accounts.
    pub to: Vec<String>,
    /// The command is refused if one of them has more than this, so their balances are read, too.
    #[serde(default)]
    pub unless_above: Option<u64>,
}

/// Gives the account a name; the same name again changes nothing.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rename {
    /// The name.
    pub name: String,
}

/// Records the second at which it was requested, but not twice within ten seconds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Visit {}

/// Puts money in. Only a process may do this.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credit {
    /// How much.
    pub amount: u64,
}

/// Makes the rules panic.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explode {}

millstream_domain::commands! {
    /// What can be asked of an account.
    pub enum AccountCommand {
        Deposit(Deposit) = "deposit",
        Withdraw(Withdraw) = "withdraw",
        Transfer(Transfer) = "transfer",
        Give(Give) = "give",
        Rename(Rename) = "rename",
        Visit(Visit) = "visit",
        Credit(Credit) = "credit",
        Explode(Explode) = "explode",
    }
}

/// Money was put in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Deposited {
    /// How much.
    pub amount: u64,
}

/// Money was taken out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Withdrawn {
    /// How much.
    pub amount: u64,
    /// The remaining balance, which shows whether the decision knew all earlier commands.
    pub left: u64,
}

/// Money came from another account.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Received {
    /// How much.
    pub amount: u64,
    /// The new balance, which shows whether the decision knew all earlier commands.
    pub then: u64,
}

/// The account has a name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Renamed {
    /// The name.
    pub name: String,
}

/// Somebody was there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Visited {
    /// When, in seconds since 1970.
    pub second: i64,
}

millstream_domain::events! {
    /// What can happen to an account.
    pub enum AccountEvent of "account" {
        /// Money was put in.
        Deposited(Deposited) = "deposited" v 1,
        /// Money was taken out.
        Withdrawn(Withdrawn) = "withdrawn" v 1,
        /// Money came from another account.
        Received(Received) = "received" v 1,
        /// The account was given another name.
        Renamed(Renamed) = "renamed" v 1,
        /// A visit was recorded.
        Visited(Visited) = "visited" v 1,
    }
}

/// What the rules need to know.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AccountState {
    balance: u64,
    name: String,
    visited: Option<i64>,
}

/// The rules.
#[derive(Debug, Clone, Copy)]
pub struct Account;

impl Account {
    fn withdraw(state: &AccountState, amounts: &[u64]) -> Result<Vec<AccountEvent>, Rejection> {
        let total: u64 = amounts.iter().sum();
        if total > state.balance {
            let message = format!("there are {}, {total} are asked for", state.balance);
            return Err(Rejection::new("not-enough", message));
        }
        let mut left = state.balance;
        let withdrawn = amounts.iter().map(|&amount| {
            left -= amount;
            AccountEvent::Withdrawn(Withdrawn { amount, left })
        });
        Ok(withdrawn.collect())
    }
}

impl Account {
    fn give(
        state: &AccountState,
        partners: &[&AccountState],
        give: &Give,
    ) -> Result<EventsWithPartners<AccountEvent>, Rejection> {
        let richest = partners.iter().map(|partner| partner.balance).max();
        if give.unless_above.is_some_and(|limit| richest > Some(limit)) {
            return Err(Rejection::new("rich-enough", "one of them has more than that already"));
        }
        if give.amount == 0 {
            return Ok(EventsWithPartners::default());
        }
        let receive = |partner: &&AccountState| {
            let then = partner.balance + give.amount;
            vec![AccountEvent::Received(Received { amount: give.amount, then })]
        };
        Ok(EventsWithPartners {
            own: Self::withdraw(state, &vec![give.amount; partners.len()])?,
            partners: partners.iter().map(receive).collect(),
        })
    }
}

impl Decider for Account {
    type Command = AccountCommand;
    type Event = AccountEvent;
    type State = AccountState;

    const CONTEXT: &'static str = "bank";
    const AGGREGATE: &'static str = "account";

    fn internal_commands() -> &'static [&'static str] {
        &["credit"]
    }

    fn check_id(id: &str) -> Result<(), Rejection> {
        if id.starts_with("bad") {
            return Err(Rejection::new("id-malformed", "no account is called bad"));
        }
        Ok(())
    }

    fn decide(
        state: &AccountState,
        command: &AccountCommand,
        context: &DecisionContext<'_>,
    ) -> Result<Vec<AccountEvent>, Rejection> {
        match command {
            AccountCommand::Deposit(Deposit { amount }) | AccountCommand::Credit(Credit { amount }) => {
                Ok(vec![AccountEvent::Deposited(Deposited { amount: *amount })])
            }
            AccountCommand::Withdraw(Withdraw { amount }) => Self::withdraw(state, &[*amount]),
            AccountCommand::Transfer(Transfer { amount }) => Self::withdraw(state, &[*amount, 1]),
            AccountCommand::Give(_) => Ok(Vec::new()),
            AccountCommand::Rename(Rename { name }) if *name == state.name => Ok(Vec::new()),
            AccountCommand::Rename(Rename { name }) => {
                Ok(vec![AccountEvent::Renamed(Renamed { name: name.clone() })])
            }
            AccountCommand::Visit(Visit {}) => {
                let second = context.now.as_second();
                if state.visited.is_some_and(|before| second < before + 10) {
                    return Err(Rejection::new("too-soon", "the last visit is less than ten seconds ago"));
                }
                Ok(vec![AccountEvent::Visited(Visited { second })])
            }
            AccountCommand::Explode(Explode {}) => {
                // This uses `resume_unwind` instead of `panic!`, because the panic hook would print thousands of expected panics.
                std::panic::resume_unwind(Box::new("these rules do nothing else"));
            }
        }
    }

    fn partners(_account: &str, command: &AccountCommand) -> Vec<String> {
        match command {
            AccountCommand::Give(Give { to, .. }) => to.clone(),
            _ => Vec::new(),
        }
    }

    fn decide_with_partners(
        state: &AccountState,
        partners: &[&AccountState],
        command: &AccountCommand,
        context: &DecisionContext<'_>,
    ) -> Result<EventsWithPartners<AccountEvent>, Rejection> {
        match command {
            AccountCommand::Give(give) => Self::give(state, partners, give),
            alone => {
                Ok(EventsWithPartners { own: Self::decide(state, alone, context)?, partners: Vec::new() })
            }
        }
    }

    fn evolve(state: &mut AccountState, event: &AccountEvent) {
        match event {
            AccountEvent::Deposited(Deposited { amount }) => state.balance += amount,
            AccountEvent::Withdrawn(Withdrawn { left, .. }) => state.balance = *left,
            AccountEvent::Received(Received { then, .. }) => state.balance = *then,
            AccountEvent::Renamed(Renamed { name }) => state.name.clone_from(name),
            AccountEvent::Visited(Visited { second }) => state.visited = Some(*second),
        }
    }
}
