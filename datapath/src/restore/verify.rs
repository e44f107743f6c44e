//! From bytes that came from a store to chunks that may be written.

use super::{Restore, heal::Loss, plan::Wanted};
use crate::{
    arena::Slot,
    crypt::Hashing,
    error::Error,
    format::pack::Place,
    record::{Flaw, StoredRecord},
    repository::FETCH_TRIES,
    stages::Stage,
    tasks::blocking,
};

/// A chunk as it came from the store; nobody has looked at it yet.
pub(super) struct FetchedChunk {
    pub(super) record: StoredRecord,
    pub(super) place: Place,
    /// Length of the chunk.
    pub(super) len: usize,
    /// One place in the volume, or several with equal content.
    pub(super) wanted: Vec<Wanted>,
}

/// A chunk whose bytes match the id that the backup's tree gives it.
pub(super) struct VerifiedChunk {
    pub(super) slot: Slot,
    pub(super) len: usize,
    pub(super) wanted: Vec<Wanted>,
}

impl FetchedChunk {
    /// Computes; not for a ring thread.
    fn verify(mut self, hashing: &Hashing) -> Result<VerifiedChunk, (Self, Flaw)> {
        if let Err(flaw) = self.record.open(self.len) {
            return Err((self, flaw));
        }
        let id = hashing.chunk_id(&self.record.slot[..self.len]);
        if self.wanted.iter().any(|wanted| wanted.id != id) {
            return Err((self, Flaw::OtherBytes));
        }
        Ok(VerifiedChunk {
            slot: self.record.slot,
            len: self.len,
            wanted: self.wanted,
        })
    }
}

impl Restore {
    /// A chunk that does not match is no error yet: it may lie elsewhere, too.
    pub(super) async fn verify(&self, chunk: FetchedChunk) -> Result<Option<VerifiedChunk>, Error> {
        let (place, wanted) = (chunk.place, chunk.wanted.clone());
        match self.check(chunk).await? {
            Ok(verified) => Ok(Some(verified)),
            Err(loss) => {
                self.lose(place, wanted, &loss);
                Ok(None)
            }
        }
    }

    /// Fetches a chunk that does not match again before it calls it damaged.
    pub(super) async fn check(
        &self,
        mut chunk: FetchedChunk,
    ) -> Result<Result<VerifiedChunk, Loss>, Error> {
        for tries in 1.. {
            let hashing = self.repository.hashing();
            let inside = self.progress.enter(Stage::Verify);
            let verified = blocking(move || (chunk.verify(&hashing), inside).0);
            let flaw = match verified.await? {
                Ok(verified) => return Ok(Ok(verified)),
                Err((mismatch, flaw)) => {
                    chunk = mismatch;
                    flaw
                }
            };
            if tries == FETCH_TRIES {
                return Ok(Err(Loss::of(flaw)));
            }
            chunk.record = match self.fetch_again(chunk.record, &chunk.place).await {
                Ok(record) => record,
                Err(error) => return Loss::in_store(error).map(Err),
            };
        }
        unreachable!("the last try returns")
    }
}
