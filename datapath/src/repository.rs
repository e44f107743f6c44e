//! A repository: a prefix in a store that an object named `repository` makes one.
//!
//! Owns the way from object names to checked messages and bytes, sealed and opened where the
//! repository is encrypted. Knows nothing of volumes.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{Bytes, BytesMut};
use futures::future::try_join_all;
use prost::Message;
use ringback_proto::repository::{IndexSegment, IndexedPack, Repository as RepositoryMessage};

use crate::{
    chunk::ChunkSize,
    crypt::{Hashing, PackKey, Passphrase},
    error::Error,
    format::{
        FormatError,
        domain::{Domain, KeyEpoch},
        name::{CHECKPOINT, LOG, ObjectKind, PackName, REPOSITORY, SessionId, Slot, random},
        object::{self, RepositoryId},
        pack::pack_key,
    },
    keys::{Lock, Unlocked},
    record::Shape,
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

/// When a store is tried, so many want one name at once.
const RACERS: u32 = 8;
/// And so often.
const RACES: usize = 4;

/// An opened repository.
#[derive(Clone)]
pub struct Repository {
    store: Arc<dyn ObjectStore>,
    domain: Domain,
    /// `None`: it is not encrypted.
    unlocked: Option<Arc<Unlocked>>,
    chunk_size: ChunkSize,
}

/// What the object `repository` says.
pub(crate) struct Described {
    id: RepositoryId,
    chunk_size: ChunkSize,
    /// `None`: it is not encrypted.
    lock: Option<Lock>,
}

impl Repository {
    /// Opens the repository in `store`. One that is encrypted needs a passphrase, and no other
    /// takes one.
    pub async fn open(
        store: Arc<dyn ObjectStore>,
        passphrase: Option<&Passphrase>,
    ) -> Result<Self, Error> {
        let described = describe_or_miss(&store).await?;
        let unlocked = match (described.lock, passphrase) {
            (None, None) => None,
            (Some(lock), Some(passphrase)) => Some(lock.open(&store, passphrase).await?),
            (None, Some(_)) => {
                let repository = store.describe();
                return Err(Error::NotEncrypted { repository });
            }
            (Some(_), None) => {
                let repository = store.describe();
                return Err(Error::Encrypted { repository });
            }
        };
        let unlocked = unlocked.map(Arc::new);
        let keys = unlocked.as_ref().map(|it| Arc::clone(&it.keys));
        let id = described.id;
        Ok(Self {
            store,
            domain: Domain { id, keys },
            unlocked,
            chunk_size: described.chunk_size,
        })
    }

    /// Opens the repository in `store`, or makes one with chunks of `chunk_size`, encrypted if
    /// there is a passphrase.
    pub async fn open_or_create(
        store: Arc<dyn ObjectStore>,
        chunk_size: ChunkSize,
        passphrase: Option<&Passphrase>,
    ) -> Result<Self, Error> {
        match Self::open(Arc::clone(&store), passphrase).await {
            Err(Error::NoRepository { .. }) => Self::create(store, chunk_size, passphrase).await,
            opened => opened,
        }
    }

    async fn create(
        store: Arc<dyn ObjectStore>,
        chunk_size: ChunkSize,
        passphrase: Option<&Passphrase>,
    ) -> Result<Self, Error> {
        let id = RepositoryId(random());
        let mut message = RepositoryMessage {
            id: Bytes::copy_from_slice(&id.0),
            chunk_bytes: chunk_size.bytes(),
            created_ms: now_ms(),
            ..RepositoryMessage::default()
        };
        let mut domain = Domain::plain(id);
        if let Some(passphrase) = passphrase {
            let (keys, slot, bytes) = Lock::make(id, &mut message, passphrase).await?;
            domain.keys = Some(keys);
            probe(&store, &domain).await?;
            // Should somebody else make the repository, this slot stays and opens nothing.
            store.put(&slot.object(), bytes.into()).await?;
        } else {
            probe(&store, &domain).await?;
        }
        let (kind, epoch) = (ObjectKind::Repository, domain.epoch());
        let bytes = object::encode_clear(kind, epoch, id, REPOSITORY, &message);
        // Whoever was first, the object is there now. But a store may tell the second before the
        // first is done, or has failed.
        for pause in CREATION_PAUSES {
            store.put_new(REPOSITORY, bytes.clone()).await?;
            match Self::open(Arc::clone(&store), passphrase).await {
                Err(Error::NoRepository { .. }) => tokio::time::sleep(pause).await,
                opened => return opened,
            }
        }
        Self::open(store, passphrase).await
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

    /// What its objects have in common.
    pub(crate) fn domain(&self) -> &Domain {
        &self.domain
    }

    /// How it makes ids of chunks and nodes.
    pub fn hashing(&self) -> Hashing {
        self.domain.hashing()
    }

    /// Whether what lies in the store is sealed.
    pub fn is_encrypted(&self) -> bool {
        self.unlocked.is_some()
    }

    /// What its records look like.
    pub(crate) fn shape(&self) -> Shape {
        Shape::of(self.domain.keys.as_ref())
    }

    /// The key of one of its packs; `None`: it is not encrypted.
    pub(crate) fn pack_key(&self, kind: ObjectKind, pack: PackName) -> Option<Arc<PackKey>> {
        pack_key(&self.domain, kind, pack)
    }

    /// Its keys; `None`: it is not encrypted.
    pub(crate) fn unlocked(&self) -> Option<&Unlocked> {
        self.unlocked.as_deref()
    }

    /// Frames a message as an object of this repository.
    pub(crate) fn encode(&self, kind: ObjectKind, object: &str, message: &impl Message) -> Bytes {
        object::encode(kind, &self.domain, object, message)
    }

    /// Checks and reads an object's bytes.
    pub(crate) fn decode<M: Message + Default>(
        &self,
        kind: ObjectKind,
        object: &str,
        bytes: Bytes,
    ) -> Result<M, Error> {
        object::decode(kind, &self.domain, object, bytes)
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

/// The same; where it is missing beside a log, it was lost.
async fn describe_or_miss(store: &Arc<dyn ObjectStore>) -> Result<Described, Error> {
    match describe(store).await {
        Err(Error::NoRepository { .. }) if has_log(store).await? => {}
        described => return described,
    }
    // Or somebody else has just made it.
    match describe(store).await {
        Err(Error::NoRepository { repository }) => Err(Error::Missing {
            object: REPOSITORY.to_owned(),
            repository,
            why: "there is a log of backups; put it back from a copy".to_owned(),
        }),
        described => described,
    }
}

/// Whether there are backups, or were.
async fn has_log(store: &Arc<dyn ObjectStore>) -> Result<bool, Error> {
    for prefix in [LOG, CHECKPOINT] {
        let listed = store.list(prefix, None).await?;
        let mut slots = listed
            .iter()
            .filter_map(|it| it.name.strip_prefix(prefix).and_then(Slot::parse));
        if slots.next().is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Fetches and reads the object `repository`.
async fn describe(store: &Arc<dyn ObjectStore>) -> Result<Described, Error> {
    for tries in 1.. {
        let read = match store.get(REPOSITORY).await {
            Ok(bytes) => read(bytes).map_err(|source| Error::Object {
                object: REPOSITORY.to_owned(),
                repository: store.describe(),
                source,
            }),
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

pub(crate) fn read(bytes: Bytes) -> Result<Described, FormatError> {
    let (header, message) =
        object::decode_clear::<RepositoryMessage>(ObjectKind::Repository, REPOSITORY, bytes)?;
    let id = header.repository;
    if message.id[..] != id.0[..] {
        return Err(FormatError::Damaged("its ids differ"));
    }
    let chunk_size = ChunkSize::new(message.chunk_bytes)
        .ok_or(FormatError::Damaged("its chunk size is none"))?;
    let lock = Lock::read(id, message)?;
    if lock.is_some() != (header.epoch == KeyEpoch::First) {
        return Err(FormatError::Damaged(
            "header and body differ in whether it is encrypted",
        ));
    }
    Ok(Described {
        id,
        chunk_size,
        lock,
    })
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

/// Refuses a store where several can take one name: it does not know conditional writes, or looks
/// first and writes then, and two writers could lose each other's backups there.
///
/// This comes before there is a repository, so that the next who tries is refused as well. What
/// stays behind are index segments of nothing, to which nothing refers.
async fn probe(store: &Arc<dyn ObjectStore>, domain: &Domain) -> Result<(), Error> {
    for _ in 0..RACES {
        if !is_won_by_one(store, domain).await? {
            return Err(Error::UnsuitableStore {
                store: store.describe(),
                reason: "it overwrites objects in spite of If-None-Match, so backups made at the \
                         same time could be lost",
            });
        }
    }
    Ok(())
}

/// Whether of some who want one name at once no more than one gets it, and keeps it.
async fn is_won_by_one(store: &Arc<dyn ObjectStore>, domain: &Domain) -> Result<bool, Error> {
    let session = SessionId::random();
    let object = PackName::random(session, 0).object(ObjectKind::IndexSegment);
    let racer = |number| {
        let nothing = IndexedPack {
            name: Bytes::copy_from_slice(PackName::random(session, number).as_bytes()),
            ..IndexedPack::default()
        };
        let packs = vec![nothing];
        let segment = IndexSegment { packs };
        object::encode(ObjectKind::IndexSegment, domain, &object, &segment)
    };
    let racers: Vec<Bytes> = (0..RACERS).map(racer).collect();
    let race = racers.iter().map(|it| store.put_new(&object, it.clone()));
    let answers = try_join_all(race).await?;
    let mut winners = racers
        .iter()
        .zip(answers)
        .filter_map(|(racer, answer)| (answer == PutNew::Created).then_some(racer));
    let Some(winner) = winners.next() else {
        // All met one who was still at work, or its answer was lost.
        return Ok(true);
    };
    Ok(winners.next().is_none()
        && shows(store, &object, winner).await?
        && store.put_new(&object, racers[0].clone()).await? == PutNew::Exists)
}

/// Whether an object has these bytes; what comes in as others may have been damaged on the way.
async fn shows(store: &Arc<dyn ObjectStore>, object: &str, bytes: &Bytes) -> Result<bool, Error> {
    for _ in 0..FETCH_TRIES {
        if store.get(object).await? == *bytes {
            return Ok(true);
        }
    }
    Ok(false)
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
        // All of the probe, which is content with it, and the first for `repository`.
        let probes = RACERS * u32::try_from(RACES).expect("few");
        store.conflicts.store(probes + 1, Ordering::Relaxed);
        let size = ChunkSize::new(64 << 10).expect("valid");
        Repository::open_or_create(store, size, None)
            .await
            .expect("made");
    }

    #[tokio::test]
    async fn an_object_that_comes_in_damaged_is_fetched_again_before_it_is_called_so() {
        let store = Arc::new(FakeStore::new());
        let size = ChunkSize::new(64 << 10).expect("valid");
        Repository::open_or_create(Arc::clone(&store) as _, size, None)
            .await
            .expect("made");
        let tries = u32::try_from(FETCH_TRIES).expect("few");
        for (flips, is_read) in [(tries - 1, true), (tries, false)] {
            store.whole_flips.store(flips, Ordering::Relaxed);
            let opened = Repository::open(Arc::clone(&store) as _, None).await;
            assert_eq!(opened.is_ok(), is_read, "{flips}");
        }
    }

    #[tokio::test]
    async fn a_repository_that_lost_its_head_is_not_made_again_over_its_backups() {
        let store = Arc::new(FakeStore::new());
        let size = ChunkSize::new(64 << 10).expect("valid");
        let open = async || Repository::open_or_create(Arc::clone(&store) as _, size, None).await;
        let made = open().await.expect("made");
        let head = store.objects()[REPOSITORY].clone();
        store.lose(REPOSITORY);
        // Without backups there is nothing to lose.
        let again = open().await.expect("made again");
        assert_ne!(again.domain().id.0, made.domain().id.0);
        let entry = Slot(1).object();
        store.put(&entry, head.clone().into()).await.expect("put");
        store.lose(REPOSITORY);
        let error = open().await.err().expect("refused");
        assert_eq!(error.kind(), crate::error::ErrorKind::Damaged);
        assert!(error.to_string().contains("put it back"), "{error}");
        assert!(!store.objects().contains_key(REPOSITORY));
        store.put(REPOSITORY, head.into()).await.expect("put");
        assert_eq!(
            open().await.expect("opens").domain().id.0,
            made.domain().id.0
        );
    }

    #[tokio::test]
    async fn a_store_that_overwrites_or_looks_before_it_writes_is_refused_the_second_time_too() {
        let mut stores = [FakeStore::new(), FakeStore::new()];
        stores[0].overwrites = true;
        stores[1].looks_first = true;
        let size = ChunkSize::new(64 << 10).expect("valid");
        for store in stores {
            let store: Arc<dyn ObjectStore> = Arc::new(store);
            for _ in 0..2 {
                let made = Repository::open_or_create(Arc::clone(&store), size, None).await;
                assert!(matches!(made, Err(Error::UnsuitableStore { .. })));
            }
        }
    }
}
