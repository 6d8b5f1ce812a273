//! Which inbound peer makes room for another. Pure.
//!
//! After Core's `SelectNodeToEvict`: those an attacker cannot easily imitate (near, useful, long here) are protected; of the rest
//! the youngest of the network with most connections goes.

use std::collections::HashMap;
use std::time::Duration;

use super::handle::PeerId;

#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) id: PeerId,
    pub(crate) connected: Duration,
    pub(crate) min_ping: Option<Duration>,
    pub(crate) last_tx: Duration,
    pub(crate) last_block: Duration,
    pub(crate) group: Vec<u8>,
    /// Misbehaved before.
    pub(crate) prefer: bool,
}

/// Takes the `most` that sort last out of the danger.
fn protect<K: Ord>(left: &mut Vec<Candidate>, most: usize, key: impl Fn(&Candidate) -> K) {
    left.sort_by_key(key);
    left.truncate(left.len().saturating_sub(most));
}

pub(crate) fn choose(mut left: Vec<Candidate>) -> Option<PeerId> {
    protect(&mut left, 4, |c| c.group.clone());
    protect(&mut left, 8, |c| std::cmp::Reverse(c.min_ping.unwrap_or(Duration::MAX)));
    protect(&mut left, 4, |c| c.last_tx);
    protect(&mut left, 4, |c| c.last_block);
    let half = left.len() / 2;
    protect(&mut left, half, |c| std::cmp::Reverse(c.connected));
    if left.iter().any(|c| c.prefer) {
        left.retain(|c| c.prefer);
    }
    let mut groups: HashMap<Vec<u8>, (usize, Duration)> = HashMap::new();
    for candidate in &left {
        let group = groups.entry(candidate.group.clone()).or_default();
        group.0 += 1;
        group.1 = group.1.max(candidate.connected);
    }
    let (largest, _) = groups.into_iter().max_by_key(|(_, size)| *size)?;
    left.into_iter().filter(|c| c.group == largest).max_by_key(|c| c.connected).map(|c| c.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(id: PeerId) -> Candidate {
        Candidate {
            id,
            connected: Duration::from_secs(id),
            min_ping: None,
            last_tx: Duration::ZERO,
            last_block: Duration::ZERO,
            group: vec![4, 1, (id % 2) as u8],
            prefer: false,
        }
    }

    #[test]
    fn the_youngest_unprotected_peer_goes() {
        assert_eq!(choose(Vec::new()), None);
        assert_eq!(choose((0..10).map(candidate).collect()), None, "few peers are all protected");
        let victim = choose((0..60).map(candidate).collect()).unwrap();
        assert!(victim > 30);
    }

    #[test]
    fn a_peer_that_relays_blocks_stays() {
        let mut all: Vec<_> = (0..60).map(candidate).collect();
        let victim = choose(all.clone()).unwrap();
        all[victim as usize].last_block = Duration::from_secs(1);
        assert_ne!(choose(all), Some(victim));
    }
}
