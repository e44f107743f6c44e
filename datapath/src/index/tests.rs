use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use ringback_proto::repository::{IndexedPack, Statistics};

use super::*;
use crate::{
    backup::{self, Subject},
    format::name::SessionId,
    log::Log,
    ring::IoEngine,
    settings::{CacheSettings, Settings},
    stop::Stop,
    store::fake::FakeStore,
};

const CHUNK: usize = 64 << 10;
const MEMORY: usize = 8 << 20;

/// A repository in memory, a volume, and folders for the caches of some hosts.
struct Bed {
    store: Arc<FakeStore>,
    repository: Repository,
    folder: tempfile::TempDir,
    index_bytes: usize,
}

impl Bed {
    async fn new() -> Self {
        let store = Arc::new(FakeStore::new());
        let repository = store.repository().await;
        Self {
            store,
            repository,
            folder: tempfile::tempdir().expect("a folder"),
            index_bytes: MEMORY,
        }
    }

    fn cache(&self, host: &str) -> CacheSettings {
        CacheSettings {
            folder: self.folder.path().join("caches").join(host),
            bytes_max: 1 << 20,
        }
    }

    /// Copies of this repository's segments.
    fn copies(&self, cache: &CacheSettings) -> Vec<PathBuf> {
        let folder = cache
            .folder
            .join(hex::encode(self.repository.domain().id.0));
        let mut files: Vec<PathBuf> = fs::read_dir(folder)
            .expect("it was made")
            .map(|entry| entry.expect("readable").path())
            .collect();
        files.sort();
        files
    }

    /// Backs up a volume of these chunks; what it found, and how many segments it fetched.
    async fn back_up(
        &self,
        volume: &str,
        chunks: impl IntoIterator<Item = u8>,
        cache: Option<&CacheSettings>,
    ) -> (Statistics, u32) {
        let path = self.folder.path().join(volume);
        let file = File::create(&path).expect("made");
        for (n, chunk) in (0..).zip(chunks) {
            file.write_all_at(&[chunk + 1; CHUNK], n * CHUNK as u64)
                .expect("writes");
        }
        let mut log = Log::replay(&self.repository).await.expect("replay");
        let settings = Settings {
            engine: IoEngine::Sync,
            buffer_bytes: 1 << 20,
            index_bytes: self.index_bytes,
            index_cache: cache.cloned(),
            ..Settings::default()
        };
        let subject = Subject {
            name: format!("{volume}-{}", log.commits().len()),
            request_name: volume.to_owned(),
            volume_handle: volume.to_owned(),
            volume_identity: volume.to_owned(),
            created_ms: 0,
        };
        let before = self.segment_gets();
        let (progress, stop) = (Arc::default(), Stop::default());
        let committed = backup::run(
            &self.repository,
            &mut log,
            &path,
            &subject,
            &settings,
            &progress,
            &stop,
        )
        .await
        .expect("backs up");
        let statistics = committed.commit.statistics.expect("statistics");
        (statistics, self.segment_gets() - before)
    }

    fn segment_gets(&self) -> u32 {
        self.store.segment_gets.load(Ordering::Relaxed)
    }

    async fn live(&self) -> Vec<PackName> {
        let log = Log::replay(&self.repository).await.expect("replay");
        log.segments().to_vec()
    }

    /// Loads an index of these segments; how many were fetched, and how many chunks are known.
    async fn load(&self, live: &[PackName], cache: &CacheSettings) -> (u32, usize) {
        let before = self.segment_gets();
        let mut index = DedupeIndex::new(MEMORY);
        let mut opened = SegmentCache::open(Some(cache), &self.repository, live).await;
        index
            .load(&self.repository, live, &BTreeSet::new(), &mut opened)
            .await
            .expect("loads");
        (self.segment_gets() - before, index.len())
    }
}

