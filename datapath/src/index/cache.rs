//! Copies of index segments on this host's disk, so that the next backup fetches only new ones.
//!
//! A copy is the object as it lies in the store, sealed if it is sealed there, and is decoded by
//! the same code with the same checks. One that is damaged, cut, another's or unreadable is fetched
//! again and replaced. Whatever else goes wrong with the folder costs the cache, with one warning,
//! and never a backup.

use std::{
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use ringback_proto::repository::IndexSegment;
use tokio::task::spawn_blocking;

use super::{
    object_of,
    segment::fetch_object,
    shelf::{self, Shelf},
};
use crate::{
    error::Error,
    format::name::{ObjectKind, PackName},
    repository::Repository,
    settings::CacheSettings,
};

/// One repository's copies, as long as a backup takes.
pub(crate) struct SegmentCache {
    /// `None`: there is no cache, or no more.
    shelf: Option<Shelf>,
    /// Position of the next segment that this backup writes.
    next: usize,
}

/// Reads copies, several at a time.
pub(super) struct Reader {
    /// The repository's folder.
    folder: Option<PathBuf>,
}

/// A segment that passed its checks.
pub(super) struct Fetched {
    pub(super) segment: IndexSegment,
    /// The object's bytes, when they came from the store.
    pub(super) news: Option<Bytes>,
}

impl SegmentCache {
    /// Opens what there is of this repository, and removes copies of segments that are not `live`:
    /// those that the log names, the oldest first.
    pub(crate) async fn open(
        settings: Option<&CacheSettings>,
        repository: &Repository,
        live: &[PackName],
    ) -> Self {
        let shelf = match settings.cloned() {
            Some(settings) => {
                let (id, live) = (repository.id(), live.to_vec());
                let folder = settings.folder.clone();
                or_without(&folder, move || Shelf::open(&settings, id, &live)).await
            }
            None => None,
        };
        Self {
            shelf,
            next: live.len(),
        }
    }

    pub(super) fn reader(&self) -> Reader {
        Reader {
            folder: self.shelf.as_ref().map(|shelf| shelf.folder().to_owned()),
        }
    }

    /// Keeps the segment in this position among the live ones, if there is room.
    pub(super) async fn keep(&mut self, name: PackName, position: usize, bytes: Bytes) {
        let Some(mut shelf) = self.shelf.take() else {
            return;
        };
        let folder = shelf.folder().to_owned();
        let keep = move || shelf.keep(name, position, &bytes).map(|()| shelf);
        self.shelf = or_without(&folder, keep).await;
    }

    /// Keeps a segment that the next commit is going to name.
    pub(super) async fn keep_newest(&mut self, name: PackName, bytes: Bytes) {
        self.keep(name, self.next, bytes).await;
        self.next += 1;
    }
}

/// Works on the folder; when that fails, there is no cache any more.
async fn or_without(
    folder: &Path,
    work: impl FnOnce() -> io::Result<Shelf> + Send + 'static,
) -> Option<Shelf> {
    let done = spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(error.into()));
    done.inspect_err(|error| {
        let folder = folder.display();
        tracing::warn!(%folder, %error, "going on without the cache of index segments");
    })
    .ok()
}

impl Reader {
    /// The segment's copy, or else the segment.
    pub(super) async fn get_or_fetch(
        &self,
        repository: &Repository,
        name: PackName,
    ) -> Result<Fetched, Error> {
        let object = object_of(name);
        if let Some(segment) = self.get(repository, name, &object).await {
            return Ok(Fetched {
                segment,
                news: None,
            });
        }
        let (bytes, segment) = fetch_object(repository, &object).await?;
        Ok(Fetched {
            segment,
            news: Some(bytes),
        })
    }

    /// A copy that is there and passes the checks.
    async fn get(
        &self,
        repository: &Repository,
        name: PackName,
        object: &str,
    ) -> Option<IndexSegment> {
        let path = shelf::file_of(self.folder.as_ref()?, name);
        let file = path.display().to_string();
        let read = spawn_blocking(move || shelf::read(&path)).await;
        let checked = match read.unwrap_or_else(|error| Err(error.into())) {
            Ok(bytes) => repository
                .decode(ObjectKind::IndexSegment, object, bytes)
                .map_err(|error| error.to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => Err(error.to_string()),
        };
        checked
            .inspect_err(|reason| {
                tracing::warn!(
                    file,
                    reason,
                    "fetching an index segment again: its copy is no use"
                );
            })
            .ok()
    }
}
