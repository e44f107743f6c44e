//! Metrics for Prometheus: `GET /metrics` on a TCP port. docs/operations/metrics.md has their table.

mod text;

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream, lookup_host},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

use crate::daemon::Daemon;

/// Nobody needs more scrapes at once; further ones wait.
const CONNECTIONS_MAX: usize = 16;

/// A connection is for one scrape, which takes no longer than this, however slow the scraper is.
const CONNECTION_PATIENCE: Duration = Duration::from_secs(10);

/// How long a scrape waits for LVM: well below the 10 s that Prometheus usually waits.
const LVM_PATIENCE: Duration = Duration::from_secs(2);

/// What `prometheus_client` writes.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Why there are no metrics.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is none.
    #[error(
        "--metrics-bind-address {address:?} is no address ({source}); it should be like :8080 or \
         127.0.0.1:8080, or 0 for no metrics"
    )]
    Address {
        /// As given.
        address: String,
        /// What is wrong with it.
        source: io::Error,
    },
    /// Somebody has the port.
    #[error(
        "the address for metrics, {address}, is in use; choose another with \
         --metrics-bind-address, or 0 for no metrics"
    )]
    Taken {
        /// As given.
        address: String,
    },
    /// The system refuses it.
    #[error("cannot listen for metrics on {address}: {source}")]
    Io {
        /// As given.
        address: String,
        /// Why not.
        source: io::Error,
    },
}

/// A port that is taken, before anything is served on it.
pub struct Listener(TcpListener);

impl Listener {
    /// Takes the port, unless `address` says that there shall be none.
    pub async fn bind(address: &str) -> Result<Option<Self>, BindError> {
        if matches!(address, "" | "0") {
            return Ok(None);
        }
        let candidates = resolve(address)
            .await
            .map_err(|source| BindError::Address {
                address: address.to_owned(),
                source,
            })?;
        match TcpListener::bind(&candidates[..]).await {
            Ok(listener) => Ok(Some(Self(listener))),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(BindError::Taken {
                address: address.to_owned(),
            }),
            Err(source) => Err(BindError::Io {
                address: address.to_owned(),
                source,
            }),
        }
    }

    /// Answers until what this returns is dropped.
    pub fn serve(self, daemon: &Arc<Daemon>) -> AbortOnDropHandle<()> {
        if let Ok(address) = self.0.local_addr() {
            tracing::info!(%address, "metrics");
        }
        let scrapes = Arc::new(Scrapes {
            daemon: Arc::clone(daemon),
        });
        AbortOnDropHandle::new(tokio::spawn(accept(self.0, scrapes)))
    }
}

/// `:8080` is that port of all addresses, also where there is no IPv6.
async fn resolve(address: &str) -> io::Result<Vec<SocketAddr>> {
    if let Some(port) = address.strip_prefix(':') {
        let port = port
            .parse()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let has_ipv6 = std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok();
        return Ok(vec![if has_ipv6 {
            SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))
        } else {
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))
        }]);
    }
    Ok(lookup_host(address).await?.collect())
}

struct Scrapes {
    daemon: Arc<Daemon>,
}

async fn accept(listener: TcpListener, scrapes: Arc<Scrapes>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let place = place.expect("nobody closes it");
        match listener.accept().await {
            Ok((stream, _)) => {
                let scrapes = Arc::clone(&scrapes);
                tokio::spawn(async move {
                    let _place = place;
                    // Who is too slow, or leaves, is not told.
                    let _ = timeout(CONNECTION_PATIENCE, answer(stream, scrapes)).await;
                });
            }
            Err(error) => {
                // Of descriptors there may be none left for a while.
                tracing::warn!(%error, "cannot take a connection for metrics");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, scrapes: Arc<Scrapes>) -> hyper::Result<()> {
    let respond = service_fn(move |request: Request<Incoming>| {
        let scrapes = Arc::clone(&scrapes);
        async move { Ok::<_, Infallible>(scrapes.respond(&request).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), respond)
        .await
}

impl Scrapes {
    async fn respond<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if request.uri().path() != "/metrics" {
            return told(StatusCode::NOT_FOUND, "metrics are at /metrics\n");
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return told(StatusCode::METHOD_NOT_ALLOWED, "metrics are for GET\n");
        }
        let told = self.daemon.rooms.lately(LVM_PATIENCE).await;
        let text = text::write(&told.spaces, &self.daemon.ledger.balance());
        let mut response = Response::new(Full::from(text));
        let content_type = header::HeaderValue::from_static(CONTENT_TYPE);
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, content_type);
        response
    }
}

fn told(status: StatusCode, sentence: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(sentence));
    *response.status_mut() = status;
    response
}
