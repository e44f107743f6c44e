//! What a repository asks of a store, asked of each kind that there is.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use ringback_datapath::store::{
    ObjectStore, Payload, PutNew, StoreError,
    folder::FolderStore,
    url::{FolderPath, RepositoryUrl},
};
use tokio::{task::JoinSet, time::timeout};

use crate::support::{Bed, noise};

const PATIENCE: Duration = Duration::from_secs(20);
/// S3 takes no smaller part but the last.
const PART_BYTES: usize = 5 << 20;

/// A store of each kind, over and over anew: several that share one place.
struct Stores {
    bed: Bed,
    folder: FolderPath,
}

type Store = Arc<dyn ObjectStore>;

impl Stores {
    async fn new() -> Self {
        let bed = Bed::new().await;
        let folder = folder_path(bed.folder.path());
        Self { bed, folder }
    }

    async fn s3(&self) -> Store {
        Arc::new(self.bed.client(PATIENCE).store().await)
    }

    async fn folder(&self) -> Store {
        let store = FolderStore::open(self.folder.clone(), 8).await;
        Arc::new(store.expect("opens"))
    }

    async fn each(&self) -> [Store; 2] {
        [self.s3().await, self.folder().await]
    }
}

pub(crate) fn folder_path(path: &std::path::Path) -> FolderPath {
    let url = format!("file://{}", path.display());
    match RepositoryUrl::parse(&url).expect("a path") {
        RepositoryUrl::Folder(path) => path,
        RepositoryUrl::Bucket(_) => unreachable!("a file URL"),
    }
}

pub(crate) fn payload(bytes: &[u8]) -> Payload {
    Payload::from(Bytes::copy_from_slice(bytes))
}

async fn range(store: &Store, object: &str, start: u64, end: u64) -> Result<Bytes, StoreError> {
    let mut download = store.get_range(object, start, end).await?;
    let mut bytes = BytesMut::new();
    while let Some(piece) = download.next().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.freeze())
}

