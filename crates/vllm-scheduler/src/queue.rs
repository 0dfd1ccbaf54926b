//! Requests that wait for admission.

use std::collections::BTreeMap;

use crate::requests::Slot;

/// Place in the queue, lowest first. A request keeps its place when it is preempted.
///
/// Under FCFS that is the same as putting it back at the front: only the latest admitted request
/// is preempted, so it arrived before everybody who waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct QueuePlace {
    /// 0 for everybody under FCFS.
    pub(crate) priority: i64,
    /// Number of the request in the order of arrival.
    pub(crate) arrival: u64,
}

/// The waiting requests in order; every operation is O(log n), removal from the middle too.
#[derive(Debug, Default)]
pub(crate) struct WaitingQueue {
    slots: BTreeMap<QueuePlace, Slot>,
}

impl WaitingQueue {
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn first(&self) -> Option<Slot> {
        self.slots.first_key_value().map(|(_, slot)| *slot)
    }

    pub(crate) fn insert(&mut self, place: QueuePlace, slot: Slot) {
        let previous = self.slots.insert(place, slot);
        debug_assert!(previous.is_none(), "two requests at {place:?}");
    }

    pub(crate) fn remove(&mut self, place: QueuePlace) {
        let removed = self.slots.remove(&place);
        debug_assert!(removed.is_some(), "nobody waits at {place:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_by_priority_then_arrival() {
        let mut queue = WaitingQueue::default();
        let places = [(0, 3), (-1, 4), (0, 1), (5, 0)];
        for (slot, (priority, arrival)) in (0..).zip(places) {
            queue.insert(QueuePlace { priority, arrival }, slot);
        }
        queue.remove(QueuePlace {
            priority: 0,
            arrival: 3,
        });
        let mut order = Vec::new();
        while let Some(slot) = queue.first() {
            let (priority, arrival) = places[slot as usize];
            queue.remove(QueuePlace { priority, arrival });
            order.push(slot);
        }
        assert_eq!(order, [1, 2, 3]);
    }
}
