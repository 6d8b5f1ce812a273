//! What is done for each peer on every turn, asked or not: Core's `SendMessages` and its inactivity checks.

use std::time::Duration;

use rand::Rng;

use super::{Owner, Step, gone, private};
use crate::bitcoin::handle::ConnectionType;
use crate::bitcoin::message::{BIP0031_VERSION, FEEFILTER_VERSION, Reader, SENDHEADERS_VERSION};
use crate::bitcoin::peer::{Peer, Transport};
use crate::bitcoin::permissions::Permissions;

const PING_INTERVAL: Duration = Duration::from_secs(120);
/// Core's `TIMEOUT_INTERVAL`: silence, or an unanswered ping.
const TIMEOUT_INTERVAL: Duration = Duration::from_secs(20 * 60);
const FEE_FILTER_INTERVAL: Duration = Duration::from_secs(10 * 60);
const FEE_FILTER_MAX_CHANGE_DELAY: Duration = Duration::from_secs(5 * 60);
const ADDR_FETCH_TIMEOUT: Duration = Duration::from_secs(300);
/// All the money as Core rounds it: nothing passes.
const FILTER_ALL: u64 = 9_936_506;

/// An exponentially distributed wait.
pub(super) fn random_wait(mean: Duration) -> Duration {
    let unit: f64 = rand::thread_rng().gen_range(f64::MIN_POSITIVE..1.0);
    mean.mul_f64((-unit.ln()).min(20.0))
}

impl Owner {
    pub(super) fn service(&mut self, peer: &mut Peer) -> Step {
        if peer.misbehaved {
            return Ok(());
        }
        let now = self.chain.now();
        peer.look_at_counters(now);
        if !peer.is_inbound() && !peer.version_sent {
            self.send_version(peer);
        }
        self.check_inactivity(peer, now)?;
        if !peer.ready {
            return Ok(());
        }
        if peer.is_private() {
            return private::check_lifetime(peer, now);
        }
        if peer.kind == ConnectionType::AddrFetch && now.saturating_sub(peer.connected) > ADDR_FETCH_TIMEOUT {
            return Err(gone(format!("addrfetch connection timeout, {}", peer.disconnecting())));
        }
        self.maybe_ping(peer, now)?;
        self.gossip(peer, now);
        self.maybe_send_headers_wish(peer);
        self.start_headers_sync(peer, now);
        self.announce_blocks(peer);
        self.announce_inventory(peer, now);
        self.check_downloads(peer, now)?;
        self.check_chain(peer, now)?;
        self.ask_blocks(peer, now);
        self.ask_transactions(peer);
        self.maybe_fee_filter(peer, now);
        Ok(())
    }

    fn watches(&self, peer: &Peer, now: Duration) -> bool {
        peer.connected.saturating_add(self.config.peer_timeout) < now
    }

    /// Core's `InactivityCheck`.
    fn check_inactivity(&self, peer: &Peer, now: Duration) -> Step {
        if !self.watches(peer, now) {
            return Ok(());
        }
        let never = (peer.received_seen == 0, peer.sent_seen == 0);
        let reason = if never.0 || never.1 {
            format!(
                "socket no message in first {} seconds{}{}",
                self.config.peer_timeout.as_secs(),
                if never.0 { ", never received from peer" } else { "" },
                if never.1 { ", never sent to peer" } else { "" }
            )
        } else if now > peer.last_sent + TIMEOUT_INTERVAL {
            format!("socket sending timeout: {}s", now.saturating_sub(peer.last_sent).as_secs())
        } else if now > peer.last_received + TIMEOUT_INTERVAL {
            format!("socket receive timeout: {}s", now.saturating_sub(peer.last_received).as_secs())
        } else if !peer.ready && peer.transport == Transport::Detecting {
            "V2 handshake timeout".to_owned()
        } else if !peer.ready {
            "version handshake timeout".to_owned()
        } else {
            return Ok(());
        };
        Err(gone(format!("{reason}, {}", peer.disconnecting())))
    }

    pub(super) fn maybe_ping(&mut self, peer: &mut Peer, now: Duration) -> Step {
        let waiting = now.saturating_sub(peer.ping.start);
        if self.watches(peer, now) && peer.ping.nonce != 0 && waiting > TIMEOUT_INTERVAL {
            return Err(gone(format!("ping timeout: {:.6}s, {}", waiting.as_secs_f64(), peer.disconnecting())));
        }
        let due = peer.ping.nonce == 0 && now > peer.ping.start + PING_INTERVAL;
        if peer.ping.queued || due {
            let nonce = rand::thread_rng().gen_range(1..=u64::MAX);
            peer.ping.queued = false;
            peer.ping.start = now;
            if peer.common_version > BIP0031_VERSION {
                peer.ping.nonce = nonce;
                self.send(peer, "ping", nonce.to_le_bytes().to_vec());
            } else {
                peer.ping.nonce = 0;
                self.send(peer, "ping", Vec::new());
            }
        }
        Ok(())
    }

    pub(super) fn on_ping(&mut self, peer: &mut Peer, payload: &[u8]) -> Step {
        if peer.common_version > BIP0031_VERSION {
            let nonce = Reader(payload).take(8)?.to_vec();
            self.send(peer, "pong", nonce);
        }
        Ok(())
    }

