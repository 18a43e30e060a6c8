//! The outline of a blob: BLAKE3 chaining values of its leaves, in sheets that are checked against the blob's id.
//!
//! BLAKE3 is a binary tree over 1 KiB chunks. A leaf of 64 KiB is a complete subtree, so its chaining value can be
//! computed alone, and the root follows from the leaves' values. A sheet of 4,096 leaves is a complete subtree again:
//! its value stands on the root sheet, which is checked against the id. After that, every leaf verifies alone, in any
//! order, from anybody. (`blake3::hazmat` documents the subtree functions and their rules.)

use alloc::vec::Vec;

use blake3::hazmat::{self, HasherExt, Mode};

use crate::blob::BlobGeometry;
use crate::ids::BlobId;
use crate::limits::{LEAF_BYTES, SHEET_LEAVES};

/// A chaining value of a subtree that is not the root.
pub type ChainingValue = [u8; 32];

/// The chaining value of leaf number `leaf` of a blob with more than one leaf.
pub fn leaf_value(leaf: u64, bytes: &[u8]) -> ChainingValue {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(leaf * LEAF_BYTES);
    hasher.update(bytes);
    hasher.finalize_non_root()
}

/// The value of the subtree over `values`, complete or the last one of its blob. One value stands for itself.
fn merge(values: &[ChainingValue]) -> Option<ChainingValue> {
    match values {
        [] => None,
        [value] => Some(*value),
        _ => {
            let (left, right) = halves(values);
            Some(hazmat::merge_subtrees_non_root(&merge(left)?, &merge(right)?, Mode::Hash))
        }
    }
}

/// The root over `values`, of which there are at least two.
fn merge_root(values: &[ChainingValue]) -> Option<BlobId> {
    if values.len() < 2 {
        return None;
    }
    let (left, right) = halves(values);
    let root = hazmat::merge_subtrees_root(&merge(left)?, &merge(right)?, Mode::Hash);
    Some(BlobId::new(*root.as_bytes()))
}

/// The left subtree takes the largest power of two that leaves something for the right one.
fn halves(values: &[ChainingValue]) -> (&[ChainingValue], &[ChainingValue]) {
    let left = values.len().next_power_of_two() / 2;
    values.split_at(left)
}

/// The complete outline of a blob, as its provider holds it. Empty for a blob of one leaf.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Outline {
    values: Vec<ChainingValue>,
}

/// Hashes a blob leaf by leaf and keeps the outline: both come from one pass.
#[derive(Clone, Debug, Default)]
pub struct OutlineBuilder {
    values: Vec<ChainingValue>,
    first: Option<BlobId>,
}

impl OutlineBuilder {
    /// A builder before the first leaf.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next leaf. Every leaf but the last has [`LEAF_BYTES`] bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.values.is_empty() {
            // A blob of one leaf is its own root; only now is it unknown whether another leaf follows.
            self.first = (bytes.len() as u64 <= LEAF_BYTES).then(|| BlobId::new(*blake3::hash(bytes).as_bytes()));
        }
        self.values.push(leaf_value(self.values.len() as u64, bytes));
    }

    /// Takes the value of the next leaf, computed elsewhere (in parallel, say) by [`leaf_value`]. Only for blobs of
    /// more than one leaf.
    pub fn push_value(&mut self, value: ChainingValue) {
        self.values.push(value);
    }

    /// The blob's id and its outline.
    pub fn finish(self) -> (BlobId, Outline) {
        match (self.values.len(), self.first) {
            (0, _) => (BlobId::empty(), Outline::default()),
            (1, Some(id)) => (id, Outline::default()),
            _ => {
                let id = merge_root(&self.values).unwrap_or_else(BlobId::empty);
                (id, Outline { values: self.values })
            }
        }
    }
}

impl Outline {
    /// From stored bytes, 32 per leaf; none if they do not fit the geometry or do not lead to `id`.
    pub fn from_bytes(id: BlobId, geometry: BlobGeometry, bytes: &[u8]) -> Option<Self> {
        let (values, rest) = bytes.as_chunks::<32>();
        if geometry.sheets() == 0 {
            return bytes.is_empty().then(Self::default);
        }
        let fits = rest.is_empty() && values.len() as u64 == geometry.leaves() && merge_root(values) == Some(id);
        fits.then(|| Self { values: values.to_vec() })
    }

