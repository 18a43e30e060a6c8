//! Long lists, in runs.

use std::cmp::Ordering;

use super::At;

/// Numbers of a run at most: moving half of it costs about 50 ns.
const RUN: usize = 1_024;

/// Numbers in runs, none of them empty.
#[derive(Debug, Default)]
pub(super) struct Runs {
    runs: Vec<Vec<u32>>,
    len: usize,
}

/// Where the number at this place stands right after [`Runs::of`].
pub(super) fn place(at: usize) -> At {
    // At the end of a run rather than at the start of the next, which may not exist.
    if at > 0 && at.is_multiple_of(RUN) { (at / RUN - 1, RUN) } else { (at / RUN, at % RUN) }
}

impl Runs {
    pub(super) fn of(numbers: impl Iterator<Item = u32>) -> Self {
        let mut runs = Self::default();
        for number in numbers {
            if runs.runs.last().is_none_or(|run| run.len() == RUN) {
                runs.runs.push(Vec::with_capacity(RUN));
            }
            if let Some(run) = runs.runs.last_mut() {
                run.push(number);
            }
            runs.len += 1;
        }
        runs
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn find(&self, mut compare: impl FnMut(u32) -> Ordering) -> Result<At, At> {
        let Some(last) = self.runs.last().and_then(|run| run.last()) else { return Err((0, 0)) };
        let end = self.runs.len() - 1;
        if compare(*last) == Ordering::Less {
            return Err((end, self.runs[end].len()));
        }
        let run = self.runs.partition_point(|run| run.last().is_some_and(|last| compare(*last) == Ordering::Less));
        self.runs[run].binary_search_by(|number| compare(*number)).map(|at| (run, at)).map_err(|at| (run, at))
    }

    pub(super) fn insert(&mut self, (mut run, mut at): At, number: u32) {
        self.len += 1;
        if self.runs.is_empty() {
            self.runs.push(Vec::with_capacity(RUN));
        }
        if self.runs[run].len() >= RUN {
            // At the end a new run starts empty, elsewhere a run is halved.
            let keep = if at == RUN { RUN } else { RUN / 2 };
            let mut rest = Vec::with_capacity(RUN);
            rest.extend(self.runs[run].drain(keep..));
            self.runs.insert(run + 1, rest);
            if at > keep || keep == RUN {
                (run, at) = (run + 1, at - keep);
            }
        }
        self.runs[run].insert(at, number);
    }

    pub(super) fn remove(&mut self, (run, at): At) -> u32 {
        self.len -= 1;
        let removed = self.runs[run].remove(at);
        let left = self.runs[run].len();
        if left == 0 {
            self.runs.remove(run);
        } else if left < RUN / 4 && self.runs.get(run + 1).is_some_and(|next| next.len() < RUN / 2) {
            let next = self.runs.remove(run + 1);
            self.runs[run].extend(next);
        }
        removed
    }

    pub(super) fn set(&mut self, (run, at): At, number: u32) {
        self.runs[run][at] = number;
    }

    pub(super) fn last(&self) -> Option<At> {
        let run = self.runs.len().checked_sub(1)?;
        Some((run, self.runs[run].len().checked_sub(1)?))
    }

    /// How many numbers stand before a place.
    pub(super) fn before(&self, (run, at): At) -> usize {
        self.runs.iter().take(run).map(Vec::len).sum::<usize>() + at
    }

    pub(super) fn iter_from(&self, (run, at): At) -> impl Iterator<Item = u32> + '_ {
        let first = self.runs.get(run).and_then(|numbers| numbers.get(at..)).unwrap_or_default();
        let others = self.runs.get(run + 1..).unwrap_or_default();
        first.iter().chain(others.iter().flatten()).copied()
    }

    pub(super) fn bytes(&self) -> usize {
        self.runs.iter().map(|run| run.capacity() * size_of::<u32>() + size_of::<Vec<u32>>()).sum()
    }
}
