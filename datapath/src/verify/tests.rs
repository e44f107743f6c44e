//! Verification against a store in memory, whose objects are damaged one way after the other.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::{
    backup::{self, Subject},
    footers::fetch_footer,
    format::{
        name::{ObjectKind, PackName, SessionId},
        pack::Layout,
    },
    log::Log,
    progress::Progress,
    ring::IoEngine,
    settings::Settings,
    stop::Stop,
    store::fake::FakeStore,
};

const CHUNK: u64 = 64 << 10;
/// Two leaves and a parent; the last chunk is short.
const VOLUME_BYTES: u64 = 600 * CHUNK + 512;
/// Chunks with data: some in each leaf, and the volume's last.
const WRITTEN: [u64; 6] = [1, 2, 3, 10, 515, 600];

/// A repository of two backups of one volume, in which one chunk changed in between.
struct Bed {
    store: Arc<FakeStore>,
    folder: TempDir,
}

impl Bed {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let volume = folder.path().join("volume");
        let file = File::create_new(&volume).expect("creates");
        file.set_len(VOLUME_BYTES).expect("grows");
        for chunk in WRITTEN {
            write(&file, chunk, "monday");
        }
        let store = Arc::new(FakeStore::new());
        let repository = store.repository().await;
        // What the probe of the store left behind belongs to nothing.
        store.lose("index/");
        back_up(&repository, volume.clone(), "monday").await;
        write(&file, 10, "tuesday");
        back_up(&repository, volume, "tuesday").await;
        Self { store, folder }
    }

    async fn verify(&self, depth: Depth) -> Result<(Vec<Finding>, Counts), Error> {
        let repository = Repository::open(Arc::clone(&self.store) as _, None).await?;
        let log = Log::replay(&repository).await?;
        let (mut findings, counts) = (Vec::new(), Counts::default());
        let mut found = |finding| findings.push(finding);
        run(&repository, log.commits(), depth, &counts, &mut found).await?;
        Ok((findings, counts))
    }

    /// The findings, as sentences.
    async fn told(&self, depth: Depth) -> Vec<String> {
        let (findings, _) = self.verify(depth).await.expect("it is no error");
        findings.iter().map(ToString::to_string).collect()
    }

    fn names(&self, prefix: &str) -> Vec<String> {
        let objects = self.store.objects();
        let names = objects.keys().filter(|name| name.starts_with(prefix));
        names.cloned().collect()
    }

    /// The data pack of monday, the larger one, and that of tuesday.
    fn data_packs(&self) -> (String, String) {
        let mut packs = self.names("data/");
        packs.sort_by_key(|name| self.store.objects()[name].len());
        let [tuesday, monday] = packs.try_into().expect("one each");
        (monday, tuesday)
    }

    fn change(&self, object: &str, change: impl FnOnce(&mut Vec<u8>)) -> Bytes {
        let mut objects = self.store.objects();
        let bytes = objects.get_mut(object).expect("is there");
        let before = bytes.clone();
        let mut changed = before.to_vec();
        change(&mut changed);
        *bytes = changed.into();
        before
    }

    fn put_back(&self, object: &str, bytes: Bytes) {
        self.store.objects().insert(object.to_owned(), bytes);
    }
}

