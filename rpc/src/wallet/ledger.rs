//! The real wallet's records, as [`Ledger`] shows them.

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use bitcoin::bip32::{ChildNumber, DerivationPath};
use bitcoin::hashes::Hash;
use bitcoin::{Amount, BlockHash, OutPoint, Script, ScriptBuf, Txid};
use tss_wallet::wallet::Wallet;
use tss_wallet::wallet::coins::{Coin, CoinFilter, CoinState as State};
use tss_wallet::wallet::descriptors::{DescriptorInfo, key_descriptor};
use tss_wallet::wallet::history::{Category, Entry, Replaceable as Signals};
use tss_wallet::wallet::keychain::imported::{ImportedScript, Spending};
use tss_wallet::wallet::keychain::{AddressType, Branch, KeyInfo};
use tss_wallet::wallet::labels::Purpose as BookPurpose;

use super::backend::{
    Balances, BlockRef, BookEntry, CoinState, DescriptorView, InBlock, KeyView, Ledger, LedgerInfo, Movement, Purpose,
    Replaceable, Unspent, UnspentFilter, WalletTx,
};

impl Ledger for Wallet {
    fn tip(&self) -> BlockRef {
        match Wallet::tip(self) {
            Some(tip) => BlockRef { hash: tip.hash, height: tip.height },
            None => BlockRef { hash: BlockHash::all_zeros(), height: 0 },
        }
    }

    fn info(&self) -> LedgerInfo {
        LedgerInfo {
            tx_count: u64::try_from(self.tx_count()).unwrap_or(u64::MAX),
            keypool_external: u64::from(self.keypool_size(Branch::External)),
            keypool_internal: u64::from(self.keypool_size(Branch::Change)),
            birthtime: self.birth_time(),
        }
    }

    fn balances(&self, min_depth: u32, avoid_reuse: bool, include_nonmempool: bool) -> Balances {
        let sums = Wallet::balances(self, min_depth, avoid_reuse, include_nonmempool);
        Balances {
            trusted: sums.trusted,
            untrusted_pending: sums.untrusted_pending,
            immature: sums.immature,
            nonmempool: sums.nonmempool,
            used: sums.used,
        }
    }

    fn unspent(&self, filter: &UnspentFilter) -> Vec<Unspent> {
        let Some(filter) = coin_filter(filter) else { return Vec::new() };
        Wallet::unspent(self, &filter).into_iter().map(unspent).collect()
    }

    fn txids(&self) -> Vec<Txid> {
        self.transactions().map(|record| record.txid).collect()
    }

    fn newest_first(&self, take: &mut dyn FnMut(Txid) -> ControlFlow<()>) {
        let _ = self.transactions().rev().map(|record| record.txid).try_for_each(take);
    }

    fn confirmations(&self, txid: &Txid) -> Option<i64> {
        self.ledger().get(txid).map(|record| self.ledger().depth(record))
    }

    fn transaction(&self, txid: &Txid, include_change: bool) -> Option<WalletTx> {
        let record = self.ledger().get(txid)?;
        let view = self.view(record);
        let entries = self.entries(record, include_change);
        let (sent, received): (Vec<&Entry>, Vec<&Entry>) =
            entries.iter().partition(|entry| entry.category == Category::Send);
        Some(WalletTx {
            tx: Arc::clone(&view.tx),
            confirmations: view.confirmations,
            block: view.block.map(|block| InBlock {
                hash: block.hash,
                height: block.height,
                index: block.index,
                time: block.time,
            }),
            trusted: view.trusted,
            abandoned: view.abandoned,
            immature: view.immature,
            time: view.time,
            time_received: view.time_received,
            replaceable: match view.replaceable {
                Signals::Yes => Replaceable::Yes,
                Signals::No => Replaceable::No,
                Signals::Unknown => Replaceable::Unknown,
            },
            wallet_conflicts: view.wallet_conflicts,
            mempool_conflicts: view.mempool_conflicts,
            replaces: view.replaces,
            replaced_by: view.replaced_by,
            comment: view.comment,
            comment_to: view.comment_to,
            debit: view.debit,
            credit: view.credit,
            sent: sent.into_iter().map(movement).collect(),
            received: received.into_iter().map(movement).collect(),
        })
    }

    fn is_mine(&self, script: &Script) -> bool {
        Wallet::is_mine(self, script)
    }

    fn is_change(&self, script: &Script) -> bool {
        Wallet::is_change(self, script)
    }

    fn key(&self, script: &Script) -> Option<KeyView> {
        if let Some(key) = self.key_info(script) {
            let parent_desc = self.parent_descriptor(&key)?;
            return Some(key_view(&key, parent_desc, self.key_time()));
        }
        self.keys().imported_script(script).map(imported_view)
    }

