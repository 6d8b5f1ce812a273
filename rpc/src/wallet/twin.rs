//! A set of wallets with the records a test gives them: it signs nothing and notes what it was asked.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bitcoin::hashes::Hash;
use bitcoin::{Address, Amount, BlockHash, Network, OutPoint, Psbt, Script, ScriptBuf, Transaction, Txid};

use tss_wallet::MemberId;
use tss_wallet::policy::Policy;

use super::backend::*;
use crate::error::{RpcError, code};
use tss_wallet::wallet::keychain::imported::Spending;

/// An address of the twin's network, and one that is always ours.
pub(super) const OURS: &str = "bcrt1qtmp74ayg7p24uslctssvjm06q5phz4yrxucgnv";
pub(super) const THEIRS: &str = "mipcBbFg9gMiCh81Kj8tqqdgoZub1ZJRfn";

pub(super) fn script(address: &str) -> ScriptBuf {
    address.parse::<Address<_>>().unwrap().require_network(Network::Regtest).unwrap().script_pubkey()
}

#[derive(Clone, Default)]
pub(super) struct Records {
    pub balances: Balances,
    pub unspent: Vec<Unspent>,
    pub txs: Vec<WalletTx>,
    pub keys: BTreeMap<ScriptBuf, KeyView>,
    pub book: Vec<BookEntry>,
    pub coins: BTreeMap<OutPoint, CoinState>,
    pub locked: Vec<OutPoint>,
    pub descriptors: Vec<DescriptorView>,
}

impl Ledger for Records {
    fn tip(&self) -> BlockRef {
        BlockRef { hash: BlockHash::all_zeros(), height: 101 }
    }

    fn info(&self) -> LedgerInfo {
        LedgerInfo { tx_count: 3, keypool_external: 40, keypool_internal: 41, birthtime: Some(1_296_688_602) }
    }

    fn balances(&self, _min_depth: u32, _avoid_reuse: bool, _include_nonmempool: bool) -> Balances {
        self.balances
    }

    fn unspent(&self, filter: &UnspentFilter) -> Vec<Unspent> {
        let wanted = |coin: &&Unspent| {
            (filter.min_conf..=filter.max_conf).contains(&coin.confirmations)
                && (filter.scripts.is_empty() || filter.scripts.contains(&coin.script))
        };
        self.unspent.iter().filter(wanted).cloned().collect()
    }

    fn txids(&self) -> Vec<Txid> {
        self.txs.iter().map(WalletTx::txid).collect()
    }

    fn transaction(&self, txid: &Txid, _include_change: bool) -> Option<WalletTx> {
        self.txs.iter().find(|tx| tx.txid() == *txid).cloned()
    }

    fn is_mine(&self, script: &Script) -> bool {
        self.keys.contains_key(script)
    }

    fn is_change(&self, script: &Script) -> bool {
        self.is_mine(script) && self.label(script).is_none()
    }

    fn key(&self, script: &Script) -> Option<KeyView> {
        self.keys.get(script).cloned()
    }

    fn spending(&self, script: &Script) -> Option<Spending> {
        let address_type = AddressType::of_script(script)?;
        let weight = tss_wallet::wallet::spend::fees::input_weight(address_type);
        Some(Spending { weight, segwit: address_type != AddressType::Legacy, address_type })
    }

    fn can_hand_out(&self, _change: bool) -> bool {
        true
    }

    fn label(&self, script: &Script) -> Option<String> {
        self.book.iter().find(|entry| entry.script.as_script() == script).map(|entry| entry.label.clone())
    }

    fn address_book(&self) -> Vec<BookEntry> {
        self.book.clone()
    }

    fn descriptors(&self) -> Vec<DescriptorView> {
        self.descriptors.clone()
    }

    fn coin(&self, outpoint: &OutPoint) -> CoinState {
        self.coins.get(outpoint).copied().unwrap_or(CoinState::UnknownTransaction)
    }

    fn locked_coins(&self) -> Vec<OutPoint> {
        self.locked.clone()
    }

    fn address_balances(&self) -> BTreeMap<ScriptBuf, Amount> {
        BTreeMap::new()
    }
}

/// What the wallet was asked to do.
#[derive(Default)]
pub(super) struct Asked {
    pub spend: Option<SpendRequest>,
    pub note: Option<SendNote>,
    pub address: Option<(String, AddressType)>,
    pub locked: Vec<OutPoint>,
    pub committed: Option<Transaction>,
    pub policy: Option<Policy>,
}

