//! Runs of pieces, as members of a swarm tell what they hold.

use alloc::vec::Vec;
use core::ops::Deref;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::List;
use crate::limits;

/// A run of pieces; see [`crate::blob::BlobGeometry::piece_leaves`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PieceRange {
    /// The first piece.
    pub first: u32,
    /// How many; at least one.
    pub count: u32,
}

impl PieceRange {
    /// The pieces of the run.
    pub fn pieces(self) -> core::ops::Range<u32> {
        self.first..self.first.saturating_add(self.count)
    }

    /// Appends a piece to a list of runs, extending the last run if the piece follows it.
    pub fn push(runs: &mut Vec<Self>, piece: u32) {
        match runs.last_mut() {
            Some(run) if run.pieces().end == piece => run.count += 1,
            _ => runs.push(Self { first: piece, count: 1 }),
        }
    }
}

/// Pieces as runs in ascending order: no run is empty, none begins before the end of the one before, and there are at
/// most [`limits::HAVE_RANGES`]. So whoever walks them meets each piece once. Bytes that break this are no message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Runs(Vec<PieceRange>);

/// Runs that are empty, out of order, overlapping, or too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadRuns;

impl core::fmt::Display for BadRuns {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("runs of pieces are empty, out of order, overlapping or too many")
    }
}

impl core::error::Error for BadRuns {}

impl Runs {
    /// Appends a piece that is higher than all before; false if it is not, or if there are runs enough.
    pub fn push(&mut self, piece: u32) -> bool {
        let follows = !self.0.is_empty() && self.end() == piece;
        if piece < self.end() || piece == u32::MAX || (!follows && self.0.len() == limits::HAVE_RANGES) {
            return false;
        }
        PieceRange::push(&mut self.0, piece);
        true
    }

    /// One above the highest piece; 0 without pieces.
    pub fn end(&self) -> u32 {
        self.0.last().map_or(0, |run| run.pieces().end)
    }

    /// How many pieces.
    pub fn count(&self) -> u32 {
        // They lie side by side below the end of the last one.
        self.0.iter().map(|run| run.count).sum()
    }

    /// The pieces in ascending order.
    pub fn pieces(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().flat_map(|run| run.pieces())
    }
}

impl Deref for Runs {
    type Target = [PieceRange];
    fn deref(&self) -> &[PieceRange] {
        &self.0
    }
}

impl TryFrom<Vec<PieceRange>> for Runs {
    type Error = BadRuns;
    fn try_from(runs: Vec<PieceRange>) -> Result<Self, BadRuns> {
        let mut end = 0;
        for run in &runs {
            if run.count == 0 || run.first < end {
                return Err(BadRuns);
            }
            end = run.first.checked_add(run.count).ok_or(BadRuns)?;
        }
        if runs.len() > limits::HAVE_RANGES { Err(BadRuns) } else { Ok(Self(runs)) }
    }
}

impl<'de> Deserialize<'de> for Runs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let runs = List::<PieceRange, { limits::HAVE_RANGES }>::deserialize(deserializer)?;
        Self::try_from(runs.into_vec()).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_pieces_ascend_and_do_not_overlap_or_they_are_no_message() {
        let decoded = |runs: &[(u32, u32)]| {
            let runs: Vec<PieceRange> =
                runs.iter().map(|(first, count)| PieceRange { first: *first, count: *count }).collect();
            crate::wire::decode::<Runs>(&crate::wire::encode(&runs))
        };
        assert_eq!(decoded(&[]).map(|runs| (runs.end(), runs.count())), Ok((0, 0)));
        assert_eq!(decoded(&[(3, 2), (5, 1), (9, 4)]).map(|runs| (runs.end(), runs.count())), Ok((13, 7)));
        let bad: [&[(u32, u32)]; 6] = [
            &[(0, 0)],
            &[(0, 8), (0, 8)],
            &[(0, 8), (7, 1)],
            &[(4, 1), (2, 1)],
            &[(1, u32::MAX)],
            &[(0, u32::MAX), (0, u32::MAX)],
        ];
        for runs in bad {
            assert!(decoded(runs).is_err(), "{runs:?}");
        }
        let many: Vec<(u32, u32)> = (0..=limits::HAVE_RANGES as u32).map(|at| (2 * at, 1)).collect();
        assert!(decoded(&many).is_err() && decoded(&many[1..]).is_ok());
    }

    #[test]
    fn runs_take_pieces_in_order_as_long_as_a_message_has_room() {
        let mut runs = Runs::default();
        assert!(runs.push(0) && runs.push(1) && runs.push(5));
        assert!(!runs.push(5) && !runs.push(2));
        assert_eq!(runs.pieces().collect::<Vec<_>>(), [0, 1, 5]);
        let taken = (4..3 * limits::HAVE_RANGES as u32).filter(|at| runs.push(2 * at)).count();
        assert_eq!((taken, runs.len()), (limits::HAVE_RANGES - 2, limits::HAVE_RANGES));
        assert!(runs.push(runs.end()), "what follows on the last run needs no new one");
    }
}
