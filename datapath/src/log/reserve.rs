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
    store::StoreError,
};

/// A checkpoint or an entry that is of no use.
#[derive(Debug)]
pub(crate) struct Flaw {
    pub(crate) object: String,
    pub(crate) error: Error,
}

impl Flaw {
    /// Takes what is damage out of the errors.
    fn of(object: String, error: Error) -> Result<Self, Error> {
        match error.kind() {
            ErrorKind::Damaged => Ok(Self { object, error }),
            _ => Err(error),
        }
    }
}

impl Log {
    /// What is damaged, the highest checkpoint included. Where nothing is, any one checkpoint may be
    /// lost, or what it is read by, and all backups are found.
    pub(crate) async fn flaws(&self) -> Result<Vec<Flaw>, Error> {
        loop {
            let slots = checkpoint::slots(&self.repository).await?;
            let flaws = self.flaws_by(&slots).await?;
            // What somebody removes meanwhile is no damage.
            if flaws.is_empty() || checkpoint::slots(&self.repository).await? == slots {
                return Ok(flaws);
            }
        }
    }

    async fn flaws_by(&self, slots: &[Slot]) -> Result<Vec<Flaw>, Error> {
        let mut flaws = Vec::new();
        let mut whole = Vec::new();
        let known = slots.iter().filter(|slot| **slot <= self.history.head);
        for &slot in known.rev() {
            match self.read_checkpoint(slot).await {
                Ok(history) => whole.push(history),
                Err(error) => flaws.push(Flaw::of(slot.checkpoint(), error)?),
            }
            if whole.len() == 2 {
                break;
            }
        }
        // Without any, the log was read from its first entry on. And entries below a damaged one may
        // have been removed.
        if whole.len() == 2 || whole.len() == 1 && flaws.is_empty() {
            let below = whole.into_iter().nth(1).unwrap_or_default();
            flaws.extend(self.flaw_behind(below).await?);
        }
        Ok(flaws)
    }

    async fn read_checkpoint(&self, slot: Slot) -> Result<History, Error> {
        let history = checkpoint::read(&self.repository, slot, Scope::Whole).await?;
        truncate::compare(&self.repository, &self.history, &history)?;
        Ok(history)
    }

    /// Reads the entries from there to the head, which must come to what is known.
    async fn flaw_behind(&self, below: History) -> Result<Option<Flaw>, Error> {
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
                return Flaw::of(slot.object(), error).map(Some);
            }
        }
        if log.history == self.history {
            return Ok(None);
        }
        let head = self.history.head.object();
        let differs = "the entries up to it do not say what a checkpoint says";
        let error = self.repository.refuse(&head, FormatError::Damaged(differs));
        Flaw::of(head, error).map(Some)
    }

    /// Writes another checkpoint, in front of what is damaged, and removes that as far as it may be
    /// removed; how many entries it took.
    pub(crate) async fn sum_up_anew(&mut self, flaws: &[Flaw]) -> Result<usize, Error> {
        let slots = checkpoint::slots(&self.repository).await?;
        let is_taken = slots.last() >= Some(&self.history.head);
        if is_taken {
            // An entry that says nothing, for a slot of its own.
            self.mark_nothing().await?;
        }
        checkpoint::write(&self.repository, &self.history).await?;
        self.read_checkpoint(self.history.head).await?;
        for flaw in flaws.iter().filter(|it| it.object.starts_with(CHECKPOINT)) {
            match self.repository.store().delete(&flaw.object).await {
                Ok(()) | Err(StoreError::Denied { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        match truncate::truncate(&self.repository, &self.history).await {
            // An entry that is damaged. It goes with those behind it, one checkpoint later.
            Err(error) if error.kind() == ErrorKind::Damaged => {}
            truncated => drop(truncated?),
        }
        Ok(usize::from(is_taken))
    }
}
