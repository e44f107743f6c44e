//! A way to a store that can be shut at any byte.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use ringback_proto::lvmd::data_source::S3;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use crate::{
    harness::{MIB, wait_for},
    store::Store,
};

/// Requests and replies up to the first byte of a volume's data take far less than this.
const BEFORE_THE_DATA: u64 = MIB;

/// Forwards connections to a store until so many bytes have passed, and then holds all bytes
/// back until it is opened. So a job can be stopped surely in the midst of its data.
pub(crate) struct Valve {
    address: SocketAddr,
    meter: Meter,
    server: JoinHandle<()>,
}

#[derive(Clone)]
struct Meter {
    passed: Arc<AtomicU64>,
    limit: watch::Sender<u64>,
}

impl Valve {
    /// Shuts when a job is in the midst of its data.
    pub(crate) async fn to(store: &Store) -> Self {
        Self::shut_after(store, BEFORE_THE_DATA).await
    }

    /// Shuts when so many bytes have passed, both ways together.
    pub(crate) async fn shut_after(store: &Store, bytes: u64) -> Self {
        let meter = Meter {
            passed: Arc::default(),
            limit: watch::Sender::new(bytes),
        };
        let target = store.endpoint.url().replace("http://", "");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        Self {
            address: listener.local_addr().expect("is bound"),
            server: tokio::spawn(forward(listener, target, meter.clone())),
            meter,
        }
    }

    /// The same backup, reached through the valve.
    pub(crate) fn through(&self, s3: S3) -> S3 {
        S3 {
            endpoint: format!("http://{}", self.address),
            ..s3
        }
    }

    /// Returns when it holds bytes back.
    pub(crate) async fn is_shut(&self) {
        let meter = &self.meter;
        wait_for("a job in the midst of its data", async || {
            let passed = meter.passed.load(Ordering::SeqCst);
            (passed > *meter.limit.borrow()).then_some(())
        })
        .await;
    }

    /// Lets everything pass from now on.
    pub(crate) fn open(&self) {
        self.meter.limit.send_replace(u64::MAX);
    }
}

impl Drop for Valve {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn forward(listener: TcpListener, target: String, meter: Meter) {
    // Dropped with this task, and the connections with it.
    let mut pumps = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let Ok(store) = TcpStream::connect(&target).await else {
            continue;
        };
        let (from_client, to_client) = client.into_split();
        let (from_store, to_store) = store.into_split();
        pumps.spawn(pump(from_client, to_store, meter.clone()));
        pumps.spawn(pump(from_store, to_client, meter.clone()));
    }
}

async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, meter: Meter) {
    let mut block = vec![0; 16 << 10];
    while let Ok(len @ 1..) = from.read(&mut block).await {
        meter.let_pass(len as u64).await;
        if to.write_all(&block[..len]).await.is_err() {
            return;
        }
    }
    // An end must be passed on as well; the other side may have ended first.
    let _ = to.shutdown().await;
}

impl Meter {
    async fn let_pass(&self, len: u64) {
        let passed = self.passed.fetch_add(len, Ordering::SeqCst) + len;
        let mut limit = self.limit.subscribe();
        // An error means that the sender is gone, and `self.limit` is one.
        let _ = limit.wait_for(|limit| passed <= *limit).await;
    }
}
