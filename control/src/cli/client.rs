//! The connection to a daemon.

use std::path::Path;

use hyper_util::rt::TokioIo;
use ringback_proto::{
    control::ringback_client::RingbackClient,
    lvmd::{lv_service_client::LvServiceClient, vg_service_client::VgServiceClient},
};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::exit::{CliError, Exit};

/// A client of all services on one socket.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) lv: LvServiceClient<Channel>,
    pub(crate) vg: VgServiceClient<Channel>,
    pub(crate) own: RingbackClient<Channel>,
}

impl Client {
    /// Connects to the daemon at `socket`.
    pub(crate) async fn connect(socket: &Path) -> Result<Self, CliError> {
        let channel = channel_to(socket).await?;
        Ok(Self {
            lv: LvServiceClient::new(channel.clone()),
            vg: VgServiceClient::new(channel.clone()),
            own: RingbackClient::new(channel),
        })
    }
}

/// A connection to whatever listens on `socket`.
pub(super) async fn channel_to(socket: &Path) -> Result<Channel, CliError> {
    let path = socket.to_owned();
    let connector = service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The URI is never resolved; HTTP/2 wants one.
    Endpoint::from_static("http://lvmd.invalid")
        .connect_with_connector(connector)
        .await
        .map_err(|error| unreachable_daemon(socket, &error))
}

fn unreachable_daemon(socket: &Path, error: &dyn std::error::Error) -> CliError {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let message = format!(
        "no daemon answers at {} ({cause}); start one with `ringback serve`, or name its socket \
         with --socket",
        socket.display()
    );
    CliError::new(Exit::Unreachable, message)
}
