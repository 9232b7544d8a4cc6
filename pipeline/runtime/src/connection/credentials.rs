//! The credentials for a server. They are read from their files at each connect, so a password, a token, a seed or a JWT can be rotated by
//! replacing the file.

use async_nats::{Auth, AuthError, ConnectOptions};
use millstream_contract::error_text::one_line;
use nkeys::KeyPair;

use super::{Authentication, ConnectError, read_file};

/// Options that present the credentials at the first connect and at each reconnect.
///
/// # Errors
/// When a file cannot be read now, or holds no credentials.
pub(super) fn options(authentication: &Authentication) -> Result<ConnectOptions, ConnectError> {
    check(authentication)?;
    if *authentication == Authentication::None {
        return Ok(ConnectOptions::new());
    }
    let authentication = authentication.clone();
    Ok(ConnectOptions::with_auth_callback(move |nonce| {
        let presented = present(&authentication, &nonce).map_err(AuthError::new);
        async move { presented }
    }))
}

/// Reads every file. Whether a seed can sign is found out only when it has to.
///
/// # Errors
/// When a file cannot be read now, or holds no credentials.
pub(super) fn check(authentication: &Authentication) -> Result<(), ConnectError> {
    match authentication {
        Authentication::None => Ok(()),
        Authentication::Password { password, .. } => password.read("nats.password_file").map(drop),
        Authentication::Token(token) => token.read("nats.token_file").map(drop),
        Authentication::NkeyFile(path) => read_file("nats.nkey_file", path).map(drop),
        Authentication::CredentialsFile(path) => {
            let text = read_file("nats.credentials_file", path)?;
            parse(&text).map(drop).ok_or_else(|| ConnectError::NoCredentials {
                what: "nats.credentials_file",
                path: path.clone(),
            })
        }
    }
}

fn present(authentication: &Authentication, nonce: &[u8]) -> Result<Auth, String> {
    let mut presented = Auth::new();
    match authentication {
        Authentication::None => {}
        Authentication::Password { user, password } => {
            presented.username = Some(user.clone());
            presented.password = Some(password.read("nats.password_file").map_err(|error| one_line(&error))?);
        }
        Authentication::Token(token) => {
            presented.token = Some(token.read("nats.token_file").map_err(|error| one_line(&error))?);
        }
        Authentication::NkeyFile(path) => {
            let seed = read_file("nats.nkey_file", path).map_err(|error| one_line(&error))?;
            let pair = KeyPair::from_seed(&seed).map_err(|error| one_line(&error))?;
            presented.signature = Some(pair.sign(nonce).map_err(|error| one_line(&error))?);
            presented.nkey = Some(pair.public_key());
        }
        Authentication::CredentialsFile(path) => {
            let text = read_file("nats.credentials_file", path).map_err(|error| one_line(&error))?;
            let (jwt, seed) = parse(&text).ok_or("the credentials file holds no JWT and seed")?;
            let pair = KeyPair::from_seed(seed).map_err(|error| one_line(&error))?;
            presented.signature = Some(pair.sign(nonce).map_err(|error| one_line(&error))?);
            presented.jwt = Some(jwt.to_owned());
        }
    }
    Ok(presented)
}

/// The JWT and the seed in a credentials file. Each is the line after the one that opens its part.
fn parse(text: &str) -> Option<(&str, &str)> {
    let part = |name: &str| {
        let mut lines = text
            .lines()
            .map(str::trim)
            .skip_while(|line| !(line.starts_with("---") && line.contains("BEGIN") && line.contains(name)));
        let _opens = lines.next()?;
        lines.find(|line| !line.is_empty()).filter(|line| !line.starts_with("---"))
    };
    Some((part("JWT")?, part("SEED")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_found_between_their_lines() {
        let text = "-----BEGIN NATS USER JWT-----\r\neyJ0\r\n------END NATS USER JWT------\r\n\r\n*** IMPORTANT ***\r\n\
                    -----BEGIN USER NKEY SEED-----\r\nSUAD\r\n------END USER NKEY SEED------";
        assert_eq!(parse(text), Some(("eyJ0", "SUAD")));
        assert_eq!(parse("eyJ0\nSUAD\n"), None);
        assert_eq!(parse("-----BEGIN NATS USER JWT-----\n------END NATS USER JWT------\n"), None);
    }
}
