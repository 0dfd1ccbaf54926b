//! Sets of characters.

/// A set of characters as ranges of code points, sorted and apart from each other.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Chars(Vec<(u32, u32)>);

impl Chars {
    pub(super) fn all() -> Self {
        Self(vec![(0, u32::from(char::MAX))])
    }

    pub(super) fn one(char: char) -> Self {
        Self(vec![(char.into(), char.into())])
    }

    pub(super) fn class(ranges: &[(char, char)], negated: bool) -> Self {
        let ranges = ranges
            .iter()
            .map(|&(first, last)| (first.into(), last.into()));
        let set = Self::default().joined(ranges);
        match negated {
            true => set.complement(),
            false => set,
        }
    }

    /// Adds `other`; tells whether that changed anything.
    pub(super) fn add(&mut self, other: &Self) -> bool {
        let joined = self.joined(other.0.iter().copied());
        let is_changed = joined != *self;
        *self = joined;
        is_changed
    }

    pub(super) fn meets(&self, other: &Self) -> bool {
        let (mut left, mut right) = (self.0.iter().peekable(), other.0.iter().peekable());
        while let (Some((left_first, left_last)), Some((right_first, right_last))) =
            (left.peek(), right.peek())
        {
            if left_last < right_first {
                left.next();
            } else if right_last < left_first {
                right.next();
            } else {
                return true;
            }
        }
        false
    }

    fn joined(&self, ranges: impl Iterator<Item = (u32, u32)>) -> Self {
        let mut all: Vec<(u32, u32)> = self.0.iter().copied().chain(ranges).collect();
        all.sort_unstable();
        let mut joined: Vec<(u32, u32)> = Vec::with_capacity(all.len());
        for (first, last) in all {
            match joined.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => joined.push((first, last)),
            }
        }
        Self(joined)
    }

    fn complement(&self) -> Self {
        let mut gaps = Vec::new();
        let mut next = 0;
        for &(first, last) in &self.0 {
            if first > next {
                gaps.push((next, first - 1));
            }
            next = last + 1;
        }
        if next <= u32::from(char::MAX) {
            gaps.push((next, char::MAX.into()));
        }
        Self(gaps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_meet_where_they_share_a_character() {
        let check = |left: &[(char, char)], right: &[(char, char)], expected: bool| {
            let (left, right) = (Chars::class(left, false), Chars::class(right, false));
            assert_eq!(left.meets(&right), expected);
            assert_eq!(right.meets(&left), expected);
            let outside = left.complement();
            assert!(!outside.meets(&left));
            assert_eq!(outside.complement(), left);
        };
        check(&[('a', 'c'), ('x', 'z')], &[('d', 'w')], false);
        check(&[('a', 'c'), ('x', 'z')], &[('d', 'x')], true);
        check(&[('\0', '\0')], &[('\0', char::MAX)], true);
        check(&[], &[('a', 'z')], false);
    }

    #[test]
    fn ranges_that_touch_are_one() {
        let mut set = Chars::class(&[('d', 'f'), ('a', 'b')], false);
        assert!(set.add(&Chars::one('c')));
        assert!(!set.add(&Chars::one('e')));
        assert_eq!(set, Chars::class(&[('a', 'f')], false));
    }
}
