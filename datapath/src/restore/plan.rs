//! What to ask the store for: which ranges of packs hold the chunks that leaves name, and what each
//! chunk is wanted for.

use super::Backup;
use crate::{
    chunk::{ChunkId, ChunkIndex},
    format::pack::Place,
    ranges::{Limits, Range, coalesce},
    record::{Flaw, Shape},
    tree::LeafAt,
};

/// Where a chunk belongs, and what it must be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) index: ChunkIndex,
    pub(super) id: ChunkId,
}

/// The ranges that hold what these leaves name.
pub(super) fn plan(batch: &[LeafAt]) -> Vec<Range<Wanted>> {
    let records = batch
        .iter()
        .flat_map(|at| {
            at.leaf.entries.iter().map(|entry| {
                let wanted = Wanted {
                    index: at.chunk_index(entry),
                    id: entry.id,
                };
                (entry.place, wanted)
            })
        })
        .collect();
    coalesce(records, &Limits::CHUNKS)
}

/// Records by ascending offset; equal places become one.
pub(super) fn group_by_place(records: Vec<(Place, Wanted)>) -> Vec<(Place, Vec<Wanted>)> {
    let mut groups: Vec<(Place, Vec<Wanted>)> = Vec::new();
    for (place, wanted) in records {
        match groups.last_mut() {
            Some((last, all)) if *last == place => all.push(wanted),
            _ => groups.push((place, vec![wanted])),
        }
    }
    groups
}

/// Length of the chunk that is wanted at these places of the volume, when the record can hold it.
pub(super) fn chunk_bytes(
    backup: &Backup,
    shape: Shape,
    place: &Place,
    wanted: &[Wanted],
) -> Result<usize, Flaw> {
    let (size, volume_bytes) = (backup.chunk_size(), backup.volume_bytes());
    let len_of = |wanted: &Wanted| size.len_of(wanted.index, volume_bytes);
    let chunk_bytes = len_of(&wanted[0]);
    let is_possible =
        chunk_bytes > 0 && place.stored_bytes as usize <= shape.record_bytes_max(chunk_bytes);
    let are_equal = wanted.iter().all(|it| len_of(it) == chunk_bytes);
    (is_possible && are_equal)
        .then_some(chunk_bytes)
        .ok_or(Flaw::Length)
}