pub(super) struct TwinWallet {
    pub name: String,
    pub settings: WalletSettings,
    pub encryption: Encryption,
    pub records: Records,
    /// What funding comes to.
    pub poor: bool,
    pub asked: Mutex<Asked>,
}

impl TwinWallet {
    pub(super) fn new(name: &str, records: Records) -> TwinWallet {
        TwinWallet {
            name: name.to_owned(),
            settings: WalletSettings {
                private_keys_enabled: true,
                avoid_reuse: false,
                blank: false,
                keypool_size: 1000,
                address_type: AddressType::Bech32,
                change_type: None,
                signal_rbf: true,
                max_tx_fee: Amount::from_sat(10_000_000),
                dust_relay_rate: FeeRate { sat_per_kvb: 3_000 },
                psbt_version: PsbtVersion::default(),
                devquorum: Some((2, 3)),
            },
            encryption: Encryption::None,
            records,
            poor: false,
            asked: Mutex::default(),
        }
    }

    fn note_spend(&self, request: &SpendRequest) {
        self.asked.lock().unwrap().spend = Some(request.clone());
    }
}

fn refused() -> RpcError {
    RpcError::internal("the twin does not do this")
}

#[async_trait]
impl WalletHandle for TwinWallet {
    fn name(&self) -> &str {
        &self.name
    }

    fn settings(&self) -> WalletSettings {
        self.settings.clone()
    }

    fn encryption(&self) -> Encryption {
        self.encryption
    }

    fn scanning(&self) -> Option<Scanning> {
        None
    }

    async fn synced(&self) -> Result<()> {
        Ok(())
    }

    fn read(&self, f: &mut dyn FnMut(&dyn Ledger)) {
        f(&self.records);
    }

    async fn new_address(&self, label: &str, address_type: AddressType) -> Result<Address> {
        self.asked.lock().unwrap().address = Some((label.to_owned(), address_type));
        Ok(OURS.parse::<Address<_>>().unwrap().assume_checked())
    }

    async fn change_address(&self, address_type: AddressType) -> Result<Address> {
        self.new_address("change", address_type).await
    }

    async fn set_avoid_reuse(&self, _value: bool) -> Result<()> {
        Ok(())
    }

    async fn set_label(&self, _script: &Script, _label: &str) -> Result<()> {
        Ok(())
    }

    async fn keypool_refill(&self, _size: Option<u32>) -> Result<()> {
        Ok(())
    }

    async fn lock_coins(&self, coins: &[OutPoint], _persistent: bool) -> Result<()> {
        self.asked.lock().unwrap().locked = coins.to_vec();
        Ok(())
    }

    async fn unlock_coins(&self, _coins: Option<&[OutPoint]>) -> Result<()> {
        Ok(())
    }

    async fn abandon(&self, _txid: Txid) -> Result<()> {
        Ok(())
    }

    async fn fee_rate(&self, _fee: FeeChoice) -> Result<(FeeRate, FeeReason)> {
        Ok((FeeRate { sat_per_kvb: 1_000 }, FeeReason::Fallback))
    }

    async fn bump_fee(&self, _coins: &[OutPoint], _rate: FeeRate) -> Result<Amount> {
        Ok(Amount::ZERO)
    }

    async fn fund(&self, request: &SpendRequest) -> Result<Funded> {
        self.note_spend(request);
        if self.poor {
            return Err(RpcError::wallet("Insufficient funds"));
        }
        let tx = Transaction {
            version: bitcoin::transaction::Version(request.version),
            lock_time: bitcoin::absolute::LockTime::ZERO,
            input: vec![bitcoin::TxIn::default()],
            output: request
                .recipients
                .iter()
                .map(|to| bitcoin::TxOut { value: to.amount, script_pubkey: to.script.clone() })
                .collect(),
        };
        Ok(Funded { tx, fee: Amount::from_sat(141), change_position: None })
    }

    async fn send(&self, request: &SpendRequest, note: &SendNote) -> Result<Sent> {
        self.note_spend(request);
        self.asked.lock().unwrap().note = Some(note.clone());
        if self.poor {
            return Err(RpcError::new(code::RPC_WALLET_INSUFFICIENT_FUNDS, "Insufficient funds"));
        }
        Ok(Sent { txid: Txid::all_zeros(), fee_reason: FeeReason::Fallback })
    }

    async fn send_later(&self, request: &SpendRequest, _note: &SendNote) -> Result<String> {
        self.asked.lock().unwrap().spend = Some(request.clone());
        Ok("ab".to_owned())
    }

