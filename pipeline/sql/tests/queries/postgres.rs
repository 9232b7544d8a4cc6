//! PostgreSQL itself: those who ask connect as a role that may only read, and both connections speak TLS as their addresses ask for it.

use std::{fs, path::Path};

use millstream_sql::{
    postgres_database::PostgresDatabase,
    queries::reader::{AskError, PostgresReader, Reader},
    testing::postgres_server::PostgresServer,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;

use crate::{ask, desk::fill, desk::plan};

const ROLES: &str = "CREATE ROLE filling LOGIN; CREATE ROLE asking LOGIN; CREATE ROLE writing LOGIN; GRANT filling TO writing; \
     ALTER DATABASE queries OWNER TO filling";

/// A database that is filled as `filling`, and lets `asking` read.
fn filled() -> Option<PostgresServer> {
    let server = PostgresServer::start()?;
    server.make_database("queries");
    server.run("queries", ROLES);
    fill(&mut PostgresDatabase::connect(&address(&server, "filling"), Some("asking")).unwrap(), &plan());
    // What only the one who fills may read.
    let mut filling = postgres::Client::connect(&address(&server, "filling"), postgres::NoTls).unwrap();
    filling.batch_execute("CREATE TABLE retail.secret AS SELECT 'hidden' AS word").unwrap();
    Some(server)
}

fn address(server: &PostgresServer, role: &str) -> String {
    server.address("queries").replace("postgres@", &format!("{role}@"))
}

/// Each lays down what keeps a query of the filling connection from harm, and then does harm.
const OUT_OF_THE_ROLE: [&str; 4] = [
    "SELECT set_config('role', 'none', true) AS r, query_to_xml('SELECT * FROM retail.secret', true, true, '') AS x",
    "SELECT set_config('role', 'filling', true) AS r, query_to_xml('SELECT * FROM retail.secret', true, true, '') AS x",
    "SELECT set_config('session_authorization', 'filling', true) AS r, query_to_xml('SELECT * FROM retail.secret', true, true, '') AS x",
    "SELECT word FROM retail.secret",
];

#[test]
fn those_who_ask_as_a_role_of_their_own_cannot_leave_it() {
    let Some(server) = filled() else { return };
    let plan = plan();
    let own = PostgresReader::of_readers(&address(&server, "asking"), plan.of_events()).unwrap();
    assert_eq!(ask(&own, "SELECT COUNT(*) AS n FROM retail.sale").unwrap().rows[0]["n"], 3);
    for statement in OUT_OF_THE_ROLE {
        let refused = ask(&own, statement).unwrap_err();
        assert!(matches!(refused, AskError::Refused(_)), "{statement}: {refused:?}");
        assert!(refused.to_string().contains("permission denied"), "{statement}: {refused}");
    }
    // The same is possible where the role is laid over the connection that fills: that is what the other connection is for.
    let over = PostgresReader::new(&address(&server, "filling"), Some("asking"), plan.of_events());
    server.run("queries", "GRANT asking TO filling");
    let seen = ask(&over.unwrap(), OUT_OF_THE_ROLE[0]).unwrap();
    assert!(seen.rows[0]["x"].as_str().unwrap().contains("hidden"), "{seen:?}");
}

/// Not the transaction that only reads refuses it, and not the gateway: the database itself.
#[test]
fn a_write_of_those_who_ask_is_refused_by_the_database() {
    let Some(server) = filled() else { return };
    let mut asking = postgres::Client::connect(&address(&server, "asking"), postgres::NoTls).unwrap();
    for statement in [
        "INSERT INTO millstream.currency VALUES ('ABC', 0, 1)",
        "UPDATE retail.product SET name = 'x'",
        "DELETE FROM retail.sale",
        "TRUNCATE retail.sale",
        "DROP TABLE retail.sale",
        "CREATE TABLE retail.mine (a text)",
        "SET ROLE filling",
        "SET SESSION AUTHORIZATION filling",
    ] {
        let refused = asking.batch_execute(statement).unwrap_err();
        let code = refused.code().map(|code| code.code().to_owned());
        assert_eq!(code.as_deref(), Some("42501"), "{statement}: {refused}");
    }
}

#[test]
fn a_role_that_may_write_is_not_asked_as() {
    let Some(server) = filled() else { return };
    for role in ["filling", "writing", "postgres"] {
        let reader = PostgresReader::of_readers(&address(&server, role), plan().of_events()).unwrap();
        let refused = ask(&reader, "SELECT 1 AS one").unwrap_err();
        assert!(
            matches!(&refused, AskError::Unavailable(why) if why.contains("may change")),
            "{role}: {refused:?}"
        );
    }
}

struct Certificates {
    authority: String,
    server: String,
    key: String,
}

/// An authority, and a certificate for `localhost` that it has signed.
fn certificates() -> Certificates {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let server =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    Certificates { authority, server: server.pem(), key: key.serialize_pem() }
}

fn written(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn both_connections_speak_tls_as_their_addresses_ask_for_it() {
    let (own, other, folder) = (certificates(), certificates(), tempfile::tempdir().unwrap());
    let Some(server) = PostgresServer::start_with_tls(&own.server, &own.key) else { return };
    let (authority, foreign) = (
        written(folder.path(), "own.pem", &own.authority),
        written(folder.path(), "other.pem", &other.authority),
    );
    let (by_number, by_name) =
        (server.address("postgres"), server.address("postgres").replace("127.0.0.1", "localhost"));
    let is_encrypted = |address: &str| -> Result<serde_json::Value, String> {
        let database = PostgresDatabase::connect(address, None);
        let reader = PostgresReader::new(address, None, Vec::new()).unwrap();
        let statement = "SELECT ssl FROM pg_catalog.pg_stat_ssl WHERE pid = pg_backend_pid()";
        let answer = ask(&reader as &dyn Reader, statement).map_err(|error| error.to_string());
        assert_eq!(database.is_ok(), answer.is_ok(), "{address}: {answer:?}, {:?}", database.err());
        Ok(answer?.rows[0]["ssl"].clone())
    };
    for (address, encrypted) in [
        (by_number.clone(), false),
        (format!("{by_number}?sslmode=disable"), false),
        (format!("{by_number}?sslmode=require"), true),
        (format!("{by_number}?sslmode=verify-ca&sslrootcert={authority}"), true),
        (format!("{by_name}?sslmode=require&sslrootcert={authority}"), true),
        (format!("{by_name}?sslmode=verify-full&sslrootcert={authority}"), true),
    ] {
        assert_eq!(is_encrypted(&address), Ok(json!(encrypted)), "{address}");
    }
    for address in [
        format!("{by_number}?sslmode=verify-full&sslrootcert={authority}"),
        format!("{by_name}?sslmode=verify-full&sslrootcert={foreign}"),
        format!("{by_number}?sslmode=verify-ca&sslrootcert={foreign}"),
        format!("{by_number}?sslmode=require&sslrootcert={foreign}"),
        format!("{by_name}?sslmode=verify-full"),
    ] {
        let refused = is_encrypted(&address).unwrap_err();
        assert!(refused.contains("certificate"), "{address}: {refused}");
    }
}
