//! Each user against each operation on a server with the production configuration. The answers make docs/permissions.md:
//! with `MILLSTREAM_WRITE_DOCS` set the test writes the file, without it the file must be the same.

use std::{collections::BTreeSet, fmt::Write as _, fs};

use end_to_end_tests::binaries::repository;
use millstream_runtime::connection::stage_inbox;

use crate::{
    allow_lists::{Verb, allow_lists, covers},
    production_server::{ProductionServer, USERS, password},
    raw_client::RawClient,
};

const HANDLER_AND_GATEWAY: &[&str] = &["command-handler", "gateway"];
const HANDLER: &[&str] = &["command-handler"];
const PROJECTOR: &[&str] = &["projector"];
const READERS_OF_OUTCOMES: &[&str] = &["command-handler", "projector", "sql", "gateway"];
const SQL: &[&str] = &["sql"];
const HANDLER_AND_MANAGER: &[&str] = &["command-handler", "process-manager"];
const REPORTER: &[&str] = &["reporter"];
const QUERIED: &[&str] = &["projector", "reporter"];
const MANAGER: &[&str] = &["process-manager"];
const GATEWAY: &[&str] = &["gateway"];
const READERS_OF_EVENTS: &[&str] = STAGES;
const STAGES: &[&str] = &["command-handler", "projector", "reporter", "sql", "process-manager", "gateway"];
const SETUP: &[&str] = &["setup"];
const SENDERS: &[&str] = &["publisher", "operator"];
const STORE: &[&str] = &["store-2506"];
const OPERATOR: &[&str] = &["operator"];
const HANDLER_AND_OPERATOR: &[&str] = &["command-handler", "operator"];
const NOBODY: &[&str] = &[];
/// May do whatever the server's API for streams does, and have it answered in any inbox of a client.
const ADMINISTRATOR: &str = "administrator";

/// An operation: what it is for, the subject, who may.
struct Operation(&'static str, Verb, String, BTreeSet<&'static str>);

