//! Packs: whether they are there, what their footers say, and whether their chunks are what the
//! footers say.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use bytes::{Buf, Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};

use super::{Counts, Damage, Finding, add};
use crate::{
    chunk::ChunkId,
    error::Error,
    footers::fetch_footer,
    format::{
        FormatError,
        name::{ObjectKind, PackName},
        object::HEADER_BYTES,
        pack::Place,
    },
    record::{Flaw, Seal, check},
    repository::{FETCH_TRIES, Repository},
    store::{Download, StoreError},
    tasks::blocking,
};

/// Footers kept, in bytes: those of 450 GiB of 256 KiB chunks.
const CACHE_BYTES: usize = 64 << 20;
/// Packs looked at side by side; the store's throttle limits those that are read.
const LOOKS: usize = 16;

/// What is known of the packs.
pub(super) struct Packs<'a> {
    repository: &'a Repository,
    counts: &'a Counts,
    /// Those whose chunks are read.
    sample: Arc<BTreeSet<PackName>>,
    missing: HashSet<PackName>,
    /// Chunks that are damaged, by ordinal, and how.
    damaged: HashMap<PackName, HashMap<u32, String>>,
    /// Headers and footers that are damaged. Restores do not read them.
    odd: HashMap<String, String>,
    cache: Cache,
}

/// A pack that is there.
pub(super) struct Pack {
    bytes: u64,
    /// `None`: it cannot be read.
    records: Option<Records>,
}

/// What a footer says.
struct Records {
    ids: Bytes,
    /// Offset of each record, and of the end.
    offsets: Vec<u32>,
}

/// How one look at a pack ended.
enum Look {
    Missing,
    There {
        pack: Pack,
        odd: Option<String>,
        damaged: HashMap<u32, String>,
    },
}

impl<'a> Packs<'a> {
    pub(super) fn new(
        repository: &'a Repository,
        counts: &'a Counts,
        sample: BTreeSet<PackName>,
    ) -> Self {
        Self {
            repository,
            counts,
            sample: Arc::new(sample),
            missing: HashSet::new(),
            damaged: HashMap::new(),
            odd: HashMap::new(),
            cache: Cache::default(),
        }
    }

    /// Looks at every one of these packs, once.
    pub(super) async fn look_at_all(
        &mut self,
        kind: ObjectKind,
        names: &BTreeSet<PackName>,
    ) -> Result<(), Error> {
        let (repository, counts) = (self.repository, self.counts);
        let sample = Arc::clone(&self.sample);
        let mut looks = stream::iter(names.iter().copied())
            .map(|name| {
                let read = kind == ObjectKind::DataPack && sample.contains(&name);
                async move {
                    let look = look(repository, kind, name, read, counts).await?;
                    add(&counts.packs, 1);
                    Ok::<_, Error>((name, look))
                }
            })
            .buffer_unordered(LOOKS);
        while let Some((name, look)) = looks.try_next().await? {
            self.note(kind, name, look);
            self.cache.shrink();
        }
        Ok(())
    }

    /// Makes sure that what is known of these data packs is at hand.
    pub(super) async fn recall(&mut self, names: BTreeSet<PackName>) -> Result<(), Error> {
        self.cache.shrink();
        let (repository, counts) = (self.repository, self.counts);
        let unknown: Vec<PackName> = names
            .into_iter()
            .filter(|name| !self.missing.contains(name) && !self.cache.has(name))
            .collect();
        let mut looks = stream::iter(unknown)
            .map(|name| async move {
                let look = look(repository, ObjectKind::DataPack, name, false, counts).await?;
                Ok::<_, Error>((name, look))
            })
            .buffer_unordered(LOOKS);
        while let Some((name, look)) = looks.try_next().await? {
            self.note(ObjectKind::DataPack, name, look);
        }
        Ok(())
    }

    fn note(&mut self, kind: ObjectKind, name: PackName, look: Look) {
        let object = name.object(kind);
        match look {
            Look::Missing if kind == ObjectKind::DataPack => {
                self.missing.insert(name);
            }
            Look::Missing => {
                self.odd.insert(object, "is missing".to_owned());
            }
            Look::There { pack, odd, damaged } => {
                if let Some(reason) = odd {
                    self.odd.insert(object, reason);
                }
                if !damaged.is_empty() {
                    self.damaged.insert(name, damaged);
                }
                if kind == ObjectKind::DataPack {
                    self.cache.insert(name, pack);
                }
            }
        }
    }

