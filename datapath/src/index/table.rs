//! The table of known chunks, in memory that never passes its bound.
//!
//! A record is 20 bytes: half of a chunk's id, and where in its pack it begins. Where it ends is
//! where the next one begins; pack and ordinal follow from the *run* it belongs to. A run is a row
//! of records that lie one behind the other in one pack, mostly all of that pack's. Slots of five
//! bytes, at most seven of eight taken, find a record by its id. Together a chunk takes 26 bytes at
//! the bound and up to 32 before, and a run 36.
//!
//! Every allocation is counted before it is made. Records and runs grow by blocks that stay where
//! they are; slots are made anew from the records, the old ones given back first.

use super::{
    blocks::Blocks,
    slots::{Key, SLOT_BYTES, Slots},
};
use crate::{
    chunk::ChunkId,
    format::{name::PackName, pack::Place},
};

/// Fewest slots there are, once there are any.
const SLOTS_MIN: usize = 1 << 10;

/// Chunks and their places, by 128 bits of the id.
pub struct DedupeIndex {
    memory_bytes: usize,
    /// What may be taken now: less than all while segments are loaded.
    limit_bytes: usize,
    slots: Slots,
    records: Blocks<Record>,
    runs: Blocks<Run>,
    left_out: u64,
}

struct Record {
    key: Key,
    offset: u32,
}

struct Run {
    pack: PackName,
    /// Number of its first record.
    first: u32,
    first_ordinal: u32,
    /// Offset behind its last record.
    end: u32,
}

impl DedupeIndex {
    /// An empty index that takes at most `memory_bytes`.
    pub fn new(memory_bytes: usize) -> Self {
        Self {
            memory_bytes,
            limit_bytes: memory_bytes,
            slots: Slots::default(),
            records: Blocks::within(memory_bytes),
            runs: Blocks::within(memory_bytes),
            left_out: 0,
        }
    }

    /// Chunks that it knows.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory that it has taken, in bytes.
    pub fn bytes(&self) -> usize {
        self.slots.bytes() + self.records.bytes() + self.runs.bytes()
    }

    /// How often a chunk was not taken up for lack of room.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Leaves an eighth of the memory free, or makes it available again.
    pub(super) fn keep_an_eighth_free(&mut self, keep: bool) {
        let free = if keep { self.memory_bytes / 8 } else { 0 };
        self.limit_bytes = self.memory_bytes - free;
    }

    /// Where a chunk lies.
    pub fn get(&self, id: &ChunkId) -> Option<Place> {
        self.find(&key(id)).map(|number| self.place(number))
    }

    /// Takes up a chunk, unless it knows it already or has no room for it.
    pub fn insert(&mut self, id: &ChunkId, place: Place) {
        let key = key(id);
        if self.find(&key).is_some() {
            return;
        }
        if self.push(key, place).is_none() {
            self.left_out += 1;
        }
    }

    fn find(&self, key: &Key) -> Option<u32> {
        let has_key = |number: u32| {
            self.records
                .get(number as usize)
                .is_some_and(|it| it.key == *key)
        };
        self.slots.find(key, has_key)
    }

    fn place(&self, number: u32) -> Place {
        let behind = self.runs.partition_point(|run| run.first <= number);
        let run = self.runs.get(behind - 1).expect("a record is in a run");
        let record = self
            .records
            .get(number as usize)
            .expect("slots hold records");
        let next_run = self.runs.get(behind).map(|run| run.first as usize);
        let next = number as usize + 1;
        let end = match self.records.get(next) {
            Some(after) if next_run != Some(next) => after.offset,
            _ => run.end,
        };
        Place {
            pack: run.pack,
            ordinal: run.first_ordinal + (number - run.first),
            offset: record.offset,
            stored_bytes: end - record.offset,
        }
    }

    /// Appends a record, if there is room.
    fn push(&mut self, key: Key, place: Place) -> Option<()> {
        let number = u32::try_from(self.records.len()).ok()?;
        let end = u32::try_from(place.end()).ok()?;
        let continues = self
            .runs
            .last_mut()
            .is_some_and(|run| run.is_continued_by(&place, number));
        let mut needed = self.records.bytes_of_next()?;
        if !continues {
            needed += self.runs.bytes_of_next()?;
        }
        self.make_room(needed)?;
        match self.runs.last_mut() {
            Some(run) if continues => run.end = end,
            _ => self.runs.push(Run {
                pack: place.pack,
                first: number,
                first_ordinal: place.ordinal,
                end,
            }),
        }
        self.records.push(Record {
            key,
            offset: place.offset,
        });
        self.slots.insert(&key, number);
        Some(())
    }

    /// Makes sure of a slot, and of `needed` bytes besides.
    fn make_room(&mut self, needed: usize) -> Option<()> {
        let others = self.records.bytes() + self.runs.bytes() + needed;
        if !self.slots.is_full() {
            return (others + self.slots.bytes() <= self.limit_bytes).then_some(());
        }
        let spare = self.limit_bytes.checked_sub(others)?;
        // More slots than for as many records as will ever fit are of no use.
        let for_records = self.limit_bytes.checked_sub(self.runs.bytes())?;
        let slots_max = for_records / (7 * size_of::<Record>() + 8 * SLOT_BYTES) * 8;
        let slots = (2 * self.slots.len())
            .max(SLOTS_MIN)
            .min(slots_max)
            .min(spare / SLOT_BYTES);
        if Slots::capacity_of(slots) <= self.records.len() {
            return None;
        }
        self.slots = Slots::default();
        self.slots = Slots::new(slots);
        for (number, record) in (0..).zip(self.records.iter()) {
            self.slots.insert(&record.key, number);
        }
        Some(())
    }
}