    pub(super) fn on_pong(&mut self, peer: &mut Peer, payload: &[u8]) -> Step {
        let nonce = Reader(payload).value::<u64>().ok();
        let answered = peer.ping.nonce != 0 && nonce == Some(peer.ping.nonce);
        let problem = match nonce {
            None => Some("Short payload"),
            Some(_) if peer.ping.nonce == 0 => Some("Unsolicited pong without ping"),
            Some(nonce) if nonce == peer.ping.nonce => {
                let took = self.chain.now().checked_sub(peer.ping.start);
                if let Some(took) = took {
                    peer.ping.last = Some(took);
                    peer.ping.min = Some(peer.ping.min.map_or(took, |min| min.min(took)));
                }
                took.is_none().then_some("Timing mishap")
            }
            Some(0) => Some("Nonce zero"),
            Some(_) => Some("Nonce mismatch"),
        };
        if let Some(problem) = problem {
            tracing::debug!(
                target: "net",
                "pong peer={}: {problem}, {:x} expected, {:x} received, {} bytes",
                peer.id, peer.ping.nonce, nonce.unwrap_or(0), payload.len()
            );
        }
        if !matches!(problem, Some("Nonce mismatch" | "Unsolicited pong without ping")) {
            peer.ping.nonce = 0;
        }
        if answered && problem.is_none() && peer.is_private() {
            return self.private_delivered(peer);
        }
        Ok(())
    }

    fn maybe_send_headers_wish(&mut self, peer: &mut Peer) {
        let enough = peer.best_known.is_some_and(|best| best.chain_work > self.chain.minimum_chain_work());
        if !peer.sent_sendheaders && enough && peer.common_version >= SENDHEADERS_VERSION {
            peer.sent_sendheaders = true;
            self.send(peer, "sendheaders", Vec::new());
        }
    }

    fn maybe_fee_filter(&mut self, peer: &mut Peer, now: Duration) {
        if self.config.blocks_only
            || peer.common_version < FEEFILTER_VERSION
            || peer.has(Permissions::FORCE_RELAY)
            || peer.is_block_only()
        {
            return;
        }
        // What is announced meanwhile is not looked at.
        let wanted = if self.chain.is_initial_block_download() {
            bitcoin::Amount::MAX_MONEY.to_sat()
        } else {
            if peer.fee_filter_sent == FILTER_ALL {
                peer.next_fee_filter = Duration::ZERO;
            }
            self.chain.fee_filter()
        };
        if now > peer.next_fee_filter {
            let told = self.chain.round_fee_filter(wanted);
            if told != peer.fee_filter_sent {
                self.send(peer, "feefilter", told.to_le_bytes().to_vec());
                peer.fee_filter_sent = told;
            }
            peer.next_fee_filter = now + random_wait(FEE_FILTER_INTERVAL);
        } else if now + FEE_FILTER_MAX_CHANGE_DELAY < peer.next_fee_filter
            && (wanted < 3 * peer.fee_filter_sent / 4 || wanted > 4 * peer.fee_filter_sent / 3)
        {
            let delay = rand::thread_rng().gen_range(Duration::ZERO..FEE_FILTER_MAX_CHANGE_DELAY);
            peer.next_fee_filter = now + delay;
        }
    }

    pub(super) fn on_fee_filter(&mut self, peer: &mut Peer, payload: &[u8]) -> Step {
        let rate = Reader(payload).value::<i64>()?;
        let Ok(rate) = u64::try_from(rate) else { return Ok(()) };
        if rate <= bitcoin::Amount::MAX_MONEY.to_sat() {
            if let Some(txs) = &mut peer.txs {
                txs.fee_filter = rate;
            }
            tracing::debug!(
                target: "net",
                "received: feefilter of {}.{:08} BTC/kvB from peer={}",
                rate / 100_000_000, rate % 100_000_000, peer.id
            );
        }
        Ok(())
    }

    /// What becomes of a peer that broke a rule (Core's `MaybeDiscourageAndDisconnect`).
    pub(super) fn judge(&mut self, peer: &mut Peer) -> Step {
        peer.misbehaved = false;
        if peer.has(Permissions::NO_BAN) {
            tracing::warn!("Not punishing noban peer {}!", peer.id);
            return Ok(());
        }
        if peer.is_manual() {
            tracing::warn!("Not punishing manually connected peer {}!", peer.id);
            return Ok(());
        }
        let behind_tor = peer.onion && peer.is_inbound();
        if peer.address.ip().is_loopback() || behind_tor {
            return Err(gone(format!(
                "Warning: disconnecting but not discouraging {} peer {}!",
                if behind_tor { "inbound onion" } else { "local" },
                peer.id
            )));
        }
        self.bans.discourage(peer.target);
        self.disconnect_host(&peer.target);
        Err(gone(format!("Disconnecting and discouraging peer {}!", peer.id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_waits_are_bounded() {
        assert!((0..1_000).all(|_| random_wait(Duration::from_secs(1)) <= Duration::from_secs(20)));
    }
}
