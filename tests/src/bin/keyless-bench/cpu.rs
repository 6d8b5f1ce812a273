//! CPU time, by the kernel's clocks: of this thread, and of another process with all its threads.

use std::time::Duration;

fn read(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local value of the right type.
    let status = unsafe { libc::clock_gettime(clock, &raw mut time) };
    assert_eq!(status, 0, "the clock {clock} can be read");
    let seconds = u64::try_from(time.tv_sec).expect("CPU time is not negative");
    Duration::new(seconds, u32::try_from(time.tv_nsec).expect("less than a second"))
}

/// CPU time of the calling thread.
pub fn of_this_thread() -> Duration {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// CPU time of a process that runs.
pub fn of_process(pid: u32) -> Duration {
    let mut clock = 0;
    let pid = i32::try_from(pid).expect("a pid fits");
    // SAFETY: the pointer is to a local value of the right type.
    let status = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
    assert_eq!(status, 0, "process {pid} runs");
    read(clock)
}

/// Runs something; answers with its result and this thread's CPU time.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let before = of_this_thread();
    let result = work();
    (result, of_this_thread() - before)
}
