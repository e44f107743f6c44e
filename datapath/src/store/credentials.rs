//! Credentials that can be replaced while requests are signed with them.

use std::{
    fmt,
    mem::discriminant,
    sync::{Arc, Weak},
};

use aws_credential_types::{
    Credentials as AwsCredentials,
    provider::{self, ProvideCredentials, error::CredentialsError, future},
};
use tokio::sync::watch;

use super::location::Credentials;

/// The credentials of a job; each poll of a backup may replace them, for session tokens expire.
#[derive(Clone)]
pub struct SharedCredentials {
    held: Arc<watch::Sender<Held>>,
    renewable: bool,
}

struct Held {
    credentials: Credentials,
    /// The store has taken them.
    accepted: bool,
    /// The store takes them no more.
    expired: bool,
}

impl Held {
    fn new(credentials: Credentials) -> Self {
        Self {
            credentials,
            accepted: false,
            expired: false,
        }
    }

    fn has_token(&self, token: &str) -> bool {
        match &self.credentials {
            Credentials::Static {
                session_token: Some(held),
                ..
            } => held.reveal() == token,
            _ => false,
        }
    }
}

/// [`SharedCredentials`] for who may replace them and does not keep them: when a job has ended, its are gone.
#[derive(Clone)]
pub struct WeakCredentials(Weak<watch::Sender<Held>>);

impl WeakCredentials {
    /// From now on, sign with these. Credentials of another kind (static ones, a profile, the chain) are for
    /// the next job: this one goes on with what it has.
    pub fn replace(&self, credentials: Credentials) {
        let Some(held) = self.0.upgrade() else {
            return;
        };
        held.send_if_modified(|held| {
            let is_other = held.credentials != credentials
                && discriminant(&held.credentials) == discriminant(&credentials);
            if is_other {
                *held = Held::new(credentials);
            }
            is_other
        });
    }

    /// See [`SharedCredentials::have_expired`].
    pub fn have_expired(&self) -> bool {
        self.0.upgrade().is_some_and(|held| held.borrow().expired)
    }
}

impl SharedCredentials {
    /// Signs with these. Once their token has expired, requests fail.
    pub fn new(credentials: Credentials) -> Self {
        Self {
            held: Arc::new(watch::Sender::new(Held::new(credentials))),
            renewable: false,
        }
    }

    /// Begins with these. Once their token has expired, requests wait until they are
    /// [replaced](WeakCredentials::replace), for as long as the store's patience lasts.
    pub fn renewable(credentials: Credentials) -> Self {
        Self {
            renewable: true,
            ..Self::new(credentials)
        }
    }

    /// For who may replace them.
    pub fn downgrade(&self) -> WeakCredentials {
        WeakCredentials(Arc::downgrade(&self.held))
    }

    /// Whether requests wait for other credentials.
    pub fn have_expired(&self) -> bool {
        self.held.borrow().expired
    }

    pub(super) fn current(&self) -> Credentials {
        self.held.borrow().credentials.clone()
    }

    /// Notes that the store took a request with this token.
    pub(super) fn accepted(&self, token: &str) {
        self.held.send_if_modified(|held| {
            held.accepted |= held.has_token(token);
            false
        });
    }

    /// Notes that the store no more takes this token; whether another one is there or may come.
    /// Without `surely`, the store's words are also those for a token that never was one.
    pub(super) fn expired(&self, token: &str, surely: bool) -> bool {
        let mut may_pass = self.renewable;
        self.held.send_if_modified(|held| {
            if !held.has_token(token) {
                // Signed with it before it was replaced.
                may_pass = true;
            } else if !(surely || held.accepted) {
                may_pass = false;
            } else if may_pass {
                held.expired = true;
            }
            false
        });
        may_pass
    }

    async fn valid(&self) -> Credentials {
        let mut held = self.held.subscribe();
        let valid = held.wait_for(|held| !held.expired).await;
        valid.expect("its sender is ours").credentials.clone()
    }

    async fn load(&self) -> provider::Result {
        match self.valid().await {
            Credentials::Static {
                access_key_id,
                secret_access_key,
                session_token,
            } => Ok(AwsCredentials::new(
                access_key_id.reveal(),
                secret_access_key.reveal(),
                session_token.map(|token| token.reveal().to_owned()),
                None,
                "ringback-request",
            )),
            Credentials::Chain | Credentials::Profile(_) => Err(CredentialsError::not_loaded(
                "only static credentials can be signed with as they are",
            )),
        }
    }
}

impl fmt::Debug for SharedCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedCredentials")
    }
}

impl ProvideCredentials for SharedCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.load())
    }
}
