//! What guards a wallet's share, as RPC asks for it: policy, approvals, audit log, accusations.
//!
//! With embedded co-signers one operator stands for all of them: a policy is set on each, and an approval is given for
//! all that wait for it. The log and the accusations shown are those of this node's own co-signer.

use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use bitcoin::hex::{DisplayHex, FromHex};
use bitcoin::{Amount, Psbt, ScriptBuf, TxOut};
use keyless_p2p::cosigners::{PeerId, public_key_of};
use keyless_rpc::error::RpcError;
use keyless_rpc::wallet::backend::{
    AuditCheck, AuditEntry, Blame, Guarded, Payment, PendingApproval, PolicyAnswer, PolicyInfo, Result,
};
use tss_wallet::MemberId;
use tss_wallet::SessionId;
use tss_wallet::policy::{Policy, Verdict};
use tss_wallet::wallet::psbt::coins_of;

use super::handle::Handle;
use super::loaded::{Keys, Loaded, Quorum, storage_error};
use super::sign::psbt_error;
use crate::quorum::approvals::{Answer, AnswerError, pending};
use crate::quorum::refusal::Refusal;
use crate::quorum::wire::{Message, Topic};
use crate::quorum::{Core, Holding, blame, check, judge, peer_name};

/// This node's co-signers of a wallet, each with its share.
fn guarded(keys: &Keys) -> Vec<(Arc<Core>, Arc<Holding>)> {
    let wallet = keys.holding.wallet();
    let own = |core: &Arc<Core>| core.holding(&wallet).map(|holding| (Arc::clone(core), holding));
    match &keys.quorum {
        Quorum::Network(core) => vec![(Arc::clone(core), Arc::clone(&keys.holding))],
        Quorum::Embedded(embedded) => embedded.cores().iter().filter_map(own).collect(),
    }
}

impl Loaded {
    fn set_policy(&self, policy: &Policy) -> Result<u64> {
        let keys = self.signing_keys()?;
        let now = self.chain.now();
        let mut version = 0;
        for (_, holding) in guarded(&keys) {
            version = holding.guard().set_policy(policy.clone(), now).map_err(storage_error)?;
        }
        tracing::warn!(wallet = self.name, version, "signing policy set by the operator");
        Ok(version)
    }

    /// `testsigningpolicy`.
    fn try_policy(&self, mut psbt: Psbt) -> Result<PolicyAnswer> {
        let keys = self.signing_keys()?;
        let core = keys.quorum.core();
        let items = {
            let wallet = self.wallet();
            wallet.fill_psbt(&mut psbt, false).map_err(psbt_error)?;
            wallet.psbt_items(&mut psbt, None).map_err(psbt_error)?
        };
        let coins: Vec<Option<TxOut>> = match coins_of(&psbt).map_err(psbt_error)? {
            Some(coins) => coins.into_iter().map(Some).collect(),
            None => psbt.iter_funding_utxos().map(|utxo| utxo.ok().cloned()).collect(),
        };
        let subject = self.subject(&psbt.unsigned_tx, &coins, &items, &psbt.inputs)?;
        let marks = keys.holding.marks();
        let checked = check::check(judge::own(core, &keys.holding, &marks), &subject, None);
        let mut answer = PolicyAnswer { txid: Some(psbt.unsigned_tx.compute_txid()), ..PolicyAnswer::default() };
        let verdict = checked.and_then(|checked| {
            if let Some(spend) = &checked.spend {
                let shown =
                    |(script, amount): &(ScriptBuf, Amount)| Payment { script: script.clone(), amount: *amount };
                answer.payments = spend.recipients.iter().map(shown).collect();
                answer.fee = spend.fee;
            }
            answer.change = checked.change;
            judge::would(core, &keys.holding, &checked)
        });
        let (decision, rule, reason) = match verdict {
            Ok(Verdict::Sign { rule }) => ("sign", Some(rule), None),
            Ok(Verdict::Ask { rule }) => ("ask", Some(rule), None),
            Ok(Verdict::Refuse(denial)) => ("refuse", None, Some(Refusal::Policy(denial))),
            Err(refusal) => ("refuse", None, Some(refusal)),
        };
        decision.clone_into(&mut answer.decision);
        (answer.rule, answer.reason) = (rule, reason.map(|reason| reason.to_string()));
        Ok(answer)
    }

    fn answer(&self, id: &str, answer: &Answer) -> Result<()> {
        let unknown = || RpcError::invalid_address_or_key(AnswerError::Unknown.to_string());
        let request = <[u8; 32]>::from_hex(id).map_err(|_| unknown())?;
        let keys = self.signing_keys()?;
        let now = self.chain.now();
        let mut taken = false;
        for (core, holding) in guarded(&keys) {
            match holding.guard().answer(&request, answer.clone(), now) {
                Ok(approval) => {
                    taken = true;
                    tracing::warn!(wallet = self.name, request = id, ?answer, "a request answered by the operator");
                    tell(&core, &holding, request, approval.coordinator);
                }
                Err(AnswerError::Unknown) => {}
                Err(AnswerError::Expired) => return Err(RpcError::wallet("Error: the request has expired")),
                Err(AnswerError::Holding(error)) => return Err(storage_error(error)),
            }
        }
        if taken { Ok(()) } else { Err(unknown()) }
    }

