//! The object store below a repository.
//!
//! [`ObjectStore`] is what the rest of the crate knows of a store; there are [`s3`] and [`folder`].
//! Objects are named relative to the repository. Transient trouble is retried inside, for as long
//! as the store's patience lasts; an error that comes out is final for the caller.

mod chain;
mod connector;
mod credentials;
mod dial;
#[cfg(test)]
pub(crate) mod fake;
pub mod folder;
pub mod location;
mod payload;
mod proxies;
mod proxy;
mod reach;
mod region;
pub mod s3;
mod throttle;
mod tls;
mod trouble;
pub mod url;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio_util::task::TaskTracker;

pub use credentials::{SharedCredentials, WeakCredentials};
pub use payload::Payload;
pub use throttle::{Permit, Throttle};
pub use tls::{Authorities, InvalidCaFile};

/// Why the store did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such object.
    #[error("there is no object {object}")]
    NotFound {
        /// Its key.
        object: String,
    },
    /// There is such an object, without the bytes asked for.
    #[error("the object {object} is shorter than it should be")]
    TooShort {
        /// Its key.
        object: String,
    },
    /// There is such an object, and its bytes cannot be read, unlike those of others.
    #[error("the object {object} cannot be read: {reason}")]
    Unreadable {
        /// Its path or key.
        object: String,
        /// What the system said, or that it is too large.
        reason: String,
    },
    /// There is no such bucket.
    #[error("there is no bucket {bucket:?} at {endpoint}; make it, or correct the path")]
    NoBucket {
        /// Its name.
        bucket: String,
        /// Where.
        endpoint: String,
    },
    /// The credentials do not allow it.
    #[error(
        "{endpoint} denies access to {object} ({code}); check the credentials and their rights"
    )]
    Denied {
        /// The key.
        object: String,
        /// Where.
        endpoint: String,
        /// The store's error code.
        code: String,
    },
    /// There is nothing to sign requests with.
    #[error("no credentials for {endpoint}: {reason}")]
    NoCredentials {
        /// Where they are needed.
        endpoint: String,
        /// Where they were looked for.
        reason: String,
    },
    /// Nobody answers, or not in a way that can be used, for as long as we were willing to wait.
    #[error("no success with {endpoint}: {reason}")]
    Unreachable {
        /// Where.
        endpoint: String,
        /// The last failure.
        reason: String,
    },
    /// An answer that retrying does not change.
    #[error("{endpoint} refuses a request for {object}: {reason}")]
    Refused {
        /// The key.
        object: String,
        /// Where.
        endpoint: String,
        /// Code and message.
        reason: String,
    },
    /// A filesystem failed, or does not suit.
    #[error(transparent)]
    Folder(#[from] folder::FolderError),
}

/// What became of a conditional PUT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutNew {
    /// The object is there now and was not before.
    Created,
    /// There is an object of that name; it may be our own, if an answer was lost.
    Exists,
}

/// An object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name in the repository.
    pub name: String,
    /// Its length.
    pub bytes: u64,
}

/// The bytes of a ranged GET as they come in.
#[async_trait]
pub trait Download: Send {
    /// The next piece; `None` after the last byte that was asked for.
    ///
    /// A connection that breaks is taken up again where it broke.
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError>;
}

/// A multipart upload.
#[async_trait]
pub trait Upload: Send + Sync {
    /// Sends a part, perhaps again; numbers begin at 1, in any order. All but the last part are of
    /// the size that was announced, and that one is not larger.
    async fn part(&self, number: i32, payload: Payload) -> Result<(), StoreError>;

    /// Makes the object of its parts, `bytes` in all.
    async fn complete(&self, bytes: u64) -> Result<(), StoreError>;

    /// Gives the upload up; tries for less than a minute. What stays behind is logged.
    async fn abort(&self);
}

/// An object store, seen from within one repository.
#[async_trait]
pub trait ObjectStore: Send + Sync {
    /// A whole, small object.
    async fn get(&self, object: &str) -> Result<Bytes, StoreError>;

    /// Bytes `start..end` of an object.
    async fn get_range(
        &self,
        object: &str,
        start: u64,
        end: u64,
    ) -> Result<Box<dyn Download>, StoreError>;

    /// Length of an object in bytes.
    async fn size(&self, object: &str) -> Result<u64, StoreError>;

    /// Stores an object, replacing one of that name.
    async fn put(&self, object: &str, payload: Payload) -> Result<(), StoreError>;

    /// Stores a small object unless there is one of that name.
    async fn put_new(&self, object: &str, bytes: Bytes) -> Result<PutNew, StoreError>;

    /// Removes an object; one that is not there is removed already.
    ///
    /// Only key slots are ever removed, and entries of the log that checkpoints stand for.
    async fn delete(&self, object: &str) -> Result<(), StoreError>;

    /// Begins a multipart upload, of parts of `part_bytes`.
    async fn upload(&self, object: &str, part_bytes: u64) -> Result<Arc<dyn Upload>, StoreError>;

    /// What lies below `prefix`, in order of the names' bytes, those up to `after` left out.
    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<Listed>, StoreError>;

    /// Gives up every multipart upload that is under way below `prefix`, whoever began it; how
    /// many there were.
    ///
    /// A store may list fewer than there are: MinIO lists those of one exact name only.
    async fn abandon_uploads(&self, prefix: &str) -> Result<usize, StoreError>;

    /// Makes it sure that objects below a prefix that were listed stay, whoever put them there: that one
    /// may have been killed before it was sure of them.
    async fn keep_listed(&self, _prefix: &str) -> Result<(), StoreError> {
        Ok(())
    }

    /// What runs without anybody waiting for it, such as the abort of an upload: shared by all
    /// clones of this store, and closed from the start, so that it can be waited for at any time.
    fn background(&self) -> &TaskTracker;

    /// Waits until nothing runs in the [background](Self::background) and no token of it is held.
    /// An abort takes its time when the store does not answer, but less than a minute.
    async fn settle(&self) {
        self.background().wait().await;
    }

    /// Payload bytes sent and received.
    fn meter(&self) -> &Meter;

    /// What has kept requests from success for some seconds, while they are being retried:
    /// `no success for 42 s: the connection was refused`.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// Limits how many large transfers are under way at once.
    fn throttle(&self) -> &Arc<Throttle>;

    /// For messages.
    fn describe(&self) -> String;
}

/// Objects fetched whole are far smaller. What is not, is none of ours and shall not fill the memory.
const WHOLE_BYTES_MAX: usize = 256 << 20;

/// All that comes in of an object, which has this name in messages.
async fn whole(
    mut download: impl Download,
    name: impl FnOnce() -> String,
) -> Result<Bytes, StoreError> {
    let mut whole = BytesMut::new();
    while let Some(piece) = download.next().await? {
        if whole.len() + piece.len() > WHOLE_BYTES_MAX {
            return Err(StoreError::Unreadable {
                object: name(),
                reason: format!("it has over {WHOLE_BYTES_MAX} bytes"),
            });
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

/// Counts payload bytes.
#[derive(Debug, Default)]
pub struct Meter {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Meter {
    /// Bytes of objects and parts that the store acknowledged.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes of objects that came in.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(crate) fn add_sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn add_received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }
}