fn write(file: &File, chunk: u64, seed: &str) {
    let len = CHUNK.min(VOLUME_BYTES - chunk * CHUNK);
    let mut bytes = vec![0; usize::try_from(len).expect("small")];
    let seed = format!("{seed} {chunk}");
    blake3::Hasher::new()
        .update(seed.as_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    file.write_all_at(&bytes, chunk * CHUNK).expect("writes");
}

async fn back_up(repository: &Repository, volume: PathBuf, name: &str) {
    back_up_of(repository, volume, name, "data").await;
}

async fn back_up_of(repository: &Repository, volume: PathBuf, name: &str, handle: &str) {
    let settings = Settings {
        engine: IoEngine::Sync,
        buffer_bytes: 1 << 20,
        ..Settings::default()
    };
    let subject = Subject {
        name: name.to_owned(),
        request_name: name.to_owned(),
        volume_handle: handle.to_owned(),
        volume_identity: handle.to_owned(),
        created_ms: 0,
    };
    let mut log = Log::replay(repository).await.expect("replays");
    let progress = Arc::new(Progress::default());
    backup::run(
        repository,
        &mut log,
        &volume,
        &subject,
        &settings,
        &progress,
        &Stop::default(),
    )
    .await
    .expect("backs up");
}

#[tokio::test]
async fn nothing_is_found_where_nothing_is_damaged_and_each_pack_is_looked_at_once() {
    let bed = Bed::new().await;
    for (depth, chunks) in [(Depth::METADATA, 0), (Depth::with_data(100), 7)] {
        let (findings, counts) = bed.verify(depth).await.expect("verifies");
        assert_eq!(findings, []);
        assert_eq!((counts.backups(), counts.chunks_read()), (2, chunks));
        assert_eq!((counts.packs(), counts.packs_total()), (4, 4));
        // The second leaf is shared, but at the volume's end; the first changed.
        assert_eq!(counts.leaves(), 4);
    }
}

#[tokio::test]
async fn a_lost_pack_costs_each_backup_the_bytes_that_lie_in_it() {
    let bed = Bed::new().await;
    let (monday, _) = bed.data_packs();
    bed.store.lose(&monday);
    let lost = |backup: &str, chunk: u64, bytes: u64| {
        format!(
            "backup {backup:?} of volume \"data\" is damaged at byte {}, for {bytes} bytes: object \
             {monday} is missing",
            chunk * CHUNK
        )
    };
    let expected = [
        lost("monday", 1, 3 * CHUNK),
        lost("monday", 10, CHUNK),
        lost("monday", 515, CHUNK),
        lost("monday", 600, 512),
        lost("tuesday", 1, 3 * CHUNK),
        lost("tuesday", 515, CHUNK),
        lost("tuesday", 600, 512),
    ];
    assert_eq!(bed.told(Depth::METADATA).await, expected);
}

#[tokio::test]
async fn a_changed_chunk_is_found_when_data_is_read_and_named_for_the_backups_that_have_it() {
    let bed = Bed::new().await;
    let (_, tuesday) = bed.data_packs();
    let before = bed.change(&tuesday, |bytes| bytes[1000] ^= 1);
    assert_eq!(bed.told(Depth::METADATA).await, [""; 0]);
    let says = format!(
        "backup \"tuesday\" of volume \"data\" is damaged at byte {}, for {CHUNK} bytes: object \
         {tuesday} does not hold the bytes that the backup's tree names",
        10 * CHUNK
    );
    assert_eq!(bed.told(Depth::with_data(100)).await, [says]);
    bed.put_back(&tuesday, before);
    let (monday, _) = bed.data_packs();
    bed.change(&monday, |bytes| bytes[1000] ^= 1);
    let told = bed.told(Depth::with_data(100)).await;
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("backup \"monday\"") && told[1].starts_with("backup \"tuesday\""));
}

#[tokio::test]
async fn a_cut_pack_costs_what_lay_behind_the_cut_and_its_footer() {
    let bed = Bed::new().await;
    let (monday, _) = bed.data_packs();
    bed.change(&monday, |bytes| bytes.truncate(32 + 3 * 65_537 + 10));
    let told = bed.told(Depth::METADATA).await;
    let cut = |it: &&String| it.contains("is cut off");
    assert_eq!(told.iter().filter(cut).count(), 3 + 2, "{told:?}");
    assert!(told[0].contains(&format!("at byte {}, for {CHUNK} bytes", 10 * CHUNK)));
    let footer = &told[told.len() - 1];
    assert_eq!(
        footer,
        &format!("object {monday} is damaged: the end mark is missing")
    );
}

#[tokio::test]
async fn a_damaged_footer_costs_nothing_and_chunks_are_still_held_against_the_tree() {
    let bed = Bed::new().await;
    let (_, tuesday) = bed.data_packs();
    bed.change(&tuesday, |bytes| {
        let check = bytes.len() - 20;
        bytes[check] ^= 1;
    });
    let says = format!("object {tuesday} is damaged: the footer's check does not match");
    for depth in [Depth::METADATA, Depth::with_data(100)] {
        assert_eq!(bed.told(depth).await, std::slice::from_ref(&says));
    }
    bed.change(&tuesday, |bytes| bytes[1000] ^= 1);
    let told = bed.told(Depth::with_data(100)).await;
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("does not hold the bytes"), "{told:?}");
}

