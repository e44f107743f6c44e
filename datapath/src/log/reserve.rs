//! What the log is read by on the day on which its highest checkpoint is lost: the one below, and
//! all entries behind that. Nobody reads them while the highest is whole, so verification does.

use futures::{StreamExt, stream};

use super::{
    FETCHES, Log,
    checkpoint::{self, Scope},
    history::History,
    truncate,
};
use crate::{
    error::{Error, ErrorKind},
    format::{
        FormatError,
        name::{CHECKPOINT, Slot},
    },
    repository::Repository,
    store::StoreError,
};

/// How the log could be read without its highest checkpoint.
pub(crate) struct Reserve {
    /// What is not as it should be, the highest checkpoint included.
    pub(crate) flaws: Vec<LogFlaw>,
    /// Whether it could, whatever else is damaged.
    suffices: bool,
}

/// A checkpoint or an entry that is not as it should be.
#[derive(Debug)]
pub(crate) struct LogFlaw {
    pub(crate) object: String,
    pub(crate) error: Error,
    /// Whether it is rot: something else says what it said. If not, it contradicts what is known, or is
    /// of a newer version, and who is right only people can tell.
    pub(crate) is_rot: bool,
}

impl LogFlaw {
    /// Takes what is wrong with an object out of the errors.
    fn of(object: String, error: Error) -> Result<Self, Error> {
        let is_newer = matches!(
            error,
            Error::Object {
                source: FormatError::Newer { .. },
                ..
            }
        );
        match error.object() {
            None => Err(error),
            Some(_) => Ok(Self {
                object,
                error,
                is_rot: !is_newer,
            }),
        }
    }

    fn contradiction(object: String, error: Error) -> Self {
        Self {
            object,
            error,
            is_rot: false,
        }
    }
}

impl Log {
    /// Looks at all of it. Without flaws any one of the checkpoints may be lost, and all backups are
    /// still found.
    pub(crate) async fn reserve(repository: &Repository) -> Result<Reserve, Error> {
        loop {
            let slots = checkpoint::slots(repository).await?;
            let log = Self::replay(repository).await?;
            let reserve = log.reserve_by(&slots).await?;
            // Somebody else may have written a checkpoint and removed what is below it.
            if reserve.flaws.is_empty() || checkpoint::slots(repository).await? == slots {
                return Ok(reserve);
            }
        }
    }

    async fn reserve_by(&self, slots: &[Slot]) -> Result<Reserve, Error> {
        let (mut flaws, mut whole) = (Vec::new(), Vec::new());
        for &slot in slots.iter().rev() {
            match checkpoint::read(&self.repository, slot, Scope::Whole).await {
                Ok(history) => {
                    let compared = truncate::compare(&self.repository, &self.history, &history);
                    let contradicts = |error| LogFlaw::contradiction(slot.checkpoint(), error);
                    flaws.extend(compared.err().map(contradicts));
                    whole.push(history);
                }
                Err(error) => flaws.push(LogFlaw::of(slot.checkpoint(), error)?),
            }
            if whole.len() == 2 {
                break;
            }
        }
        if whole.is_empty() {
            // The log was read from its first entry on: one way, and without checkpoints the only one.
            let suffices = flaws.is_empty();
            return Ok(Reserve { flaws, suffices });
        }
        let below = whole.into_iter().nth(1).unwrap_or_default();
        let behind = self.flaw_behind(below).await?;
        let suffices = behind.is_none();
        if flaws.is_empty() {
            flaws.extend(behind);
        } // Entries below a damaged checkpoint may have been removed while it was whole.
        Ok(Reserve { flaws, suffices })
    }

    /// Reads the entries from there to the head, which must come to what is known.
    async fn flaw_behind(&self, below: History) -> Result<Option<LogFlaw>, Error> {
        let slots = below.head.0 + 1..=self.history.head.0;
        let mut log = Self {
            repository: self.repository.clone(),
            history: below,
        };
        let mut fetched = stream::iter(slots)
            .map(|slot| {
                let object = Slot(slot).object();
                async move { (Slot(slot), self.repository.store().get(&object).await) }
            })
            .buffered(FETCHES);
        while let Some((slot, bytes)) = fetched.next().await {
            let taken = match bytes {
                Ok(bytes) => log.take_up(slot, bytes).await.map(drop),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = taken {
                return LogFlaw::of(slot.object(), error).map(Some);
            }
        }
        if log.history == self.history {
            return Ok(None);
        }
        let head = self.history.head.object();
        let differs = "the entries up to it do not say what a checkpoint says";
        let error = self.repository.refuse(&head, FormatError::Damaged(differs));
        Ok(Some(LogFlaw::contradiction(head, error)))
    }

    /// Removes checkpoints that rotted, as far as that is allowed, behind another one where it is
    /// needed; how many entries it took. Where something contradicts something, nothing is done.
    pub(crate) async fn renew(&mut self, reserve: &Reserve) -> Result<usize, Error> {
        if reserve.flaws.iter().any(|flaw| !flaw.is_rot) {
            return Ok(0);
        }
        let mut entries = 0;
        if !reserve.suffices {
            let slots = checkpoint::slots(&self.repository).await?;
            if slots.last() >= Some(&self.history.head) {
                // An entry that says nothing, for a slot of its own.
                self.mark_nothing().await?;
                entries += 1;
            }
            checkpoint::write(&self.repository, &self.history).await?;
            let head = self.history.head;
            let written = checkpoint::read(&self.repository, head, Scope::Whole).await?;
            truncate::compare(&self.repository, &self.history, &written)?;
        }
        let objects = reserve.flaws.iter().map(|flaw| &flaw.object);
        for checkpoint in objects.filter(|it| it.starts_with(CHECKPOINT)) {
            match self.repository.store().delete(checkpoint).await {
                Ok(()) | Err(StoreError::Denied { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        match truncate::truncate(&self.repository, &self.history).await {
            // An entry that is damaged. It goes with those behind it, one checkpoint later.
            Err(error) if error.kind() == ErrorKind::Damaged => {}
            truncated => drop(truncated?),
        }
        Ok(entries)
    }
}
