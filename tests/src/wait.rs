//! Waits for conditions, with a deadline that names what was waited for.

use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(20);

/// Polls until `ready` gives a value; panics after `deadline`.
pub fn until<T>(what: &str, deadline: Duration, mut ready: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(start.elapsed() < deadline, "{what}: not within {deadline:?}");
        std::thread::sleep(POLL);
    }
}

/// The same for plain conditions.
pub fn until_true(what: &str, deadline: Duration, mut ready: impl FnMut() -> bool) {
    until(what, deadline, || ready().then_some(()));
}