    /// 32 bytes per leaf; nothing for a blob of one leaf.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.values.concat()
    }

    /// The chaining value of a leaf.
    pub fn value(&self, leaf: u64) -> Option<&ChainingValue> {
        self.values.get(usize::try_from(leaf).ok()?)
    }

    /// The values of one sheet.
    pub fn sheet(&self, sheet: u64) -> Option<&[ChainingValue]> {
        self.values.chunks(SHEET_LEAVES as usize).nth(usize::try_from(sheet).ok()?)
    }

    /// The root sheet: one value per sheet.
    pub fn root_sheet(&self) -> Vec<ChainingValue> {
        self.values.chunks(SHEET_LEAVES as usize).filter_map(merge).collect()
    }
}

/// What a downloader knows of a blob's outline: the checked root sheet and the checked sheets so far.
///
/// The number of leaves is a claim until the last leaf is verified: a wrong size gives a different tree, so either the
/// root sheet or the last leaf fails.
#[derive(Clone, Debug)]
pub struct OutlineCheck {
    id: BlobId,
    geometry: BlobGeometry,
    root_sheet: Vec<ChainingValue>,
    sheets: Vec<Option<Vec<ChainingValue>>>,
}

impl OutlineCheck {
    /// Nothing known but the id and the claimed size.
    pub fn new(id: BlobId, geometry: BlobGeometry) -> Self {
        let sheets = (0..geometry.sheets()).map(|_| None).collect();
        Self { id, geometry, root_sheet: Vec::new(), sheets }
    }

    /// Whether the root sheet is known. Blobs of one leaf need none; in blobs of one sheet the sheet itself is
    /// checked against the id.
    pub fn has_root_sheet(&self) -> bool {
        self.geometry.sheets() <= 1 || !self.root_sheet.is_empty()
    }

    /// Checks the root sheet against the id and keeps it; false if it does not fit.
    pub fn accept_root_sheet(&mut self, values: &[ChainingValue]) -> bool {
        let fits = values.len() as u64 == self.geometry.sheets() && merge_root(values) == Some(self.id);
        if fits {
            self.root_sheet = values.to_vec();
        }
        fits
    }

    /// Whether this sheet is known.
    pub fn has_sheet(&self, sheet: u64) -> bool {
        usize::try_from(sheet).is_ok_and(|sheet| self.sheets.get(sheet).is_some_and(Option::is_some))
    }

    /// Checks a sheet against the root sheet (or the id, where there is only one) and keeps it; false if it does not
    /// fit.
    pub fn accept_sheet(&mut self, sheet: u64, values: &[ChainingValue]) -> bool {
        if sheet >= self.geometry.sheets() {
            return false;
        }
        let leaves = self.geometry.sheet_leaves(sheet);
        if values.len() as u64 != leaves.end - leaves.start {
            return false;
        }
        let fits = if self.geometry.sheets() == 1 {
            merge_root(values) == Some(self.id)
        } else {
            self.root_sheet.get(sheet as usize).is_some_and(|value| merge(values) == Some(*value))
        };
        if fits && let Some(place) = self.sheets.get_mut(sheet as usize) {
            *place = Some(values.to_vec());
        }
        fits
    }

    /// The values of a checked sheet, or of the checked root sheet; none while it is not known.
    pub fn values(&self, sheet: Option<u64>) -> Option<&[ChainingValue]> {
        let known = match sheet {
            None => &self.root_sheet,
            Some(sheet) => self.sheets.get(usize::try_from(sheet).ok()?)?.as_ref()?,
        };
        (!known.is_empty()).then_some(known)
    }

    /// The complete outline, once every sheet is known.
    pub fn outline(&self) -> Option<Outline> {
        let sheets: Option<Vec<&[ChainingValue]>> = self.sheets.iter().map(Option::as_deref).collect();
        sheets.map(|sheets| Outline { values: sheets.concat() })
    }

    /// Whether [`Self::verify`] can decide on this leaf already.
    pub fn can_verify(&self, leaf: u64) -> bool {
        leaf < self.geometry.leaves() && (self.geometry.sheets() == 0 || self.has_sheet(leaf / SHEET_LEAVES))
    }

