//! What the log asks of a file system.

use std::io;
use std::path::Path;
use std::sync::Arc;

/// A file system, as far as the log needs one.
///
/// What is written is durable only after [`DiskFile::sync_data`] for contents and [`Disk::sync_dir`] for names.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file.
    ///
    /// # Errors
    /// As the file system answers; `AlreadyExists` for [`Access::CreateNew`] on an existing name.
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>>;

    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// As the file system answers.
    fn list(&self, directory: &Path) -> io::Result<Vec<String>>;

    /// Creates a directory and those above it where they are missing, durably.
    ///
    /// # Errors
    /// As the file system answers.
    fn create_dir(&self, directory: &Path) -> io::Result<()>;

    /// Gives a file another name in the same directory, atomically, replacing what had it.
    ///
    /// # Errors
    /// As the file system answers.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// As the file system answers.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// As the file system answers.
    fn sync_dir(&self, directory: &Path) -> io::Result<()>;

    /// Takes the lock file at `path` for as long as the answer lives, and writes `owner` into it for others to read.
    ///
    /// # Errors
    /// [`LockError::Held`] with what the holder wrote.
    fn lock(&self, path: &Path, owner: &str) -> Result<Box<dyn DiskLock>, LockError>;

    /// Bytes that may still be written to the file system of `directory`.
    ///
    /// # Errors
    /// As the file system answers.
    fn free_bytes(&self, directory: &Path) -> io::Result<u64>;
}

/// An open file.
pub trait DiskFile: Send + Sync {
    /// Reads at `offset` until `buffer` is full or the file ends, and returns how many bytes it read.
    ///
    /// # Errors
    /// As the file system answers.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`, growing the file where needed. Not durable by itself.
    ///
    /// # Errors
    /// As the file system answers; some of the bytes may have been written then.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes what was written durable, and the length with it (`fdatasync`).
    ///
    /// # Errors
    /// As the file system answers. Nothing is known of any unsynced byte then, nor does a later success say anything of them.
    fn sync_data(&self) -> io::Result<()>;

    /// The file's length in bytes.
    ///
    /// # Errors
    /// As the file system answers.
    fn byte_len(&self) -> io::Result<u64>;
}

/// A held lock; dropping it releases it.
pub trait DiskLock: Send + Sync {
    /// Replaces what the lock file says of its owner, best effort: it is for people who meet the lock.
    fn note(&self, owner: &str);
}

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading an existing file.
    Read,
    /// Reading and writing an existing file.
    ReadWrite,
    /// Reading and writing a file that must not exist yet.
    CreateNew,
}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("held by {holder}")]
    Held {
        /// What the holder wrote into the file.
        holder: String,
    },
    /// The lock file could not be used.
    #[error("cannot use the lock file")]
    Io(#[from] io::Error),
}
