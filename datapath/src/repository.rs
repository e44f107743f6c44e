//! A repository: a prefix in a store that an object named `repository` makes one.
//!
//! Owns the way from object names to checked messages and bytes. Knows nothing of volumes.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{Bytes, BytesMut};
use prost::Message;
use ringback_proto::repository::{IndexSegment, Repository as RepositoryMessage};

use crate::{
    chunk::ChunkSize,
    error::Error,
    format::{
        FormatError,
        name::{ObjectKind, PackName, REPOSITORY, SessionId, random},
        object::{self, RepositoryId},
    },
    store::{ObjectStore, PutNew, StoreError},
};

/// What does not match its check or id is fetched so often before it is called damaged: bits flip
/// on the way, too.
pub(crate) const FETCH_TRIES: usize = 5;

/// How long who makes a repository waits between tries when somebody else seems to make it, too.
const CREATION_PAUSES: [Duration; 3] = [
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(5),
];

/// An opened repository.
#[derive(Clone)]
pub struct Repository {
    store: Arc<dyn ObjectStore>,
    id: RepositoryId,
    chunk_size: ChunkSize,
}

impl Repository {
    /// Opens the repository in `store`.
    pub async fn open(store: Arc<dyn ObjectStore>) -> Result<Self, Error> {
        for tries in 1.. {
            let read = match store.get(REPOSITORY).await {
                Ok(bytes) => Self::read(Arc::clone(&store), bytes),
                Err(StoreError::NotFound { .. }) => Err(Error::NoRepository {
                    repository: store.describe(),
                }),
                Err(error) => Err(error.into()),
            };
            if !is_worth_another_try(&read, tries) {
                return read;
            }
        }
        unreachable!("the last try's outcome is returned")
    }

    /// Opens the repository in `store`, or makes one with chunks of `chunk_size`.
    pub async fn open_or_create(
        store: Arc<dyn ObjectStore>,
        chunk_size: ChunkSize,
    ) -> Result<Self, Error> {
        match Self::open(Arc::clone(&store)).await {
            Err(Error::NoRepository { .. }) => Self::create(store, chunk_size).await,
            opened => opened,
        }
    }

    async fn create(store: Arc<dyn ObjectStore>, chunk_size: ChunkSize) -> Result<Self, Error> {
        let id = RepositoryId(random());
        let message = RepositoryMessage {
            id: Bytes::copy_from_slice(&id.0),
            chunk_bytes: chunk_size.bytes(),
            created_ms: now_ms(),
        };
        let bytes = object::encode(ObjectKind::Repository, id, REPOSITORY, &message);
        probe(&store, id).await?;
        // Whoever was first, the object is there now. But a store may tell the second before the
        // first is done, or has failed.
        for pause in CREATION_PAUSES {
            store.put_new(REPOSITORY, bytes.clone()).await?;
            match Self::open(Arc::clone(&store)).await {
                Err(Error::NoRepository { .. }) => tokio::time::sleep(pause).await,
                opened => return opened,
            }
        }
        Self::open(store).await
    }

    fn read(store: Arc<dyn ObjectStore>, bytes: Bytes) -> Result<Self, Error> {
        let refuse = |source| Error::Object {
            object: REPOSITORY.to_owned(),
            repository: store.describe(),
            source,
        };
        let (id, message) =
            object::decode::<RepositoryMessage>(ObjectKind::Repository, None, REPOSITORY, bytes)
                .map_err(refuse)?;
        if message.id[..] != id.0[..] {
            return Err(refuse(FormatError::Damaged("its ids differ")));
        }
        let chunk_size = ChunkSize::new(message.chunk_bytes)
            .ok_or_else(|| refuse(FormatError::Damaged("its chunk size is none")))?;
        Ok(Self {
            store,
            id,
            chunk_size,
        })
    }

    /// The same repository by another way to its store, such as one of more patience.
    #[must_use]
    pub fn through(&self, store: Arc<dyn ObjectStore>) -> Self {
        Self {
            store,
            ..self.clone()
        }
    }

    /// The store below.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// Bytes per chunk.
    pub fn chunk_size(&self) -> ChunkSize {
        self.chunk_size
    }

    /// What every object carries.
    pub(crate) fn id(&self) -> RepositoryId {
        self.id
    }

    /// Frames a message as an object of this repository.
    pub(crate) fn encode(&self, kind: ObjectKind, object: &str, message: &impl Message) -> Bytes {
        object::encode(kind, self.id, object, message)
    }

    /// Checks and reads an object's bytes.
    pub(crate) fn decode<M: Message + Default>(
        &self,
        kind: ObjectKind,
        object: &str,
        bytes: Bytes,
    ) -> Result<M, Error> {
        object::decode(kind, Some(self.id), object, bytes)
            .map(|(_, message)| message)
            .map_err(|source| self.refuse(object, source))
    }

    /// Fetches and reads an object that must be there.
    pub(crate) async fn fetch<M: Message + Default>(
        &self,
        kind: ObjectKind,
        object: &str,
        why: &str,
    ) -> Result<M, Error> {
        let (_, message) = self.fetch_object(kind, object, why).await?;
        Ok(message)
    }

