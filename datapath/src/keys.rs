//! The key slots of an encrypted repository: which passphrases open it.
//!
//! Each slot holds the repository's keys under one passphrase. All slots are tried with one
//! stretching. What cannot be read, or is of another repository, is passed over: as long as one
//! slot is whole, its passphrase opens the repository.
//!
//! Ordering rule: a slot is durable before anything that needs it is: before `repository` when one
//! is made, before the old slot goes when a passphrase is changed. The last slot is never removed.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};
use ringback_proto::repository::{About, Repository as RepositoryMessage};

use crate::{
    crypt::{Keys, Passphrase, Stretched, Stretching},
    error::Error,
    format::{
        FormatError,
        key_slot::{KeySlot, key_check},
        name::{KEYS, REPOSITORY},
        object::RepositoryId,
    },
    repository::{Repository, is_worth_another_try, now_ms},
    store::{ObjectStore, StoreError},
};

pub use crate::format::key_slot::{NoSlotId, SlotId};

/// Slots fetched at once.
const FETCHES: usize = 16;
/// Longest slot, frame included. A label of the greatest length makes one of some 500 bytes.
const SLOT_BYTES_MAX: u64 = 4096;
/// Longest label, in bytes: it is for a line of a list.
const LABEL_BYTES_MAX: usize = 200;

/// Why key slots are left as they are.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The repository or its store.
    #[error(transparent)]
    Repository(#[from] Error),
    /// There are no keys to deal with.
    #[error("{repository} is not encrypted, so it has no keys")]
    NotEncrypted {
        /// Which.
        repository: String,
    },
    /// There is no such slot.
    #[error("{repository} has no key slot {slot}")]
    NoSlot {
        /// Which.
        slot: SlotId,
        /// Where.
        repository: String,
    },
    /// The new passphrase opens the repository already.
    #[error("this passphrase is that of key slot {slot} already; choose another")]
    Taken {
        /// Its slot.
        slot: SlotId,
    },
    /// Without it nobody could open the repository any more.
    #[error(
        "key slot {slot} is the last; without it nobody could read the repository any more. Add \
         another first, or change this one's passphrase"
    )]
    Last {
        /// Which.
        slot: SlotId,
    },
    /// It is that of the passphrase which was given.
    #[error(
        "key slot {slot} is that of the passphrase given now; removed, that passphrase opens \
         nothing any more"
    )]
    InUse {
        /// Which.
        slot: SlotId,
    },
    /// The label does not fit into a list.
    #[error("the label has {bytes} bytes; it should have at most {LABEL_BYTES_MAX}")]
    Label {
        /// Its length.
        bytes: usize,
    },
}

/// A key slot as people are shown it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotInfo {
    /// Its name.
    pub id: SlotId,
    /// What it is called; `None`: it is damaged, or was not made with this repository's keys, and
    /// opens nothing.
    pub about: Option<Labelled>,
    /// Whether it is that of the passphrase which was given.
    pub is_own: bool,
}

/// What people know of a key slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labelled {
    /// What it is called; may be empty.
    pub label: String,
    /// When it was made, milliseconds since 1970 UTC.
    pub created_ms: u64,
}

/// What `repository` says of its keys.
#[derive(Debug, Clone)]
pub(crate) struct Lock {
    repository: RepositoryId,
    stretching: Stretching,
    message: RepositoryMessage,
}

/// The keys of a repository, and by which slot they came.
#[derive(Debug)]
pub(crate) struct Unlocked {
    lock: Lock,
    pub(crate) keys: Arc<Keys>,
    slot: SlotId,
}

impl Lock {
    /// Makes new keys for a repository that is about to be made: completes its message, and gives
    /// the slot that is to be stored before it.
    pub(crate) async fn make(
        repository: RepositoryId,
        message: &mut RepositoryMessage,
        passphrase: &Passphrase,
    ) -> Result<(Arc<Keys>, SlotId, Bytes), Error> {
        let (keys, stretching) = (Arc::new(Keys::random()), Stretching::new());
        message.stretching = Some(stretching.to_message());
        message.key_check = Bytes::copy_from_slice(&key_check(&keys, repository, message));
        let stretched = stretching.stretch(passphrase).await?;
        let (slot, about) = (SlotId::random(), about("first"));
        let bytes = KeySlot::encode(slot, repository, &keys, &stretched, &about);
        Ok((keys, slot, bytes))
    }

    /// Reads what the message says; `None`: it says nothing of keys.
    pub(crate) fn read(
        repository: RepositoryId,
        message: RepositoryMessage,
    ) -> Result<Option<Self>, FormatError> {
        match (&message.stretching, message.key_check.len()) {
            (None, 0) => Ok(None),
            (Some(stretching), 32) => Ok(Some(Self {
                repository,
                stretching: Stretching::from_message(stretching)?,
                message,
            })),
            _ => Err(FormatError::Damaged(
                "it has only a part of what encryption needs",
            )),
        }
    }

