//! The ways to a store: TLS with and without verification, proxies with and without credentials.

#[path = "../../tests/e2e/ways.rs"]
#[expect(dead_code, reason = "the daemon's tests use the rest of it")]
mod ways;

use std::time::{Duration, Instant};

use bytes::Bytes;
use ringback_datapath::store::{
    Authorities, ObjectStore, PutNew, SharedCredentials, StoreError,
    location::{
        Credentials, Endpoint as Url, Proxy as ProxyUrl, RepositoryPath, Secret, StoreConfig,
    },
    s3::S3Store,
};
use ringback_endpoint::{Endpoint, Options};

use ways::{Identity, Proxy, tls_in_front_of};

async fn endpoint() -> Endpoint {
    Endpoint::start(Options {
        buckets: vec!["bucket".to_owned()],
        ..Options::default()
    })
    .await
    .expect("endpoint")
}

fn config(endpoint: &Endpoint, url: &str) -> StoreConfig {
    StoreConfig {
        endpoint: Url::parse(url).expect("a URL"),
        region: Some("us-east-1".to_owned()),
        verify_tls: true,
        authorities: Authorities::default(),
        http_proxy: None,
        https_proxy: None,
        credentials: Credentials::Static {
            access_key_id: Secret::new(endpoint.access_key_id()),
            secret_access_key: Secret::new(endpoint.secret_access_key()),
            session_token: None,
        },
    }
}

async fn connect(config: &StoreConfig) -> S3Store {
    let path = RepositoryPath::parse("bucket/repo").expect("a path");
    let credentials = SharedCredentials::new(config.credentials.clone());
    S3Store::connect(path, config, credentials, Duration::from_secs(20), 4).await
}

/// TLS with a certificate that nobody vouches for, in front of the endpoint.
async fn self_signed(endpoint: &Endpoint) -> String {
    let identity = Identity::self_signed(&["localhost"]);
    let port = tls_in_front_of(&endpoint.url(), identity).await;
    format!("https://localhost:{port}")
}

/// Writes an object and reads it back.
async fn use_store(store: &S3Store) -> Result<(), StoreError> {
    let bytes = Bytes::from_static(b"hello");
    assert_eq!(store.put_new("a", bytes.clone()).await?, PutNew::Created);
    assert_eq!(store.put_new("a", bytes.clone()).await?, PutNew::Exists);
    assert_eq!(store.get("a").await?, bytes);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_nobody_vouches_for_is_refused_at_once_and_taken_without_verification() {
    let endpoint = endpoint().await;
    let url = self_signed(&endpoint).await;
    let verifying = config(&endpoint, &url);
    let started = Instant::now();
    let error = use_store(&connect(&verifying).await)
        .await
        .expect_err("refused");
    assert!(started.elapsed() < Duration::from_secs(10), "not retried");
    assert!(error.to_string().contains("certificate"), "{error}");

    let trusting = StoreConfig {
        verify_tls: false,
        ..verifying
    };
    use_store(&connect(&trusting).await)
        .await
        .expect("any certificate will do");
}

fn parse(proxy: &str) -> Option<ProxyUrl> {
    ProxyUrl::parse("proxy", &format!("http://{proxy}")).expect("a proxy")
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_requests_go_through_the_http_proxy_with_its_credentials() {
    let endpoint = endpoint().await;
    // base64 of user:pass word
    let proxy = Proxy::start(Some("Basic dXNlcjpwYXNzIHdvcmQ=")).await;
    let direct = config(&endpoint, &endpoint.url());
    let proxied = StoreConfig {
        http_proxy: parse(&format!("user:pass%20word@127.0.0.1:{}", proxy.port())),
        ..direct
    };
    use_store(&connect(&proxied).await)
        .await
        .expect("through the proxy");
    assert!(proxy.plain() > 0);
    assert_eq!(proxy.refused(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_goes_through_a_tunnel_of_the_https_proxy() {
    let endpoint = endpoint().await;
    let url = self_signed(&endpoint).await;
    let proxy = Proxy::start(Some("Basic dXNlcjpwYXNz")).await;
    let proxied = StoreConfig {
        verify_tls: false,
        https_proxy: parse(&format!("user:pass@127.0.0.1:{}", proxy.port())),
        ..config(&endpoint, &url)
    };
    use_store(&connect(&proxied).await)
        .await
        .expect("through the tunnel");
    assert!(proxy.tunnels() > 0);
    assert_eq!(proxy.plain(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_and_missing_buckets_come_out_at_once_by_their_names() {
    let endpoint = endpoint().await;
    let right = config(&endpoint, &endpoint.url());
    let wrong = StoreConfig {
        credentials: Credentials::Static {
            access_key_id: Secret::new(endpoint.access_key_id()),
            secret_access_key: Secret::new("not the secret"),
            session_token: None,
        },
        ..right.clone()
    };
    let started = Instant::now();
    let error = use_store(&connect(&wrong).await).await.expect_err("denied");
    assert!(matches!(error, StoreError::Denied { .. }), "{error}");
    let path = RepositoryPath::parse("no-such-bucket/repo").expect("a path");
    let credentials = SharedCredentials::new(right.credentials.clone());
    let patience = Duration::from_secs(20);
    let elsewhere = S3Store::connect(path, &right, credentials, patience, 4).await;
    let error = elsewhere.get("a").await.expect_err("no bucket");
    assert!(matches!(error, StoreError::NoBucket { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10), "not retried");
}
