//! What a Directory group does without root: on ext4, which has no reflinks, and with no loop
//! devices. `tests/privileged/directory.rs` has the rest.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tempfile::TempDir;

use super::*;
use crate::{
    names::Tag,
    volume::{Frozen, LayoutOptions},
};

const MIB: u64 = 1 << 20;

fn name(text: &str) -> VolumeName {
    VolumeName::parse(text).expect("a volume name")
}

fn new_volume(text: &str, size_bytes: u64) -> NewVolume {
    NewVolume {
        name: name(text),
        size_bytes,
        tags: Vec::new(),
        layout: LayoutOptions::default(),
    }
}

fn new_snapshot(text: &str, source: &str) -> NewSnapshot {
    NewSnapshot {
        name: name(text),
        source: name(source),
        size_bytes: None,
        tags: Vec::new(),
        writable: true,
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder in /tmp")
}

async fn open(folder: &TempDir) -> Directory {
    Directory::open(folder.path(), Attach::Never, &Changes::default())
        .await
        .expect("opens")
}

async fn names(group: &Directory) -> Vec<String> {
    let volumes = group.list().await.expect("lists");
    volumes
        .iter()
        .map(|volume| volume.name.to_string())
        .collect()
}

fn count(folder: &TempDir, part: &str) -> usize {
    fs::read_dir(folder.path().join(part))
        .expect("the part is there")
        .count()
}

/// Waits for what a `Drop` does in the background.
async fn becomes_empty(folder: &TempDir, part: &str) {
    for _ in 0..500 {
        if count(folder, part) == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{part} is never emptied");
}

#[tokio::test]
async fn a_volume_lives_from_create_to_remove() {
    let folder = folder();
    let group = open(&folder).await;

    let created = group
        .create(new_volume("data", MIB))
        .await
        .expect("creates");
    assert_eq!(created.name, name("data"));
    assert_eq!(created.size_bytes, MIB);
    assert_eq!(created.device, (0, 0));
    assert_eq!(created.attr, "-wi-------");
    assert_eq!(created.identity.len(), 36);
    let image = fs::read(&created.path).expect("has an image");
    assert_eq!(image, vec![0; 1 << 20]);
    assert_eq!(
        group.list().await.expect("lists"),
        std::slice::from_ref(&created)
    );

    let grown = group.resize(&name("data"), 3 * MIB).await.expect("grows");
    assert_eq!(grown.size_bytes, 3 * MIB);
    assert_eq!(grown.identity, created.identity);

    group.remove(&name("data")).await.expect("removes");
    assert_eq!(group.list().await.expect("lists"), []);
    assert_eq!(group.get(&name("data")).await.expect("looks"), None);
    assert_eq!(count(&folder, "trash"), 0);
}

#[tokio::test]
async fn volumes_and_tags_are_the_same_after_a_restart() {
    let folder = folder();
    let group = open(&folder).await;
    let tags = ["b=2", "a/1", "b=2"].map(|tag| Tag::parse(tag).expect("a tag"));
    let new = NewVolume {
        tags: tags.to_vec(),
        ..new_volume("tagged", MIB)
    };
    group.create(new).await.expect("creates");
    group
        .create(new_volume("plain", MIB))
        .await
        .expect("creates");
    let before = group.list().await.expect("lists");
    drop(group);

    let after = open(&folder).await.list().await.expect("lists");
    assert_eq!(after, before);
    assert_eq!(after[0].tags, [""; 0]);
    assert_eq!(after[1].tags, ["b=2", "a/1", "b=2"]);
}

#[tokio::test]
async fn sizes_are_whole_blocks() {
    let folder = folder();
    let group = open(&folder).await;
    let created = group
        .create(new_volume("odd", 5000))
        .await
        .expect("creates");
    assert_eq!(created.size_bytes, 8192);
    let resized = group.resize(&name("odd"), 8000).await.expect("has that");
    assert_eq!(resized.size_bytes, 8192);
}

#[tokio::test]
async fn a_volume_never_shrinks() {
    let folder = folder();
    let group = open(&folder).await;
    group
        .create(new_volume("data", 2 * MIB))
        .await
        .expect("creates");
    let refused = group.resize(&name("data"), MIB).await;
    assert!(
        matches!(refused, Err(Error::TooSmall { .. })),
        "{refused:?}"
    );
    let volume = group
        .get(&name("data"))
        .await
        .expect("looks")
        .expect("is there");
    assert_eq!(volume.size_bytes, 2 * MIB);
}

#[tokio::test]
async fn a_missing_volume_is_not_found() {
    let folder = folder();
    let group = open(&folder).await;
    let missing = name("missing");
    let gone = group
        .create(new_volume("missing", MIB))
        .await
        .expect("creates");
    group.remove(&missing).await.expect("removes");
    let failures = [
        group.remove(&missing).await.err(),
        group.resize(&missing, MIB).await.err(),
        group.snapshot(new_snapshot("copy", "missing")).await.err(),
        group.freeze_for_backup(&gone).await.err(),
    ];
    for failure in failures {
        assert!(
            matches!(&failure, Some(Error::NotFound(name)) if *name == missing),
            "{failure:?}"
        );
    }
}

#[tokio::test]
async fn a_pending_volume_is_unlisted_until_published() {
    let folder = folder();
    let group = open(&folder).await;
    let pending = group
        .create_pending(new_volume("data", MIB))
        .await
        .expect("begins");
    assert_eq!(pending.size_bytes(), MIB);
    assert_eq!(names(&group).await, [""; 0]);
    assert_eq!(group.get(&name("data")).await.expect("looks"), None);

    fs::write(pending.path(), vec![7; 1 << 20]).expect("takes content");
    let volume = pending.publish().await.expect("publishes");
    assert_eq!(names(&group).await, ["data"]);
    assert_eq!(
        fs::read(&volume.path).expect("has an image"),
        vec![7; 1 << 20]
    );
    assert_eq!(count(&folder, "pending"), 0);
}

#[tokio::test]
async fn a_pending_volume_reserves_its_name() {
    let folder = folder();
    let group = open(&folder).await;
    let pending = group
        .create_pending(new_volume("data", MIB))
        .await
        .expect("begins");
    for failure in [
        group.create(new_volume("data", MIB)).await.err(),
        group.create_pending(new_volume("data", MIB)).await.err(),
    ] {
        assert!(
            matches!(failure, Some(Error::AlreadyExists(_))),
            "{failure:?}"
        );
    }
    pending.discard().await.expect("discards");
    assert_eq!(count(&folder, "pending") + count(&folder, "trash"), 0);
    group
        .create(new_volume("data", MIB))
        .await
        .expect("the name is free again");
    let failure = group.create_pending(new_volume("data", MIB)).await.err();
    assert!(
        matches!(failure, Some(Error::AlreadyExists(_))),
        "{failure:?}"
    );
}

#[tokio::test]
async fn a_name_taken_meanwhile_fails_the_publishing_and_keeps_the_other_volume() {
    let folder = folder();
    let group = open(&folder).await;
    let pending = group
        .create_pending(new_volume("data", MIB))
        .await
        .expect("begins");
    let foreign = folder.path().join("volumes/data");
    fs::create_dir(&foreign).expect("makes a folder behind the group's back");
    fs::write(foreign.join("image"), "theirs").expect("writes");

    let failure = pending.publish().await.err();
    assert!(
        matches!(failure, Some(Error::AlreadyExists(_))),
        "{failure:?}"
    );
    assert_eq!(
        fs::read(foreign.join("image")).expect("is there"),
        b"theirs"
    );
    assert_eq!(count(&folder, "pending"), 0);
    becomes_empty(&folder, "trash").await;
}

#[tokio::test]
async fn a_dropped_pending_volume_leaves_nothing_and_frees_its_name_at_once() {
    let folder = folder();
    let group = open(&folder).await;
    let mut told = group.group.changes.subscribe();
    drop(
        group
            .create_pending(new_volume("data", MIB))
            .await
            .expect("begins"),
    );
    assert_eq!(count(&folder, "pending"), 0);
    group
        .create(new_volume("data", MIB))
        .await
        .expect("the name is free");
    told.changed().await.expect("when its room is free");
    becomes_empty(&folder, "trash").await;
}

#[tokio::test]
async fn what_a_killed_daemon_left_unfinished_is_swept() {
    let folder = folder();
    let group = open(&folder).await;
    let kept = group
        .create(new_volume("kept", MIB))
        .await
        .expect("creates");
    // As after a kill: neither dropped nor discarded.
    std::mem::forget(
        group
            .create_pending(new_volume("restoring", MIB))
            .await
            .expect("begins"),
    );
    std::mem::forget(group.freeze_for_backup(&kept).await.expect("freezes"));
    let removed = folder
        .path()
        .join("trash/01234567-89ab-4def-8123-456789abcdef");
    fs::create_dir(&removed).expect("makes a folder");
    fs::write(removed.join("image"), "half removed").expect("writes");
    fs::create_dir(folder.path().join("pending/barely-begun")).expect("makes a folder");
    // The forgotten handles keep the lock, as no killed process would.
    fs::remove_file(folder.path().join("lock")).expect("breaks the lock");

    let group = open(&folder).await;
    assert_eq!(names(&group).await, ["kept"]);
    for part in ["pending", "trash", "temporary"] {
        assert_eq!(count(&folder, part), 0, "{part}");
    }
    group
        .create(new_volume("restoring", MIB))
        .await
        .expect("the name is free");
}

#[tokio::test]
async fn what_has_no_name_of_ours_is_not_swept() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    drop(open(&folder).await);
    let foreign = [
        "pending/notes.txt",
        "pending/lost volume",
        "temporary/notes.txt",
        "trash/notes",
        "trash/01234567-89AB-4def-8123-456789abcdef",
    ];
    for path in foreign {
        fs::write(folder.path().join(path), "somebody else's").expect("writes");
    }
    open(&folder).await;
    for path in foreign {
        assert!(folder.path().join(path).exists(), "{path}");
    }
}

#[tokio::test]
async fn a_second_owner_is_refused_until_the_first_is_gone() {
    let folder = folder();
    let first = open(&folder).await;
    let refused = Directory::open(folder.path(), Attach::Never, &Changes::default()).await;
    let sentence = refused.expect_err("is refused").to_string();
    assert!(
        sentence.contains(&*folder.path().to_string_lossy()),
        "{sentence}"
    );
    drop(first);
    open(&folder).await;
}

#[tokio::test]
async fn a_folder_that_is_no_volume_is_not_listed_and_not_replaced() {
    let folder = folder();
    let group = open(&folder).await;
    group
        .create(new_volume("data", MIB))
        .await
        .expect("creates");
    let volumes = folder.path().join("volumes");
    fs::create_dir(volumes.join("empty")).expect("makes a folder");
    fs::create_dir(volumes.join("not a name")).expect("makes a folder");
    fs::write(volumes.join("file"), "").expect("writes");
    fs::create_dir(volumes.join("damaged")).expect("makes a folder");
    fs::write(volumes.join("damaged/image"), "").expect("writes");
    fs::write(
        volumes.join("damaged/volume.json"),
        r#"{"identity": "x", "tags": [], "new": 1}"#,
    )
    .expect("writes");

    assert_eq!(names(&group).await, ["data"]);
    for taken in ["empty", "file", "damaged"] {
        let failure = group.create(new_volume(taken, MIB)).await.err();
        assert!(
            matches!(failure, Some(Error::AlreadyExists(_))),
            "{taken}: {failure:?}"
        );
    }
    let failure = group.remove(&name("damaged")).await.err();
    assert!(
        matches!(failure, Some(Error::Damaged { .. })),
        "{failure:?}"
    );
}

#[tokio::test]
async fn room_promised_to_sparse_volumes_is_not_free() {
    let folder = folder();
    let group = open(&folder).await;
    let half = whole_mib(group.free().await.expect("asks").free_bytes / 2);
    group.create(new_volume("data", half)).await.expect("fits");
    let pending = group
        .create_pending(new_volume("more", half / 2))
        .await
        .expect("fits");

    let free = group.free().await.expect("asks");
    // Others write to this filesystem, too: a quarter, more or less.
    assert!(
        free.free_bytes < half / 2 + half / 4,
        "{free:?} of {half} and {}",
        half / 2
    );
    assert!(free.size_bytes > 2 * half);
    for failure in [
        group.create(new_volume("too-much", half)).await.err(),
        group
            .create_pending(new_volume("too-much", half))
            .await
            .err(),
        group.resize(&name("data"), 2 * half).await.err(),
    ] {
        assert!(
            matches!(failure, Some(Error::NoSpace { needed_bytes, free_bytes })
                if needed_bytes == half && free_bytes < half),
            "{failure:?}"
        );
    }
    assert_eq!(count(&folder, "pending"), 1);

    pending.discard().await.expect("discards");
    group.remove(&name("data")).await.expect("removes");
    let given_back = group.free().await.expect("asks").free_bytes;
    assert!(given_back > half + half / 2, "{given_back} of {half}");
}

#[tokio::test]
async fn a_size_beyond_all_sizes_finds_no_room() {
    let folder = folder();
    let group = open(&folder).await;
    let failure = group.create(new_volume("huge", u64::MAX - 1)).await.err();
    assert!(
        matches!(failure, Some(Error::NoSpace { .. })),
        "{failure:?}"
    );
    group
        .create(new_volume("huge", MIB))
        .await
        .expect("the name is free");
}

#[tokio::test]
async fn written_blocks_are_promised_no_longer() {
    let folder = folder();
    let group = open(&folder).await;
    let volume = group
        .create(new_volume("data", MIB))
        .await
        .expect("creates");
    fs::write(&volume.path, vec![1; 1 << 20]).expect("writes");
    fs::File::open(&volume.path)
        .expect("opens")
        .sync_all()
        .expect("syncs");
    let metadata = fs::metadata(&volume.path).expect("is there");
    assert!(
        space::allocated_bytes(&metadata) >= MIB,
        "{} blocks",
        metadata.blocks()
    );
}

#[tokio::test]
async fn without_reflinks_a_snapshot_is_unsupported_and_leaves_nothing() {
    let folder = folder();
    let group = open(&folder).await;
    group
        .create(new_volume("data", MIB))
        .await
        .expect("creates");
    let refused = group.snapshot(new_snapshot("copy", "data")).await;
    assert!(
        matches!(&refused, Err(Error::Unsupported(why)) if why.contains("reflink")),
        "{refused:?}"
    );
    assert_eq!(names(&group).await, ["data"]);
    assert_eq!(count(&folder, "pending"), 0);
    becomes_empty(&folder, "trash").await;
}

#[tokio::test]
async fn without_reflinks_a_backup_is_told_to_copy_and_is_warned() {
    let folder = folder();
    let group = open(&folder).await;
    let volume = group
        .create(new_volume("data", MIB))
        .await
        .expect("creates");
    let snapshot = group.freeze_for_backup(&volume).await.expect("freezes");
    assert_eq!(snapshot.size_bytes, MIB);
    assert!(
        snapshot
            .warning
            .as_ref()
            .is_some_and(|warning| warning.contains("data"))
    );
    let Frozen::NeedsCopy { from, to } = snapshot.frozen.clone() else {
        panic!("{:?}", snapshot.frozen);
    };
    assert_eq!(from, volume.path);
    let copy = fs::metadata(&to).expect("there is a place for the copy");
    assert_eq!((copy.len(), copy.blocks()), (MIB, 0));

    snapshot.release().await.expect("releases");
    assert_eq!(count(&folder, "temporary"), 0);
    drop(group.freeze_for_backup(&volume).await.expect("freezes"));
    becomes_empty(&folder, "temporary").await;
}

#[tokio::test]
async fn a_volume_that_took_the_name_of_the_one_to_back_up_is_not_taken_for_it() {
    let folder = folder();
    let group = open(&folder).await;
    let data = || new_volume("data", MIB);
    let found = group.create(data()).await.expect("creates");
    group.remove(&found.name).await.expect("removes");
    group.create(data()).await.expect("creates");
    let refused = group.freeze_for_backup(&found).await;
    assert!(matches!(refused, Err(Error::Replaced(_))), "{refused:?}");
    assert_eq!(count(&folder, "temporary"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_creates_of_one_name_exactly_one_wins() {
    let folder = folder();
    let group = Arc::new(open(&folder).await);
    let attempts: Vec<_> = (1..=16)
        .map(|blocks| {
            let group = Arc::clone(&group);
            tokio::spawn(async move { group.create(new_volume("data", blocks * 4096)).await })
        })
        .collect();
    let mut won = Vec::new();
    for attempt in attempts {
        match attempt.await.expect("does not panic") {
            Ok(volume) => won.push(volume),
            Err(Error::AlreadyExists(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(won.len(), 1);
    assert_eq!(group.list().await.expect("lists"), won);
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_nothing_half_done() {
    let folder = folder();
    let group = open(&folder).await;
    for round in 0..40_u32 {
        let begun = group.create(new_volume("data", MIB));
        let patience = Duration::from_micros(u64::from(round) * 50);
        let _ = tokio::time::timeout(patience, begun).await;
        // In turn, so after whatever the call before still does.
        match group.remove(&name("data")).await {
            Ok(()) | Err(Error::NotFound(_)) => {}
            Err(error) => panic!("round {round}: {error}"),
        }
        let pending = group.create_pending(new_volume("data", MIB));
        let _ = tokio::time::timeout(patience, pending).await;
        group
            .remove(&name("other"))
            .await
            .expect_err("waits for its turn only");
    }
    becomes_empty(&folder, "pending").await;
    becomes_empty(&folder, "trash").await;
    assert_eq!(names(&group).await, [""; 0]);
}

#[tokio::test]
async fn a_group_whose_folder_is_gone_is_unavailable() {
    let folder = folder();
    let group = open(&folder).await;
    fs::remove_dir_all(folder.path().join("volumes")).expect("deletes");
    for failure in [group.list().await.err(), group.free().await.err()] {
        assert!(
            matches!(failure, Some(Error::Unavailable { .. })),
            "{failure:?}"
        );
    }
}

#[tokio::test]
async fn identities_differ_between_volumes_of_one_name() {
    let folder = folder();
    let group = open(&folder).await;
    let first = group
        .create(new_volume("data", MIB))
        .await
        .expect("creates");
    group.remove(&name("data")).await.expect("removes");
    let second = group
        .create(new_volume("data", MIB))
        .await
        .expect("creates");
    assert_ne!(first.identity, second.identity);
}

#[tokio::test]
async fn images_are_private_to_the_daemon() {
    let folder = folder();
    let group = open(&folder).await;
    let volume = group
        .create(new_volume("data", MIB))
        .await
        .expect("creates");
    let mode = |path: &Path| fs::metadata(path).expect("is there").mode() & 0o777;
    assert_eq!(mode(&volume.path), 0o600);
    assert_eq!(mode(&folder.path().join("volumes")), 0o700);
}

fn whole_mib(bytes: u64) -> u64 {
    bytes / MIB * MIB
}

#[test]
fn uuids_are_of_version_4() {
    let uuid = layout::random_uuid().expect("there is randomness");
    let digits: Vec<_> = uuid.chars().collect();
    assert_eq!(digits[14], '4');
    assert!(matches!(digits[19], '8' | '9' | 'a' | 'b'));
    assert_eq!(
        uuid.split('-').map(str::len).collect::<Vec<_>>(),
        [8, 4, 4, 4, 12]
    );
    let other: PathBuf = layout::random_uuid().expect("there is randomness").into();
    assert_ne!(Path::new(&uuid), other);
}