    /// What is wrong with the chunk `id` at this place, whose pack was recalled.
    pub(super) async fn objection(
        &self,
        place: &Place,
        id: &ChunkId,
    ) -> Result<Option<String>, Error> {
        if self.missing.contains(&place.pack) {
            return Ok(Some("is missing".to_owned()));
        }
        let pack = self.cache.get(&place.pack).expect("it was recalled");
        if place.end() > pack.bytes {
            return Ok(Some("is cut off".to_owned()));
        }
        match &pack.records {
            Some(records) if !records.has(place, id) => {
                Ok(Some("has another chunk there, by its footer".to_owned()))
            }
            Some(_) => {
                let damaged = self.damaged.get(&place.pack);
                Ok(damaged.and_then(|all| all.get(&place.ordinal)).cloned())
            }
            None if self.sample.contains(&place.pack) => {
                add(&self.counts.chunks_read, 1);
                add(&self.counts.bytes_read, u64::from(place.stored_bytes));
                read_again(self.repository, place, id, FETCH_TRIES).await
            }
            None => Ok(None),
        }
    }

    /// Damage that costs no backup a byte: to footers, and to chunks that no backup names.
    pub(super) fn rest(self, told: &HashSet<PackName>) -> Vec<Finding> {
        let chunks = self.damaged.into_iter().flat_map(|(pack, damaged)| {
            let is_told = told.contains(&pack);
            damaged
                .into_iter()
                .filter(move |_| !is_told)
                .map(move |(ordinal, reason)| (pack, format!("{reason} (record {ordinal})")))
        });
        let missing = self.missing.into_iter();
        let missing = missing
            .filter(|pack| !told.contains(pack))
            .map(|pack| (pack, "is missing".to_owned()));
        let of_chunks = missing.chain(chunks).map(|(pack, reason)| Finding {
            object: pack.object(ObjectKind::DataPack),
            reason,
            pack: Some(pack),
            ..Finding::default()
        });
        let odd = self.odd.into_iter();
        let odd = odd.map(|(object, reason)| Damage { object, reason }.nobodys());
        let mut rest: Vec<Finding> = odd.chain(of_chunks).collect();
        rest.sort_by(|a, b| (&a.object, &a.reason).cmp(&(&b.object, &b.reason)));
        rest
    }
}

impl Records {
    fn has(&self, place: &Place, id: &ChunkId) -> bool {
        let at = place.ordinal as usize;
        let lies = self.offsets.get(at..at + 2);
        lies.is_some_and(|lies| lies[0] == place.offset && u64::from(lies[1]) == place.end())
            && self.ids[at * 32..][..32] == id.0
    }

    /// Each record's place and id.
    fn all(&self, pack: PackName) -> impl Iterator<Item = (Place, ChunkId)> {
        let (ids, _) = self.ids.as_chunks::<32>();
        let lies = self.offsets.windows(2);
        (0u32..)
            .zip(ids.iter().zip(lies))
            .map(move |(ordinal, (id, lies))| {
                let place = Place {
                    pack,
                    ordinal,
                    offset: lies[0],
                    stored_bytes: lies[1] - lies[0],
                };
                (place, ChunkId(*id))
            })
    }
}

/// Looks at one pack, and reads its chunks if asked to.
async fn look(
    repository: &Repository,
    kind: ObjectKind,
    name: PackName,
    read: bool,
    counts: &Counts,
) -> Result<Look, Error> {
    let store = repository.store();
    let bytes = match store.size(&name.object(kind)).await {
        Ok(bytes) => bytes,
        Err(StoreError::NotFound { .. }) => return Ok(Look::Missing),
        Err(error) => return Err(error.into()),
    };
    let (mut records, mut odd) = (None, None);
    for _ in 0..FETCH_TRIES {
        match fetch_records(repository, kind, name, bytes).await {
            Ok(found) => (records, odd) = (Some(found), None),
            Err(error) => odd = Some(Damage::of(name.object(kind), error)?.reason),
        }
        if records.is_some() {
            break;
        }
    }
    let mut damaged = HashMap::new();
    if let Some(records) = records.as_ref().filter(|_| read) {
        let permit = store.throttle().acquire().await;
        damaged = read_all(repository, name, records, counts).await?;
        drop(permit);
    }
    let pack = Pack { bytes, records };
    Ok(Look::There { pack, odd, damaged })
}

