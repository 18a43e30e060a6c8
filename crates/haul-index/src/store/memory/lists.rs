//! Lists of numbers, very many and mostly of length one: the rows of a document, the rows of a content, the children
//! of a directory.
//!
//! A list is four bytes in the record of whoever owns it. One number stands there itself; more stand in a block of a
//! pool, and more than a block holds in runs of about a thousand, so that one row among a million copies of the empty
//! file comes and goes as cheaply as any other. Numbers are below 2^31. Whoever owns a list decides its order; the
//! functions with `number` in their name keep it ascending.

mod pool;
mod runs;

use std::cmp::Ordering;

use pool::Pool;
use runs::Runs;

/// A list without numbers.
pub(in crate::store) const EMPTY: u32 = u32::MAX;

/// Marks a reference: a block of the pool, or with [`LARGE`] a number of runs.
const REFERENCE: u32 = 1 << 31;
const LARGE: u32 = 1 << 30;
/// Numbers of a list below which it goes back from runs into a block; half of what a block holds at most, or a list
/// at the border would move at every change.
const SMALL_AGAIN: usize = pool::MOST / 2;

/// A place in a list: run and place within it. All that is not in runs counts as one run.
pub(in crate::store) type At = (usize, usize);

/// What the four bytes say.
enum Form {
    Empty,
    One(u32),
    Block(u32),
    Runs(usize),
}

fn form(list: u32) -> Form {
    match list {
        EMPTY => Form::Empty,
        one if one < REFERENCE => Form::One(one),
        block if block & LARGE == 0 => Form::Block(block & !REFERENCE),
        runs => Form::Runs((runs & !(REFERENCE | LARGE)) as usize),
    }
}

/// All lists of more than one number.
#[derive(Debug, Default)]
pub(in crate::store) struct Lists {
    pool: Pool,
    runs: Vec<Runs>,
    free_runs: Vec<u32>,
}

impl Lists {
    /// Where a number stands or would stand; `compare` says how a number compares with the one wanted.
    pub(in crate::store) fn find(&self, list: u32, mut compare: impl FnMut(u32) -> Ordering) -> Result<At, At> {
        match form(list) {
            Form::Empty => Err((0, 0)),
            Form::One(number) => match compare(number) {
                Ordering::Equal => Ok((0, 0)),
                Ordering::Less => Err((0, 1)),
                Ordering::Greater => Err((0, 0)),
            },
            Form::Block(block) => {
                let numbers = self.pool.numbers(block);
                // The last one first: most come in order.
                if numbers.last().is_some_and(|last| compare(*last) == Ordering::Less) {
                    return Err((0, numbers.len()));
                }
                numbers.binary_search_by(|number| compare(*number)).map(|at| (0, at)).map_err(|at| (0, at))
            }
            Form::Runs(number) => self.runs[number].find(compare),
        }
    }

    /// Inserts at a place; what stands there and behind moves on.
    pub(in crate::store) fn insert(&mut self, list: &mut u32, at: At, number: u32) {
        debug_assert!(number < REFERENCE);
        match form(*list) {
            Form::Empty => *list = number,
            Form::One(other) => {
                let both = if at.1 == 0 { [number, other] } else { [other, number] };
                *list = self.block(&both);
            }
            Form::Block(block) if self.pool.numbers(block).len() < pool::MOST => {
                *list = REFERENCE | self.pool.insert(block, at.1, number);
            }
            Form::Block(block) => {
                let runs = Runs::of(self.pool.numbers(block).iter().copied());
                self.pool.free(block);
                *list = self.large(runs);
                let at = runs::place(at.1);
                self.insert(list, at, number);
            }
            Form::Runs(runs) => self.runs[runs].insert(at, number),
        }
    }

    /// Takes the number at a place out.
    pub(in crate::store) fn remove(&mut self, list: &mut u32, at: At) -> Option<u32> {
        match form(*list) {
            Form::Empty => None,
            Form::One(number) => {
                *list = EMPTY;
                Some(number)
            }
            Form::Block(block) => {
                let (removed, block) = self.pool.remove(block, at.1);
                *list = match self.pool.numbers(block) {
                    [one] => {
                        let one = *one;
                        self.pool.free(block);
                        one
                    }
                    _ => REFERENCE | block,
                };
                Some(removed)
            }
            Form::Runs(number) => {
                let removed = self.runs[number].remove(at);
                if self.runs[number].len() <= SMALL_AGAIN {
                    let numbers: Vec<u32> = std::mem::take(&mut self.runs[number]).iter_from((0, 0)).collect();
                    self.free_runs.push(number as u32);
                    *list = self.block(&numbers);
                }
                Some(removed)
            }
        }
    }

