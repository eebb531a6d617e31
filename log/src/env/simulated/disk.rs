//! The simulated file system.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Random;
use crate::env::{Access, Disk, DiskFile, DiskLock, LockError};

/// A file system in memory that can lose power and fail on demand.
#[derive(Clone, Debug)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
}

/// What a failing call answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An I/O error.
    Io,
    /// No space is left. Only calls that need space fail so; others answer with an I/O error.
    NoSpace,
}

#[derive(Debug)]
struct State {
    random: Random,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    directories: BTreeMap<PathBuf, Directory>,
    locks: BTreeMap<PathBuf, String>,
    calls: u64,
    fail: Option<(u64, Fault)>,
    /// From this call on, all fail.
    dead_from: Option<u64>,
    free_bytes: u64,
    /// Grows with each power loss: files and locks opened before belong to a machine that is gone.
    boot: u64,
    ignores_sync_data: bool,
    ignores_sync_dir: bool,
}

/// A file: what reads see, and for each sector the versions that a power loss may leave.
#[derive(Debug, Default)]
struct Inode {
    current: Vec<u8>,
    durable: Vec<u8>,
    /// Sector number → its contents after each unsynced write, oldest first.
    unsynced: BTreeMap<u64, Vec<Vec<u8>>>,
}

#[derive(Debug, Default)]
struct Directory {
    current: BTreeMap<String, u64>,
    /// The durable names, then the names after each unsynced operation.
    states: Vec<BTreeMap<String, u64>>,
}

impl SimulatedDisk {
    /// An empty disk; `seed` decides what its power losses leave.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let state = State {
            random: Random::new(seed),
            inodes: BTreeMap::new(),
            next_inode: 0,
            directories: BTreeMap::new(),
            locks: BTreeMap::new(),
            calls: 0,
            fail: None,
            dead_from: None,
            free_bytes: u64::MAX,
            boot: 0,
            ignores_sync_data: false,
            ignores_sync_dir: false,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Cuts the power: what was not synced is dropped, torn and reordered, open files answer with errors from now on.
    pub fn lose_power(&self) {
        let state = &mut *self.lock_state();
        let random = &mut state.random;
        for directory in state.directories.values_mut() {
            let kept = random.below(directory.states.len() as u64) as usize;
            directory.current = directory.states.swap_remove(kept);
            directory.states = vec![directory.current.clone()];
        }
        for inode in state.inodes.values_mut() {
            // Some crashes keep nearly all, some nearly nothing: uniform choices alone would seldom leave long runs.
            let keep_in_eight = random.below(9);
            inode.settle(random, keep_in_eight);
            inode.current = inode.durable.clone();
        }
        state.after_restart();
    }

    /// Kills the process, not the machine: what was written stays, open files answer with errors from now on.
    pub fn kill_process(&self) {
        self.lock_state().after_restart();
    }

    /// Makes call number `call` (of those counted by [`SimulatedDisk::calls`]) fail once.
    pub fn fail_call(&self, call: u64, fault: Fault) {
        self.lock_state().fail = Some((call, fault));
    }

    /// Makes call number `call` and all after it fail, until power is lost or the process killed.
    pub fn die_at_call(&self, call: u64) {
        self.lock_state().dead_from = Some(call);
    }

    /// How many calls the disk has answered.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.lock_state().calls
    }

    /// Bounds what may still be written beyond the ends of files.
    pub fn limit_free_bytes(&self, bytes: u64) {
        self.lock_state().free_bytes = bytes;
    }

    /// Whether a file's sync is answered and not done: the defect *acknowledge before sync*.
    pub fn ignore_sync_data(&self, is_ignored: bool) {
        self.lock_state().ignores_sync_data = is_ignored;
    }

    /// Whether a directory's sync is answered and not done: the defect *no directory sync*.
    pub fn ignore_sync_dir(&self, is_ignored: bool) {
        self.lock_state().ignores_sync_dir = is_ignored;
    }

    /// Changes a file's bytes behind everybody's back, durably: bit rot.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let state = &mut *self.lock_state();
        let inode = state.inode_of(path).expect("a file to damage");
        let inode = state.inodes.get_mut(&inode).expect("every name has its inode");
        change(&mut inode.current);
        inode.durable = inode.current.clone();
        inode.unsynced.clear();
    }

    /// The bytes of a file as reads see them, `None` where there is none.
    #[must_use]
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.lock_state();
        state.inode_of(path).map(|inode| state.inodes[&inode].current.clone())
    }

    fn lock_state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, inode: u64, boot: u64) -> Arc<dyn DiskFile> {
        Arc::new(SimulatedFile { disk: self.clone(), inode, boot })
    }
}

