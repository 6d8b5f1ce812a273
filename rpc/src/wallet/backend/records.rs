//! One wallet's records: balances, coins, transactions, addresses, descriptors.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bitcoin::bip32::Fingerprint;
use bitcoin::{Amount, BlockHash, OutPoint, Script, ScriptBuf, SignedAmount, Transaction, Txid};

use super::DEFAULT_MAX_DEPTH;
use tss_wallet::wallet::keychain::imported::Spending;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRef {
    pub hash: BlockHash,
    pub height: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LedgerInfo {
    pub tx_count: u64,
    /// Addresses ready to be handed out.
    pub keypool_external: u64,
    pub keypool_internal: u64,
    /// Seconds since 1970.
    pub birthtime: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balances {
    pub trusted: Amount,
    pub untrusted_pending: Amount,
    pub immature: Amount,
    /// Coins spent by transactions that are not in the mempool.
    pub nonmempool: SignedAmount,
    /// Coins on addresses that were spent from before.
    pub used: Amount,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnspentFilter {
    pub min_conf: i64,
    pub max_conf: i64,
    /// Scripts of the addresses asked for; empty for all.
    pub scripts: Vec<ScriptBuf>,
    pub include_unsafe: bool,
    /// Leave out coins on addresses spent from before.
    pub avoid_reuse: bool,
    pub include_immature: bool,
    pub min_amount: Amount,
    pub max_amount: Option<Amount>,
    pub max_count: Option<u64>,
    /// Stop once the coins found amount to this.
    pub min_sum: Option<Amount>,
    /// The version of the transaction that will spend them.
    pub for_version: Option<i32>,
}

impl Default for UnspentFilter {
    fn default() -> Self {
        Self {
            min_conf: 1,
            max_conf: i64::from(DEFAULT_MAX_DEPTH),
            scripts: Vec::new(),
            include_unsafe: true,
            avoid_reuse: false,
            include_immature: false,
            min_amount: Amount::ZERO,
            max_amount: None,
            max_count: None,
            min_sum: None,
            for_version: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unspent {
    pub outpoint: OutPoint,
    pub script: ScriptBuf,
    pub amount: Amount,
    pub confirmations: i64,
    pub solvable: bool,
    pub safe: bool,
    /// Its address was spent from before.
    pub reused: bool,
}

/// Where a transaction stands in the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InBlock {
    pub hash: BlockHash,
    pub height: u32,
    pub index: u32,
    pub time: u64,
}

/// One output as `listtransactions` counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Movement {
    pub vout: u32,
    pub amount: Amount,
    /// It pays a change address of this wallet.
    pub change: bool,
}

/// BIP125, as far as the wallet can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaceable {
    Yes,
    No,
    Unknown,
}

impl Replaceable {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Unknown => "unknown",
        }
    }
}

/// One transaction of the wallet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalletTx {
    pub tx: Arc<Transaction>,
    /// Negative: conflicted by a block that deep.
    pub confirmations: i64,
    pub block: Option<InBlock>,
    pub trusted: bool,
    pub abandoned: bool,
    /// A coinbase too young to be spent.
    pub immature: bool,
    pub time: u64,
    pub time_received: u64,
    pub replaceable: Replaceable,
    pub wallet_conflicts: Vec<Txid>,
    pub mempool_conflicts: Vec<Txid>,
    pub replaces: Option<Txid>,
    pub replaced_by: Option<Txid>,
    pub comment: Option<String>,
    pub comment_to: Option<String>,
    /// Spent by it from this wallet.
    pub debit: Amount,
    /// Paid by it to this wallet.
    pub credit: Amount,
    /// Outputs paid by this wallet; empty unless it spends from here. Change is left out unless asked for.
    pub sent: Vec<Movement>,
    /// Outputs paid to this wallet. Change is left out unless asked for.
    pub received: Vec<Movement>,
}

impl WalletTx {
    pub fn txid(&self) -> Txid {
        self.tx.compute_txid()
    }

    pub fn is_from_me(&self) -> bool {
        self.debit > Amount::ZERO
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    Receive,
    Send,
}

impl Purpose {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Send => "send",
        }
    }
}

/// An address with a label. Change addresses have none and are not in the book.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BookEntry {
    pub script: ScriptBuf,
    pub label: String,
    pub purpose: Option<Purpose>,
}

/// What the wallet knows of a script of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyView {
    /// The public key in hex, of a script with one key; none for taproot, as in Core.
    pub pubkey: Option<String>,
    /// `wpkh([fp/84/1/0/0/5]03…)#checksum`; none where it is not known how to spend the script.
    pub desc: Option<String>,
    /// `wpkh([fp/84/1/0]tpub…/0/*)#checksum`.
    pub parent_desc: String,
    pub redeem_script: Option<ScriptBuf>,
    pub witness_script: Option<ScriptBuf>,
    /// `m/84/1/0/0/5`, and the fingerprint of the key it starts from.
    pub origin: Option<(String, Fingerprint)>,
    /// Seconds since 1970.
    pub timestamp: u64,
    /// Derived on the change branch.
    pub internal: bool,
}

/// One entry of `listdescriptors`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescriptorView {
    pub desc: String,
    pub timestamp: u64,
    pub active: bool,
    pub internal: bool,
    /// First and last index, both inclusive; none for a single script.
    pub range: Option<(u32, u32)>,
    pub next_index: u32,
}

/// What `lockunspent` must know of a coin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoinState {
    UnknownTransaction,
    OutOfBounds,
    Spent,
    Unspent { locked: bool },
}

/// A wallet's records, held still while they are read.
pub trait Ledger {
    /// The last block the wallet has taken in.
    fn tip(&self) -> BlockRef;
    fn info(&self) -> LedgerInfo;
    /// `include_nonmempool` counts coins spent outside the mempool too, and what that takes from the sum.
    fn balances(&self, min_depth: u32, avoid_reuse: bool, include_nonmempool: bool) -> Balances;
    fn unspent(&self, filter: &UnspentFilter) -> Vec<Unspent>;
    /// In the order the wallet came to know them.
    fn txids(&self) -> Vec<Txid>;
    /// Those known last first, until `take` has enough.
    fn newest_first(&self, take: &mut dyn FnMut(Txid) -> ControlFlow<()>) {
        let _ = self.txids().into_iter().rev().try_for_each(take);
    }
    /// Confirmations as [`WalletTx`] has them.
    fn confirmations(&self, txid: &Txid) -> Option<i64> {
        self.transaction(txid, false).map(|tx| tx.confirmations)
    }
    fn transaction(&self, txid: &Txid, include_change: bool) -> Option<WalletTx>;
    fn is_mine(&self, script: &Script) -> bool;
    /// Ours, but in no one's address book: change, or at least not given out.
    fn is_change(&self, script: &Script) -> bool;
    fn key(&self, script: &Script) -> Option<KeyView>;
    /// What it takes to spend a script of ours; none where that cannot be known.
    fn spending(&self, script: &Script) -> Option<Spending>;
    /// Whether addresses can be handed out at all, to payers or for change.
    fn can_hand_out(&self, change: bool) -> bool;
    fn label(&self, script: &Script) -> Option<String>;
    fn address_book(&self) -> Vec<BookEntry>;
    fn descriptors(&self) -> Vec<DescriptorView>;
    fn coin(&self, outpoint: &OutPoint) -> CoinState;
    fn locked_coins(&self) -> Vec<OutPoint>;
    /// What each of the wallet's addresses holds, by script.
    fn address_balances(&self) -> BTreeMap<ScriptBuf, Amount>;
}