    fn audit(&self, count: u64, skip: u64) -> Result<Vec<AuditEntry>> {
        let keys = self.signing_keys()?;
        let entries = keys.holding.guard().entries(count, skip).map_err(storage_error)?;
        let shown = entries.into_iter().map(|(number, hash, entry)| AuditEntry {
            number,
            time: entry.time,
            kind: entry.kind.as_str(),
            request: entry.request.map(|request| request.to_lower_hex_string()),
            session: entry.session.map(|session| session.to_string()),
            member: entry.member.as_ref().map(peer_name),
            txid: entry.txid,
            outcome: entry.outcome,
            detail: entry.detail,
            hash: hash.to_lower_hex_string(),
        });
        Ok(shown.collect())
    }

    fn check_audit(&self) -> Result<AuditCheck> {
        let keys = self.signing_keys()?;
        let (head, checked) = keys.holding.guard().verify().map_err(storage_error)?;
        let signature = head.sign(&keys.holding.wallet(), keys.quorum.core().identity());
        Ok(AuditCheck {
            entries: head.entries,
            head: head.hash.to_lower_hex_string(),
            signature: signature.to_lower_hex_string(),
            error: checked.err().map(|error| error.to_string()),
        })
    }
}

/// Has the coordinator ask again at once; it asks by itself every few seconds.
fn tell(core: &Core, holding: &Holding, request: [u8; 32], coordinator: MemberId) {
    let topic = Topic { wallet: holding.wallet(), epoch: holding.epoch(), session: SessionId(request) };
    if coordinator != core.me() {
        core.tell(&topic, coordinator, &Message::Answered);
    }
}

#[async_trait]
impl Guarded for Handle {
    fn signing_policy(&self) -> Result<PolicyInfo> {
        let keys = self.0.signing_keys()?;
        let set = keys.holding.guard().policy();
        let members = u8::try_from(keys.holding.members().len()).unwrap_or(u8::MAX);
        Ok(PolicyInfo { version: set.version, policy: set.policy, members, threshold: keys.holding.threshold() })
    }

    async fn set_signing_policy(&self, policy: Policy) -> Result<u64> {
        self.run(move |loaded| loaded.set_policy(&policy)).await
    }

    async fn test_signing_policy(&self, psbt: Psbt) -> Result<PolicyAnswer> {
        self.run(move |loaded| loaded.try_policy(psbt)).await
    }

    fn pending_approvals(&self) -> Result<Vec<PendingApproval>> {
        let keys = self.0.signing_keys()?;
        let now = self.0.chain.now();
        let mut rows = Vec::new();
        for (core, holding) in guarded(&keys) {
            let open = holding.guard().open_questions(now);
            rows.extend(open.iter().map(|(id, approval)| pending(&core, id, approval)));
        }
        rows.sort_by(|one, other| (one.asked, &one.id).cmp(&(other.asked, &other.id)));
        Ok(rows)
    }

    async fn answer_approval(&self, id: &str, rejection: Option<&str>) -> Result<()> {
        let id = id.to_owned();
        let answer = rejection.map_or(Answer::Approved, |reason| Answer::Rejected(reason.to_owned()));
        self.run(move |loaded| loaded.answer(&id, &answer)).await
    }

    async fn audit_log(&self, count: u64, skip: u64) -> Result<Vec<AuditEntry>> {
        self.run(move |loaded| loaded.audit(count, skip)).await
    }

    async fn verify_audit_log(&self) -> Result<AuditCheck> {
        self.run(|loaded| loaded.check_audit()).await
    }

    fn blames(&self) -> Result<Vec<Blame>> {
        let keys = self.0.signing_keys()?;
        let holding = &keys.holding;
        let bans = holding.bans();
        let banned = |member: &MemberId| holding.index_of(member).is_some_and(|party| bans.contains(&party));
        let all = blame::accusations(holding).map_err(storage_error)?;
        let shown = all.into_iter().map(|row| Blame {
            peerid: peer_name(&row.member),
            kind: row.kind,
            session: row.session.to_string(),
            time: row.time,
            reason: row.reason,
            evidence: row.evidence.iter().map(|envelope| envelope.to_lower_hex_string()).collect(),
            banned: banned(&row.member),
        });
        Ok(shown.collect())
    }

    fn member_of(&self, peerid: &str) -> Result<MemberId> {
        let key = PeerId::from_str(peerid).ok().and_then(|peer| public_key_of(&peer));
        key.map(MemberId).ok_or_else(|| RpcError::invalid_parameter(format!("Invalid peerid \"{peerid}\"")))
    }

    fn peerid_of(&self, member: &MemberId) -> String {
        peer_name(member)
    }
}
