//! A small disk of a test's own, which can be filled and made read-only while a node runs on it.
//!
//! Owns a mount namespace of the calling thread: what is mounted there is seen by this thread and the processes it
//! starts, and is gone with them. Needs `CAP_SYS_ADMIN`; where that is missing, says so and makes nothing.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// One mebibyte.
pub const MIB: u64 = 1 << 20;
const FILLER: &str = "filler";

/// A tmpfs on a folder.
pub struct Disk {
    at: PathBuf,
    size: u64,
}

impl Disk {
    /// Mounts an empty disk of `size` bytes on a folder, which is made. `None` where nobody may mount; says why.
    pub fn mount(at: &Path, size: u64) -> Option<Self> {
        // SAFETY: plain unshare(2); of threads it changes this one alone.
        if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
            println!("SKIPPED: no mount namespace of one's own here: {}", io::Error::last_os_error());
            return None;
        }
        // Else what is mounted would be seen by all. In a chroot "/" is a folder, which cannot be.
        if let Err(error) = mount(None, Path::new("/"), libc::MS_REC | libc::MS_PRIVATE, None) {
            println!("SKIPPED: mounts of one's own are not possible here: {error}");
            return None;
        }
        fs::create_dir_all(at).expect("a folder can be made");
        let disk = Self { at: at.to_owned(), size };
        if let Err(error) = mount(Some("tmpfs"), at, 0, Some(&disk.options("rw"))) {
            println!("SKIPPED: tmpfs cannot be mounted here: {error}");
            return None;
        }
        Some(disk)
    }

    fn options(&self, access: &str) -> String {
        format!("{access},size={},mode=0755", self.size)
    }

    /// Bytes that are free.
    pub fn free(&self) -> u64 {
        let path = path(&self.at);
        // SAFETY: all zeroes are a valid statvfs, and both pointers are to live values.
        let stats = unsafe {
            let mut stats: libc::statvfs = std::mem::zeroed();
            assert_eq!(libc::statvfs(path.as_ptr(), &raw mut stats), 0, "{}", io::Error::last_os_error());
            stats
        };
        stats.f_bavail * stats.f_bsize
    }

    /// Takes all space but this much.
    pub fn fill_but(&self, left: u64) {
        let file = fs::File::create(self.at.join(FILLER)).expect("a file can be made");
        let size = i64::try_from(self.free().saturating_sub(left)).expect("a small disk");
        // SAFETY: the descriptor is open.
        let status = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, size) };
        assert_eq!(status, 0, "{}", io::Error::from_raw_os_error(status));
    }

    /// Gives back what was taken.
    pub fn make_room(&self) {
        fs::remove_file(self.at.join(FILLER)).expect("the filler can be removed");
    }

    /// Refuses writes from now on, or takes them again. Nobody may have a file open for writing.
    pub fn set_read_only(&self, read_only: bool) {
        let flag = if read_only { libc::MS_RDONLY } else { 0 };
        let options = self.options(if read_only { "ro" } else { "rw" });
        mount(Some("tmpfs"), &self.at, libc::MS_REMOUNT | flag, Some(&options)).expect("a disk can be mounted anew");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        detach(&self.at);
    }
}

/// A folder that cannot be written until this is dropped; files that are open already can.
pub struct ReadOnly {
    at: PathBuf,
}

impl ReadOnly {
    /// In the namespace that [`Disk::mount`] made.
    pub fn folder(at: &Path) -> Self {
        let text = at.to_str().expect("a plain path");
        mount(Some(text), at, libc::MS_BIND, None).expect("a folder can be bound to itself");
        mount(None, at, libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY, None).expect("a bind can be read-only");
        Self { at: at.to_owned() }
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        detach(&self.at);
    }
}

fn path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("a path without zeroes")
}

fn mount(source: Option<&str>, target: &Path, flags: libc::c_ulong, data: Option<&str>) -> io::Result<()> {
    let text = |text: Option<&str>| text.map(|text| CString::new(text).expect("text without zeroes"));
    let (source, data, target) = (text(source), text(data), path(target));
    let pointer = |text: &Option<CString>| text.as_ref().map_or(std::ptr::null(), |text| text.as_ptr());
    // SAFETY: every pointer is null or to a string that outlives the call; tmpfs takes its options as a string.
    let status =
        unsafe { libc::mount(pointer(&source), target.as_ptr(), c"tmpfs".as_ptr(), flags, pointer(&data).cast()) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn detach(at: &Path) {
    // SAFETY: the pointer is to a string that outlives the call. What is in use goes with its last user.
    unsafe { libc::umount2(path(at).as_ptr(), libc::MNT_DETACH) };
}
