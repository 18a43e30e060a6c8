//! Bits by share slot.

#[derive(Clone, Debug, Default)]
pub(in crate::store) struct Bitmap {
    words: Vec<u64>,
}

impl Bitmap {
    pub(in crate::store) fn get(&self, bit: u32) -> bool {
        self.words.get(bit as usize / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }

    pub(in crate::store) fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// The bits that are set.
    pub(in crate::store) fn ones(&self) -> impl Iterator<Item = u32> + '_ {
        let of_word = |(number, word): (u32, &u64)| {
            let word = *word;
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| number * 64 + bit)
        };
        (0..).zip(&self.words).filter(|(_, word)| **word != 0).flat_map(of_word)
    }

    pub(in crate::store) fn set(&mut self, bit: u32, value: bool) {
        let word = bit as usize / 64;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let mask = 1 << (bit % 64);
        if value {
            self.words[word] |= mask;
        } else {
            self.words[word] &= !mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_independent() {
        let mut bits = Bitmap::default();
        bits.set(130, true);
        bits.set(3, true);
        bits.set(3, false);
        assert!(bits.get(130) && !bits.get(3) && !bits.get(131) && !bits.get(9_999));
    }
}
