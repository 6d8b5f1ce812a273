//! The kernel as wallets and co-signers see it: [`ChainView`] over [`Kernel`].
//!
//! Owns no state. Calls that fail because the node is stopping answer as if nothing were known; what depends on them
//! fails then, and loses nothing.

use std::collections::BTreeMap;

use bitcoin::consensus::encode::serialize_hex;
use bitcoin::consensus::serialize;
use bitcoin::hashes::Hash;
use bitcoin::{Amount, Block, BlockHash, Denomination, FeeRate, Network, OutPoint, Script, Transaction, TxOut, Txid};
use keyless_kernel::mempool::{Acceptance, RejectKind};
use keyless_kernel::{Args, Kernel, KernelError, MempoolAncestry, RpcCall};
use serde_json::Value;
use tss_wallet::wallet::signing::PrevCoin;
use tss_wallet::wallet::spend::fees::FeeRate as PerKvb;

use crate::wallets::chain_view::{
    Ancestry, BlockFacts, BlockRef, ChainView, Estimate, MempoolEntry, MempoolRefusal, PoolMark, Tested,
};

/// Core's reason when signatures or scripts alone fail; everything else is checked before them.
const SCRIPTS_FAIL: &str = "mempool-script-verify-flag-failed";

/// The list of wallets to load at start, in `settings.json`.
const WALLET_SETTING: &str = "wallet";

/// [`ChainView`] over the kernel of this process.
#[derive(Debug, Clone)]
pub struct KernelView {
    kernel: Kernel,
    args: Args,
    genesis: BlockHash,
}

impl KernelView {
    pub fn new(kernel: Kernel, args: Args) -> Self {
        let genesis = bitcoin::constants::genesis_block(args.chain()).block_hash();
        Self { kernel, args, genesis }
    }
}

fn or_empty<T: Default>(result: Result<T, KernelError>) -> T {
    result.unwrap_or_else(|error| {
        tracing::debug!(target: "walletdb", %error, "the kernel did not answer");
        T::default()
    })
}

/// Rounds up: a fee a little too high is taken, one too low is not.
fn fee_rate(sat_per_kvb: u64) -> FeeRate {
    FeeRate::from_sat_per_kwu(sat_per_kvb.div_ceil(4))
}

impl ChainView for KernelView {
    fn network(&self) -> Network {
        self.args.chain()
    }

    fn genesis(&self) -> BlockHash {
        self.genesis
    }

    fn now(&self) -> u64 {
        u64::try_from(self.kernel.time()).unwrap_or(0)
    }

    fn tip(&self) -> BlockRef {
        let tip = self.kernel.tip().map(|tip| BlockRef { hash: tip.hash, height: tip.height });
        tip.unwrap_or(BlockRef { hash: BlockHash::all_zeros(), height: 0 })
    }

    fn is_initial_block_download(&self) -> bool {
        self.kernel.is_initial_download().unwrap_or(true)
    }

    fn active_hash(&self, height: u32) -> Option<BlockHash> {
        or_empty(self.kernel.block_hash(height))
    }

    fn block_facts(&self, hash: &BlockHash) -> Option<BlockFacts> {
        or_empty(self.kernel.block_info(hash)).map(|info| BlockFacts {
            hash: info.hash,
            parent: info.header.prev_blockhash,
            height: info.height,
            time: info.header.time,
            median_time: info.median_time,
            in_active_chain: info.in_active_chain,
        })
    }

    fn read_block(&self, hash: &BlockHash) -> Option<Block> {
        or_empty(self.kernel.read_block(hash))
    }

    fn prune_height(&self) -> Option<u32> {
        self.kernel.chain_state().ok().filter(|state| state.pruned).and_then(|state| state.prune_height)
    }

    fn output(&self, outpoint: &OutPoint) -> Option<TxOut> {
        if let Some(coin) = or_empty(self.kernel.coin(outpoint, false)) {
            return Some(coin.output);
        }
        let entry = or_empty(self.kernel.mempool_tx(&outpoint.txid))?;
        entry.tx.output.get(usize::try_from(outpoint.vout).ok()?).cloned()
    }

    fn script_asm(&self, script: &Script) -> String {
        let params = serde_json::json!([script.to_hex_string()]).to_string();
        let answer = self.kernel.rpc(RpcCall::internal("decodescript", &params)).ok();
        let decoded: Option<Value> = answer.and_then(|text| serde_json::from_str(&text).ok());
        let asm = decoded.as_ref().and_then(|value| value.get("asm")).and_then(Value::as_str);
        asm.unwrap_or_default().to_owned()
    }

    fn verify_input(
        &self,
        transaction: &Transaction,
        input: usize,
        coins: &BTreeMap<OutPoint, PrevCoin>,
    ) -> Result<(), String> {
        let Some(spent) = transaction.input.get(input).map(|input| input.previous_output) else {
            return Err("Input not found or already spent".to_owned());
        };
        // Core looks its own coins up itself; the others are named to it.
        let unknown = coins.iter().filter(|(outpoint, _)| self.output(outpoint).is_none());
        let named: Vec<Value> = unknown.map(|(outpoint, coin)| prevtx(outpoint, coin)).collect();
        let params = serde_json::json!([serialize_hex(transaction), [], named]).to_string();
        let answer = self.kernel.rpc(RpcCall::internal("signrawtransactionwithkey", &params));
        let answer = answer.map_err(|error| error.to_string())?;
        let answer: Value = serde_json::from_str(&answer).map_err(|error| error.to_string())?;
        let errors = answer.get("errors").and_then(Value::as_array).cloned().unwrap_or_default();
        let ours = errors.iter().find(|error| {
            error.get("txid").and_then(Value::as_str) == Some(spent.txid.to_string().as_str())
                && error.get("vout").and_then(Value::as_u64) == Some(u64::from(spent.vout))
        });
        match ours.and_then(|error| error.get("error")).and_then(Value::as_str) {
            Some(text) => Err(text.to_owned()),
            None => Ok(()),
        }
    }

