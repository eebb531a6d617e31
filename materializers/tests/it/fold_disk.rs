//! The folds' disk: what they write by themselves is simulated, the trees' own files are real, and torn at a loss of power.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use highwater_log::env::simulated::{Random, SimulatedDisk};
use highwater_log::env::{Access, Disk, DiskFile, DiskLock, LockError, SystemDisk};

use crate::damage::files_below;

/// Checkpoints on a simulated disk beside trees on a real one.
pub(crate) struct FoldDisk {
    pub(crate) simulated: Arc<SimulatedDisk>,
}

impl FoldDisk {
    fn of(&self, path: &Path) -> &dyn Disk {
        let is_tree = path.components().any(|part| part.as_os_str() == "trees");
        if is_tree { &SystemDisk } else { &*self.simulated }
    }
}

impl Disk for FoldDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        self.of(path).open(path, access)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.of(directory).list(directory)
    }

    fn create_dir(&self, directory: &Path) -> io::Result<()> {
        // Those above the trees' are the checkpoints'; the simulated disk makes one at a time.
        directory.ancestors().take(2).try_for_each(|directory| self.simulated.create_dir(directory))?;
        self.of(directory).create_dir(directory)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.of(from).rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.of(path).remove(path)
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        self.of(directory).sync_dir(directory)
    }

    fn lock(&self, path: &Path, owner: &str) -> Result<Box<dyn DiskLock>, LockError> {
        self.of(path).lock(path, owner)
    }

    fn free_bytes(&self, directory: &Path) -> io::Result<u64> {
        self.of(directory).free_bytes(directory)
    }
}

/// The trees' files that a checkpoint has recorded. Their library syncs what it writes; here nothing counts as synced before a
/// checkpoint says so.
#[derive(Default)]
pub(crate) struct Recorded(BTreeSet<PathBuf>);

impl Recorded {
    /// Everything that is there now.
    pub(crate) fn note(&mut self, folds: &Path) {
        self.0 = files_of(folds).into_iter().collect();
    }

    /// Drops, cuts or tears what was written since.
    pub(crate) fn lose_power(&self, folds: &Path, random: &mut Random) -> io::Result<()> {
        const SECTOR: u64 = 512;
        for path in files_of(folds).into_iter().filter(|path| !self.0.contains(path)) {
            let len = path.metadata()?.len();
            match random.below(4) {
                0 => std::fs::remove_file(&path)?,
                1 => OpenOptions::new().write(true).open(&path)?.set_len(random.below(len + 1))?,
                2 => {
                    let mut bytes = std::fs::read(&path)?;
                    for sector in bytes.chunks_mut(SECTOR as usize) {
                        if random.one_in(3) {
                            sector.fill(0);
                        }
                    }
                    std::fs::write(&path, bytes)?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn files_of(folds: &Path) -> Vec<PathBuf> {
    if folds.is_dir() { files_below(folds) } else { Vec::new() }
}
