//! The end of a switch of epochs for members that did not see it, and for shares that are to be erased.
//!
//! A member that signed a certificate and does not hold it complete asks the others for their public keys. Keys that
//! complete one of its shares put that one in force. Keys of a later epoch than its own, for which it has no share, say
//! that it is stale: it is told so, and nobody signs with it until its share is repaired.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitcoin::Network;
use tss_wallet::{Epoch, MemberId, PublicKeys};

use super::super::core::Core;
use super::super::error::{Missing, MissingList, QuorumError};
use super::super::holding::{Holding, HoldingError, nonce};
use super::super::link::{Heard, Link};
use super::super::peer_name;
use super::super::refusal::Refusal;
use super::super::sessions::SessionKind;
use super::super::wire::{Message, NO_WALLET, RedealKind, Topic};
use super::{Done, Request, decode_keys, encode_keys, guard_name, run};

const ANSWER: Duration = Duration::from_millis(1_000);
/// How long the member that lost its share waits for the one that coordinates its repair.
const REPAIR: Duration = Duration::from_secs(60);

/// The highest epoch whose certificate this member signed and does not hold complete.
pub fn promised(holding: &Holding) -> Option<Epoch> {
    let promised = holding.store().promised().unwrap_or_default();
    promised.iter().map(|keys| keys.epoch).max().filter(|epoch| *epoch > holding.epoch())
}

/// Another member asks for the public keys that this one holds.
pub fn asked_for_keys(core: &Arc<Core>, from: MemberId, topic: Topic) {
    let known = core.holding(&topic.wallet).filter(|holding| {
        holding.index_of(&from).is_some()
            || holding
                .store()
                .previous()
                .is_ok_and(|keys| keys.is_some_and(|keys| keys.roster.index_of(&from).is_some()))
    });
    let keys = known.and_then(|holding| encode_keys(holding.public()));
    core.send(&topic, 0, from, &Message::Keys(keys));
}

/// Settles every wallet that has something to settle.
pub fn settle_all(core: &Arc<Core>) {
    for holding in core.holdings() {
        if !core.is_stopping() {
            settle(core, &holding);
        }
    }
}

/// Asks the others about shares without a certificate, and about old ones to be erased.
pub(super) fn settle(core: &Arc<Core>, holding: &Arc<Holding>) {
    let store = holding.store();
    let promised = store.promised().unwrap_or_default();
    let previous = store.previous().ok().flatten();
    if promised.is_empty() && previous.is_none() {
        return;
    }
    // A ceremony under way settles its own end.
    let Some(_one_at_a_time) = core.reserve(&guard_name(holding.public())) else { return };
    let everyone: BTreeSet<MemberId> = promised
        .iter()
        .chain(previous.iter())
        .chain([&**holding.public()])
        .flat_map(|keys| keys.roster.members().iter().copied())
        .collect();
    let answers = ask(core, holding, &everyone);
    let later = answers.iter().filter(|(_, keys)| keys.same_wallet(holding.public()));
    let mut later: Vec<&PublicKeys> = later.map(|(_, keys)| keys).filter(|keys| keys.epoch > holding.epoch()).collect();
    later.sort_by_key(|keys| keys.epoch);
    for keys in later {
        if promised.iter().any(|mine| mine.statement() == keys.statement()) {
            if let Err(error) = take_up(core, holding, keys) {
                tracing::error!(wallet = holding.name(), %error, "a share could not be put in force");
            }
            return;
        }
        let (mine, theirs) = (holding.epoch(), keys.epoch);
        tracing::warn!(wallet = holding.name(), %mine, %theirs, "this member's share is stale; run repairshare here");
    }
    let needed = holding.public().holders().filter(|party| *party != holding.me());
    let all_have_it = needed
        .filter_map(|party| holding.public().roster.member(party))
        .all(|member| answers.iter().any(|(from, keys)| from == member && keys.epoch >= holding.epoch()));
    if previous.is_some()
        && all_have_it
        && let Err(error) = store.erase_previous()
    {
        tracing::error!(wallet = holding.name(), %error, "an old share could not be erased");
    }
}

fn take_up(core: &Core, holding: &Holding, keys: &PublicKeys) -> Result<(), HoldingError> {
    // A locked share is taken up when it is open and something is asked next.
    let Some(key) = holding.seal_key()? else { return Ok(()) };
    holding.store().take_up(keys.epoch)?;
    let share = holding.store().switch(keys.certificate.clone(), &key, &nonce())?;
    core.hold(Arc::new(holding.renewed(share)?));
    tracing::info!(wallet = holding.name(), epoch = %keys.epoch, "the certificate has turned up; new epoch in force");
    Ok(())
}