impl Run {
    /// Whether a record at this place, with this number, lies behind its last one.
    fn is_continued_by(&self, place: &Place, number: u32) -> bool {
        self.pack == place.pack
            && self.end == place.offset
            && place.ordinal.checked_sub(self.first_ordinal) == Some(number - self.first)
    }
}

fn key(id: &ChunkId) -> Key {
    *id.0.first_chunk().expect("an id has 32 bytes")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::format::name::SessionId;

    fn id(number: u32) -> ChunkId {
        ChunkId::of(&number.to_le_bytes())
    }

    fn pack(number: u32) -> PackName {
        PackName::random(SessionId([1; 8]), number)
    }

    fn place(pack: PackName, ordinal: u32) -> Place {
        Place {
            pack,
            ordinal,
            offset: 32 + ordinal * 100,
            stored_bytes: 100,
        }
    }

    #[test]
    fn the_first_place_of_a_chunk_stays() {
        let mut index = DedupeIndex::new(1 << 20);
        let (first, second) = (pack(0), pack(1));
        index.insert(&id(1), place(first, 0));
        index.insert(&id(1), place(second, 7));
        index.insert(&id(2), place(second, 8));
        assert_eq!(index.get(&id(1)), Some(place(first, 0)));
        assert_eq!(index.get(&id(2)), Some(place(second, 8)));
        assert_eq!(index.get(&id(3)), None);
        assert_eq!((index.len(), index.left_out()), (2, 0));
    }

    #[test]
    fn a_full_index_forgets_nothing_counts_what_it_leaves_out_and_takes_its_bound_and_no_more() {
        for memory_bytes in [0, 1000, 200_000, 300_000, 1_000_000, 5_000_000] {
            let mut index = DedupeIndex::new(memory_bytes);
            let name = pack(0);
            let offered = 250_000;
            for number in 0..offered {
                index.insert(&id(number), place(name, number));
                assert!(index.bytes() <= memory_bytes);
            }
            let known = u32::try_from(index.len()).expect("few");
            assert_eq!(index.left_out(), u64::from(offered - known));
            for number in (0..offered).step_by(7) {
                let expected = (number < known).then(|| place(name, number));
                assert_eq!(index.get(&id(number)), expected);
            }
            if memory_bytes >= 1_000_000 {
                let per_chunk = memory_bytes as f64 / f64::from(known);
                assert!(
                    (25.7..34.0).contains(&per_chunk),
                    "{per_chunk} at {memory_bytes}"
                );
            }
        }
    }

    #[test]
    fn an_eighth_that_is_kept_free_is_there_afterwards() {
        let mut index = DedupeIndex::new(2_000_000);
        index.keep_an_eighth_free(true);
        let old = pack(0);
        (0..100_000).for_each(|number| index.insert(&id(number), place(old, number)));
        assert!(index.bytes() <= 1_750_000 && index.left_out() > 0);
        let before = index.len();
        index.keep_an_eighth_free(false);
        let new = pack(1);
        (0..5_000).for_each(|n| index.insert(&id(200_000 + n), place(new, n)));
        assert_eq!(index.len(), before + 5_000);
        assert_eq!(index.get(&id(204_999)), Some(place(new, 4_999)));
        assert!(index.bytes() <= 2_000_000);
    }

    /// Chunks offered to the index: where they lie, and which they are.
    #[derive(Debug, Clone)]
    struct Row {
        pack: u8,
        ordinal: u32,
        lengths: Vec<u32>,
        first_id: u32,
    }

    fn rows() -> impl Strategy<Value = Vec<Row>> {
        let row = (
            0..6u8,
            0..50u32,
            proptest::collection::vec(1..300_000u32, 1..40),
            0..3000u32,
        )
            .prop_map(|(pack, ordinal, lengths, first_id)| Row {
                pack,
                ordinal,
                lengths,
                first_id,
            });
        proptest::collection::vec(row, 0..200)
    }

    proptest! {
        #[test]
        fn it_is_a_map_that_may_leave_out_but_never_errs(
            rows in rows(),
            memory_bytes in prop_oneof![Just(8usize << 20), 0..600_000usize],
        ) {
            let names: Vec<PackName> = (0..6).map(pack).collect();
            let mut index = DedupeIndex::new(memory_bytes);
            let mut model: HashMap<u32, Place> = HashMap::new();
            let mut offset = 32;
            for row in rows {
                // Some rows continue the one before, some begin elsewhere.
                if row.ordinal % 3 == 0 {
                    offset = 32 + row.ordinal * 1000;
                }
                for (n, stored_bytes) in (0..).zip(row.lengths) {
                    let number = row.first_id + n;
                    let place = Place {
                        pack: names[usize::from(row.pack)],
                        ordinal: row.ordinal + n,
                        offset,
                        stored_bytes,
                    };
                    offset += stored_bytes;
                    let (known, left_out) = (index.len(), index.left_out());
                    index.insert(&id(number), place);
                    if index.len() > known {
                        prop_assert_eq!(model.insert(number, place), None);
                    } else if index.left_out() == left_out {
                        prop_assert!(model.contains_key(&number));
                    }
                    prop_assert!(index.bytes() <= memory_bytes);
                }
            }
            for number in 0..3100 {
                prop_assert_eq!(index.get(&id(number)), model.get(&number).copied());
            }
            if memory_bytes == 8 << 20 {
                prop_assert_eq!(index.left_out(), 0);
            }
        }
    }
}
