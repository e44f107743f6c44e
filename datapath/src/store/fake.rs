//! A store in memory, for tests of what goes wrong in stores.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio_util::task::TaskTracker;

use crate::{chunk::ChunkSize, repository::Repository};

use super::{Download, Listed, Meter, ObjectStore, Payload, PutNew, StoreError, Throttle, Upload};

/// See the module.
#[derive(Default)]
pub(crate) struct FakeStore {
    objects: Arc<Mutex<BTreeMap<String, Bytes>>>,
    meter: Meter,
    throttle: Option<Arc<Throttle>>,
    background: TaskTracker,
    /// Conditional PUTs replace what is there.
    pub(crate) overwrites: bool,
    /// Conditional PUTs look whether there is an object, and write some time later.
    pub(crate) looks_first: bool,
    /// So many conditional PUTs are answered as if another were under way (status 409).
    pub(crate) conflicts: AtomicU32,
    /// In so many ranged GETs of data packs the first byte comes in wrong.
    pub(crate) flips: AtomicU32,
    /// In so many whole GETs the last byte comes in wrong.
    pub(crate) whole_flips: AtomicU32,
    /// So many objects may be deleted before it is denied; `None`: any.
    pub(crate) deletes_left: Mutex<Option<u32>>,
    /// Conditional PUTs of what begins so are denied.
    pub(crate) denied: Mutex<Option<&'static str>>,
    /// These bytes of this object cannot be read; those before them can.
    pub(crate) unreadable: Mutex<Option<(String, Range<usize>)>>,
    /// So many conditional PUTs are done, and answered as denied.
    pub(crate) belied: AtomicU32,
    /// Whole and ranged GETs.
    pub(crate) gets: AtomicU32,
    /// Those of them that were for index segments.
    pub(crate) segment_gets: AtomicU32,
}

fn one_of(counter: &AtomicU32) -> bool {
    counter
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            left.checked_sub(1)
        })
        .is_ok()
}

impl FakeStore {
    pub(crate) fn new() -> Self {
        let store = Self {
            throttle: Some(Throttle::new(4)),
            ..Self::default()
        };
        store.background.close();
        store
    }

    /// A repository in it, of chunks of 64 KiB.
    pub(crate) async fn repository(self: &Arc<Self>) -> Repository {
        let size = ChunkSize::new(64 << 10).expect("valid");
        let made = Repository::open_or_create(Arc::clone(self) as _, size, None).await;
        made.expect("made")
    }

    pub(crate) fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, object: &str) -> Result<Bytes, StoreError> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        if object.starts_with("index/") {
            self.segment_gets.fetch_add(1, Ordering::Relaxed);
        }
        let found = self.objects().get(object).cloned();
        found.ok_or_else(|| StoreError::NotFound {
            object: object.to_owned(),
        })
    }

    /// Bytes of an object as they come in.
    fn read(&self, object: &str, range: Range<usize>) -> Result<Pieces, StoreError> {
        let whole = self.find(object)?;
        let Some(bytes) = whole.get(range.clone()) else {
            return Err(StoreError::TooShort {
                object: object.to_owned(),
            });
        };
        let bytes = Bytes::copy_from_slice(bytes);
        let unreadable = self
            .unreadable
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let bad = unreadable
            .iter()
            .find(|(name, bad)| name == object && bad.start < range.end && range.start < bad.end);
        let Some((_, bad)) = bad else {
            return Ok(Pieces(VecDeque::from([Ok(bytes)])));
        };
        let error = StoreError::Unreadable {
            object: object.to_owned(),
            reason: "Input/output error (os error 5)".to_owned(),
        };
        let readable = bad.start.saturating_sub(range.start);
        Ok(Pieces(VecDeque::from([
            Ok(bytes.slice(..readable)),
            Err(error),
        ])))
    }

    fn denial(&self, object: &str) -> StoreError {
        StoreError::Denied {
            object: object.to_owned(),
            endpoint: self.describe(),
            code: "AccessDenied".into(),
        }
    }

    /// Removes all objects whose names begin so; how many.
    pub(crate) fn lose(&self, prefix: &str) -> usize {
        let mut objects = self.objects();
        let before = objects.len();
        objects.retain(|name, _| !name.starts_with(prefix));
        before - objects.len()
    }
}

fn joined(payload: &Payload) -> Bytes {
    let mut whole = BytesMut::new();
    for piece in payload.pieces() {
        whole.extend_from_slice(piece);
    }
    whole.freeze()
}

