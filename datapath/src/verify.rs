//! Verification: whether what the backups of a repository need is there, and is what it should be.
//!
//! First the key slots, whosever passphrases they hold. Then each backup by itself: its root, inner
//! nodes, index segments, and whether its ref set names the packs that its tree refers to
//! ([`survey`]); and what the log would be read by without its highest checkpoint. Then the packs,
//! each once however many backups need it: that it is there, its footer, and, for as many as asked
//! for, every chunk in it ([`packs`]). At last the leaves of every tree, which say what damage means for which backup
//! ([`leaves`]), and the other copies of what is damaged ([`copies`]).
//!
//! What is damaged is a [`Finding`] and ends nothing. An error is something else: the store does
//! not answer, or denies. Memory is bounded by a cache of footers, a set of leaves already found
//! well, 24 bytes per pack of the repository, and some 100 bytes per chunk that is damaged.

mod copies;
mod leaves;
mod packs;
mod survey;

use std::{
    collections::BTreeSet,
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use futures::{StreamExt, TryStreamExt, stream};

use crate::{
    error::Error,
    format::{
        name::{ObjectKind, PackName, random},
        tree::NodeRef,
    },
    keys,
    log::{Committed, Log, LogFlaw},
    repository::Repository,
    restore::Backup,
    store::StoreError,
};

use self::{leaves::LeafCheck, packs::Packs, survey::survey};

/// Backups surveyed at once.
const SURVEYS: usize = 4;

/// How much is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    /// Of so many percent of the packs every chunk is read and hashed, chosen anew each time; 0:
    /// only metadata is read.
    data_percent: u8,
}

impl Depth {
    /// Metadata alone.
    pub const METADATA: Self = Self { data_percent: 0 };

    /// Metadata, and the chunks of so many percent of the packs, 1 to 100.
    pub const fn with_data(percent: u8) -> Self {
        Self {
            data_percent: if percent > 100 { 100 } else { percent },
        }
    }

    /// Which of the packs to read.
    fn sample(self, packs: &BTreeSet<PackName>) -> BTreeSet<PackName> {
        let wanted = (packs.len() * usize::from(self.data_percent)).div_ceil(100);
        let seed: [u8; 32] = random();
        let mut drawn: Vec<_> = packs
            .iter()
            .map(|pack| (blake3::keyed_hash(&seed, pack.as_bytes()), *pack))
            .collect();
        drawn.sort_by_key(|(ticket, _)| *ticket.as_bytes());
        drawn
            .into_iter()
            .take(wanted)
            .map(|(_, pack)| pack)
            .collect()
    }
}

/// Something that is not as it should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Finding {
    /// The backup that suffers; `None`: no backup that was looked at does.
    pub backup: Option<String>,
    /// Its volume, as its requester named it.
    pub volume: Option<String>,
    /// Which bytes of the volume cannot be restored; `None`: none are known to be lost.
    pub bytes: Option<std::ops::Range<u64>>,
    /// The object that is damaged, by its name in the repository.
    pub object: String,
    /// What is wrong with it, a predicate.
    pub reason: String,
    /// Another object, in which these bytes are whole: a restore takes them from there.
    pub healed_by: Option<String>,
    /// The data pack, if chunks of it are damaged.
    pub(crate) pack: Option<PackName>,
}

/// What damage comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Bytes of a volume cannot be restored.
    Lost,
    /// All can be restored, from another copy.
    Healed,
    /// No backup needs it to be restored.
    Harmless,
}

impl Finding {
    /// What it comes to.
    pub fn severity(&self) -> Severity {
        match (&self.bytes, &self.healed_by) {
            (None, _) => Severity::Harmless,
            (Some(_), None) => Severity::Lost,
            (Some(_), Some(_)) => Severity::Healed,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(backup), Some(volume)) = (&self.backup, &self.volume) {
            write!(f, "backup {backup:?} of volume {volume:?}")?;
            if let Some(bytes) = &self.bytes {
                let len = bytes.end - bytes.start;
                write!(f, " is damaged at byte {}, for {len} bytes", bytes.start)?;
            }
            f.write_str(": ")?;
        }
        write!(f, "object {} {}", self.object, self.reason)?;
        match &self.healed_by {
            Some(other) => write!(f, "; healed: another copy lies in {other}"),
            None => Ok(()),
        }
    }
}

/// What has been looked at so far; written by the verification, read by anybody.
#[derive(Debug, Default)]
pub struct Counts {
    backups: AtomicU64,
    packs: AtomicU64,
    packs_total: AtomicU64,
    leaves: AtomicU64,
    chunks_read: AtomicU64,
    bytes_read: AtomicU64,
}

impl Counts {
    /// Backups whose trees were followed to the leaves.
    pub fn backups(&self) -> u64 {
        self.backups.load(Ordering::Relaxed)
    }

    /// Packs looked at.
    pub fn packs(&self) -> u64 {
        self.packs.load(Ordering::Relaxed)
    }

    /// Packs there are to look at; 0 until known.
    pub fn packs_total(&self) -> u64 {
        self.packs_total.load(Ordering::Relaxed)
    }

    /// Tree leaves held against the packs.
    pub fn leaves(&self) -> u64 {
        self.leaves.load(Ordering::Relaxed)
    }