    /// The keys that the passphrase gives.
    pub(crate) async fn open(
        self,
        store: &Arc<dyn ObjectStore>,
        passphrase: &Passphrase,
    ) -> Result<Unlocked, Error> {
        let stretched = self.stretching.stretch(passphrase);
        let slots = fetch_all(store, self.repository);
        let (stretched, slots) = tokio::try_join!(stretched, slots)?;
        let mut misfit = false;
        for slot in &slots.whole {
            let Some(keys) = slot.open(&stretched) else {
                continue;
            };
            if key_check(&keys, self.repository, &self.message)[..] == self.message.key_check {
                return Ok(Unlocked {
                    slot: slot.id(),
                    keys: Arc::new(keys),
                    lock: self,
                });
            }
            misfit = true;
        }
        Err(slots.refusal(store, misfit))
    }
}

/// The slots below `keys/`.
struct Slots {
    whole: Vec<KeySlot>,
    /// Of those who made this repository at the same time and came second.
    foreign: Vec<SlotId>,
    damaged: Vec<(SlotId, Error)>,
}

impl Slots {
    /// Why none of them opens the repository.
    fn refusal(self, store: &Arc<dyn ObjectStore>, misfit: bool) -> Error {
        let repository = store.describe();
        let damaged = |object: String, reason| Error::Object {
            object,
            repository: repository.clone(),
            source: FormatError::Damaged(reason),
        };
        if misfit {
            // The slot is bound to the repository's id: nobody but who changed one of both made this.
            let reason = "the keys that the passphrase gives do not fit it";
            return damaged(REPOSITORY.to_owned(), reason);
        }
        let names = self.damaged.iter().map(|(id, _)| id.object()).collect();
        match self.damaged.into_iter().next() {
            None if self.whole.is_empty() => damaged(
                KEYS.to_owned(),
                "there is no key slot, so nobody can open it",
            ),
            Some((_, error)) if self.whole.is_empty() => error,
            _ => Error::WrongPassphrase {
                repository,
                damaged: names,
            },
        }
    }
}

