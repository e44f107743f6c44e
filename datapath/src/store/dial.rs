//! Connections: to a host, or to a proxy on the way there and on through a tunnel.

use std::{
    fmt::Display,
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use aws_smithy_types::body::SdkBody;
use http::{
    Method, Request, Uri,
    header::{HOST, PROXY_AUTHORIZATION},
    uri::Scheme,
};
use hyper::{
    client::conn::http1,
    rt::{Read, ReadBuf, ReadBufCursor, Write},
    upgrade,
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::{
    client::legacy::connect::{
        Connected, Connection, HttpConnector,
        dns::{GaiAddrs, GaiResolver, Name},
    },
    rt::TokioIo,
};
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tower::Service;

use super::{
    proxies::{Proxies, Via},
    trouble::Trouble,
};

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Tcp = HttpConnector<Resolver>;
type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;

/// For all addresses of a host together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For a proxy's answer to CONNECT, which it gives when it has a connection itself.
const TUNNEL_TIMEOUT: Duration = Duration::from_secs(30);

/// Connects as a request's proxies want it.
#[derive(Clone)]
pub(super) struct Dialer {
    tcp: Tcp,
    to_proxy: HttpsConnector<Tcp>,
    proxies: Arc<Proxies>,
}

impl Dialer {
    pub(super) fn new(proxies: Arc<Proxies>, tls: ClientConfig) -> Self {
        let tcp = tcp(Resolver(GaiResolver::new()));
        let to_proxy = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp.clone());
        Self {
            tcp,
            to_proxy,
            proxies,
        }
    }

    async fn dial(mut self, to: Uri) -> Result<Dialed, Trouble> {
        let encrypted = to.scheme() == Some(&Scheme::HTTPS);
        let Some(via) = self.proxies.on_the_way(&to) else {
            let connected = self.tcp.call(to).await;
            let stream = connected.map_err(|error| Trouble::behind(&error))?;
            return Ok(Dialed::new(MaybeHttpsStream::Http(stream), !encrypted));
        };
        let stream = self.dial_proxy(&via).await?;
        if !encrypted {
            return Ok(Dialed {
                through_plain_proxy: true,
                ..Dialed::new(stream, true)
            });
        }
        let tunnel = tokio::time::timeout(TUNNEL_TIMEOUT, dig(stream, &to, &via)).await;
        let in_time = tunnel.map_err(|_| {
            let silence = format!("it did not answer within {} s", TUNNEL_TIMEOUT.as_secs());
            Trouble::passing(silence).of_proxy(&via.proxy)
        })?;
        Ok(Dialed::new(in_time?, false))
    }

    async fn dial_proxy(&mut self, via: &Via) -> Result<Stream, Trouble> {
        if !matches!(via.proxy.scheme_str(), Some("http" | "https")) {
            let unknown = "its address should begin with http:// or https://";
            return Err(Trouble::lasting(unknown).of_proxy(&via.proxy));
        }
        let connected = self.to_proxy.call(via.proxy.clone()).await;
        connected.map_err(|error| Trouble::behind(&*error).of_proxy(&via.proxy))
    }
}

impl Service<Uri> for Dialer {
    type Response = Dialed;
    type Error = Trouble;
    type Future = Boxed<Result<Dialed, Trouble>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Trouble>> {
        let ready = self.tcp.poll_ready(context);
        ready.map_err(|error| Trouble::behind(&error))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        Box::pin(self.clone().dial(to))
    }
}

/// TCP to the first address that answers: IPv6 and IPv4 side by side, and none may take all the
/// time.
fn tcp<R>(resolver: R) -> HttpConnector<R> {
    let mut tcp = HttpConnector::new_with_resolver(resolver);
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp
}

/// Has the proxy connect us to a host.
async fn dig(stream: Stream, to: &Uri, via: &Via) -> Result<Stream, Trouble> {
    let trouble = |error: hyper::Error| Trouble::behind(&error).of_proxy(&via.proxy);
    let host = format!(
        "{}:{}",
        to.host().unwrap_or_default(),
        to.port_u16().unwrap_or(443)
    );
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri(&host)
        .header(HOST, &host);
    if let Some(authorization) = &via.authorization {
        request = request.header(PROXY_AUTHORIZATION, authorization);
    }
    let request = request
        .body(SdkBody::empty())
        .map_err(|error| Trouble::lasting(format!("cannot ask for a tunnel to {host}: {error}")))?;
    let (mut sender, connection) = http1::handshake(stream).await.map_err(trouble)?;
    tokio::spawn(connection.with_upgrades());
    let answer = sender.send_request(request).await.map_err(trouble)?;
    if !answer.status().is_success() {
        return Err(Trouble::refused_by_proxy(&via.proxy, answer.status()));
    }
    let tunnel = upgrade::on(answer).await.map_err(trouble)?;
    let tunnel = tunnel.downcast::<Stream>().expect("it is what we gave");
    if tunnel.read_buf.is_empty() {
        Ok(tunnel.io)
    } else {
        // In TLS the client speaks first.
        let early = "it sent more than the answer to CONNECT";
        Err(Trouble::passing(early).of_proxy(&via.proxy))
    }
}

/// The system's resolver, whose errors name the host.
#[derive(Clone)]
struct Resolver(GaiResolver);

impl Service<Name> for Resolver {
    type Response = GaiAddrs;
    type Error = Trouble;
    type Future = Boxed<Result<GaiAddrs, Trouble>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Trouble>> {
        self.0
            .poll_ready(context)
            .map_err(|error| unresolved("", &error))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let addresses = self.0.call(name.clone());
        Box::pin(async move {
            let addresses = addresses.await;
            addresses.map_err(|error| unresolved(name.as_str(), &error))
        })
    }
}

fn unresolved(host: &str, error: &dyn Display) -> Trouble {
    Trouble::passing(format!("the host {host:?} has no known address ({error})"))
}

/// A connection; through a plain proxy, requests must name the host in their first line.
pub(super) struct Dialed {
    stream: Stream,
    through_plain_proxy: bool,
    /// Plain HTTP is about to begin: what comes first tells whether the server wants TLS.
    watch_for_tls: bool,
}

impl Dialed {
    fn new(stream: Stream, watch_for_tls: bool) -> Self {
        Self {
            stream,
            through_plain_proxy: false,
            watch_for_tls,
        }
    }

    fn poll_first_read(
        &mut self,
        context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        // An alert of TLS 1.0 to 1.3, which is how a TLS server takes plain HTTP.
        const ALERT: [u8; 2] = [21, 3];
        let mut first = [0; 1024];
        let room = first.len().min(buffer.remaining());
        let mut read = ReadBuf::new(&mut first[..room]);
        ready!(Pin::new(&mut self.stream).poll_read(context, read.unfilled()))?;
        self.watch_for_tls = false;
        if read.filled().starts_with(&ALERT) {
            return Poll::Ready(Err(io::Error::other(Trouble::speaks_tls())));
        }
        buffer.put_slice(read.filled());
        Poll::Ready(Ok(()))
    }
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
        if self.watch_for_tls {
            return self.poll_first_read(context, buffer);
        }
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

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, net::SocketAddr};

    use tokio::net::{TcpListener, TcpSocket};
    use tower::service_fn;

    use super::*;

    /// Connects to the host that has these addresses; where that led.
    async fn connect(addresses: &[SocketAddr]) -> SocketAddr {
        let addresses = addresses.to_vec();
        let mut tcp = tcp(service_fn(move |_: Name| {
            let addresses = addresses.clone().into_iter();
            async move { Ok::<_, Infallible>(addresses) }
        }));
        // The host's addresses have ports of their own, which a URL without one leaves alone.
        let to = Uri::from_static("http://many.invalid");
        let stream = tcp.call(to).await.expect("one of the addresses answers");
        stream.inner().peer_addr().expect("it is connected")
    }

    async fn listener(address: &str) -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind(address).await.expect("binds");
        let address = listener.local_addr().expect("is bound");
        (listener, address)
    }

    /// An address where connections are neither taken nor refused: its queue is full.
    async fn silent() -> (Vec<Box<dyn Send>>, SocketAddr) {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("binds");
        let listener = socket.listen(1).expect("listens");
        let address = listener.local_addr().expect("is bound");
        let mut held: Vec<Box<dyn Send>> = vec![Box::new(listener)];
        let soon = Duration::from_millis(300);
        while let Ok(stream) = tokio::time::timeout(soon, TcpStream::connect(address)).await {
            held.push(Box::new(stream.expect("connects while there is room")));
        }
        (held, address)
    }

    #[tokio::test]
    async fn a_host_whose_first_address_refuses_is_reached_by_the_next() {
        let (closed, refusing) = listener("127.0.0.1:0").await;
        drop(closed);
        let (_held, answering) = listener("127.0.0.1:0").await;
        assert_eq!(connect(&[refusing, answering]).await, answering);
        let (_held, v6) = listener("[::1]:0").await;
        assert_eq!(connect(&[refusing, v6]).await, v6);
        assert_eq!(connect(&[v6, refusing]).await, v6);
    }

    #[tokio::test]
    async fn a_host_whose_first_address_is_silent_is_reached_by_the_next() {
        let (_held, silent) = silent().await;
        let (_open, answering) = listener("127.0.0.1:0").await;
        assert_eq!(connect(&[silent, answering]).await, answering);
        let (_open, v6) = listener("[::1]:0").await;
        assert_eq!(connect(&[silent, v6]).await, v6);
    }
}
