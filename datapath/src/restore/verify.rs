//! From bytes that came from a store to chunks that may be written.

use super::{Restore, fetch::objection, heal::Broken, plan::Wanted};
use crate::{
    arena::Slot,
    crypt::Hashing,
    error::Error,
    format::{name::ObjectKind, pack::Place},
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

/// What came of a chunk.
pub(super) enum Verified {
    /// It may be written.
    Whole(VerifiedChunk),
    /// It is damaged in this place.
    Broken(Broken),
}

impl Restore {
    /// A chunk that may be written; one that is damaged is left for later.
    pub(super) async fn verify(&self, chunk: FetchedChunk) -> Result<Option<VerifiedChunk>, Error> {
        match self.check(chunk).await? {
            Verified::Whole(chunk) => Ok(Some(chunk)),
            Verified::Broken(broken) => self.broken.note(broken).map(|()| None),
        }
    }

    /// Fetches a chunk that does not match again before it calls it damaged.
    pub(super) async fn check(&self, mut chunk: FetchedChunk) -> Result<Verified, Error> {
        for tries in 1.. {
            let hashing = self.repository.hashing();
            let inside = self.progress.enter(Stage::Verify);
            let verified = blocking(move || (chunk.verify(&hashing), inside).0);
            let (mismatch, flaw) = match verified.await? {
                Ok(verified) => return Ok(Verified::Whole(verified)),
                Err(found) => found,
            };
            let FetchedChunk {
                record,
                place,
                len,
                wanted,
            } = mismatch;
            let again = match tries {
                FETCH_TRIES => Err(flaw.to_string()),
                _ => self.fetch_again(record.slot, &place, &wanted[0]).await?,
            };
            match again {
                Ok(record) => {
                    chunk = FetchedChunk {
                        record,
                        place,
                        len,
                        wanted,
                    };
                }
                Err(reason) => {
                    let error = self.backup.damaged(&wanted[0], &place, &reason);
                    return Ok(Verified::Broken(Broken {
                        wanted,
                        place,
                        error,
                    }));
                }
            }
        }
        unreachable!("the last try returns")
    }

    /// Fetches a record once more, into the slot it was in; or what is wrong with its object.
    async fn fetch_again(
        &self,
        slot: Slot,
        place: &Place,
        wanted: &Wanted,
    ) -> Result<Result<StoredRecord, String>, Error> {
        let (object, offset) = (place.pack.object(ObjectKind::DataPack), place.offset);
        tracing::warn!(object, offset, "a chunk came in damaged; fetching it again");
        match self.fetch_record(place, &wanted.id, slot).await {
            Ok(record) => Ok(Ok(record)),
            Err(error) => objection(&error).map(Err).ok_or(error),
        }
    }
}
