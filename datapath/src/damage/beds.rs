//! Small repositories that have an object of every kind, and packs of every codec.

use std::{
    collections::BTreeMap,
    fs::File,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use tempfile::TempDir;

use super::{
    changes::{Change, Damage, Origin},
    judge::{Content, content_of, open, restored, store_of, verified},
};
use crate::{
    backup::{self, Subject},
    chunk::ChunkSize,
    codec::Codec,
    crypt::Passphrase,
    footers::fetch_footer,
    format::{
        name::{KEYS, LOG, ObjectKind, PackName},
        object::HEADER_BYTES,
        pack::TRAILER_BYTES,
    },
    keys::KeySlots,
    log::Log,
    packer::PackSizes,
    progress::Progress,
    repository::Repository,
    ring::IoEngine,
    settings::Settings,
    stop::Stop,
    store::{fake::FakeStore, location::Secret},
    verify::Depth,
};

const CHUNK: u64 = 64 << 10;
/// Two leaves and a parent; the last chunk is short.
const LARGE_BYTES: u64 = 600 * CHUNK + 512;
/// One leaf.
const SMALL_BYTES: u64 = 3 * CHUNK + 512;

pub(super) type Objects = BTreeMap<String, Bytes>;

/// A repository that is whole, to be copied and damaged.
pub(super) struct Bed {
    pub(super) label: &'static str,
    pub(super) objects: Objects,
    pub(super) passphrase: Option<Passphrase>,
    /// The backups, and what they hold.
    pub(super) contents: BTreeMap<&'static str, Content>,
    /// By their lengths, so that their order is the same in every run.
    pub(super) data_packs: Vec<DataPack>,
    /// Objects of others.
    pub(super) strangers: Vec<(Origin, Objects)>,
}

/// Where what lies in a data pack.
pub(super) struct DataPack {
    pub(super) object: String,
    /// Offsets of the records, and of the last one's end.
    offsets: Vec<usize>,
    /// Records that are compressed, by their codec bytes.
    compressed: Vec<Range<usize>>,
    len: usize,
}

impl DataPack {
    pub(super) fn header(&self) -> Range<usize> {
        0..HEADER_BYTES
    }

    pub(super) fn payload(&self) -> Range<usize> {
        HEADER_BYTES..self.footer().start
    }

    pub(super) fn footer(&self) -> Range<usize> {
        *self.offsets.last().expect("has one")..self.len
    }

    /// Where something ends and something else begins.
    pub(super) fn boundaries(&self) -> Vec<usize> {
        let mut all = self.offsets.clone();
        all.extend([
            0,
            self.len - TRAILER_BYTES - 32,
            self.len - TRAILER_BYTES,
            self.len - 4,
            self.len,
        ]);
        all
    }
}

/// What is before an object's first slash.
pub(super) fn kind_of(object: &str) -> &str {
    object.split_once('/').map_or(object, |(kind, _)| kind)
}

impl Bed {
    pub(super) fn is_data(&self, object: &str) -> bool {
        self.data_packs.iter().any(|it| it.object == object)
    }

    /// All objects but packs of data.
    pub(super) fn metadata(&self) -> Vec<String> {
        let names = self.objects.keys().filter(|it| !self.is_data(it));
        let names: Vec<String> = names.cloned().collect();
        for name in &names {
            assert!(self.objects[name].len() <= 64 << 10, "{name} is large");
        }
        names
    }

    /// Whether it may leave a chunk what it was: a compressed chunk has several forms. One that is
    /// sealed has not.
    pub(super) fn means_nothing(&self, damage: &Damage) -> bool {
        let [(object, Change::Flip(bit))] = &damage.changes[..] else {
            return false;
        };
        let pack = self.data_packs.iter().find(|it| it.object == *object);
        self.passphrase.is_none()
            && pack.is_some_and(|pack| pack.compressed.iter().any(|it| it.contains(&(bit / 8))))
    }

    /// Nothing shows that the end of a log is gone, or one of several key slots; who has the
    /// passphrase of the slot that is gone cannot tell it from a wrong one.
    pub(super) fn is_missed(&self, damage: &Damage) -> bool {
        let [(object, Change::Lose)] = &damage.changes[..] else {
            return false;
        };
        let last = self.objects.keys().rfind(|name| name.starts_with(LOG));
        object.starts_with(KEYS) || Some(object) == last
    }
}

pub(super) fn settings(compression: &str) -> Settings {
    Settings {
        engine: IoEngine::Sync,
        queue_depth: 1,
        buffer_bytes: 4 << 20,
        data_packs: PackSizes {
            pack_bytes: 8 << 20,
            part_bytes: 128 << 10,
        },
        compression: compression.parse().expect("a compression"),
        ..Settings::default()
    }
}

/// The plain one and the encrypted one, made once in a process.
pub(super) fn beds() -> &'static [Bed; 2] {
    static BEDS: OnceLock<[Bed; 2]> = OnceLock::new();
    BEDS.get_or_init(|| {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            [
                bed("plain", None).await,
                bed("encrypted", words("own")).await,
            ]
        })
    })
}

