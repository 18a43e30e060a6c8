//! One share at work: its record, its manifest, and what is being done with it.
//!
//! Lock order: `saving`, then `state`. An editor holds `saving` from its first change until the changes are stored, so
//! whoever takes `saving` sees only complete and stored batches. `state` is held for short times only.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use haul_core::ids::ShareId;
use haul_core::limits;
use haul_core::manifest::{RegistrationDigest, ShareState as ManifestState};
use haul_core::path::SharePath;
use haul_core::wire::{ByteString, Label};
use tokio::sync::watch;

use super::manifest::{Key, Manifest};
use super::state::{self, ShareRow, StateDb, StoredShare};
use super::{FileStamp, ShareState, ShareStatus, Skipped};

/// Names kept for the list of skipped ones.
const SKIPPED_KEPT: usize = 1_000;
/// Walking and hashing wait while this many changes are not registered, so that an amendment stays within
/// [`limits::AMEND_ENTRIES`] with one more batch on top.
const UNREGISTERED_CHANGES: u64 = (limits::AMEND_ENTRIES - limits::WALK_COMMIT_ENTRIES) as u64;
/// They wait no longer than this for an index that does not move.
const REGISTRATION_STALL: Duration = Duration::from_secs(10);

/// What the owner said about a share; it does not change while the share exists.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) id: ShareId,
    pub(crate) name: Label,
    pub(crate) root: PathBuf,
    /// Only this file of the root.
    pub(crate) single: Option<SharePath>,
    pub(crate) groups: Vec<Label>,
    pub(crate) excludes: Vec<String>,
}

/// What changes about a share.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each says something of its own")]
pub(crate) struct FolderState {
    pub(crate) manifest: Manifest,
    /// States that an index may come back with.
    told: BTreeMap<u64, RegistrationDigest>,
    /// Number of the walk that runs or ran last.
    pub(crate) walk: u32,
    /// A walk has reached its end, in this process or before.
    pub(crate) walked: bool,
    pub(crate) scanning: bool,
    pub(crate) file_system: u64,
    pub(crate) away: Option<String>,
    /// The owner has said that whatever the next walk finds is meant so.
    pub(crate) accept: bool,
    pub(crate) removed: bool,
    skipped: Vec<Skipped>,
    skipped_count: u64,
    problem: Option<String>,
    /// Rows could not be written; all are written next time.
    unsaved: bool,
    /// The share's own row as it was stored last by this process.
    saved: Option<ShareRow>,
    /// Visible changes ever, to measure what is not registered.
    changes: u64,
    registration: Registration,
    /// Being hashed.
    pub(crate) in_flight: HashSet<Key>,
    /// Not to be hashed before then.
    pub(crate) deferred: HashMap<Key, Instant>,
    /// Left out until then, or until they change.
    pub(crate) unreadable: HashMap<Key, Unreadable>,
}

/// A file that could not be read.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) stamp: FileStamp,
    pub(crate) until: Instant,
    /// In words.
    pub(crate) reason: String,
}

/// How far an index is.
#[derive(Clone, Copy, Debug, Default)]
struct Registration {
    /// A session keeps it in step.
    attached: bool,
    state: Option<ManifestState>,
    changes: u64,
    files: u64,
    /// Counts acknowledged commits.
    progress: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) record: Record,
    database: Arc<StateDb>,
    saving: Mutex<()>,
    state: Mutex<FolderState>,
    room: Condvar,
    changed: watch::Sender<u64>,
    everything: watch::Sender<u64>,
}

/// What the registration needs to know before it sends anything.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each says something of its own")]
pub(crate) struct Overview {
    pub(crate) removed: bool,
    pub(crate) away: bool,
    pub(crate) walked: bool,
    /// Walking or hashing.
    pub(crate) busy: bool,
    pub(crate) scanning: bool,
    pub(crate) state: ManifestState,
    /// Visible changes ever.
    pub(crate) changes: u64,
    pub(crate) entries: u64,
    /// An index was told of this share before.
    pub(crate) told: bool,
}

/// A share's list at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Snapshot {
    pub(crate) state: ManifestState,
    /// Visible changes ever.
    pub(crate) changes: u64,
    pub(crate) files: u64,
}

impl Folder {
    /// A share that is new: nothing is known of its content.
    pub(crate) fn new(record: Record, database: Arc<StateDb>, everything: watch::Sender<u64>) -> Self {
        Self {
            record,
            database,
            saving: Mutex::new(()),
            state: Mutex::new(FolderState::default()),
            room: Condvar::new(),
            changed: watch::Sender::new(0),
            everything,
        }
    }

