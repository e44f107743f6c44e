//! Which byte ranges of packs to ask for, to get many records in few requests.

use crate::format::{name::PackName, pack::Place};

/// A range of a pack and the records in it that are wanted, by ascending offset.
#[derive(Debug, PartialEq, Eq)]
pub struct Range<T> {
    /// The pack.
    pub pack: PackName,
    /// Offset of the first byte.
    pub start: u64,
    /// Offset behind the last byte.
    pub end: u64,
    /// What is wanted of it, and for what.
    pub records: Vec<(Place, T)>,
}

/// Joins records of a pack that lie at most `gap_max` bytes apart, into ranges of at most
/// `range_max` bytes (a record larger than that is a range of its own).
///
/// Ranges come in the order in which the records' packs and offsets sort.
pub fn coalesce<T>(mut records: Vec<(Place, T)>, gap_max: u64, range_max: u64) -> Vec<Range<T>> {
    records.sort_by_key(|(place, _)| (place.pack, place.offset));
    let mut ranges: Vec<Range<T>> = Vec::new();
    for (place, purpose) in records {
        match ranges.last_mut() {
            Some(range) if range.takes(&place, gap_max, range_max) => {
                range.end = range.end.max(place.end());
                range.records.push((place, purpose));
            }
            _ => ranges.push(Range {
                pack: place.pack,
                start: u64::from(place.offset),
                end: place.end(),
                records: vec![(place, purpose)],
            }),
        }
    }
    ranges
}

impl<T> Range<T> {
    fn takes(&self, place: &Place, gap_max: u64, range_max: u64) -> bool {
        self.pack == place.pack
            && u64::from(place.offset) <= self.end + gap_max
            && place.end() - self.start <= range_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::name::SessionId;

    fn place(pack: PackName, offset: u32, stored_bytes: u32) -> Place {
        Place {
            pack,
            ordinal: 0,
            offset,
            stored_bytes,
        }
    }

    #[test]
    fn neighbours_and_near_ones_share_a_range_and_far_ones_do_not() {
        let pack = PackName::random(SessionId([1; 8]), 0);
        let records = [(200, 'c'), (0, 'a'), (100, 'b'), (350, 'd'), (1000, 'e')]
            .map(|(offset, name)| (place(pack, offset, 100), name));
        let ranges = coalesce(records.into(), 50, 1 << 20);
        let shown: Vec<_> = ranges
            .iter()
            .map(|range| {
                let names: String = range.records.iter().map(|(_, name)| *name).collect();
                (range.start, range.end, names)
            })
            .collect();
        assert_eq!(
            shown,
            [(0, 450, "abcd".to_owned()), (1000, 1100, "e".to_owned())]
        );
    }

    #[test]
    fn a_range_ends_at_its_limit_and_at_the_end_of_a_pack() {
        let packs = [0, 1].map(|n| PackName::random(SessionId([1; 8]), n));
        let mut records: Vec<_> = (0..4)
            .map(|n| (place(packs[0], n * 100, 100), ()))
            .collect();
        records.push((place(packs[1], 400, 100), ()));
        let ranges = coalesce(records, 0, 300);
        let shown: Vec<_> = ranges.iter().map(|r| (r.pack, r.start, r.end)).collect();
        assert_eq!(
            shown,
            [
                (packs[0], 0, 300),
                (packs[0], 300, 400),
                (packs[1], 400, 500)
            ]
        );
    }

    #[test]
    fn a_record_wanted_twice_is_fetched_once() {
        let pack = PackName::random(SessionId([1; 8]), 0);
        let records = vec![(place(pack, 0, 100), 1), (place(pack, 0, 100), 2)];
        let ranges = coalesce(records, 0, 1000);
        assert_eq!(ranges.len(), 1);
        assert_eq!((ranges[0].start, ranges[0].end), (0, 100));
    }
}
