//! What the store sees of an encrypted repository.

use std::{collections::HashSet, path::Path, time::Duration};

use bytes::Bytes;
use ringback_datapath::{error::ErrorKind, stop::Stop, store::ObjectStore};

use crate::support::{Bed, assert_same, noise, passphrase};

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(20);
/// What is searched for, in bytes.
const WINDOW: usize = 16;
/// Bytes of the header of every object, which are clear.
const HEADER_BYTES: usize = 32;

type Objects = Vec<(String, Bytes)>;

async fn objects(bed: &Bed) -> Objects {
    let store = bed.client(PATIENCE).store().await;
    let mut objects = Vec::new();
    for listed in store.list("", None).await.expect("listed") {
        let bytes = store.get(&listed.name).await.expect("got");
        objects.push((listed.name, bytes));
    }
    objects
}

/// Every run of 16 bytes.
fn windows(bytes: &[u8]) -> impl Iterator<Item = [u8; WINDOW]> {
    bytes
        .windows(WINDOW)
        .map(|window| window.try_into().expect("16 bytes"))
}

/// Text in which no 16 bytes are there twice, and which compresses well.
fn text(seed: u64, len: usize) -> Vec<u8> {
    let lines = (0u64..).flat_map(|n| format!("line {seed:04} {n:012} of a log\n").into_bytes());
    lines.take(len).collect()
}

