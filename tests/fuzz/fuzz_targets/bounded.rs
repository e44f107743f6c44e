//! Memory with a bound. libFuzzer's own bound for allocations needs a sanitizer's runtime, and its
//! look at the process once a second may come too late.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    io::Write,
    process,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

const MOST_BYTES: usize = 64 << 20;

#[global_allocator]
static MEMORY: Bounded = Bounded {
    taken: AtomicUsize::new(0),
};

struct Bounded {
    taken: AtomicUsize,
}

impl Bounded {
    fn take(&self, bytes: usize) {
        let taken = self.taken.fetch_add(bytes, Relaxed);
        if taken.saturating_add(bytes) > MOST_BYTES {
            // Text made for this would need memory.
            let _ =
                std::io::stderr().write_all(b"a decoder has taken more than 64 MiB of memory\n");
            process::abort();
        }
    }

    fn give_back(&self, bytes: usize) {
        self.taken.fetch_sub(bytes, Relaxed);
    }
}

// SAFETY: the system's allocator does everything; sizes are only counted.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.take(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.take(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        self.give_back(layout.size());
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        self.take(bytes);
        self.give_back(layout.size());
        unsafe { System.realloc(memory, layout, bytes) }
    }
}
