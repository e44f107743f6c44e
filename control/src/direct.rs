//! Backups and restores in this process, from and to a device or a file that is named by its path.
//! No daemon has a part in them.
//!
//! What a daemon knows of its volumes must be found out here: whether a source stands still
//! ([`source`], [`users`]), and whether a target may be written over ([`target`], [`content`]). All
//! of that is asked before the store is, and nothing is written before all of it is answered.

pub mod backup;
mod content;
mod draft;
mod identity;
pub mod restore;
mod source;
pub mod store;
mod target;
mod thin;
mod users;

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use ringback_datapath::{progress::Progress, stop::Stop};
use tonic::Code;

use crate::failure::Failure;

pub use self::source::Motion;

/// What may be looked at while a backup or a restore runs, and after it was given up.
#[derive(Default)]
pub struct Watched {
    /// Counters of the data path.
    pub progress: Arc<Progress>,
    /// How far a target is cleared.
    pub zeroing: Arc<Progress>,
    /// Ends it before its end.
    pub stop: Stop,
    spoiled: AtomicBool,
}

impl Watched {
    /// Whether the target is a device that now holds neither what it held nor a backup.
    pub fn is_spoiled(&self) -> bool {
        self.spoiled.load(Ordering::Relaxed)
    }

    fn set_spoiled(&self, spoiled: bool) {
        self.spoiled.store(spoiled, Ordering::Relaxed);
    }
}

/// A refusal: what is there, as it is now, forbids it.
fn refused(message: impl Into<String>) -> Failure {
    Failure::new(Code::FailedPrecondition, message)
}

/// Something this host did not do.
fn failed(what: &str, path: &Path, error: &io::Error) -> Failure {
    let code = match error.kind() {
        io::ErrorKind::NotFound => Code::NotFound,
        io::ErrorKind::PermissionDenied => Code::PermissionDenied,
        _ => Code::Internal,
    };
    Failure::new(code, format!("cannot {what} {}: {error}", path.display()))
}

/// Carries out what waits for the system.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        Failure::new(
            Code::Internal,
            format!("a task of this program ended: {error}"),
        )
    })?
}