#[test]
fn a_segment_places_records_one_behind_the_other() {
    let name = PackName::random(SessionId([1; 8]), 0);
    let pack = IndexedPack {
        name: bytes::Bytes::copy_from_slice(name.as_bytes()),
        ids: [[1u8; 32], [2; 32]].concat().into(),
        stored_bytes: vec![100, 70],
    };
    let mut index = DedupeIndex::new(MEMORY);
    index.add_pack(&pack).expect("well formed");
    let expected = Place {
        pack: name,
        ordinal: 1,
        offset: 132,
        stored_bytes: 70,
    };
    assert_eq!(index.get(&ChunkId([2; 32])), Some(expected));
    let odd = IndexedPack {
        stored_bytes: vec![100],
        ..pack
    };
    assert!(index.add_pack(&odd).is_err());
}

#[tokio::test]
async fn the_last_backup_of_a_volume_is_compared_first_and_needs_no_index() {
    let mut bed = Bed::new().await;
    bed.index_bytes = 0;
    bed.back_up("volume", 0..6, None).await;
    let (statistics, _) = bed.back_up("volume", [0, 1, 9, 3, 4, 5], None).await;
    assert_eq!(statistics.unchanged_bytes, 5 * CHUNK as u64);
    assert_eq!(statistics.new_bytes, CHUNK as u64);
    // Elsewhere, an index would know them.
    for (index_bytes, new) in [(0, 6), (MEMORY, 0)] {
        bed.index_bytes = index_bytes;
        let name = format!("other-{index_bytes}");
        let (statistics, _) = bed.back_up(&name, 0..6, None).await;
        assert_eq!(statistics.new_bytes, new * CHUNK as u64);
    }
}

#[tokio::test]
async fn with_a_cache_a_backup_fetches_no_segment_that_this_host_wrote_and_without_one_all() {
    let bed = Bed::new().await;
    let cache = bed.cache("here");
    for n in 0..3 {
        let (statistics, gets) = bed.back_up("volume", n..n + 3, Some(&cache)).await;
        assert_eq!(gets, 0, "backup {n}");
        assert_eq!(
            statistics.new_bytes,
            if n == 0 { 3 } else { 1 } * CHUNK as u64
        );
    }
    let live = bed.live().await;
    assert_eq!((live.len(), bed.copies(&cache).len()), (3, 3));
    for (cache, expected) in [(None, 3), (Some(&cache), 0)] {
        let (statistics, gets) = bed.back_up("other", 0..5, cache).await;
        assert_eq!(gets, expected);
        assert_eq!(statistics.new_bytes, 0);
    }
}

#[tokio::test]
async fn hosts_with_caches_of_their_own_find_each_others_chunks() {
    let bed = Bed::new().await;
    let (east, west) = (bed.cache("east"), bed.cache("west"));
    bed.back_up("of-east", 0..6, Some(&east)).await;
    let (statistics, gets) = bed.back_up("of-west", 4..10, Some(&west)).await;
    assert_eq!(gets, 1, "what the other host wrote");
    assert_eq!(statistics.duplicate_bytes, 2 * CHUNK as u64);
    assert_eq!(statistics.new_bytes, 4 * CHUNK as u64);
    let (statistics, gets) = bed.back_up("of-east-too", 0..10, Some(&east)).await;
    assert_eq!((statistics.new_bytes, gets), (0, 1));
    let (statistics, gets) = bed.back_up("of-west-too", 0..10, Some(&west)).await;
    assert_eq!((statistics.new_bytes, gets), (0, 0));
}

#[tokio::test]
async fn a_lost_cache_costs_fetches_and_nothing_else() {
    let bed = Bed::new().await;
    let cache = bed.cache("here");
    bed.back_up("a", 0..3, Some(&cache)).await;
    bed.back_up("b", 2..6, Some(&cache)).await;
    fs::remove_dir_all(&cache.folder).expect("removes");
    let (statistics, gets) = bed.back_up("c", 0..6, Some(&cache)).await;
    assert_eq!((statistics.new_bytes, gets), (0, 2));
    let (statistics, gets) = bed.back_up("d", 0..6, Some(&cache)).await;
    assert_eq!((statistics.new_bytes, gets), (0, 0));
}

