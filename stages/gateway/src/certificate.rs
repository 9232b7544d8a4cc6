//! The certificate for TLS and its key: two files that are read again when they change. Open connections continue; new ones get the new
//! certificate.
//!
//! Deliberately absent: certificates of clients, who identify themselves with keys and tokens, and HTTP/2.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use millstream_contract::{
    error_text::one_line,
    exit_code::{ExitCode, Failure},
};
use millstream_runtime::{
    file_work::{do_file_work, read_regular_file},
    health::Condition,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _},
        server::{ClientHello, ResolvesServerCert},
        sign::CertifiedKey,
    },
};
use tokio_util::sync::CancellationToken;

/// How often the files are checked. A change takes effect after two checks, because a single one may have met a file that is just being
/// written.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Why TLS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("{path} cannot be read")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file does not have the expected content.
    #[error("{path} is no PEM file with {expected}")]
    Form {
        /// The file.
        path: PathBuf,
        /// The expected content.
        expected: &'static str,
        /// What is wrong with it.
        #[source]
        source: pem::Error,
    },
    /// Certificate and key do not belong together.
    #[error("the key in {key} is not that of the certificate in {certificate}, or cannot be used")]
    Pair {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// TLS cannot be used at all.
    #[error("TLS cannot be spoken")]
    Protocol(#[source] rustls::Error),
}

impl Failure for CertificateError {
    fn exit_code(&self) -> ExitCode {
        ExitCode::Configuration
    }
}

/// The paths of certificate and key.
#[derive(Debug, Clone)]
pub struct CertificateFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// What is in the files.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Texts {
    certificate: String,
    key: String,
}

impl CertificateFiles {
    /// Checks whether the gateway could start with them.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub(crate) fn check(&self) -> Result<(), CertificateError> {
        self.pair(&self.read()?).map(drop)
    }

    fn read(&self) -> Result<Texts, CertificateError> {
        let read = |path: &Path| {
            read_regular_file(path).map_err(|source| CertificateError::File { path: path.to_owned(), source })
        };
        Ok(Texts { certificate: read(&self.certificate)?, key: read(&self.key)? })
    }

    fn pair(&self, texts: &Texts) -> Result<CertifiedKey, CertificateError> {
        let form = |path: &Path, expected| {
            let path = path.to_owned();
            move |source| CertificateError::Form { path, expected, source }
        };
        let chain =
            CertificateDer::pem_slice_iter(texts.certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
        let chain =
            chain.and_then(|chain| if chain.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(chain) });
        let chain = chain.map_err(form(&self.certificate, "a certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(texts.key.as_bytes());
        let key = key.map_err(form(&self.key, "a private key"))?;
        CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|source| {
            CertificateError::Pair { certificate: self.certificate.clone(), key: self.key.clone(), source }
        })
    }
}

/// The certificate for new connections.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// Uses the certificate in `files` for TLS, now and whenever the files change, until `stop`. If a later version cannot be used, the certificate
/// stays as it is, and `condition` does not hold.
///
/// # Errors
/// [`CertificateError`] when they cannot be used at the start.
pub(crate) async fn acceptor(
    files: CertificateFiles,
    condition: Condition,
    stop: CancellationToken,
) -> Result<TlsAcceptor, CertificateError> {
    let reading = files.clone();
    let texts = do_file_work(move || reading.read()).await?;
    let current = Arc::new(Current(RwLock::new(Arc::new(files.pair(&texts)?))));
    condition.holds();
    let protocol = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(CertificateError::Protocol)?;
    let resolver: Arc<dyn ResolvesServerCert> = Arc::<Current>::clone(&current);
    let mut protocol = protocol.with_no_client_auth().with_cert_resolver(resolver);
    protocol.alpn_protocols = vec![b"http/1.1".to_vec()];
    let follower =
        Follower { files, known: texts.clone(), seen: texts, trouble: String::new(), current, condition };
    tokio::spawn(follower.follow(stop));
    Ok(TlsAcceptor::from(Arc::new(protocol)))
}

struct Follower {
    files: CertificateFiles,
    known: Texts,
    /// The texts of the last check.
    seen: Texts,
    trouble: String,
    current: Arc<Current>,
    condition: Condition,
}

impl Follower {
    async fn follow(mut self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_INTERVAL)).await.is_some() {
            let files = self.files.clone();
            let read = do_file_work(move || files.read()).await;
            self.look(read);
        }
    }

    fn look(&mut self, read: Result<Texts, CertificateError>) {
        let read = match read {
            Ok(texts) if texts != self.seen => {
                self.seen = texts;
                return;
            }
            Ok(texts) if texts == self.known && self.trouble.is_empty() => return,
            Ok(texts) => self.files.pair(&texts).map(|pair| (texts, pair)),
            Err(error) => Err(error),
        };
        match read {
            Ok((texts, pair)) => {
                *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pair);
                self.known = texts;
                self.trouble.clear();
                self.condition.holds();
                tracing::info!("the certificate is read again; new connections get it");
            }
            Err(error) => {
                let sentence = one_line(&error);
                if sentence != self.trouble {
                    tracing::error!(error = sentence, "the certificate stays as it was");
                    self.condition
                        .fails(format!("{sentence}; the certificate is the one that was read before"));
                    self.trouble = sentence;
                }
            }
        }
    }
}
