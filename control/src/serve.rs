//! The daemon's socket: who may have it, what is served on it, and how it goes away.

mod authority;

use std::{
    fs,
    future::Future,
    io,
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::UnixStream as StdUnixStream,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::stream;
use nix::sys::stat::{Mode, umask};
use ringback_proto::{
    DESCRIPTORS,
    control::ringback_server::RingbackServer,
    lvmd::{lv_service_server::LvServiceServer, vg_service_server::VgServiceServer},
};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use self::authority::Lenient;
use crate::{
    daemon::Daemon,
    service::{LvService, OwnService, VgService},
};

/// How long a stop may take: the patience of jobs, and commands of LVM, some of which never end. Those go on
/// without us; what they leave is swept by the next start. The unit and the pod of docs/operations leave 90 s.
const STOP_PATIENCE: Duration = Duration::from_secs(60);

/// How long clients may take for the last answers when all jobs have ended and the volume groups are at rest.
/// Some never hang up: a stream of `grpc.health.v1` ends with its client alone, and a client may be suspended.
const FAREWELL: Duration = Duration::from_secs(5);

/// Why the daemon does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Somebody answers on the socket.
    #[error("{} is in use: another daemon answers on it", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The path is taken by something that is no socket.
    #[error("{} is there and is no socket; remove it, or set another socket-name", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The server failed.
    #[error("the gRPC server failed: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// A socket that only its owner may use. Its path goes just before it accepts nobody any more: another
/// daemon may put its own there then.
pub struct Socket {
    path: PathBuf,
    listener: UnixListener,
}

impl Socket {
    /// Binds the socket; an old one is removed only if nobody answers on it.
    pub fn bind(path: &Path) -> Result<Self, ServeError> {
        let io = |what, path: &Path| {
            let path = path.to_owned();
            move |source| ServeError::Io { what, path, source }
        };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(io("make the folder", folder))?;
        }
        remove_abandoned(path)?;
        // It must not be open to others even for a moment.
        let others = umask(Mode::S_IRWXG | Mode::S_IRWXO);
        let bound = UnixListener::bind(path);
        umask(others);
        let listener = bound.map_err(io("bind", path))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))
            .map_err(io("restrict", path))?;
        Ok(Self {
            path: path.to_owned(),
            listener,
        })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = fs::remove_file(&self.path);
    }
}

fn remove_abandoned(path: &Path) -> Result<(), ServeError> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ServeError::NotASocket {
                path: path.to_owned(),
            });
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(ServeError::Io {
                what: "inspect",
                path: path.to_owned(),
                source,
            });
        }
    }
    if StdUnixStream::connect(path).is_ok() {
        return Err(ServeError::InUse {
            path: path.to_owned(),
        });
    }
    fs::remove_file(path).map_err(|source| ServeError::Io {
        what: "remove the abandoned",
        path: path.to_owned(),
        source,
    })
}

/// Serves until `stop` resolves; then ends streams and jobs, and the socket goes. What still goes on in
/// volume groups is waited for, clients that do not hang up are not.
pub async fn serve(
    daemon: Arc<Daemon>,
    socket: Socket,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<LvServiceServer<LvService>>().await;
    health.set_serving::<VgServiceServer<VgService>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let connections = stream::unfold(socket, async |socket| {
        let accepted = socket.listener.accept().await;
        Some((accepted.map(|(stream, _)| Lenient::new(stream)), socket))
    });
    let (stopping, served) = (Arc::clone(&daemon), Arc::clone(&daemon));
    let over = CancellationToken::new();
    let jobs_have_ended = over.clone();
    let serving = Server::builder()
        .add_service(health_service)
        .add_service(reflection().build_v1().expect("our own descriptors"))
        .add_service(reflection().build_v1alpha().expect("our own descriptors"))
        .add_service(LvServiceServer::new(LvService(Arc::clone(&daemon))))
        .add_service(VgServiceServer::new(VgService(Arc::clone(&daemon))))
        .add_service(RingbackServer::new(OwnService(daemon)))
        .serve_with_incoming_shutdown(connections, async move {
            stop.await;
            tracing::info!("stopping");
            stopping.stop().await;
            over.cancel();
        });
    let farewell = async {
        jobs_have_ended.cancelled().await;
        served.groups.at_rest().await;
        tokio::time::sleep(FAREWELL).await;
    };
    let ended = async {
        tokio::select! {
            ended = serving => ended?,
            () = farewell => tracing::info!("clients have not hung up; going without them"),
        }
        // Also with what the last calls began.
        served.groups.at_rest().await;
        Ok(())
    };
    let patience = async {
        served.stopping().cancelled_owned().await;
        tokio::time::sleep(STOP_PATIENCE).await;
    };
    tokio::select! {
        ended = ended => ended,
        () = patience => {
            tracing::warn!("stopping while jobs or commands of LVM are still under way");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As long as the configuration takes one.
    const PATH_BYTES: usize = 107;

    #[tokio::test]
    async fn the_longest_path_is_bound_for_its_owner_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let left = PATH_BYTES - folder.path().as_os_str().len() - 1;
        let path = folder.path().join("s".repeat(left));
        let socket = Socket::bind(&path).expect("binds");
        let mode = fs::metadata(&path).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(socket);
        assert!(!path.exists());
    }
}
