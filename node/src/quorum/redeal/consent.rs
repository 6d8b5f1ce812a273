//! What a participant checks by itself before it takes part, and what it leaves to its operator.

use std::collections::BTreeSet;
use std::sync::Arc;

use bitcoin::Network;
use bitcoin::hashes::{Hash, HashEngine, sha256};
use tss_wallet::policy::Denial;
use tss_wallet::{MemberId, PublicKeys, RedealParams, Roster};

use super::super::approvals::{self, Approval, OPEN_SECONDS_UNATTENDED, Said};
use super::super::core::Core;
use super::super::error::peer_name;
use super::super::holding::Holding;
use super::super::keygen::is_safe_name;
use super::super::refusal::Refusal;
use super::super::wire::{PROTOCOL_VERSION, Proposal, RedealKind, Topic};
use super::plan::params_of;
use super::{join, promised};

/// Refuses to deal again while an earlier attempt, which this member signed for, may have come into force among members
/// that take no part: with t of them outside, two quorums could sign side by side.
pub(super) fn unsettled(holding: &Holding, params: &RedealParams) -> Result<(), Refusal> {
    let participants = params.participants();
    let signed = holding.store().promised().map_err(|error| Refusal::Storage(error.to_string()))?;
    let left = holding.store().leaving().map_err(|error| Refusal::Storage(error.to_string()))?;
    for keys in signed.iter().chain(left.iter()).filter(|keys| keys.epoch > holding.epoch()) {
        let holders = keys.holders().filter_map(|party| keys.roster.member(party).copied());
        let outside: Vec<MemberId> = holders.filter(|member| !participants.contains(member)).collect();
        if outside.len() >= usize::from(keys.roster.threshold()) {
            let names = outside.iter().map(peer_name).collect::<Vec<_>>().join(", ");
            return Err(Refusal::Unsettled(keys.epoch.0, names));
        }
    }
    Ok(())
}

/// What a participant checks by itself before it takes part.
pub(super) fn judge(
    core: &Core,
    from: &MemberId,
    topic: &Topic,
    proposal: &Proposal,
) -> Result<(RedealParams, Option<Arc<Holding>>), Refusal> {
    let malformed = |why: &str| Refusal::Malformed(why.to_owned());
    if proposal.version != PROTOCOL_VERSION {
        return Err(Refusal::OtherVersion(PROTOCOL_VERSION));
    }
    if proposal.facts.network != core.network().magic().to_bytes() || proposal.facts.genesis != core.genesis() {
        return Err(Refusal::OtherNetwork);
    }
    let params = params_of(topic, proposal)?;
    params.check().map_err(|refusal| Refusal::Malformed(refusal.to_string()))?;
    let old = &params.old;
    if topic.wallet != old.wallet || topic.epoch != old.epoch || old.network != core.network() {
        return Err(malformed("the topic does not fit the keys"));
    }
    if !params.dealers.contains(from) || !params.participants().contains(&core.me()) {
        return Err(Refusal::UnknownCoordinator);
    }
    if proposal.kind != RedealKind::Reshare && params.roster != old.roster {
        return Err(malformed("a refresh or a repair changes neither members nor threshold"));
    }
    let holding = core.holding(&old.wallet);
    consents(core, from, proposal.kind, old, &params.roster, holding.as_deref())?;
    let deals = params.dealers.contains(&core.me());
    match &holding {
        Some(holding) => {
            let mine = holding.public();
            if !mine.same_wallet(old) {
                return Err(malformed("the keys are not those of the wallet"));
            }
            if mine.epoch > old.epoch || (deals && mine.statement() != old.statement()) {
                return Err(Refusal::OtherEpoch(mine.epoch.0));
            }
            let known = promised(holding).map_or(0, |epoch| epoch.0).max(mine.epoch.0);
            if proposal.epoch.0 <= known {
                return Err(Refusal::OtherEpoch(known));
            }
            if holding.share().is_none() {
                return Err(Refusal::Locked);
            }
            if deals && holding.is_unconfirmed() {
                return Err(Refusal::Restored);
            }
            // A share that was not lost may mend others, where nothing else can: dealing it uses no pair.
            if deals && holding.is_fenced() && !matches!(proposal.kind, RedealKind::Repair(_)) {
                return Err(Refusal::Fenced);
            }
            unsettled(holding, &params)?;
            let suspended = holding.suspended();
            if let Some(member) = params.participants().iter().find(|member| suspended.contains(member)) {
                return Err(Refusal::Suspended(peer_name(member)));
            }
        }
        None if deals => return Err(Refusal::UnknownWallet),
        None => {
            let name = &proposal.facts.name;
            if !is_safe_name(name) {
                return Err(Refusal::UnsafeName(name.escape_debug().to_string()));
            }
            if core.host().is_some_and(|host| !host.name_is_free(name)) && !join::resumable(core, name, old) {
                return Err(Refusal::NameTaken(name.clone()));
            }
        }
    }
    Ok((params, holding))
}

