//! Waits for conditions, with a deadline that names what was waited for.

use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(20);

/// Polls until `ready` gives a value; panics after `deadline`.
pub fn until<T>(what: &str, deadline: Duration, ready: impl FnMut() -> Option<T>) -> T {
    until_polling(what, POLL, deadline, ready)
}

/// The same, for what is measured or must be caught in the act: asks every `pause`.
pub fn until_polling<T>(what: &str, pause: Duration, deadline: Duration, mut ready: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(start.elapsed() < deadline, "{what}: not within {deadline:?}");
        std::thread::sleep(pause);
    }
}

/// The same for plain conditions.
pub fn until_true(what: &str, deadline: Duration, mut ready: impl FnMut() -> bool) {
    until(what, deadline, || ready().then_some(()));
}
