//! TLS to the servers for sifted lines, by the rules of the client library: a file of authorities replaces those of the system.

use std::path::Path;

use async_nats::rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use super::ConnectionSettings;

/// Reads the files that TLS needs.
///
/// # Errors
/// The file that cannot be used, and why.
pub(super) fn client_config(settings: &ConnectionSettings) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder().with_root_certificates(authorities(settings)?);
    let Some((certificate, key)) = &settings.client_certificate else {
        return Ok(builder.with_no_client_auth());
    };
    let private_key =
        PrivateKeyDer::from_pem_file(key).map_err(|error| wrong("nats.key_file", key, &error))?;
    let chain = certificates("nats.cert_file", certificate)?;
    builder
        .with_client_auth_cert(chain, private_key)
        .map_err(|error| wrong("nats.cert_file", certificate, &error))
}

fn authorities(settings: &ConnectionSettings) -> Result<RootCertStore, String> {
    let mut authorities = RootCertStore::empty();
    let Some(path) = &settings.ca_file else {
        let found = rustls_native_certs::load_native_certs();
        if found.certs.is_empty()
            && let Some(error) = found.errors.first()
        {
            return Err(format!("the certificates of the system cannot be read: {error}"));
        }
        authorities.add_parsable_certificates(found.certs);
        return Ok(authorities);
    };
    for certificate in certificates("nats.ca_file", path)? {
        authorities.add(certificate).map_err(|error| wrong("nats.ca_file", path, &error))?;
    }
    Ok(authorities)
}

fn certificates(what: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    read.map_err(|error| wrong(what, path, &error))
}

fn wrong(what: &str, path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("{what} {}: {error}", path.display())
}
