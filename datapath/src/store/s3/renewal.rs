//! Session tokens that expire while requests are made.
//!
//! An answer that says so is turned into trouble that may pass. The next attempt is signed with
//! what the signer has then: a request's credentials make it wait until they are replaced, the
//! default chain is asked again.

use std::fmt;

use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use aws_sdk_s3::config::{
    ConfigBag, Intercept, RuntimeComponents,
    interceptors::{BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextMut},
};
use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{orchestrator::OrchestratorError, result::ConnectorError},
};
use aws_smithy_types::config_bag::{Storable, StoreReplace};

use super::{
    super::{
        chain::{Cached, Daemons},
        credentials::SharedCredentials,
        location::{Credentials, Secret, StoreConfig},
    },
    retry::Answer,
};

const TOKEN_HEADER: &str = "x-amz-security-token";

/// What requests are signed by.
#[derive(Debug, Clone)]
pub(super) enum Signer {
    Request(SharedCredentials),
    Chain(Cached<Daemons>),
}

impl Signer {
    pub(super) fn new(credentials: SharedCredentials, config: &StoreConfig, region: &str) -> Self {
        let profile = match credentials.current() {
            Credentials::Static { .. } => return Self::Request(credentials),
            Credentials::Profile(name) => Some(name),
            Credentials::Chain => None,
        };
        Self::Chain(Cached::of(Daemons::new(config, region, profile)))
    }

    pub(super) fn provider(&self) -> SharedCredentialsProvider {
        SharedCredentialsProvider::new(self.clone())
    }

    /// Whether requests wait for other credentials.
    pub(super) fn waits(&self) -> bool {
        match self {
            Self::Request(credentials) => credentials.have_expired(),
            Self::Chain(_) => false,
        }
    }

    fn accepted(&self, token: &str) {
        if let Self::Request(credentials) = self {
            credentials.accepted(token);
        }
    }

    /// Notes that the store no more takes this token; whether to try again.
    fn expired(&self, token: &str, surely: bool) -> bool {
        match self {
            Self::Request(credentials) => credentials.expired(token, surely),
            Self::Chain(chain) => {
                chain.expired(token);
                true
            }
        }
    }
}

impl ProvideCredentials for Signer {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        match self {
            Self::Request(credentials) => credentials.provide_credentials(),
            Self::Chain(chain) => chain.provide_credentials(),
        }
    }
}

/// Whether an error of this code is about a token that has expired, and about nothing else.
fn expiry(code: &str) -> Option<bool> {
    match code {
        "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" => Some(true),
        // Stores other than AWS forget expired tokens, and then do not know them.
        "InvalidToken" | "InvalidTokenId" | "InvalidAccessKeyId" => Some(false),
        _ => None,
    }
}

/// Tells the signer what the store says of tokens.
#[derive(Debug)]
pub(super) struct Renewal(pub(super) Signer);

/// The token that an attempt was signed with, if any.
#[derive(Debug)]
struct Sent(Option<Secret>);

impl Storable for Sent {
    type Storer = StoreReplace<Self>;
}

/// A token has expired, and another one may come.
#[derive(Debug)]
struct Expired {
    code: String,
}

impl fmt::Display for Expired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the session token has expired ({})", self.code)
    }
}

impl std::error::Error for Expired {}

impl Intercept for Renewal {
    fn name(&self) -> &'static str {
        "ringback-renewal"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let token = context.request().headers().get(TOKEN_HEADER);
        let sent = Sent(token.map(Secret::new));
        config.interceptor_state().store_put(sent);
        Ok(())
    }

    fn modify_before_attempt_completion(
        &self,
        context: &mut FinalizerInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let (Some(Sent(Some(token))), Some(response)) = (config.load::<Sent>(), context.response())
        else {
            return Ok(());
        };
        if response.status().is_success() {
            self.0.accepted(token.reveal());
            return Ok(());
        }
        let code = Answer::of(response).code.to_owned();
        let Some(surely) = expiry(&code) else {
            return Ok(());
        };
        if self.0.expired(token.reveal(), surely) {
            tracing::info!(code, "the session token has expired");
            if let Some(error @ Err(_)) = context.output_or_error_mut() {
                let may_pass = ConnectorError::io(Expired { code }.into());
                *error = Err(OrchestratorError::connector(may_pass));
            }
        }
        Ok(())
    }
}
