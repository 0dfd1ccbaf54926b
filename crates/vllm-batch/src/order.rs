//! From the order in which rows finish back to their own.

use std::collections::BTreeMap;

/// Holds items back until it is their turn.
///
/// ```
/// let mut seen = Vec::new();
/// let mut in_order = vllm_batch::InOrder::starting_at(0);
/// for (index, item) in [(1, 'b'), (0, 'a'), (2, 'c')] {
///     in_order.push(index, item, |item| Ok::<_, ()>(seen.push(item))).unwrap();
/// }
/// assert_eq!(seen, ['a', 'b', 'c']);
/// ```
#[derive(Debug)]
pub struct InOrder<T> {
    next: u64,
    waiting: BTreeMap<u64, T>,
}

impl<T> InOrder<T> {
    /// The first item will have this index.
    pub fn starting_at(first: u64) -> Self {
        Self {
            next: first,
            waiting: BTreeMap::new(),
        }
    }

    /// Takes an item, and gives `emit` all whose turn it is. A second item with an index is
    /// dropped.
    ///
    /// # Errors
    /// Those of `emit`.
    pub fn push<E>(
        &mut self,
        index: u64,
        item: T,
        mut emit: impl FnMut(T) -> Result<(), E>,
    ) -> Result<(), E> {
        if index >= self.next {
            self.waiting.entry(index).or_insert(item);
        }
        while let Some(item) = self.waiting.remove(&self.next) {
            self.next += 1;
            emit(item)?;
        }
        Ok(())
    }
}
