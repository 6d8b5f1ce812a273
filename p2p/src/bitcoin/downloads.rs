//! Which block was asked from whom, and who holds up the rest. Pure: time and chain answers are handed in.
//!
//! Follows Core's `mapBlocksInFlight` and `FindNextBlocks`: each block is asked from one peer (as a compact block from up to
//! three), sixteen at most from each, and a peer that holds the first missing block while the window cannot move is the staller.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use bitcoin::BlockHash;

use super::chain::BlockRef;
use super::handle::PeerId;

/// Core's `MAX_BLOCKS_IN_TRANSIT_PER_PEER`.
pub(crate) const MAX_IN_FLIGHT: usize = 16;
/// Core's `BLOCK_DOWNLOAD_WINDOW`.
pub(crate) const WINDOW: u32 = 1_024;
const STALLING_TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);
const STALLING_TIMEOUT_MAX: Duration = Duration::from_secs(64);

#[derive(Debug, Default)]
struct PeerDownloads {
    blocks: VecDeque<BlockRef>,
    /// Those of which a part is here, from a compact block of this peer.
    partial: HashSet<BlockHash>,
    since: Duration,
    stalling_since: Option<Duration>,
}

/// Why a peer must go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Late {
    /// It holds up the window. The timeout for the next one grew to this.
    Stalling(Duration),
    /// One block took longer than the block interval allows.
    Timeout(BlockHash),
}

/// What to ask from a peer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Pick {
    pub(crate) blocks: Vec<BlockRef>,
    /// Nothing can be asked, because this peer has not delivered.
    pub(crate) staller: Option<PeerId>,
}

#[derive(Debug)]
pub(crate) struct Downloads {
    /// Who was asked, in order; never empty.
    in_flight: HashMap<BlockHash, Vec<PeerId>>,
    peers: HashMap<PeerId, PeerDownloads>,
    stalling_timeout: Duration,
}

impl Default for Downloads {
    fn default() -> Self {
        Self { in_flight: HashMap::new(), peers: HashMap::new(), stalling_timeout: STALLING_TIMEOUT_DEFAULT }
    }
}

impl Downloads {
    pub(crate) fn is_requested(&self, hash: &BlockHash) -> bool {
        self.in_flight.contains_key(hash)
    }

    /// Who was asked for a block, the first first.
    pub(crate) fn holders(&self, hash: &BlockHash) -> &[PeerId] {
        self.in_flight.get(hash).map_or(&[], Vec::as_slice)
    }