    /// Whether these bytes are leaf number `leaf` of the blob. False also while its sheet is missing.
    pub fn verify(&self, leaf: u64, bytes: &[u8]) -> bool {
        if leaf >= self.geometry.leaves() || bytes.len() != self.geometry.leaf_bytes(leaf) {
            return false;
        }
        if self.geometry.sheets() == 0 {
            return BlobId::new(*blake3::hash(bytes).as_bytes()) == self.id;
        }
        let sheet = self.sheets.get((leaf / SHEET_LEAVES) as usize).and_then(Option::as_ref);
        sheet
            .and_then(|values| values.get((leaf % SHEET_LEAVES) as usize))
            .is_some_and(|value| leaf_value(leaf, bytes) == *value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(bytes: &[u8]) -> (BlobId, Outline) {
        let mut builder = OutlineBuilder::new();
        bytes.chunks(LEAF_BYTES as usize).for_each(|leaf| builder.push(leaf));
        builder.finish()
    }

    fn pattern(size: usize) -> Vec<u8> {
        (0..size).map(|n| (n % 251) as u8).collect()
    }

    #[test]
    fn the_id_is_the_plain_blake3_hash() {
        let leaf = LEAF_BYTES as usize;
        for size in [0, 1, leaf - 1, leaf, leaf + 1, 2 * leaf, 3 * leaf + 7, 9 * leaf - 1] {
            let bytes = pattern(size);
            let (id, outline) = build(&bytes);
            assert_eq!(id, BlobId::new(*blake3::hash(&bytes).as_bytes()), "{size}");
            let geometry = BlobGeometry::new(size as u64).expect("small");
            assert_eq!(Outline::from_bytes(id, geometry, &outline.to_bytes()), Some(outline));
        }
    }

    #[test]
    fn leaves_verify_alone_and_a_flipped_bit_is_seen() {
        let bytes = pattern(5 * LEAF_BYTES as usize + 100);
        let (id, outline) = build(&bytes);
        let geometry = BlobGeometry::new(bytes.len() as u64).expect("small");
        let mut check = OutlineCheck::new(id, geometry);
        assert!(check.has_root_sheet() && !check.can_verify(5));
        let sheet = outline.sheet(0).expect("one sheet");
        let mut wrong = sheet.to_vec();
        wrong[3][0] ^= 1;
        assert!(!check.accept_sheet(0, &wrong));
        assert!(!check.accept_sheet(0, &sheet[..5]));
        assert!(!check.accept_sheet(1, sheet));
        assert!(check.accept_sheet(0, sheet));
        for leaf in [5, 0, 3] {
            let range = geometry.leaf_range(leaf);
            let mut leaf_bytes = bytes[range.start as usize..range.end as usize].to_vec();
            assert!(check.verify(leaf, &leaf_bytes));
            assert!(!check.verify(leaf ^ 1, &leaf_bytes));
            leaf_bytes[50] ^= 0x10;
            assert!(!check.verify(leaf, &leaf_bytes));
        }
        assert!(!check.verify(6, &[]));
    }

    #[test]
    fn several_sheets_are_checked_through_the_root_sheet() {
        // The tree over chaining values does not care what they hash, so values without bytes test it cheaply.
        let leaves = 2 * SHEET_LEAVES + 3;
        let mut builder = OutlineBuilder::new();
        for leaf in 0..leaves {
            builder.push_value(leaf_value(leaf, &leaf.to_le_bytes()));
        }
        let (id, outline) = builder.finish();
        let geometry = BlobGeometry::new(leaves * LEAF_BYTES).expect("allowed");
        let mut check = OutlineCheck::new(id, geometry);
        assert!(!check.has_root_sheet());
        assert!(!check.accept_sheet(2, outline.sheet(2).expect("third sheet")));
        let root = outline.root_sheet();
        assert_eq!(root.len(), 3);
        assert!(!check.accept_root_sheet(&root[..2]));
        assert!(!check.accept_root_sheet(&[root[0]; 3]));
        assert!(check.accept_root_sheet(&root));
        assert!(check.accept_sheet(2, outline.sheet(2).expect("third sheet")));
        assert!(!check.accept_sheet(1, outline.sheet(0).expect("first sheet")));
        assert!(check.accept_sheet(1, outline.sheet(1).expect("second sheet")));
        assert!(check.has_sheet(1) && !check.has_sheet(0));
    }
}