struct Pieces(VecDeque<Result<Bytes, StoreError>>);

#[async_trait]
impl Download for Pieces {
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        self.0.pop_front().transpose()
    }
}

struct Parts {
    object: String,
    parts: Mutex<BTreeMap<i32, Bytes>>,
    objects: Arc<Mutex<BTreeMap<String, Bytes>>>,
}

#[async_trait]
impl Upload for Parts {
    async fn part(&self, number: i32, payload: Payload) -> Result<(), StoreError> {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.insert(number, joined(&payload));
        Ok(())
    }

    async fn complete(&self, _bytes: u64) -> Result<(), StoreError> {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let whole: Vec<u8> = parts.values().flatten().copied().collect();
        self.objects
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(self.object.clone(), whole.into());
        Ok(())
    }

    async fn abort(&self) {}
}

#[async_trait]
impl ObjectStore for FakeStore {
    async fn get(&self, object: &str) -> Result<Bytes, StoreError> {
        let mut whole = Vec::new();
        let len = self.objects().get(object).map_or(0, Bytes::len);
        for piece in self.read(object, 0..len)?.0 {
            whole.extend_from_slice(&piece?);
        }
        if one_of(&self.whole_flips) {
            *whole.last_mut().expect("no object is empty") ^= 1;
        }
        Ok(whole.into())
    }

    async fn get_range(
        &self,
        object: &str,
        start: u64,
        end: u64,
    ) -> Result<Box<dyn Download>, StoreError> {
        let range = usize::try_from(start).expect("small")..usize::try_from(end).expect("small");
        let mut pieces = self.read(object, range)?;
        if object.starts_with("data/")
            && let Some(Ok(first)) = pieces.0.front_mut()
            && one_of(&self.flips)
        {
            let mut flipped = first.to_vec();
            flipped[0] ^= 1;
            *first = flipped.into();
        }
        Ok(Box::new(pieces))
    }

    async fn size(&self, object: &str) -> Result<u64, StoreError> {
        Ok(self.find(object)?.len() as u64)
    }

    async fn put(&self, object: &str, payload: Payload) -> Result<(), StoreError> {
        self.objects().insert(object.to_owned(), joined(&payload));
        Ok(())
    }

    async fn put_new(&self, object: &str, bytes: Bytes) -> Result<PutNew, StoreError> {
        let denied = *self.denied.lock().unwrap_or_else(PoisonError::into_inner);
        if denied.is_some_and(|prefix| object.starts_with(prefix)) {
            return Err(self.denial(object));
        }
        if self.looks_first && !self.objects().contains_key(object) {
            tokio::task::yield_now().await;
            self.objects().remove(object);
        }
        let mut objects = self.objects();
        if one_of(&self.conflicts) || (objects.contains_key(object) && !self.overwrites) {
            return Ok(PutNew::Exists);
        }
        objects.insert(object.to_owned(), bytes);
        drop(objects);
        if one_of(&self.belied) {
            return Err(self.denial(object));
        }
        Ok(PutNew::Created)
    }

    async fn delete(&self, object: &str) -> Result<(), StoreError> {
        let mut left = self
            .deletes_left
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(left) = &mut *left {
            *left = left.checked_sub(1).ok_or_else(|| self.denial(object))?;
        }
        self.objects().remove(object);
        Ok(())
    }

    async fn upload(&self, object: &str, _part_bytes: u64) -> Result<Arc<dyn Upload>, StoreError> {
        Ok(Arc::new(Parts {
            object: object.to_owned(),
            parts: Mutex::default(),
            objects: Arc::clone(&self.objects),
        }))
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<Listed>, StoreError> {
        let objects = self.objects();
        let below = objects.iter().filter(|(name, _)| name.starts_with(prefix));
        Ok(below
            .filter(|(name, _)| after.is_none_or(|after| name.as_str() > after))
            .map(|(name, bytes)| Listed {
                name: name.clone(),
                bytes: bytes.len() as u64,
            })
            .collect())
    }

    async fn abandon_uploads(&self, _prefix: &str) -> Result<usize, StoreError> {
        // An upload is held by whoever began it, and ends with it.
        Ok(0)
    }

    fn background(&self) -> &TaskTracker {
        &self.background
    }

    fn meter(&self) -> &Meter {
        &self.meter
    }

    fn throttle(&self) -> &Arc<Throttle> {
        self.throttle.as_ref().expect("made by `new`")
    }

    fn describe(&self) -> String {
        "a store in memory".to_owned()
    }
}