async fn names(store: &Store, prefix: &str, after: Option<&str>) -> Vec<String> {
    let listed = store.list(prefix, after).await.expect("listed");
    listed.into_iter().map(|it| it.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_object_is_gone_and_may_be_removed_again() {
    let stores = Stores::new().await;
    for store in stores.each().await {
        for object in ["keys/1", "keys/2"] {
            store.put(object, payload(b"slot")).await.expect("put");
        }
        for _ in 0..2 {
            store.delete("keys/1").await.expect("removed");
            assert_eq!(names(&store, "keys/", None).await, ["keys/2"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_comes_back_whole_or_in_ranges_and_is_replaced() {
    let stores = Stores::new().await;
    for store in stores.each().await {
        let bytes = noise(1, 3_000_000);
        let mut in_pieces = Payload::default();
        for piece in bytes.chunks(700_001) {
            in_pieces.push(Bytes::copy_from_slice(piece));
        }
        store.put("data/one/1", in_pieces).await.expect("put");
        assert!(store.get("data/one/1").await.expect("got") == bytes);
        assert_eq!(store.size("data/one/1").await.expect("known"), 3_000_000);
        assert_eq!(store.meter().sent(), 3_000_000);
        assert_eq!(store.meter().received(), 3_000_000);
        for (start, end) in [(0, 1), (5, 2_999_999), (2_999_999, 3_000_000), (7, 7)] {
            let got = range(&store, "data/one/1", start, end).await.expect("got");
            let wanted =
                usize::try_from(start).expect("small")..usize::try_from(end).expect("small");
            assert!(got == bytes[wanted], "{start}..{end}");
        }
        let beyond = range(&store, "data/one/1", 2_999_999, 3_000_001).await;
        assert!(
            matches!(beyond, Err(StoreError::TooShort { .. })),
            "{beyond:?}"
        );

        store
            .put("data/one/1", payload(b"other"))
            .await
            .expect("put");
        assert_eq!(&store.get("data/one/1").await.expect("got")[..], b"other");
        store.put("empty", Payload::default()).await.expect("put");
        assert_eq!(&store.get("empty").await.expect("got")[..], b"");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_not_there_is_not_found_whatever_lies_beside_it() {
    let stores = Stores::new().await;
    for store in stores.each().await {
        store.put("data/one/1", payload(b"x")).await.expect("put");
        for object in [
            "data/one/2",
            "data/one",
            "data/two/1",
            "data/one/1/1",
            "repository",
        ] {
            let errors = [
                store.get(object).await.err(),
                store.size(object).await.err(),
                range(&store, object, 0, 1).await.err(),
            ];
            for error in errors {
                assert!(
                    matches!(error, Some(StoreError::NotFound { .. })),
                    "{object}: {error:?}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_in_order_of_whole_names_and_begins_behind_the_one_named() {
    let stores = Stores::new().await;
    for store in stores.each().await {
        assert_eq!(names(&store, "", None).await, [""; 0]);
        // The order of folders would be another.
        let all = [
            "a-b", "a.c", "a/b", "a/b-c", "a0/1", "ab", "log/01", "log/02", "log/0a",
        ];
        for name in all.iter().rev() {
            store
                .put(name, payload(name.as_bytes()))
                .await
                .expect("put");
        }
        assert_eq!(names(&store, "", None).await, all);
        assert_eq!(names(&store, "a", None).await, all[..6]);
        assert_eq!(names(&store, "a/", None).await, ["a/b", "a/b-c"]);
        assert_eq!(names(&store, "a/b-", None).await, ["a/b-c"]);
        assert_eq!(
            names(&store, "log/", Some("log/01")).await,
            ["log/02", "log/0a"]
        );
        assert_eq!(names(&store, "log/", Some("log/00")).await.len(), 3);
        assert_eq!(names(&store, "log/", Some("log/0a")).await, [""; 0]);
        assert_eq!(names(&store, "", Some("a/b")).await, all[3..]);
        assert_eq!(names(&store, "none/", None).await, [""; 0]);
        assert_eq!(names(&store, "a-b/", None).await, [""; 0]);
        let listed = store.list("a/b", None).await.expect("listed");
        assert_eq!((listed[0].bytes, listed[1].bytes), (3, 5));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_taken_stays_as_it_is() {
    let stores = Stores::new().await;
    for store in stores.each().await {
        let (one, other) = (Bytes::from_static(b"one"), Bytes::from_static(b"other"));
        let first = store.put_new("log/1", one.clone()).await.expect("put");
        assert_eq!(first, PutNew::Created);
        for bytes in [one.clone(), other] {
            let second = store.put_new("log/1", bytes).await.expect("put");
            assert_eq!(second, PutNew::Exists);
        }
        assert_eq!(store.get("log/1").await.expect("got"), one);
        assert_eq!(store.meter().sent(), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_sixteen_who_want_a_name_at_once_one_gets_it() {
    const WRITERS: u8 = 16;
    let stores = Stores::new().await;
    for is_folder in [false, true] {
        let mut writers: Vec<Store> = Vec::new();
        for _ in 0..WRITERS {
            writers.push(if is_folder {
                stores.folder().await
            } else {
                stores.s3().await
            });
        }
        for round in 0..20 {
            let object = format!("log/{round:016x}");
            let mut racing = JoinSet::new();
            for (number, writer) in (0..WRITERS).zip(&writers) {
                let (writer, object) = (Arc::clone(writer), object.clone());
                racing.spawn(async move {
                    let bytes = Bytes::from(vec![number; 1000]);
                    let outcome = writer.put_new(&object, bytes).await.expect("put");
                    (outcome == PutNew::Created).then_some(number)
                });
            }
            let winners: Vec<u8> = racing.join_all().await.into_iter().flatten().collect();
            assert_eq!(winners.len(), 1, "{object}: {winners:?}");
            let bytes = writers[0].get(&object).await.expect("got");
            assert_eq!(bytes, vec![winners[0]; 1000]);
        }
        assert_eq!(names(&writers[0], "", None).await.len(), 20);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_come_in_any_order_and_again_and_nothing_is_seen_before_the_end() {
    let stores = Stores::new().await;
    for store in stores.each().await {
        let bytes = noise(2, 2 * PART_BYTES + 77);
        let parts: Vec<&[u8]> = bytes.chunks(PART_BYTES).collect();
        let upload = store
            .upload("data/one/1", PART_BYTES as u64)
            .await
            .expect("begun");
        for (number, part) in [(3, 2), (1, 0), (2, 1), (1, 0)] {
            upload
                .part(number, payload(parts[part]))
                .await
                .expect("sent");
        }
        assert_eq!(names(&store, "", None).await, [""; 0]);
        let unseen = store.get("data/one/1").await;
        assert!(matches!(unseen, Err(StoreError::NotFound { .. })));
        for _ in 0..2 {
            // The answer to the first may have been lost.
            upload
                .complete(bytes.len() as u64)
                .await
                .expect("completed");
        }
        assert!(store.get("data/one/1").await.expect("got") == bytes);
        upload.abort().await;
        assert_eq!(names(&store, "", None).await, ["data/one/1"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_given_up_leaves_nothing_and_cannot_be_completed() {
    let stores = Stores::new().await;
    for store in stores.each().await {
        let part_bytes = PART_BYTES as u64;
        let aborted = store.upload("data/one/1", part_bytes).await.expect("begun");
        aborted.part(1, payload(b"part")).await.expect("sent");
        aborted.abort().await;
        aborted.abort().await;
        let mut begun = Vec::new();
        for object in [
            "data/one/1",
            "data/one/1",
            "data/one/2",
            "data/other/1",
            "tree/one/1",
        ] {
            let upload = store.upload(object, part_bytes).await.expect("begun");
            upload.part(1, payload(b"part")).await.expect("sent");
            begun.push(upload);
        }
        let abandon = |prefix| store.abandon_uploads(prefix);
        assert_eq!(abandon("data/one/").await.expect("listed"), 3);
        assert_eq!(abandon("data/one/").await.expect("listed"), 0);
        for upload in &begun[..3] {
            let completed = upload.complete(4).await;
            assert!(
                matches!(completed, Err(StoreError::Refused { .. })),
                "{completed:?}"
            );
        }
        for upload in &begun[3..] {
            upload.complete(4).await.expect("still there");
        }
        assert_eq!(
            names(&store, "", None).await,
            ["data/other/1", "tree/one/1"]
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_settles_when_nothing_is_under_way() {
    let stores = Stores::new().await;
    for store in stores.each().await {
        let token = store.background().token();
        timeout(Duration::from_millis(100), store.settle())
            .await
            .expect_err("something is under way");
        drop(token);
        store.settle().await;
    }
}

/// Each object by its name: nothing in it says what kind of store it lies in.
#[tokio::test(flavor = "multi_thread")]
async fn a_repository_copied_from_s3_into_a_folder_is_the_same_repository() {
    let stores = Stores::new().await;
    let data = noise(3, 300_000);
    let volume = stores.bed.volume("volume", 1 << 20, &[(65_536, data)]);
    stores
        .bed
        .backup(&volume, "monday")
        .await
        .expect("backed up");
    let (s3, copy) = (stores.s3().await, tempfile::tempdir().expect("a folder"));
    let folder = FolderStore::open(folder_path(copy.path()), 8)
        .await
        .expect("opens");
    let folder: Store = Arc::new(folder);
    for name in names(&s3, "", None).await {
        let bytes = s3.get(&name).await.expect("got");
        assert_eq!(
            folder.put_new(&name, bytes).await.expect("put"),
            PutNew::Created
        );
    }
    let target = stores.bed.folder.path().join("again");
    let settings = &stores.bed.settings;
    crate::support::restore(folder, None, settings, "monday", &target)
        .await
        .expect("restored");
    crate::support::assert_same(&volume, &target);
}
