//! From bytes that came from a store to chunks that may be written.

use super::{Restore, plan::Wanted};
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
    /// Fetches a chunk that does not match again before it calls it damaged.
    pub(super) async fn verify(&self, mut chunk: FetchedChunk) -> Result<VerifiedChunk, Error> {
        for tries in 1.. {
            let hashing = self.repository.hashing();
            let inside = self.progress.enter(Stage::Verify);
            let verified = blocking(move || (chunk.verify(&hashing), inside).0);
            let flaw = match verified.await? {
                Ok(verified) => return Ok(verified),
                Err((mismatch, flaw)) => {
                    chunk = mismatch;
                    flaw
                }
            };
            let (wanted, place) = (chunk.wanted[0], chunk.place);
            if tries == FETCH_TRIES {
                return Err(self.backup.damaged(&wanted, &place, &flaw));
            }
            chunk.record = self
                .fetch_again(chunk.record, &place)
                .await
                .map_err(|error| self.located(error, &wanted, &place))?;
        }
        unreachable!("the last try returns")
    }
}
