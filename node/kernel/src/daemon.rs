//! `-daemon` and `-daemonwait`: the fork, before any thread exists.
//!
//! Lives here because `fork` is unsafe and this crate is the only place with unsafe code. The parent waits on a pipe
//! for one byte: 1 means that the child is up (or, with `-daemon`, merely started), end of file means that it died.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// What the parent process learned about its child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildStatus {
    /// The child reported success.
    Started,
    /// The child ended, or reported failure, before it was up.
    Failed,
}

/// The child's end of the pipe to the waiting parent.
#[derive(Debug)]
pub struct ParentPipe(Option<File>);

impl ParentPipe {
    /// Tells the parent how the start went; the second call says nothing.
    pub fn report(&mut self, success: bool) {
        if let Some(mut pipe) = self.0.take() {
            // A parent that is gone needs no answer.
            let _ = pipe.write_all(&[u8::from(success)]);
        }
    }
}

/// Which side of the fork the caller is.
#[derive(Debug)]
pub enum Forked {
    /// The original process: it waited, and should exit now.
    Parent(ChildStatus),
    /// The detached process: go on with the start, then report.
    Child(ParentPipe),
}

/// Detaches from the terminal: forks, starts a session, points the standard streams at `/dev/null`.
///
/// # Errors
/// The operating system's, when the pipe or the fork cannot be made, or when threads already run
/// (a forked copy of a multi-threaded process would hang on locks that nobody holds any more).
pub fn daemonize() -> io::Result<Forked> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads > 1 {
        return Err(io::Error::other(format!("{threads} threads already run")));
    }
    let (mut read_end, write_end) = pipe()?;
    // SAFETY: one thread runs, so the child inherits no lock held by another; both sides go on in safe code.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(read_end);
            detach()?;
            Ok(Forked::Child(ParentPipe(Some(write_end))))
        }
        _ => {
            drop(write_end);
            let mut token = [0u8; 1];
            let started = read_end.read_exact(&mut token).is_ok() && token[0] == 1;
            Ok(Forked::Parent(if started { ChildStatus::Started } else { ChildStatus::Failed }))
        }
    }
}

fn pipe() -> io::Result<(File, File)> {
    let mut ends = [0i32; 2];
    // SAFETY: `ends` has room for the two descriptors that pipe2 writes.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both descriptors are fresh, open and owned by nobody else.
    let (read_end, write_end) = unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
    Ok((read_end.into(), write_end.into()))
}

fn detach() -> io::Result<()> {
    // SAFETY: setsid takes nothing; it fails only for a process group leader, which a fresh child is not.
    if unsafe { libc::setsid() } == -1 {
        return Err(io::Error::last_os_error());
    }
    let null = File::options().read(true).write(true).open("/dev/null")?;
    for stream in [libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        // SAFETY: `null` is open; dup2 replaces a standard stream, which no Rust object owns.
        if unsafe { libc::dup2(null.as_raw_fd(), stream) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
