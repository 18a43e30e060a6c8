//! Rows: one entry of one share each, 20 bytes.
//!
//! Rows are given out in extents of 64 that belong to one slot, so a row does not name its slot, and whether a row
//! counts for an asker is told without touching it. A walk in order gets rows in order: the files of a directory lie
//! side by side.

use haul_core::wire::index::HitKind;

use super::NONE;
use super::chunked::Table;

/// Rows of an extent.
const EXTENT: u32 = 64;
/// Rows in all: lists mark what is no row above.
const MOST: u32 = 1 << 30;
/// Nodes that a row can name.
pub(in crate::store) const NODES: u32 = 1 << 28;

const EXECUTABLE: u32 = 1 << 28;
const KIND_SHIFT: u32 = 29;

/// What is stored.
#[derive(Clone, Copy, Debug)]
struct Record {
    /// Node in bits 0-27, executable in 28, kind in 29-30.
    directory: u32,
    name: u32,
    content: u32,
    /// Low and high half of nanoseconds since 1970: as one number they would be aligned to eight bytes.
    mtime: [u32; 2],
}

/// A row as it is asked for.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Row {
    slot: u32,
    flags: u32,
    pub(in crate::store) directory: u32,
    pub(in crate::store) name: u32,
    /// None for directories and links.
    pub(in crate::store) content: u32,
    pub(in crate::store) mtime_ns: i64,
}

impl Row {
    pub(in crate::store) fn slot(&self) -> u32 {
        self.slot
    }

    pub(in crate::store) fn kind(&self) -> HitKind {
        match self.flags >> KIND_SHIFT & 3 {
            0 => HitKind::File,
            1 => HitKind::Directory,
            _ => HitKind::Symlink,
        }
    }

    pub(in crate::store) fn executable(&self) -> bool {
        self.flags & EXECUTABLE != 0
    }
}

/// What can change of a row.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Facts {
    pub(in crate::store) kind: HitKind,
    pub(in crate::store) executable: bool,
    pub(in crate::store) content: u32,
    pub(in crate::store) mtime_ns: i64,
}

#[derive(Clone, Copy, Debug)]
struct Extent {
    /// A bit per row that is used.
    used: u64,
    /// A bit per used row that nobody sees: not yet, or not any more.
    hidden: u64,
}

/// Where a slot gets its rows from.
#[derive(Clone, Debug)]
struct Supply {
    /// The extent that is being filled, or none.
    open: u32,
    /// Extents that were full once and have room again. One that has gone or filled up meanwhile is skipped.
    roomy: Vec<u32>,
}

/// All rows.
#[derive(Debug, Default)]
pub(in crate::store) struct Rows {
    records: Table<Record>,
    extents: Vec<Extent>,
    /// Whose each extent is, or none: for itself, so that those of a lookup's rows are in a near cache.
    slots: Vec<u32>,
    free: Vec<u32>,
    by_slot: Vec<Supply>,
    /// Rows that nobody sees.
    hidden: u32,
}

impl Rows {
    pub(in crate::store) fn get(&self, row: u32) -> Row {
        let Record { directory, name, content, mtime } = self.records[row];
        Row {
            slot: self.slot(row),
            flags: directory,
            directory: directory & (NODES - 1),
            name,
            content,
            mtime_ns: (u64::from(mtime[1]) << 32 | u64::from(mtime[0])) as i64,
        }
    }

    /// The slot of a row; the row itself is not touched.
    pub(in crate::store) fn slot(&self, row: u32) -> u32 {
        self.slots[(row / EXTENT) as usize]
    }

    /// Whether nobody sees a row. Nearly always nothing is hidden, and then nothing is read.
    pub(in crate::store) fn is_hidden(&self, row: u32) -> bool {
        self.hidden > 0 && self.extents[(row / EXTENT) as usize].hidden >> (row % EXTENT) & 1 == 1
    }

    /// Whether some row is hidden.
    pub(in crate::store) fn any_hidden(&self) -> bool {
        self.hidden > 0
    }

    /// Hides or shows a row.
    pub(in crate::store) fn set_hidden(&mut self, row: u32, hidden: bool) {
        let extent = &mut self.extents[(row / EXTENT) as usize];
        let bit = 1 << (row % EXTENT);
        if (extent.hidden & bit != 0) != hidden {
            extent.hidden ^= bit;
            self.hidden = if hidden { self.hidden + 1 } else { self.hidden - 1 };
        }
    }

    /// The directory of a row.
    pub(in crate::store) fn directory(&self, row: u32) -> u32 {
        self.records[row].directory & (NODES - 1)
    }

    /// The content of a row.
    pub(in crate::store) fn content(&self, row: u32) -> u32 {
        self.records[row].content
    }

    /// The name of a row.
    pub(in crate::store) fn name(&self, row: u32) -> u32 {
        self.records[row].name
    }

    /// A new row of a slot; none when the table is full.
    pub(in crate::store) fn add(&mut self, slot: u32, directory: u32, name: u32) -> Option<u32> {
        let extent = self.open_extent(slot)?;
        let record = &mut self.extents[extent as usize];
        let at = record.used.trailing_ones();
        record.used |= 1 << at;
        if record.used == u64::MAX {
            self.by_slot[slot as usize].open = NONE;
        }
        let row = extent * EXTENT + at;
        self.records[row] = Record { directory, name, content: NONE, mtime: [0; 2] };
        Some(row)
    }

