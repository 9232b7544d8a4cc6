//! Who may do what on the server of a deployment. The stages may do everything. A client without credentials may do everything except publish
//! what only stages publish, and listen where the owner of a lease shows that it is alive. So a typing error, such as `nats pub evt.…`, cannot
//! store a message that no reader can pass.
//!
//! Deliberately absent: accounts, and a user for each stage. Those are for production (`config/nats-accounts.conf`). Both users
//! here are in the server's own account, where an earlier release kept the streams of the same folder.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use millstream_contract::{
    audit::AUDIT_PREFIX,
    commit::hexadecimal,
    dead_letter::DEAD_LETTER_PREFIX,
    leases::PRESENCE_PREFIX,
    outcome::OUTCOME_PREFIX,
    stream_names::LEASES_BUCKET,
    subject::{CHANGED_PREFIX, EFFECT_PREFIX, EVENT_PREFIX},
};
use nkeys::KeyPair;

/// The file of the key, in the folder `config`.
const KEY_FILE: &str = "stages.nk";
/// The user of clients without credentials. The server demands a password for each user with a name.
const NAMELESS_USER: &str = "anyone";

/// The file of the gateways' secret, in the folder `data`, because it must stay as long as the streams do: with another one, a client's repeat of a
/// command would be another command.
const ID_SECRET_FILE: &str = "gateway-id.secret";

/// The secret that goes into ids of commands, of which there is one for all gateways of a folder. The first call makes it, readable only
/// for the owner of the folder.
pub(super) fn id_secret(folder: &Path) -> io::Result<PathBuf> {
    let file = folder.join(ID_SECRET_FILE);
    if file.try_exists()? {
        return Ok(file);
    }
    fs::create_dir_all(folder)?;
    // Whoever is interrupted leaves no half of a secret, and from the beginning a temporary file can be read by its owner alone.
    let mut new = tempfile::NamedTempFile::new_in(folder)?;
    writeln!(new, "{}", hexadecimal(&rand::random::<[u8; 32]>()))?;
    new.as_file().sync_all()?;
    new.persist(&file).map_err(|error| error.error)?;
    fs::File::open(folder)?.sync_all()?;
    Ok(file)
}

/// The key of the stages. There is a new one at each start, which is useless once the server has stopped.
#[derive(Debug)]
pub(super) struct StageKey {
    /// Where the stages find it.
    pub(super) file: PathBuf,
    public: String,
}

impl StageKey {
    /// Makes a key and writes it into `folder`, readable only for the owner of the folder.
    pub(super) fn make(folder: &Path) -> io::Result<Self> {
        let pair = KeyPair::new_user();
        let seed = pair.seed().map_err(io::Error::other)?;
        let file = folder.join(KEY_FILE);
        fs::create_dir_all(folder)?;
        // An existing file keeps its mode when it is opened.
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut written = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file)?;
        writeln!(written, "{seed}")?;
        Ok(Self { file, public: pair.public_key() })
    }

    /// The users in nats-server's configuration. The public half of the key is not a secret.
    pub(super) fn users(&self) -> String {
        let denied = denied().map(|subject| format!("\"{subject}\"")).join(", ");
        format!(
            "authorization {{\n  users: [\n    {{ nkey: \"{}\" }}\n    {{\n      user: \"{NAMELESS_USER}\"\n      password: \
             \"{NAMELESS_USER}\"\n      permissions {{\n        publish {{ deny: [{denied}] }}\n        subscribe {{ deny: \"{PRESENCE_PREFIX}.>\" }}\n      \
             }}\n    }}\n  ]\n}}\nno_auth_user: \"{NAMELESS_USER}\"\n",
            self.public
        )
    }
}

/// What only the stages publish, or the server on their behalf: events, outcomes, dead letters, leases, reports, due commands, commands of
/// processes, announcements of changed rows, and the audit log. Anybody may say that it watches rows, even a gateway that is started by hand.
fn denied() -> [String; 9] {
    let of_prefix = |prefix: &str| format!("{prefix}.>");
    [
        of_prefix(EVENT_PREFIX),
        of_prefix(OUTCOME_PREFIX),
        of_prefix(DEAD_LETTER_PREFIX),
        format!("$KV.{LEASES_BUCKET}.>"),
        of_prefix("report"),
        of_prefix("due"),
        of_prefix(EFFECT_PREFIX),
        of_prefix(CHANGED_PREFIX),
        of_prefix(AUDIT_PREFIX),
    ]
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_folder_keeps_its_secret_and_nobody_else_reads_it() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("data");
        let file = id_secret(&folder).unwrap();
        let secret = fs::read(&file).unwrap();
        assert_eq!(secret.trim_ascii().len(), 64, "two digits for each of 32 bytes");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o077, 0);
        assert_eq!(id_secret(&folder).unwrap(), file);
        assert_eq!(fs::read(&file).unwrap(), secret);
        let names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [ID_SECRET_FILE]);
        assert_ne!(fs::read(id_secret(&parent.path().join("other")).unwrap()).unwrap(), secret);
    }
}
