//! Which byte ranges of packs to ask for, to get many records in few requests.
//!
//! Two records of a pack come in one request when what lies between them costs less than another
//! request would. How long a request takes by itself is hidden as long as others are under way;
//! bytes fetched in vain never are. So gaps are bounded twice: each by what is fetched in the time
//! of a round trip, and all together by a share of what is wanted, the smallest first, which saves
//! the most requests for the bytes.

use crate::format::{name::PackName, pack::Place};

/// What bounds the ranges.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A longer row of records is cut into equal ranges of about at most so many bytes: of one
    /// record more when a cut would go through it.
    pub range_bytes: u64,
    /// The largest gap that is fetched along, in bytes.
    pub gap_max: u64,
    /// All gaps together take at most so many percent of what is wanted.
    pub gaps_percent: u64,
}

impl Limits {
    /// For chunks: ranges of 8 to 16 MiB where records lie side by side. At 100 MB/s the largest
    /// gap takes as long as a round trip of 10 ms.
    pub const CHUNKS: Self = Self {
        range_bytes: 16 << 20,
        gap_max: 1 << 20,
        gaps_percent: 25,
    };
    /// For tree nodes, which are small, wanted soon, and held in memory as ranges: here it is
    /// requests that count.
    pub const NODES: Self = Self {
        range_bytes: 4 << 20,
        gap_max: 64 << 10,
        gaps_percent: 400,
    };
}

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

/// Joins records that lie side by side, or near enough.
///
/// Ranges come in the order in which the records' packs and offsets sort.
pub fn coalesce<T>(mut records: Vec<(Place, T)>, limits: &Limits) -> Vec<Range<T>> {
    records.sort_by_key(|(place, _)| (place.pack, place.offset));
    let mut joins = joins(&records, limits).into_iter();
    let mut rows: Vec<Range<T>> = Vec::new();
    for (place, purpose) in records {
        let joins_the_last = joins.next().unwrap_or(false);
        match rows.last_mut() {
            Some(row) if joins_the_last => row.push(place, purpose),
            _ => rows.push(Range::of(place, purpose)),
        }
    }
    let cut = |row: Range<T>| row.cut(limits.range_bytes);
    rows.into_iter().flat_map(cut).collect()
}

/// For each record whether it comes in one row with the one before.
fn joins<T>(records: &[(Place, T)], limits: &Limits) -> Vec<bool> {
    let mut joins = vec![false; records.len()];
    let mut gaps = Vec::new();
    let mut wanted_bytes = 0;
    let mut row: Option<(PackName, u64)> = None;
    for (at, (place, _)) in records.iter().enumerate() {
        let offset = u64::from(place.offset);
        let before = row.filter(|(pack, _)| *pack == place.pack);
        if let Some((_, end)) = before {
            gaps.push((offset.saturating_sub(end), at));
        }
        // A place that is wanted twice counts once.
        let end = before.map_or(offset, |(_, end)| end);
        wanted_bytes += place.end().saturating_sub(end.max(offset));
        row = Some((place.pack, end.max(place.end())));
    }
    gaps.sort_unstable();
    let mut left = u128::from(wanted_bytes) * u128::from(limits.gaps_percent) / 100;
    for (gap, at) in gaps {
        match left.checked_sub(gap.into()) {
            Some(rest) if gap <= limits.gap_max => left = rest,
            _ => break,
        }
        joins[at] = true;
    }
    joins
}

impl<T> Range<T> {
    fn of(place: Place, purpose: T) -> Self {
        Self {
            pack: place.pack,
            start: u64::from(place.offset),
            end: place.end(),
            records: vec![(place, purpose)],
        }
    }

    fn push(&mut self, place: Place, purpose: T) {
        self.end = self.end.max(place.end());
        self.records.push((place, purpose));
    }