    /// Sets what can change.
    pub(in crate::store) fn set(&mut self, row: u32, facts: Facts) {
        let kind = match facts.kind {
            HitKind::File => 0,
            HitKind::Directory => 1,
            HitKind::Symlink => 2,
        };
        let record = &mut self.records[row];
        record.directory =
            record.directory & (NODES - 1) | (u32::from(facts.executable) * EXECUTABLE) | kind << KIND_SHIFT;
        record.content = facts.content;
        let mtime = facts.mtime_ns as u64;
        record.mtime = [mtime as u32, (mtime >> 32) as u32];
    }

    /// Gives a row back. An extent without rows belongs to nobody.
    pub(in crate::store) fn free(&mut self, row: u32) {
        self.set_hidden(row, false);
        let number = row / EXTENT;
        let extent = &mut self.extents[number as usize];
        let was_full = extent.used == u64::MAX;
        extent.used &= !(1 << (row % EXTENT));
        let supply = &mut self.by_slot[self.slots[number as usize] as usize];
        if extent.used == 0 {
            if supply.open == number {
                supply.open = NONE;
            }
            self.slots[number as usize] = NONE;
            self.free.push(number);
        } else if was_full {
            supply.roomy.push(number);
        }
    }

    /// A slot has no rows any more.
    pub(in crate::store) fn forget_slot(&mut self, slot: u32) {
        if let Some(supply) = self.by_slot.get_mut(slot as usize) {
            *supply = Supply { open: NONE, roomy: Vec::new() };
        }
    }

    /// Bytes of all rows.
    pub(in crate::store) fn bytes(&self) -> usize {
        self.records.bytes() + self.extents.capacity() * size_of::<Extent>() + self.slots.capacity() * size_of::<u32>()
    }

    /// An extent of a slot with room.
    fn open_extent(&mut self, slot: u32) -> Option<u32> {
        let number = slot as usize;
        if number >= self.by_slot.len() {
            self.by_slot.resize(number + 1, Supply { open: NONE, roomy: Vec::new() });
        }
        let supply = &mut self.by_slot[number];
        if supply.open != NONE {
            return Some(supply.open);
        }
        while let Some(roomy) = supply.roomy.pop() {
            if self.slots[roomy as usize] == slot && self.extents[roomy as usize].used != u64::MAX {
                supply.open = roomy;
                return Some(roomy);
            }
        }
        let extent = match self.free.pop() {
            Some(free) => {
                self.slots[free as usize] = slot;
                free
            }
            None if self.records.len() >= MOST => return None,
            None => {
                self.extents.push(Extent { used: 0, hidden: 0 });
                self.slots.push(slot);
                for _ in 0..EXTENT {
                    self.records.push(Record { directory: 0, name: NONE, content: NONE, mtime: [0; 2] });
                }
                self.extents.len() as u32 - 1
            }
        };
        supply.open = extent;
        Some(extent)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn rows_keep_their_slot_and_facts(
            operations in proptest::collection::vec((0u32..3, any::<u16>(), 0u8..5), 0..1_500),
        ) {
            let mut rows = Rows::default();
            let mut model: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
            for (number, (slot, which, kind)) in operations.iter().enumerate() {
                let number = number as u32;
                if *kind < 3 {
                    let row = rows.add(*slot, number, number + 1).unwrap();
                    let kind = [HitKind::File, HitKind::Directory, HitKind::Symlink][*kind as usize];
                    let facts = Facts { kind, executable: which % 2 == 1, content: 3, mtime_ns: -i64::from(number) };
                    rows.set(row, facts);
                    let view = rows.get(row);
                    prop_assert_eq!((view.kind(), view.executable(), view.content), (kind, which % 2 == 1, 3));
                    prop_assert_eq!(model.insert(row, (*slot, number)), None);
                } else if let Some(row) = model.keys().nth(usize::from(*which) % model.len().max(1)).copied() {
                    let (slot, _) = model.remove(&row).unwrap();
                    rows.free(row);
                    if model.values().all(|(other, _)| *other != slot) {
                        rows.forget_slot(slot);
                    }
                }
            }
            for (row, (slot, number)) in &model {
                let view = rows.get(*row);
                prop_assert_eq!((view.slot(), view.directory, view.name), (*slot, *number, number + 1));
                prop_assert_eq!((rows.slot(*row), rows.directory(*row), rows.name(*row)), (*slot, *number, number + 1));
                prop_assert_eq!(view.mtime_ns, -i64::from(*number));
            }
            for row in model.keys() {
                rows.free(*row);
            }
            prop_assert_eq!(rows.free.len(), rows.extents.len());
        }
    }

    #[test]
    fn a_walk_gets_rows_in_order_and_room_is_used_again() {
        assert_eq!((size_of::<Record>(), size_of::<Extent>()), (20, 16));
        let mut rows = Rows::default();
        for row in 0..1_000 {
            assert_eq!(rows.add(0, 0, 0), Some(row));
        }
        (0..1_000).filter(|row| row % 3 == 0).for_each(|row| rows.free(row));
        for _ in 0..334 {
            rows.add(0, 0, 0).unwrap();
        }
        assert_eq!(rows.extents.len(), 16);
    }
}
