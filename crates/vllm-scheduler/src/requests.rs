//! Storage of unfinished requests.

use std::ops::{Index, IndexMut};

use rustc_hash::FxHashMap;

use crate::RequestId;
use crate::request::Request;

/// Where a request is stored; reused after it has ended.
pub(crate) type Slot = u32;

/// Requests by slot, and slots by id.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    slots: Vec<Option<Request>>,
    vacant: Vec<Slot>,
    by_id: FxHashMap<RequestId, Slot>,
}

impl Requests {
    pub(crate) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    pub(crate) fn slot(&self, id: RequestId) -> Option<Slot> {
        self.by_id.get(&id).copied()
    }

    pub(crate) fn get(&self, id: RequestId) -> Option<&Request> {
        self.slot(id).map(|slot| &self[slot])
    }

    pub(crate) fn get_mut(&mut self, id: RequestId) -> Option<&mut Request> {
        self.slot(id).map(|slot| &mut self[slot])
    }

    pub(crate) fn is_occupied(&self, slot: Slot) -> bool {
        self.slots[slot as usize].is_some()
    }

    pub(crate) fn insert(&mut self, request: Request) -> Slot {
        let slot = self.vacant.pop().unwrap_or(self.slots.len() as Slot);
        self.by_id.insert(request.id, slot);
        match self.slots.get_mut(slot as usize) {
            Some(place) => *place = Some(request),
            None => self.slots.push(Some(request)),
        }
        slot
    }

    pub(crate) fn remove(&mut self, slot: Slot) {
        if let Some(request) = self.slots[slot as usize].take() {
            self.by_id.remove(&request.id);
            self.vacant.push(slot);
        }
    }
}

impl Index<Slot> for Requests {
    type Output = Request;

    fn index(&self, slot: Slot) -> &Request {
        match &self.slots[slot as usize] {
            Some(request) => request,
            None => panic!("slot {slot} is vacant"),
        }
    }
}

impl IndexMut<Slot> for Requests {
    fn index_mut(&mut self, slot: Slot) -> &mut Request {
        match &mut self.slots[slot as usize] {
            Some(request) => request,
            None => panic!("slot {slot} is vacant"),
        }
    }
}
