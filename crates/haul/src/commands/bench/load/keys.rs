//! Which files are asked for.

use clap::ValueEnum;

/// How often which file is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeyChoice {
    /// All alike.
    Uniform,
    /// The n-th most popular one with weight 1/n.
    Zipf,
}

/// A small generator of numbers that look random and follow from a seed (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// The same seed throws the same numbers.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub(crate) fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ bits >> 31
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.throw()) * u128::from(end)) >> 64) as u64
    }

    /// At least 0, below 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        (self.throw() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Chooses files.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    dice: Dice,
    choice: KeyChoice,
    files: u64,
    /// Only so many different files are asked for.
    hot: Option<u64>,
}

impl Keys {
    /// Of `files` files; with `hot` of that many of them.
    pub(crate) fn new(seed: u64, choice: KeyChoice, files: u64, hot: Option<u64>) -> Self {
        Self { dice: Dice::new(seed), choice, files, hot: hot.map(|hot| hot.clamp(1, files)) }
    }

    /// The next file.
    pub(crate) fn next_file(&mut self) -> u64 {
        let among = self.hot.unwrap_or(self.files);
        let rank = match self.choice {
            KeyChoice::Uniform => self.dice.below(among),
            // The inverse of the continuous distribution with density 1/x on 1..among + 1.
            KeyChoice::Zipf => {
                let rank = ((among + 1) as f64).powf(self.dice.fraction()) as u64;
                rank.clamp(1, among) - 1
            }
        };
        // Popular files stand everywhere: an odd factor reaches every number of a power of two, so walk back into
        // range until one fits.
        let space = self.files.next_power_of_two();
        let mut file = rank;
        loop {
            file = file.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x632b_e59b) & (space - 1);
            if file < self.files {
                return file;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn uniform_keys_reach_everything_and_hot_ones_few() {
        let mut keys = Keys::new(1, KeyChoice::Uniform, 1_000, None);
        let seen: BTreeSet<u64> = (0..20_000).map(|_| keys.next_file()).collect();
        assert_eq!((seen.len(), seen.last()), (1_000, Some(&999)));
        let mut keys = Keys::new(1, KeyChoice::Uniform, 1_000, Some(10));
        let seen: BTreeSet<u64> = (0..2_000).map(|_| keys.next_file()).collect();
        assert_eq!(seen.len(), 10);
    }

    #[test]
    fn zipf_keys_are_unequal() {
        let mut keys = Keys::new(7, KeyChoice::Zipf, 10_000, None);
        let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
        (0..100_000).for_each(|_| *counts.entry(keys.next_file()).or_default() += 1);
        let mut counts: Vec<u64> = counts.into_values().collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        // ln 2 / ln 10,001 of all asks are for the first one.
        assert!((7_000..8_200).contains(&counts.first().copied().unwrap_or_default()), "{:?}", counts.first());
        assert!(counts.len() > 5_000);
    }

    #[test]
    fn dice_repeat() {
        let throws = |seed| (0..4).map(|_| Dice::new(seed).throw()).collect::<Vec<_>>();
        assert_eq!(throws(5), throws(5));
        assert_ne!(throws(5), throws(6));
        let mut dice = Dice::new(1);
        assert!((0..1_000).all(|_| dice.fraction() < 1.0 && dice.below(3) < 3));
    }
}
