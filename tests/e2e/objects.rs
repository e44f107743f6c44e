//! A store whose objects are files that a test can look at, change and lose.

use std::{
    fs,
    path::{Path, PathBuf},
};

use ringback_endpoint::{Backing, Options};
use tempfile::TempDir;

use crate::store::{BUCKET, Store};

/// Magic at the end of the endpoint's files, the object's length, and the attributes' before it.
const TRAILER_BYTES: usize = 8 + 8 + 4;

/// The folder of a store.
pub(crate) struct Objects(TempDir);

/// An object's file as it was before it was changed.
pub(crate) struct Whole {
    file: PathBuf,
    bytes: Vec<u8>,
}

impl Whole {
    pub(crate) fn put_back(self) {
        fs::write(self.file, self.bytes).expect("writes the object");
    }
}

impl Objects {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    /// A store of them.
    pub(crate) async fn store(&self) -> Store {
        Store::in_folder(self.0.path()).await
    }

    /// The store as another process would find it, with what the files are now. Its address and
    /// credentials are others.
    pub(crate) async fn reopened(&self, store: Store) -> Store {
        let options = Options {
            access_key_id: Some(store.endpoint.access_key_id().to_owned()),
            secret_access_key: Some(store.endpoint.secret_access_key().to_owned()),
            backing: Backing::Folder(self.0.path().to_owned()),
            ..Options::default()
        };
        store.endpoint.shutdown().await;
        Store::with(options).await
    }

    /// The files of the bucket's objects, by name.
    pub(crate) fn names(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.0.path().join(BUCKET)).expect("lists the bucket");
        let mut names: Vec<PathBuf> = entries
            .map(|entry| entry.expect("has an entry").path())
            .collect();
        names.sort();
        names
    }

    /// Changes the first object whose name in the repository begins so.
    pub(crate) fn change(&self, kind: &str, change: fn(&mut Vec<u8>)) -> Whole {
        let file = self.of_kind(kind).remove(0);
        let bytes = fs::read(&file).expect("reads the object");
        fs::write(&file, changed(&bytes, change)).expect("writes the object");
        Whole { file, bytes }
    }

    /// The files of the objects whose names in the repository begin so, of which there are some.
    pub(crate) fn of_kind(&self, kind: &str) -> Vec<PathBuf> {
        let prefix = format!("team/{kind}").replace('/', "%2F");
        let is_kind = |path: &PathBuf| {
            let name = path.file_name().expect("has a name").to_string_lossy();
            name.starts_with(&prefix)
        };
        let found: Vec<PathBuf> = self.names().into_iter().filter(is_kind).collect();
        assert!(!found.is_empty(), "no object is a {kind}");
        found
    }
}

/// Length of the object in a file of the endpoint.
pub(crate) fn object_bytes(file: &Path) -> u64 {
    parts(&fs::read(file).expect("reads the object")).0.len() as u64
}

/// An endpoint's file: the object, its attributes, and the trailer.
fn parts(file: &[u8]) -> (&[u8], &[u8], &[u8]) {
    let (body, trailer) = file.split_at(file.len() - TRAILER_BYTES);
    assert_eq!(&trailer[12..], b"rbobject");
    let object_bytes = u64::from_le_bytes(trailer[4..12].try_into().expect("eight bytes"));
    let (object, attributes) = body.split_at(usize::try_from(object_bytes).expect("small"));
    (object, attributes, trailer)
}

/// The endpoint's file of the changed object.
fn changed(file: &[u8], change: fn(&mut Vec<u8>)) -> Vec<u8> {
    let (object, attributes, trailer) = parts(file);
    let mut object = object.to_vec();
    change(&mut object);
    let bytes = object.len() as u64;
    object.extend_from_slice(attributes);
    object.extend_from_slice(&trailer[..4]);
    object.extend_from_slice(&bytes.to_le_bytes());
    object.extend_from_slice(&trailer[12..]);
    object
}
