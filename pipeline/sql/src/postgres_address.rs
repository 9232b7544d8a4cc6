//! How to reach a PostgreSQL server: by its address, with time limits that detect a host that has gone silent, and with TLS if the address asks
//! for it, under libpq's names for that (`sslmode`, `sslrootcert`).
//!
//! The client library knows `sslmode` up to `require` and leaves certificates to whoever makes the connection; this module handles them.
//! Deliberately absent: certificates of clients.

use std::{path::PathBuf, sync::Arc, time::Duration};

use percent_encoding::percent_decode_str;
use postgres::{Client, Config, NoTls, config::SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};

use crate::database::DatabaseError;

/// How long the server may take to accept a connection, unless the address says otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long sent data may stay without acknowledgement. After that the connection counts as lost, although nobody closed it.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(15);
/// After how much silence keepalive probes are sent, at what interval, and how many may go unanswered.
const KEEPALIVES: (Duration, Duration, u32) = (Duration::from_secs(15), Duration::from_secs(5), 3);

/// A parsed address.
pub(crate) struct PostgresAddress {
    config: Config,
    tls: Option<MakeRustlsConnect>,
}

/// Why TLS cannot be used in the way that an address demands.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file of `sslrootcert` contains no certificates.
    #[error("sslrootcert {path} cannot be read")]
    Certificates {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: tokio_rustls::rustls::pki_types::pem::Error,
    },
    /// The system has no trusted certificates.
    #[error("the certificates of the system cannot be read; name a file with sslrootcert")]
    System(#[source] rustls_native_certs::Error),
    /// The address names certificates but does not ask for a check of the server's certificate.
    #[error("sslrootcert is looked at with sslmode=require, verify-ca or verify-full alone; say which")]
    Unlooked,
    /// The certificates cannot be used.
    #[error("the certificates of sslrootcert cannot be used")]
    Roots(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// How thoroughly the server's certificate is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looked {
    /// Not at all.
    Not,
    /// Its signature is checked.
    Signer,
    /// Its signature and the name of the host are checked.
    SignerAndName,
}

impl PostgresAddress {
    /// Parses `postgres://user@host/database?…`. `application` is the connection's name in `pg_stat_activity`.
    ///
    /// # Errors
    /// [`DatabaseError::Address`] and [`DatabaseError::Tls`].
    pub(crate) fn read(address: &str, application: &str) -> Result<Self, DatabaseError> {
        let (mut rest, mut mode, mut root) = (String::new(), "", None);
        let (place, settings) = address.split_once('?').unwrap_or((address, ""));
        for setting in settings.split('&').filter(|setting| !setting.is_empty()) {
            match setting.split_once('=') {
                Some(("sslmode", value @ ("require" | "verify-ca" | "verify-full"))) => mode = value,
                Some(("sslrootcert", path)) => root = Some(decoded(path)),
                _ => rest.extend([if rest.is_empty() { "?" } else { "&" }, setting]),
            }
        }
        let mut config: Config = format!("{place}{rest}").parse().map_err(DatabaseError::Address)?;
        let looked = match (mode, &root) {
            ("verify-full", _) => Some(Looked::SignerAndName),
            ("verify-ca", _) | ("require", Some(_)) => Some(Looked::Signer),
            ("require", None) => Some(Looked::Not),
            (_, Some(_)) => return Err(TlsError::Unlooked.into()),
            (_, None) => None,
        };
        let tls = looked.map(|looked| client_config(looked, root)).transpose()?;
        // If the address does not mention TLS, none is used, because an unchecked certificate would give false confidence.
        config.ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable });
        config.application_name(application);
        limit(&mut config);
        Ok(Self { config, tls: tls.map(MakeRustlsConnect::new) })
    }

    /// Connects.
    pub(crate) fn user(&self) -> Option<&str> {
        self.config.get_user()
    }

    /// # Errors
    /// Those of the server, of the network and of TLS.
    pub(crate) fn connect(&self) -> Result<Client, postgres::Error> {
        match &self.tls {
            Some(tls) => self.config.connect(tls.clone()),
            None => self.config.connect(NoTls),
        }
    }
}

