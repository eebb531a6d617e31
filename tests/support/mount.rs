//! A file system of a test's own: small, and read-only when it is told so.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;

/// A file system in memory; it goes with this.
pub(crate) struct Mounted {
    directory: tempfile::TempDir,
}

impl Mounted {
    /// One of so many MiB. `None`, with the reason printed: this user may not mount, and nothing demands it.
    ///
    /// # Panics
    /// When it cannot be mounted though `CI` is set.
    pub(crate) fn of_mib(size: u64) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let size = format!("size={size}m");
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(directory.path()).output();
        if output.as_ref().is_ok_and(|output| output.status.success()) {
            return Some(Self { directory });
        }
        assert!(std::env::var_os("CI").is_none(), "a test has to mount a file system, and cannot: {output:?}");
        println!("skipped: this user may not mount file systems");
        None
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Lets nobody write any more, or again.
    pub(crate) fn set_read_only(&self, is_read_only: bool) {
        let how = if is_read_only { "remount,ro" } else { "remount,rw" };
        let output = Command::new("mount").args(["-o", how]).arg(self.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// Leaves `mib` MiB free, or fewer where others write meanwhile.
    pub(crate) fn fill_up_to(&self, mib: u64) {
        let mut ballast = File::create(self.path().join(BALLAST)).unwrap();
        let free = || {
            let found = rustix::fs::statvfs(self.path()).unwrap();
            found.f_bavail * found.f_frsize
        };
        while free() > mib << 20 && ballast.write_all(&[1; 64 * 1024]).is_ok() {}
    }

    /// Gives what was filled up free again.
    pub(crate) fn make_room(&self) {
        std::fs::remove_file(self.path().join(BALLAST)).unwrap();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

const BALLAST: &str = "ballast";
