//! A nats-server whose users may only do what their allow-lists say. A client without a user is the administrator.

use std::fmt::Write as _;

use async_nats::jetstream;

use super::test_server::TestServer;
use crate::provision::{ProvisionOptions, provision};

/// A server with all streams and restricted users.
#[derive(Debug)]
pub struct RestrictedServer {
    server: TestServer,
}

impl RestrictedServer {
    /// The password of every user.
    pub const PASSWORD: &'static str = "for tests only";

    /// Starts it with these users: name, subjects on which the user may publish, subjects to which it may subscribe.
    ///
    /// # Panics
    /// When it cannot be started or the streams cannot be made.
    pub async fn start(users: &[(String, Vec<String>, Vec<String>)]) -> Self {
        let mut text = format!(
            "no_auth_user: administrator\nauthorization {{ users: [\n  {{ user: administrator, password: \"{}\" }}\n",
            Self::PASSWORD
        );
        for (name, publish, subscribe) in users {
            writeln!(
                text,
                "  {{ user: \"{name}\", password: \"{}\", permissions: {{ publish: {{ allow: {publish:?} }}, subscribe: \
                 {{ allow: {subscribe:?} }} }} }}",
                Self::PASSWORD
            )
            .expect("text can always grow");
        }
        text.push_str("] }\n");
        let server = TestServer::start_with(|config| config.extra.clone_from(&text)).await;
        let context = jetstream::new(server.client().await);
        provision(&context, &ProvisionOptions::default()).await.expect("the streams can be made");
        Self { server }
    }

    /// The URL for clients.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// The server, for the administrator.
    pub fn server(&self) -> &TestServer {
        &self.server
    }
}