impl State {
    fn after_restart(&mut self) {
        self.boot += 1;
        self.locks.clear();
        self.fail = None;
        self.dead_from = None;
        let live: Vec<u64> =
            self.directories.values().flat_map(|d| d.states.iter()).flat_map(|s| s.values().copied()).collect();
        self.inodes.retain(|inode, _| live.contains(inode));
    }

    /// Counts a call, and fails it when its turn has come.
    fn enter(&mut self, needs_space: bool) -> io::Result<()> {
        self.calls += 1;
        if self.dead_from.is_some_and(|first| self.calls >= first) {
            return Err(io::Error::other("the disk is dead"));
        }
        match self.fail {
            Some((call, fault)) if call == self.calls => {
                self.fail = None;
                Err(match fault {
                    Fault::NoSpace if needs_space => io::Error::from(ErrorKind::StorageFull),
                    _ => io::Error::other("injected I/O error"),
                })
            }
            _ => Ok(()),
        }
    }

    fn inode_of(&self, path: &Path) -> Option<u64> {
        let (directory, name) = split(path).ok()?;
        self.directories.get(directory)?.current.get(name).copied()
    }

    fn directory(&mut self, path: &Path) -> io::Result<&mut Directory> {
        self.directories.get_mut(path).ok_or_else(|| io::Error::from(ErrorKind::NotFound))
    }
}

impl Inode {
    fn write(&mut self, bytes: &[u8], offset: u64) {
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        if self.current.len() < end {
            self.current.resize(end, 0);
        }
        self.current[start..end].copy_from_slice(bytes);
        for sector in start / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            let contents = sector_of(&self.current, sector).to_vec();
            self.unsynced.entry(sector as u64).or_default().push(contents);
        }
    }

    /// Decides for every unsynced sector which of its versions the medium holds.
    fn settle(&mut self, random: &mut Random, keep_in_eight: u64) {
        for (sector, versions) in std::mem::take(&mut self.unsynced) {
            if random.below(8) >= keep_in_eight {
                continue;
            }
            let newest = versions.len() - 1;
            let chosen = if random.one_in(2) { newest } else { random.below(versions.len() as u64) as usize };
            let (start, contents) = (sector as usize * SECTOR_BYTES, &versions[chosen]);
            let end = start + contents.len();
            if self.durable.len() < end {
                self.durable.resize(end, 0);
            }
            self.durable[start..end].copy_from_slice(contents);
        }
    }

    fn sync(&mut self) {
        for sector in std::mem::take(&mut self.unsynced).into_keys() {
            let start = sector as usize * SECTOR_BYTES;
            let contents = sector_of(&self.current, sector as usize);
            if self.durable.len() < start + contents.len() {
                self.durable.resize(start + contents.len(), 0);
            }
            self.durable[start..start + contents.len()].copy_from_slice(contents);
        }
    }
}

impl Disk for SimulatedDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let state = &mut *self.lock_state();
        state.enter(access == Access::CreateNew)?;
        let boot = state.boot;
        match (state.inode_of(path), access) {
            (Some(_), Access::CreateNew) => Err(io::Error::from(ErrorKind::AlreadyExists)),
            (Some(inode), _) => Ok(self.file(inode, boot)),
            (None, Access::CreateNew) => {
                let inode = state.next_inode;
                let (directory, name) = split(path)?;
                state.directory(directory)?.change(|names| {
                    names.insert(name.to_owned(), inode);
                });
                state.next_inode += 1;
                state.inodes.insert(inode, Inode::default());
                Ok(self.file(inode, boot))
            }
            (None, _) => Err(io::Error::from(ErrorKind::NotFound)),
        }
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let state = &mut *self.lock_state();
        state.enter(false)?;
        Ok(state.directory(directory)?.current.keys().cloned().collect())
    }

    fn create_dir(&self, directory: &Path) -> io::Result<()> {
        let state = &mut *self.lock_state();
        state.enter(true)?;
        state
            .directories
            .entry(directory.to_owned())
            .or_insert_with(|| Directory { current: BTreeMap::new(), states: vec![BTreeMap::new()] });
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let state = &mut *self.lock_state();
        state.enter(true)?;
        let inode = state.inode_of(from).ok_or_else(|| io::Error::from(ErrorKind::NotFound))?;
        let ((directory, old), (other, new)) = (split(from)?, split(to)?);
        assert_eq!(directory, other, "a rename stays in its directory");
        state.directory(directory)?.change(|names| {
            names.remove(old);
            names.insert(new.to_owned(), inode);
        });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let state = &mut *self.lock_state();
        state.enter(false)?;
        state.inode_of(path).ok_or_else(|| io::Error::from(ErrorKind::NotFound))?;
        let (directory, name) = split(path)?;
        state.directory(directory)?.change(|names| {
            names.remove(name);
        });
        Ok(())
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        let state = &mut *self.lock_state();
        state.enter(false)?;
        let is_ignored = state.ignores_sync_dir;
        let directory = state.directory(directory)?;
        if !is_ignored {
            directory.states = vec![directory.current.clone()];
        }
        Ok(())
    }

    fn lock(&self, path: &Path, owner: &str) -> Result<Box<dyn DiskLock>, LockError> {
        let state = &mut *self.lock_state();
        state.enter(true)?;
        if let Some(holder) = state.locks.get(path) {
            return Err(LockError::Held { holder: holder.clone() });
        }
        state.locks.insert(path.to_owned(), owner.to_owned());
        Ok(Box::new(SimulatedLock { disk: self.clone(), path: path.to_owned(), boot: state.boot }))
    }

    fn free_bytes(&self, _directory: &Path) -> io::Result<u64> {
        let state = &mut *self.lock_state();
        state.enter(false)?;
        Ok(state.free_bytes)
    }
}