async fn back_up_twice(bed: &Bed, volume: &Path) {
    bed.backup(volume, "an-unusual-backup-name-1")
        .await
        .expect("first");
    std::fs::File::options()
        .write(true)
        .open(volume)
        .and_then(|file| std::os::unix::fs::FileExt::write_all_at(&file, &noise(7, 5000), 3 * MIB))
        .expect("changed");
    bed.backup(volume, "an-unusual-backup-name-2")
        .await
        .expect("second");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_volume_its_names_or_its_tree_is_in_the_bucket() {
    let bed = Bed::encrypted().await;
    let extents = [
        (0, noise(1, 1 << 20)),
        (2 * MIB, text(2, 512 << 10)),
        (3 * MIB, noise(3, 100)),
    ];
    let volume = bed.volume("a-volume-with-an-unusual-name", 4 * MIB, &extents);
    back_up_twice(&bed, &volume).await;
    let path = volume.display().to_string();

    // Chunk ids that are not keyed would tell who knows a chunk whether it is there.
    let content = std::fs::read(&volume).expect("read");
    let chunks = content
        .chunks(64 << 10)
        .map(|chunk| *blake3::hash(chunk).as_bytes());
    let mut secret: HashSet<[u8; WINDOW]> = chunks
        .flat_map(|id| windows(&id).collect::<Vec<_>>())
        .collect();
    secret.extend(windows(&content).filter(|window| *window != [0; WINDOW]));
    let names = [
        "an-unusual-backup-name-1",
        "an-unusual-backup-name-2",
        &path,
    ];
    let passphrase = bed.passphrase.as_ref().expect("given").reveal();
    for text in names.into_iter().chain([passphrase]) {
        secret.extend(windows(text.as_bytes()));
    }
    let objects = objects(&bed).await;
    for folder in [
        "repository",
        "keys/",
        "data/",
        "tree/",
        "index/",
        "refs/",
        "log/",
    ] {
        assert!(
            objects.iter().any(|(name, _)| name.starts_with(folder)),
            "{folder}"
        );
    }
    for (name, bytes) in &objects {
        let found = windows(bytes).position(|window| secret.contains(&window));
        assert_eq!(found, None, "{name}");
        let found = windows(name.as_bytes()).position(|window| secret.contains(&window));
        assert_eq!(found, None, "{name}");
    }
    // The search finds what is there: the same volume in a repository that is not encrypted.
    let plain = Bed::new().await;
    let volume = plain.volume("a-volume-with-an-unusual-name", 4 * MIB, &extents);
    back_up_twice(&plain, &volume).await;
    secret.extend(windows(volume.display().to_string().as_bytes()));
    for (name, bytes) in self::objects(&plain).await {
        let is_clear = name.starts_with("data/") || name.starts_with("log/");
        if is_clear {
            let found = windows(&bytes).any(|window| secret.contains(&window));
            assert!(found, "{name}");
        }
    }
}

/// What lies behind the header of each object.
fn bodies(objects: &Objects) -> impl Iterator<Item = &[u8]> {
    objects.iter().map(|(_, bytes)| &bytes[HEADER_BYTES..])
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_data_under_another_key_has_no_bytes_in_common_but_the_headers() {
    let mut found: Vec<Objects> = Vec::new();
    // The passphrase is the same: it is the keys that differ.
    for _ in 0..2 {
        let bed = Bed::encrypted().await;
        let volume = bed.volume("volume", 4 * MIB, &[(0, noise(1, 1 << 20))]);
        bed.backup(&volume, "one").await.expect("backed up");
        found.push(objects(&bed).await);
    }
    let first: HashSet<_> = bodies(&found[0]).flat_map(windows).collect();
    assert!(first.len() > 1 << 20);
    // What `repository` says of the stretching is clear, and shorter than 16 bytes.
    for body in bodies(&found[1]) {
        assert!(!windows(body).any(|window| first.contains(&window)));
    }
    let names = |objects: &Objects| -> HashSet<String> {
        let named = objects.iter().map(|(name, _)| name.clone());
        named
            .filter(|name| name != "repository" && !name.starts_with("log/"))
            .collect()
    };
    assert!(names(&found[0]).is_disjoint(&names(&found[1])));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_encrypted_backup_is_gone_on_with_in_packs_of_its_own() {
    const VOLUME_BYTES: u64 = 48 * MIB;
    let mut bed = Bed::encrypted().await;
    bed.settings.packs_min = 64;
    bed.settings.transfers_max = 2;
    let data = noise(1, usize::try_from(VOLUME_BYTES).expect("small"));
    let volume = bed.volume("volume", VOLUME_BYTES, &[(0, data)]);
    let stop = Stop::default();
    let client = bed.client(PATIENCE);
    let stopped = async {
        while bed.endpoint.counters().bytes_received < VOLUME_BYTES / 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        stop.halt();
    };
    let (backup, ()) = tokio::join!(client.stoppable_backup(&volume, "one", &stop), stopped);
    assert_eq!(backup.expect_err("stopped").kind(), ErrorKind::Stopped);
    bed.store_is_idle().await;
    let left = objects(&bed).await;
    let packs = left.iter().filter(|(name, _)| name.starts_with("data/"));
    let whole: u64 = packs.map(|(_, bytes)| bytes.len() as u64).sum();
    assert!(whole > 0);

    let before = bed.endpoint.counters().bytes_received;
    bed.backup(&volume, "one").await.expect("backed up");
    let sent = bed.endpoint.counters().bytes_received - before;
    assert!(
        sent < VOLUME_BYTES - whole + MIB,
        "{sent} bytes, {whole} were there"
    );
    // Not a byte of what was there has changed.
    let now = objects(&bed).await;
    for object in &left {
        assert!(now.contains(object), "{}", object.0);
    }
    assert_same(&volume, &bed.restore("one").await.expect("restored"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_sealed_with_the_keys_is_refused_wherever_it_lies() {
    let bed = Bed::encrypted().await;
    let volume = bed.volume("volume", MIB, &[(0, noise(1, 1 << 20))]);
    bed.backup(&volume, "one").await.expect("backed up");
    // Another repository of the same passphrase: its objects are whole, and well sealed.
    let other = Bed {
        passphrase: Some(passphrase("the passphrase of these tests")),
        ..Bed::new().await
    };
    let twin = other.volume("volume", MIB, &[(0, noise(1, 1 << 20))]);
    other.backup(&twin, "one").await.expect("backed up");
    let store = bed.client(PATIENCE).store().await;
    let (own, foreign) = (objects(&bed).await, objects(&other).await);
    for folder in ["data/", "tree/", "log/"] {
        let is_there = |it: &&(String, Bytes)| it.0.starts_with(folder);
        let (name, whole) = own.iter().find(is_there).expect("there");
        let (_, bytes) = foreign.iter().find(is_there).expect("there");
        // With this repository's header, only the seal is wrong.
        let mut forged = whole[..HEADER_BYTES].to_vec();
        forged.extend_from_slice(&bytes[HEADER_BYTES..]);
        store
            .put(name, Bytes::from(forged).into())
            .await
            .expect("put");
        let error = bed.restore("one").await.expect_err("forged");
        assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
        assert!(error.to_string().contains(name), "{error}");
        store.put(name, whole.clone().into()).await.expect("put");
    }
    assert_same(&volume, &bed.restore("one").await.expect("restored"));
}