/// The user in an address.
pub(crate) fn user_of(address: &str) -> Result<Option<String>, DatabaseError> {
    Ok(PostgresAddress::read(address, "")?.user().map(str::to_owned))
}

fn decoded(path: &str) -> PathBuf {
    PathBuf::from(percent_decode_str(path).decode_utf8_lossy().into_owned())
}

fn limit(config: &mut Config) {
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(UNACKNOWLEDGED_MAX);
    }
    if config.get_keepalives_interval().is_none() {
        let (idle, interval, retries) = KEEPALIVES;
        config.keepalives_idle(idle).keepalives_interval(interval).keepalives_retries(retries);
    }
}

fn client_config(looked: Looked, root: Option<PathBuf>) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let by = match looked {
        Looked::Not => None,
        Looked::Signer | Looked::SignerAndName => {
            let verifier =
                WebPkiServerVerifier::builder_with_provider(roots(root)?, Arc::clone(&provider)).build();
            Some(verifier.map_err(|error| TlsError::Roots(Box::new(error)))?)
        }
    };
    let with_name = looked == Looked::SignerAndName;
    let verifier = Verifier { by, with_name, provider: Arc::clone(&provider) };
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| TlsError::Roots(Box::new(error)))?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth())
}

/// The trusted authorities: those in the file, or those that the system trusts.
fn roots(file: Option<PathBuf>) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    match file {
        Some(path) => {
            let failed = |source| TlsError::Certificates { path: path.clone(), source };
            for certificate in CertificateDer::pem_file_iter(&path).map_err(failed)? {
                let added = roots.add(certificate.map_err(failed)?);
                added.map_err(|error| TlsError::Roots(Box::new(error)))?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if let (true, Some(error)) = (roots.is_empty(), found.errors.into_iter().next()) {
                return Err(TlsError::System(error));
            }
        }
    }
    Ok(Arc::new(roots))
}

/// Checks the server's certificate as thoroughly as the address demands.
#[derive(Debug)]
struct Verifier {
    by: Option<Arc<WebPkiServerVerifier>>,
    with_name: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(by) = &self.by else { return Ok(ServerCertVerified::assertion()) };
        match by.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is checked last, so everything else is right by then.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.with_name => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_goes_without_a_word_is_noticed() {
        let limits = |address: &str| {
            let config = PostgresAddress::read(address, "test").unwrap().config;
            (
                config.get_connect_timeout().copied(),
                config.get_tcp_user_timeout().copied(),
                config.get_keepalives_interval(),
            )
        };
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(limits("postgres://a@b/c"), (seconds(5), seconds(15), seconds(5)));
        let own = "postgres://a@b/c?connect_timeout=1&tcp_user_timeout=2&keepalives_interval=3";
        assert_eq!(limits(own), (seconds(1), seconds(2), seconds(3)));
    }

    #[test]
    fn tls_is_spoken_where_the_address_asks_for_it() {
        let read = |settings: &str| PostgresAddress::read(&format!("postgres://a@b/c{settings}"), "test");
        for (settings, with_tls) in [
            ("", false),
            ("?sslmode=disable", false),
            ("?sslmode=prefer", false),
            ("?sslmode=require", true),
            ("?connect_timeout=1&sslmode=require", true),
        ] {
            let address = read(settings).unwrap();
            let mode = if with_tls { SslMode::Require } else { SslMode::Disable };
            assert_eq!(
                (address.tls.is_some(), address.config.get_ssl_mode()),
                (with_tls, mode),
                "{settings}"
            );
            assert_eq!(address.user(), Some("a"));
        }
        assert!(matches!(read("?sslmode=always"), Err(DatabaseError::Address(_))));
        for settings in ["?sslrootcert=/ca.pem", "?sslmode=prefer&sslrootcert=/ca.pem"] {
            assert!(matches!(read(settings), Err(DatabaseError::Tls(TlsError::Unlooked))), "{settings}");
        }
        let nowhere = read("?sslmode=verify-full&sslrootcert=/no%20where.pem").err().unwrap();
        assert!(
            matches!(&nowhere, DatabaseError::Tls(TlsError::Certificates { path, .. }) if path.ends_with("no where.pem"))
        );
    }
}
