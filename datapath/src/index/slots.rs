//! An open-addressed hash table of record numbers, five bytes each.
//!
//! Keys are not in it: who asks says whether a record has the key. A byte of the key is, so that
//! hardly any other record is looked at. Nothing is ever removed.

/// First 128 bits of a chunk's id: BLAKE3's output, so that any of its bits are a hash.
pub(super) type Key = [u8; 16];

/// A tag (0: empty), and a record's number, little-endian.
type Slot = [u8; 5];

/// Memory of one slot.
pub(super) const SLOT_BYTES: usize = size_of::<Slot>();

/// See the module.
#[derive(Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    taken: usize,
}

impl Slots {
    /// So many empty slots.
    pub(super) fn new(slots: usize) -> Self {
        Self {
            slots: vec![[0; SLOT_BYTES]; slots],
            taken: 0,
        }
    }

    /// Number of slots, whether taken or not.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Memory that it has.
    pub(super) fn bytes(&self) -> usize {
        self.slots.capacity() * SLOT_BYTES
    }

    /// Slots that are taken at most: of eight, one stays empty, so that a search soon ends.
    pub(super) fn capacity_of(slots: usize) -> usize {
        slots / 8 * 7
    }

    /// Whether it takes no record more.
    pub(super) fn is_full(&self) -> bool {
        self.taken >= Self::capacity_of(self.slots.len())
    }

    /// The record with this key, which `has_key` recognises by its number.
    pub(super) fn find(&self, key: &Key, has_key: impl Fn(u32) -> bool) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        let wanted = tag(key);
        let mut at = self.home(key);
        loop {
            let [tag, number @ ..] = self.slots[at];
            if tag == 0 {
                return None;
            }
            let number = u32::from_le_bytes(number);
            if tag == wanted && has_key(number) {
                return Some(number);
            }
            at = self.after(at);
        }
    }

    /// Adds a record; its key must be new, and there must be room.
    pub(super) fn insert(&mut self, key: &Key, number: u32) {
        debug_assert!(!self.is_full());
        let mut at = self.home(key);
        while self.slots[at][0] != 0 {
            at = self.after(at);
        }
        let [a, b, c, d] = number.to_le_bytes();
        self.slots[at] = [tag(key), a, b, c, d];
        self.taken += 1;
    }

    /// Where the search for a key begins: its first bits as a fraction of the table.
    fn home(&self, key: &Key) -> usize {
        let hash = u64::from_be_bytes(*key.first_chunk().expect("a key has 16 bytes"));
        let at = (u128::from(hash) * self.slots.len() as u128) >> 64;
        usize::try_from(at).expect("less than the number of slots")
    }

    fn after(&self, at: usize) -> usize {
        if at + 1 == self.slots.len() {
            0
        } else {
            at + 1
        }
    }
}

/// Bits that do not say where the search begins.
fn tag(key: &Key) -> u8 {
    key[15].max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_found_though_keys_begin_and_end_alike_and_at_the_last_slot() {
        let mut slots = Slots::new(16);
        assert_eq!(Slots::capacity_of(16), 14);
        // All of them belong into the last slot, under one tag.
        let keys: Vec<Key> = (0..14)
            .map(|n| {
                let mut key = [0xff; 16];
                key[10] = n;
                key
            })
            .collect();
        for (number, key) in (0..).zip(&keys) {
            slots.insert(key, number);
        }
        assert!(slots.is_full());
        for (number, key) in (0..).zip(&keys) {
            let found = slots.find(key, |number| keys[number as usize] == *key);
            assert_eq!(found, Some(number));
        }
        assert_eq!(slots.find(&[0xff; 16], |_| false), None);
        assert_eq!(slots.find(&[0; 16], |_| true), None, "another tag");
        assert_eq!(Slots::default().find(&[0; 16], |_| true), None);
    }
}