    /// A share as it was stored; none if its record makes no sense.
    pub(crate) fn stored(stored: StoredShare, database: Arc<StateDb>, everything: watch::Sender<u64>) -> Option<Self> {
        use std::os::unix::ffi::OsStringExt;
        let StoredShare { id, row, manifest, told } = stored;
        let single = match row.single {
            Some(name) => Some(SharePath::new(name.0).ok()?),
            None => None,
        };
        let root = PathBuf::from(std::ffi::OsString::from_vec(row.root.0));
        let record = Record { id, name: row.name, root, single, groups: row.groups, excludes: row.excludes };
        let folder = Self::new(record, database, everything);
        {
            let mut state = folder.lock();
            state.manifest = manifest;
            state.told = told.into_iter().map(|state| (state.revision, state.digest)).collect();
            state.walked = row.walked;
            state.file_system = row.file_system;
        }
        Some(folder)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, FolderState> {
        self.state.lock().expect("no panic while a share is locked")
    }

    /// Tells everybody who waits that something about this share is different.
    pub(crate) fn notify(&self) {
        self.room.notify_all();
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
        self.everything.send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Starts a batch of changes. Waits while too much is not registered yet.
    pub(crate) fn edit(&self) -> Editor<'_> {
        self.wait_for_room();
        self.edit_now()
    }

    /// As [`Self::edit`], for a few changes that somebody waits for.
    pub(crate) fn edit_now(&self) -> Editor<'_> {
        Editor { folder: self, _saving: self.saving.lock().expect("no panic while a share is saved") }
    }

    fn wait_for_room(&self) {
        let mut state = self.lock();
        loop {
            let registration = state.registration;
            let full = state.changes.saturating_sub(registration.changes) > UNREGISTERED_CHANGES;
            if !full || !registration.attached || state.removed {
                return;
            }
            let waiting = |state: &mut FolderState| {
                state.registration.attached && state.registration.progress == registration.progress
            };
            let (again, timeout) = self
                .room
                .wait_timeout_while(state, REGISTRATION_STALL, waiting)
                .expect("no panic while a share is locked");
            if timeout.timed_out() {
                return;
            }
            state = again;
        }
    }

    fn row(&self, state: &FolderState) -> ShareRow {
        use std::os::unix::ffi::OsStrExt;
        ShareRow {
            name: self.record.name.clone(),
            root: ByteString::from(self.record.root.as_os_str().as_bytes()),
            single: self.record.single.as_ref().map(|name| ByteString::from(name.as_bytes())),
            groups: self.record.groups.clone(),
            excludes: self.record.excludes.clone(),
            file_system: state.file_system,
            state: state.manifest.state(),
            floor: state.manifest.floor(),
            walked: state.walked,
        }
    }

    /// Stores the share for the first time.
    pub(crate) fn store(&self) -> Result<(), state::StateError> {
        let row = self.row(&self.lock());
        self.database.save(self.record.id, &row, &Vec::new())
    }

    pub(crate) fn status(&self) -> ShareStatus {
        let state = self.lock();
        let totals = state.manifest.totals();
        let doing = if state.away.is_some() {
            ShareState::Away
        } else if state.scanning || !state.walked {
            ShareState::Scanning
        } else if totals.to_hash > 0 {
            ShareState::Hashing
        } else if state.registration.state == Some(state.manifest.state()) {
            ShareState::Ready
        } else {
            ShareState::Registering
        };
        ShareStatus {
            id: self.record.id,
            name: self.record.name.clone(),
            path: self.path(),
            groups: self.record.groups.clone(),
            files: totals.files,
            bytes: totals.bytes,
            hashed: totals.hashed,
            skipped: state.skipped_count,
            registered: state.registration.files,
            state: doing,
            reason: state.away.clone().or_else(|| state.problem.clone()),
        }
    }

