//! Damage, repair, a later backup, and what restores make of it, against a store in memory.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
};

use ringback_proto::repository::Statistics;
use tempfile::TempDir;

use super::*;
use crate::{
    backup::{self, Subject},
    chunk::ChunkSize,
    crypt::Passphrase,
    progress::Progress,
    restore::{self, Backup},
    ring::IoEngine,
    settings::Settings,
    stop::Stop,
    store::{fake::FakeStore, location::Secret},
};

const CHUNK: u64 = 64 << 10;
const CHUNKS: u64 = 40;
/// The last chunk is short.
const VOLUME_BYTES: u64 = CHUNKS * CHUNK + 512;

struct Bed {
    store: Arc<FakeStore>,
    repository: Repository,
    folder: TempDir,
    settings: Settings,
}

impl Bed {
    async fn new(passphrase: Option<&str>) -> Self {
        let store = Arc::new(FakeStore::new());
        let size = ChunkSize::new(64 << 10).expect("valid");
        let passphrase = passphrase.map(|it| Passphrase::new(Secret::new(it)).expect("is one"));
        let repository =
            Repository::open_or_create(Arc::clone(&store) as _, size, passphrase.as_ref())
                .await
                .expect("made");
        // What the probe of the store left behind belongs to nothing.
        store.lose("index/");
        let bed = Self {
            store,
            repository,
            folder: tempfile::tempdir().expect("a folder"),
            settings: Settings {
                engine: IoEngine::Sync,
                buffer_bytes: 2 << 20,
                ..Settings::default()
            },
        };
        bed.write("data");
        bed
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A volume, always of the same content: noise, and each tenth chunk like the first.
    fn write(&self, volume: &str) {
        let file = File::create_new(self.path(volume)).expect("creates");
        for chunk in 0..=CHUNKS {
            let offset = chunk * CHUNK;
            let len = CHUNK.min(VOLUME_BYTES - offset);
            let mut bytes = vec![0; usize::try_from(len).expect("small")];
            let seed = if chunk % 10 == 0 { 0 } else { chunk };
            blake3::Hasher::new()
                .update(&seed.to_le_bytes())
                .finalize_xof()
                .fill(&mut bytes);
            file.write_all_at(&bytes, offset).expect("writes");
        }
    }

    async fn log(&self) -> Log {
        Log::replay(&self.repository).await.expect("replays")
    }

    async fn back_up(&self, volume: &str, name: &str) -> Statistics {
        let subject = Subject {
            name: name.to_owned(),
            request_name: name.to_owned(),
            volume_handle: volume.to_owned(),
            volume_identity: volume.to_owned(),
            created_ms: 0,
        };
        let mut log = self.log().await;
        let committed = backup::run(
            &self.repository,
            &mut log,
            &self.path(volume),
            &subject,
            &self.settings,
            &Arc::new(Progress::default()),
            &Stop::default(),
        )
        .await
        .expect(name);
        committed.commit.statistics.expect("has some")
    }

    /// Restores a backup and holds it against the volume.
    async fn restore(&self, name: &str) -> Result<(), Error> {
        let backup = Backup::open(&self.repository, name).await?;
        let target = tempfile::NamedTempFile::new_in(self.folder.path()).expect("creates");
        target.as_file().set_len(VOLUME_BYTES).expect("grows");
        restore::run(
            &self.repository,
            &backup,
            target.path(),
            &self.settings,
            &Arc::new(Progress::default()),
            &Stop::default(),
        )
        .await?;
        let is_same =
            fs::read(target.path()).expect("reads") == fs::read(self.path("data")).expect("reads");
        assert!(is_same, "{name}");
        Ok(())
    }

    async fn repair(&self, dry_run: bool) -> Repaired {
        let counts = Counts::default();
        let depth = Depth::with_data(100);
        let (mut log, mut told) = (self.log().await, 0);
        let repaired = run(
            &self.repository,
            &mut log,
            depth,
            dry_run,
            &counts,
            &mut |_| told += 1,
        )
        .await
        .expect("repairs");
        assert_eq!(told, repaired.findings.len());
        repaired
    }

    fn names(&self, prefix: &str) -> Vec<String> {
        let objects = self.store.objects();
        let names = objects.keys().filter(|name| name.starts_with(prefix));
        names.cloned().collect()
    }

    fn pack(&self) -> PackName {
        let [pack] = self.names("data/").try_into().expect("one pack");
        PackName::parse(ObjectKind::DataPack, &pack).expect("a name")
    }

    fn change(&self, object: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut objects = self.store.objects();
        let bytes = objects.get_mut(object).expect("is there");
        let mut changed = bytes.to_vec();
        change(&mut changed);
        *bytes = changed.into();
    }
}

/// A way to damage a pack, by its name.
type Damage = fn(&Bed, &str);

const DAMAGES: [(&str, Damage); 4] = [
    ("a flipped bit", |bed, pack| {
        bed.change(pack, |bytes| bytes[100_000] ^= 1);
    }),
    ("flipped bits everywhere", |bed, pack| {
        bed.change(pack, |bytes| bytes.iter_mut().for_each(|byte| *byte ^= 1));
    }),
    ("cut", |bed, pack| {
        bed.change(pack, |bytes| bytes.truncate(1_000_000));
    }),
    ("lost", |bed, pack| {
        bed.store.lose(pack);
    }),
];

async fn a_later_backup_heals(passphrase: Option<&str>, index_bytes: usize) {
    for (what, damage) in DAMAGES {
        let mut bed = Bed::new(passphrase).await;
        let first = bed.back_up("data", "monday").await;
        let pack = bed.pack().object(ObjectKind::DataPack);
        damage(&bed, &pack);
        bed.settings.index_bytes = index_bytes;
        let error = bed.restore("monday").await.expect_err(what);
        assert!(
            matches!(&error, Error::Chunk { backup, object, .. } if backup == "monday" && *object == pack),
            "{what}: {error}"
        );

        let repaired = bed.repair(false).await;
        assert_eq!(repaired.standing(), Standing::Lost, "{what}");
        assert_eq!(
            (&repaired.marked[..], repaired.entries),
            (&[pack.clone()][..], 1)
        );
        bed.settings.index_bytes = Settings::default().index_bytes;
        let second = bed.back_up("data", "tuesday").await;
        assert_eq!(second.new_bytes, first.new_bytes, "{what}: all of it");

        bed.settings.index_bytes = index_bytes;
        for name in ["monday", "tuesday"] {
            bed.restore(name).await.expect(what);
        }
        let repaired = bed.repair(false).await;
        let mut expected = Standing::Whole;
        if repaired.left().next().is_some() {
            // The footer of a pack that is there is damaged as well.
            assert!(what == "cut" || what == "flipped bits everywhere", "{what}");
            expected = Standing::Damaged;
        }
        assert_eq!(repaired.standing(), expected, "{what}");
        assert_eq!(repaired.entries, 0, "{what}: a second run appends nothing");
        let healed = |it: &&Finding| it.severity() == Severity::Healed;
        let healed: Vec<_> = repaired.findings.iter().filter(healed).collect();
        assert!(!healed.is_empty(), "{what}: it is told all the same");
        for finding in healed {
            assert_eq!(finding.backup.as_deref(), Some("monday"));
            assert_ne!(finding.healed_by.as_ref(), Some(&pack));
        }
    }
}

#[tokio::test]
async fn a_later_backup_of_the_same_data_heals_what_was_damaged() {
    a_later_backup_heals(None, Settings::default().index_bytes).await;
}

#[tokio::test]
async fn a_later_backup_heals_in_an_encrypted_repository() {
    a_later_backup_heals(Some("a passphrase of these tests"), 1 << 20).await;
}

#[tokio::test]
async fn what_is_lost_is_healed_however_little_memory_there_is_for_the_index() {
    a_later_backup_heals(None, 1).await;
}

#[tokio::test]
async fn what_no_copy_has_whole_is_lost_and_all_else_is_known_to_be_healed() {
    let bed = Bed::new(None).await;
    bed.back_up("data", "monday").await;
    let monday = bed.pack().object(ObjectKind::DataPack);
    bed.change(&monday, |bytes| bytes[100_000] ^= 1);
    bed.repair(false).await;
    bed.back_up("data", "tuesday").await;
    let tuesday = bed
        .names("data/")
        .into_iter()
        .find(|name| *name != monday)
        .expect("a second pack");
    // The same chunk, and another one: packs of the same chunks in the same order.
    bed.change(&tuesday, |bytes| {
        bytes[100_000] ^= 1;
        bytes[1_000_000] ^= 1;
    });
    for name in ["monday", "tuesday"] {
        let error = bed.restore(name).await.expect_err("damaged");
        let own = if name == "monday" { &monday } else { &tuesday };
        assert!(
            matches!(&error, Error::Chunk { backup, offset: CHUNK, object, .. }
                if backup == name && object == own),
            "{error}"
        );
    }
    let repaired = bed.repair(false).await;
    assert_eq!(repaired.standing(), Standing::Lost);
    assert_eq!(repaired.marked, [tuesday]);
    let lost: Vec<_> = repaired
        .findings
        .iter()
        .filter(|it| it.severity() == Severity::Lost)
        .map(|it| (it.backup.as_deref(), it.bytes.clone()))
        .collect();
    let chunk = Some(CHUNK..2 * CHUNK);
    assert_eq!(
        lost,
        [
            (Some("monday"), chunk.clone()),
            (Some("tuesday"), chunk.clone())
        ]
    );
    // Both packs are marked: a third backup stores all once more, and heals both.
    bed.back_up("data", "wednesday").await;
    for name in ["monday", "tuesday", "wednesday"] {
        bed.restore(name).await.expect(name);
    }
    assert_eq!(bed.repair(false).await.standing(), Standing::Whole);
}

#[tokio::test]
async fn a_marked_pack_that_is_whole_heals_the_one_that_took_its_place() {
    let bed = Bed::new(None).await;
    bed.back_up("data", "monday").await;
    let pack = bed.pack();
    let marked = bed.log().await.mark(&BTreeSet::from([pack])).await;
    assert_eq!(marked.expect("appends"), 1);
    assert!(bed.back_up("data", "tuesday").await.new_bytes > 0);
    for name in bed.names("data/") {
        if name != pack.object(ObjectKind::DataPack) {
            bed.store.lose(&name);
        }
    }
    bed.restore("tuesday").await.expect("from monday's");
}

#[tokio::test]
async fn a_damaged_checkpoint_is_told_and_another_takes_its_place() {
    let bed = Bed::new(None).await;
    bed.back_up("data", "monday").await;
    let mut log = bed.log().await;
    for n in 0..520 {
        let pack = PackName::random(SessionId([7; 8]), n);
        log.mark(&BTreeSet::from([pack])).await.expect("appends");
    }
    let [second, highest] = bed.names("checkpoint/").try_into().expect("two");
    for checkpoint in [second, highest] {
        bed.change(&checkpoint, |bytes| bytes[50] ^= 1);
        let before = bed.store.objects().clone();
        let planned = bed.repair(true).await;
        assert_eq!(before, *bed.store.objects(), "a dry run writes nothing");
        let repaired = bed.repair(false).await;
        for repaired in [&planned, &repaired] {
            let [finding] = &repaired.findings[..] else {
                panic!("{repaired:?}");
            };
            assert_eq!(finding.severity(), Severity::Harmless);
            assert_eq!(
                finding.to_string(),
                format!(
                    "object {checkpoint} is damaged: its check does not match its bytes and name; \
                     the backups are found without it"
                )
            );
            assert_eq!(repaired.log_replaced, std::slice::from_ref(&checkpoint));
            assert_eq!(repaired.standing(), Standing::Whole);
        }
        let again = bed.repair(false).await;
        assert_eq!((again.findings.len(), again.entries), (0, 0));
        assert_eq!(bed.log().await.commits().len(), 1);
    }
}

#[tokio::test]
async fn a_lost_index_is_made_anew_and_the_next_backup_finds_all_in_it() {
    for encrypted in [None, Some("a passphrase of these tests")] {
        let bed = Bed::new(encrypted).await;
        bed.back_up("data", "monday").await;
        assert_eq!(bed.store.lose("index/"), 1);

        let before = bed.store.objects().clone();
        let planned = bed.repair(true).await;
        assert_eq!(before, *bed.store.objects(), "a dry run writes nothing");
        let repaired = bed.repair(false).await;
        for repaired in [&planned, &repaired] {
            assert_eq!(repaired.standing(), Standing::Whole);
            assert_eq!(repaired.segments_dropped.len(), 1);
            assert_eq!(repaired.packs_listed, 1);
        }
        assert_eq!((planned.segments_added, planned.entries), (0, 0));
        assert_eq!((repaired.segments_added, repaired.entries), (1, 1));

        let again = bed.repair(false).await;
        assert_eq!(again.findings, [], "what took its place is whole");
        assert_eq!((again.segments_added, again.entries), (0, 0));
        bed.write("other");
        assert_eq!(bed.back_up("other", "other").await.new_bytes, 0);

        // What took its place is looked at as well.
        let [segment] = bed.names("index/").try_into().expect("one");
        bed.change(&segment, |bytes| bytes[40] ^= 1);
        let repaired = bed.repair(false).await;
        assert_eq!(repaired.segments_dropped, [segment]);
        assert_eq!(repaired.entries, 1);
    }
}

#[tokio::test]
async fn a_lost_ref_set_stays_damaged_and_costs_no_byte() {
    let bed = Bed::new(None).await;
    bed.back_up("data", "monday").await;
    bed.store.lose("refs/");
    let repaired = bed.repair(false).await;
    assert_eq!(repaired.standing(), Standing::Damaged);
    assert_eq!(repaired.entries, 0);
    bed.restore("monday").await.expect("is whole");
}

#[tokio::test]
async fn what_is_whole_is_left_alone_and_no_index_is_read_for_its_restore() {
    let bed = Bed::new(None).await;
    bed.back_up("data", "monday").await;
    let before = bed.store.segment_gets.load(Ordering::Relaxed);
    bed.restore("monday").await.expect("is whole");
    assert_eq!(bed.store.segment_gets.load(Ordering::Relaxed), before);
    let repaired = bed.repair(false).await;
    assert_eq!(repaired.standing(), Standing::Whole);
    assert_eq!((repaired.findings.len(), repaired.entries), (0, 0));
}

#[tokio::test]
async fn many_names_take_several_entries_and_all_are_taken_up() {
    let bed = Bed::new(Some("a passphrase of these tests")).await;
    let names = |first: u32| -> Vec<PackName> {
        (first..first + 400)
            .map(|n| PackName::random(SessionId([7; 8]), n))
            .collect()
    };
    let packs: BTreeSet<PackName> = names(0).into_iter().collect();
    let mut log = bed.log().await;
    assert_eq!(log.mark(&packs).await.expect("appends"), 3);
    assert_eq!(log.mark(&packs).await.expect("appends nothing"), 0);
    let (old, new) = (names(0), names(400));
    log.exchange_segments(&old, &[]).await.expect("appends");
    assert_eq!(log.exchange_segments(&new, &old).await.expect("appends"), 6);
    for log in [&log, &bed.log().await] {
        assert_eq!(*log.marked(), packs);
        assert_eq!(log.segments(), new);
    }
}
