//! What can go wrong at the crate's edge, in few kinds, each of which tells the caller what to do
//! next.

use std::io;

use crate::{
    device::DeviceError,
    format::FormatError,
    store::{StoreError, folder::FolderTrouble},
};

/// What a caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Name something that exists.
    NotFound,
    /// Choose another name.
    NameTaken,
    /// Bring other credentials or another key.
    Denied,
    /// Try again later.
    Unavailable,
    /// The data is gone or changed; use another backup, or repair.
    Damaged,
    /// Make the volume larger.
    TooSmall,
    /// Make room, in the store or where the volume lies.
    Full,
    /// Use another version, store or way.
    Unsupported,
    /// Look at this host: its disks, its kernel.
    Local,
    /// Begin again: it was told to end.
    Stopped,
}

/// A failure of a backup, a restore or a look into a repository.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An object is not what it should be.
    #[error("the object {object} of {repository} {source}")]
    Object {
        /// Its name in the repository.
        object: String,
        /// The repository.
        repository: String,
        /// What is wrong with it.
        source: FormatError,
    },
    /// An object that must be there is missing.
    #[error("the object {object} of {repository} is missing: {why}")]
    Missing {
        /// Its name in the repository.
        object: String,
        /// The repository.
        repository: String,
        /// Why it must be there.
        why: String,
    },
    /// A chunk of a backup cannot be read.
    #[error(
        "backup {backup:?} of volume {volume:?} is damaged at byte {offset}: object {object} {reason}"
    )]
    Chunk {
        /// The backup.
        backup: String,
        /// Its volume.
        volume: String,
        /// Where in the volume.
        offset: u64,
        /// The pack.
        object: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no repository at this place.
    #[error("there is no repository in {repository}")]
    NoRepository {
        /// The place.
        repository: String,
    },
    /// It can be opened with a passphrase only.
    #[error(
        "{repository} is encrypted; give its passphrase (encryption_key of a request, \
         RINGBACK_PASSPHRASE or --passphrase-file of a command)"
    )]
    Encrypted {
        /// The place.
        repository: String,
    },
    /// A passphrase was given for what has none.
    #[error(
        "{repository} is not encrypted, and repositories are encrypted from their beginning or \
         never; leave the passphrase out, or choose another path"
    )]
    NotEncrypted {
        /// The place.
        repository: String,
    },
    /// The passphrase is none of the repository's.
    #[error(
        "the passphrase is none of those that open {repository}{}",
        or_damaged(damaged)
    )]
    WrongPassphrase {
        /// The place.
        repository: String,
        /// Key slots that cannot be read; the passphrase may be that of one of them.
        damaged: Vec<String>,
    },
    /// There is no such backup.
    #[error("there is no backup {backup:?} in {repository}")]
    NoBackup {
        /// Its name.
        backup: String,
        /// The repository.
        repository: String,
    },
    /// The name belongs to another backup.
    #[error("the name {backup:?} in {repository} is taken by a backup of {by}")]
    NameTaken {
        /// The name.
        backup: String,
        /// The repository.
        repository: String,
        /// What the other backup holds.
        by: String,
    },
    /// The volume cannot hold the backup.
    #[error(
        "the volume has {volume_bytes} bytes, and the backup {backup_bytes}; it should be at least as \
         large"
    )]
    TooSmall {
        /// The volume's size.
        volume_bytes: u64,
        /// The backup's size.
        backup_bytes: u64,
    },
    /// The store cannot be used for repositories.
    #[error("{store} cannot hold a repository: {reason}")]
    UnsuitableStore {
        /// Which.
        store: String,
        /// Why not.
        reason: &'static str,
    },
    /// A backup's memory is too little for the compression that it is to use.
    #[error(
        "compressing chunks of {chunk_kib} KiB with {compression} takes {needed_mib} MiB, and a backup \
         has {buffers_mib} MiB of buffers; give it more memory, or choose zstd-9 or lighter"
    )]
    TooLittleMemory {
        /// The compression's name.
        compression: String,
        /// The repository's chunks.
        chunk_kib: usize,
        /// What would do.
        needed_mib: usize,
        /// What there is.
        buffers_mib: usize,
    },
    /// A volume cannot be opened or inspected.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Reading or writing a volume failed.
    #[error("cannot {what} byte {offset} of the volume: {source}")]
    Io {
        /// `read` or `write`.
        what: &'static str,
        /// Where.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The volume became shorter while it was read.
    #[error(
        "the volume ends before byte {offset}, which it had when the backup began: it was shrunk \
         meanwhile"
    )]
    Shrunk {
        /// What could not be read any more.
        offset: u64,
    },
    /// The volume did not hold still, so that what was read may be wrong; the sentence says why.
    #[error("{0}")]
    Moved(String),
    /// It was told to end before its work was done.
    #[error("stopped before the end")]
    Stopped,
    /// Buffers, threads or a flush failed.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

