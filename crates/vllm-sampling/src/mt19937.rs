//! The Mersenne Twister MT19937 of Matsumoto and Nishimura (1998), 32-bit outputs.

const STATE_WORDS: usize = 624;
const SHIFT_WORDS: usize = 397;
const TWIST: u32 = 0x9908_b0df;
const UPPER_BIT: u32 = 0x8000_0000;

/// The generator.
#[derive(Clone)]
pub(crate) struct Mt19937 {
    state: [u32; STATE_WORDS],
    next: usize,
}

impl Mt19937 {
    /// The published `init_genrand(seed)`.
    pub(crate) fn new(seed: u32) -> Self {
        let mut state = [seed; STATE_WORDS];
        let mut previous = seed;
        for (word, index) in state.iter_mut().zip(0_u32..).skip(1) {
            previous = (previous ^ (previous >> 30))
                .wrapping_mul(1_812_433_253)
                .wrapping_add(index);
            *word = previous;
        }
        Self {
            state,
            next: STATE_WORDS,
        }
    }

    /// The next 32 random bits.
    pub(crate) fn next_u32(&mut self) -> u32 {
        if self.next >= STATE_WORDS {
            self.twist();
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    fn twist(&mut self) {
        for index in 0..STATE_WORDS {
            let upper = self.state[index] & UPPER_BIT;
            let lower = self.state[(index + 1) % STATE_WORDS] & !UPPER_BIT;
            let joined = upper | lower;
            let twisted = (joined >> 1) ^ if joined & 1 == 1 { TWIST } else { 0 };
            self.state[index] = self.state[(index + SHIFT_WORDS) % STATE_WORDS] ^ twisted;
        }
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_equal_the_published_ones() {
        let mut generator = Mt19937::new(5489);
        let first: Vec<u32> = (0..5).map(|_| generator.next_u32()).collect();
        assert_eq!(
            first,
            [
                3_499_211_612,
                581_869_302,
                3_890_346_734,
                3_586_334_585,
                545_404_204
            ]
        );
        // The C++ standard fixes the 10,000th output of the default seed.
        let last = (5..10_000).map(|_| generator.next_u32()).last();
        assert_eq!(last, Some(4_123_659_995));
    }
}
