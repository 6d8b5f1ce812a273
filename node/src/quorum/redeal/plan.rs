//! What a coordinator proposes: who deals, who receives, who is absent; or why it cannot be done, and for want of whom.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitcoin::Network;
use bitcoin::hashes::{Hash, sha256};
use tss_wallet::redeal::MAX_EPOCH_JUMP;
use tss_wallet::{Epoch, MemberId, RedealParams, Roster, Split};

use super::super::core::Core;
use super::super::error::{Missing, MissingList, QuorumError};
use super::super::holding::{self, Holding};
use super::super::link::{Heard, Link};
use super::super::refusal::Refusal;
use super::super::sessions::SessionKind;
use super::super::wire::{Message, NO_WALLET, PROTOCOL_VERSION, Proposal, RedealKind, Status, Topic};
use super::{Request, decode_keys, encode_keys, promised, settle};

/// Within it, whoever is there has answered.
const PROBE: Duration = Duration::from_millis(950);
/// How many blocks behind a member may be (not on regtest).
const MAX_BEHIND: u32 = 6;

/// Who answered, with what they say of themselves; who is missing, and why.
pub(super) struct Field {
    pub(super) ready: BTreeMap<MemberId, Status>,
    missing: BTreeMap<MemberId, Missing>,
}

/// A member that says it is in a later epoch shows its certificate, and then this one is stale; or it is left out, for
/// anyone can say so.
pub(super) fn believe_no_later_epoch(core: &Core, holding: &Holding, field: &mut Field) -> Result<(), QuorumError> {
    let old = holding.public();
    let suspended = holding.suspended();
    let later = |status: &Status| status.wallets.iter().any(|row| row.wallet == old.wallet && row.epoch > old.epoch);
    let claim = field.ready.iter().filter(|(member, status)| later(status) && !suspended.contains(*member));
    let claim: BTreeSet<MemberId> = claim.map(|(member, _)| *member).collect();
    if claim.is_empty() {
        return Ok(());
    }
    let shown = settle::ask(core, old.wallet, old.epoch, &claim);
    let shown = shown.iter().filter(|(_, keys)| keys.same_wallet(old)).map(|(_, keys)| keys.epoch).max();
    if let Some(theirs) = shown.filter(|theirs| *theirs > old.epoch) {
        holding.heard_of_epoch(theirs);
        let (wallet, mine, theirs) = (holding.name().to_owned(), old.epoch.0, theirs.0);
        return Err(QuorumError::Stale { wallet, mine, theirs });
    }
    for member in claim {
        field.ready.remove(&member);
        let why = "it says that it is in a later epoch, and shows no certificate".to_owned();
        field.missing.insert(member, Missing { member, why });
    }
    Ok(())
}

/// Asks all how they are; who does not answer in time is named with the reason.
pub(super) fn probe(core: &Core, members: &BTreeSet<MemberId>) -> Result<Field, QuorumError> {
    let topic = core.fresh_topic(NO_WALLET, Epoch(0));
    let info = core.session_info(&topic, SessionKind::Probe, core.me());
    let inbox = core.sessions.open(info).map_err(|_| QuorumError::Busy)?;
    let link = Link::new(core, topic, inbox, members.iter().copied());
    let (mut ready, mut missing) = (BTreeMap::new(), BTreeMap::new());
    let mut waiting = link.others().clone();
    for member in link.send_all(0, &Message::Probe) {
        waiting.remove(&member);
        missing.insert(member, Missing::unreachable(core, member));
    }
    let deadline = Instant::now() + PROBE;
    let height = core.chain().tip().height;
    while !waiting.is_empty() {
        match link.next(deadline) {
            Heard::Message(from, Message::Status(status)) if waiting.remove(&from) => {
                let behind =
                    core.network() != Network::Regtest && status.tip_height.saturating_add(MAX_BEHIND) < height;
                if status.version != PROTOCOL_VERSION {
                    missing.insert(from, Missing::refused(from, &Refusal::OtherVersion(status.version)));
                } else if behind {
                    let why = format!("its chain ends at block {}, this one at {height}", status.tip_height);
                    missing.insert(from, Missing { member: from, why });
                } else {
                    ready.insert(from, status);
                }
            }
            Heard::Message(..) => {}
            Heard::Down(member) => {
                if waiting.remove(&member) {
                    missing.insert(member, Missing::unreachable(core, member));
                }
            }
            Heard::Stop => return Err(QuorumError::Stopped),
            Heard::Deadline => {
                missing
                    .extend(std::mem::take(&mut waiting).into_iter().map(|member| (member, Missing::silent(member))));
            }
        }
    }
    Ok(Field { ready, missing })
}

