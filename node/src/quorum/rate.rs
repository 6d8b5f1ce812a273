//! How many requests a member may make in a time: a bucket of tokens for each.

use std::time::{Duration, Instant};

use super::sessions::CONCURRENT_SIGNATURES;

/// Requests at once, and for each second after. A payment comes with some four others: leases, its transaction, a mark.
pub const BURST: u32 = 8 * CONCURRENT_SIGNATURES as u32;
pub const PER_SECOND: u32 = 256;

const NANOS: u128 = 1_000_000_000;

/// The tokens of one member.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    burst: u32,
    per_second: u32,
    tokens: u32,
    at: Instant,
}

impl Bucket {
    /// For requests.
    pub fn full(now: Instant) -> Self {
        Self::of(BURST, PER_SECOND, now)
    }

    /// So many at once, and for each second after.
    pub fn of(burst: u32, per_second: u32, now: Instant) -> Self {
        Self { burst, per_second: per_second.max(1), tokens: burst, at: now }
    }

    /// Takes a token; false if there is none.
    pub fn take(&mut self, now: Instant) -> bool {
        self.take_many(1, now)
    }

    /// Takes so many tokens, or none.
    pub fn take_many(&mut self, count: u32, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.at).as_nanos();
        let due = elapsed.saturating_mul(u128::from(self.per_second)) / NANOS;
        let due = u32::try_from(due).unwrap_or(u32::MAX);
        if due > 0 {
            self.tokens = self.tokens.saturating_add(due).min(self.burst);
            let full = self.tokens == self.burst;
            self.at = if full { now } else { self.at + Duration::from_secs(u64::from(due)) / self.per_second };
        }
        match self.tokens.checked_sub(count) {
            Some(left) => {
                self.tokens = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(bucket: &mut Bucket, now: Instant) -> u32 {
        (0..2 * BURST).filter(|_| bucket.take(now)).count() as u32
    }

    #[test]
    fn several_are_taken_together_or_not_at_all() {
        let start = Instant::now();
        let mut bucket = Bucket::of(10, 5, start);
        assert!(bucket.take_many(7, start) && !bucket.take_many(4, start) && bucket.take_many(3, start));
        assert!(!bucket.take_many(6, start + Duration::from_secs(1)));
        assert!(bucket.take_many(5, start + Duration::from_secs(1)));
    }

    #[test]
    fn a_burst_is_let_through_and_then_so_many_a_second() {
        let start = Instant::now();
        let mut bucket = Bucket::full(start);
        assert_eq!(taken(&mut bucket, start), BURST);
        assert_eq!(taken(&mut bucket, start + Duration::from_millis(3)), 0);
        assert_eq!(taken(&mut bucket, start + Duration::from_secs(1)), PER_SECOND);
        let mut slow = 0;
        for step in 1..=1_000 {
            slow += u32::from(bucket.take(start + Duration::from_millis(1_000 + step)));
        }
        assert_eq!(slow, PER_SECOND);
        assert_eq!(taken(&mut bucket, start + Duration::from_secs(3_600)), BURST);
    }
}
