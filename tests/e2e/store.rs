//! The S3 endpoint in the test's process, and the content of volumes.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
};

use nix::{
    errno::Errno,
    unistd::{Whence, lseek},
};
use ringback_endpoint::{Backing, Endpoint, Options};
use ringback_proto::lvmd::data_source::S3;

use crate::harness::MIB;

/// The bucket that every store has.
pub(crate) const BUCKET: &str = "backups";

/// An endpoint with a bucket.
pub(crate) struct Store {
    pub(crate) endpoint: Endpoint,
}

impl Store {
    pub(crate) async fn start() -> Self {
        Self::with(Options::default()).await
    }

    /// Keeps its objects as files below `folder`.
    pub(crate) async fn in_folder(folder: &Path) -> Self {
        Self::with(Options {
            backing: Backing::Folder(folder.to_owned()),
            ..Options::default()
        })
        .await
    }

    /// Has these buckets, too.
    pub(crate) async fn with_buckets(buckets: &[&str]) -> Self {
        Self::with(Options {
            buckets: buckets.iter().map(ToString::to_string).collect(),
            ..Options::default()
        })
        .await
    }

    pub(crate) async fn with(mut options: Options) -> Self {
        options.buckets.push(BUCKET.to_owned());
        let endpoint = Endpoint::start(options).await.expect("the endpoint starts");
        Self { endpoint }
    }

    /// How to reach the backup `name` in the repository that most tests use.
    pub(crate) fn s3(&self, name: &str) -> S3 {
        self.at(&format!("s3://{BUCKET}/team/{name}"))
    }

    /// How to reach this path.
    pub(crate) fn at(&self, path: &str) -> S3 {
        S3 {
            path: path.to_owned(),
            endpoint: self.endpoint.url(),
            verify_tls: true,
            access_key_id: self.endpoint.access_key_id().to_owned(),
            secret_access_key: self.endpoint.secret_access_key().to_owned(),
            ..S3::default()
        }
    }

    /// Requests that were let in or turned away so far.
    pub(crate) fn requests(&self) -> u64 {
        let counters = self.endpoint.counters();
        let all = counters.operations.values();
        counters.refused + all.map(|operation| operation.requests).sum::<u64>()
    }
}

/// Writes `len` bytes that no other seed gives to the volume, where nothing was before.
pub(crate) fn fill(volume: &str, offset: u64, len: u64, seed: &str) {
    let mut content = blake3::Hasher::new().update(seed.as_bytes()).finalize_xof();
    let file = File::options()
        .write(true)
        .open(volume)
        .expect("opens the volume");
    let mut block = vec![0; usize::try_from(len.min(MIB)).expect("a length")];
    for at in (offset..offset + len).step_by(block.len()) {
        content.fill(&mut block);
        file.write_all_at(&block, at).expect("writes to the volume");
    }
}

/// Asserts that `restored` begins with all bytes of `original`, and reads as zeros behind them.
#[track_caller]
pub(crate) fn assert_same_content(original: &str, restored: &str) {
    let (left, right) = (open(original), open(restored));
    let (left_bytes, right_bytes) = (len(&left), len(&right));
    assert!(
        left_bytes <= right_bytes,
        "{left_bytes} and {right_bytes} bytes"
    );
    let mut at = 0;
    while let Some(data) = [&left, &right]
        .into_iter()
        .filter_map(|it| next_data(it, at))
        .min()
    {
        let (ours, theirs) = (block(&left, data), block(&right, data));
        assert!(
            ours == theirs,
            "{restored} differs within 1 MiB from byte {data}"
        );
        at = data + MIB;
    }
}

/// Bytes of a file that have blocks.
pub(crate) fn allocated_bytes(path: &str) -> u64 {
    fs::metadata(path).expect("is there").blocks() * 512
}

fn open(path: &str) -> File {
    File::open(path).expect("opens the volume")
}

fn len(file: &File) -> u64 {
    file.metadata().expect("has a length").len()
}

/// Where data begins at or behind `at`; what lies between reads as zeros.
fn next_data(file: &File, at: u64) -> Option<u64> {
    let at = i64::try_from(at).expect("an offset");
    match lseek(file, at, Whence::SeekData) {
        Ok(data) => Some(data.unsigned_abs()),
        Err(Errno::ENXIO) => None,
        Err(error) => panic!("cannot look for data: {error}"),
    }
}

/// The block of a file at `at`; zeros behind its end.
fn block(file: &File, at: u64) -> Vec<u8> {
    let mut block = vec![0; usize::try_from(MIB).expect("a length")];
    let mut filled = 0;
    while filled < block.len() {
        match file.read_at(&mut block[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) => panic!("cannot read the volume: {error}"),
        }
    }
    block
}