    async fn bump(&self, request: &BumpRequest, draft: bool) -> Result<Bumped> {
        let replacement = if draft {
            Replacement::Unsigned(self.fund(&SpendRequest::default()).await?.tx)
        } else {
            Replacement::Sent(request.txid)
        };
        Ok(Bumped { replacement, old_fee: Amount::from_sat(141), fee: Amount::from_sat(1_410), errors: Vec::new() })
    }

    async fn commit(&self, tx: Transaction, _note: &SendNote) -> Result<Txid> {
        self.asked.lock().unwrap().committed = Some(tx.clone());
        Ok(tx.compute_txid())
    }

    async fn sign_transaction(
        &self,
        tx: Transaction,
        _prevouts: &[PrevOut],
        _sighash: SighashType,
    ) -> Result<SignedTransaction> {
        let errors = vec![InputError { input: 0, text: "Input not found or already spent".to_owned() }];
        Ok(SignedTransaction { tx, complete: false, errors })
    }

    async fn process_psbt(&self, psbt: Psbt, options: PsbtOptions) -> Result<ProcessedPsbt> {
        let tx = options.sign.then(|| psbt.unsigned_tx.clone());
        Ok(ProcessedPsbt { psbt, complete: options.sign, tx })
    }

    async fn sign_message(&self, _script: &Script, _message: &str) -> Result<String> {
        Ok("c2lnbmF0dXJl".to_owned())
    }

    async fn import(&self, _import: Import) -> Result<Imports> {
        Err(refused())
    }

    async fn rescan_from(&self, _time: u64) -> Result<u64> {
        Err(refused())
    }

    async fn encrypt(&self, _passphrase: &str) -> Result<()> {
        Err(refused())
    }

    async fn unlock(&self, _passphrase: &str, _seconds: i64) -> Result<()> {
        Err(refused())
    }

    async fn lock(&self) -> Result<()> {
        Err(refused())
    }

    async fn change_passphrase(&self, _old: &str, _new: &str) -> Result<()> {
        Err(refused())
    }

    async fn import_proven(&self, _tx: Transaction, _block: BlockHash, _index: Option<u32>) -> Result<()> {
        Err(RpcError::invalid_address_or_key("Block not found in chain"))
    }

    async fn forget(&self, txid: Txid) -> Result<()> {
        Err(RpcError::wallet(format!("Transaction {txid} does not belong to this wallet")))
    }

    async fn export_watch_only(&self, _destination: &Path) -> Result<()> {
        Ok(())
    }

    async fn backup(&self, _destination: &Path) -> Result<()> {
        Err(refused())
    }

    async fn rescan(&self, start: u32, stop: Option<u32>) -> Result<Rescanned> {
        Ok(Rescanned { start, stop: stop.or(Some(101)) })
    }

    fn abort_rescan(&self) -> bool {
        false
    }

    fn ancestry(&self, _txid: &Txid) -> Option<Ancestry> {
        Some(Ancestry { count: 2, size_vbytes: 282, fees: Amount::from_sat(282) })
    }

    async fn quorum(&self) -> Result<Option<QuorumInfo>> {
        Ok(Some(QuorumInfo { epoch: 1, threshold: 2, ..QuorumInfo::default() }))
    }

    fn signing_sessions(&self) -> Vec<SigningSession> {
        Vec::new()
    }

    async fn refresh_shares(&self) -> Result<Redealt> {
        Ok(Redealt { epoch: 2, milliseconds: 1_250, absent: vec!["12D3KooX".to_owned()], ..Redealt::default() })
    }

    async fn reshare(&self, threshold: u16, members: &[String]) -> Result<Redealt> {
        Ok(Redealt { epoch: 2, threshold, members: members.to_vec(), milliseconds: 40, ..Redealt::default() })
    }

