//! Looking through the rows' files.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use highwater_log::LogId;
use highwater_log::env::Disk;
use xxhash_rust::xxh3::Xxh3;

use super::checkpoint::Checkpoint;
use super::tree::Tree;
use super::{Kv, KvOptions};
use crate::catalog::Catalog;
use crate::error::FoldError;

impl Kv {
    /// Reads every byte of the rows' files in `directory` and tells what is not as it was written; `tell` hears the bytes of each
    /// piece. Nothing is dropped that an opening would not remove for being left over.
    ///
    /// # Errors
    /// [`FoldError::Io`].
    pub(crate) fn verify_files(
        disk: Arc<dyn Disk>,
        directory: PathBuf,
        log: LogId,
        catalog: Arc<Catalog>,
        mut tell: impl FnMut(u64),
    ) -> Result<Vec<String>, FoldError> {
        if !directory.join("trees").is_dir() {
            return Ok(Vec::new());
        }
        let kv = Self::unopened(disk, directory, log, catalog, KvOptions::default());
        match kv.load_files(&mut Checkpoint::beginning(log)) {
            Ok(()) => {}
            Err(FoldError::Storage { cause, .. }) => return Ok(vec![cause.to_string()]),
            Err(other) => return Err(other),
        }
        let mut found = Vec::new();
        for (_, tree) in kv.all_trees() {
            found.extend(tree.verify_files(&mut tell)?);
        }
        Ok(found)
    }
}

impl Tree {
    /// Compares each file with the checksum that it was written with.
    fn verify_files(&self, tell: &mut impl FnMut(u64)) -> Result<Vec<String>, FoldError> {
        let mut found = Vec::new();
        let mut piece = vec![0; PIECE_BYTES];
        for (path, checksum) in self.table_files() {
            let failed = |source| FoldError::Io { action: "read", path: path.clone(), source };
            let mut file = match std::fs::File::open(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    found.push(format!("{} is missing", path.display()));
                    continue;
                }
                opened => opened.map_err(failed)?,
            };
            let mut hash = Xxh3::new();
            loop {
                let count = match file.read(&mut piece) {
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    // What cannot be read is damaged: a bad sector answers so.
                    Err(error) => {
                        found.push(format!("{} cannot be read: {error}", path.display()));
                        break;
                    }
                    Ok(count) => count,
                };
                if count == 0 {
                    if hash.digest128() != checksum {
                        found.push(format!("{} is damaged", path.display()));
                    }
                    break;
                }
                hash.update(&piece[..count]);
                tell(count as u64);
            }
        }
        Ok(found)
    }
}

const PIECE_BYTES: usize = 1024 * 1024;