#[tokio::test]
async fn every_flipped_bit_and_every_cut_of_a_copy_is_noticed_and_the_copy_replaced() {
    let bed = Bed::new().await;
    let cache = bed.cache("here");
    bed.back_up("volume", 0..3, Some(&cache)).await;
    let live = bed.live().await;
    let [file] = &bed.copies(&cache)[..] else {
        panic!("one segment");
    };
    let whole = fs::read(file).expect("reads");
    assert!(whole == bed.store.objects()[&object_of(live[0])]);
    let flipped = (0..whole.len() * 8).map(|bit| {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        bytes
    });
    let cut = (0..whole.len()).map(|len| whole[..len].to_vec());
    let mut cases = 0;
    for damaged in flipped.chain(cut) {
        fs::remove_file(file).expect("removes");
        fs::write(file, damaged).expect("writes");
        assert_eq!(bed.load(&live, &cache).await, (1, 3), "case {cases}");
        assert!(fs::read(file).expect("reads") == whole, "case {cases}");
        cases += 1;
    }
    assert_eq!(cases, whole.len() * 9);
    assert_eq!(bed.load(&live, &cache).await, (0, 3));
}

#[tokio::test]
async fn a_copy_of_another_segment_or_repository_and_what_is_no_file_are_not_used() {
    let bed = Bed::new().await;
    let cache = bed.cache("here");
    bed.back_up("a", 0..3, Some(&cache)).await;
    bed.back_up("b", 3..5, Some(&cache)).await;
    let live = bed.live().await;
    let [first, second] = &bed.copies(&cache)[..] else {
        panic!("two segments");
    };
    fs::copy(first, second).expect("copies");
    assert_eq!(bed.load(&live, &cache).await, (1, 5), "another's name");

    let elsewhere = Bed::new().await;
    elsewhere.back_up("a", 0..3, Some(&cache)).await;
    fs::copy(&elsewhere.copies(&cache)[0], first).expect("copies");
    assert_eq!(bed.load(&live, &cache).await, (1, 5), "another repository");

    for target in ["/dev/zero", "/nowhere"] {
        fs::remove_file(first).expect("removes");
        std::os::unix::fs::symlink(target, first).expect("links");
        assert_eq!(bed.load(&live, &cache).await, (1, 5), "a link to {target}");
    }
    fs::remove_file(first).expect("removes");
    nix::unistd::mkfifo(first, nix::sys::stat::Mode::S_IRWXU).expect("makes a pipe");
    assert_eq!(bed.load(&live, &cache).await, (1, 5), "a pipe");
    assert_eq!(bed.load(&live, &cache).await, (0, 5), "all replaced");
    // This cannot even be replaced.
    fs::remove_file(first).expect("removes");
    fs::create_dir(first).expect("makes a folder");
    for _ in 0..2 {
        assert_eq!(bed.load(&live, &cache).await, (1, 5), "a folder");
    }
}

#[tokio::test]
async fn what_the_log_does_not_name_is_not_used_though_it_is_there_and_goes() {
    let bed = Bed::new().await;
    let cache = bed.cache("here");
    bed.back_up("a", 0..3, Some(&cache)).await;
    bed.back_up("b", 3..5, Some(&cache)).await;
    let live = bed.live().await;
    // As if the log had dropped the first.
    assert_eq!(bed.load(&live[1..], &cache).await, (0, 2));
    assert_eq!(bed.copies(&cache).len(), 1);
    assert_eq!(bed.load(&live, &cache).await, (1, 5));
}