#[tokio::test]
async fn where_a_disk_cannot_read_a_pack_the_chunks_there_are_damaged_and_no_others() {
    let bed = Bed::new().await;
    let (monday, _) = bed.data_packs();
    // In the second record: of chunk 2.
    let bad = 32 + 65_537 + 100..32 + 65_537 + 612;
    *bed.store.unreadable.lock().expect("unpoisoned") = Some((monday.clone(), bad));
    let says = |backup: &str| {
        format!(
            "backup {backup:?} of volume \"data\" is damaged at byte {}, for {CHUNK} bytes: object \
             {monday} cannot be read: Input/output error (os error 5)",
            2 * CHUNK
        )
    };
    let told = bed.told(Depth::with_data(100)).await;
    assert_eq!(told, [says("monday"), says("tuesday")]);
}

#[tokio::test]
async fn an_over_long_record_is_passed_over_and_what_follows_is_read_once() {
    let bed = Bed::new().await;
    let gets = async || {
        let before = bed.store.gets.load(Ordering::Relaxed);
        let told = bed.told(Depth::with_data(100)).await;
        (told, bed.store.gets.load(Ordering::Relaxed) - before)
    };
    let (told, gets_before) = gets().await;
    assert_eq!(told, [""; 0]);

    let repository = Repository::open(Arc::clone(&bed.store) as _, None)
        .await
        .expect("opens");
    let (monday, _) = bed.data_packs();
    let kind = ObjectKind::DataPack;
    let name = PackName::parse(kind, &monday).expect("a name");
    let bytes = bed.store.objects()[&monday].clone();
    let footer = fetch_footer(&repository, kind, name, bytes.len() as u64)
        .await
        .expect("reads");
    // The records that backups name stay where they are; behind them come one of any length and
    // the first once more.
    let mut layout = Layout::new(kind, name, repository.domain());
    for (id, &stored_bytes) in footer
        .ids
        .as_chunks::<32>()
        .0
        .iter()
        .zip(&footer.stored_bytes)
    {
        layout.push(id, stored_bytes as usize);
    }
    let mut pack = bytes[..layout.end() as usize].to_vec();
    let long = 3 * usize::try_from(CHUNK).expect("small");
    layout.push(&[7; 32], long);
    pack.extend_from_slice(&vec![0; long]);
    let first = &bytes[32..][..footer.stored_bytes[0] as usize];
    layout.push(footer.ids.first_chunk().expect("has one"), first.len());
    pack.extend_from_slice(first);
    let (tail, footer) = layout.finish();
    pack.extend_from_slice(&tail);
    bed.put_back(&monday, pack.into());

    let (told, gets_after) = gets().await;
    let record = footer.stored_bytes.len() - 2;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains(&monday), "{told:?}");
    assert!(told[0].contains(&format!("(record {record})")), "{told:?}");
    assert_eq!(gets_after, gets_before);
}

#[tokio::test]
async fn a_damaged_tree_node_costs_the_part_of_the_volume_that_it_describes() {
    let bed = Bed::new().await;
    // Of monday's tree the first node is the first leaf.
    let tree = bed.names("tree/");
    let monday = tree
        .iter()
        .max_by_key(|name| bed.store.objects()[*name].len())
        .expect("there are two");
    let before = bed.change(monday, |bytes| bytes[40] ^= 1);
    let says = format!(
        "backup \"monday\" of volume \"data\" is damaged at byte 0, for {} bytes: object {monday} is \
         damaged: a tree node's bytes do not match its id",
        512 * CHUNK
    );
    assert_eq!(bed.told(Depth::METADATA).await, [says]);
    bed.put_back(monday, before);
    bed.store.lose("tree/");
    let told = bed.told(Depth::METADATA).await;
    assert!(
        told[0].contains(&format!("for {VOLUME_BYTES} bytes")),
        "{told:?}"
    );
}

