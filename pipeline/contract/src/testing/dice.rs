//! Seeded randomness. The algorithm (SplitMix64) is written here instead of taken from a crate, so that a seed noted in a regression test
//! still gives the same run after an upgrade.

use std::time::Duration;

/// A source of chance: the same seed gives the same throws.
#[derive(Debug, Clone)]
pub struct Dice {
    state: u64,
}

impl Dice {
    /// Dice for `seed`.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A second source, determined by this one and `purpose`. So the throws of one part do not shift those of another.
    #[must_use]
    pub fn fork(&self, purpose: u64) -> Self {
        let mut mixed = Self::new(self.state ^ purpose.wrapping_mul(0xd6e8_feb8_6659_fd93));
        Self::new(mixed.bits())
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.bits()) * u128::from(bound);
        u64::try_from(wide >> 64).expect("the upper half of a product of two 64-bit numbers has 64 bits")
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// True with `probability`.
    pub fn chance(&mut self, probability: f64) -> bool {
        // The number of throws does not depend on the probability, so two plans that differ in one fault stay comparable.
        let throw = self.below(1 << 32);
        #[expect(clippy::cast_precision_loss, reason = "32 bits fit the mantissa")]
        let fraction = throw as f64 / (1_u64 << 32) as f64;
        fraction < probability
    }

    /// A time in whole milliseconds, at most `longest`.
    pub fn time(&mut self, longest: Duration) -> Duration {
        Duration::from_millis(self.between(0, u64::try_from(longest.as_millis()).unwrap_or(u64::MAX - 1)))
    }

    /// One of `items`.
    ///
    /// # Panics
    /// When there are none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        let index = usize::try_from(self.below(items.len() as u64)).unwrap_or(0);
        items.get(index).expect("callers offer at least one item")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_throws_the_same() {
        let throws = |seed| {
            let mut dice = Dice::new(seed);
            (0..20).map(|_| dice.bits()).collect::<Vec<_>>()
        };
        assert_eq!(throws(7), throws(7));
        assert_ne!(throws(7), throws(8));
    }

    #[test]
    fn every_number_below_the_bound_comes_up_and_none_above() {
        let mut dice = Dice::new(1);
        let mut seen = [false; 6];
        for _ in 0..1000 {
            seen[usize::try_from(dice.below(6)).unwrap()] = true;
        }
        assert_eq!(seen, [true; 6]);
        assert_eq!(dice.below(0), 0);
    }

    #[test]
    fn chance_is_near_its_probability() {
        let mut dice = Dice::new(3);
        let hits = (0..10_000).filter(|_| dice.chance(0.25)).count();
        assert!((2_300..2_700).contains(&hits), "{hits}");
        assert!(!dice.chance(0.0));
        assert!(dice.chance(1.0));
    }
}