impl Directory {
    fn change(&mut self, change: impl FnOnce(&mut BTreeMap<String, u64>)) {
        change(&mut self.current);
        self.states.push(self.current.clone());
    }
}

struct SimulatedFile {
    disk: SimulatedDisk,
    inode: u64,
    boot: u64,
}

impl SimulatedFile {
    fn with<T>(
        &self,
        needs_space: bool,
        act: impl FnOnce(&mut State, io::Result<()>) -> io::Result<T>,
    ) -> io::Result<T> {
        let state = &mut *self.disk.lock_state();
        if state.boot != self.boot {
            return Err(io::Error::other("the machine was restarted"));
        }
        let entered = state.enter(needs_space);
        act(state, entered)
    }
}

impl DiskFile for SimulatedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(false, |state, entered| {
            entered?;
            let contents = &state.inodes[&self.inode].current;
            let start = (offset as usize).min(contents.len());
            let count = buffer.len().min(contents.len() - start);
            buffer[..count].copy_from_slice(&contents[start..start + count]);
            Ok(count)
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.with(true, |state, entered| {
            let inode = state.inodes.get_mut(&self.inode).expect("an open file has its inode");
            let growth = (offset + bytes.len() as u64).saturating_sub(inode.current.len() as u64);
            let (taken, result) = match entered {
                Err(error) => (state.random.below(bytes.len() as u64 + 1) as usize, Err(error)),
                Ok(()) if growth > state.free_bytes => {
                    let fits = bytes.len().saturating_sub((growth - state.free_bytes) as usize);
                    (fits, Err(io::Error::from(ErrorKind::StorageFull)))
                }
                Ok(()) => (bytes.len(), Ok(())),
            };
            let grown = (offset + taken as u64).saturating_sub(inode.current.len() as u64);
            state.free_bytes -= grown.min(state.free_bytes);
            inode.write(&bytes[..taken], offset);
            result
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(false, |state, entered| {
            let inode = state.inodes.get_mut(&self.inode).expect("an open file has its inode");
            match entered {
                Err(error) => {
                    // The kernel marks the pages clean whatever became of them.
                    let keep_in_eight = state.random.below(9);
                    inode.settle(&mut state.random, keep_in_eight);
                    Err(error)
                }
                Ok(()) if state.ignores_sync_data => Ok(()),
                Ok(()) => {
                    inode.sync();
                    Ok(())
                }
            }
        })
    }

    fn byte_len(&self) -> io::Result<u64> {
        self.with(false, |state, entered| {
            entered?;
            Ok(state.inodes[&self.inode].current.len() as u64)
        })
    }
}

struct SimulatedLock {
    disk: SimulatedDisk,
    path: PathBuf,
    boot: u64,
}

impl DiskLock for SimulatedLock {
    fn note(&self, owner: &str) {
        self.disk.lock_state().locks.insert(self.path.clone(), owner.to_owned());
    }
}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        let state = &mut *self.disk.lock_state();
        if state.boot == self.boot {
            state.locks.remove(&self.path);
        }
    }
}

fn split(path: &Path) -> io::Result<(&Path, &str)> {
    let name = path.file_name().and_then(|name| name.to_str());
    path.parent().zip(name).ok_or_else(|| io::Error::from(ErrorKind::InvalidInput))
}

fn sector_of(contents: &[u8], sector: usize) -> &[u8] {
    let start = sector * SECTOR_BYTES;
    &contents[start..contents.len().min(start + SECTOR_BYTES)]
}

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;