    /// Cuts it into as few equal pieces as there must be; a record belongs to the piece that it
    /// begins in.
    fn cut(self, range_bytes: u64) -> Vec<Self> {
        let bytes = u128::from(self.end - self.start).max(1);
        let pieces = bytes.div_ceil(range_bytes.into());
        let mut cut: Vec<(u128, Self)> = Vec::new();
        for (place, purpose) in self.records {
            let from_start = u128::from(u64::from(place.offset) - self.start);
            let piece = from_start * pieces / bytes;
            match cut.last_mut() {
                Some((last, range)) if *last == piece => range.push(place, purpose),
                _ => cut.push((piece, Self::of(place, purpose))),
            }
        }
        cut.into_iter().map(|(_, range)| range).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::format::name::SessionId;

    const MIB: u64 = 1 << 20;

    fn pack(number: u32) -> PackName {
        PackName::random(SessionId([1; 8]), number)
    }

    fn place(pack: PackName, offset: u32, stored_bytes: u32) -> Place {
        Place {
            pack,
            ordinal: 0,
            offset,
            stored_bytes,
        }
    }

    fn limits(range_bytes: u64, gap_max: u64, gaps_percent: u64) -> Limits {
        Limits {
            range_bytes,
            gap_max,
            gaps_percent,
        }
    }

    /// Records of 100 bytes, named by letters; the ranges as start, end and names.
    fn shown(records: &[(u32, char)], limits: &Limits) -> Vec<(u64, u64, String)> {
        let pack = pack(0);
        let records = records
            .iter()
            .map(|&(offset, name)| (place(pack, offset, 100), name));
        coalesce(records.collect(), limits)
            .iter()
            .map(|range| {
                let names = range.records.iter().map(|(_, name)| *name).collect();
                (range.start, range.end, names)
            })
            .collect()
    }

    #[test]
    fn neighbours_and_near_ones_share_a_range_and_far_ones_do_not() {
        let records = [(200, 'c'), (0, 'a'), (100, 'b'), (350, 'd'), (1000, 'e')];
        let found = shown(&records, &limits(MIB, 50, 100));
        assert_eq!(found, [(0, 450, "abcd".into()), (1000, 1100, "e".into())]);
    }

    #[test]
    fn where_gaps_would_take_more_than_their_share_the_smallest_are_fetched() {
        // Gaps of 60, 30, 90 and 40 between 500 bytes.
        let records = [(0, 'a'), (160, 'b'), (290, 'c'), (480, 'd'), (620, 'e')];
        let found = |percent| {
            let ranges = shown(&records, &limits(MIB, 1000, percent));
            ranges
                .into_iter()
                .map(|(_, _, names)| names)
                .collect::<Vec<_>>()
        };
        assert_eq!(found(0), ["a", "b", "c", "d", "e"]);
        assert_eq!(found(6), ["a", "bc", "d", "e"]);
        assert_eq!(found(14), ["a", "bc", "de"]);
        assert_eq!(found(26), ["abc", "de"]);
        assert_eq!(found(44), ["abcde"]);
    }

    #[test]
    fn a_fresh_pack_comes_in_equal_ranges_of_8_to_16_mib_whatever_its_chunks_take() {
        for stored_bytes in [262_145, 65_537, 130_000, 4 << 20] {
            for pack_mib in [17, 20, 48, 100, 128, 250] {
                let name = pack(0);
                let records: Vec<_> = (0..(pack_mib << 20) / stored_bytes)
                    .map(|n| (place(name, 32 + n * stored_bytes, stored_bytes), ()))
                    .collect();
                let ranges = coalesce(records, &Limits::CHUNKS);
                for range in &ranges {
                    let bytes = range.end - range.start;
                    let record = u64::from(stored_bytes);
                    assert!(bytes < 16 * MIB + record, "{bytes} of {pack_mib} MiB");
                    assert!(bytes + record > 8 * MIB, "{bytes} of {pack_mib} MiB");
                }
            }
        }
    }

    #[test]
    fn a_range_ends_with_its_pack_and_a_record_wanted_twice_is_fetched_once() {
        let packs = [0, 1].map(pack);
        let records = vec![
            (place(packs[0], 0, 100), 1),
            (place(packs[0], 0, 100), 2),
            (place(packs[1], 100, 100), 3),
        ];
        let ranges = coalesce(records, &Limits::CHUNKS);
        let found: Vec<_> = ranges
            .iter()
            .map(|range| (range.pack, range.start, range.end, range.records.len()))
            .collect();
        assert_eq!(found, [(packs[0], 0, 100, 2), (packs[1], 100, 200, 1)]);
    }

    proptest! {
        #[test]
        fn every_record_is_in_one_range_and_no_limit_is_passed(
            wanted in proptest::collection::vec((0..4usize, 0..400u32, 0..4u8), 0..600),
            range_bytes in 1..50_000u64,
            gap_max in 0..5_000u64,
            gaps_percent in 0..200u64,
        ) {
            // Records of a pack lie one behind the other; which are wanted is random.
            let packs: Vec<PackName> = (0..4).map(pack).collect();
            let stored_bytes = |n: u32| 1 + n * 7919 % 997;
            let offset = |n: u32| 32 + (0..n).map(stored_bytes).sum::<u32>();
            let records: Vec<(Place, usize)> = wanted
                .iter()
                .flat_map(|&(pack, n, twice)| {
                    std::iter::repeat_n((pack, n), if twice == 0 { 2 } else { 1 })
                })
                .enumerate()
                .map(|(at, (pack, n))| (place(packs[pack], offset(n), stored_bytes(n)), at))
                .collect();
            let limits = limits(range_bytes, gap_max, gaps_percent);
            let ranges = coalesce(records.clone(), &limits);

            let mut found: Vec<(Place, usize)> = Vec::new();
            let mut fetched = 0;
            for range in &ranges {
                let mut end = range.start;
                for (place, _) in &range.records {
                    prop_assert_eq!(place.pack, range.pack);
                    let offset = u64::from(place.offset);
                    prop_assert!(offset <= end + gap_max && offset >= range.start);
                    end = end.max(place.end());
                }
                prop_assert_eq!(end, range.end);
                prop_assert!(range.end - range.start < range_bytes + 997);
                fetched += range.end - range.start;
                found.extend(&range.records);
            }
            found.sort_by_key(|(_, at)| *at);
            prop_assert_eq!(found, records.clone());
            let distinct: BTreeSet<Place> = records.iter().map(|(place, _)| *place).collect();
            let needed: u64 = distinct.iter().map(|it| u64::from(it.stored_bytes)).sum();
            prop_assert!(fetched <= needed + needed * gaps_percent / 100);
        }
    }
}
