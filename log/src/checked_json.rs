//! Small files that are replaced whole: a line with a title and a checksum, then JSON for programs and people to read.
//!
//! ```text
//! file := title " crc32c=" 8 hexadecimal digits "\n" JSON
//! ```

use std::io::{self, ErrorKind};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::env::{Access, Disk};

/// Why bytes are no file of this kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckedJsonError {
    /// Damaged, cut, or something else altogether.
    #[error("damaged")]
    Damaged,
    /// Whole, and of another version.
    #[error("of version {0}")]
    OtherVersion(u32),
}

/// The bytes of a file titled `title`. The value has a field `version`.
///
/// # Panics
/// When the value has no JSON form.
pub fn encode<T: Serialize>(title: &str, value: &T) -> Vec<u8> {
    let json = serde_json::to_string(value).expect("the value has a JSON form");
    format!("{title} crc32c={:08x}\n{json}", crc32c::crc32c(json.as_bytes())).into_bytes()
}

/// Reads the bytes of a file titled `title`, whose value must be of `version`.
///
/// # Errors
/// [`CheckedJsonError`].
pub fn decode<T: DeserializeOwned>(title: &str, version: u32, bytes: &[u8]) -> Result<T, CheckedJsonError> {
    let text = std::str::from_utf8(bytes).map_err(|_| CheckedJsonError::Damaged)?;
    let rest = text.strip_prefix(title).and_then(|rest| rest.strip_prefix(" crc32c="));
    let (checksum, json) = rest.and_then(|rest| rest.split_once('\n')).ok_or(CheckedJsonError::Damaged)?;
    if checksum != format!("{:08x}", crc32c::crc32c(json.as_bytes())) {
        return Err(CheckedJsonError::Damaged);
    }
    // The version is read by itself: another one may say other things.
    let found: Version = serde_json::from_str(json).map_err(|_| CheckedJsonError::Damaged)?;
    if found.version != version {
        return Err(CheckedJsonError::OtherVersion(found.version));
    }
    serde_json::from_str(json).map_err(|_| CheckedJsonError::Damaged)
}

/// Puts `bytes` at `path`, atomically and durably: after a crash the file is the old one or the new one, whole.
///
/// # Errors
/// As the disk answers; the old file stands then, or the new one.
pub fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let directory = path.parent().ok_or_else(|| io::Error::from(ErrorKind::InvalidInput))?;
    // A crash or a failed attempt may have left one.
    match disk.remove(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.open(&temporary, Access::CreateNew)?;
    file.write_at(bytes, 0)?;
    file.sync_data()?;
    disk.rename(&temporary, path)?;
    disk.sync_dir(directory)
}

/// Reads the whole file at `path`; `None` when there is none.
///
/// # Errors
/// As the disk answers.
pub fn read(disk: &dyn Disk, path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(path, Access::Read) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut bytes = vec![0; usize::try_from(file.byte_len()?).map_err(io::Error::other)?];
    let count = file.read_at(&mut bytes, 0)?;
    bytes.truncate(count);
    Ok(Some(bytes))
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}