/// Roster changes and repairs are the operators' affair; on regtest, and among embedded co-signers, all is granted. A
/// refresh needs nobody. A reshare that is what this member's configuration says is granted by that; for anything else
/// the operator is asked, and the coordinator tries again once it was answered.
pub(super) fn consents(
    core: &Core,
    from: &MemberId,
    kind: RedealKind,
    old: &PublicKeys,
    roster: &Roster,
    holding: Option<&Holding>,
) -> Result<(), Refusal> {
    let policy = core.policy();
    if policy.accepts_any || core.network() == Network::Regtest {
        return Ok(());
    }
    let granted = match kind {
        RedealKind::Refresh => true,
        RedealKind::Repair(target) => target == core.me(),
        RedealKind::Reshare => {
            let mine: BTreeSet<MemberId> = policy.cosigners.iter().copied().chain([core.me()]).collect();
            let theirs: BTreeSet<MemberId> = roster.members().iter().copied().collect();
            let threshold = policy.threshold.unwrap_or_else(|| Roster::default_threshold(theirs.len()));
            let split = 2 * usize::from(roster.threshold()) <= theirs.len();
            mine == theirs && threshold == roster.threshold() && !split
        }
    };
    match holding {
        _ if granted => Ok(()),
        None => Err(Refusal::NotConfirmed),
        Some(holding) => {
            let (request, question) = question(core, from, kind, old, roster);
            match holding.guard().ask_operator(request, question) {
                Ok(Said::Answered(Ok(()))) => Ok(()),
                Ok(Said::Answered(Err(reason))) => Err(Refusal::Policy(Denial::Rejected(reason))),
                Ok(Said::Waits(asked)) => {
                    if asked.opened {
                        approvals::announce(core, holding, &request);
                    }
                    Err(Refusal::NeedsApproval)
                }
                Err(error) => Err(Refusal::Storage(error.to_string())),
            }
        }
    }
}

/// What the operator is shown, and what its answer binds to: the change, in this epoch.
fn question(core: &Core, from: &MemberId, kind: RedealKind, old: &PublicKeys, roster: &Roster) -> ([u8; 32], Approval) {
    let members = roster.members().iter().map(peer_name).collect::<Vec<_>>().join(", ");
    let text = match kind {
        RedealKind::Repair(target) => format!("deal a share again to {}, which has lost its own", peer_name(&target)),
        RedealKind::Refresh | RedealKind::Reshare => {
            format!("deal the shares again: threshold {}, members {members}", roster.threshold())
        }
    };
    let mut engine = sha256::Hash::engine();
    engine.input(b"keyless/roster-change/v1");
    engine.input(&old.statement());
    engine.input(text.as_bytes());
    let approval =
        Approval { text, ..Approval::new(*from, "roster change", core.chain().now(), OPEN_SECONDS_UNATTENDED) };
    (sha256::Hash::from_engine(engine).to_byte_array(), approval)
}