/// Who deals, who receives, who is absent; or why it cannot be done, and for want of whom.
pub(super) fn plan(core: &Core, holding: &Holding, request: &Request, field: Field) -> Result<Proposal, QuorumError> {
    let Field { ready, mut missing } = field;
    let old = holding.public();
    let mut dealers = BTreeSet::from([core.me()]);
    let mut absent = BTreeSet::new();
    let mut epoch = old.epoch.0.max(promised(holding).map_or(0, |epoch| epoch.0));
    let suspended = holding.suspended();
    let mut fenced = Vec::new();
    for (member, status) in &ready {
        if suspended.contains(member) {
            missing.insert(*member, Missing { member: *member, why: "suspended here".to_owned() });
            continue;
        }
        let row = status.wallets.iter().find(|row| row.wallet == old.wallet);
        let said = row.and_then(|row| row.promised).map_or(0, |epoch| epoch.0);
        if said <= old.epoch.0.saturating_add(MAX_EPOCH_JUMP / 2) {
            epoch = epoch.max(said);
        } else {
            tracing::warn!(%member, said, "a member speaks of an epoch that nobody can have come to; not believed");
        }
        let holds = old.roster.index_of(member).is_some_and(|party| !old.absent.contains(&party));
        match row {
            Some(row) if row.epoch == old.epoch && holds && row.locked => {
                missing.insert(*member, Missing::refused(*member, &Refusal::Locked));
            }
            Some(row) if row.epoch == old.epoch && holds && !row.unconfirmed && row.fenced => fenced.push(*member),
            Some(row) if row.epoch == old.epoch && holds && !row.unconfirmed => {
                dealers.insert(*member);
            }
            // It has lost its share or slept through an epoch: a share for it is a repair, and needs consent.
            _ if old.roster.index_of(member).is_some() && !repairs(core, request, member) => {
                let why = "it has no share of this epoch; run repairshare there".to_owned();
                missing.insert(*member, Missing { member: *member, why });
            }
            _ => {}
        }
    }
    for member in fenced {
        // Those that were rolled back deal only to be mended, and only where the others are too few.
        if matches!(request.kind, RedealKind::Repair(_)) && dealers.len() < enough(&old.roster) {
            dealers.insert(member);
        } else if !repairs(core, request, &member) {
            missing.insert(member, Missing::refused(member, &Refusal::Fenced));
        }
    }
    for member in missing.keys() {
        if request.roster.index_of(member).is_some() && old.roster.index_of(member).is_some() {
            absent.insert(*member);
        }
    }
    let mut facts = holding.facts().clone();
    facts.version = PROTOCOL_VERSION;
    facts.threshold = request.roster.threshold();
    facts.members = request.roster.members().to_vec();
    facts.split = 2 * usize::from(request.roster.threshold()) <= usize::from(request.roster.count());
    let (made_by, _) = holding::stored_facts(holding.db())
        .ok()
        .flatten()
        .ok_or_else(|| QuorumError::Storage("the wallet's description cannot be read".to_owned()))?;
    let proposal = Proposal {
        version: PROTOCOL_VERSION,
        kind: request.kind,
        facts,
        made_by: tss_wallet::SessionId(made_by),
        keys: encode_keys(old).ok_or_else(|| QuorumError::Internal("public keys".to_owned()))?,
        epoch: Epoch(epoch.saturating_add(1)),
        dealers: dealers.into_iter().collect(),
        absent: absent.into_iter().collect(),
    };
    let new_and_missing = request
        .roster
        .members()
        .iter()
        .any(|member| missing.contains_key(member) && old.roster.index_of(member).is_none());
    let checked = params_of(&core.fresh_topic(old.wallet, old.epoch), &proposal)
        .map_err(|refusal| refusal.to_string())
        .and_then(|params| params.check().map_err(|refusal| refusal.to_string()));
    let lost = match request.kind {
        RedealKind::Repair(target) => missing.contains_key(&target),
        RedealKind::Refresh | RedealKind::Reshare => false,
    };
    let why = match checked {
        Err(why) => why,
        Ok(()) if new_and_missing => "every new member must take part".to_owned(),
        Ok(()) if lost => "the member to repair must take part".to_owned(),
        Ok(()) => return Ok(proposal),
    };
    Err(QuorumError::CannotRedeal { why, missing: MissingList(missing.into_values().collect()) })
}

/// How many must deal.
fn enough(roster: &Roster) -> usize {
    usize::from(roster.threshold()).max(usize::from(roster.count()) / 2 + 1)
}

/// Whether a member that has no share of the present epoch gets one.
fn repairs(core: &Core, request: &Request, member: &MemberId) -> bool {
    request.kind == RedealKind::Repair(*member) || core.network() == Network::Regtest
}

/// The rules of the proposal as the machine takes them.
pub(super) fn params_of(topic: &Topic, proposal: &Proposal) -> Result<RedealParams, Refusal> {
    let malformed = |why: &str| Refusal::Malformed(why.to_owned());
    let old = decode_keys(&proposal.keys).ok_or_else(|| malformed("the public keys"))?;
    let split = if proposal.facts.split { Split::Accepted } else { Split::Refused };
    let roster = Roster::new(proposal.facts.threshold, proposal.facts.members.clone(), split);
    let encoded = postcard::to_allocvec(proposal).map_err(|error| Refusal::Malformed(error.to_string()))?;
    Ok(RedealParams {
        old: Arc::new(old),
        epoch: proposal.epoch,
        roster: roster.map_err(|error| Refusal::Malformed(error.to_string()))?,
        dealers: proposal.dealers.iter().copied().collect(),
        absent: proposal.absent.iter().copied().collect(),
        session: topic.session,
        context: sha256::Hash::hash(&encoded).to_byte_array(),
    })
}
