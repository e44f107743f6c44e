//! Records waiting to become a part of an upload.
//!
//! A raw chunk waits in its own slot. Compressed ones share: each is copied behind the one before,
//! as long as its slot has room, and its own slot goes home. So a part's records hold no more than
//! twice their bytes in slots, and no memory outside the arena.
//!
//! Ordering rule: a slot takes more records only while nobody else has seen it. When something else
//! comes behind it, or a part is taken, it is closed for good.

use std::{collections::VecDeque, ops::Range};

use bytes::Bytes;

use crate::{arena::Slot, store::Payload};

/// Pieces waiting to become a part, in order.
#[derive(Default)]
pub(crate) struct PartBuffer {
    closed: VecDeque<Bytes>,
    /// Comes behind those that are closed.
    open: Option<Shared>,
    bytes: usize,
}

/// A slot with several records, one behind the other.
struct Shared {
    slot: Slot,
    filled: Range<usize>,
}

impl PartBuffer {
    /// Appends bytes that stay where they are.
    pub(crate) fn push(&mut self, piece: Bytes) {
        self.close();
        self.bytes += piece.len();
        self.closed.push_back(piece);
    }

    /// Appends these bytes of a slot, which goes home if they find room elsewhere.
    pub(crate) fn push_slot(&mut self, slot: Slot, range: Range<usize>) {
        self.bytes += range.len();
        if let Some(shared) = &mut self.open
            && shared.take_in(&slot[range.clone()])
        {
            return;
        }
        self.close();
        self.open = Some(Shared {
            slot,
            filled: range,
        });
    }

    /// A part of exactly `part_bytes`, as soon as there is more than one: the last part is
    /// whatever is left at the end.
    pub(crate) fn take_full(&mut self, part_bytes: u32) -> Option<Payload> {
        let part_bytes = part_bytes as usize;
        (self.bytes > part_bytes).then(|| self.take(part_bytes))
    }

    pub(crate) fn take_rest(&mut self) -> Payload {
        self.take(self.bytes)
    }

    fn take(&mut self, mut wanted: usize) -> Payload {
        self.close();
        let mut payload = Payload::default();
        self.bytes -= wanted;
        while wanted > 0 {
            let mut piece = self.closed.pop_front().expect("`bytes` is the sum of them");
            if piece.len() > wanted {
                self.closed.push_front(piece.split_off(wanted));
            }
            wanted -= piece.len();
            payload.push(piece);
        }
        payload
    }

    fn close(&mut self) {
        if let Some(Shared { slot, filled }) = self.open.take() {
            self.closed.push_back(Bytes::from_owner(slot).slice(filled));
        }
    }
}

impl Shared {
    /// Whether there was room.
    fn take_in(&mut self, bytes: &[u8]) -> bool {
        let Some(room) = self.slot[self.filled.end..].get_mut(..bytes.len()) else {
            return false;
        };
        room.copy_from_slice(bytes);
        self.filled.end += bytes.len();
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::arena::Arena;

    const SLOT_BYTES: usize = 4096;

    fn slot_of(arena: &Arena, bytes: &[u8]) -> Slot {
        let acquired = futures::FutureExt::now_or_never(arena.acquire());
        let mut slot = acquired.expect("a slot is free");
        slot[..bytes.len()].copy_from_slice(bytes);
        slot
    }

    proptest! {
        #[test]
        fn parts_are_of_one_size_and_hold_every_byte_in_order(
            pieces in proptest::collection::vec(
                (any::<bool>(), proptest::collection::vec(any::<u8>(), 0..70)), 0..40),
            part_bytes in 1..100u32,
        ) {
            let arena = Arena::new(100, SLOT_BYTES).expect("mmap");
            let mut buffer = PartBuffer::default();
            let mut parts = Vec::new();
            for (is_shared, piece) in &pieces {
                if *is_shared {
                    buffer.push_slot(slot_of(&arena, piece), 0..piece.len());
                } else {
                    buffer.push(Bytes::copy_from_slice(piece));
                }
                while let Some(part) = buffer.take_full(part_bytes) {
                    prop_assert_eq!(part.len(), u64::from(part_bytes));
                    parts.push(part);
                }
            }
            let rest = buffer.take_rest();
            prop_assert!(rest.len() <= u64::from(part_bytes));
            parts.push(rest);
            let sent: Vec<u8> = parts
                .iter()
                .flat_map(|part| part.pieces().iter().flat_map(|piece| piece.to_vec()))
                .collect();
            let given: Vec<u8> = pieces.into_iter().flat_map(|(_, piece)| piece).collect();
            prop_assert_eq!(sent, given);
        }

        #[test]
        fn records_that_wait_hold_at_most_twice_their_bytes_in_slots(
            lens in proptest::collection::vec(1..=SLOT_BYTES, 1..60),
        ) {
            let arena = Arena::new(61, SLOT_BYTES).expect("mmap");
            let mut buffer = PartBuffer::default();
            let mut bytes = 0;
            for len in lens {
                bytes += len;
                if len == SLOT_BYTES {
                    let slot = slot_of(&arena, &[7; SLOT_BYTES]);
                    buffer.push(Bytes::from_owner(slot));
                } else {
                    buffer.push_slot(slot_of(&arena, &[7; SLOT_BYTES]), 0..len);
                }
                let mut free = Vec::new();
                while let Some(slot) = futures::FutureExt::now_or_never(arena.acquire()) {
                    free.push(slot);
                }
                let held = (arena.slots() - free.len()) * SLOT_BYTES;
                prop_assert!(held <= 2 * bytes + SLOT_BYTES, "{held} for {bytes}");
            }
        }
    }
}
