//! What must come of damage: it is told, by the name of the object, and no wrong byte is written.

use std::{
    fs::File,
    os::{fd::AsRawFd, unix::fs::FileExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::sys::memfd::{MFdFlags, memfd_create};
use tokio::time::timeout;

use super::{
    beds::{Bed, Objects, settings},
    changes::Damage,
};
use crate::{
    chunk::is_zero,
    crypt::Passphrase,
    device::open_for_read,
    error::{Error, ErrorKind},
    format::name::REPOSITORY,
    log::Log,
    repository::Repository,
    restore::{self, Backup},
    stop::Stop,
    store::{StoreError, fake::FakeStore},
    verify::{self, Counts, Depth, Finding},
};

/// Nothing of this takes a second; what does not end is a failure, too.
const PATIENCE: Duration = Duration::from_mins(1);
const BLOCK: usize = 4096;

/// Which backups are restored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Restores {
    None,
    All,
}

/// What came of damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judged {
    Noticed,
    Harmless,
}

/// What a volume holds: its size, and a hash of all blocks that are not zero, with their offsets.
pub(super) type Content = (u64, blake3::Hash);

/// Does damage to a copy of the bed.
pub(super) async fn hold(bed: &Bed, damage: &Damage, depth: Depth, restores: Restores) -> Judged {
    let judging = judge(bed, damage, depth, restores);
    timeout(PATIENCE, judging).await.expect("it ends")
}

async fn judge(bed: &Bed, damage: &Damage, depth: Depth, restores: Restores) -> Judged {
    let store = store_of(damage.apply(&bed.objects));
    let (repository, log) = match open(&store, bed.passphrase.as_ref()).await {
        Ok(opened) => opened,
        // Who cannot open it restores nothing.
        Err(error) => {
            check_error(bed, damage, &error);
            return Judged::Noticed;
        }
    };
    let judged = match verified(&repository, &log, depth).await {
        Err(error) => {
            check_error(bed, damage, &error);
            Judged::Noticed
        }
        Ok(findings) if findings.is_empty() => {
            let may_be = bed.means_nothing(damage) || bed.is_missed(damage);
            assert!(may_be, "it goes unnoticed");
            Judged::Harmless
        }
        Ok(findings) => {
            for (object, _) in &damage.changes {
                let is_named = findings.iter().any(|it| it.object == *object);
                let is_told = is_named || damage.is_for_others_to_tell();
                assert!(is_told, "nothing is said of {object}: {findings:?}");
            }
            Judged::Noticed
        }
    };
    if restores == Restores::None {
        return judged;
    }
    for (name, whole) in &bed.contents {
        match restored(&repository, &log, name).await {
            Ok(content) => assert_eq!(content, *whole, "wrong bytes are restored from {name}"),
            Err(error) => {
                assert_ne!(error.kind(), ErrorKind::Local, "a task panicked: {error}");
                let may_be = judged == Judged::Noticed || bed.is_missed(damage);
                assert!(may_be, "verification found nothing, and {name}: {error}");
            }
        }
    }
    judged
}

/// An error speaks of what was changed, and no task has panicked.
fn check_error(bed: &Bed, damage: &Damage, error: &Error) {
    assert_ne!(error.kind(), ErrorKind::Local, "a task panicked: {error}");
    let named = objects_of(error);
    let is_named = damage.changes.iter().any(|(it, _)| named.contains(it));
    let is_told = is_named || damage.is_for_others_to_tell() || bed.is_missed(damage);
    assert!(is_told, "the error names another object: {error}");
}

pub(super) fn store_of(objects: Objects) -> Arc<FakeStore> {
    let store = Arc::new(FakeStore::new());
    *store.objects() = objects;
    store
}

pub(super) async fn open(
    store: &Arc<FakeStore>,
    passphrase: Option<&Passphrase>,
) -> Result<(Repository, Log), Error> {
    let repository = Repository::open(Arc::clone(store) as _, passphrase).await?;
    let log = Log::replay(&repository).await?;
    Ok((repository, log))
}

pub(super) async fn verified(
    repository: &Repository,
    log: &Log,
    depth: Depth,
) -> Result<Vec<Finding>, Error> {
    let (mut findings, counts) = (Vec::new(), Counts::default());
    let mut found = |finding| findings.push(finding);
    verify::run(repository, log.commits(), depth, &counts, &mut found).await?;
    Ok(findings)
}

/// Restores into memory; what the volume holds then.
pub(super) async fn restored(
    repository: &Repository,
    log: &Log,
    name: &str,
) -> Result<Content, Error> {
    let committed = log.find(name).ok_or_else(|| Error::NoBackup {
        backup: name.to_owned(),
        repository: repository.store().describe(),
    })?;
    let backup = Backup::read(repository, committed).await?;
    let file = File::from(memfd_create("volume", MFdFlags::MFD_CLOEXEC).expect("made"));
    file.set_len(backup.volume_bytes()).expect("grows");
    let target = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let (progress, stop) = (Arc::default(), Stop::default());
    let settings = settings("none");
    restore::run(repository, &backup, &target, &settings, &progress, &stop).await?;
    Ok(content_of(&target))
}

/// What the volume at `path` holds.
pub(super) fn content_of(path: &Path) -> Content {
    let volume = open_for_read(path, false).expect("opens");
    let mut hasher = blake3::Hasher::new();
    for extent in volume.data_extents().expect("asked") {
        let len = usize::try_from(extent.end - extent.start).expect("small");
        let mut bytes = vec![0; len];
        volume
            .file
            .read_exact_at(&mut bytes, extent.start)
            .expect("reads");
        for (at, block) in bytes.chunks(BLOCK).enumerate() {
            if !is_zero(block) {
                hasher.update(&(extent.start + (at * BLOCK) as u64).to_le_bytes());
                hasher.update(block);
            }
        }
    }
    (volume.size_bytes, hasher.finalize())
}

/// The objects that an error speaks of.
fn objects_of(error: &Error) -> Vec<String> {
    match error {
        Error::Object { object, .. }
        | Error::Missing { object, .. }
        | Error::Chunk { object, .. }
        | Error::Store(StoreError::NotFound { object } | StoreError::TooShort { object }) => {
            vec![object.clone()]
        }
        Error::NoRepository { .. } => vec![REPOSITORY.to_owned()],
        Error::WrongPassphrase { damaged, .. } => damaged.clone(),
        _ => Vec::new(),
    }
}
