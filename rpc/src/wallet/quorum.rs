//! Co-signers, the quorum of a wallet, its signing sessions: methods of ours.

use crate::args::Args;
use crate::backend::Ctx;
use crate::error::RpcError;
use crate::json::Value;
use crate::table::RpcResult;

use super::backend::{Cosigner, QuorumInfo, QuorumMember, SigningSession};
use super::select;

pub(super) async fn getcosignerinfo(ctx: Ctx, _args: Args) -> RpcResult {
    let info = ctx.wallets()?.cosigner_info()?;
    let out = Value::obj().with("peerid", info.peerid).with("fingerprint", info.fingerprint);
    let out = out.with("addresses", Value::arr(info.addresses));
    Ok(out.with("protocolversion", info.protocol_version).with("network", info.network))
}

pub(super) async fn enumeratecosigners(ctx: Ctx, _args: Args) -> RpcResult {
    let known = ctx.wallets()?.cosigners().await?;
    Ok(Value::arr(known.into_iter().map(cosigner_value)))
}

fn cosigner_value(cosigner: Cosigner) -> Value {
    Value::obj()
        .with("peerid", cosigner.peerid)
        .with("fingerprint", cosigner.fingerprint)
        .with("addresses", Value::arr(cosigner.addresses))
        .with("online", cosigner.online)
        .with("latency_ms", cosigner.latency_us.map_or(Value::Null, milliseconds))
        .with("version", or_null(cosigner.version))
        .with("blocks", or_null(cosigner.blocks))
        .with("suspended", cosigner.suspended)
        .with("banned", cosigner.banned)
        .with("wallets", Value::arr(cosigner.wallets))
}

fn or_null(value: Option<impl Into<Value>>) -> Value {
    value.map_or(Value::Null, Into::into)
}

/// `0.412` from 412 microseconds.
fn milliseconds(microseconds: u64) -> Value {
    Value::Num(format!("{}.{:03}", microseconds / 1_000, microseconds % 1_000))
}

pub(super) async fn getquoruminfo(ctx: Ctx, _args: Args) -> RpcResult {
    let wallet = select::wallet(&ctx)?;
    match wallet.quorum().await? {
        Some(quorum) => Ok(quorum_value(wallet.name(), quorum)),
        None => Err(RpcError::wallet("Error: this wallet has no quorum")),
    }
}

fn quorum_value(name: &str, quorum: QuorumInfo) -> Value {
    Value::obj()
        .with("wallet", name)
        .with("epoch", quorum.epoch)
        .with("threshold", quorum.threshold)
        .with("fingerprint", quorum.fingerprint)
        .with("members", Value::arr(quorum.members.into_iter().map(member_value)))
        .with("ecdsa", Value::obj().with("xpub", quorum.ecdsa_xpub))
        .with("schnorr", Value::obj().with("xpub", quorum.schnorr_xpub))
        .with("devquorum", quorum.devquorum)
        .with_opt("refuses", quorum.refuses)
}

fn member_value(member: QuorumMember) -> Value {
    Value::obj()
        .with("peerid", member.peerid)
        .with("index", member.index)
        .with("self", member.is_self)
        .with("online", member.online)
        .with("blocks", or_null(member.blocks))
        .with("suspended", member.suspended)
        .with("lastseen", or_null(member.last_seen))
}

pub(super) async fn listsigningsessions(ctx: Ctx, _args: Args) -> RpcResult {
    let wallet = select::wallet(&ctx)?;
    Ok(Value::arr(wallet.signing_sessions().into_iter().map(session_value)))
}

fn session_value(session: SigningSession) -> Value {
    Value::obj()
        .with("id", session.id)
        .with("kind", session.kind)
        .with("state", session.state)
        .with("coordinator", session.coordinator)
        .with("signers", Value::arr(session.signers))
        .with("txid", or_null(session.txid))
        .with("started", session.started)
        .with("expires", session.expires)
        .with("waiting_for", Value::arr(session.waiting_for))
        .with_opt("error", session.error)
}
