//! A list that grows by one block at a time and never moves what is in it.
//!
//! A `Vec` that grows holds the old and the new memory for a moment; what has a hard bound cannot.

/// Items per block.
const BLOCK_ITEMS: usize = 4096;

/// See the module. What it takes is known before it is taken.
pub(super) struct Blocks<T> {
    /// Of fixed capacity. All but the last are full.
    blocks: Vec<Vec<T>>,
}

impl<T> Blocks<T> {
    const BLOCK_BYTES: usize = BLOCK_ITEMS * size_of::<T>();

    /// An empty list that will never take more than `bytes`.
    pub(super) fn within(bytes: usize) -> Self {
        Self {
            blocks: Vec::with_capacity(bytes / Self::BLOCK_BYTES),
        }
    }

    /// Memory that it has.
    pub(super) fn bytes(&self) -> usize {
        self.blocks.capacity() * size_of::<Vec<T>>() + self.blocks.len() * Self::BLOCK_BYTES
    }

    /// Memory that it takes for one item more; `None`: no more are taken.
    pub(super) fn bytes_of_next(&self) -> Option<usize> {
        match self.blocks.last() {
            Some(last) if last.len() < BLOCK_ITEMS => Some(0),
            _ if self.blocks.len() < self.blocks.capacity() => Some(Self::BLOCK_BYTES),
            _ => None,
        }
    }

    /// Appends an item; there must be room for it.
    pub(super) fn push(&mut self, item: T) {
        match self.blocks.last_mut() {
            Some(last) if last.len() < BLOCK_ITEMS => last.push(item),
            _ => {
                let mut block = Vec::with_capacity(BLOCK_ITEMS);
                block.push(item);
                self.blocks.push(block);
            }
        }
    }

    /// Number of items.
    pub(super) fn len(&self) -> usize {
        let full = self.blocks.len().saturating_sub(1) * BLOCK_ITEMS;
        full + self.blocks.last().map_or(0, Vec::len)
    }

    /// An item.
    pub(super) fn get(&self, at: usize) -> Option<&T> {
        self.blocks.get(at / BLOCK_ITEMS)?.get(at % BLOCK_ITEMS)
    }

    /// The item that was pushed last.
    pub(super) fn last_mut(&mut self) -> Option<&mut T> {
        self.blocks.last_mut()?.last_mut()
    }

    /// All items, in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.blocks.iter().flatten()
    }

    /// How many items at the beginning fulfil `holds`; behind them none does.
    pub(super) fn partition_point(&self, mut holds: impl FnMut(&T) -> bool) -> usize {
        let of_block = |block: &Vec<T>| block.first().is_some_and(&mut holds);
        let Some(block) = self.blocks.partition_point(of_block).checked_sub(1) else {
            return 0;
        };
        block * BLOCK_ITEMS + self.blocks[block].partition_point(holds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_what_it_said_and_no_more_than_it_may() {
        let mut list = Blocks::within(3 * BLOCK_ITEMS * 8 + 100);
        assert_eq!(list.len(), 0);
        assert!(list.get(0).is_none() && list.last_mut().is_none());
        while let Some(bytes) = list.bytes_of_next() {
            let before = list.bytes();
            list.push(list.len() as u64);
            assert_eq!(list.bytes(), before + bytes);
        }
        assert_eq!(list.len(), 3 * BLOCK_ITEMS);
        assert!(list.iter().copied().eq(0..list.len() as u64));
        assert_eq!(list.get(5000), Some(&5000));
        assert_eq!(list.get(list.len()), None);
        for point in [0, 1, 4095, 4096, 4097, 8192, 12_000, 12_288, 20_000] {
            let expected = usize::try_from(point).expect("small").min(list.len());
            assert_eq!(list.partition_point(|&item| item < point), expected);
        }
    }

    #[test]
    fn with_room_for_no_block_it_takes_nothing() {
        let list = Blocks::<u64>::within(BLOCK_ITEMS * 8 - 1);
        assert_eq!((list.bytes(), list.bytes_of_next()), (0, None));
    }
}
