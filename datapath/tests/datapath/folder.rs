//! A folder as a store: what else lies in it, and what becomes of it.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
    },
    path::Path,
};

use bytes::Bytes;
use ringback_datapath::{
    error::{Error, ErrorKind},
    store::{ObjectStore, StoreError, folder::FolderStore},
};

use crate::stores::{folder_path, payload};

async fn open(path: &Path) -> Result<FolderStore, Error> {
    Ok(FolderStore::open(folder_path(path), 4).await?)
}

/// An error's kind, and that it says this.
#[track_caller]
fn kind_of<T>(failed: Result<T, impl Into<Error>>, says: &str) -> ErrorKind {
    let error = failed.err().expect("it fails").into();
    assert!(error.to_string().contains(says), "{error}");
    error.kind()
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_not_made_and_says_that_a_disk_may_not_be_mounted() {
    let place = tempfile::tempdir().expect("a folder");
    let absent = place.path().join("usb/repo");
    let says = format!("cannot open the folder {}: No such file", absent.display());
    assert_eq!(kind_of(open(&absent).await, &says), ErrorKind::NotFound);
    let says = "mount the disk that it lies on, or make it";
    assert_eq!(kind_of(open(&absent).await, says), ErrorKind::NotFound);
    assert_eq!(fs::read_dir(place.path()).expect("lists").count(), 0);

    let file = place.path().join("file");
    fs::write(&file, "x").expect("writes");
    let says = "Not a directory (os error 20); something else lies";
    assert_eq!(kind_of(open(&file).await, says), ErrorKind::Unsupported);
    let long = place.path().join("x".repeat(300));
    let says = "File name too long (os error 36); the filesystem takes no name";
    assert_eq!(kind_of(open(&long).await, says), ErrorKind::Unsupported);
}

#[tokio::test]
async fn a_folder_that_is_removed_meanwhile_is_not_made_again() {
    let place = tempfile::tempdir().expect("a folder");
    let path = place.path().join("repo");
    fs::create_dir(&path).expect("makes a folder");
    let store = open(&path).await.expect("opens");
    fs::remove_dir(&path).expect("removes it");
    fs::create_dir(&path).expect("makes another");
    let says = "it was removed; nothing can be kept there any more";
    let put = store.put("log/1", payload(b"x")).await;
    assert_eq!(kind_of(put, says), ErrorKind::NotFound);
    assert_eq!(kind_of(store.get("log/1").await, says), ErrorKind::NotFound);
    let listed = store.list("", None).await;
    assert_eq!(kind_of(listed, says), ErrorKind::NotFound);
    assert_eq!(fs::read_dir(&path).expect("lists").count(), 0);
}

#[tokio::test]
async fn what_is_not_ringback_s_is_neither_listed_nor_touched_nor_in_the_way() {
    let place = tempfile::tempdir().expect("a folder");
    let at = |name: &str| place.path().join(name);
    fs::create_dir_all(at("log/lost+found")).expect("makes folders");
    symlink("/etc", at("log/link")).expect("links");
    symlink("/etc/passwd", at("log/0000000000000009")).expect("links");
    nix::unistd::mkfifo(&at("log/fifo"), nix::sys::stat::Mode::S_IRWXU).expect("makes a pipe");
    fs::write(at("log").join(OsStr::from_bytes(b"\xff")), "x").expect("writes");
    let store = open(place.path()).await.expect("opens");
    store.put("log/1", payload(b"x")).await.expect("put");
    let begun = store.upload("log/2", 5).await.expect("begun");
    begun.part(1, payload(b"x")).await.expect("sent");

    let listed = store.list("", None).await.expect("listed");
    let names: Vec<&str> = listed.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["log/1"]);
    for odd in [
        "log/0000000000000009",
        "log/fifo",
        "log/link",
        "log/lost+found",
    ] {
        let found = store.get(odd).await;
        assert!(
            matches!(found, Err(StoreError::NotFound { .. })),
            "{odd}: {found:?}"
        );
    }
    // A file of somebody else's in the way of a folder.
    fs::write(at("data"), "x").expect("writes");
    let put = store.put("data/1/1", payload(b"x")).await;
    let says = "Not a directory (os error 20); something else lies";
    assert_eq!(kind_of(put, says), ErrorKind::Unsupported);
    assert_eq!(fs::read(at("data")).expect("reads"), b"x");
}

#[tokio::test]
async fn objects_are_for_their_owner_alone() {
    let place = tempfile::tempdir().expect("a folder");
    let store = open(place.path()).await.expect("opens");
    store.put("data/1/1", payload(b"x")).await.expect("put");
    store
        .put_new("log/1", Bytes::from_static(b"x"))
        .await
        .expect("put");
    for (name, mode) in [
        ("data", 0o700),
        ("data/1", 0o700),
        ("data/1/1", 0o600),
        ("log/1", 0o600),
        (".uploads", 0o700),
    ] {
        let about = fs::metadata(place.path().join(name)).expect("is there");
        assert_eq!(about.permissions().mode() & 0o777, mode, "{name}");
    }
}

#[tokio::test]
async fn a_repository_does_not_lie_among_the_objects_of_another() {
    let place = tempfile::tempdir().expect("a folder");
    let (inner, beside) = (
        place.path().join("data/repo"),
        place.path().join("mine/repo"),
    );
    for path in [&inner, &beside] {
        fs::create_dir_all(path).expect("makes folders");
    }
    // Folders of people may be called as they like.
    open(&inner).await.expect("opens");
    fs::write(place.path().join("repository"), "x").expect("writes");
    let says = format!(
        "it lies in the repository at {}, which keeps",
        place.path().display()
    );
    assert_eq!(kind_of(open(&inner).await, &says), ErrorKind::Unsupported);
    open(&beside).await.expect("opens");
}

#[tokio::test]
async fn parts_that_are_not_those_of_the_object_are_refused_before_it_gets_its_name() {
    let place = tempfile::tempdir().expect("a folder");
    let store = open(place.path()).await.expect("opens");
    let upload = store.upload("data/1/1", 4).await.expect("begun");
    for (number, bytes) in [(0, b"abcd".as_slice()), (-1, b"abcd"), (1, b"abcde")] {
        let sent = upload.part(number, payload(bytes)).await;
        assert!(matches!(sent, Err(StoreError::Refused { .. })), "{number}");
    }
    upload.part(1, payload(b"abcd")).await.expect("sent");
    upload.part(3, payload(b"ab")).await.expect("sent");
    assert!(upload.complete(10).await.is_err(), "the second is missing");
    upload.part(2, payload(b"abc")).await.expect("sent");
    assert!(upload.complete(9).await.is_err(), "the second is short");
    upload.part(2, payload(b"efgh")).await.expect("sent");
    assert!(upload.complete(9).await.is_err());
    upload.complete(10).await.expect("whole");
    assert_eq!(
        &store.get("data/1/1").await.expect("got")[..],
        b"abcdefghab"
    );
}
