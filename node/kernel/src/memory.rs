//! What the process gives back to the operating system.

/// Returns freed memory that the allocator keeps: after a large wallet was loaded or closed, most of what it took.
/// Takes milliseconds. Does nothing where the C library is not GNU's.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) may be called by any thread at any time.
    let _ = unsafe { libc::malloc_trim(0) };
}
