//! The end of bans: a pair that was set up anew, and the word of this member's operator.
//!
//! Every epoch sets up every pair of holders anew, and any member can have a new epoch made, the banned one too. So a ban
//! goes over into the next epoch and stays there until this member's operator has let the other one back; at the other
//! end of the edge its own operator does. Embedded co-signers, who have one operator, ask nobody.

use std::sync::Arc;

use bitcoin::hashes::{Hash, HashEngine, sha256};
use tss_wallet::store::Ban;

use super::super::approvals::{self, Approval, OPEN_SECONDS_UNATTENDED, Said};
use super::super::core::Core;
use super::super::error::peer_name;
use super::super::holding::{Holding, HoldingError};
use super::note;

/// Ends the bans whose pairs were set up anew, as far as this member's operator agrees; asks about the others.
pub(super) fn settle(core: &Core, holding: &Arc<Holding>) {
    let ended = ended(core, holding).and_then(|ended| {
        ended.iter().try_for_each(|ban| {
            holding.end_ban(&ban.member)?;
            let member = peer_name(&ban.member);
            tracing::warn!(
                wallet = holding.name(),
                member,
                "a member that failed a check may sign with this one again"
            );
            note(core, holding, "ban ended", member);
            Ok(())
        })
    });
    if let Err(error) = ended {
        tracing::error!(wallet = holding.name(), %error, "the bans of members could not be looked after");
    }
}

fn ended(core: &Core, holding: &Holding) -> Result<Vec<Ban>, HoldingError> {
    let (public, mut ended) = (holding.public(), Vec::new());
    for ban in holding.store().bans()?.into_values().filter(|ban| ban.epoch < holding.epoch()) {
        let has_a_pair = public.roster.index_of(&ban.member).is_some_and(|party| !public.absent.contains(&party));
        if has_a_pair && may_end(core, holding, &ban)? {
            ended.push(ban);
        }
    }
    Ok(ended)
}

fn may_end(core: &Core, holding: &Holding, ban: &Ban) -> Result<bool, HoldingError> {
    if core.policy().accepts_any {
        return Ok(true);
    }
    let (request, question) = question(core, holding, ban);
    match holding.guard().ask_operator(request, question)? {
        Said::Answered(answer) => Ok(answer.is_ok()),
        Said::Waits(asked) => {
            if asked.opened {
                approvals::announce(core, holding, &request);
            }
            Ok(false)
        }
    }
}

/// What the operator is shown, and what its answer binds to: this very ban.
fn question(core: &Core, holding: &Holding, ban: &Ban) -> ([u8; 32], Approval) {
    let mut engine = sha256::Hash::engine();
    engine.input(b"keyless/ban/v1");
    engine.input(holding.wallet().as_bytes());
    engine.input(ban.member.as_bytes());
    engine.input(&ban.epoch.0.to_be_bytes());
    engine.input(&ban.time_seconds.to_be_bytes());
    let text = format!(
        "let {} sign with this member again: it failed a check in epoch {} ({}), and the pair was set up anew since",
        peer_name(&ban.member),
        ban.epoch,
        ban.reason
    );
    let approval = Approval { text, ..Approval::new(core.me(), "ban", core.chain().now(), OPEN_SECONDS_UNATTENDED) };
    (sha256::Hash::from_engine(engine).to_byte_array(), approval)
}
