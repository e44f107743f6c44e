//! Credentials that can be replaced while requests are signed with them.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use aws_config::{
    default_provider::credentials::DefaultCredentialsChain,
    profile::ProfileFileCredentialsProvider, provider_config::ProviderConfig,
};
use aws_credential_types::{
    Credentials as AwsCredentials,
    provider::{self, ProvideCredentials, SharedCredentialsProvider, future},
};
use aws_sdk_s3::config::BehaviorVersion;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_types::region::Region;
use tokio::sync::Mutex;

use super::location::Credentials;

/// Credentials are renewed so long before they expire: longer than a request takes.
const EXPIRY_MARGIN: Duration = Duration::from_secs(5 * 60);

/// The credentials of a job; each poll of a backup may replace them, for session tokens expire.
#[derive(Clone)]
pub struct SharedCredentials(Arc<RwLock<Credentials>>);

impl SharedCredentials {
    /// Begins with these.
    pub fn new(credentials: Credentials) -> Self {
        Self(Arc::new(RwLock::new(credentials)))
    }

    /// From now on, sign with these. A change between static credentials and the chain takes
    /// effect with the next job.
    pub fn replace(&self, credentials: Credentials) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = credentials;
    }

    fn current(&self) -> Credentials {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) async fn provider(
        &self,
        http_client: &SharedHttpClient,
        region: &str,
    ) -> SharedCredentialsProvider {
        let provider_config = || {
            ProviderConfig::without_region()
                .with_behavior_version(Some(BehaviorVersion::latest()))
                .with_http_client(http_client.clone())
                .with_region(Some(Region::new(region.to_owned())))
        };
        match self.current() {
            Credentials::Static { .. } => SharedCredentialsProvider::new(self.clone()),
            Credentials::Profile(name) => {
                let profile = ProfileFileCredentialsProvider::builder()
                    .profile_name(name)
                    .configure(&provider_config())
                    .build();
                SharedCredentialsProvider::new(Cached::of(profile))
            }
            Credentials::Chain => {
                let chain = DefaultCredentialsChain::builder()
                    .region(Region::new(region.to_owned()))
                    .configure(provider_config())
                    .build()
                    .await;
                SharedCredentialsProvider::new(Cached::of(chain))
            }
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
        future::ProvideCredentials::ready(match self.current() {
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
            Credentials::Chain | Credentials::Profile(_) => {
                Err(provider::error::CredentialsError::not_loaded(
                    "the request now asks for the default chain; it takes effect with the next job",
                ))
            }
        })
    }
}

/// A chain or a profile, asked again only when what it gave is about to expire.
///
/// The SDK has a cache for this; as it is set up here, its first look-up never returns.
#[derive(Debug)]
struct Cached<P> {
    source: P,
    current: Mutex<Option<AwsCredentials>>,
}

impl<P: ProvideCredentials> Cached<P> {
    fn of(source: P) -> Self {
        Self {
            source,
            current: Mutex::default(),
        }
    }

    async fn load(&self) -> provider::Result {
        let mut current = self.current.lock().await;
        let soon = SystemTime::now() + EXPIRY_MARGIN;
        if let Some(credentials) = &*current
            && credentials.expiry().is_none_or(|expiry| expiry > soon)
        {
            return Ok(credentials.clone());
        }
        let credentials = self.source.provide_credentials().await?;
        *current = Some(credentials.clone());
        Ok(credentials)
    }
}

impl<P: ProvideCredentials> ProvideCredentials for Cached<P> {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.load())
    }
}
