//! The document against the routes, the sources, the guide, and two applications.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use millstream_domain::{
    application::{Application, Context, Model},
    async_api::{self, AsyncApiInfo},
};
use millstream_model::Reference;

use super::{problems::PROBLEMS, *};

const GUIDE: &str = include_str!("../../../../docs/guides/http.md");

/// Describes an application with the limits of some gateway.
pub(crate) fn described<A: Application, T>(with_keys: bool, ask: impl FnOnce(&Described<'_>) -> T) -> T {
    let limits = Limits {
        body_max: 1024,
        lines_bytes_max: 1024,
        lines_max: 1,
        header_timeout: Duration::from_secs(1),
        body_timeout: Duration::from_secs(1),
        store_wait: Duration::from_secs(1),
        wait_max: Duration::from_secs(7),
        requests_max: 1,
        waiting_max: 1,
        queries_max: 1,
        live_max: 1,
        live_recheck: Duration::from_secs(1),
        key_share: 100,
        connections_max: 1,
        rate: None,
        rate_address: None,
    };
    let parts = Parts::of::<A>().unwrap();
    ask(&Described {
        name: A::NAME,
        version: A::VERSION,
        about: A::ABOUT,
        parts: &parts,
        limits: &limits,
        port: 8080,
        with_preconditions: false,
        with_keys,
    })
}

fn document_of<A: Application>(with_keys: bool) -> Value {
    described::<A, _>(with_keys, document)
}

/// All references of a document.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get("$ref") {
                found.insert(reference.clone());
            }
            fields.values().for_each(|field| references(field, found));
        }
        _ => {}
    }
}

#[test]
fn every_command_that_anybody_may_give_has_a_path_with_its_fields() {
    let document = document_of::<Reference>(false);
    let sale = &document["components"]["schemas"]["retail.till.record-sale"];
    let line = &sale["properties"]["lines"]["items"];
    assert_eq!(line["required"], json!(["quantity", "sku", "unit_price"]), "{sale:#}");
    assert_eq!(line["properties"]["quantity"]["type"], "integer", "{sale:#}");
    assert_eq!(sale["additionalProperties"], false, "{sale:#}");
    for aggregate in Parts::of::<Reference>().unwrap().aggregates.iter() {
        for command in aggregate.command_names() {
            let (context, name) = (aggregate.context(), aggregate.aggregate());
            let path = format!("/v1/commands/{context}/{name}/{{id}}/{command}");
            let internal = aggregate.internal_commands().contains(command);
            let operation = document["paths"].get(&path);
            assert_eq!(operation.is_some(), !internal, "{path}");
            let schema = &document["components"]["schemas"][format!("{context}.{name}.{command}")];
            assert!(internal || schema["examples"].is_array(), "{path} has no example: {schema}");
        }
    }
}

/// The type of the field takes any text; a rule wants a date of it.
#[test]
fn an_example_has_the_form_that_a_rule_demands_of_a_text() {
    let document = document_of::<Reference>(false);
    let example = |id: &str| document["components"]["schemas"][id]["examples"][0].clone();
    assert_eq!(
        example("retail.product.register"),
        json!({ "name": "name", "supplier": "supplier", "supplier_name": "supplier_name", "effective_from": "2012-01-31" })
    );
    let payment = &example("orders.order.pay")["payment"];
    assert_eq!(payment, "payment", "no text mends that there is no such order");
}

#[test]
fn every_route_is_in_the_document_and_every_reference_leads_somewhere() {
    let document = document_of::<Reference>(true);
    let paths: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
    let routes = include_str!("../lib.rs").split(".route(\"").skip(1);
    let routes = routes.map(|rest| rest.split('"').next().unwrap());
    for route in routes {
        let fits = |path: &str| {
            let (route, path): (Vec<&str>, Vec<&str>) =
                (route.split('/').collect(), path.split('/').collect());
            let mut parts = route.iter().zip(&path);
            let same_end = route.len() == path.len() || route.last().is_some_and(|end| end.starts_with("{*"));
            same_end && parts.all(|(route, path)| route == path || route.starts_with('{'))
        };
        assert!(paths.iter().any(|path| fits(path)), "{route} is not in the document");
    }
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
}

/// The sources of the gateway, but those in folders, which describe and test it, and what users of NATS alone are told.
fn sources() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let over_http = paths.filter(|path| path.is_file() && !path.ends_with("user_requests.rs"));
    over_http.map(|path| fs::read_to_string(path).unwrap()).collect()
}

#[test]
fn every_refusal_is_known_and_the_guide_explains_the_same() {
    let known: BTreeSet<&str> = PROBLEMS.iter().map(|problem| problem.code).collect();
    assert_eq!(known.len(), PROBLEMS.len(), "each code is there once");
    let sources = sources();
    for code in &known {
        assert!(
            sources.contains(&format!("\"{code}\"")) || code.starts_with("header-"),
            "nothing refuses with {code}"
        );
    }
    for opening in ["Problem::new(", "Problem::malformed(", "Problem::unavailable("] {
        for call in sources.split(opening).skip(1) {
            let arguments = call.split(')').next().unwrap();
            let code = arguments.split('"').nth(1).filter(|text| !text.contains(' '));
            assert!(code.is_none_or(|code| known.contains(code)), "{code:?} is not among the problems");
        }
    }
    let table = GUIDE.split("## Refusals").nth(1).unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| ") && line.contains('`'));
    let mut explained = BTreeSet::new();
    for row in rows {
        let cells: Vec<&str> = row.split('|').collect();
        let examples = cells[2].split("such as").nth(1).unwrap_or_default();
        let codes = cells[2].split('`').skip(1).step_by(2);
        explained.extend(codes.filter(|code| *code != "code" && !examples.contains(&format!("`{code}`"))));
    }
    assert_eq!(explained, known);
}

