//! The HTTP client below the SDK: proxies of one request only, and TLS with or without
//! verification, neither of which the SDK's own client offers.

use std::{
    env, fmt,
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use aws_smithy_runtime_api::{
    client::{
        http::{
            HttpConnector as SmithyConnector, HttpConnectorFuture, SharedHttpClient,
            SharedHttpConnector, http_client_fn,
        },
        orchestrator::HttpRequest,
        result::ConnectorError,
    },
    http::Response,
};
use aws_smithy_types::body::SdkBody;
use http::{HeaderValue, Uri, header::PROXY_AUTHORIZATION, uri::Scheme};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::{
        legacy::{
            Client,
            connect::{Connected, Connection, HttpConnector, proxy::Tunnel},
        },
        proxy::matcher::{Intercept, Matcher},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::net::TcpStream;
use tower::Service;

use super::location::StoreConfig;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type HyperClient = Client<HttpsConnector<Dialer>, SdkBody>;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Shorter than what load balancers in front of stores allow, so that we close first.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// What carries requests as `config` asks for it.
pub(super) fn connector(config: &StoreConfig) -> SharedHttpConnector {
    let proxies = Arc::new(proxies(config));
    let https = HttpsConnectorBuilder::new()
        .with_tls_config(tls(config.verify_tls))
        .https_or_http()
        .enable_http1()
        .wrap_connector(Dialer::new(Arc::clone(&proxies)));
    let client = Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_timer(TokioTimer::new())
        .build(https);
    SharedHttpConnector::new(Connector { client, proxies })
}

/// The connector as the SDK takes it.
pub(super) fn http_client(connector: SharedHttpConnector) -> SharedHttpClient {
    http_client_fn(move |_settings, _components| connector.clone())
}

/// The request's own proxies; without any, those of the environment.
fn proxies(config: &StoreConfig) -> Matcher {
    if config.http_proxy.is_none() && config.https_proxy.is_none() {
        return Matcher::from_env();
    }
    let mut matcher = Matcher::builder();
    if let Some(proxy) = &config.http_proxy {
        matcher = matcher.http(proxy.uri().to_string());
    }
    if let Some(proxy) = &config.https_proxy {
        matcher = matcher.https(proxy.uri().to_string());
    }
    let exceptions = env::var("NO_PROXY").or_else(|_| env::var("no_proxy"));
    matcher.no(exceptions.unwrap_or_default()).build()
}

fn tls(verify: bool) -> ClientConfig {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("ring has the cipher suites of TLS 1.2 and 1.3");
    if verify {
        builder
            .with_root_certificates(roots())
            .with_no_client_auth()
    } else {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth()
    }
}

/// The system's certificates, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`; read once.
fn roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    Arc::clone(ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "cannot read some of the system's certificates");
        }
        roots.add_parsable_certificates(found.certs);
        Arc::new(roots)
    }))
}

#[derive(Clone)]
struct Connector {
    client: HyperClient,
    proxies: Arc<Matcher>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

impl SmithyConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let this = self.clone();
        HttpConnectorFuture::new(async move {
            let mut request = request
                .try_into_http1x()
                .map_err(|error| ConnectorError::user(error.into()))?;
            if let Some(authorization) = this.plain_proxy_authorization(request.uri()) {
                request
                    .headers_mut()
                    .insert(PROXY_AUTHORIZATION, authorization);
            }
            let response = this.client.request(request).await.map_err(classify)?;
            Response::try_from(response.map(SdkBody::from_body_1_x))
                .map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

impl Connector {
    /// A tunnel is authorised when it is dug; a request through a plain proxy, each by itself.
    fn plain_proxy_authorization(&self, uri: &Uri) -> Option<HeaderValue> {
        if uri.scheme() != Some(&Scheme::HTTP) {
            return None;
        }
        self.proxies.intercept(uri)?.basic_auth().cloned()
    }
}

/// A certificate that does not verify stays so; all other trouble may pass.
fn classify(error: hyper_util::client::legacy::Error) -> ConnectorError {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(cause) = source {
        if cause.is::<rustls::Error>() || certificate_refused(cause) {
            return ConnectorError::user(error.into());
        }
        source = cause.source();
    }
    ConnectorError::io(error.into())
}

/// A TLS error hides inside I/O errors, one in the other, whose `source` skips what they hold.
fn certificate_refused(cause: &(dyn std::error::Error + 'static)) -> bool {
    let mut held = cause
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref);
    while let Some(error) = held {
        if error.is::<rustls::Error>() {
            return true;
        }
        held = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
    }
    false
}

/// Connects to a host, or to the proxy on the way there.
#[derive(Clone)]
struct Dialer {
    tcp: HttpConnector,
    proxies: Arc<Matcher>,
}

impl Dialer {
    fn new(proxies: Arc<Matcher>) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        Self { tcp, proxies }
    }

    async fn dial(mut self, to: Uri) -> Result<Dialed, BoxError> {
        let Some(proxy) = self.proxies.intercept(&to) else {
            let stream = self.tcp.call(to).await?;
            return Ok(Dialed {
                stream,
                through_plain_proxy: false,
            });
        };
        if to.scheme() == Some(&Scheme::HTTPS) {
            let stream = self.tunnel(&proxy).call(to).await?;
            return Ok(Dialed {
                stream,
                through_plain_proxy: false,
            });
        }
        let stream = self.tcp.call(proxy.uri().clone()).await?;
        Ok(Dialed {
            stream,
            through_plain_proxy: true,
        })
    }

    fn tunnel(&self, proxy: &Intercept) -> Tunnel<HttpConnector> {
        let tunnel = Tunnel::new(proxy.uri().clone(), self.tcp.clone());
        match proxy.basic_auth() {
            Some(authorization) => tunnel.with_auth(authorization.clone()),
            None => tunnel,
        }
    }
}

impl Service<Uri> for Dialer {
    type Response = Dialed;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Dialed, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        Box::pin(self.clone().dial(to))
    }
}

/// A connection; through a plain proxy, requests must name the host in their first line.
struct Dialed {
    stream: TokioIo<TcpStream>,
    through_plain_proxy: bool,
}

impl Connection for Dialed {
    fn connected(&self) -> Connected {
        self.stream.connected().proxy(self.through_plain_proxy)
    }
}

impl Read for Dialed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl Write for Dialed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// What `verify_tls` false means: any certificate will do, signatures must still be right.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