fn operation(
    what: &'static str,
    verb: Verb,
    subject: impl Into<String>,
    who: &[&[&'static str]],
) -> Operation {
    Operation(what, verb, subject.into(), who.iter().flat_map(|users| users.iter().copied()).collect())
}

const STREAMS: [&str; 8] =
    ["COMMANDS", "EVENTS", "OUTCOMES", "REPORTS", "TIMERS", "DEADLETTERS", "AUDIT", "KV_LEASES"];

fn operations() -> Vec<Operation> {
    [
        commands(),
        messages(),
        replies(),
        own_consumers(),
        foreign_consumers(),
        streams(),
        queries(),
        operators(),
    ]
    .into_iter()
    .flatten()
    .map(|mut operation| {
        let Operation(_, verb, subject, who) = &mut operation;
        let parts = match verb {
            Verb::Publish => &["$JS.API.", "$JS.SNAPSHOT.", "$JS.ACK.", "$JS.FC."][..],
            Verb::Subscribe => &["_INBOX."],
        };
        if parts.iter().any(|part| subject.starts_with(part)) {
            who.insert(ADMINISTRATOR);
        }
        operation
    })
    .collect()
}

fn commands() -> Vec<Operation> {
    use Verb::{Publish, Subscribe};
    vec![
        operation(
            "send a command",
            Publish,
            "cmd.retail.till.2506_2012-01-31.close",
            &[SENDERS, HANDLER, GATEWAY],
        ),
        operation(
            "give a command as a process does",
            Publish,
            "effect.retail.till.2506_2012-01-31.close",
            // The handler puts a process's command back that was set aside.
            &[MANAGER, HANDLER, OPERATOR],
        ),
        operation("submit a command", Publish, "submit.retail.till.2506_2012-01-31.close", &[SENDERS]),
        operation(
            "ask for what Millstream records itself",
            Publish,
            "cmd.millstream.set-aside.17.set-aside",
            &[OPERATOR, HANDLER],
        ),
        operation(
            "submit what Millstream records itself",
            Publish,
            "submit.millstream.set-aside.17.set-aside",
            &[OPERATOR],
        ),
        operation(
            "send a command under one's own name",
            Publish,
            "as.store-2506.submit.retail.till.2506_2012-01-31.close",
            &[STORE],
        ),
        operation(
            "send a command under another's name",
            Publish,
            "as.store-2507.submit.retail.till.2507_2012-01-31.close",
            &[],
        ),
        operation(
            "take commands of users",
            Subscribe,
            "as.store-2506.submit.retail.till.2506_2012-01-31.close",
            &[GATEWAY],
        ),
        operation("take submissions", Subscribe, "submit.retail.till.2506_2012-01-31.close", &[HANDLER]),
        operation("see outcomes of submissions", Subscribe, "reply.submit.01JD.1", &[HANDLER, OPERATOR]),
        operation("be found as the submit service", Subscribe, "$SRV.INFO.submit", &[HANDLER]),
        operation("be found as one of them", Subscribe, "$SRV.STATS.submit.x", &[HANDLER]),
        operation("send to no aggregate", Publish, "cmd.retail.till", &[]),
        operation("give a command to no aggregate", Publish, "effect.retail.till", &[]),
    ]
}

fn messages() -> Vec<Operation> {
    use Verb::{Publish, Subscribe};
    vec![
        operation("append events", Publish, "evt.retail.till.2506_2012-01-31", &[HANDLER]),
        operation("append to no aggregate", Publish, "evt.retail", &[]),
        operation("record outcomes", Publish, "out.0of1", &[HANDLER]),
        operation("record outcomes on another chain", Publish, "out.1of2", &[]),
        operation("set a command aside", Publish, "dlq.COMMANDS.17", &[HANDLER]),
        operation("have a dead letter retried", Publish, "deadletters.retry", &[GATEWAY]),
        operation("have a dead letter dropped", Publish, "deadletters.drop", &[GATEWAY]),
        operation("retry dead letters for the gateway", Subscribe, "deadletters.retry", &[HANDLER]),
        operation("drop dead letters for the gateway", Subscribe, "deadletters.drop", &[HANDLER]),
        operation("be found as the service for dead letters", Subscribe, "$SRV.INFO.deadletters", &[HANDLER]),
        operation("be found as one of these", Subscribe, "$SRV.STATS.deadletters.x", &[HANDLER]),
        operation("publish a report", Publish, "report.retail.store-daily.2506.2012-01-31", &[REPORTER]),
        operation(
            "ask whether a replica has whole rows",
            Publish,
            "query.retail.stock.whole",
            &[SENDERS, QUERIED],
        ),
        operation("ask a statement of SQL", Publish, "sql.ask", &[GATEWAY, OPERATOR]),
        operation("answer statements of SQL", Subscribe, "sql.ask", &[SQL]),
        operation("ask a statement of SQL under one's own name", Publish, "as.store-2506.sql.ask", &[STORE]),
        operation(
            "take configured queries of users",
            Subscribe,
            "as.store-2506.query.retail.top-sellers",
            &[GATEWAY],
        ),
        operation("take statements of users", Subscribe, "as.store-2506.sql.ask", &[GATEWAY]),
        operation("write to the audit log", Publish, "audit.01JD", &[GATEWAY]),
        operation("schedule a command", Publish, "timer.cmd.closing", &[MANAGER, OPERATOR]),
        operation("let a command fall due", Publish, "due.cmd.retail.till.2506_2012-01-31.close", &[]),
        operation("set what fell due aside", Publish, "dlq.TIMERS.17", &[MANAGER]),
        operation("set an effect aside", Publish, "dlq.EVENTS.17-fulfilment-3-0", &[MANAGER]),
        operation("take turns as process manager", Publish, "$KV.LEASES.process-manager", &[MANAGER]),
        operation("record a process's progress", Publish, "$KV.LEASES.process.fulfilment", &[MANAGER]),
        operation("hold the lease", Publish, "$KV.LEASES.command-handler-0of1", &[HANDLER]),
        operation("hold another lease", Publish, "$KV.LEASES.other", &[]),
        operation("see the lease freed", Subscribe, "$KV.LEASES.command-handler-0of1", &[HANDLER, OPERATOR]),
        operation("see the turn freed", Subscribe, "$KV.LEASES.process-manager", &[MANAGER, OPERATOR]),
        operation(
            "ask whether the active one is there",
            Publish,
            "lease.command-handler-0of1.01JD",
            &[HANDLER],
        ),
        operation("show that the active one is there", Subscribe, "lease.command-handler-0of1.*", &[HANDLER]),
        operation("ask whether the one at work is there", Publish, "lease.process-manager.01JD", &[MANAGER]),
        operation("show that the one at work is there", Subscribe, "lease.process-manager.*", &[MANAGER]),
        operation("watch commands go by", Subscribe, "cmd.>", &[]),
        operation("watch commands of processes go by", Subscribe, "effect.>", &[]),
        operation("watch events go by", Subscribe, "evt.>", &[OPERATOR]),
        operation("watch outcomes go by", Subscribe, "out.>", &[OPERATOR]),
        operation("watch reports go by", Subscribe, "report.>", &[OPERATOR]),
        operation("watch dead letters go by", Subscribe, "dlq.>", &[OPERATOR]),
        operation("watch timers go by", Subscribe, "timer.>", &[OPERATOR]),
        operation("watch the audit log grow", Subscribe, "audit.>", &[]),
        operation("watch timers fall due", Subscribe, "due.>", &[OPERATOR]),
        operation("watch everything", Subscribe, ">", &[]),
        operation("watch the server itself", Subscribe, "$SYS.>", &[]),
    ]
}

fn replies() -> Vec<Operation> {
    use Verb::{Publish, Subscribe};
    let mut all = vec![
        operation("answer a client", Publish, "_INBOX.publisher.x", &[STAGES]),
        operation("answer a client of another account", Publish, "_R_.aBc.x", &[STAGES]),
        operation("answer on a subject of the client's own", Publish, "reply.billing.1", &[HANDLER]),
        operation("read replies there", Subscribe, "reply.>", &[OPERATOR]),
        operation(
            "see outcomes of commands over HTTP",
            Subscribe,
            "reply.gateway.01JD.1",
            &[GATEWAY, OPERATOR],
        ),
        operation("read a publisher's replies", Subscribe, "_INBOX.publisher.>", &[SENDERS, SETUP]),
        operation("read a store's replies", Subscribe, "_INBOX.store-2506.>", &[STORE, OPERATOR, SETUP]),
        operation("read all clients' replies", Subscribe, "_INBOX.>", &[OPERATOR, SETUP]),
    ];
    for stage in STAGES {
        // Its replicas answer each other there; the gateway is answered as a client is.
        let (writing, reading): (&[&str], &[&str]) = match *stage {
            "gateway" => (STAGES, &["gateway", "operator", "setup"]),
            "projector" | "reporter" => (&[*stage], &[*stage]),
            _ => (NOBODY, &[*stage]),
        };
        let inbox = stage_inbox(stage);
        all.push(operation("write to a stage's inbox", Publish, format!("{inbox}.x"), &[writing]));
        all.push(operation("read a stage's replies", Subscribe, format!("{inbox}.>"), &[reading]));
    }
    all
}

/// Each reader by the name that is its own, and the stream it reads.
fn readers() -> Vec<(String, &'static str, &'static [&'static str])> {
    let mut all = vec![
        ("command-handler-0of1".to_owned(), "COMMANDS", HANDLER),
        ("process-manager".to_owned(), "TIMERS", MANAGER),
    ];
    for instance in ["", "-0", "-1", "-2"] {
        all.push((format!("command-handler{instance}-ids"), "OUTCOMES", HANDLER));
        all.push((format!("command-handler{instance}-states"), "EVENTS", HANDLER));
        for behind in ["", "-behind"] {
            all.push((format!("projector{instance}{behind}"), "EVENTS", PROJECTOR));
            all.push((format!("projector{instance}-outcomes{behind}"), "OUTCOMES", PROJECTOR));
            all.push((format!("sql{instance}{behind}"), "EVENTS", SQL));
            all.push((format!("sql{instance}-outcomes{behind}"), "OUTCOMES", SQL));
            all.push((format!("reporter{instance}{behind}"), "EVENTS", REPORTER));
            all.push((format!("process-manager{instance}{behind}"), "EVENTS", MANAGER));
        }
    }
    all
}

fn own_consumers() -> Vec<Operation> {
    let mut all = Vec::new();
    for (name, stream, owner) in readers() {
        for (what, verb) in
            [("make", "CREATE"), ("look at", "INFO"), ("delete", "DELETE"), ("read with", "MSG.NEXT")]
        {
            let what = match what {
                "make" => "make a stage's consumer",
                "look at" => "look at a stage's consumer",
                "delete" => "delete a stage's consumer",
                _ => "read with a stage's consumer",
            };
            let subject = format!("$JS.API.CONSUMER.{verb}.{stream}.{name}");
            all.push(operation(what, Verb::Publish, subject, &[owner, OPERATOR]));
        }
    }
    all
}

fn foreign_consumers() -> Vec<Operation> {
    let publish = |what, subject: &str, who: &[&[&'static str]]| operation(what, Verb::Publish, subject, who);
    vec![
        publish("make any consumer of COMMANDS", "$JS.API.CONSUMER.CREATE.COMMANDS.mine", &[OPERATOR]),
        publish("make any consumer of EVENTS", "$JS.API.CONSUMER.CREATE.EVENTS.mine", &[OPERATOR]),
        publish("make any consumer of OUTCOMES", "$JS.API.CONSUMER.CREATE.OUTCOMES.mine", &[OPERATOR]),
        publish(
            "make a filtered consumer",
            "$JS.API.CONSUMER.CREATE.EVENTS.projector.evt.retail.>",
            &[OPERATOR],
        ),
        publish(
            "make a stage's name on another stream",
            "$JS.API.CONSUMER.CREATE.COMMANDS.projector",
            &[OPERATOR],
        ),
        publish("make a consumer the old way", "$JS.API.CONSUMER.DURABLE.CREATE.EVENTS.projector", &[]),
        publish("read another's consumer", "$JS.API.CONSUMER.MSG.NEXT.EVENTS.mine", &[OPERATOR]),
        publish("delete another's consumer", "$JS.API.CONSUMER.DELETE.EVENTS.mine", &[OPERATOR]),
        publish("move a consumer's leader", "$JS.API.CONSUMER.LEADER.STEPDOWN.EVENTS.projector", &[]),
    ]
}

fn streams() -> Vec<Operation> {
    let mut all = Vec::new();
    for stream in STREAMS {
        let mut add = |what, path: &str, who: &[&[&'static str]]| {
            all.push(operation(what, Verb::Publish, format!("$JS.API.{path}.{stream}"), who));
        };
        let reading: &[&str] = match stream {
            "EVENTS" => STAGES,
            "COMMANDS" => HANDLER_AND_GATEWAY,
            "OUTCOMES" => READERS_OF_OUTCOMES,
            "REPORTS" => REPORTER,
            "TIMERS" => MANAGER,
            "AUDIT" | "DEADLETTERS" => GATEWAY,
            _ => NOBODY,
        };
        // The command handler and the pages of the gateway tell how full each stream is, whoever reads it.
        let full: &[&str] = if stream == "KV_LEASES" { NOBODY } else { HANDLER_AND_GATEWAY };
        add("look at a stream", "STREAM.INFO", &[reading, full, SETUP, OPERATOR]);
        add("make a stream", "STREAM.CREATE", &[SETUP]);
        // Its size, its number of copies, and a subject that the stream of an earlier release lacks.
        add("change a stream", "STREAM.UPDATE", &[SETUP]);
        add("back up a stream", "STREAM.SNAPSHOT", &[]);
        add("restore a stream", "STREAM.RESTORE", &[]);
        let purging: &[&str] = match stream {
            "COMMANDS" | "OUTCOMES" => HANDLER,
            "TIMERS" => MANAGER,
            "DEADLETTERS" => HANDLER_AND_OPERATOR,
            _ => NOBODY,
        };
        add("purge a stream", "STREAM.PURGE", &[purging]);
        add("delete a stream", "STREAM.DELETE", &[]);
        let removing = if stream == "REPORTS" { REPORTER } else { NOBODY };
        add("delete a message", "STREAM.MSG.DELETE", &[removing]);
        let getting: &[&str] = match stream {
            "COMMANDS" | "DEADLETTERS" => HANDLER_AND_GATEWAY,
            "EVENTS" => READERS_OF_EVENTS,
            "OUTCOMES" => READERS_OF_OUTCOMES,
            "KV_LEASES" => HANDLER_AND_MANAGER,
            "REPORTS" => REPORTER,
            "TIMERS" => MANAGER,
            "AUDIT" => GATEWAY,
            _ => NOBODY,
        };
        add("get a message from the leader", "STREAM.MSG.GET", &[getting, OPERATOR]);
        let directly = if stream == "EVENTS" { HANDLER_AND_GATEWAY } else { NOBODY };
        add("get messages from any replica", "DIRECT.GET", &[directly, OPERATOR]);
    }
    all.push(operation("make a stream of another name", Verb::Publish, "$JS.API.STREAM.CREATE.OTHER", &[]));
    all
}

fn queries() -> Vec<Operation> {
    use Verb::{Publish, Subscribe};
    let mut all = vec![
        operation("ask a query", Publish, "query.retail.product.get", &[SENDERS, GATEWAY]),
        operation("ask for a list", Publish, "query.retail.product.list", &[SENDERS, GATEWAY]),
        operation("answer queries", Subscribe, "query.retail.product.get", &[QUERIED]),
        operation("ask a configured query", Publish, "query.retail.top-sellers", &[SENDERS, GATEWAY]),
        operation("answer configured queries", Subscribe, "query.retail.top-sellers", &[QUERIED, SQL]),
        operation("tell which rows have changed", Publish, "changed.retail.product", &[QUERIED]),
        operation("hear which rows have changed", Subscribe, "changed.retail.product", &[GATEWAY]),
        operation("say that rows are watched", Publish, "watched.retail.product", &[GATEWAY]),
        operation("hear that rows are watched", Subscribe, "watched.retail.product", &[QUERIED]),
        operation(
            "ask a query under one's own name",
            Publish,
            "as.store-2506.query.retail.till.get",
            &[STORE],
        ),
        operation("ask a query under another's name", Publish, "as.store-2507.query.retail.till.get", &[]),
        operation("answer queries of users", Subscribe, "as.store-2506.query.retail.till.get", &[GATEWAY]),
        operation("be found as the service of users", Subscribe, "$SRV.INFO.users", &[GATEWAY]),
        operation("be found as one of these", Subscribe, "$SRV.STATS.users.x", &[GATEWAY]),
        operation("be found by `nats micro`", Subscribe, "$SRV.PING", &[STAGES]),
        operation("be found as a process of Millstream", Subscribe, "$SRV.INFO.millstream", &[STAGES]),
        operation("be found as one process", Subscribe, "$SRV.STATS.millstream.x", &[STAGES]),
        operation("find services", Publish, "$SRV.STATS.millstream", &[OPERATOR]),
    ];
    for stage in QUERIED.iter().chain(SQL) {
        for subject in [format!("$SRV.INFO.{stage}"), format!("$SRV.STATS.{stage}.x")] {
            all.push(operation("be found by name", Subscribe, subject, &[&[*stage]]));
        }
    }
    for stage in STAGES {
        for instance in ["", "-0", "-1", "-2"] {
            let subject = format!("stage.{stage}{instance}.status");
            all.push(operation("say how it is", Subscribe, subject.clone(), &[&[*stage]]));
            all.push(operation("ask how it is", Publish, subject, &[OPERATOR]));
        }
    }
    all
}

fn operators() -> Vec<Operation> {
    [
        ("see the account's limits", "$JS.API.INFO"),
        ("list streams by name", "$JS.API.STREAM.NAMES"),
        ("list streams", "$JS.API.STREAM.LIST"),
        ("list consumers by name", "$JS.API.CONSUMER.NAMES.EVENTS"),
        ("list consumers", "$JS.API.CONSUMER.LIST.EVENTS"),
        ("acknowledge", "$JS.ACK.EVENTS.mine.1.1.1.1.0"),
        ("answer flow control", "$JS.FC.EVENTS.mine.x"),
    ]
    .map(|(what, subject)| operation(what, Verb::Publish, subject, &[OPERATOR]))
    .into_iter()
    .chain([
        operation("take the parts of a backup", Verb::Publish, "$JS.SNAPSHOT.ACK.EVENTS.x", &[]),
        operation("give the parts of a backup", Verb::Publish, "$JS.SNAPSHOT.RESTORE.EVENTS.x", &[]),
    ])
    .chain([operation("hear JetStream's advisories", Verb::Subscribe, "$JS.EVENT.ADVISORY.>", &[OPERATOR])])
    .collect()
}

async fn may(client: &mut RawClient, operation: &Operation) -> bool {
    let Operation(_, verb, subject, _) = operation;
    let answer = match verb {
        Verb::Publish => client.ask(&format!("PUB {subject} 0\r\n\r\n")).await,
        Verb::Subscribe => client.ask(&format!("SUB {subject} 1\r\nUNSUB 1\r\n")).await,
    };
    assert!(answer.is_empty() || answer.contains("Permissions Violation"), "{subject}: {answer}");
    answer.is_empty()
}

#[tokio::test]
async fn every_user_may_do_what_it_needs_and_nothing_else() {
    let server = ProductionServer::start().await;
    let operations = operations();
    let mut found: Vec<BTreeSet<&str>> = operations.iter().map(|_| BTreeSet::new()).collect();
    for user in USERS {
        let mut client = RawClient::connect(server.port, user, &password(user)).await.unwrap();
        for (operation, found) in operations.iter().zip(&mut found) {
            if may(&mut client, operation).await {
                found.insert(user);
            }
        }
    }
    let wrong: Vec<String> = operations
        .iter()
        .zip(&found)
        .filter(|(Operation(.., expected), found)| expected != *found)
        .map(|(Operation(what, _, subject, expected), found)| {
            format!("{what} ({subject}): {expected:?} should be allowed, {found:?} are")
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    check_document(&document(&operations, &found));
}

#[tokio::test]
async fn nobody_gets_in_without_a_password() {
    let server = ProductionServer::start().await;
    for (user, password) in
        [("", ""), ("operator", ""), ("operator", "wrong"), ("nobody", "operator-secret-of-the-tests")]
    {
        let refused = RawClient::connect(server.port, user, password).await.err().unwrap();
        assert!(refused.contains("Authorization Violation"), "{user}: {refused}");
    }
}

/// An entry that no operation of the matrix uses would be one that nobody has thought about.
#[test]
fn every_entry_of_the_allow_lists_is_in_the_matrix() {
    let operations = operations();
    let mut unused = Vec::new();
    for (user, lists) in allow_lists() {
        for (verb, entry) in lists.entries() {
            let used = operations.iter().any(|Operation(_, of, subject, who)| {
                *of == verb && who.contains(user.as_str()) && covers(&entry, subject)
            });
            if !used {
                unused.push(format!("{user}: {entry}"));
            }
        }
    }
    assert!(unused.is_empty(), "{unused:#?}");
}

/// What the server proves of a sender, and what the sender merely says.
const PROVED: &str = "\
Applications are in an account of their own, everybody else is in the account of the streams ([ADR 36](adr/0036-applications-have-an-account-of-their-own.md)).

| What | Proved or claimed |
|---|---|
| which user publishes on a subject, and from which account | proved by the server: password, nkey or JWT, and the lists below |
| that a commit or an outcome is the handler's, a report the reporter's, a lease its holder's | proved against applications: they can neither publish there nor have anybody publish there by a reply subject. Claimed of everybody in the account of the streams, each stage and the operator: what the server answers to them goes to any subject that they name. What stages answer, questions on `$SRV.>` included, goes to inboxes alone |
| that the answer of `submit`, or the outcome that the gateway tells, is the handler's | proved: it comes back on a subject that nobody can guess |
| that the answer of a query is the projector's or the reporter's | proved: only they listen on `query.>`, and the server hands the answer over |
| that nobody else reads an answer | proved where each application has a user and an inbox of its own |
| who asks (`Millstream-Actor`), what it belongs to, what caused it | claimed: whoever may send on `cmd.…` or `submit.…` may write any name there |
| who asks, of a command or query on `as.<user>.…` | proved to the gateway by the subject: the server lets a user publish under its own name alone; claimed by the gateway, as by every sender ([users](guides/users.md)) |
| who asks, of a command that came over HTTP | proved to the gateway by the key or token, whose name it writes there; claimed by the gateway, as by every sender |
| for which store an HTTP client may send | proved: keys, and claims of tokens that their issuer has signed, grant commands by patterns of ids ([commands over HTTP](guides/http.md)) |
| who sent what over a gateway, and who was refused (AUDIT) | claimed by the gateway; that nothing of it was changed since, proved by hashes ([the audit log](guides/audit.md)) |
| that a command comes from a process or a timer | proved against applications by its subject, `effect.…`: only the process manager, the operator, and the command handler, which puts dead letters back, may publish there. The process manager and the operator may also publish on `timer.cmd.*`, and what they schedule there becomes such a command |
| that a command id is the sender's own | proved of the ids of processes and timers: on `cmd.…` and `submit.…` nobody can use one. The ids that `submit` and `deadletters retry` make up cannot be foreseen, and neither can those of the gateway, over HTTP and on `as.<user>.…`, where it has a secret for them (`gateway.id_secret_file`). Claimed of all others: an id that is used first makes a later command of that id a duplicate, which says so where it was another command (`other_content`) |
| for which store a user of NATS may send and read | proved on `as.<user>.…`: the gateway grants by patterns of ids ([users](guides/users.md)). On `cmd.…`, `submit.…` and `query.…` it cannot be told: the store is a part of a subject's token, and lists hold whole tokens |

Under `millstream up` there are two users only: the stages, and whoever connects without credentials, who may not publish what stages alone write
([ADR 37](adr/0037-the-server-of-up-refuses-what-stages-alone-write.md)).

";

fn document(operations: &[Operation], found: &[BTreeSet<&str>]) -> String {
    let mut text = String::from("# Who may do what\n\n");
    text.push_str(PROVED);
    text.push_str(
        "\
         A test makes this table: it tries each line as each user, on a server with `config/nats-server.conf`. Whoever may publish to a \
         subject of\nthe server's API may do what that API does. The subject in a line is an example of its kind.\n\n",
    );
    writeln!(text, "| operation | subject | {} |", USERS.join(" | ")).unwrap();
    writeln!(text, "|---|---|{}", ":-:|".repeat(USERS.len())).unwrap();
    for (Operation(what, verb, subject, _), found) in operations.iter().zip(found) {
        let verb = match verb {
            Verb::Publish => "pub",
            Verb::Subscribe => "sub",
        };
        let marks = USERS.map(|user| if found.contains(user) { "yes" } else { "" }).join(" | ");
        writeln!(text, "| {what} | {verb} `{subject}` | {marks} |").unwrap();
    }
    text
}

fn check_document(text: &str) {
    let path = repository().join("docs/permissions.md");
    if std::env::var_os("MILLSTREAM_WRITE_DOCS").is_some() {
        fs::write(&path, text).unwrap();
    }
    let present = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        present == text,
        "docs/permissions.md is out of date; run this test with MILLSTREAM_WRITE_DOCS=1"
    );
}
