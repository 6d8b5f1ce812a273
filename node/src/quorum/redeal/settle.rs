//! The end of a switch of epochs for members that did not see it, and for shares that are to be erased.
//!
//! A member that signed a certificate and does not hold it complete asks the others for their public keys. Keys that
//! complete one of its shares put that one in force. A member that has dealt to others and keeps no share leaves when
//! the certificate of their epoch is complete and all who hold a share of it have said so. Keys of a later epoch than
//! its own, for which it has no share, say that a member is stale: it has its share repaired, by itself where its
//! operator lets it. All of it is tried again from time to time until nothing is left to settle.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tss_wallet::{Epoch, MemberId, PublicKeys, WalletId};

use super::super::core::Core;
use super::super::fence;
use super::super::holding::{Holding, HoldingError, nonce};
use super::super::link::{Heard, Link};
use super::super::sessions::SessionKind;
use super::super::wire::{Message, Topic};
use super::join::{self, Join};
use super::{bans, decode_keys, encode_keys, guard_name, note, repair, restore, schedule};

const ANSWER: Duration = Duration::from_millis(1_000);

/// The highest epoch whose certificate this member signed and does not hold complete.
pub fn promised(holding: &Holding) -> Option<Epoch> {
    let promised = holding.store().promised().unwrap_or_default();
    let left = holding.store().leaving().ok().flatten();
    let epochs = promised.iter().chain(left.iter()).map(|keys| keys.epoch);
    epochs.max().filter(|epoch| *epoch > holding.epoch())
}

/// Another member asks for the public keys that this one holds. Whoever left may know that it did.
pub fn asked_for_keys(core: &Arc<Core>, from: MemberId, topic: Topic) {
    let known = core.holding(&topic.wallet).filter(|holding| {
        let former = || holding.store().is_former(&from).unwrap_or(false);
        holding.index_of(&from).is_some() || former()
    });
    let keys = known.and_then(|holding| encode_keys(holding.public()));
    core.send(&topic, 0, from, &Message::Keys(keys));
}

/// What is left of a wallet's ceremonies after [`settle`].
pub(super) enum Left {
    Nothing,
    /// The quorum is in this later epoch, and this member has no share of it.
    Stale(Epoch),
    /// The quorum is in this later epoch, and this member is not in its roster.
    Out(Epoch),
}

/// Settles every wallet that has something to settle. Runs now and then, and whenever a member connects. Blocks.
pub fn tend(core: &Arc<Core>) {
    for join in core.joins() {
        if !core.is_stopping() {
            settle_join(core, &join);
        }
    }
    for holding in core.holdings() {
        if core.is_stopping() {
            return;
        }
        restore::lift(core, &holding);
        bans::settle(core, &holding);
        fence::settle(core, &holding);
        match settle(core, &holding) {
            Left::Stale(epoch) => {
                repair::catch_up(core, &holding, &format!("its share is stale: the quorum is in epoch {epoch}"));
            }
            Left::Out(epoch) => {
                tracing::debug!(wallet = holding.name(), %epoch, "the quorum goes on without this member")
            }
            Left::Nothing if holding.is_fenced() => repair::catch_up(core, &holding, "it was rolled back"),
            Left::Nothing => schedule::refresh_when_due(core, &holding),
        }
    }
}

/// Later keys of the same wallet first to last, of all who answered.
fn later<'a>(answers: &'a [(MemberId, PublicKeys)], known: &PublicKeys, than: Option<Epoch>) -> Vec<&'a PublicKeys> {
    let same = answers.iter().map(|(_, keys)| keys).filter(|keys| keys.same_wallet(known));
    let mut later: Vec<&PublicKeys> = same.filter(|keys| than.is_none_or(|than| keys.epoch > than)).collect();
    later.sort_by_key(|keys| keys.epoch);
    later
}

fn settle_join(core: &Arc<Core>, join: &Arc<Join>) {
    // First of all: a ceremony under way has made the place, and is about to write its share down.
    let Some(_one_at_a_time) = core.reserve(&guard_name(&join.wallet)) else { return };
    let promised = join.store(core).promised().unwrap_or_default();
    let Some(known) = promised.first() else { return core.end_join(join) };
    let members = promised.iter().flat_map(|keys| keys.roster.members().iter().copied()).collect();
    let answers = ask(core, known.wallet, known.epoch, &members);
    for keys in later(&answers, known, None) {
        if promised.iter().any(|mine| mine.statement() == keys.statement()) {
            match join.come_true(core, keys) {
                Ok(()) => {
                    core.end_join(join);
                    let keys = keys.clone();
                    core.spawn(move |core| join::open(core, &keys));
                }
                Err(error) => tracing::error!(wallet = join.name, %error, "a share could not be put in force"),
            }
            return;
        }
    }
}