fn words(text: &str) -> Option<Passphrase> {
    Some(Passphrase::new(Secret::new(text)).expect("valid"))
}

/// A chunk of noise, or of words that can be compressed.
fn chunk_of(what: &str, len: usize) -> Vec<u8> {
    let mut noise = vec![0; len];
    blake3::Hasher::new()
        .update(what.as_bytes())
        .finalize_xof()
        .fill(&mut noise);
    if what.starts_with("text") {
        let words = [
            "pack ", "leaf ", "chunk ", "entry ", "slot ", "root ", "log ", "ring ",
        ];
        let text: Vec<u8> = noise
            .iter()
            .flat_map(|byte| words[usize::from(byte % 8)].bytes())
            .take(len)
            .collect();
        return text;
    }
    noise
}

/// Volumes, and the repository that they are backed up to.
struct Maker {
    folder: TempDir,
    store: Arc<FakeStore>,
    repository: Repository,
}

impl Maker {
    async fn new(passphrase: Option<&Passphrase>) -> Self {
        let store = Arc::new(FakeStore::new());
        let size = ChunkSize::new(64 << 10).expect("valid");
        let repository = Repository::open_or_create(Arc::clone(&store) as _, size, passphrase)
            .await
            .expect("made");
        // What the probe of the store left behind belongs to nothing.
        store.lose("index/");
        Self {
            folder: tempfile::tempdir().expect("a folder"),
            store,
            repository,
        }
    }

    fn volume(&self, volume: &str, bytes: u64) -> PathBuf {
        let path = self.folder.path().join(volume);
        let mut options = File::options();
        let options = options.create(true).truncate(false).write(true);
        let file = options.open(&path).expect("opens");
        file.set_len(bytes).expect("grows");
        path
    }

    /// Backs up `volume` after these changes to its chunks, under a name.
    async fn back_up(
        &self,
        (volume, bytes): (&str, u64),
        name: &str,
        compression: &str,
        chunks: &[(u64, &str)],
    ) -> Content {
        let path = self.volume(volume, bytes);
        let file = File::options().write(true).open(&path).expect("opens");
        for (chunk, what) in chunks {
            let start = chunk * CHUNK;
            let len = usize::try_from(CHUNK.min(bytes - start)).expect("small");
            file.write_all_at(&chunk_of(what, len), start)
                .expect("writes");
        }
        back_up(&self.repository, &path, volume, name, compression).await;
        content_of(&path)
    }
}

async fn back_up(
    repository: &Repository,
    path: &Path,
    volume: &str,
    name: &str,
    compression: &str,
) {
    let subject = Subject {
        name: name.to_owned(),
        request_name: name.to_owned(),
        volume_handle: volume.to_owned(),
        volume_identity: volume.to_owned(),
        created_ms: 0,
    };
    let mut log = Log::replay(repository).await.expect("replays");
    let (progress, stop) = (Arc::new(Progress::default()), Stop::default());
    let settings = settings(compression);
    backup::run(
        repository, &mut log, path, &subject, &settings, &progress, &stop,
    )
    .await
    .expect("backs up");
}