fn or_damaged(slots: &[String]) -> String {
    if slots.is_empty() {
        return String::new();
    }
    format!(
        "; but it may be that of a damaged key slot: {}",
        slots.join(", ")
    )
}

impl Error {
    /// The object that cannot be used, while others may be: it is missing, damaged, or of a version that is
    /// not known. `None`: it is about something else.
    pub(crate) fn object(&self) -> Option<&str> {
        match self {
            Self::Object { object, .. }
            | Self::Missing { object, .. }
            | Self::Store(
                StoreError::NotFound { object }
                | StoreError::TooShort { object }
                | StoreError::Unreadable { object, .. },
            ) => Some(object),
            _ => None,
        }
    }

    /// For `map_err`: a read of the volume at `offset` failed.
    pub(crate) fn of_read(offset: u64) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::UnexpectedEof => Self::Shrunk { offset },
            _ => Self::Io {
                what: "read",
                offset,
                source,
            },
        }
    }

    /// For `map_err`: a write to the volume at `offset` failed.
    pub(crate) fn of_write(offset: u64) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            what: "write",
            offset,
            source,
        }
    }

    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(error) => match error {
                StoreError::NotFound { .. }
                | StoreError::TooShort { .. }
                | StoreError::Unreadable { .. } => ErrorKind::Damaged,
                StoreError::NoBucket { .. } => ErrorKind::NotFound,
                StoreError::Denied { .. } | StoreError::NoCredentials { .. } => ErrorKind::Denied,
                StoreError::Unreachable { .. } => ErrorKind::Unavailable,
                StoreError::Refused { .. } => ErrorKind::Unsupported,
                StoreError::Folder(error) => match error.trouble() {
                    FolderTrouble::Absent => ErrorKind::NotFound,
                    FolderTrouble::Denied => ErrorKind::Denied,
                    FolderTrouble::Full => ErrorKind::Full,
                    FolderTrouble::Silent => ErrorKind::Unavailable,
                    FolderTrouble::Broken => ErrorKind::Local,
                    FolderTrouble::Unsuitable => ErrorKind::Unsupported,
                },
            },
            Self::Object { source, .. } => match source {
                FormatError::Foreign | FormatError::Newer { .. } => ErrorKind::Unsupported,
                FormatError::Misplaced(_) | FormatError::Damaged(_) => ErrorKind::Damaged,
            },
            Self::Missing { .. } | Self::Chunk { .. } => ErrorKind::Damaged,
            Self::Encrypted { .. } | Self::NotEncrypted { .. } | Self::WrongPassphrase { .. } => {
                ErrorKind::Denied
            }
            Self::NoRepository { .. } | Self::NoBackup { .. } => ErrorKind::NotFound,
            Self::NameTaken { .. } => ErrorKind::NameTaken,
            Self::TooSmall { .. } => ErrorKind::TooSmall,
            Self::UnsuitableStore { .. } | Self::TooLittleMemory { .. } => ErrorKind::Unsupported,
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                ErrorKind::Full
            }
            Self::Device(_)
            | Self::Io { .. }
            | Self::Shrunk { .. }
            | Self::Moved(_)
            | Self::System { .. } => ErrorKind::Local,
            Self::Stopped => ErrorKind::Stopped,
        }
    }
}
