//! Starting and stopping an endpoint, and what a client needs to reach it.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::counters::Counters;
use crate::faults::{FaultPlan, Outage};
use crate::folder::Folder;
use crate::gate::{Gate, HeldReplies, Turnstile};
use crate::s3::Operations;
use crate::server;
use crate::stops::{Stop, Stopped};
use crate::store::Store;
use crate::tokens::Tokens;

/// Where the objects are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Backing {
    /// In memory, gone with the endpoint.
    #[default]
    Memory,
    /// As files below a folder, which is made if it is absent, and belongs to one endpoint at a
    /// time.
    ///
    /// Objects survive the end of the process, however it ends; unfinished multipart uploads do
    /// not. Nothing is synced to the disk, so that a power cut may cost objects.
    Folder(PathBuf),
}

/// How to start an [`Endpoint`].
#[derive(Clone, Debug)]
pub struct Options {
    /// The address to listen on; port 0 picks a free one.
    pub bind: SocketAddr,
    /// The one access key id that is let in; `None` generates a random one.
    pub access_key_id: Option<String>,
    /// Its secret; `None` generates a random one.
    pub secret_access_key: Option<String>,
    /// Buckets that shall exist from the start.
    pub buckets: Vec<String>,
    /// Where the objects are kept.
    pub backing: Backing,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            access_key_id: None,
            secret_access_key: None,
            buckets: Vec::new(),
            backing: Backing::default(),
        }
    }
}

/// Why an endpoint did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The folder cannot be made, read or written.
    #[error("cannot keep objects in {}", path.display())]
    Folder {
        /// The folder, or the file in it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another endpoint has the folder.
    #[error("{} is in use by another endpoint", path.display())]
    FolderInUse {
        /// The folder.
        path: PathBuf,
    },
    /// A bucket asked for cannot be made.
    #[error("cannot create the bucket {name:?}: {reason}")]
    Bucket {
        /// Its name.
        name: String,
        /// What S3 would reply.
        reason: String,
    },
    /// The system gave no random bytes for the credentials.
    #[error("no random bytes for credentials: {0}")]
    Random(getrandom::Error),
}

/// A running S3 endpoint. Dropped, it stops, and so do its connections.
pub struct Endpoint {
    address: SocketAddr,
    access_key_id: String,
    secret_access_key: String,
    gate: Gate,
    tokens: Tokens,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<()>,
}

impl Endpoint {
    /// Starts to listen, on the current Tokio runtime. Once this returns, requests are served.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let access_key_id = options
            .access_key_id
            .map_or_else(|| random_hex("RINGBACK", 6), Ok)?;
        let secret_access_key = options
            .secret_access_key
            .map_or_else(|| random_hex("", 20), Ok)?;

        let store = Arc::new(open_store(&options.backing)?);
        for name in options.buckets {
            store.ensure_bucket(&name).map_err(|error| Error::Bucket {
                name,
                reason: error.to_string(),
            })?;
        }
        let mut service = S3ServiceBuilder::new(Operations::new(store));
        service.set_auth(SimpleAuth::from_single(
            access_key_id.clone(),
            secret_access_key.as_str(),
        ));
        let tokens = Tokens::default();
        service.set_access(Turnstile(tokens.clone()));
        let gate = Gate::new(service.build());

        let bind_error = |source| Error::Bind {
            address: options.bind,
            source,
        };
        let listener = TcpListener::bind(options.bind).await.map_err(bind_error)?;
        let address = listener.local_addr().map_err(bind_error)?;
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(server::serve(listener, gate.clone(), stopped));
        Ok(Self {
            address,
            access_key_id,
            secret_access_key,
            gate,
            tokens,
            stop: Some(stop),
            server,
        })
    }

    /// The address for clients, such as `http://127.0.0.1:34567`. Buckets are addressed by path.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The access key id that is let in.
    #[must_use]
    pub fn access_key_id(&self) -> &str {
        &self.access_key_id
    }

    /// The secret that belongs to [`access_key_id`](Self::access_key_id).
    #[must_use]
    pub fn secret_access_key(&self) -> &str {
        &self.secret_access_key
    }

    /// What has passed so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.gate.ledger().snapshot()
    }

    /// Lets requests in and applies them, but withholds their replies until the guard is dropped.
    pub fn hold_replies(&self) -> HeldReplies {
        self.gate.hold_replies()
    }

    /// From the next request on, only those are let in that carry this session token; others are
    /// refused with this S3 error code, such as `ExpiredToken`.
    pub fn want_session_token(&self, token: impl Into<String>, refusal: &'static str) {
        self.tokens.want(token.into(), refusal);
    }

    /// From the next request on, some meet the faults of this plan; `None`: none does. Which ones
    /// is counted from now on, so that the same plan, set again, draws the same.
    ///
    /// How often each really happened is in the [`counters`](Self::counters).
    pub fn set_faults(&self, plan: Option<FaultPlan>) {
        self.gate.set_faults(plan);
    }

    /// The store is gone, for all connections, until this is called with `None`.
    pub fn set_outage(&self, outage: Option<Outage>) {
        self.gate.set_outage(outage);
    }

    /// Stops requests at an exact moment, until the guard is dropped.
    pub fn stop_at(&self, stop: Stop) -> Stopped {
        self.gate.stops().place(stop)
    }

    /// Stops to accept and ends all connections at once, whatever they are at. When this returns,
    /// the backing folder is free again.
    pub async fn shutdown(mut self) {
        drop(self.stop.take());
        if let Err(error) = (&mut self.server).await {
            tracing::warn!(%error, "the endpoint's server task failed");
        }
    }
}

/// Leaves the secret out.
impl fmt::Debug for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Endpoint")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn open_store(backing: &Backing) -> Result<Store, Error> {
    match backing {
        Backing::Memory => Ok(Store::in_memory()),
        Backing::Folder(path) => Store::in_folder(Folder::open(path)?),
    }
}

fn random_hex(prefix: &str, byte_len: usize) -> Result<String, Error> {
    let mut bytes = vec![0; byte_len];
    getrandom::fill(&mut bytes).map_err(Error::Random)?;
    Ok(format!("{prefix}{}", hex::encode_upper(bytes)))
}
