//! Credentials that the daemon finds by itself: the AWS default chain (environment, profile,
//! container, instance role) or one profile.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use aws_config::{
    default_provider::credentials::DefaultCredentialsChain,
    profile::ProfileFileCredentialsProvider, provider_config::ProviderConfig,
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

/// A chain or a profile, asked again only when what it gave is about to expire, or has.
///
/// The SDK has a cache for this; as it is set up here, its first look-up never returns.
#[derive(Clone)]
pub(super) struct Cached<P> {
    source: P,
    current: Arc<tokio::sync::Mutex<Option<Credentials>>>,
    /// The token that the store takes no more.
    expired: Arc<Mutex<Option<Secret>>>,
}

impl<P: ProvideCredentials> Cached<P> {
    pub(super) fn of(source: P) -> Self {
        Self {
            source,
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
        match (self.source.provide_credentials().await, &*current) {
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

impl<P> fmt::Debug for Cached<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cached")
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

/// The default chain or a profile, set up anew each time it is asked: both keep what they once
/// read of the shared files, which operators renew.
#[derive(Clone)]
pub(super) struct Daemons {
    http_client: SharedHttpClient,
    region: Region,
    profile: Option<String>,
}

impl Daemons {
    /// Without a profile, the chain.
    pub(super) fn new(config: &StoreConfig, region: &str, profile: Option<String>) -> Self {
        Self {
            http_client: connector::http_client(connector::to_credentials(config)),
            region: Region::new(region.to_owned()),
            profile,
        }
    }

    async fn ask(&self) -> provider::Result {
        let config = ProviderConfig::without_region()
            .with_behavior_version(Some(BehaviorVersion::latest()))
            .with_http_client(self.http_client.clone())
            .with_region(Some(self.region.clone()));
        if let Some(name) = &self.profile {
            let profile = ProfileFileCredentialsProvider::builder()
                .profile_name(name)
                .configure(&config)
                .build();
            let asked = profile.provide_credentials().await;
            return asked.map_err(|error| of_profile(name, error));
        }
        let chain = DefaultCredentialsChain::builder()
            .region(self.region.clone())
            .configure(config)
            .build()
            .await;
        chain.provide_credentials().await
    }
}

/// What a profile lacks is told of it, for nothing else was asked.
fn of_profile(name: &str, error: CredentialsError) -> CredentialsError {
    match error {
        CredentialsError::CredentialsNotLoaded(_) => {
            CredentialsError::invalid_configuration(format!(
                "the profile {name:?} is not in AWS's config and credentials files (~/.aws), or \
                 has none"
            ))
        }
        other => other,
    }
}

impl fmt::Debug for Daemons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Daemons")
    }
}

impl ProvideCredentials for Daemons {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.ask())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives what it was told to, one answer after the other.
    #[derive(Debug)]
    struct Script(Mutex<Vec<provider::Result>>);

    impl ProvideCredentials for Script {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            let mut answers = self.0.lock().expect("no panic");
            future::ProvideCredentials::ready(answers.remove(0))
        }
    }

    fn good_for(seconds: u64) -> Credentials {
        let expiry = SystemTime::now() + Duration::from_secs(seconds);
        Credentials::new("id", "secret", None, Some(expiry), "script")
    }

    fn missing() -> provider::Result {
        Err(CredentialsError::not_loaded("nowhere"))
    }

    fn chain(answers: Vec<provider::Result>) -> Cached<Script> {
        Cached::of(Script(Mutex::new(answers)))
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
    async fn credentials_are_asked_for_again_when_the_store_takes_their_token_no_more() {
        let with = |token: &str| {
            Ok(Credentials::new(
                "id",
                "secret",
                Some(token.into()),
                None,
                "",
            ))
        };
        let chain = chain(vec![with("one"), with("two"), missing()]);
        let token = async || {
            let credentials = chain.load().await.expect("credentials");
            credentials.session_token().map(str::to_owned)
        };
        assert_eq!(token().await.as_deref(), Some("one"));
        chain.expired("another");
        assert_eq!(token().await.as_deref(), Some("one"));
        chain.expired("one");
        assert_eq!(token().await.as_deref(), Some("two"));
        assert_eq!(token().await.as_deref(), Some("two"));
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