#[tokio::test]
async fn of_equal_leaves_that_are_stored_twice_each_is_looked_at() {
    let bed = Bed::new().await;
    let repository = Repository::open(Arc::clone(&bed.store) as _, None)
        .await
        .expect("opens");
    // A copy of the volume as it is now: its chunks are found in the packs of the other, and its
    // tree, for which it has no parent, is stored anew.
    let trees = bed.names("tree/");
    let copy = bed.folder.path().join("volume");
    back_up_of(&repository, copy, "copy", "another").await;
    let mut new = bed.names("tree/");
    new.retain(|name| !trees.contains(name));
    let [tree] = new.try_into().expect("one pack has its tree");
    bed.change(&tree, |bytes| bytes[40] ^= 1);
    let says = format!(
        "backup \"copy\" of volume \"another\" is damaged at byte 0, for {} bytes: object {tree} is \
         damaged: a tree node's bytes do not match its id",
        512 * CHUNK
    );
    assert_eq!(bed.told(Depth::METADATA).await, [says]);
}

#[tokio::test]
async fn lost_ref_sets_and_index_segments_are_told_and_cost_no_data() {
    for (prefix, says) in [
        ("refs/", "is missing"),
        ("index/", "is missing; no data is lost by it"),
    ] {
        let bed = Bed::new().await;
        assert_eq!(bed.store.lose(prefix), 2);
        let (findings, _) = bed.verify(Depth::with_data(100)).await.expect("verifies");
        assert!(findings.len() >= 2, "{findings:?}");
        for finding in findings {
            assert!(finding.reason.starts_with(says), "{finding}");
            assert_eq!(finding.bytes, None);
        }
    }
}

#[tokio::test]
async fn what_flips_on_the_way_is_fetched_again_and_is_no_damage() {
    let bed = Bed::new().await;
    for flips in [1, 2] {
        bed.store.flips.store(flips, Ordering::Relaxed);
        assert_eq!(bed.told(Depth::with_data(100)).await, [""; 0]);
        assert_eq!(bed.store.flips.load(Ordering::Relaxed), 0);
    }
}

#[tokio::test]
async fn no_flipped_bit_of_any_object_goes_unnoticed() {
    let bed = Bed::new().await;
    for object in bed.names("") {
        let len = bed.store.objects()[&object].len();
        for at in (0..len).step_by((len / 24).max(1)).chain([len - 1]) {
            let before = bed.change(&object, |bytes| bytes[at] ^= 0x10);
            if let Ok((findings, _)) = bed.verify(Depth::with_data(100)).await {
                assert_ne!(findings, [], "byte {at} of {object}");
            }
            bed.put_back(&object, before);
        }
    }
    assert_eq!(bed.told(Depth::with_data(100)).await, [""; 0]);
}

#[test]
fn a_sample_has_its_share_of_the_packs_and_never_none() {
    let packs: BTreeSet<PackName> = (0..50)
        .map(|n| PackName::random(SessionId([1; 8]), n))
        .collect();
    for (percent, share) in [(1, 1), (2, 1), (3, 2), (50, 25), (100, 50), (255, 50)] {
        let drawn = Depth::with_data(percent).sample(&packs);
        assert_eq!(drawn.len(), share, "{percent} %");
        assert!(drawn.is_subset(&packs));
    }
    assert_eq!(Depth::METADATA.sample(&packs).len(), 0);
    // Two draws of 25 in 50 are the same once in 10^14.
    let half = Depth::with_data(50);
    assert_ne!(half.sample(&packs), half.sample(&packs));
}

#[test]
fn a_finding_is_a_sentence_with_backup_volume_offset_and_object() {
    let finding = Finding {
        backup: Some("monday".into()),
        volume: Some("vg/data".into()),
        bytes: Some(4096..8192),
        object: "data/5e/0-1".into(),
        reason: "is missing".into(),
        ..Finding::default()
    };
    let healed = Finding {
        healed_by: Some("data/5f/0-1".into()),
        ..finding.clone()
    };
    assert!(
        healed
            .to_string()
            .ends_with("is missing; healed: another copy lies in data/5f/0-1")
    );
    assert_eq!(
        finding.to_string(),
        "backup \"monday\" of volume \"vg/data\" is damaged at byte 4096, for 4096 bytes: \
         object data/5e/0-1 is missing"
    );
    let nobodys = Finding {
        backup: None,
        bytes: None,
        ..finding
    };
    assert_eq!(nobodys.to_string(), "object data/5e/0-1 is missing");
}