/// Asks the others about shares without a certificate, about old ones to be erased, and about later epochs.
pub(super) fn settle(core: &Arc<Core>, holding: &Arc<Holding>) -> Left {
    let store = holding.store();
    let promised = store.promised().unwrap_or_default();
    let previous = store.previous().ok().flatten();
    let leaving = store.leaving().ok().flatten().filter(|keys| keys.epoch > holding.epoch());
    if promised.is_empty() && previous.is_none() && leaving.is_none() && holding.later_epoch().is_none() {
        return Left::Nothing;
    }
    // A ceremony under way settles its own end.
    let Some(_one_at_a_time) = core.reserve(&guard_name(&holding.wallet())) else { return Left::Nothing };
    let known = promised.iter().chain(previous.iter()).chain(leaving.iter()).chain([&**holding.public()]);
    let everyone = known.flat_map(|keys| keys.roster.members().iter().copied()).collect();
    let answers = ask(core, holding.wallet(), holding.epoch(), &everyone);
    let mut left = Left::Nothing;
    for keys in later(&answers, holding.public(), Some(holding.epoch())) {
        if promised.iter().any(|mine| mine.statement() == keys.statement()) {
            if let Err(error) = take_up(core, holding, keys) {
                tracing::error!(wallet = holding.name(), %error, "a share could not be put in force");
            }
            return Left::Nothing;
        }
        if leaving.as_ref().is_some_and(|mine| mine.statement() == keys.statement()) {
            if all_have(&answers, keys, &core.me()) {
                leave(core, holding);
            }
            return Left::Nothing;
        }
        left = if keys.roster.index_of(&core.me()).is_some() { Left::Stale(keys.epoch) } else { Left::Out(keys.epoch) };
    }
    if let Left::Stale(epoch) | Left::Out(epoch) = left {
        if holding.later_epoch().is_none() {
            tracing::warn!(wallet = holding.name(), mine = %holding.epoch(), theirs = %epoch, "the quorum is in a later epoch");
        }
        holding.heard_of_epoch(epoch);
        holding.set_out(matches!(left, Left::Out(_)));
    }
    if previous.is_some()
        && all_have(&answers, holding.public(), &core.me())
        && let Err(error) = store.erase_previous()
    {
        tracing::error!(wallet = holding.name(), %error, "an old share could not be erased");
    }
    left
}

/// Whether all others that hold a share of an epoch have said that they are in it, or in a later one.
fn all_have(answers: &[(MemberId, PublicKeys)], keys: &PublicKeys, me: &MemberId) -> bool {
    let mut holders = keys.holders().filter_map(|party| keys.roster.member(party)).filter(|member| *member != me);
    holders.all(|member| answers.iter().any(|(from, theirs)| from == member && theirs.epoch >= keys.epoch))
}

/// The others go on without this member, and need its old share no more.
pub(super) fn leave(core: &Arc<Core>, holding: &Arc<Holding>) {
    if let Err(error) = holding.erase() {
        tracing::error!(wallet = holding.name(), %error, "a share could not be erased");
        return;
    }
    let wallet = holding.wallet();
    core.forget(&wallet);
    if let Some(host) = core.host() {
        host.wallet_left(wallet);
    }
}

fn take_up(core: &Core, holding: &Holding, keys: &PublicKeys) -> Result<(), HoldingError> {
    // A locked share is taken up when it is open.
    let Some(key) = holding.seal_key()? else { return Ok(()) };
    holding.store().take_up(keys.epoch)?;
    let share = holding.store().switch(keys.certificate.clone(), &key, &nonce())?;
    let renewed = Arc::new(holding.renewed(share)?);
    core.hold(Arc::clone(&renewed));
    bans::settle(core, &renewed);
    note(core, holding, "dealt", format!("epoch {}, its certificate came later", keys.epoch));
    tracing::info!(wallet = holding.name(), epoch = %keys.epoch, "the certificate has turned up; new epoch in force");
    Ok(())
}

/// The public keys of a wallet that members hold, with their certificates checked.
pub(super) fn ask(
    core: &Core,
    wallet: WalletId,
    epoch: Epoch,
    members: &BTreeSet<MemberId>,
) -> Vec<(MemberId, PublicKeys)> {
    let topic = core.fresh_topic(wallet, epoch);
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
