//! Address indexes: ranges that t members confirm to one coordinator, so that no index is handed out twice.
//!
//! A member grants a range only above everything it granted before, writes that down durably, derives the scripts
//! itself and signs their hash with its answer. Since 2t > n, any two coordinators meet in one member. Members that
//! were away learn how far the leases reach when they connect.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitcoin::hashes::{Hash, HashEngine, sha256};
use rand::RngCore;
use tss_wallet::wallet::keychain::{ChainId, KeyId, Keychains};
use tss_wallet::{Epoch, MemberId};

use super::core::Core;
use super::error::{Missing, MissingList, QuorumError, peer_name};
use super::fence;
use super::holding::Holding;
use super::link::{Heard, Link};
use super::refusal::Refusal;
use super::sessions::SessionKind;
use super::switching::{self, OtherEpoch};
use super::wire::{LeaseRange, Message, NO_WALLET, Topic};

/// Indexes in one range, and ranges in one request.
const MAX_COUNT: u32 = 10_000;
const MAX_RANGES: usize = 8;
/// Last index a lease may reach; BIP32 ends at 2³¹.
const MAX_INDEX: u32 = 1 << 30;
const ANSWER_DEADLINE: Duration = Duration::from_millis(2_500);
/// More for each index: its script is derived before the answer.
const ANSWER_PER_INDEX: Duration = Duration::from_millis(1);
const PROBE_DEADLINE: Duration = Duration::from_millis(1_500);
/// Times a lease is tried again above the marks of other coordinators.
const MAX_TRIES: u32 = 16;
/// Coordinators that met at one index step back for a random time, longer each time.
const STEP_BACK_MS: u64 = 8;

fn malformed(ranges: &[LeaseRange]) -> Option<Refusal> {
    let bad = |why: &str| Some(Refusal::Malformed(why.to_owned()));
    if ranges.is_empty() || ranges.len() > MAX_RANGES {
        return bad("number of ranges");
    }
    for (position, range) in ranges.iter().enumerate() {
        let end = range.first.checked_add(range.count);
        if range.count == 0 || range.count > MAX_COUNT || end.is_none_or(|end| end > MAX_INDEX) {
            return bad("size of a range");
        }
        if ranges[..position].iter().any(|other| other.chain == range.chain) {
            return bad("a chain comes twice");
        }
    }
    None
}

/// Hash of all scripts of the ranges, derived here.
fn scripts_hash(keys: &Keychains, ranges: &[LeaseRange]) -> [u8; 32] {
    let mut engine = sha256::Hash::engine();
    engine.input(b"keyless/lease/v1");
    for range in ranges {
        for index in range.first..range.first.saturating_add(range.count) {
            if let Some(info) = keys.derive(KeyId { chain: range.chain, index }) {
                engine.input(&(info.script.len() as u64).to_be_bytes());
                engine.input(info.script.as_bytes());
            }
        }
    }
    sha256::Hash::from_engine(engine).to_byte_array()
}

/// Another coordinator asks for indexes.
pub fn asked(core: &Arc<Core>, from: MemberId, topic: Topic, ranges: &[LeaseRange]) {
    let holding = match core.holding(&topic.wallet) {
        Some(holding) if holding.index_of(&from).is_some() => holding,
        _ => return core.refuse(&topic, from, Refusal::UnknownWallet),
    };
    if holding.epoch() != topic.epoch {
        return core.refuse(&topic, from, Refusal::OtherEpoch(holding.epoch().0));
    }
    if holding.is_unconfirmed() {
        return core.refuse(&topic, from, Refusal::Restored);
    }
    if holding.is_fenced() {
        return core.refuse(&topic, from, Refusal::Fenced);
    }
    let suspended = holding.suspended();
    if let Some(member) = [from, core.me()].iter().find(|member| suspended.contains(member)) {
        return core.refuse(&topic, from, Refusal::Suspended(peer_name(member)));
    }
    if let Some(refusal) = malformed(ranges) {
        return core.refuse(&topic, from, refusal);
    }
    let answer = match holding.grant(ranges) {
        Ok(true) => Message::Granted { scripts: scripts_hash(holding.keys(), ranges) },
        Ok(false) => Message::Behind(holding.marks()),
        Err(error) => Message::Refuse(Refusal::Storage(error.to_string())),
    };
    let granted = matches!(answer, Message::Granted { .. });
    core.send(&topic, 0, from, &answer);
    if granted && let Some(host) = core.host() {
        host.leased_elsewhere(topic.wallet, ranges);
    }
}

/// Leases `counts` indexes of each chain, from t members. Blocks; gives the ranges that are this coordinator's now.
pub fn lease(core: &Core, holding: &Arc<Holding>, counts: &[(ChainId, u32)]) -> Result<Vec<LeaseRange>, QuorumError> {
    switching::across(core, holding, |holding, other_epoch| lease_in(core, holding, counts, other_epoch))
}