async fn bed(label: &'static str, passphrase: Option<Passphrase>) -> Bed {
    let maker = Maker::new(passphrase.as_ref()).await;
    if let Some(other) = passphrase.as_ref().and(words("other")) {
        let slots = KeySlots::of(&maker.repository).expect("it is encrypted");
        slots.add(&other, "other").await.expect("added");
    }
    let (large, small) = (("large", LARGE_BYTES), ("small", SMALL_BYTES));
    let mut contents = BTreeMap::new();
    let first = [(1, "noise"), (2, "text 2"), (515, "text 515"), (600, "end")];
    let made = maker.back_up(large, "monday", "none", &first).await;
    contents.insert("monday", made);
    let fork = forked(&maker, passphrase.as_ref()).await;
    let second = [(1, "text 1"), (3, "text 3")];
    let made = maker.back_up(large, "tuesday", "lz4", &second).await;
    contents.insert("tuesday", made);
    // One chunk is monday's.
    let third = [(0, "noise"), (2, "text small"), (3, "end")];
    let made = maker.back_up(small, "other", "zstd-3", &third).await;
    contents.insert("other", made);

    let objects = maker.store.objects().clone();
    let bed = Bed {
        label,
        data_packs: data_packs(&maker.repository, &objects).await,
        objects,
        passphrase,
        contents,
        strangers: vec![
            (Origin::Fork, fork),
            (Origin::Stranger, stranger(None).await),
            (Origin::Stranger, stranger(words("own")).await),
        ],
    };
    check(&bed).await;
    bed
}

/// Nothing is found while nothing is damaged, and all backups come back.
async fn check(bed: &Bed) {
    let store = store_of(bed.objects.clone());
    let passphrase = bed.passphrase.as_ref();
    let (repository, log) = open(&store, passphrase).await.expect("opens");
    let found = verified(&repository, &log, Depth::with_data(100)).await;
    assert_eq!(found.expect("verifies"), []);
    for (name, whole) in &bed.contents {
        let content = restored(&repository, &log, name).await.expect("restores");
        assert_eq!(content, *whole, "{name}");
    }
    for kind in ["repository", "data", "tree", "index", "refs", "log"] {
        assert!(bed.objects.keys().any(|it| kind_of(it) == kind), "{kind}");
    }
    let compressed = bed.data_packs.iter().filter(|it| !it.compressed.is_empty());
    assert_eq!((bed.data_packs.len(), compressed.count()), (3, 2));
}

/// The objects of a repository that went another way after its first backup.
async fn forked(maker: &Maker, passphrase: Option<&Passphrase>) -> Objects {
    let common = maker.store.objects().clone();
    let store = store_of(common.clone());
    let (repository, _) = open(&store, passphrase).await.expect("opens");
    let path = maker.volume("fork", SMALL_BYTES);
    let file = File::options().write(true).open(&path).expect("opens");
    for name in ["tuesday", "wednesday"] {
        let bytes = chunk_of(&format!("text of another {name}"), 64 << 10);
        file.write_all_at(&bytes, 0).expect("writes");
        back_up(&repository, &path, "large", name, "lz4").await;
    }
    let mut objects = store.objects().clone();
    objects.retain(|name, _| !common.contains_key(name));
    objects
}

/// The objects of another repository.
async fn stranger(passphrase: Option<Passphrase>) -> Objects {
    let maker = Maker::new(passphrase.as_ref()).await;
    let chunks = [(0, "noise"), (2, "text 2")];
    let volume = ("large", SMALL_BYTES);
    maker.back_up(volume, "monday", "none", &chunks).await;
    std::mem::take(&mut *maker.store.objects())
}

async fn data_packs(repository: &Repository, objects: &Objects) -> Vec<DataPack> {
    let mut packs = Vec::new();
    for (object, bytes) in objects {
        let kind = ObjectKind::DataPack;
        let Some(name) = PackName::parse(kind, object) else {
            continue;
        };
        let footer = fetch_footer(repository, kind, name, bytes.len() as u64)
            .await
            .expect("reads");
        let mut offsets = vec![HEADER_BYTES];
        for stored in &footer.stored_bytes {
            offsets.push(offsets[offsets.len() - 1] + *stored as usize);
        }
        let codec = |start: usize| Codec::from_byte(bytes[start]);
        let is_compressed = |lies: &Range<usize>| match repository.is_encrypted() {
            // Its codec is sealed; a raw one is longer than its chunk, and the last are 512 bytes.
            true => (600..64 << 10).contains(&lies.len()),
            false => codec(lies.start) != Some(Codec::Raw),
        };
        let lies = offsets.windows(2).map(|lies| lies[0]..lies[1]);
        packs.push(DataPack {
            object: object.clone(),
            compressed: lies
                .filter(is_compressed)
                // A changed codec is another one, or none.
                .map(|lies| lies.start + 1..lies.end)
                .collect(),
            offsets,
            len: bytes.len(),
        });
    }
    packs.sort_by_key(|pack| pack.len);
    packs
}
