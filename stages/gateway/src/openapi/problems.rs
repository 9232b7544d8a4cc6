//! Every refusal of the gateway: its status, its code, where it can come, and what to do.
//!
//! Deliberately absent: the codes of rejections and dead letters, which an application has of its own.

mod door;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

pub(crate) use self::door::Door;
use super::{Described, parts};

/// When the gateway is one in which a problem can come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gateway {
    Any,
    WithKeys,
    WithoutKeys,
    WithPreconditions,
}

/// A problem that the gateway tells by itself.
#[derive(Debug)]
pub(crate) struct KnownProblem {
    pub(crate) status: u16,
    pub(crate) code: &'static str,
    /// What a client does about it.
    pub(crate) remedy: &'static str,
    /// None for what no address of the document is answered with.
    doors: &'static [Door],
    gateway: Gateway,
}

const EVERYWHERE: &[Door] = &Door::ALL;
const COMMAND: &[Door] = &[Door::Command];
const STATUS: &[Door] = &[Door::Status];
const ROWS: &[Door] = &[Door::Row, Door::Report];
const VIEWS: &[Door] = &[Door::Row, Door::List, Door::Report, Door::Reports];
const QUERY: &[Door] = &[Door::Query];
const STATEMENT: &[Door] = &[Door::Statement];
/// What runs in the database.
const SQL: &[Door] = &[Door::Query, Door::Statement];
const QUERIES: &[Door] = &[Door::Query, Door::Queries, Door::Statement];
/// What has a body.
const BODIES: &[Door] = &[Door::Command, Door::Lines, Door::Statement];
const BODY: &[Door] = &[Door::Command, Door::Statement];
const HISTORY: &[Door] = &[Door::History];
const LETTERS: &[Door] = &[Door::Letters, Door::Letter, Door::LetterMove];
const LETTER: &[Door] = &[Door::Letter, Door::LetterMove];
const LETTER_MOVE: &[Door] = &[Door::LetterMove];
/// What puts a command onto COMMANDS.
const STORING: &[Door] = &[Door::Command, Door::LetterMove];
/// What is done only where the audit log can say so.
const AUDITED: &[Door] = &[Door::Command, Door::Lines, Door::LetterMove, Door::Statement];
/// Where rows are granted.
const GRANTED: &[Door] = &[Door::Row, Door::List, Door::Report, Door::Reports, Door::Query, Door::Live];
/// Where a position is read.
const WITH_POSITION: &[Door] = &[
    Door::Row,
    Door::List,
    Door::Report,
    Door::Reports,
    Door::History,
    Door::Query,
    Door::Statement,
    Door::Live,
];
/// Where a position can be waited for.
const POSITIONS: &[Door] = WITH_POSITION;
/// Where a document may be CSV.
const DOCUMENTS: &[Door] = &[Door::Report, Door::Reports, Door::Query, Door::Statement];
/// Where a part of the address is the client's.
const ADDRESSES: &[Door] = &[
    Door::Command,
    Door::Status,
    Door::Row,
    Door::List,
    Door::Report,
    Door::History,
    Door::Query,
    Door::Letter,
    Door::LetterMove,
];
const WITH_HEADERS: &[Door] = &[
    Door::Command,
    Door::Lines,
    Door::Row,
    Door::List,
    Door::Report,
    Door::Reports,
    Door::History,
    Door::Query,
    Door::Statement,
    Door::Live,
];
const ELSEWHERE: &[Door] = &[];

const fn known(
    status: u16,
    code: &'static str,
    doors: &'static [Door],
    remedy: &'static str,
) -> KnownProblem {
    KnownProblem { status, code, remedy, doors, gateway: Gateway::Any }
}

impl KnownProblem {
    /// The same, of some gateways alone.
    const fn only(self, gateway: Gateway) -> Self {
        Self { gateway, ..self }
    }
}

