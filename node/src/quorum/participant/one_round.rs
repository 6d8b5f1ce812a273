//! A member's part in one round: its share goes with the answer to the request, over nonces that it told before.
//!
//! The same checks as ever stand before it: the decision is on the disk, then the nonces are taken away, then the policy
//! is asked again, then the share leaves. Refuses nonces that were used or are not known; a coordinator that wants one
//! for other messages than the first time is accused, with its request as evidence.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tss_wallet::sign::{Commitment, Commitments, NonceError, answer, nonce_use, verify};
use tss_wallet::{KeyShare, MemberId, PartyIndex, SignParams, Signature};

use super::super::blame::{self, Accusation};
use super::super::core::Core;
use super::super::holding::Holding;
use super::super::judge;
use super::super::link::Heard;
use super::super::refusal::Refusal;
use super::super::wire::{Blob, Message, SignRequest, SignerNonces, Topic};
use super::{Part, ready_share};

/// The envelope's round of an answer; see `tss_wallet::sign::answer`.
const SHARE_ROUND: u16 = 2;
const SIGNATURE_BYTES: usize = 64;

/// A coordinator asks for nonces.
pub(in crate::quorum) fn asked(core: &Core, from: MemberId, topic: &Topic, count: u16, stock: u16) {
    let holding = match core.holding(&topic.wallet) {
        Some(holding) if holding.index_of(&from).is_some() => holding,
        _ => return core.refuse(topic, from, Refusal::UnknownWallet),
    };
    let share = match tellable(core, &holding, from, topic) {
        Ok(share) => share,
        Err(refusal) => return core.refuse(topic, from, refusal),
    };
    match holding.nonces().tell(from, &share, (count, stock), &core.fresh_seed()) {
        Some(told) => {
            core.send(topic, 0, from, &Message::Nonces(Blob(Commitment::concat(&told))));
            holding.nonces().restock(&from, &share, &core.fresh_seed());
        }
        None => core.refuse(topic, from, Refusal::Busy),
    }
}

fn tellable(core: &Core, holding: &Holding, from: MemberId, topic: &Topic) -> Result<Arc<KeyShare>, Refusal> {
    let share = ready_share(holding, topic)?;
    let suspended = holding.suspended();
    match [from, core.me()].iter().find(|member| suspended.contains(member)) {
        Some(member) => Err(Refusal::Suspended(super::super::peer_name(member))),
        None => Ok(share),
    }
}

/// The commitments of a request, by signer; none where it has more or fewer than it must.
fn read(request: &SignRequest, params: &SignParams) -> Option<Commitments> {
    let signers: BTreeSet<PartyIndex> = params.signers.iter().copied().collect();
    if request.nonces.len() != params.signers.len() || signers.len() != params.signers.len() {
        return None;
    }
    let each = params.signers.iter().zip(&request.nonces);
    each.map(|(party, nonces)| {
        let list = Commitment::parse_all(&nonces.commitments.0)?;
        (list.len() == params.items.len()).then_some((*party, list))
    })
    .collect()
}

/// Gives this member's share, and waits for the signatures. True if they came.
pub(super) fn give(
    part: Part<'_>,
    params: &SignParams,
    request: &SignRequest,
    envelope: &[u8],
    patience: Duration,
) -> Result<bool, Refusal> {
    let Part { core, holding, link, asking, allowed, checked } = part;
    let coordinator = asking.coordinator;
    let deadline = Instant::now() + patience;
    let malformed = || Refusal::Malformed("its nonces".to_owned());
    let share = holding.share().ok_or(Refusal::Locked)?;
    let commitments = read(request, params).ok_or_else(malformed)?;
    let own = commitments.get(&holding.me()).ok_or_else(malformed)?;
    let mine = params.signers.iter().zip(&request.nonces).find(|(party, _)| **party == holding.me());
    let stock = mine.map_or(0, |(_, SignerNonces { stock, .. })| *stock);
    judge::settle(holding)?;
    let taken = holding.nonces().take(&coordinator, own, &nonce_use(params));
    let nonces = taken.map_err(|error| refused(part, error, envelope))?;
    let body = answer(&share, params, &commitments, nonces).map_err(|error| Refusal::Failed(error.to_string()))?;
    judge::release(core, holding, allowed, checked)?;
    let next = Blob(Commitment::concat(&holding.nonces().next(&coordinator, params.items.len(), stock)));
    link.send(coordinator, SHARE_ROUND, &Message::Share { answer: Blob(body), next });
    holding.nonces().restock(&coordinator, &share, &core.fresh_seed());
    let Some(signatures) = signatures(part, params, &share, deadline)? else { return Ok(false) };
    judge::signed(core, holding, asking, checked, &signatures);
    tracing::info!(session = %link.topic().session, wallet = holding.name(), items = params.items.len(), "signed");
    Ok(true)
}

/// What the coordinator made of the shares, once it says so and it is valid.
fn signatures(
    part: Part<'_>,
    params: &SignParams,
    share: &KeyShare,
    deadline: Instant,
) -> Result<Option<Vec<Signature>>, Refusal> {
    let Part { link, asking, .. } = part;
    let (coordinator, session) = (asking.coordinator, link.topic().session);
    link.note("signing", [coordinator]);
    loop {
        match link.next(deadline) {
            Heard::Message(from, Message::Signatures(bytes)) if from == coordinator => {
                match parse(&bytes.0).filter(|made| verify(share, &params.items, made).is_ok()) {
                    Some(made) => return Ok(Some(made)),
                    None => tracing::warn!(%session, %from, "signatures that are not valid"),
                }
            }
            Heard::Message(from, Message::Refuse(reason)) if from == coordinator => {
                tracing::info!(%session, %reason, "the coordinator ended the attempt");
                return Ok(None);
            }
            Heard::Down(member) if member == coordinator => return Ok(None),
            Heard::Message(..) | Heard::Down(_) => {}
            Heard::Stop => return Err(Refusal::Aborted("stopped by its operator".to_owned())),
            Heard::Deadline => return Ok(None),
        }
    }
}

fn parse(bytes: &[u8]) -> Option<Vec<Signature>> {
    let (chunks, []) = bytes.as_chunks::<SIGNATURE_BYTES>() else { return None };
    let read = |bytes: &[u8; SIGNATURE_BYTES]| bitcoin::secp256k1::schnorr::Signature::from_slice(bytes).ok();
    chunks.iter().map(|bytes| read(bytes).map(Signature::Schnorr)).collect()
}

/// The name of the refusal. Nobody honest asks for a nonce twice for two messages: that is written down.
fn refused(part: Part<'_>, error: NonceError, envelope: &[u8]) -> Refusal {
    let Part { core, holding, link, asking, .. } = part;
    let session = link.topic().session;
    tracing::warn!(%session, coordinator = %asking.coordinator, %error, "a request for nonces refused");
    if error == (NonceError::Used { other: true }) {
        let accusation = Accusation {
            member: asking.coordinator,
            kind: "nonce reuse".to_owned(),
            session,
            time: core.chain().now(),
            reason: "it asked for a second signature with a nonce, for other messages".to_owned(),
            evidence: vec![envelope.to_vec()],
        };
        if let Err(error) = blame::accuse(holding, &accusation) {
            tracing::error!(%session, %error, "an accusation could not be stored");
        }
    }
    match error {
        NonceError::Unknown => Refusal::NonceUnknown,
        NonceError::Used { .. } => Refusal::NonceUsed,
    }
}
