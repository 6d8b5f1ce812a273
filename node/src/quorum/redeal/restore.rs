//! A share that comes back from a backup: is it of the quorum that lives, and has it missed anything since?
//!
//! A backup of an older epoch is refused while anybody shows the certificate of a later one. One that nobody speaks
//! against is taken, but fenced: it signs, leases and deals nothing until t−1 others that are not fenced themselves are
//! in the same epoch, and have told how far addresses were handed out. After a total loss there is nobody to say so;
//! then the operator's `force` takes its place, as long as no later quorum can sign.

use std::collections::BTreeSet;
use std::sync::Arc;

use tss_wallet::{MemberId, PublicKeys};

use super::super::core::Core;
use super::super::holding::Holding;
use super::{plan, settle};

/// Whether a share of a backup may be taken up, and if so, whether it is fenced. Blocks for a second at most.
///
/// # Errors
/// The reason, for the operator.
pub fn admit(core: &Core, keys: &PublicKeys, name: &str, force: bool) -> Result<bool, String> {
    let others: BTreeSet<MemberId> = keys
        .roster
        .members()
        .iter()
        .chain(&core.policy().cosigners)
        .copied()
        .filter(|member| *member != core.me())
        .collect();
    let answers = settle::ask(core, keys.wallet, keys.epoch, &others);
    let later = answers.iter().filter(|(_, theirs)| theirs.same_wallet(keys) && theirs.epoch > keys.epoch);
    let Some((_, newest)) = later.max_by_key(|(_, theirs)| theirs.epoch) else { return Ok(!force) };
    let holds = |member: &MemberId| {
        newest.roster.index_of(member).is_some_and(|party| newest.holders().any(|holder| holder == party))
    };
    let alive = answers.iter().filter(|(from, theirs)| theirs.statement() == newest.statement() && holds(from)).count();
    if force && alive < usize::from(newest.roster.threshold()) {
        tracing::warn!(wallet = name, epoch = %keys.epoch, later = %newest.epoch, alive, "an older epoch is restored by force");
        return Ok(false);
    }
    let (mine, theirs) = (keys.epoch, newest.epoch);
    let alive = if force { format!(", and {alive} of its members are there") } else { String::new() };
    Err(format!(
        "it is of epoch {mine}, and the quorum is in epoch {theirs}{alive}: repairshare \"{name}\" gives this node a share of it"
    ))
}

/// Lifts a fence once enough others are in the same epoch; takes over how far they have leased. Blocks for a second at
/// most.
pub fn lift(core: &Arc<Core>, holding: &Arc<Holding>) {
    if !holding.is_unconfirmed() {
        return;
    }
    let others: BTreeSet<MemberId> = holding.others().collect();
    let Ok(field) = plan::probe(core, &others) else { return };
    let rows: Vec<_> = field
        .ready
        .values()
        .filter_map(|status| status.wallets.iter().find(|row| row.wallet == holding.wallet()))
        .filter(|row| row.epoch == holding.epoch() && !row.unconfirmed && !row.fenced)
        .collect();
    let needed = usize::from(holding.threshold()) - 1;
    if rows.len() < needed {
        tracing::info!(wallet = holding.name(), confirmed = rows.len(), needed, "the restored share waits for others");
        return;
    }
    let raised = rows.iter().try_for_each(|row| holding.raise_marks(&row.marks)).and_then(|()| holding.confirm());
    match raised {
        Ok(()) => tracing::info!(wallet = holding.name(), epoch = %holding.epoch(), "the restored share is confirmed"),
        Err(error) => tracing::error!(wallet = holding.name(), %error, "a fence could not be lifted"),
    }
}