    /// A part of the block is here, from a compact block of this peer.
    pub(crate) fn mark_partial(&mut self, peer: PeerId, hash: &BlockHash) {
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.partial.insert(*hash);
        }
    }

    pub(crate) fn is_partial(&self, peer: PeerId, hash: &BlockHash) -> bool {
        self.peers.get(&peer).is_some_and(|entry| entry.partial.contains(hash))
    }

    /// Blocks of which a part is here from this peer.
    pub(crate) fn partials(&self, peer: PeerId) -> Vec<BlockHash> {
        self.peers.get(&peer).map(|entry| entry.partial.iter().copied().collect()).unwrap_or_default()
    }

    /// Blocks asked for.
    pub(crate) fn total(&self) -> usize {
        self.in_flight.len()
    }

    pub(crate) fn count(&self, peer: PeerId) -> usize {
        self.peers.get(&peer).map_or(0, |p| p.blocks.len())
    }

    pub(crate) fn heights(&self, peer: PeerId) -> Vec<u32> {
        self.peers.get(&peer).map(|p| p.blocks.iter().map(|block| block.height).collect()).unwrap_or_default()
    }

    /// False if the same peer was asked already; requests to others go on.
    pub(crate) fn requested(&mut self, peer: PeerId, block: BlockRef, now: Duration) -> bool {
        let holders = self.in_flight.entry(block.hash).or_default();
        if holders.contains(&peer) {
            return false;
        }
        holders.push(peer);
        let entry = self.peers.entry(peer).or_default();
        if entry.blocks.is_empty() {
            entry.since = now;
        }
        entry.blocks.push_back(block);
        true
    }

    /// Forgets the request to `from` (to all with `None`), and tells of whom a part of the block is here.
    pub(crate) fn received(&mut self, hash: &BlockHash, from: Option<PeerId>, now: Duration) -> Vec<PeerId> {
        let Some(holders) = self.in_flight.get_mut(hash) else { return Vec::new() };
        let ended: Vec<PeerId> = holders.iter().copied().filter(|id| from.is_none_or(|from| from == *id)).collect();
        holders.retain(|id| !ended.contains(id));
        if holders.is_empty() {
            self.in_flight.remove(hash);
        }
        let mut partial = Vec::new();
        for peer in ended {
            let Some(entry) = self.peers.get_mut(&peer) else { continue };
            if entry.blocks.front().is_some_and(|first| first.hash == *hash) {
                entry.since = entry.since.max(now);
            }
            entry.blocks.retain(|block| block.hash != *hash);
            entry.stalling_since = None;
            if entry.partial.remove(hash) {
                partial.push(peer);
            }
        }
        partial
    }

    /// The peer is gone; what it was asked for may be asked from others.
    pub(crate) fn forget_peer(&mut self, peer: PeerId) {
        if let Some(entry) = self.peers.remove(&peer) {
            for block in entry.blocks {
                let Some(holders) = self.in_flight.get_mut(&block.hash) else { continue };
                holders.retain(|id| *id != peer);
                if holders.is_empty() {
                    self.in_flight.remove(&block.hash);
                }
            }
        }
    }

    /// Chooses from `missing`, the blocks without data in ascending height, some maybe in flight. `window_end` is the
    /// highest height that may be asked for; one beyond it shows that the window is what stops us.
    pub(crate) fn pick(&self, peer: PeerId, missing: &[BlockRef], window_end: u32) -> Pick {
        let budget = MAX_IN_FLIGHT.saturating_sub(self.count(peer));
        let mut pick = Pick::default();
        let mut waiting_for = None;
        for block in missing {
            if pick.blocks.len() >= budget {
                break;
            }
            if let Some(holder) = self.holders(&block.hash).first() {
                waiting_for = waiting_for.or(Some(*holder));
                continue;
            }
            if block.height > window_end {
                if pick.blocks.is_empty() && waiting_for != Some(peer) {
                    pick.staller = waiting_for;
                }
                break;
            }
            pick.blocks.push(*block);
        }
        pick
    }

    /// Starts the staller's clock. False if it ran already.
    pub(crate) fn stalls(&mut self, peer: PeerId, now: Duration) -> bool {
        match self.peers.get_mut(&peer) {
            Some(entry) if entry.stalling_since.is_none() => {
                entry.stalling_since = Some(now);
                true
            }
            _ => false,
        }
    }

    /// Whether the peer is late by now. `interval` is the time between blocks.
    pub(crate) fn late(&mut self, peer: PeerId, now: Duration, interval: Duration) -> Option<Late> {
        let others = self.peers.values().filter(|p| !p.blocks.is_empty()).count().saturating_sub(1);
        let entry = self.peers.get(&peer)?;
        if entry.stalling_since.is_some_and(|since| since + self.stalling_timeout < now) {
            self.stalling_timeout = (self.stalling_timeout * 2).min(STALLING_TIMEOUT_MAX);
            return Some(Late::Stalling(self.stalling_timeout));
        }
        let allowed = interval + interval / 2 * u32::try_from(others).unwrap_or(u32::MAX);
        let first = entry.blocks.front()?;
        (now > entry.since + allowed).then_some(Late::Timeout(first.hash))
    }

    /// A block arrived and moved the tip: Core lets the stalling timeout sink back. True if it changed.
    pub(crate) fn relax(&mut self) -> Option<Duration> {
        if self.stalling_timeout == STALLING_TIMEOUT_DEFAULT {
            return None;
        }
        self.stalling_timeout = self.stalling_timeout.mul_f64(0.85).max(STALLING_TIMEOUT_DEFAULT);
        Some(self.stalling_timeout)
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::hashes::Hash;

    use super::*;

    fn block(height: u32) -> BlockRef {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&height.to_le_bytes());
        BlockRef { hash: BlockHash::from_byte_array(bytes), height }
    }

    const T: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn blocks_are_spread_over_peers_sixteen_each() {
        let mut downloads = Downloads::default();
        let missing: Vec<_> = (1..=40).map(block).collect();
        for peer in [1, 2] {
            let pick = downloads.pick(peer, &missing, WINDOW);
            assert_eq!(pick.blocks.len(), MAX_IN_FLIGHT);
            for block in pick.blocks {
                assert!(downloads.requested(peer, block, T(0)));
            }
        }
        assert_eq!(downloads.heights(2), (17..=32).collect::<Vec<_>>());
        assert!(downloads.pick(1, &missing, WINDOW).blocks.is_empty());
        downloads.forget_peer(1);
        assert_eq!(downloads.pick(3, &missing, WINDOW).blocks[0], block(1));
    }

    #[test]
    fn whoever_blocks_the_window_is_the_staller_and_goes() {
        let mut downloads = Downloads::default();
        downloads.requested(1, block(1), T(0));
        let missing = [block(1), block(5)];
        let pick = downloads.pick(2, &missing, 4);
        assert_eq!((pick.blocks.len(), pick.staller), (0, Some(1)));
        assert!(downloads.stalls(1, T(10)));
        assert!(!downloads.stalls(1, T(11)));
        assert_eq!(downloads.late(1, T(12), T(600)), None);
        assert_eq!(downloads.late(1, T(13), T(600)), Some(Late::Stalling(T(4))));
        assert_eq!(downloads.pick(1, &missing, 4).staller, None, "a peer does not wait for itself");
    }

    #[test]
    fn one_block_may_take_an_interval_and_half_of_it_for_each_other_peer() {
        let mut downloads = Downloads::default();
        downloads.requested(1, block(1), T(0));
        assert_eq!(downloads.late(1, T(600), T(600)), None);
        assert_eq!(downloads.late(1, T(601), T(600)), Some(Late::Timeout(block(1).hash)));
        downloads.requested(2, block(2), T(0));
        assert_eq!(downloads.late(1, T(900), T(600)), None);
        downloads.received(&block(1).hash, Some(2), T(5));
        assert!(downloads.is_requested(&block(1).hash), "only the asked peer ends its request");
        downloads.received(&block(1).hash, Some(1), T(5));
        assert_eq!((downloads.total(), downloads.count(1)), (1, 0));
    }

    #[test]
    fn a_block_may_be_asked_from_several_and_each_request_ends_by_itself() {
        let mut downloads = Downloads::default();
        assert!(downloads.requested(1, block(1), T(0)));
        assert!(!downloads.requested(1, block(1), T(0)));
        assert!(downloads.requested(2, block(1), T(0)));
        assert_eq!((downloads.count(1), downloads.count(2), downloads.total()), (1, 1, 1));
        assert_eq!(downloads.holders(&block(1).hash), [1, 2]);
        downloads.mark_partial(2, &block(1).hash);
        assert!(downloads.received(&block(1).hash, Some(1), T(1)).is_empty());
        assert_eq!((downloads.count(1), downloads.holders(&block(1).hash)), (0, &[2][..]));
        assert_eq!(downloads.received(&block(1).hash, None, T(1)), [2]);
        assert!(!downloads.is_requested(&block(1).hash) && !downloads.is_partial(2, &block(1).hash));
    }
}