    /// Puts another number in a place.
    pub(in crate::store) fn set(&mut self, list: &mut u32, at: At, number: u32) {
        match form(*list) {
            Form::Empty => {}
            Form::One(_) => *list = number,
            Form::Block(block) => self.pool.set(block, at.1, number),
            Form::Runs(runs) => self.runs[runs].set(at, number),
        }
    }

    /// A new list of these numbers.
    pub(in crate::store) fn make(&mut self, numbers: impl ExactSizeIterator<Item = u32>) -> u32 {
        if numbers.len() > pool::MOST {
            return self.large(Runs::of(numbers));
        }
        let numbers: Vec<u32> = numbers.collect();
        match numbers.as_slice() {
            [] => EMPTY,
            [one] => *one,
            more => self.block(more),
        }
    }

    /// The numbers from a place on.
    pub(in crate::store) fn iter_from(&self, list: u32, at: At) -> impl Iterator<Item = u32> + '_ {
        let (one, block, runs) = match form(list) {
            Form::Empty => (None, [].as_slice(), None),
            Form::One(number) => ((at.1 == 0).then_some(number), [].as_slice(), None),
            Form::Block(block) => (None, self.pool.numbers(block).get(at.1..).unwrap_or_default(), None),
            Form::Runs(number) => (None, [].as_slice(), Some(self.runs[number].iter_from(at))),
        };
        one.into_iter().chain(block.iter().copied()).chain(runs.into_iter().flatten())
    }

    pub(in crate::store) fn iter(&self, list: u32) -> impl Iterator<Item = u32> + '_ {
        self.iter_from(list, (0, 0))
    }

    /// Whether lists may still grow; a little more fits even then, so that entries can always be removed.
    pub(in crate::store) fn have_room(&self) -> bool {
        self.pool.has_room()
    }

    /// The numbers of a list in one piece, if they are.
    pub(in crate::store) fn in_one_piece<'a>(&'a self, list: &'a u32) -> Option<&'a [u32]> {
        match form(*list) {
            Form::Empty => Some(&[]),
            Form::One(_) => Some(std::slice::from_ref(list)),
            Form::Block(block) => Some(self.pool.numbers(block)),
            Form::Runs(_) => None,
        }
    }

    /// Reads where a number would be added to a list; the result says nothing. See [`super::ahead`].
    pub(in crate::store) fn touch(&self, list: u32) -> u32 {
        match form(list) {
            Form::Block(block) => self.pool.numbers(block).last().copied().unwrap_or_default(),
            _ => 0,
        }
    }

    /// Reads where the numbers of a list start; the result says nothing. See [`super::ahead`].
    pub(in crate::store) fn touch_first(&self, list: u32) -> u32 {
        match form(list) {
            Form::Block(block) => self.pool.numbers(block).first().copied().unwrap_or_default(),
            _ => 0,
        }
    }

    /// How many numbers a list has.
    pub(in crate::store) fn len(&self, list: u32) -> usize {
        match form(list) {
            Form::Empty => 0,
            Form::One(_) => 1,
            Form::Block(block) => self.pool.numbers(block).len(),
            Form::Runs(number) => self.runs[number].len(),
        }
    }

    /// Where the last number stands.
    pub(in crate::store) fn last(&self, list: u32) -> Option<At> {
        match form(list) {
            Form::Empty => None,
            Form::One(_) => Some((0, 0)),
            Form::Block(block) => Some((0, self.pool.numbers(block).len() - 1)),
            Form::Runs(number) => self.runs[number].last(),
        }
    }

    /// Adds a number to an ascending list, where it must not be yet.
    pub(in crate::store) fn add_number(&mut self, list: &mut u32, number: u32) {
        if let Err(at) = self.find(*list, |other| other.cmp(&number)) {
            self.insert(list, at, number);
        }
    }

    /// Takes a number out of an ascending list.
    pub(in crate::store) fn remove_number(&mut self, list: &mut u32, number: u32) {
        if let Ok(at) = self.find(*list, |other| other.cmp(&number)) {
            self.remove(list, at);
        }
    }

    /// The numbers of an ascending list from `least` on.
    pub(in crate::store) fn numbers_from(&self, list: u32, least: u32) -> impl Iterator<Item = u32> + '_ {
        let (Ok(at) | Err(at)) = self.find(list, |other| other.cmp(&least));
        self.iter_from(list, at)
    }

    /// How many numbers of an ascending list are below `end`.
    pub(in crate::store) fn count_below(&self, list: u32, end: u32) -> usize {
        let (Ok(at) | Err(at)) = self.find(list, |other| other.cmp(&end));
        match form(list) {
            Form::Runs(number) => self.runs[number].before(at),
            _ => at.1,
        }
    }

    /// Bytes of all lists of more than one number.
    pub(in crate::store) fn bytes(&self) -> usize {
        self.pool.bytes() + self.runs.iter().map(Runs::bytes).sum::<usize>()
    }

    fn block(&mut self, numbers: &[u32]) -> u32 {
        REFERENCE | self.pool.make(numbers)
    }

    fn large(&mut self, runs: Runs) -> u32 {
        let number = if let Some(number) = self.free_runs.pop() {
            self.runs[number as usize] = runs;
            number
        } else {
            self.runs.push(runs);
            self.runs.len() as u32 - 1
        };
        REFERENCE | LARGE | number
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// Several lists share the pool; each is a set. The range decides which forms appear.
        #[test]
        fn lists_are_sets(
            range in prop_oneof![Just(4u32), Just(60), Just(5_000)],
            operations in proptest::collection::vec((0usize..3, any::<u32>(), 0u8..5), 0..6_000),
        ) {
            let mut lists = Lists::default();
            let mut owners = [EMPTY; 3];
            let mut models = [const { BTreeSet::new() }; 3];
            for (number, (owner, at, kind)) in operations.into_iter().enumerate() {
                let at = at % range;
                // First more come than go, then the other way round.
                if (kind < 4) == (number < 4_500) {
                    lists.add_number(&mut owners[owner], at);
                    models[owner].insert(at);
                } else {
                    lists.remove_number(&mut owners[owner], at);
                    models[owner].remove(&at);
                    // The next one takes another's place, as far as the order allows.
                    if let (Ok(place), false) =
                        (lists.find(owners[owner], |other| other.cmp(&(at + 1))), models[owner].contains(&at))
                    {
                        lists.set(&mut owners[owner], place, at);
                        models[owner].remove(&(at + 1));
                        models[owner].insert(at);
                    }
                }
            }
            for (list, model) in owners.iter().zip(&models) {
                prop_assert_eq!(lists.iter(*list).collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
                prop_assert_eq!(lists.len(*list), model.len());
                if let Some(numbers) = lists.in_one_piece(list) {
                    prop_assert!(numbers.iter().eq(model));
                }
                let middle = range / 2;
                let from: Vec<u32> = model.range(middle..).copied().collect();
                prop_assert_eq!(lists.numbers_from(*list, middle).collect::<Vec<_>>(), from);
                prop_assert_eq!(lists.count_below(*list, middle), model.range(..middle).count());
                let last = lists.last(*list).and_then(|at| lists.iter_from(*list, at).next());
                prop_assert_eq!(last, model.last().copied());
            }
        }
    }

    #[test]
    fn a_list_of_many_comes_and_goes_from_either_end_and_leaves_nothing() {
        let mut lists = Lists::default();
        for order in [0..100_000u32, 0..3_000] {
            let mut list = EMPTY;
            order.clone().for_each(|number| lists.add_number(&mut list, number.reverse_bits() >> 1));
            assert_eq!(lists.len(list), order.len());
            let made = lists.make(lists.iter(list).collect::<Vec<_>>().into_iter());
            assert!(lists.iter(made).eq(lists.iter(list)));
            for mut list in [list, made] {
                while let Some(at) = lists.last(list) {
                    lists.remove(&mut list, at);
                }
                assert_eq!(list, EMPTY);
            }
        }
        assert!(lists.runs.iter().all(|runs| runs.len() == 0));
        let held = lists.bytes();
        let again = lists.make(0..2_000);
        assert!(lists.len(again) == 2_000 && lists.bytes() == held, "blocks that were freed are used again");
    }
}