#[tokio::test]
async fn the_cache_keeps_to_its_size_and_the_oldest_go_first() {
    let bed = Bed::new().await;
    let mut cache = bed.cache("here");
    let elsewhere = Bed::new().await;
    for host in [&elsewhere, &bed] {
        for n in 0..4 {
            host.back_up("volume", n * 3..n * 3 + 3, Some(&cache)).await;
        }
    }
    let live = bed.live().await;
    let segment_bytes = fs::metadata(&bed.copies(&cache)[0])
        .expect("is there")
        .len();
    assert_eq!(
        (bed.copies(&cache).len(), elsewhere.copies(&cache).len()),
        (4, 4)
    );

    // Of the other repository the oldest go; then of this one those that the log names first.
    let aged = elsewhere.copies(&cache).remove(2);
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    let file = File::options().write(true).open(&aged).expect("opens");
    file.set_modified(hour_ago).expect("ages");
    cache.bytes_max = 7 * segment_bytes;
    assert_eq!(bed.load(&live, &cache).await, (0, 12));
    assert!(!aged.exists());
    assert_eq!(
        (bed.copies(&cache).len(), elsewhere.copies(&cache).len()),
        (4, 3)
    );
    cache.bytes_max = 3 * segment_bytes;
    assert_eq!(bed.load(&live, &cache).await, (1, 12));
    assert_eq!(
        (bed.copies(&cache).len(), elsewhere.copies(&cache).len()),
        (3, 0)
    );
    assert_eq!(
        bed.load(&live, &cache).await,
        (1, 12),
        "the first is never kept"
    );
    let oldest_kept = shelf::file_of(
        cache
            .folder
            .join(hex::encode(bed.repository.domain().id.0))
            .as_path(),
        live[1],
    );
    assert!(oldest_kept.exists());

    // A new segment takes the place of the oldest.
    bed.back_up("volume", 20..23, Some(&cache)).await;
    assert_eq!(bed.copies(&cache).len(), 3);
    assert!(!oldest_kept.exists());
    cache.bytes_max = 0;
    assert_eq!(bed.load(&bed.live().await, &cache).await, (5, 15));
    assert_eq!(bed.copies(&cache).len(), 0);
}

#[tokio::test]
async fn files_that_were_abandoned_go_when_they_are_old_and_strangers_stay() {
    let bed = Bed::new().await;
    let cache = bed.cache("here");
    bed.back_up("volume", 0..3, Some(&cache)).await;
    let copy = bed.copies(&cache).remove(0);
    let (old, new) = (copy.with_extension("01"), copy.with_extension("02"));
    let stranger = copy.with_file_name("README");
    for file in [&old, &new, &stranger] {
        let file = File::create(file).expect("made");
        let age = Duration::from_secs(7200);
        file.set_modified(SystemTime::now() - age).expect("ages");
    }
    File::options()
        .write(true)
        .open(&new)
        .and_then(|file| file.set_modified(SystemTime::now()))
        .expect("is new");
    bed.load(&bed.live().await, &cache).await;
    assert!(!old.exists() && new.exists() && stranger.exists() && copy.exists());
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_or_that_others_may_write_to_costs_only_the_cache() {
    let bed = Bed::new().await;
    let cache = bed.cache("here");
    bed.back_up("a", 0..3, Some(&cache)).await;
    let live = bed.live().await;
    let permit = |mode| {
        fs::set_permissions(&cache.folder, fs::Permissions::from_mode(mode)).expect("chmod");
    };
    permit(0o777);
    assert_eq!(bed.load(&live, &cache).await, (1, 3), "others may write");
    permit(0o700);
    assert_eq!(bed.load(&live, &cache).await, (0, 3));

    let in_the_way = CacheSettings {
        folder: bed.folder.path().join("a"),
        ..cache
    };
    assert!(Path::is_file(&in_the_way.folder));
    let (statistics, gets) = bed.back_up("b", 0..4, Some(&in_the_way)).await;
    assert_eq!((statistics.new_bytes, gets), (CHUNK as u64, 1));
}

#[tokio::test]
async fn two_at_once_may_open_fill_and_clear_one_folder() {
    let bed = Bed::new().await;
    let cache = bed.cache("here");
    for n in 0..6 {
        bed.back_up("volume", n * 3..n * 3 + 3, Some(&cache)).await;
    }
    let live = bed.live().await;
    for _ in 0..20 {
        fs::remove_dir_all(&cache.folder).expect("removes");
        // One of them does not know the last two yet, and clears them away.
        let (all, some) = tokio::join!(bed.load(&live, &cache), bed.load(&live[..4], &cache));
        assert_eq!((all.1, some.1), (18, 12));
    }
}
