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
    provider::{
        self, ProvideCredentials, SharedCredentialsProvider, error::CredentialsError, future,
    },
};
use aws_sdk_s3::config::BehaviorVersion;
use aws_types::region::Region;
use tokio::sync::Mutex;

use super::{
    connector,
    location::{Credentials, StoreConfig},
};

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
        config: &StoreConfig,
        region: &str,
    ) -> SharedCredentialsProvider {
        let provider_config = || {
            ProviderConfig::without_region()
                .with_behavior_version(Some(BehaviorVersion::latest()))
                .with_http_client(connector::http_client(connector::to_credentials(config)))
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
            Credentials::Chain | Credentials::Profile(_) => Err(CredentialsError::not_loaded(
                "the request now asks for other credentials; they take effect with the next job",
            )),
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
        let found = self.source.provide_credentials().await;
        match (found, &*current) {
            (Ok(credentials), _) => Ok(current.insert(credentials).clone()),
            (Err(_), Some(last)) if last.expiry().is_none_or(|at| at > SystemTime::now()) => {
                Ok(last.clone())
            }
            // There were some, so there will be some again: the provider has a bad moment.
            (Err(error), Some(_)) => Err(CredentialsError::provider_error(error)),
            (Err(error), None) => Err(error),
        }
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex as SyncMutex;

    use super::*;

    /// Gives what it was told to, one answer after the other.
    #[derive(Debug)]
    struct Script(SyncMutex<Vec<provider::Result>>);

    impl ProvideCredentials for Script {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            let mut answers = self.0.lock().expect("no panic");
            future::ProvideCredentials::ready(answers.remove(0))
        }
    }

    fn good_for(seconds: u64) -> AwsCredentials {
        let expiry = SystemTime::now() + Duration::from_secs(seconds);
        AwsCredentials::new("id", "secret", None, Some(expiry), "script")
    }

    fn missing() -> provider::Result {
        Err(CredentialsError::not_loaded("nowhere"))
    }

    fn chain(answers: Vec<provider::Result>) -> Cached<Script> {
        Cached::of(Script(SyncMutex::new(answers)))
    }

    #[tokio::test]
    async fn credentials_are_asked_for_again_when_they_are_about_to_expire() {
        let soon = EXPIRY_MARGIN.as_secs() - 10;
        let chain = chain(vec![Ok(good_for(soon)), Ok(good_for(3600)), missing()]);
        for _ in 0..3 {
            chain.load().await.expect("credentials");
        }
        assert_eq!(chain.source.0.lock().expect("no panic").len(), 1);
    }

    #[tokio::test]
    async fn a_provider_that_had_credentials_has_a_bad_moment_and_one_that_had_none_has_none() {
        let never = chain(vec![missing()]).load().await;
        assert!(matches!(
            never,
            Err(CredentialsError::CredentialsNotLoaded(_))
        ));
        // Those it gave are good for a while yet.
        let soon = EXPIRY_MARGIN.as_secs() - 10;
        let renewing = chain(vec![Ok(good_for(soon)), missing()]);
        for _ in 0..2 {
            renewing.load().await.expect("credentials");
        }
        let expired = chain(vec![Ok(good_for(0)), missing()]);
        expired.load().await.expect("as they come");
        let error = expired.load().await.expect_err("a bad moment");
        assert!(matches!(error, CredentialsError::ProviderError(_)));
    }
}
