//! Whether a lexer that takes the longest token it can finds every text of a grammar.
//!
//! It does if one character of look-ahead always tells what comes next: no two options begin
//! alike, and no token could go on with a character that may also follow it. These are the
//! conditions of LL(1) parsing, checked over characters.

use super::chars::Chars;
use super::parser::{Expression, Rule};

/// Grammars that need more passes until nothing changes count as ambiguous.
const MAX_PASSES: usize = 32;

/// Whether each part of `rules` for which `is_token` holds may be one token.
pub(super) fn is_unambiguous(
    rules: &[Rule],
    number_of: &dyn Fn(&str) -> usize,
    is_token: &dyn Fn(&Expression) -> bool,
) -> bool {
    let mut analysis = Analysis {
        number_of,
        is_token,
        shapes: vec![Shape::default(); rules.len()],
        follows: vec![Chars::default(); rules.len()],
        is_changed: true,
        is_unambiguous: true,
    };
    for _ in 0..MAX_PASSES {
        analysis.is_changed = false;
        // Rules are mostly defined after their use.
        for (number, rule) in rules.iter().enumerate().rev() {
            let shape = analysis.shape(&rule.body);
            let known = &mut analysis.shapes[number];
            analysis.is_changed |= *known != shape;
            *known = shape;
        }
        if !analysis.is_changed {
            break;
        }
    }
    if analysis.is_changed {
        return false;
    }
    for _ in 0..MAX_PASSES {
        analysis.is_changed = false;
        for (number, rule) in rules.iter().enumerate() {
            let follow = analysis.follows[number].clone();
            analysis.check(&rule.body, &follow);
        }
        if !analysis.is_changed || !analysis.is_unambiguous {
            break;
        }
    }
    analysis.is_unambiguous && !analysis.is_changed
}

/// What the texts of an expression look like; sets may hold more than they need to.
#[derive(Clone, Default, PartialEq)]
struct Shape {
    /// The empty text is one of them.
    is_nullable: bool,
    /// Characters that they begin with.
    first: Chars,
    /// Characters with which a complete text goes on to a longer one.
    beyond: Chars,
    /// All their characters.
    alphabet: Chars,
}

impl Shape {
    fn of_class(chars: Chars) -> Self {
        Self {
            first: chars.clone(),
            alphabet: chars,
            ..Self::default()
        }
    }

    fn empty_text() -> Self {
        Self {
            is_nullable: true,
            ..Self::default()
        }
    }

    fn then(mut self, next: &Self) -> Self {
        let ends_early =
            self.beyond.meets(&next.first) || (self.is_nullable && self.first.meets(&next.first));
        self.alphabet.add(&next.alphabet);
        let mut beyond = next.beyond.clone();
        if next.is_nullable {
            beyond.add(&self.beyond);
            beyond.add(&next.first);
        }
        // Where one text can be read in two ways, any character may be the one that goes on.
        self.beyond = match ends_early {
            true => self.alphabet.clone(),
            false => beyond,
        };
        if self.is_nullable {
            self.first.add(&next.first);
        }
        self.is_nullable &= next.is_nullable;
        self
    }

    fn or(mut self, other: &Self) -> Self {
        let begin_alike = self.first.meets(&other.first);
        self.alphabet.add(&other.alphabet);
        self.beyond.add(&other.beyond);
        if self.is_nullable {
            self.beyond.add(&other.first);
        }
        if other.is_nullable {
            self.beyond.add(&self.first.clone());
        }
        if begin_alike {
            self.beyond = self.alphabet.clone();
        }
        self.first.add(&other.first);
        self.is_nullable |= other.is_nullable;
        self
    }

    fn repeated(self, min: u32, max: Option<u32>) -> Self {
        let one_more = match max {
            Some(0) => return Self::empty_text(),
            Some(1) => self,
            _ => {
                let mut twice = self.clone().then(&self);
                if max != Some(min) {
                    // Fewer parts go on with the next one.
                    twice.beyond.add(&self.first);
                    twice.beyond.add(&self.beyond);
                }
                twice
            }
        };
        match min {
            0 => one_more.or(&Self::empty_text()),
            _ => one_more,
        }
    }
}

struct Analysis<'a> {
    number_of: &'a dyn Fn(&str) -> usize,
    is_token: &'a dyn Fn(&Expression) -> bool,
    shapes: Vec<Shape>,
    /// What may follow each rule.
    follows: Vec<Chars>,
    is_changed: bool,
    is_unambiguous: bool,
}

impl Analysis<'_> {
    fn shape(&self, expression: &Expression) -> Shape {
        match expression {
            Expression::Literal(text) => text.chars().fold(Shape::empty_text(), |shape, char| {
                shape.then(&Shape::of_class(Chars::one(char)))
            }),
            Expression::Class { negated, ranges } => {
                Shape::of_class(Chars::class(ranges, *negated))
            }
            Expression::AnyChar => Shape::of_class(Chars::all()),
            Expression::Reference(name) => self.shapes[(self.number_of)(name)].clone(),
            Expression::Sequence(parts) => parts.iter().fold(Shape::empty_text(), |shape, part| {
                shape.then(&self.shape(part))
            }),
            Expression::Choice(options) => {
                let shapes = options.iter().map(|option| self.shape(option));
                shapes
                    .reduce(|shape, other| shape.or(&other))
                    .unwrap_or_default()
            }
            Expression::Repeat { of, min, max } => self.shape(of).repeated(*min, *max),
        }
    }

    /// Looks for a place in `expression` where one character does not tell how to go on, given
    /// the characters that may follow it.
    fn check(&mut self, expression: &Expression, follow: &Chars) {
        if (self.is_token)(expression) {
            self.is_unambiguous &= !self.shape(expression).beyond.meets(follow);
            return;
        }
        match expression {
            Expression::Literal(_) | Expression::Class { .. } | Expression::AnyChar => {}
            Expression::Reference(name) => {
                let number = (self.number_of)(name);
                self.is_changed |= self.follows[number].add(follow);
            }
            Expression::Sequence(parts) => {
                let mut follow = follow.clone();
                for part in parts.iter().rev() {
                    self.check(part, &follow);
                    let shape = self.shape(part);
                    self.is_unambiguous &= !shape.is_nullable || !shape.first.meets(&follow);
                    let mut first = shape.first;
                    if shape.is_nullable {
                        first.add(&follow);
                    }
                    follow = first;
                }
            }
            Expression::Choice(options) => {
                let mut first = Chars::default();
                let mut nullable = 0;
                for option in options {
                    self.check(option, follow);
                    let shape = self.shape(option);
                    self.is_unambiguous &= !first.meets(&shape.first);
                    first.add(&shape.first);
                    nullable += usize::from(shape.is_nullable);
                }
                self.is_unambiguous &= nullable == 0 || (nullable == 1 && !first.meets(follow));
            }
            Expression::Repeat { of, max, .. } => {
                let shape = self.shape(of);
                self.is_unambiguous &= !shape.is_nullable && !shape.first.meets(follow);
                let mut follow = follow.clone();
                if max.is_none_or(|max| max > 1) {
                    follow.add(&shape.first);
                }
                self.check(of, &follow);
            }
        }
    }
}