    fn mempool(&self) -> Vec<MempoolEntry> {
        let listed = or_empty(self.kernel.mempool_list());
        let entry = |listing: keyless_kernel::mempool::MempoolListing| {
            let entry = or_empty(self.kernel.mempool_tx(&listing.txid))?;
            Some(MempoolEntry { transaction: entry.tx, time: entry.time })
        };
        listed.into_iter().filter_map(entry).collect()
    }

    fn mempool_transaction(&self, txid: &Txid) -> Option<Transaction> {
        or_empty(self.kernel.mempool_tx(txid)).map(|entry| entry.tx)
    }

    fn mempool_ancestry(&self, txid: &Txid) -> Option<Ancestry> {
        let found = or_empty(self.kernel.mempool_ancestry(txid))?;
        let MempoolAncestry { ancestors, cluster, size_vbytes, fees } = found;
        Some(Ancestry { count: ancestors, cluster, size_vbytes, fees })
    }

    fn has_mempool_descendants(&self, txid: &Txid) -> bool {
        or_empty(self.kernel.mempool_has_descendants(txid))
    }

    fn bump_fees(&self, coins: &[OutPoint], rate: PerKvb) -> Vec<Amount> {
        if coins.is_empty() {
            return Vec::new();
        }
        let mut fees = or_empty(self.kernel.bump_fees(coins, rate.0));
        fees.resize(coins.len(), Amount::ZERO);
        fees
    }

    fn combined_bump_fee(&self, coins: &[OutPoint], rate: PerKvb) -> Option<Amount> {
        if coins.is_empty() {
            return Some(Amount::ZERO);
        }
        or_empty(self.kernel.combined_bump_fee(coins, rate.0))
    }

    fn fits_cluster_limits(&self, transaction: &Transaction) -> bool {
        self.kernel.fits_cluster_limits(transaction).unwrap_or(true)
    }

    fn submit(&self, transaction: &Transaction, relay: bool) -> Result<(), MempoolRefusal> {
        let submitted = self.kernel.broadcast(&serialize(transaction), Amount::ZERO, relay);
        submitted.map_err(|error| MempoolRefusal(error.to_string()))
    }

    fn test_accept(&self, transaction: &Transaction) -> Tested {
        match self.kernel.accept_tx(&serialize(transaction), true) {
            Ok(Acceptance::Accepted(_) | Acceptance::AlreadyKnown { .. } | Acceptance::OtherWitness(_)) => {
                Tested::Accepted
            }
            Ok(Acceptance::Rejected(rejection)) if rejection.reason.starts_with(SCRIPTS_FAIL) => Tested::ScriptsFail,
            Ok(Acceptance::Rejected(rejection)) if rejection.kind == RejectKind::MissingInputs => Tested::MissingInputs,
            Ok(Acceptance::Rejected(rejection)) => Tested::Refused(rejection.to_string()),
            Err(error) => Tested::Refused(error.to_string()),
        }
    }

    fn pool_mark(&self) -> Option<PoolMark> {
        let sequence = self.kernel.mempool_info().ok()?.sequence;
        Some(PoolMark { tip: self.tip().hash, sequence })
    }

    fn estimate_fee(&self, target_blocks: u32, conservative: bool) -> Option<Estimate> {
        let target = u16::try_from(target_blocks).unwrap_or(u16::MAX);
        let estimate = self.kernel.estimate_fee(target, conservative).ok()?;
        Some(Estimate { fee_rate: fee_rate(estimate.sat_kvb?), blocks: estimate.blocks })
    }

    fn mempool_min_fee(&self) -> FeeRate {
        fee_rate(self.kernel.mempool_info().map_or(0, |info| info.min_fee_sat_kvb))
    }

    fn relay_min_fee(&self) -> FeeRate {
        fee_rate(self.kernel.mempool_info().map_or(0, |info| info.min_relay_sat_kvb))
    }

    fn incremental_fee(&self) -> PerKvb {
        PerKvb(self.kernel.mempool_info().map_or(0, |info| info.incremental_sat_kvb))
    }

    fn flush_notifications(&self) {
        or_empty(self.kernel.sync_notifications());
    }

    fn set_load_on_startup(&self, wallet: &str, load: bool) -> bool {
        let listed = self.args.setting(WALLET_SETTING).and_then(|text| serde_json::from_str::<Value>(&text).ok());
        let mut names: Vec<Value> = match listed {
            Some(Value::Array(names)) => names,
            Some(Value::String(name)) => vec![Value::String(name)],
            _ => Vec::new(),
        };
        let present = names.iter().any(|name| name.as_str() == Some(wallet));
        if load == present {
            return true;
        }
        if load {
            names.push(Value::String(wallet.to_owned()));
        } else {
            names.retain(|name| name.as_str() != Some(wallet));
        }
        let written = self.args.write_setting(WALLET_SETTING, &Value::Array(names).to_string());
        written.inspect_err(|error| tracing::warn!(%error, "settings.json could not be written")).is_ok()
    }
}

/// A coin as `signrawtransactionwithkey` takes it.
fn prevtx(outpoint: &OutPoint, coin: &PrevCoin) -> Value {
    let mut named = serde_json::json!({
        "txid": outpoint.txid.to_string(),
        "vout": outpoint.vout,
        "scriptPubKey": coin.script.to_hex_string(),
    });
    if let (Some(amount), Some(named)) = (coin.amount, named.as_object_mut()) {
        named.insert("amount".to_owned(), Value::String(amount.to_string_in(Denomination::Bitcoin)));
    }
    named
}