    /// Chunks read and hashed.
    pub fn chunks_read(&self) -> u64 {
        self.chunks_read.load(Ordering::Relaxed)
    }

    /// Their bytes as stored.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }
}

fn add(counter: &AtomicU64, number: u64) {
    counter.fetch_add(number, Ordering::Relaxed);
}

/// What a verification came by.
pub struct Seen {
    /// The data packs that the backups need.
    pub(crate) data_packs: BTreeSet<PackName>,
}

/// Verifies these backups of the repository; each finding goes to `found` as soon as it is whole.
pub async fn run(
    repository: &Repository,
    backups: &[Committed],
    depth: Depth,
    counts: &Counts,
    found: &mut (dyn FnMut(Finding) + Send),
) -> Result<Seen, Error> {
    check_keys(repository, found).await?;
    let log = &Log::replay(repository).await?;
    let mut opened: Vec<(&Committed, Backup)> = Vec::new();
    let (mut data, mut tree) = (BTreeSet::new(), BTreeSet::new());
    let mut surveys = stream::iter(backups)
        .map(|committed| async move {
            Ok::<_, Error>((committed, survey(repository, log, committed).await?))
        })
        .buffered(SURVEYS);
    while let Some((committed, survey)) = surveys.try_next().await? {
        survey.findings.into_iter().for_each(&mut *found);
        data.extend(survey.packs.data);
        tree.extend(survey.packs.tree);
        opened.extend(survey.backup.map(|backup| (committed, backup)));
    }

    survey::check_later_segments(repository, log, found).await?;
    check_log(repository, found).await?;

    let total = (data.len() + tree.len()) as u64;
    counts.packs_total.store(total, Ordering::Relaxed);
    let sample = depth.sample(&data);
    let mut packs = Packs::new(repository, counts, sample);
    packs.look_at_all(ObjectKind::TreePack, &tree).await?;
    packs.look_at_all(ObjectKind::DataPack, &data).await?;

    let mut check = LeafCheck::new(repository, log, packs, counts);
    for (committed, backup) in &opened {
        check.follow(committed, backup, found).await?;
        add(&counts.backups, 1);
    }
    check.into_rest().into_iter().for_each(found);
    Ok(Seen { data_packs: data })
}

/// A key slot that cannot be read locks its passphrase out, and the data opens by the others.
async fn check_keys(
    repository: &Repository,
    found: &mut (dyn FnMut(Finding) + Send),
) -> Result<(), Error> {
    for error in keys::damaged(repository).await? {
        let Damage { object, reason } = Damage::named(error)?;
        found(Finding {
            backup: None,
            volume: None,
            bytes: None,
            object,
            reason: reason + "; its passphrase opens the repository no more",
            pack: None,
            healed_by: None,
        });
    }
    Ok(())
}

/// What the log would be read by if its highest checkpoint were lost, and that one.
async fn check_log(
    repository: &Repository,
    found: &mut (dyn FnMut(Finding) + Send),
) -> Result<(), Error> {
    let reserve = Log::reserve(repository).await?;
    for flaw in reserve.flaws {
        let LogFlaw {
            object,
            error,
            is_rot,
        } = flaw;
        let culprit = Damage::named(error)?;
        // Stores name objects with what stands before them.
        let reason = if culprit.object.ends_with(&object) {
            culprit.reason
        } else {
            format!("is of no use: object {} {}", culprit.object, culprit.reason)
        };
        let without = "; the backups are found without it";
        let reason = reason + if is_rot { without } else { "" };
        found(Damage { object, reason }.nobodys());
    }
    Ok(())
}

/// What is wrong with an object.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Damage {
    object: String,
    reason: String,
}

impl Damage {
    /// Takes what is damage to `object` out of the errors; others end the verification.
    fn of(object: String, error: Error) -> Result<Self, Error> {
        let reason = match error {
            Error::Object { source, .. } => source.to_string(),
            Error::Missing { .. } | Error::Store(StoreError::NotFound { .. }) => {
                "is missing".to_owned()
            }
            Error::Store(StoreError::TooShort { .. }) => "is cut off".to_owned(),
            Error::Store(StoreError::Unreadable { reason, .. }) => {
                format!("cannot be read: {reason}")
            }
            other => return Err(other),
        };
        Ok(Self { object, reason })
    }

    /// As [`Self::of`], for an error that names its object.
    fn named(error: Error) -> Result<Self, Error> {
        match error.object().map(str::to_owned) {
            Some(object) => Self::of(object, error),
            None => Err(error),
        }
    }

    fn of_node(node: &NodeRef, error: Error) -> Result<Self, Error> {
        Self::of(node.place.pack.object(ObjectKind::TreePack), error)
    }

    fn finding(self, committed: &Committed, bytes: Option<std::ops::Range<u64>>) -> Finding {
        Finding {
            backup: Some(committed.commit.name.clone()),
            volume: Some(committed.commit.volume_handle.clone()),
            bytes,
            ..self.nobodys()
        }
    }

    /// A finding that is no backup's.
    fn nobodys(self) -> Finding {
        Finding {
            object: self.object,
            reason: self.reason,
            ..Finding::default()
        }
    }
}

#[cfg(test)]
mod tests;
