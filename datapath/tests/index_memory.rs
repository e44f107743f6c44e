//! What the index of known chunks really allocates: a test binary of its own, because its allocator
//! counts.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use ringback_datapath::{
    crypt::Hashing,
    format::{
        name::{PackName, SessionId},
        pack::Place,
    },
    index::DedupeIndex,
};

/// Counts the bytes that a thread allocates, and the most that they ever were since it was told to begin. What
/// runs the tests allocates in another thread.
struct Counting;

thread_local! {
    /// Below zero when it freed what another one allocated.
    static ALLOCATED: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn add(bytes: usize) {
    let now = ALLOCATED.get() + bytes.cast_signed();
    ALLOCATED.set(now);
    PEAK.set(PEAK.get().max(now));
}

fn subtract(bytes: usize) {
    ALLOCATED.set(ALLOCATED.get() - bytes.cast_signed());
}

// SAFETY: all is done by the system's allocator; `realloc` is left to the trait, which makes an
// allocation of its own for it, so that old and new count at the same time.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller keeps to the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        subtract(layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const MIB: usize = 1 << 20;
/// Chunks of 256 KiB in a pack of 128 MiB.
const PER_PACK: u32 = 511;

/// Fills an index of this bound with so many chunks; how many it took, and the most that was
/// allocated for it at any time.
fn fill(memory_bytes: usize, chunks: u32, packs: &[PackName]) -> (usize, usize) {
    let before = ALLOCATED.get();
    PEAK.set(before);
    let mut index = DedupeIndex::new(memory_bytes);
    for number in 0..chunks {
        let (pack, ordinal) = (number / PER_PACK, number % PER_PACK);
        let place = Place {
            pack: packs[pack as usize],
            ordinal,
            offset: 32 + ordinal * 262_145,
            stored_bytes: 262_145,
        };
        index.insert(&Hashing::PLAIN.chunk_id(&number.to_le_bytes()), place);
    }
    let since = |bytes: isize| usize::try_from(bytes - before).expect("no less than before");
    assert_eq!(since(ALLOCATED.get()), index.bytes());
    (index.len(), since(PEAK.get()))
}

#[test]
fn it_allocates_what_it_says_and_never_more_than_its_bound() {
    let session = SessionId([1; 8]);
    let chunks: u32 = 1 << 20;
    let packs: Vec<PackName> = (0..=chunks / PER_PACK)
        .map(|number| PackName::random(session, number))
        .collect();
    for mib in [1, 8, 25, 27, 64] {
        let (known, peak) = fill(mib * MIB, chunks, &packs);
        let per_chunk = peak as f64 / known as f64;
        println!("bound {mib} MiB: {known} chunks in {peak} bytes, {per_chunk:.2} each");
        assert!(peak <= mib * MIB, "{peak} bytes at {mib} MiB");
        assert!(
            (25.7..33.0).contains(&per_chunk),
            "{per_chunk} at {mib} MiB"
        );
        // At this rate 1 TiB takes 108 MiB.
        assert_eq!(known == chunks as usize, mib >= 27, "at {mib} MiB");
    }
}
