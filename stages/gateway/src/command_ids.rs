//! The ids of clients' commands.
//!
//! An id begins with its sender's name. What follows is random, or it is made of what the client calls its request (`Idempotency-Key`), so that a
//! repeat has the same id at every gateway. Everybody who may publish commands on NATS may use any id, and an id that is used first belongs to
//! whoever used it. So a secret of the gateways goes into ids that are made of keys: without it they can be worked out from what others know.
//! Deliberately absent: a memory of ids, and a change of the secret while the stage runs, which would make another command of a repeat.

use std::{
    io,
    path::{Path, PathBuf},
};

use millstream_contract::exit_code::{ExitCode, Failure};
use millstream_runtime::file_work::{do_file_work, read_regular_file_up_to};
use ring::hmac;

/// A shorter secret could be found by trying: 32 characters are 128 bits if they are hexadecimal digits.
const SECRET_BYTES_MIN: usize = 32;
/// Whatever is larger is another file by mistake.
const FILE_BYTES_MAX: u64 = 4096;
/// Hexadecimal digits of an id behind the name: 128 bits, so that no two keys meet in one.
const DIGITS: usize = 32;
/// Whatever else is made with the same secret is made for something else.
const PURPOSE: &[u8] = b"millstream command id\n";

/// Why the secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdSecretError {
    /// Its file cannot be read.
    #[error("gateway.id_secret_file {path} cannot be read")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It could be guessed.
    #[error(
        "gateway.id_secret_file {path} holds {length} bytes; a secret has at least {SECRET_BYTES_MIN}, such as `openssl rand -hex 32` makes"
    )]
    Short {
        /// The file.
        path: PathBuf,
        /// How many bytes it holds.
        length: usize,
    },
}

impl Failure for IdSecretError {
    fn exit_code(&self) -> ExitCode {
        ExitCode::Configuration
    }
}

/// Checks whether the gateway could start with the secret in a file.
///
/// # Errors
/// [`IdSecretError`].
pub(crate) fn check_id_secret_file(path: &Path) -> Result<(), IdSecretError> {
    read(path).map(drop)
}

/// Makes ids. Gateways with the same secret make the same ones.
#[derive(Debug, Clone)]
pub(crate) struct CommandIds {
    /// None: whoever knows the name of a sender and its key for a request knows the id.
    secret: Option<hmac::Key>,
}

impl CommandIds {
    /// Reads the secret, if there is a file of one, and logs what it means that there is none.
    ///
    /// # Errors
    /// [`IdSecretError`].
    pub(crate) async fn open(file: Option<PathBuf>) -> Result<Self, IdSecretError> {
        let Some(file) = file else {
            tracing::info!(
                "gateway.id_secret_file is not set: the id of a command with an Idempotency-Key is made of that and of its sender's name alone, \
                 so whoever may publish commands on NATS and knows both can use it first"
            );
            return Ok(Self { secret: None });
        };
        let secret = do_file_work(move || read(&file)).await?;
        Ok(Self { secret: Some(secret) })
    }

    /// The id of a command of `sender`: under a key that which any gateway makes of the two, otherwise a new one.
    pub(crate) fn id(&self, sender: &str, key: Option<&str>) -> String {
        let Some(key) = key else { return format!("{sender}:{}", ulid::Ulid::generate()) };
        // No key has a line break, so that no other name and key are the same text. A key may be a secret and of any form: it is not in the id.
        let digest = match &self.secret {
            Some(secret) => {
                let mut made = hmac::Context::with_key(secret);
                for part in [PURPOSE, sender.as_bytes(), b"\n", key.as_bytes()] {
                    made.update(part);
                }
                made.sign().as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
            }
            None => {
                let mut made = blake3::Hasher::new();
                made.update(sender.as_bytes()).update(b"\n").update(key.as_bytes());
                made.finalize().to_hex().to_string()
            }
        };
        format!("{sender}:{}", digest.get(..DIGITS).unwrap_or(&digest))
    }
}

/// The secret in a file, without the white space around it.
fn read(path: &Path) -> Result<hmac::Key, IdSecretError> {
    let text = read_regular_file_up_to(path, FILE_BYTES_MAX);
    let text = text.map_err(|source| IdSecretError::File { path: path.to_owned(), source })?;
    let secret = text.trim();
    if secret.len() < SECRET_BYTES_MIN {
        return Err(IdSecretError::Short { path: path.to_owned(), length: secret.len() });
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use super::*;

    const ONE: &str = "0123456789abcdef0123456789abcdef";
    const OTHER: &str = "0123456789abcdef0123456789abcdee";

    async fn with(secret: &str) -> Result<CommandIds, IdSecretError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        fs::write(&file, secret).unwrap();
        assert_eq!(check_id_secret_file(&file).is_ok(), CommandIds::open(Some(file.clone())).await.is_ok());
        CommandIds::open(Some(file)).await
    }

    #[tokio::test]
    async fn gateways_with_one_secret_make_one_id_of_a_key_and_those_with_another_make_another() {
        let (one, same) = (with(ONE).await.unwrap(), with(&format!("{ONE}\n")).await.unwrap());
        let (other, none) = (with(OTHER).await.unwrap(), CommandIds::open(None).await.unwrap());
        let id = one.id("till", Some("sale 1"));
        assert_eq!(id, same.id("till", Some("sale 1")), "a line break at the end is no part of the secret");
        let ids = [
            id.clone(),
            other.id("till", Some("sale 1")),
            none.id("till", Some("sale 1")),
            one.id("till", Some("sale 2")),
            one.id("till-2", Some("sale 1")),
            one.id("till", None),
            one.id("till", None),
        ];
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "{ids:?}");
        let digits = id.strip_prefix("till:").unwrap();
        assert!(digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    }

    /// HMAC-SHA-256 of `millstream command id`, a line break, `till`, a line break and `sale 1`, worked out by another program: an id must stay what it is, or
    /// a repeat takes effect twice after an upgrade.
    #[tokio::test]
    async fn ids_stay_what_they_are() {
        assert_eq!(
            with(ONE).await.unwrap().id("till", Some("sale 1")),
            "till:fa8dd321283410865eaf3870b4b4f464"
        );
        let none = CommandIds::open(None).await.unwrap();
        assert_eq!(none.id("till", Some("sale 1")), "till:38de71fb9908f2d4fd1d41df93dd4e47");
    }

    #[tokio::test]
    async fn a_secret_that_could_be_guessed_or_read_nowhere_is_refused() {
        for short in ["", "\n", &ONE[1..], &format!(" {} \n", &ONE[1..])] {
            let refused = with(short).await.unwrap_err();
            assert!(matches!(refused, IdSecretError::Short { .. }), "{short:?}: {refused:?}");
        }
        let large = with(&"x".repeat(5000)).await.unwrap_err();
        assert!(matches!(large, IdSecretError::File { .. }), "{large:?}");
        let missing = CommandIds::open(Some("no/such/file".into())).await.unwrap_err();
        assert!(missing.to_string().contains("gateway.id_secret_file no/such/file"), "{missing}");
    }
}
