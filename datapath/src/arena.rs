//! The buffers of a job: aligned, allocated once, bounded.
//!
//! An [`Arena`] is one anonymous mapping cut into equal slots. A [`Slot`] is the right to use one
//! of them; it can move between threads and goes home when it is dropped. Waiting for a free slot
//! is the backpressure that reaches from the network to the disk and back.
//!
//! Ordering rule: a slot is handed out to one owner at a time; whoever gives a slot's memory to
//! the kernel keeps the `Slot` until the kernel has let go of it.

use std::{
    io,
    num::NonZeroUsize,
    ops::{Deref, DerefMut},
    ptr::NonNull,
    sync::{Arc, Mutex, PoisonError},
};

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use tokio::sync::Semaphore;

/// Alignment of every slot: that of the mapping, a page. O_DIRECT needs at most 4096.
pub const SLOT_ALIGNMENT: usize = 4096;

/// A fixed set of equal, page-aligned buffers.
#[derive(Clone)]
pub struct Arena(Arc<Inner>);

struct Inner {
    memory: NonNull<u8>,
    slot_bytes: usize,
    slots: usize,
    free: Mutex<Vec<usize>>,
    available: Semaphore,
}

// SAFETY: the mapping belongs to this value alone and is reached only through slots, each of
// which has one owner (see `Slot`); the free list has its own lock.
unsafe impl Send for Inner {}
// SAFETY: as above; shared access touches nothing but the lock, the semaphore and constants.
unsafe impl Sync for Inner {}

impl Arena {
    /// Maps `slots` buffers of `slot_bytes` each.
    ///
    /// # Panics
    /// When `slot_bytes` is not a multiple of [`SLOT_ALIGNMENT`] or there is no slot.
    pub fn new(slots: usize, slot_bytes: usize) -> io::Result<Self> {
        assert!(slot_bytes > 0 && slot_bytes.is_multiple_of(SLOT_ALIGNMENT));
        let bytes = slots
            .checked_mul(slot_bytes)
            .and_then(NonZeroUsize::new)
            .expect("an arena has at least one slot and fits the address space");
        // SAFETY: a new anonymous mapping aliases no memory of ours.
        let memory = unsafe {
            mmap_anonymous(
                None,
                bytes,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_PRIVATE,
            )
        }?;
        Ok(Self(Arc::new(Inner {
            memory: memory.cast(),
            slot_bytes,
            slots,
            free: Mutex::new((0..slots).rev().collect()),
            available: Semaphore::new(slots),
        })))
    }

    /// Waits for a free slot. Its content is whatever its last owner left.
    pub async fn acquire(&self) -> Slot {
        let permit = self
            .0
            .available
            .acquire()
            .await
            .expect("the semaphore is never closed");
        permit.forget();
        let index = self
            .0
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
            .expect("a permit stands for an index in the free list");
        Slot {
            arena: Arc::clone(&self.0),
            index,
        }
    }

    /// Whether a slot is free right now.
    pub fn has_free_slot(&self) -> bool {
        self.0.available.available_permits() > 0
    }

    /// Bytes per slot.
    pub fn slot_bytes(&self) -> usize {
        self.0.slot_bytes
    }

    /// Number of slots.
    pub fn slots(&self) -> usize {
        self.0.slots
    }

    /// Where slot `index` lies. The pointer is valid as long as the arena is.
    pub(crate) fn slot_memory(&self, index: usize) -> NonNull<u8> {
        self.0.slot_memory(index)
    }
}

impl Inner {
    fn slot_memory(&self, index: usize) -> NonNull<u8> {
        assert!(index < self.slots);
        // SAFETY: the offset of an existing slot lies inside the mapping.
        unsafe { self.memory.add(index * self.slot_bytes) }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `new` with this length, and no slot is left: each
        // holds a reference to this value.
        let unmapped = unsafe { munmap(self.memory.cast(), self.slots * self.slot_bytes) };
        debug_assert!(unmapped.is_ok(), "munmap of a whole mapping");
    }
}

/// The sole right to one buffer of an arena.
pub struct Slot {
    arena: Arc<Inner>,
    index: usize,
}

impl Slot {
    /// Position of this slot in its arena.
    pub(crate) fn index(&self) -> usize {
        self.index
    }
}

impl Deref for Slot {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let memory = self.arena.slot_memory(self.index);
        // SAFETY: the slot's memory is mapped, initialised (fresh mappings are zero) and only
        // this owner reaches it.
        unsafe { std::slice::from_raw_parts(memory.as_ptr(), self.arena.slot_bytes) }
    }
}

impl DerefMut for Slot {
    fn deref_mut(&mut self) -> &mut [u8] {
        let memory = self.arena.slot_memory(self.index);
        // SAFETY: as in `deref`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(memory.as_ptr(), self.arena.slot_bytes) }
    }
}

impl AsRef<[u8]> for Slot {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.arena
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(self.index);
        self.arena.available.add_permits(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dropped_slot_is_handed_out_again_and_no_more_than_all_at_once() {
        let arena = Arena::new(2, 4096).expect("mmap");
        let first = arena.acquire().await;
        let second = arena.acquire().await;
        assert_ne!(first.index(), second.index());

        let waiting = tokio::spawn({
            let arena = arena.clone();
            async move { arena.acquire().await.index() }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        let freed = first.index();
        drop(first);
        assert_eq!(waiting.await.expect("join"), freed);
    }

    #[tokio::test]
    async fn slots_are_aligned_and_do_not_overlap() {
        let arena = Arena::new(3, 8192).expect("mmap");
        let mut slots = Vec::new();
        for fill in 1..=3u8 {
            let mut slot = arena.acquire().await;
            assert_eq!(slot.as_ptr().align_offset(SLOT_ALIGNMENT), 0);
            slot.fill(fill);
            slots.push(slot);
        }
        for (slot, fill) in slots.iter().zip(1..=3u8) {
            assert!(slot.iter().all(|&byte| byte == fill));
        }
    }
}
