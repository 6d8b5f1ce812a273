//! Transactions taken in with a proof, for nodes that pruned their blocks, and forgotten again: importprunedfunds,
//! removeprunedfunds. Source: Core's `wallet/rpc/backup.cpp`.

use bitcoin::MerkleBlock;
use bitcoin::consensus::encode::deserialize;

use crate::args::{self, Args};
use crate::backend::Ctx;
use crate::error::{RpcError, code};
use crate::json::Value;
use crate::table::RpcResult;

use super::params::{self, Forms};
use super::select;

pub(super) async fn importprunedfunds(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::wallet(&ctx)?;
    let forms = Forms { witness: true, no_witness: true };
    let tx = params::decode_transaction(args.str(0)?, forms).ok_or_else(|| {
        let text = "TX decode failed. Make sure the tx has at least one input.";
        RpcError::new(code::RPC_DESERIALIZATION_ERROR, text)
    })?;
    let proof = args::hex_of(args.get(1), "proof")?;
    let proof: MerkleBlock = deserialize(&proof).map_err(|error| RpcError::misc(error.to_string()))?;
    let (mut txids, mut indexes) = (Vec::new(), Vec::new());
    let proven = proof.extract_matches(&mut txids, &mut indexes);
    proven.map_err(|_| RpcError::invalid_address_or_key("Something wrong with merkleblock"))?;
    let txid = tx.compute_txid();
    let index = txids.iter().position(|found| *found == txid).and_then(|at| indexes.get(at).copied());
    wallet.synced().await?;
    wallet.import_proven(tx, proof.header.block_hash(), index).await?;
    Ok(Value::Null)
}

pub(super) async fn removeprunedfunds(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::wallet(&ctx)?;
    wallet.forget(params::txid_of(args.get(0))?).await?;
    Ok(Value::Null)
}