async fn fetch_records(
    repository: &Repository,
    kind: ObjectKind,
    name: PackName,
    bytes: u64,
) -> Result<Records, Error> {
    let footer = fetch_footer(repository, kind, name, bytes).await?;
    let mut offsets = vec![HEADER_BYTES as u64];
    for &stored_bytes in &footer.stored_bytes {
        offsets.push(offsets[offsets.len() - 1] + u64::from(stored_bytes));
    }
    let offsets = offsets
        .into_iter()
        .map(u32::try_from)
        .collect::<Result<_, _>>();
    let ids = footer.ids;
    match offsets {
        Ok(offsets) => Ok(Records { ids, offsets }),
        Err(_) => {
            let large = FormatError::Damaged("it is over 4 GiB");
            Err(repository.refuse(&name.object(kind), large))
        }
    }
}

/// Reads all chunks of a pack in one go; those that are damaged, and how.
async fn read_all(
    repository: &Repository,
    pack: PackName,
    records: &Records,
    counts: &Counts,
) -> Result<HashMap<u32, String>, Error> {
    let mut damaged = HashMap::new();
    let mut reading = Reading::begin(repository, pack, records).await?;
    let chunk_bytes = repository.chunk_size().buffer_bytes();
    let record_bytes_max = repository.shape().record_bytes_max(chunk_bytes);
    for (place, id) in records.all(pack) {
        if place.stored_bytes as usize > record_bytes_max {
            // Whatever else is in this pack, nobody shall hold a record of any length in memory.
            damaged.insert(place.ordinal, Flaw::Length.to_string());
            reading.skip(place.stored_bytes as usize).await?;
            continue;
        }
        let record = reading.take(place.stored_bytes as usize).await?;
        add(&counts.chunks_read, 1);
        add(&counts.bytes_read, record.len() as u64);
        if judge(repository, record, &place, id).await?.is_some()
            && let Some(reason) = read_again(repository, &place, &id, FETCH_TRIES - 1).await?
        {
            damaged.insert(place.ordinal, reason);
        }
    }
    Ok(damaged)
}

/// A pack that is read from its first record to its last. Where its bytes cannot be read it ends
/// early, like one that is cut off.
struct Reading {
    object: String,
    download: Option<Box<dyn Download>>,
    pending: BytesMut,
}

impl Reading {
    async fn begin(
        repository: &Repository,
        pack: PackName,
        records: &Records,
    ) -> Result<Self, Error> {
        let object = pack.object(ObjectKind::DataPack);
        let (first, last) = (records.offsets.first(), records.offsets.last());
        let (start, end) = (*first.expect("has one"), *last.expect("has one"));
        let store = repository.store();
        let download = match store.get_range(&object, start.into(), end.into()).await {
            Ok(download) => Some(download),
            Err(error) => {
                Damage::of(object.clone(), error.into())?;
                None
            }
        };
        Ok(Self {
            object,
            download,
            pending: BytesMut::new(),
        })
    }

    /// Fetches another piece; whether there is one.
    async fn fetch(&mut self) -> Result<bool, Error> {
        let Some(download) = &mut self.download else {
            return Ok(false);
        };
        match download.next().await {
            Ok(Some(piece)) => {
                self.pending.extend_from_slice(&piece);
                return Ok(true);
            }
            Ok(None) => {}
            Err(error) => {
                Damage::of(self.object.clone(), error.into())?;
            }
        }
        self.download = None;
        Ok(false)
    }

    /// The next bytes, fewer at the end.
    async fn take(&mut self, bytes: usize) -> Result<BytesMut, Error> {
        while self.pending.len() < bytes && self.fetch().await? {}
        Ok(self.pending.split_to(bytes.min(self.pending.len())))
    }

    /// Passes over the next bytes, and holds none of them.
    async fn skip(&mut self, mut bytes: usize) -> Result<(), Error> {
        while bytes > self.pending.len() {
            bytes -= self.pending.len();
            self.pending.clear();
            if !self.fetch().await? {
                return Ok(());
            }
        }
        self.pending.advance(bytes);
        Ok(())
    }
}