fn ask(core: &Core, holding: &Holding, members: &BTreeSet<MemberId>) -> Vec<(MemberId, PublicKeys)> {
    let topic = core.fresh_topic(holding.wallet(), holding.epoch());
    let info = core.session_info(&topic, SessionKind::Probe, core.me());
    let Ok(inbox) = core.sessions.open(info) else { return Vec::new() };
    let link = Link::new(core, topic, inbox, members.iter().copied());
    let mut waiting = link.others().clone();
    for unreachable in link.send_all(0, &Message::AskKeys) {
        waiting.remove(&unreachable);
    }
    let mut answers = Vec::new();
    let deadline = Instant::now() + ANSWER;
    while !waiting.is_empty() {
        match link.next(deadline) {
            Heard::Message(from, Message::Keys(keys)) if waiting.remove(&from) => {
                answers.extend(keys.as_ref().and_then(decode_keys).map(|keys| (from, keys)));
            }
            Heard::Message(..) => {}
            Heard::Down(member) => {
                waiting.remove(&member);
            }
            Heard::Stop | Heard::Deadline => break,
        }
    }
    answers
}

/// Another member has lost its share, or slept through an epoch: the shares are dealt again, to it too.
pub fn asked_to_repair(core: &Arc<Core>, from: MemberId, topic: Topic, name: &str) {
    let holding = core.holdings().into_iter().find(|holding| {
        let named = holding.name() == name || (topic.wallet != NO_WALLET && holding.wallet() == topic.wallet);
        named && holding.index_of(&from).is_some()
    });
    let Some(holding) = holding else { return core.refuse(&topic, from, Refusal::UnknownWallet) };
    if core.network() != Network::Regtest && !core.policy().accepts_any {
        return core.refuse(&topic, from, Refusal::NotConfirmed);
    }
    let request = Request { kind: RedealKind::Repair(from), roster: holding.public().roster.clone() };
    match run(core, &holding, &request) {
        Ok(done) => {
            core.send(&topic, 0, from, &Message::Keys(encode_keys(&done.keys)));
        }
        Err(error) => core.refuse(&topic, from, Refusal::Failed(error.to_string())),
    }
}

/// Has this member's share of a wallet repaired by others. Blocks.
pub fn repair_here(core: &Arc<Core>, name: &str) -> Result<Done, QuorumError> {
    let own = core.holding_named(name);
    let helpers: Vec<MemberId> = match &own {
        Some(holding) => holding.others().collect(),
        None => core.policy().cosigners.iter().copied().collect(),
    };
    let mut missing = Vec::new();
    for helper in helpers {
        if !core.is_online(&helper) {
            missing.push(Missing::unreachable(core, helper));
            continue;
        }
        match ask_one(core, helper, name, own.as_deref()) {
            Ok(keys) => {
                let dealers = keys.holders().filter_map(|party| keys.roster.member(party).copied());
                let dealers = dealers.filter(|member| *member != core.me()).collect();
                return Ok(Done { keys: Arc::new(keys), dealers });
            }
            Err(why) => missing.push(why),
        }
    }
    let why = format!("no other member could repair the share of \"{name}\"");
    Err(QuorumError::CannotRedeal { why, missing: MissingList(missing) })
}

fn ask_one(core: &Core, helper: MemberId, name: &str, own: Option<&Holding>) -> Result<PublicKeys, Missing> {
    let silent = || Missing::silent(helper);
    let wallet = own.map_or(NO_WALLET, Holding::wallet);
    let topic = core.fresh_topic(wallet, own.map_or(Epoch(0), Holding::epoch));
    let info = core.session_info(&topic, SessionKind::Probe, core.me());
    let inbox = core.sessions.open(info).map_err(|_| silent())?;
    let link = Link::new(core, topic, inbox, [helper]);
    if !link.send(helper, 0, &Message::AskRepair(name.to_owned())) {
        return Err(Missing::unreachable(core, helper));
    }
    tracing::info!(wallet = name, helper = peer_name(&helper), "asked for the repair of this member's share");
    let deadline = Instant::now() + REPAIR;
    loop {
        match link.next(deadline) {
            Heard::Message(_, Message::Keys(Some(keys))) => {
                let keys = decode_keys(&keys).ok_or_else(silent)?;
                let held = core.holding(&keys.wallet).is_some_and(|holding| holding.epoch() >= keys.epoch);
                let unheld = || Missing { member: helper, why: "no share came of the repair".to_owned() };
                return if held { Ok(keys) } else { Err(unheld()) };
            }
            Heard::Message(_, Message::Refuse(refusal)) => return Err(Missing::refused(helper, &refusal)),
            Heard::Message(..) => {}
            Heard::Down(member) => return Err(Missing::unreachable(core, member)),
            Heard::Stop | Heard::Deadline => return Err(silent()),
        }
    }
}