    async fn suspend(&self, _peerid: &str, _reason: Option<&str>) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Guarded for TwinWallet {
    fn signing_policy(&self) -> Result<PolicyInfo> {
        let policy = self.asked.lock().unwrap().policy.clone();
        Ok(PolicyInfo { version: u64::from(policy.is_some()), policy, members: 3, threshold: 2 })
    }

    async fn set_signing_policy(&self, policy: Policy) -> Result<u64> {
        self.asked.lock().unwrap().policy = Some(policy);
        Ok(1)
    }

    async fn test_signing_policy(&self, psbt: Psbt) -> Result<PolicyAnswer> {
        let payments = psbt.unsigned_tx.output.iter();
        let payments = payments.map(|out| Payment { script: out.script_pubkey.clone(), amount: out.value }).collect();
        let reason = Some("no rule of its policy allows this".to_owned());
        Ok(PolicyAnswer { decision: "refuse".to_owned(), reason, payments, ..PolicyAnswer::default() })
    }

    fn pending_approvals(&self) -> Result<Vec<PendingApproval>> {
        Ok(vec![PendingApproval {
            id: "aa".to_owned(),
            member: "12D3KooW".to_owned(),
            coordinator: "12D3KooX".to_owned(),
            txid: None,
            transaction: vec![1, 2],
            text: None,
            payments: vec![Payment { script: script(OURS), amount: Amount::ONE_BTC }],
            change: Amount::ZERO,
            fee: Some(Amount::from_sat(141)),
            agreed: Vec::new(),
            rule: "large".to_owned(),
            asked: 1,
            expires: 851,
        }])
    }

    async fn answer_approval(&self, id: &str, _rejection: Option<&str>) -> Result<()> {
        if id == "aa" { Ok(()) } else { Err(refused()) }
    }

    async fn audit_log(&self, count: u64, skip: u64) -> Result<Vec<AuditEntry>> {
        let entry =
            |number| AuditEntry { number, kind: "request", outcome: "sign".to_owned(), ..AuditEntry::default() };
        Ok((skip..skip + count.min(2)).map(entry).collect())
    }

    async fn verify_audit_log(&self) -> Result<AuditCheck> {
        Ok(AuditCheck { entries: 2, head: "00".to_owned(), ..AuditCheck::default() })
    }

    fn blames(&self) -> Result<Vec<Blame>> {
        Ok(vec![Blame { peerid: "12D3KooX".to_owned(), time: 7, ..Blame::default() }])
    }

    fn member_of(&self, peerid: &str) -> Result<MemberId> {
        let number = peerid.strip_prefix("peer").and_then(|number| number.parse().ok());
        number.map(|number| MemberId([number; 32])).ok_or_else(refused)
    }

    fn peerid_of(&self, member: &MemberId) -> String {
        format!("peer{}", member.0[0])
    }
}

#[derive(Default)]
pub(super) struct TwinWallets {
    pub loaded: Vec<Arc<TwinWallet>>,
    pub created: Mutex<Vec<CreateWallet>>,
}

#[async_trait]
impl Wallets for TwinWallets {
    fn network(&self) -> Network {
        Network::Regtest
    }

    async fn create(&self, request: CreateWallet) -> Result<Loaded> {
        let name = request.name.clone();
        self.created.lock().unwrap().push(request);
        Ok(Loaded { name, warnings: Vec::new() })
    }

    async fn load(&self, _name: &str, _load_on_startup: Option<bool>) -> Result<Loaded> {
        Err(refused())
    }

    async fn unload(&self, name: &str, _load_on_startup: Option<bool>) -> Result<Loaded> {
        Ok(Loaded { name: name.to_owned(), warnings: Vec::new() })
    }

    async fn restore(&self, _: &str, _: &Path, _: Option<bool>, _: bool) -> Result<Loaded> {
        Err(refused())
    }

    fn list(&self) -> Vec<String> {
        self.loaded.iter().map(|wallet| wallet.name.clone()).collect()
    }

    async fn list_dir(&self) -> Result<Vec<WalletOnDisk>> {
        Ok(Vec::new())
    }

    fn get(&self, name: &str) -> Option<Arc<dyn WalletHandle>> {
        let found = self.loaded.iter().find(|wallet| wallet.name == name)?;
        Some(Arc::clone(found) as Arc<dyn WalletHandle>)
    }

    async fn repair_share(&self, _name: &str) -> Result<Redealt> {
        let helpers = vec!["12D3KooW".to_owned()];
        Ok(Redealt { epoch: 3, milliseconds: 7, helpers, ..Redealt::default() })
    }

    async fn verify_backup(&self, _file: &Path, passphrase: Option<&str>) -> Result<BackupCheck> {
        let reason = passphrase.is_none().then(|| "a passphrase is needed".to_owned());
        Ok(BackupCheck { wallet: Some("w".to_owned()), peerid: None, epoch: Some(2), reason })
    }

    async fn delete_share(&self, _name: &str, _force: bool) -> Result<()> {
        Ok(())
    }

    fn cosigner_info(&self) -> Result<CosignerInfo> {
        Ok(CosignerInfo { peerid: "12D3KooW".to_owned(), protocol_version: 1, ..CosignerInfo::default() })
    }

    async fn cosigners(&self) -> Result<Vec<Cosigner>> {
        Ok(vec![Cosigner { peerid: "12D3KooW".to_owned(), latency_us: Some(412), ..Cosigner::default() }])
    }
}