/// Whether the chunk is whole at this place.
pub(super) async fn is_whole(
    repository: &Repository,
    place: &Place,
    id: &ChunkId,
) -> Result<bool, Error> {
    let chunk_bytes = repository.chunk_size().buffer_bytes();
    if place.stored_bytes as usize > repository.shape().record_bytes_max(chunk_bytes) {
        return Ok(false);
    }
    let objection = read_again(repository, place, id, FETCH_TRIES).await?;
    Ok(objection.is_none())
}

/// Fetches a chunk by itself, again when it does not match; what is wrong with it.
async fn read_again(
    repository: &Repository,
    place: &Place,
    id: &ChunkId,
    tries: usize,
) -> Result<Option<String>, Error> {
    let object = place.pack.object(ObjectKind::DataPack);
    let mut objection = None;
    for _ in 0..tries {
        let start = u64::from(place.offset);
        let why = "a backup names this pack";
        let record = match repository
            .fetch_range(&object, start, place.end(), why)
            .await
        {
            Ok(record) => record,
            Err(error) => return Ok(Some(Damage::of(object, error)?.reason)),
        };
        objection = judge(repository, record.into(), place, *id).await?;
        if objection.is_none() {
            break;
        }
    }
    Ok(objection)
}

/// What is wrong with a record that should be the chunk `id`.
async fn judge(
    repository: &Repository,
    mut record: BytesMut,
    place: &Place,
    id: ChunkId,
) -> Result<Option<String>, Error> {
    let chunk_bytes = repository.chunk_size().buffer_bytes();
    let (hashing, key) = (
        repository.hashing(),
        repository.pack_key(ObjectKind::DataPack, place.pack),
    );
    let seal = Seal::of(key.as_ref(), place, &id.0);
    let checked =
        blocking(move || check(&mut record, seal.as_ref(), &id, &hashing, chunk_bytes)).await?;
    Ok(checked.err().map(|flaw| flaw.to_string()))
}

/// The packs last looked at.
#[derive(Default)]
struct Cache {
    packs: HashMap<PackName, Pack>,
    order: VecDeque<PackName>,
    bytes: usize,
}

impl Pack {
    fn memory_bytes(&self) -> usize {
        let records = self.records.as_ref();
        128 + records.map_or(0, |it| it.ids.len() + it.offsets.len() * 4)
    }
}

impl Cache {
    fn has(&self, name: &PackName) -> bool {
        self.packs.contains_key(name)
    }

    fn get(&self, name: &PackName) -> Option<&Pack> {
        self.packs.get(name)
    }

    /// Takes a pack up.
    fn insert(&mut self, name: PackName, pack: Pack) {
        self.bytes += pack.memory_bytes();
        self.packs.insert(name, pack);
        self.order.push_back(name);
    }

    /// Forgets the oldest while they are too many.
    fn shrink(&mut self) {
        while self.bytes > CACHE_BYTES
            && let Some(oldest) = self.order.pop_front()
        {
            if let Some(pack) = self.packs.remove(&oldest) {
                self.bytes -= pack.memory_bytes();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;

    struct Pieces(VecDeque<Bytes>);

    #[async_trait]
    impl Download for Pieces {
        async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
            Ok(self.0.pop_front())
        }
    }

    #[tokio::test]
    async fn what_is_passed_over_is_passed_over_wherever_the_pieces_end() {
        let whole: Vec<u8> = (0..12).collect();
        for piece_bytes in 1..=whole.len() {
            for bytes in 0..=whole.len() + 1 {
                let pieces = whole.chunks(piece_bytes).map(Bytes::copy_from_slice);
                let mut reading = Reading {
                    object: String::new(),
                    download: Some(Box::new(Pieces(pieces.collect()))),
                    pending: BytesMut::new(),
                };
                let first = reading.take(1).await.expect("comes");
                assert_eq!(first, [0][..]);
                reading.skip(bytes).await.expect("passes over");
                let left = reading.take(whole.len()).await.expect("comes");
                let expected = &whole[(1 + bytes).min(whole.len())..];
                assert_eq!(left, expected, "{bytes} bytes, pieces of {piece_bytes}");
            }
        }
    }
}
