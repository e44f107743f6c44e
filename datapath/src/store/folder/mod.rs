//! A local folder as a store: objects are files, by the names that they have in S3.
//!
//! What S3 promises is made of what filesystems promise, those on disks as well as NFS. An object
//! appears whole or not at all, because it is written under another name ([`draft`]); it is there
//! for good when that is said, because file and folders are synced before; and of several who take
//! a name one gets it, because link(2) says who. Whatever else lies in the folder is left alone.
//!
//! Nothing is retried: what a kernel says is final, and it has retried whatever may pass. Calls
//! block, and so have threads of their own ([`calls`]).

mod calls;
mod download;
mod draft;
mod error;
mod listing;
mod mounts;
mod root;
mod sweep;
mod upload;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use nix::errno::Errno;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use self::{
    calls::Calls,
    download::FileDownload,
    draft::{Draft, put},
    listing::list,
    root::Root,
    sweep::sweep,
    upload::FileUpload,
};
use super::{
    Download, Listed, Meter, ObjectStore, Payload, PutNew, StoreError, Throttle, Upload,
    url::FolderPath, whole,
};
pub use error::{FolderError, FolderTrouble};

/// Calls at once beside those of large transfers.
const SMALL_CALLS: usize = 16;
/// How long calls under way are waited for when all is over: a silent server's never return.
const SETTLE_PATIENCE: Duration = Duration::from_secs(30);

/// See the module. Clones share everything.
#[derive(Clone)]
pub struct FolderStore {
    root: Arc<Root>,
    path: FolderPath,
    calls: Calls,
    meter: Arc<Meter>,
    throttle: Arc<Throttle>,
    /// Closed from the start: it can be waited for at any time, and takes tasks all the same.
    background: TaskTracker,
}

impl FolderStore {
    /// Opens a folder, which must be there: below the mount point of a disk that is not mounted
    /// nothing is made.
    ///
    /// `transfers_max` is how many large transfers run at once.
    pub async fn open(path: FolderPath, transfers_max: usize) -> Result<Self, StoreError> {
        let background = TaskTracker::new();
        background.close();
        let calls = Calls::new(transfers_max + SMALL_CALLS, background.clone());
        let opened = path.clone();
        let root = calls.make(move || Root::open(&opened)).await;
        let root = root.map_err(|error| ended(&path, &error.into()))??;
        Ok(Self {
            root: Arc::new(root),
            path,
            calls,
            meter: Arc::default(),
            throttle: Throttle::new(transfers_max),
            background,
        })
    }

    /// Does something with the folder.
    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Root) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let root = Arc::clone(&self.root);
        let called = self.calls.make(move || work(&root)).await;
        called.map_err(|error| ended(&self.path, &error.into()))?
    }

    async fn publish(
        &self,
        object: &str,
        payload: Payload,
        publish: impl Fn(&Draft) -> Result<draft::Published, StoreError> + Send + 'static,
    ) -> Result<PutNew, StoreError> {
        let (root, object, bytes) = (Arc::clone(&self.root), object.to_owned(), payload.len());
        let put = self.call(move |_| put(&root, &object, &payload, publish));
        let outcome = put.await?;
        if outcome == PutNew::Created {
            self.meter.add_sent(bytes);
        }
        Ok(outcome)
    }
}

/// A thread that panicked, or was not begun because the runtime ends.
fn ended(path: &FolderPath, error: &std::io::Error) -> StoreError {
    FolderError::of("finish a call to", path.as_path().to_owned(), error).into()
}

#[async_trait]
impl ObjectStore for FolderStore {
    async fn get(&self, object: &str) -> Result<Bytes, StoreError> {
        let download = FileDownload::open(self, object, None).await?;
        whole(download, || self.root.shown(object)).await
    }

    async fn get_range(
        &self,
        object: &str,
        start: u64,
        end: u64,
    ) -> Result<Box<dyn Download>, StoreError> {
        let download = FileDownload::open(self, object, Some((start, end))).await?;
        Ok(Box::new(download))
    }

    async fn size(&self, object: &str) -> Result<u64, StoreError> {
        let object = object.to_owned();
        self.call(move |root| root.size(&object)).await
    }

    async fn put(&self, object: &str, payload: Payload) -> Result<(), StoreError> {
        self.publish(object, payload, Draft::publish)
            .await
            .map(drop)
    }

    async fn put_new(&self, object: &str, bytes: Bytes) -> Result<PutNew, StoreError> {
        self.publish(object, bytes.into(), Draft::publish_new).await
    }

    async fn delete(&self, object: &str) -> Result<(), StoreError> {
        let object = object.to_owned();
        self.call(move |root| delete(root, &object)).await
    }

    async fn upload(&self, object: &str, part_bytes: u64) -> Result<Arc<dyn Upload>, StoreError> {
        Ok(Arc::new(FileUpload::begin(self, object, part_bytes).await?))
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<Listed>, StoreError> {
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.call(move |root| list(root, &prefix, after.as_deref()))
            .await
    }

    async fn abandon_uploads(&self, prefix: &str) -> Result<usize, StoreError> {
        let prefix = prefix.to_owned();
        self.call(move |root| sweep(root, &prefix)).await
    }

    async fn keep_listed(&self, prefix: &str) -> Result<(), StoreError> {
        let prefix = prefix.to_owned();
        self.call(move |root| {
            root.prepare_for(&prefix)?;
            root.sync_folder_of(&prefix)
        })
        .await
    }

    fn background(&self) -> &TaskTracker {
        &self.background
    }

    async fn settle(&self) {
        if timeout(SETTLE_PATIENCE, self.background.wait())
            .await
            .is_err()
        {
            tracing::warn!(folder = %self.path, "calls to the filesystem do not return");
        }
    }

    fn meter(&self) -> &Meter {
        &self.meter
    }

    fn trouble(&self) -> Option<String> {
        self.calls.trouble()
    }

    fn throttle(&self) -> &Arc<Throttle> {
        &self.throttle
    }

    fn describe(&self) -> String {
        self.path.to_string()
    }
}

/// An object that is gone when this returns, for good.
fn delete(root: &Root, object: &str) -> Result<(), StoreError> {
    match root.remove(object) {
        Ok(()) => root.sync_folder_of(object),
        Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(root.failed("remove", object, errno)),
    }
}
