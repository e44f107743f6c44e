//! The ways to a store: TLS with and without verification, proxies with and without credentials.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use ringback_datapath::store::{
    ObjectStore, PutNew, SharedCredentials, StoreError,
    location::{Credentials, Endpoint as Url, Proxy, RepositoryPath, Secret, StoreConfig},
    s3::S3Store,
};
use ringback_endpoint::{Endpoint, Options};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

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

/// Writes an object and reads it back.
async fn use_store(store: &S3Store) -> Result<(), StoreError> {
    let bytes = Bytes::from_static(b"hello");
    assert_eq!(store.put_new("a", bytes.clone()).await?, PutNew::Created);
    assert_eq!(store.put_new("a", bytes.clone()).await?, PutNew::Exists);
    assert_eq!(store.get("a").await?, bytes);
    Ok(())
}

/// Takes connections, each by a task.
async fn listen<F, T>(serve: F) -> SocketAddr
where
    F: Fn(TcpStream) -> T + Send + 'static,
    T: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("is bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// TLS with a certificate that nobody vouches for, in front of the endpoint.
async fn self_signed(endpoint: &Endpoint) -> String {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .expect("a certificate and its key");
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let plain = endpoint.url().replace("http://", "");
    let address = listen(move |stream| {
        let (acceptor, plain) = (acceptor.clone(), plain.clone());
        async move {
            let mut tls = acceptor.accept(stream).await?;
            let mut behind = TcpStream::connect(plain).await?;
            copy_bidirectional(&mut tls, &mut behind).await.map(drop)
        }
    })
    .await;
    format!("https://localhost:{}", address.port())
}

#[derive(Default)]
struct Counts {
    tunnels: AtomicUsize,
    plain: AtomicUsize,
    refused: AtomicUsize,
}

/// A proxy for CONNECT and for plain requests; `authorization` is what it wants to see.
async fn proxy(authorization: Option<&'static str>) -> (SocketAddr, Arc<Counts>) {
    let counts = Arc::new(Counts::default());
    let counting = Arc::clone(&counts);
    let address = listen(move |stream| pass_on(stream, authorization, Arc::clone(&counting))).await;
    (address, counts)
}

async fn pass_on(
    mut client: TcpStream,
    authorization: Option<&str>,
    counts: Arc<Counts>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let text = String::from_utf8_lossy(&head).to_lowercase();
    let wanted = authorization.map(|value| format!("proxy-authorization: {value}").to_lowercase());
    if wanted.is_some_and(|wanted| !text.contains(&wanted)) {
        counts.refused.fetch_add(1, Ordering::Relaxed);
        return client
            .write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
            .await;
    }
    let target = text.split_whitespace().nth(1).expect("a target");
    if text.starts_with("connect ") {
        counts.tunnels.fetch_add(1, Ordering::Relaxed);
        let mut server = TcpStream::connect(target).await?;
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
        return copy_bidirectional(&mut client, &mut server).await.map(drop);
    }
    counts.plain.fetch_add(1, Ordering::Relaxed);
    let host = target
        .strip_prefix("http://")
        .and_then(|rest| rest.split('/').next())
        .expect("a plain request names the host in its first line");
    let mut server = TcpStream::connect(host).await?;
    server.write_all(&head).await?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
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

#[tokio::test(flavor = "multi_thread")]
async fn plain_requests_go_through_the_http_proxy_with_its_credentials() {
    let endpoint = endpoint().await;
    // base64 of user:pass word
    let (address, counts) = proxy(Some("Basic dXNlcjpwYXNzIHdvcmQ=")).await;
    let direct = config(&endpoint, &endpoint.url());
    let proxied = StoreConfig {
        http_proxy: Proxy::parse("http_proxy", &format!("http://user:pass%20word@{address}"))
            .expect("a proxy"),
        ..direct
    };
    use_store(&connect(&proxied).await)
        .await
        .expect("through the proxy");
    assert!(counts.plain.load(Ordering::Relaxed) > 0);
    assert_eq!(counts.refused.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_goes_through_a_tunnel_of_the_https_proxy() {
    let endpoint = endpoint().await;
    let url = self_signed(&endpoint).await;
    let (address, counts) = proxy(Some("Basic dXNlcjpwYXNz")).await;
    let proxied = StoreConfig {
        verify_tls: false,
        https_proxy: Proxy::parse("https_proxy", &format!("http://user:pass@{address}"))
            .expect("a proxy"),
        ..config(&endpoint, &url)
    };
    use_store(&connect(&proxied).await)
        .await
        .expect("through the tunnel");
    assert!(counts.tunnels.load(Ordering::Relaxed) > 0);
    assert_eq!(counts.plain.load(Ordering::Relaxed), 0);
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