/// All of them.
pub(crate) const PROBLEMS: &[KnownProblem] = &[
    known(400, "address-malformed", ADDRESSES, "Correct the address; the sentence names the part."),
    known(400, "query-malformed", EVERYWHERE, "Correct the query; the sentence names the parameter."),
    known(400, "position-malformed", WITH_POSITION, "Send a position as an answer had it."),
    known(
        400,
        "parameter-missing",
        SQL,
        "Give the parameter that the sentence, and the member parameter, name.",
    ),
    known(400, "parameter-unknown", SQL, "Leave the parameter out: the query has no such one."),
    known(400, "parameter-malformed", SQL, "Give the parameter as its type asks for it."),
    known(400, "parameter-twice", QUERY, "Give the parameter once."),
    known(400, "header-unknown", EVERYWHERE, "Correct or leave out the header that the sentence names."),
    known(400, "header-twice", WITH_HEADERS, "Send the header once."),
    known(400, "header-control-character", WITH_HEADERS, "Correct the header that the sentence names."),
    known(400, "header-malformed", EVERYWHERE, "Correct the header that the sentence names."),
    known(400, "precondition-malformed", COMMAND, "Send If-Match: \"v7\" or If-None-Match: *, one of them."),
    known(400, "actor-not-taken", EVERYWHERE, "Leave Millstream-Actor out: the key says who sends."),
    known(400, "body-incomplete", BODIES, "Send the whole body."),
    known(400, "line-malformed", ELSEWHERE, "Of a line: correct it; the sentence says what is wrong."),
    known(401, "key-missing", EVERYWHERE, "Send a key as Authorization: Bearer <key>.")
        .only(Gateway::WithKeys),
    known(
        401,
        "key-unknown",
        EVERYWHERE,
        "Send a key that the gateway knows; this one may have been revoked.",
    )
    .only(Gateway::WithKeys),
    known(401, "key-expired", EVERYWHERE, "Ask for a new key.").only(Gateway::WithKeys),
    known(401, "token-malformed", EVERYWHERE, "Send the token as its issuer gave it out.")
        .only(Gateway::WithKeys),
    known(401, "token-expired", EVERYWHERE, "Ask the issuer for a new token.").only(Gateway::WithKeys),
    known(401, "token-early", EVERYWHERE, "Wait until the token is valid, or set the clocks.")
        .only(Gateway::WithKeys),
    known(
        401,
        "token-refused",
        EVERYWHERE,
        "The sentence says why: send a token that the gateway's issuers made for it.",
    )
    .only(Gateway::WithKeys),
    known(401, "authorization-malformed", EVERYWHERE, "Send the header Authorization once, as Bearer <key>."),
    known(403, "command-not-granted", COMMAND, "Use a key that grants the command.").only(Gateway::WithKeys),
    known(
        403,
        "query-not-granted",
        GRANTED,
        "Use a key that grants the row, a list of that prefix, or the query.",
    )
    .only(Gateway::WithKeys),
    known(
        403,
        "parameter-not-granted",
        QUERY,
        "Leave the parameter out, or give a value that the key grants.",
    )
    .only(Gateway::WithKeys),
    known(
        403,
        "statements-not-granted",
        STATEMENT,
        "Ask a configured query, or use a key that grants statements (ad_hoc_sql).",
    )
    .only(Gateway::WithKeys),
    known(
        403,
        "statements-off",
        STATEMENT,
        "Ask a configured query: the stage sql answers no others (sql.ad_hoc).",
    ),
    known(403, "history-not-granted", HISTORY, "Use a key that grants the history of that aggregate.")
        .only(Gateway::WithKeys),
    known(403, "letter-not-granted", LETTERS, "Use a key that grants this action on such letters.")
        .only(Gateway::WithKeys),
    known(403, "browser-refused", EVERYWHERE, "Call the gateway localhost, from a program; or give it keys.")
        .only(Gateway::WithoutKeys),
    known(404, "address-unknown", ADDRESSES, "Correct the address: there is nothing at this one."),
    known(
        404,
        "aggregate-unknown",
        HISTORY,
        "Correct the address; the sentence says which aggregates there are.",
    ),
    known(
        404,
        "command-unknown",
        ELSEWHERE,
        "Correct the address; the sentence says which commands there are.",
    ),
    known(404, "view-unknown", &[Door::Live], "Correct the address: there is no such view."),
    known(404, "report-unknown", ELSEWHERE, "Correct the address: there is no such report."),
    known(
        404,
        "query-unknown",
        QUERY,
        "Correct the address: there is no such query. GET /v1/queries lists them.",
    ),
    known(404, "history-unknown", HISTORY, "The aggregate has no events, or no commit at that place."),
    known(404, "letter-unknown", LETTER, "There is no such dead letter any more: it was retried or dropped."),
    known(404, "row-unknown", ROWS, "There is no row of that key."),
    known(
        404,
        "command-id-unknown",
        STATUS,
        "Ask at the address in Location, with the key that sent the command.",
    ),
    known(405, "method-not-allowed", ELSEWHERE, "Use the method in Allow."),
    known(406, "not-acceptable", DOCUMENTS, "Take application/json or text/csv."),
    known(408, "body-too-slow", BODIES, "Send the body faster; nothing is stored."),
    known(
        409,
        "position-of-another-generation",
        POSITIONS,
        "Discard the position; the stream was made again.",
    ),
    known(409, "position-unknown", POSITIONS, "Discard the position; the stream has purged the command."),
    known(410, "outcome-forgotten", STATUS, "Read the rows that the command may have changed."),
    known(
        413,
        "body-too-large",
        BODIES,
        "Make the command or the statement smaller; of several commands, send fewer at once.",
    ),
    known(413, "too-many-commands", &[Door::Lines], "Send fewer commands at once."),
    known(
        415,
        "media-type-unknown",
        BODIES,
        "Send JSON as application/json, several commands as application/jsonl.",
    ),
    known(415, "content-encoding-unknown", BODIES, "Send the body without Content-Encoding."),
    known(
        422,
        "history-too-long",
        HISTORY,
        "Ask for an earlier moment; millstream history --as-of folds more events.",
    ),
    known(
        422,
        "letter-not-retriable",
        LETTER_MOVE,
        "The sentence says why: have its sender send the command again, then drop the letter.",
    ),
    known(
        422,
        "query-refused",
        SQL,
        "The database refuses the query or statement with these values; the sentence has its words.",
    ),
    known(422, "answer-too-large", SQL, "Ask for less: the answer is larger than one may be."),
    known(422, "body-malformed", BODY, "Correct the body; the sentence names the field."),
    known(422, "body-too-deep", BODY, "Send a body that is less deeply nested."),
    known(422, "idempotency-key-reused", COMMAND, "Use a key of its own for each command."),
    known(
        428,
        "precondition-required",
        COMMAND,
        "Read the aggregate, and send If-Match with its version, or If-None-Match: *.",
    )
    .only(Gateway::WithPreconditions),
    known(429, "rate-exceeded", EVERYWHERE, "Wait as long as Retry-After says."),
    known(
        429,
        "share-exceeded",
        EVERYWHERE,
        "Have fewer requests in progress at a time; the sentence says of which kind. Nothing is stored; send it again after Retry-After.",
    ),
    known(
        500,
        "store-refused",
        STORING,
        "Nothing is stored, and to send it again changes nothing; the sentence has the server's words.",
    ),
    known(
        500,
        "row-too-large",
        &[Door::Row, Door::Report, Door::Reports],
        "The row is larger than an answer may be; read it with millstream query --as-of.",
    ),
    known(
        500,
        "view-failed",
        &[Door::Row, Door::List, Door::Report, Door::Reports, Door::Query, Door::Queries, Door::Statement],
        "The sentence has the view's words; whoever runs the gateway looks at the projector, or at the stage sql.",
    ),
    known(
        500,
        "history-unreadable",
        HISTORY,
        "An event cannot be read; the sentence says which. Whoever runs Millstream looks at millstream events show.",
    ),
    known(
        503,
        "events-unavailable",
        &[Door::History, Door::Live],
        "EVENTS cannot be read now; ask again after Retry-After.",
    ),
    known(503, "issuer-unavailable", EVERYWHERE, "Send it again after Retry-After; nothing is stored.")
        .only(Gateway::WithKeys),
    known(503, "busy", EVERYWHERE, "Nothing is stored; send it again after Retry-After."),
    known(503, "audit-unavailable", AUDITED, "Nothing is stored; send it again after Retry-After."),
    known(
        503,
        "letters-unavailable",
        LETTERS,
        "DEADLETTERS cannot be read, or no command handler answers, now; look at the letter again after Retry-After.",
    ),
    known(503, "letters-full", LETTER_MOVE, "DEADLETTERS is full; drop letters, or make it larger."),
    known(
        503,
        "commands-full",
        STORING,
        "The stream of commands is full, and nothing of this request is stored; send it again after Retry-After. Whoever runs Millstream makes space.",
    ),
    known(503, "not-connected", COMMAND, "Nothing is stored; send it again after Retry-After."),
    known(
        503,
        "stopping",
        &[Door::Command, Door::Lines, Door::Query, Door::Statement],
        "Nothing is stored; send it again after Retry-After.",
    ),
    known(
        503,
        "not-stored",
        COMMAND,
        "It is not known whether the command is stored; send it again with the same Idempotency-Key, or, if it had none, ask for its id before you do.",
    ),
    known(
        503,
        "outcomes-unavailable",
        &[
            Door::Command,
            Door::Status,
            Door::Row,
            Door::List,
            Door::Report,
            Door::Reports,
            Door::History,
            Door::Query,
            Door::Statement,
            Door::Live,
        ],
        "It cannot be told now what became of a command; ask again after Retry-After.",
    ),
    known(
        503,
        "view-unavailable",
        VIEWS,
        "Nobody answers for the view, or it is being built or has halted; ask again after Retry-After.",
    ),
    known(
        503,
        "queries-unavailable",
        QUERIES,
        "The stage sql does not run, or its database does not answer; ask again after Retry-After.",
    ),
    known(504, "query-too-long", SQL, "Ask for less: it ran for longer than a query may, and was ended."),
    known(504, "position-not-reached", POSITIONS, "Ask again after Retry-After, or wait longer."),
];

