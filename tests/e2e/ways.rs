//! What can lie on the way to a store: certificates, TLS in front of it, proxies.
//!
//! The data path's own tests include this file, too.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, IsCa, Issuer,
    KeyPair,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

/// A certificate authority of the test's own.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = parameters(&[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, "the test's own authority");
        params.distinguished_name = name;
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// Its certificate, as an operator writes it into a file.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for these names.
    pub(crate) fn issue(&self, names: &[&str]) -> Identity {
        self.sign(&parameters(names))
    }

    /// The same, valid up to 2020.
    pub(crate) fn issue_expired(&self, names: &[&str]) -> Identity {
        let mut params = parameters(names);
        params.not_before = rcgen::date_time_ymd(2019, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let signed = params.signed_by(&key, &self.issuer);
        Identity::new(&signed.expect("a certificate"), &key)
    }
}

/// A certificate and its key.
pub(crate) struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    pem: String,
}

impl Identity {
    /// One that nobody vouches for.
    pub(crate) fn self_signed(names: &[&str]) -> Self {
        Self::by_itself(&parameters(names))
    }

    /// The same, which says that it is an authority's, as `openssl req -x509` makes them.
    pub(crate) fn self_signed_authority(names: &[&str]) -> Self {
        let mut params = parameters(names);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self::by_itself(&params)
    }

    /// As an operator writes it into a file.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    fn by_itself(params: &CertificateParams) -> Self {
        let key = KeyPair::generate().expect("a key");
        Self::new(&params.self_signed(&key).expect("a certificate"), &key)
    }

    fn new(certificate: &Certificate, key: &KeyPair) -> Self {
        Self {
            certificate: certificate.der().clone(),
            pem: certificate.pem(),
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        }
    }

    fn acceptor(self) -> TlsAcceptor {
        let server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate], self.key)
            .expect("a certificate and its key");
        TlsAcceptor::from(Arc::new(server))
    }
}

fn parameters(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    CertificateParams::new(names).expect("names that a certificate can have")
}

/// Takes connections, each by a task.
pub(crate) async fn listen<F, T>(serve: F) -> SocketAddr
where
    F: Fn(TcpStream) -> T + Send + 'static,
    T: Future<Output = io::Result<()>> + Send + 'static,
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

/// TLS in front of the server at this `http://` address; its own port.
pub(crate) async fn tls_in_front_of(url: &str, identity: Identity) -> u16 {
    let acceptor = identity.acceptor();
    let plain = url.trim_start_matches("http://").to_owned();
    let address = listen(move |stream| {
        let (acceptor, plain) = (acceptor.clone(), plain.clone());
        async move {
            let mut tls = acceptor.accept(stream).await?;
            let mut behind = TcpStream::connect(plain).await?;
            copy_bidirectional(&mut tls, &mut behind).await.map(drop)
        }
    })
    .await;
    address.port()
}

/// A port where nobody listens.
pub(crate) async fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    listener.local_addr().expect("is bound").port()
}

/// A proxy for CONNECT and for plain requests.
pub(crate) struct Proxy {
    address: SocketAddr,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    targets: Mutex<Vec<String>>,
    tunnels: AtomicUsize,
    plain: AtomicUsize,
    refused: AtomicUsize,
}

impl Seen {
    fn targets(&self) -> MutexGuard<'_, Vec<String>> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Proxy {
    /// One that wants `authorization` to be the value of `Proxy-Authorization`, if anything.
    pub(crate) async fn start(authorization: Option<&'static str>) -> Self {
        let seen = Arc::new(Seen::default());
        let seeing = Arc::clone(&seen);
        let address = listen(move |stream| {
            let seen = Arc::clone(&seeing);
            async move { pass_on(stream, authorization, &seen).await }
        })
        .await;
        Self { address, seen }
    }

    /// The same behind TLS.
    pub(crate) async fn start_tls(identity: Identity, authorization: Option<&'static str>) -> Self {
        let seen = Arc::new(Seen::default());
        let (acceptor, seeing) = (identity.acceptor(), Arc::clone(&seen));
        let address = listen(move |stream| {
            let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seeing));
            async move { pass_on(acceptor.accept(stream).await?, authorization, &seen).await }
        })
        .await;
        Self { address, seen }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Connections that became tunnels.
    pub(crate) fn tunnels(&self) -> usize {
        self.seen.tunnels.load(Ordering::Relaxed)
    }

    /// Connections that carried plain requests.
    pub(crate) fn plain(&self) -> usize {
        self.seen.plain.load(Ordering::Relaxed)
    }

    /// Requests without the authorization that is wanted.
    pub(crate) fn refused(&self) -> usize {
        self.seen.refused.load(Ordering::Relaxed)
    }

    /// Hosts that it was asked for.
    pub(crate) fn targets(&self) -> Vec<String> {
        self.seen.targets().clone()
    }
}

/// A host that proxies alone can reach: to them it is this one.
pub(crate) const BEHIND_PROXIES: &str = "store.invalid";

fn resolve(host: &str) -> String {
    host.replace(BEHIND_PROXIES, "127.0.0.1")
}

async fn pass_on<S>(mut client: S, authorization: Option<&str>, seen: &Seen) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let is_wanted = |line: &str| {
        line.split_once(": ").is_some_and(|(name, value)| {
            name.eq_ignore_ascii_case("proxy-authorization") && Some(value) == authorization
        })
    };
    if authorization.is_some() && !text.lines().any(is_wanted) {
        seen.refused.fetch_add(1, Ordering::Relaxed);
        return client
            .write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
            .await;
    }
    let target = text.split_whitespace().nth(1).expect("a target").to_owned();
    let is_tunnel = text.starts_with("CONNECT ");
    let host = match target.strip_prefix("http://") {
        Some(rest) => rest.split('/').next().unwrap_or_default().to_owned(),
        // A plain request names the host in its first line.
        None => {
            assert!(is_tunnel, "no way to pass {target} on");
            target
        }
    };
    seen.targets().push(host.clone());
    let mut server = TcpStream::connect(resolve(&host)).await?;
    if is_tunnel {
        seen.tunnels.fetch_add(1, Ordering::Relaxed);
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    } else {
        seen.plain.fetch_add(1, Ordering::Relaxed);
        server.write_all(&head).await?;
    }
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}

/// A server that gives credentials to whoever asks, as a container's does: the store's own, with
/// this token.
pub(crate) async fn credentials_server(
    access_key_id: &str,
    secret_access_key: &str,
    token: Arc<Mutex<String>>,
) -> u16 {
    let keys =
        format!("\"AccessKeyId\":\"{access_key_id}\",\"SecretAccessKey\":\"{secret_access_key}\"");
    let address = listen(move |mut stream| {
        let token = token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let body =
            format!("{{{keys},\"Token\":\"{token}\",\"Expiration\":\"2099-01-01T00:00:00Z\"}}");
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len(),
        );
        async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await?);
            }
            stream.write_all(answer.as_bytes()).await
        }
    })
    .await;
    address.port()
}
