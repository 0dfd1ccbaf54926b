//! Doubly linked rings over the indices of one flat vector.

/// Every index is in exactly one ring; an index that is linked to nobody is a ring of one.
///
/// All operations are O(1), and none allocates after construction.
#[derive(Debug)]
pub(crate) struct Rings {
    links: Vec<Link>,
}

#[derive(Debug, Clone, Copy)]
struct Link {
    previous: u32,
    next: u32,
}

impl Rings {
    /// `count` rings of one.
    pub(crate) fn new(count: u32) -> Self {
        let links = (0..count)
            .map(|index| Link {
                previous: index,
                next: index,
            })
            .collect();
        Self { links }
    }

    pub(crate) fn next(&self, index: u32) -> u32 {
        self.links[index as usize].next
    }

    pub(crate) fn previous(&self, index: u32) -> u32 {
        self.links[index as usize].previous
    }

    pub(crate) fn is_alone(&self, index: u32) -> bool {
        self.next(index) == index
    }

    /// Links the lone `index` into the ring of `place`, just before it.
    pub(crate) fn insert_before(&mut self, place: u32, index: u32) {
        debug_assert!(self.is_alone(index), "{index} is linked already");
        let previous = self.previous(place);
        self.links[index as usize] = Link {
            previous,
            next: place,
        };
        self.links[previous as usize].next = index;
        self.links[place as usize].previous = index;
    }

    /// Takes `index` out of its ring; it is alone afterwards.
    pub(crate) fn unlink(&mut self, index: u32) {
        let Link { previous, next } = self.links[index as usize];
        self.links[previous as usize].next = next;
        self.links[next as usize].previous = previous;
        self.links[index as usize] = Link {
            previous: index,
            next: index,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(rings: &Rings, start: u32) -> Vec<u32> {
        let mut found = vec![start];
        let mut index = rings.next(start);
        while index != start {
            assert_eq!(rings.next(rings.previous(index)), index);
            found.push(index);
            index = rings.next(index);
        }
        found
    }

    #[test]
    fn inserts_before_and_unlinks_anywhere() {
        let mut rings = Rings::new(5);
        for index in 1..5 {
            rings.insert_before(0, index);
        }
        assert_eq!(members(&rings, 0), [0, 1, 2, 3, 4]);
        rings.unlink(2);
        rings.unlink(4);
        assert_eq!(members(&rings, 0), [0, 1, 3]);
        assert!(rings.is_alone(2) && rings.is_alone(4));
        rings.insert_before(1, 4);
        assert_eq!(members(&rings, 0), [0, 4, 1, 3]);
        for index in [1, 3, 4] {
            rings.unlink(index);
        }
        assert!(rings.is_alone(0));
    }
}