    fn spending(&self, script: &Script) -> Option<Spending> {
        self.keys().spending(script)
    }

    fn can_hand_out(&self, change: bool) -> bool {
        Wallet::can_hand_out(self, change)
    }

    fn label(&self, script: &Script) -> Option<String> {
        self.address_book().label(script).map(str::to_owned)
    }

    fn address_book(&self) -> Vec<BookEntry> {
        let labelled = Wallet::address_book(self).labelled();
        labelled
            .map(|(script, entry)| BookEntry {
                script: script.clone(),
                label: entry.label.clone().unwrap_or_default(),
                purpose: entry.purpose.map(|purpose| match purpose {
                    BookPurpose::Receive => Purpose::Receive,
                    BookPurpose::Send => Purpose::Send,
                }),
            })
            .collect()
    }

    fn descriptors(&self) -> Vec<DescriptorView> {
        Wallet::descriptors(self).into_iter().map(descriptor).collect()
    }

    fn coin(&self, outpoint: &OutPoint) -> CoinState {
        match self.coin_state(*outpoint) {
            State::UnknownTransaction => CoinState::UnknownTransaction,
            State::OutOfBounds => CoinState::OutOfBounds,
            State::Spent => CoinState::Spent,
            State::Unspent { locked } => CoinState::Unspent { locked },
        }
    }

    fn locked_coins(&self) -> Vec<OutPoint> {
        self.locks().locked().collect()
    }

    fn address_balances(&self) -> BTreeMap<ScriptBuf, Amount> {
        Wallet::address_balances(self)
    }
}

/// `None` where no coin can pass: the greatest depth asked for lies below zero.
fn coin_filter(filter: &UnspentFilter) -> Option<CoinFilter> {
    Some(CoinFilter {
        min_depth: u32::try_from(filter.min_conf.max(0)).ok()?,
        max_depth: u32::try_from(filter.max_conf).ok()?,
        only_safe: !filter.include_unsafe,
        avoid_used: filter.avoid_reuse,
        include_immature: filter.include_immature,
        min_amount: filter.min_amount,
        max_amount: filter.max_amount.unwrap_or(Amount::MAX_MONEY),
        min_sum: filter.min_sum,
        for_version: filter.for_version,
        max_count: filter.max_count.map(|count| usize::try_from(count).unwrap_or(usize::MAX)),
        scripts: filter.scripts.iter().cloned().collect::<HashSet<_>>(),
        ..CoinFilter::default()
    })
}

fn unspent(coin: Coin) -> Unspent {
    Unspent {
        outpoint: coin.outpoint,
        script: coin.output.script_pubkey,
        amount: coin.output.value,
        confirmations: i64::from(coin.depth),
        solvable: coin.spending.is_some(),
        safe: coin.safe,
        reused: coin.reused,
    }
}

fn movement(entry: &Entry) -> Movement {
    Movement { vout: entry.vout, amount: entry.amount.unsigned_abs(), change: entry.change }
}

fn key_view(key: &KeyInfo, parent_desc: String, timestamp: u64) -> KeyView {
    let shows_key = key.address_type() != AddressType::Bech32m;
    KeyView {
        pubkey: shows_key.then(|| key.public_key.to_string()),
        desc: Some(key_descriptor(key)),
        parent_desc,
        redeem_script: key.redeem_script(),
        witness_script: None,
        origin: Some((key.hdkeypath(), key.fingerprint)),
        timestamp,
        internal: key.branch().is_change(),
    }
}

fn imported_view(script: ImportedScript) -> KeyView {
    let taproot = script.desc.as_ref().is_some_and(|desc| desc.starts_with("tr("));
    KeyView {
        pubkey: script.key.filter(|_| !taproot).map(|key| key.to_string()),
        desc: script.desc,
        parent_desc: script.parent_desc,
        redeem_script: script.redeem_script,
        witness_script: script.witness_script,
        origin: script.origin.map(|(fingerprint, path)| (path_text(&path), fingerprint)),
        timestamp: script.timestamp,
        internal: script.internal,
    }
}

/// `m/84h/1/0`, as Core writes it.
fn path_text(path: &DerivationPath) -> String {
    path.into_iter().fold(String::from("m"), |mut text, child| {
        let (index, mark) = match child {
            ChildNumber::Normal { index } => (index, ""),
            ChildNumber::Hardened { index } => (index, "h"),
        };
        text.push_str(&format!("/{index}{mark}"));
        text
    })
}

fn descriptor(info: DescriptorInfo) -> DescriptorView {
    DescriptorView {
        desc: info.desc,
        timestamp: info.timestamp,
        active: info.active,
        internal: info.internal,
        range: info.range,
        next_index: info.next_index,
    }
}
