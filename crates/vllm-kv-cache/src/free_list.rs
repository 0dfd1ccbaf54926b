//! The order in which free blocks are used again.

use crate::ring::Rings;
use crate::{BlockId, NULL_BLOCK};

/// Free blocks, the next one to be allocated first.
///
/// The null block is never free, so its link serves as both ends of the list.
#[derive(Debug)]
pub(crate) struct FreeList {
    rings: Rings,
    len: usize,
}

impl FreeList {
    /// All blocks but the null block, in ascending order.
    pub(crate) fn new(num_blocks: u32) -> Self {
        let mut list = Self {
            rings: Rings::new(num_blocks),
            len: 0,
        };
        for block in NULL_BLOCK + 1..num_blocks {
            list.push_back(block);
        }
        list
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Takes the head: the block that is least worth keeping.
    pub(crate) fn pop_front(&mut self) -> Option<BlockId> {
        let block = self.rings.next(NULL_BLOCK);
        if block == NULL_BLOCK {
            return None;
        }
        self.remove(block);
        Some(block)
    }

    /// Appends at the tail: reused last.
    pub(crate) fn push_back(&mut self, block: BlockId) {
        self.rings.insert_before(NULL_BLOCK, block);
        self.len += 1;
    }

    /// Prepends at the head: reused first.
    pub(crate) fn push_front(&mut self, block: BlockId) {
        let head = self.rings.next(NULL_BLOCK);
        self.rings.insert_before(head, block);
        self.len += 1;
    }

    /// Takes `block`, which must be in the list, out of any place.
    pub(crate) fn remove(&mut self, block: BlockId) {
        debug_assert!(!self.rings.is_alone(block), "block {block} is not free");
        self.rings.unlink(block);
        self.len -= 1;
    }

    #[cfg(test)]
    pub(crate) fn to_vec(&self) -> Vec<BlockId> {
        let next = |&block: &BlockId| Some(self.rings.next(block));
        std::iter::successors(next(&NULL_BLOCK), next)
            .take_while(|&b| b != NULL_BLOCK)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_ascending_and_without_the_null_block() {
        let list = FreeList::new(5);
        assert_eq!(list.to_vec(), [1, 2, 3, 4]);
        assert_eq!(list.len(), 4);
    }

    #[test]
    fn takes_from_the_head_and_gives_to_both_ends() {
        let mut list = FreeList::new(5);
        assert_eq!(list.pop_front(), Some(1));
        assert_eq!(list.pop_front(), Some(2));
        list.push_back(1);
        list.push_front(2);
        assert_eq!(list.to_vec(), [2, 3, 4, 1]);
        list.remove(4);
        assert_eq!(list.to_vec(), [2, 3, 1]);
        assert_eq!(list.len(), 3);
    }

    #[test]
    fn runs_empty_and_fills_again() {
        let mut list = FreeList::new(2);
        assert_eq!(list.pop_front(), Some(1));
        assert_eq!(list.pop_front(), None);
        list.push_front(1);
        assert_eq!(list.to_vec(), [1]);
    }
}