    /// The same, with the object's bytes as they lie in the store.
    pub(crate) async fn fetch_object<M: Message + Default>(
        &self,
        kind: ObjectKind,
        object: &str,
        why: &str,
    ) -> Result<(Bytes, M), Error> {
        for tries in 1.. {
            let read = match self.store.get(object).await {
                Ok(bytes) => self
                    .decode(kind, object, bytes.clone())
                    .map(|message| (bytes, message)),
                Err(StoreError::NotFound { .. }) => Err(self.missing(object, why)),
                Err(error) => Err(error.into()),
            };
            if !is_worth_another_try(&read, tries) {
                return read;
            }
        }
        unreachable!("the last try's outcome is returned")
    }

    /// Bytes `start..end` of an object that must be there.
    pub(crate) async fn fetch_range(
        &self,
        object: &str,
        start: u64,
        end: u64,
        why: &str,
    ) -> Result<Bytes, Error> {
        let mut download = match self.store.get_range(object, start, end).await {
            Err(StoreError::NotFound { .. }) => return Err(self.missing(object, why)),
            opened => opened?,
        };
        let mut bytes = BytesMut::with_capacity(usize::try_from(end - start).unwrap_or(0));
        while let Some(piece) = download.next().await? {
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.freeze())
    }

    pub(crate) fn refuse(&self, object: &str, source: FormatError) -> Error {
        Error::Object {
            object: object.to_owned(),
            repository: self.store.describe(),
            source,
        }
    }

    pub(crate) fn missing(&self, object: &str, why: &str) -> Error {
        Error::Missing {
            object: object.to_owned(),
            repository: self.store.describe(),
            why: why.to_owned(),
        }
    }
}

/// Whether an object that came in as something else may come in right the next time.
pub(crate) fn is_worth_another_try<T>(read: &Result<T, Error>, tries: usize) -> bool {
    match read {
        Err(error @ Error::Object { .. }) if tries < FETCH_TRIES => {
            tracing::warn!(%error, "fetching it again");
            true
        }
        _ => false,
    }
}

/// Refuses a store that takes an object twice: it does not know conditional writes, and two writers
/// could lose each other's backups there.
///
/// This comes before there is a repository, so that the next who tries is refused as well. What
/// stays behind is an empty index segment that nothing refers to.
async fn probe(store: &Arc<dyn ObjectStore>, id: RepositoryId) -> Result<(), Error> {
    let object = PackName::random(SessionId::random(), 0).object(ObjectKind::IndexSegment);
    let segment = IndexSegment::default();
    let bytes = object::encode(ObjectKind::IndexSegment, id, &object, &segment);
    store.put_new(&object, bytes.clone()).await?;
    // An attempt that was cut off and is still at work makes the store answer "exists" too soon;
    // nothing makes it answer "created" twice but overwriting.
    for _ in 0..2 {
        if store.put_new(&object, bytes.clone()).await? == PutNew::Exists {
            return Ok(());
        }
    }
    Err(Error::UnsuitableStore {
        store: store.describe(),
        reason: "it overwrites objects in spite of If-None-Match, so backups made at the same \
                 time could be lost",
    })
}

/// Milliseconds since 1970 UTC by this host's clock. For people only: nothing is decided by it.
pub fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::store::fake::FakeStore;

    #[tokio::test]
    async fn a_creator_whom_another_kept_from_it_and_then_failed_makes_the_repository_itself() {
        let store = Arc::new(FakeStore::new());
        // Both of the probe, which is content with it, and the first for `repository`.
        store.conflicts.store(3, Ordering::Relaxed);
        let size = ChunkSize::new(64 << 10).expect("valid");
        Repository::open_or_create(store, size).await.expect("made");
    }

    #[tokio::test]
    async fn an_object_that_comes_in_damaged_is_fetched_again_before_it_is_called_so() {
        let store = Arc::new(FakeStore::new());
        let size = ChunkSize::new(64 << 10).expect("valid");
        Repository::open_or_create(Arc::clone(&store) as _, size)
            .await
            .expect("made");
        let tries = u32::try_from(FETCH_TRIES).expect("few");
        for (flips, is_read) in [(tries - 1, true), (tries, false)] {
            store.whole_flips.store(flips, Ordering::Relaxed);
            let opened = Repository::open(Arc::clone(&store) as _).await;
            assert_eq!(opened.is_ok(), is_read, "{flips}");
        }
    }

    #[tokio::test]
    async fn a_store_that_overwrites_is_refused_the_second_time_too() {
        let mut store = FakeStore::new();
        store.overwrites = true;
        let store: Arc<dyn ObjectStore> = Arc::new(store);
        let size = ChunkSize::new(64 << 10).expect("valid");
        for _ in 0..2 {
            let made = Repository::open_or_create(Arc::clone(&store), size).await;
            assert!(matches!(made, Err(Error::UnsuitableStore { .. })));
        }
    }
}
