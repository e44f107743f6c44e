//! The AWS default chain: environment, profile, container, instance role.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use aws_config::{
    default_provider::credentials::DefaultCredentialsChain, provider_config::ProviderConfig,
};
use aws_credential_types::{
    Credentials,
    provider::{self, ProvideCredentials, error::CredentialsError, future},
};
use aws_sdk_s3::config::BehaviorVersion;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_types::region::Region;

use super::{
    connector,
    location::{Secret, StoreConfig},
};

/// Credentials are renewed so long before they expire: longer than a request takes.
const EXPIRY_MARGIN: Duration = Duration::from_secs(5 * 60);

/// The default chain, asked again only when what it gave is about to expire, or has.
///
/// The SDK has a cache for this; as it is set up here, its first look-up never returns.
#[derive(Clone)]
pub(super) struct CachedChain {
    http_client: SharedHttpClient,
    region: Region,
    current: Arc<tokio::sync::Mutex<Option<Credentials>>>,
    /// The token that the store takes no more.
    expired: Arc<Mutex<Option<Secret>>>,
}

impl CachedChain {
    pub(super) fn new(config: &StoreConfig, region: &str) -> Self {
        Self {
            http_client: connector::http_client(connector::to_credentials(config)),
            region: Region::new(region.to_owned()),
            current: Arc::default(),
            expired: Arc::default(),
        }
    }

    /// Notes that the store no more takes this token.
    pub(super) fn expired(&self, token: &str) {
        let mut expired = self.expired.lock().unwrap_or_else(PoisonError::into_inner);
        *expired = Some(Secret::new(token));
    }

    fn has_expired(&self, credentials: &Credentials) -> bool {
        let expired = self.expired.lock().unwrap_or_else(PoisonError::into_inner);
        let expired = expired.as_ref().map(Secret::reveal);
        expired.is_some() && credentials.session_token() == expired
    }

    async fn load(&self) -> provider::Result {
        let mut current = self.current.lock().await;
        let soon = SystemTime::now() + EXPIRY_MARGIN;
        if let Some(credentials) = &*current
            && credentials.expiry().is_none_or(|expiry| expiry > soon)
            && !self.has_expired(credentials)
        {
            return Ok(credentials.clone());
        }
        match (self.ask().await, &*current) {
            (Ok(credentials), _) => Ok(current.insert(credentials).clone()),
            (Err(_), Some(last)) if last.expiry().is_none_or(|at| at > SystemTime::now()) => {
                Ok(last.clone())
            }
            // There were some, so there will be some again: the provider has a bad moment.
            (Err(error), Some(_)) => Err(CredentialsError::provider_error(error)),
            (Err(error), None) => Err(error),
        }
    }

    /// Built anew each time: the chain keeps what it once read of profiles, which operators
    /// renew.
    async fn ask(&self) -> provider::Result {
        let config = ProviderConfig::without_region()
            .with_behavior_version(Some(BehaviorVersion::latest()))
            .with_http_client(self.http_client.clone())
            .with_region(Some(self.region.clone()));
        let chain = DefaultCredentialsChain::builder()
            .region(self.region.clone())
            .configure(config)
            .build()
            .await;
        chain.provide_credentials().await
    }
}

impl fmt::Debug for CachedChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CachedChain")
    }
}

impl ProvideCredentials for CachedChain {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.load())
    }
}