fn lease_in(
    core: &Core,
    holding: &Holding,
    counts: &[(ChainId, u32)],
    other_epoch: &OtherEpoch,
) -> Result<Vec<LeaseRange>, QuorumError> {
    if let Some(refusal) = holding.own_refusal(&core.me()) {
        return Err(QuorumError::OwnRefusal(refusal));
    }
    for tries in 0..MAX_TRIES {
        let marks: BTreeMap<ChainId, u32> = holding.marks().into_iter().collect();
        let ranges: Vec<LeaseRange> = counts
            .iter()
            .map(|(chain, count)| LeaseRange {
                chain: *chain,
                first: marks.get(chain).copied().unwrap_or(0),
                count: (*count).clamp(1, MAX_COUNT),
            })
            .collect();
        if malformed(&ranges).is_some() {
            return Err(QuorumError::Internal("no address indexes are left".to_owned()));
        }
        match holding.grant(&ranges) {
            Ok(true) => {}
            // Another coordinator was faster at this very moment.
            Ok(false) => continue,
            Err(error) => return Err(QuorumError::Storage(error.to_string())),
        }
        if ask(core, holding, &ranges, other_epoch)? {
            return Ok(ranges);
        }
        let most = STEP_BACK_MS << tries.min(5);
        std::thread::sleep(Duration::from_millis(rand::rngs::OsRng.next_u64() % most));
    }
    Err(QuorumError::Busy)
}

/// False: another coordinator holds some of it; the marks were raised.
fn ask(core: &Core, holding: &Holding, ranges: &[LeaseRange], other_epoch: &OtherEpoch) -> Result<bool, QuorumError> {
    let topic = core.fresh_topic(holding.wallet(), holding.epoch());
    let info = core.session_info(&topic, SessionKind::Lease, core.me());
    let inbox = core.sessions.open(info).map_err(|_| QuorumError::Busy)?;
    let suspended = holding.suspended();
    let asked = holding.members().iter().copied().filter(|member| !suspended.contains(member));
    let link = Link::new(core, topic, inbox, asked);
    let unreachable = link.send_all(0, &Message::Lease(ranges.to_vec()));
    let expected = scripts_hash(holding.keys(), ranges);
    let mut missing: Vec<Missing> = unreachable.iter().map(|member| Missing::unreachable(core, *member)).collect();
    let mut waiting: Vec<MemberId> =
        link.others().iter().filter(|member| !unreachable.contains(member)).copied().collect();
    let needed = usize::from(holding.threshold());
    let mut granted = 1;
    let mut behind = false;
    let indexes = ranges.iter().map(|range| range.count).fold(0, u32::saturating_add);
    let deadline = Instant::now() + ANSWER_DEADLINE + ANSWER_PER_INDEX * indexes;
    while granted < needed && !waiting.is_empty() {
        link.note("waiting for grants", waiting.iter().copied());
        match link.next(deadline) {
            Heard::Message(from, message) if waiting.contains(&from) => {
                waiting.retain(|member| *member != from);
                match message {
                    Message::Granted { scripts } if scripts == expected => granted += 1,
                    Message::Granted { .. } => {
                        tracing::warn!(member = %from, "a member derives other scripts for this wallet");
                        missing.push(Missing { member: from, why: "derives other addresses".to_owned() });
                    }
                    Message::Behind(marks) => {
                        holding.raise_marks(&marks).map_err(|error| QuorumError::Storage(error.to_string()))?;
                        behind = true;
                    }
                    Message::Refuse(refusal) => {
                        if let Refusal::OtherEpoch(theirs) = refusal {
                            holding.heard_of_epoch(Epoch(theirs));
                            other_epoch.note();
                        }
                        missing.push(Missing::refused(from, &refusal));
                    }
                    _ => missing.push(Missing::silent(from)),
                }
            }
            Heard::Message(..) => {}
            Heard::Down(member) => {
                if waiting.contains(&member) {
                    waiting.retain(|other| *other != member);
                    missing.push(Missing::unreachable(core, member));
                }
            }
            Heard::Stop => return Err(QuorumError::Stopped),
            Heard::Deadline => {
                missing.extend(waiting.drain(..).map(|member| {
                    core.suspect(member);
                    Missing::silent(member)
                }));
            }
        }
    }
    if granted >= needed {
        return Ok(true);
    }
    if behind {
        return Ok(false);
    }
    Err(QuorumError::NotEnough {
        what: "confirm addresses",
        needed: needed - 1,
        ready: granted - 1,
        missing: MissingList(missing),
    })
}

/// Asks a member that has just connected how far leases reach, so that its scripts are watched here too.
pub fn compare_marks(core: &Arc<Core>, member: MemberId) {
    if core.is_stopping() || !core.holdings().iter().any(|holding| holding.index_of(&member).is_some()) {
        return;
    }
    let topic = core.fresh_topic(NO_WALLET, Epoch(0));
    let info = core.session_info(&topic, SessionKind::Probe, core.me());
    let Ok(inbox) = core.sessions.open(info) else { return };
    let link = Link::new(core, topic, inbox, [member]);
    if !link.send(member, 0, &Message::Probe) {
        return;
    }
    let Heard::Message(_, Message::Status(status)) = link.next(Instant::now() + PROBE_DEADLINE) else { return };
    for row in status.wallets {
        let Some(holding) = core.holding(&row.wallet) else { continue };
        if holding.index_of(&member).is_none() {
            continue;
        }
        holding.heard_of_epoch(row.epoch);
        fence::compare(core, &holding, member, row.yours.as_ref());
        let before: BTreeMap<ChainId, u32> = holding.marks().into_iter().collect();
        if let Err(error) = holding.raise_marks(&row.marks) {
            tracing::warn!(wallet = holding.name(), %error, "address leases of other coordinators not stored");
            continue;
        }
        let ranges: Vec<LeaseRange> = holding
            .marks()
            .into_iter()
            .filter_map(|(chain, end)| {
                let first = before.get(&chain).copied().unwrap_or(0);
                (end > first).then(|| LeaseRange { chain, first, count: end - first })
            })
            .collect();
        if !ranges.is_empty()
            && let Some(host) = core.host()
        {
            host.leased_elsewhere(row.wallet, &ranges);
        }
    }
}
