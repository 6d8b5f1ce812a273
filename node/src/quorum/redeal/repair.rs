//! A share for a member that has lost its own or slept through an epoch: it asks the others, one after the other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tss_wallet::{Epoch, MemberId, PublicKeys};

use super::super::core::{Core, Unasked};
use super::super::error::{Missing, MissingList, QuorumError};
use super::super::holding::Holding;
use super::super::link::{Heard, Link};
use super::super::peer_name;
use super::super::refusal::Refusal;
use super::super::sessions::SessionKind;
use super::super::wire::{Message, NO_WALLET, RedealKind, Topic};
use super::{Done, Request, consent, decode_keys, encode_keys, run};

/// How long the member that lost its share waits for the one that coordinates its repair. If that one goes away, the line
/// tells.
const REPAIR: Duration = Duration::from_secs(120);

/// This member's share is stale, or cannot be used since it was rolled back. It has it repaired by itself, unless its
/// operator does that, or a try has just failed.
pub(super) fn catch_up(core: &Arc<Core>, holding: &Arc<Holding>, why: &str) {
    if !core.policy().repairs_itself || holding.share().is_none() || !core.may_try(holding.wallet(), Unasked::Repair) {
        return;
    }
    let (wallet, mine) = (holding.name(), holding.epoch());
    tracing::warn!(wallet, %mine, why, "asking the others to deal this member a new share");
    match repair_here(core, wallet) {
        Ok(done) => {
            tracing::info!(wallet, epoch = %done.keys.epoch, "this member's share is of the present epoch again")
        }
        Err(error) => tracing::warn!(wallet, %error, "this member has got no new share; trying again later"),
    }
}

/// Another member has lost its share, or slept through an epoch: the shares are dealt again, to it too.
pub fn asked_to_repair(core: &Arc<Core>, from: MemberId, topic: Topic, name: &str) {
    let holding = core.holdings().into_iter().find(|holding| {
        let named = holding.name() == name || (topic.wallet != NO_WALLET && holding.wallet() == topic.wallet);
        named && holding.index_of(&from).is_some()
    });
    let Some(holding) = holding else { return core.refuse(&topic, from, Refusal::UnknownWallet) };
    let request = Request { kind: RedealKind::Repair(from), roster: holding.public().roster.clone() };
    let keys = holding.public();
    if let Err(refusal) = consent::consents(core, &from, request.kind, keys, &request.roster, Some(&holding)) {
        return core.refuse(&topic, from, refusal);
    }
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