async fn fetch_all(store: &Arc<dyn ObjectStore>, repository: RepositoryId) -> Result<Slots, Error> {
    let listed = store.list(KEYS, None).await?;
    let slots: Vec<(SlotId, u64)> = listed
        .iter()
        .filter_map(|listed| Some((SlotId::of_object(&listed.name)?, listed.bytes)))
        .collect();
    let mut fetched = stream::iter(slots)
        .map(|(id, bytes)| async move { (id, fetch(store, id, bytes).await) })
        .buffered(FETCHES);
    let mut slots = Slots {
        whole: Vec::new(),
        foreign: Vec::new(),
        damaged: Vec::new(),
    };
    while let Some((id, slot)) = fetched.next().await {
        match slot {
            Ok(Some(slot)) if slot.repository() == repository => slots.whole.push(slot),
            Ok(Some(slot)) => slots.foreign.push(slot.id()),
            // Removed a moment ago.
            Ok(None) => {}
            // A newer version's, too: its passphrase is not the only one.
            Err(error) if error.object().is_some() => {
                tracing::warn!(%error, "going on without a key slot");
                slots.damaged.push((id, error));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(slots)
}

/// What is wrong with key slots of a repository, whosever passphrase they hold.
pub(crate) async fn damaged(repository: &Repository) -> Result<Vec<Error>, Error> {
    let Some(unlocked) = repository.unlocked() else {
        return Ok(Vec::new());
    };
    let slots = fetch_all(repository.store(), unlocked.lock.repository).await?;
    let damaged = slots.damaged.into_iter();
    Ok(damaged.map(|(_, error)| error).collect())
}

async fn fetch(
    store: &Arc<dyn ObjectStore>,
    id: SlotId,
    bytes: u64,
) -> Result<Option<KeySlot>, Error> {
    let object = id.object();
    if bytes > SLOT_BYTES_MAX {
        // Slots stay in memory until one has opened, and anybody may have put something there.
        return Err(Error::Object {
            object,
            repository: store.describe(),
            source: FormatError::Damaged("it is over 4 KiB"),
        });
    }
    for tries in 1.. {
        let read = match store.get(&object).await {
            Ok(bytes) => KeySlot::decode(id, bytes).map_err(|source| Error::Object {
                object: object.clone(),
                repository: store.describe(),
                source,
            }),
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => Err(error.into()),
        };
        if !is_worth_another_try(&read, tries) {
            return read.map(Some);
        }
    }
    unreachable!("the last try's outcome is returned")
}

fn about(label: &str) -> About {
    About {
        label: label.to_owned(),
        created_ms: now_ms(),
    }
}

/// The key slots of a repository that was opened.
pub struct KeySlots<'a> {
    store: &'a Arc<dyn ObjectStore>,
    unlocked: &'a Unlocked,
}

impl<'a> KeySlots<'a> {
    /// Those of this repository.
    pub fn of(repository: &'a Repository) -> Result<Self, KeyError> {
        let store = repository.store();
        let not_encrypted = || KeyError::NotEncrypted {
            repository: store.describe(),
        };
        let unlocked = repository.unlocked().ok_or_else(not_encrypted)?;
        Ok(Self { store, unlocked })
    }

    /// All of them, in order of their ids.
    pub async fn list(&self) -> Result<Vec<SlotInfo>, KeyError> {
        let slots = fetch_all(self.store, self.unlocked.lock.repository).await?;
        let damaged = slots.damaged.into_iter().map(|(id, _)| id);
        let useless = damaged.chain(slots.foreign).map(|id| (id, None));
        let whole = slots.whole.iter().map(|slot| {
            let about = slot.about(&self.unlocked.keys);
            (slot.id(), about)
        });
        let mut infos: Vec<SlotInfo> = whole
            .chain(useless)
            .map(|(id, about)| SlotInfo {
                id,
                about: about.map(|about| Labelled {
                    label: about.label,
                    created_ms: about.created_ms,
                }),
                is_own: id == self.unlocked.slot,
            })
            .collect();
        infos.sort_by_key(|info| info.id);
        Ok(infos)
    }

    /// Lets another passphrase open the repository; its slot.
    pub async fn add(&self, passphrase: &Passphrase, label: &str) -> Result<SlotId, KeyError> {
        if label.len() > LABEL_BYTES_MAX {
            let bytes = label.len();
            return Err(KeyError::Label { bytes });
        }
        let Lock {
            repository,
            stretching,
            ..
        } = self.unlocked.lock;
        let stretched = stretching.stretch(passphrase).await?;
        let slots = fetch_all(self.store, repository).await?;
        let same = slots.whole.iter().find(|it| it.open(&stretched).is_some());
        if let Some(same) = same {
            return Err(KeyError::Taken { slot: same.id() });
        }
        Ok(self.store_slot(&stretched, &about(label)).await?)
    }

    /// Takes a slot out of use. With `even_own` that of the passphrase which was given, too.
    ///
    /// `passphrase` is the one that was given: should somebody else have removed its slot at the
    /// same time, it gets another, so that not all are gone.
    pub async fn remove(
        &self,
        slot: SlotId,
        passphrase: &Passphrase,
        even_own: bool,
    ) -> Result<(), KeyError> {
        let all = self.list().await?;
        if !all.iter().any(|it| it.id == slot) {
            let repository = self.store.describe();
            return Err(KeyError::NoSlot { slot, repository });
        }
        if !fitting(&all).any(|other| other != slot) {
            return Err(KeyError::Last { slot });
        }
        if slot == self.unlocked.slot && !even_own {
            return Err(KeyError::InUse { slot });
        }
        self.delete(slot).await?;
        if fitting(&self.list().await?).next().is_none() {
            let stretched = self.unlocked.lock.stretching.stretch(passphrase).await?;
            self.store_slot(&stretched, &about("kept")).await?;
        }
        Ok(())
    }

    /// Gives the slot in use another passphrase: a new slot in its place, with its label.
    pub async fn change(&self, passphrase: &Passphrase) -> Result<SlotId, KeyError> {
        let own = self.unlocked.slot;
        let all = self.list().await?;
        let label = all.into_iter().find(|it| it.id == own);
        let label = label.and_then(|it| it.about).map(|about| about.label);
        let new = self.add(passphrase, &label.unwrap_or_default()).await?;
        self.delete(own).await?;
        Ok(new)
    }

    async fn store_slot(&self, stretched: &Stretched, about: &About) -> Result<SlotId, Error> {
        let (id, repository) = (SlotId::random(), self.unlocked.lock.repository);
        let bytes = KeySlot::encode(id, repository, &self.unlocked.keys, stretched, about);
        self.store.put(&id.object(), bytes.into()).await?;
        Ok(id)
    }

    async fn delete(&self, slot: SlotId) -> Result<(), Error> {
        Ok(self.store.delete(&slot.object()).await?)
    }
}

/// Those that open the repository for who knows their passphrase.
fn fitting(slots: &[SlotInfo]) -> impl Iterator<Item = SlotId> {
    let fitting = slots.iter().filter(|it| it.about.is_some());
    fitting.map(|it| it.id)
}