    /// The folder or the one file.
    pub(crate) fn path(&self) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        match &self.record.single {
            Some(name) => self.record.root.join(std::ffi::OsStr::from_bytes(name.as_bytes())),
            None => self.record.root.clone(),
        }
    }

    pub(crate) fn skipped(&self) -> Vec<Skipped> {
        self.lock().skipped.clone()
    }

    /// Turns the share away, or keeps it there with the latest reason.
    pub(crate) fn set_away(&self, reason: String) {
        let mut state = self.lock();
        state.scanning = false;
        state.registration = Registration { state: None, changes: state.changes, ..state.registration };
        state.away = Some(reason);
        drop(state);
        self.notify();
    }

    /// Ends the share for all who still hold it.
    pub(crate) fn set_removed(&self) {
        self.lock().removed = true;
        self.notify();
    }

    pub(crate) fn overview(&self) -> Overview {
        let state = self.lock();
        let totals = state.manifest.totals();
        Overview {
            removed: state.removed,
            away: state.away.is_some(),
            walked: state.walked,
            busy: state.scanning || totals.to_hash > 0,
            scanning: state.scanning,
            state: state.manifest.state(),
            changes: state.changes,
            entries: totals.entries,
            told: !state.told.is_empty(),
        }
    }

    /// Runs on the state while no batch is half done. Blocks while one is being stored.
    pub(crate) fn between_batches<T>(&self, look: impl FnOnce(&mut FolderState) -> T) -> T {
        let _saving = self.saving.lock().expect("no panic while a share is saved");
        look(&mut self.lock())
    }

    /// What a session offers to the index: complete and stored.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.between_batches(|state| Snapshot {
            state: state.manifest.state(),
            changes: state.changes,
            files: state.manifest.totals().files,
        })
    }

    /// The index does not take the share, for this reason.
    pub(crate) fn set_refused(&self, reason: String) {
        self.lock().problem = Some(reason);
    }

    /// A session starts or stops to keep the index in step.
    pub(crate) fn attach(&self, attached: bool) {
        let mut state = self.lock();
        // What the index has stays there without a session; whether that is the latest is not known then.
        state.registration = Registration { attached, state: None, changes: state.changes, ..state.registration };
        drop(state);
        self.room.notify_all();
    }

    /// The index has acknowledged `files` files in this state, which includes the first `changes` changes. `state` is
    /// none while more of the same list has to follow.
    pub(crate) fn registered(&self, state: Option<ManifestState>, changes: Option<u64>, files: u64) {
        let mut locked = self.lock();
        let registration = &mut locked.registration;
        registration.state = state;
        registration.files = files;
        registration.progress += 1;
        if let Some(changes) = changes {
            registration.changes = changes;
        }
        locked.problem = None;
        drop(locked);
        self.notify();
    }

    /// Notes a state durably before the index is told of it.
    pub(crate) fn tell(&self, told: ManifestState) {
        {
            let mut state = self.lock();
            if state.told.get(&told.revision) == Some(&told.digest) {
                return;
            }
            state.told.insert(told.revision, told.digest);
        }
        if let Err(error) = self.database.tell(self.record.id, told) {
            // The cost is a registration in full after a restart.
            tracing::warn!(share = %self.record.name, %error, "cannot note what the index is told");
        }
    }

    /// Whether a delta from this state, which an index holds, can be made.
    pub(crate) fn knows(&self, held: ManifestState) -> bool {
        let state = self.lock();
        let told = held == state::empty_state() || state.told.get(&held.revision) == Some(&held.digest);
        told && held.revision >= state.manifest.floor()
    }
}

/// A batch of changes; see [`Folder::edit`].
pub(crate) struct Editor<'a> {
    folder: &'a Folder,
    _saving: MutexGuard<'a, ()>,
}

impl Editor<'_> {
    /// The state, for a part of the batch.
    pub(crate) fn state(&self) -> MutexGuard<'_, FolderState> {
        self.folder.lock()
    }

    /// Makes the changes one revision and stores them.
    pub(crate) fn commit(self) {
        let (row, rows) = {
            let mut state = self.folder.lock();
            let state = &mut *state;
            state.changes += state.manifest.unsealed();
            let touched = state.manifest.seal();
            let id = self.folder.record.id;
            let rows = if state.unsaved {
                state::all_rows(id, &state.manifest)
            } else {
                state::rows_of(id, &state.manifest, &touched)
            };
            (self.folder.row(state), rows)
        };
        let needless = {
            let state = self.folder.lock();
            // A walk that finds nothing new has nothing to store.
            state.removed || (rows.is_empty() && state.saved.as_ref() == Some(&row))
        };
        let saved = if needless { Ok(()) } else { self.folder.database.save(self.folder.record.id, &row, &rows) };
        let mut state = self.folder.lock();
        state.unsaved = saved.is_err();
        state.saved = saved.is_ok().then_some(row);
        state.problem = saved.err().map(|error| format!("cannot keep the list of entries: {error}"));
        drop(state);
        self.folder.notify();
    }
}

impl FolderState {
    /// Visible changes ever.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// Starts to count skipped names anew.
    pub(crate) fn clear_skipped(&mut self) {
        self.skipped.clear();
        self.skipped_count = 0;
    }

    pub(crate) fn skip(&mut self, skipped: Skipped) {
        self.skipped_count += 1;
        if self.skipped.len() < SKIPPED_KEPT {
            self.skipped.push(skipped);
        }
    }
}