/// Statuses of commands that an application's own codes come with, and when.
pub(crate) const OF_THE_APPLICATION: [(u16, &str); 4] = [
    (409, "the command was rejected (only with Prefer: wait)"),
    (412, "the aggregate has another version (only with Prefer: wait)"),
    (422, "the command can never take effect"),
    (500, "the command was set aside as a dead letter (only with Prefer: wait)"),
];

/// References to the responses of a door, by their statuses.
pub(super) fn referenced(described: &Described<'_>, door: Door) -> Map<String, Value> {
    let statuses = statuses(described, door);
    let referenced = statuses.keys().map(|status| {
        let reference = format!("#/components/responses/{}{status}", door.name());
        (status.to_string(), json!({ "$ref": reference }))
    });
    referenced.collect()
}

/// The responses of all doors of a gateway.
pub(super) fn responses(described: &Described<'_>) -> Map<String, Value> {
    let mut responses = Map::new();
    for door in Door::ALL {
        for (status, known) in statuses(described, door) {
            responses.insert(format!("{}{status}", door.name()), response(door, status, &known));
        }
    }
    responses
}

/// What can come at a door.
fn statuses(described: &Described<'_>, door: Door) -> BTreeMap<u16, Vec<&'static KnownProblem>> {
    let mut statuses: BTreeMap<u16, Vec<&KnownProblem>> = BTreeMap::new();
    let here = |gateway| match gateway {
        Gateway::Any => true,
        Gateway::WithKeys => described.with_keys,
        Gateway::WithoutKeys => !described.with_keys,
        Gateway::WithPreconditions => described.with_preconditions,
    };
    for problem in PROBLEMS.iter().filter(|problem| problem.doors.contains(&door) && here(problem.gateway)) {
        statuses.entry(problem.status).or_default().push(problem);
    }
    if door == Door::Command {
        for (status, _) in OF_THE_APPLICATION {
            statuses.entry(status).or_default();
        }
    }
    statuses
}

fn response(door: Door, status: u16, known: &[&KnownProblem]) -> Value {
    let own = OF_THE_APPLICATION.iter().find(|(own, _)| door == Door::Command && *own == status);
    let mut lines: Vec<String> =
        known.iter().map(|problem| format!("- `{}`: {}", problem.code, problem.remedy)).collect();
    if let Some((_, when)) = own {
        lines.push(format!("- a code of the application: {when}."));
    }
    let codes: Vec<&str> = known.iter().map(|problem| problem.code).collect();
    let code = if own.is_some() { json!({ "type": "string" }) } else { json!({ "enum": codes }) };
    let header = match status {
        401 => Some(("WWW-Authenticate", "WWW-Authenticate")),
        412 => Some(("ETag", "Version-There-Is")),
        415 => Some(("Accept-Encoding", "Accept-Encoding")),
        429 | 503 | 504 => Some(("Retry-After", "Retry-After")),
        _ => None,
    };
    let headers = header.map(|(name, header)| (name.to_owned(), parts::header(header)));
    json!({
        "description": lines.join("\n"),
        "headers": headers.into_iter().collect::<Map<_, _>>(),
        "content": { "application/problem+json": { "schema": {
            "allOf": [
                { "$ref": "#/components/schemas/Problem" },
                { "properties": { "status": { "const": status }, "code": code } },
            ],
        } } },
    })
}