#[test]
fn every_command_view_and_event_has_a_subject_and_every_reference_leads_somewhere() {
    let parts = Parts::of::<Reference>().unwrap();
    let info = AsyncApiInfo { name: Reference::NAME, version: Reference::VERSION, about: Reference::ABOUT };
    let document = async_api::document(info, &parts.aggregates, &parts.views);
    let channels = &document["channels"];
    for aggregate in parts.aggregates.iter() {
        let (context, name) = (aggregate.context(), aggregate.aggregate());
        assert!(channels[format!("evt.{context}.{name}")].is_object(), "{context}.{name}");
        for command in aggregate.command_names() {
            let internal = aggregate.internal_commands().contains(command);
            for prefix in ["cmd", "submit"] {
                let channel = &channels[format!("{prefix}.{context}.{name}.{command}")];
                assert_eq!(channel.is_object(), !internal, "{context}.{name}.{command}");
                let address = format!("{prefix}.{context}.{name}.{{id}}.{command}");
                assert!(internal || channel["address"] == address.as_str(), "{channel}");
            }
        }
    }
    for (context, view) in &parts.views {
        let channel = &channels[format!("query.{context}.{view}.get")];
        assert_eq!(channel["address"], format!("query.{context}.{view}.get"));
    }
    let views = async_api::views(Model::of::<Reference>).unwrap();
    assert_eq!(views, parts.views, "the command line and the gateway know the same");
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.len() > 100, "{}", found.len());
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
}

#[test]
fn keys_are_told_where_there_are_some() {
    let (with, without) = (document_of::<Reference>(true), document_of::<Reference>(false));
    let codes = |document: &Value| document["components"]["responses"]["Row403"]["content"].to_string();
    assert!(codes(&with).contains("query-not-granted") && !codes(&with).contains("browser-refused"));
    assert!(codes(&without).contains("browser-refused") && !codes(&without).contains("query-not-granted"));
    assert_eq!((with["security"].is_array(), without.get("security")), (true, None));
}

/// What a gateway of an application with one aggregate answers at.
const PATHS_OF_HOUSE: [&str; 19] = [
    "/v1/asyncapi.json",
    "/v1/commands",
    "/v1/commands/house/lamp/{id}/dim",
    "/v1/commands/{command_id}",
    "/v1/deadletters",
    "/v1/deadletters/{letter}",
    "/v1/deadletters/{letter}/drop",
    "/v1/deadletters/{letter}/retry",
    "/v1/docs",
    "/v1/history/house/lamp/{id}",
    "/v1/house/command",
    "/v1/house/command/{key}",
    "/v1/house/process-rejection",
    "/v1/house/process-rejection/{key}",
    "/v1/live",
    "/v1/openapi.json",
    "/v1/queries",
    "/v1/queries/{context}/{name}",
    "/v1/sql",
];

#[test]
fn another_application_is_described_without_a_line_of_its_own() {
    millstream_domain::commands! {
        /// What can be asked of a lamp.
        pub enum LampCommand { Dim { percent: u8 } = "dim", Break {} = "break" }
    }
    millstream_domain::events! {
        /// What can happen to a lamp.
        pub enum LampEvent of "lamp" { Dimmed { percent: u8 } = "dimmed" v 1 }
    }
    struct Lamp;
    impl millstream_domain::decider::Decider for Lamp {
        type Command = LampCommand;
        type Event = LampEvent;
        type State = ();
        const CONTEXT: &'static str = "house";
        const AGGREGATE: &'static str = "lamp";

        fn internal_commands() -> &'static [&'static str] {
            &["break"]
        }

        fn decide(
            _: &(),
            _: &LampCommand,
            _: &millstream_domain::decider::DecisionContext<'_>,
        ) -> Result<Vec<LampEvent>, millstream_domain::decider::Rejection> {
            Ok(Vec::new())
        }

        fn evolve(_: &mut (), _: &LampEvent) {}
    }
    struct House;
    impl Application for House {
        const NAME: &'static str = "house";
        const VERSION: &'static str = "2.0.0";
        const ABOUT: &'static str = "Lamps";

        fn contexts() -> Vec<Context> {
            vec![Context::new("house").aggregate::<Lamp>()]
        }
    }
    let document = document_of::<House>(false);
    assert_eq!(
        (&document["info"]["title"], &document["info"]["version"]),
        (&json!("house"), &json!("2.0.0"))
    );
    assert_eq!(
        document["components"]["schemas"]["house.lamp.dim"],
        json!({
            "type": "object",
            "required": ["percent"],
            "properties": { "percent": { "type": "integer", "minimum": 0, "maximum": 255 } },
            "additionalProperties": false,
            "examples": [{ "percent": 1 }],
        })
    );
    let paths: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
    assert_eq!(paths, PATHS_OF_HOUSE);
}
